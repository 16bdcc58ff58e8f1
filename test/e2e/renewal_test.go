package e2e

import (
	"flag"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/feed"
	"levee/internal/provision"
	"levee/pki"
)

// shortLife is how long machines' certificates last in the tests of renewal.
var shortLife = flag.Duration("life", 10*time.Second, "how long certificates last in TestRenewal, which takes ten times that")

// renewing adds an issuer to a site, and certificates of a short life.
func renewing(t *testing.T, life time.Duration) func(*provision.Inventory) {
	return func(inv *provision.Inventory) {
		inv.Lifetimes.Machines = life
		address := freePort(t)
		inv.Sites[0].Issuers = []provision.Issuer{{Name: "iss-1", Listen: address, Address: address}}
	}
}

// machines are the parts that run in these tests, in the order of their start.
var machines = []pki.Role{pki.RoleBroker, pki.RoleRecorder, pki.RoleIssuer, pki.RoleController, pki.RoleMonitor, pki.RoleSensor}

// startAll starts every part of a site.
func (b *bank) startAll(t *testing.T) map[pki.Role]*process {
	t.Helper()
	running := make(map[pki.Role]*process)
	for _, role := range machines {
		running[role] = b.daemon(t, role)
		if role == pki.RoleRecorder { // what is published before it listens is missing from the record
			running[role].awaitLog(t, 0, entry{"msg": "connected"})
		}
	}
	return running
}

// order runs a command of levee pki as the operator, and returns what it said.
func (b *bank) order(t *testing.T, args ...string) string {
	t.Helper()
	args = append([]string{"pki", args[0], "--bundle", b.layout.Bundle(b.ids[pki.RoleOperator])}, args[1:]...)
	out, err := exec.Command(filepath.Join(bin, "levee"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("levee %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// A running site renews its certificates through ten of their lives. Nobody
// helps, no part is without a session, and no reading is missing.
func TestRenewal(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t, renewing(t, *shortLife))
	b.forgiving(t) // lives of seconds make connections that no part of a month's life makes
	running := b.startAll(t)
	seen := b.watchAs(t, pki.RoleOperator)
	reading := func(l feed.Line) bool {
		return strings.HasPrefix(l.Kind, "metrics/") && l.Sender == "melb/sensor/web-1"
	}
	seen.await(t, 20*time.Second, "a reading", reading)
	for _, role := range machines {
		await(t, 20*time.Second, fmt.Sprintf("%s is up", role), func() bool {
			return role == pki.RoleBroker || len(running[role].logged(0, entry{"msg": "connected"})) > 0
		})
	}
	began := time.Now()
	marks := make(map[pki.Role]mark)
	for role, p := range running {
		marks[role] = p.mark()
	}
	time.Sleep(10 * *shortLife)

	for role, p := range running {
		if lines := p.logged(marks[role], entry{"msg": "not connected"}); len(lines) != 0 {
			t.Errorf("%s was without a session: %v", role, lines)
		}
		renewed := len(p.logged(marks[role], entry{"msg": "certificate renewed"}))
		if role == pki.RoleIssuer { // its own it issues by itself
			renewed = len(p.logged(marks[role], entry{"msg": "certificate issued", "sender": "melb/issuer/iss-1"}))
		}
		if renewed < 10 {
			t.Errorf("%s renewed its certificate %d times in ten lives", role, renewed)
			for _, failed := range p.logged(0, entry{"msg": "certificate not renewed"}) {
				t.Logf("%s: %v", role, failed["error"])
			}
		}
		t.Logf("%s: %d renewals, %d connections", role, renewed, len(p.logged(marks[role], entry{"msg": "connected"})))
	}
	var longest time.Duration
	last := began
	numbers := make(map[uint64]bool)
	for _, l := range seen.matching(reading) {
		numbers[l.Seq] = true
		if at := time.UnixMilli(l.Received); at.After(began) {
			longest, last = max(longest, at.Sub(last)), at
		}
	}
	t.Logf("readings came at most %s apart, at an interval of 1 s", longest)
	if longest > 2*time.Second {
		t.Errorf("no reading for %s: a session was missing for more than a second", longest)
	}

	// Stopped in order, the record is whole.
	for _, role := range []pki.Role{pki.RoleSensor, pki.RoleMonitor, pki.RoleController, pki.RoleIssuer, pki.RoleRecorder, pki.RoleBroker} {
		running[role].Stop(t)
	}
	r := b.audited(t)
	t.Logf("the record: %d certificates issued, %d envelopes, %d missing, %d declared", r.Issued, r.Envelopes, r.Missing, r.Declared)
	if r.Missing != 0 || r.Declared != 0 || r.Incomplete != 0 {
		t.Errorf("%d messages are missing, %d were given up, %d digests are incomplete: %v", r.Missing, r.Declared, r.Incomplete, r.Gaps)
	}
}

// The issuer is away: for two thirds of life nothing happens, then machines
// fall silent, and one order brings them all back.
func TestReadmission(t *testing.T) {
	if !goOn(t) {
		return
	}
	const life = 15 * time.Second
	b := newBank(t, renewing(t, life))
	b.forgiving(t)
	running := b.startAll(t)
	seen := b.watchAs(t, pki.RoleOperator)
	newest := func() (at time.Time) {
		for _, l := range seen.matching(func(l feed.Line) bool { return strings.HasPrefix(l.Kind, "metrics/") }) {
			at = time.UnixMilli(l.Received)
		}
		return at
	}
	seen.await(t, 20*time.Second, "a reading", func(l feed.Line) bool { return strings.HasPrefix(l.Kind, "metrics/") })
	sensor := running[pki.RoleSensor]
	await(t, 2*life, "every part has renewed once", func() bool {
		for role, p := range running {
			if role != pki.RoleIssuer && len(p.logged(0, entry{"msg": "certificate renewed"})) == 0 {
				return false
			}
		}
		return true
	})
	running[pki.RoleIssuer].Kill(t)
	away := time.Now()
	await(t, life, "most of two thirds of life have passed", func() bool { return time.Since(away) > life/2 })
	if silence := time.Since(newest()); silence > 3*time.Second {
		t.Errorf("no reading for %s while certificates are good", silence)
	}
	await(t, 3*life, "readings stop", func() bool { return time.Since(newest()) > 5*time.Second })
	sensor.awaitLog(t, 0, entry{"msg": "the certificate has expired: nobody takes it any more"})

	running[pki.RoleIssuer] = b.daemon(t, pki.RoleIssuer)
	up := sensor.mark()
	time.Sleep(3 * time.Second) // long enough to ask the issuer again
	if len(sensor.logged(up, entry{"msg": "certificate renewed"})) != 0 {
		t.Error("a machine whose certificate has expired renewed it before anybody readmitted it")
	}
	t.Log(b.order(t, "readmit", "--all", "--reason", "the issuer was away"))
	back := time.Now()
	await(t, 60*time.Second, "readings come again", func() bool { return newest().After(back) })
	t.Logf("readings again %s after the order", newest().Sub(back).Round(100*time.Millisecond))
	for role, p := range running {
		if role != pki.RoleIssuer { // that one renews by itself, and began anew
			p.awaitLog(t, 0, entry{"msg": "certificate renewed"})
		}
	}
}

// An operator revokes a sensor that is connected: its session ends within a
// second, and neither its certificate nor a renewal brings it back.
func TestRevocation(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t, renewing(t, time.Hour))
	running := b.startAll(t)
	seen := b.watchAs(t, pki.RoleOperator)
	seen.await(t, 20*time.Second, "a reading", func(l feed.Line) bool { return strings.HasPrefix(l.Kind, "metrics/") })
	running[pki.RoleIssuer].awaitLog(t, 0, entry{"msg": "connected"})
	broker, sensor := running[pki.RoleBroker], running[pki.RoleSensor]
	from, then := broker.mark(), sensor.mark()
	b.order(t, "revoke", "melb/sensor/web-1", "--reason", "stolen disk")
	ordered := time.Now()
	await(t, 5*time.Second, "the session has ended", func() bool { return len(sensor.logged(then, entry{"msg": "not connected"})) > 0 })
	took := time.Since(ordered)
	t.Logf("the session ended %s after the command returned", took.Round(time.Millisecond))
	if took > time.Second {
		t.Errorf("the session of a revoked sensor went on for %s", took)
	}
	await(t, 20*time.Second, "it tries again", func() bool { return len(sensor.logged(then, entry{"msg": "not connected"})) > 3 })
	if len(sensor.logged(then, entry{"msg": "connected"})) != 0 || len(broker.logged(from, entry{"msg": "session opened", "identity": "melb/sensor/web-1"})) != 0 {
		t.Error("a revoked sensor came back")
	}
	sensor.Stop(t)
	again := b.daemon(t, pki.RoleSensor)
	await(t, 20*time.Second, "a new process is refused as well", func() bool { return len(again.logged(0, entry{"msg": "not connected"})) > 1 })
	if len(again.logged(0, entry{"msg": "connected"})) != 0 {
		t.Error("a revoked sensor came back after a restart")
	}
	out, err := exec.Command(filepath.Join(bin, "levee"), "pki", "renew", b.layout.Bundle(b.ids[pki.RoleSensor])).CombinedOutput()
	if err == nil {
		t.Errorf("a revoked sensor renewed its certificate:\n%s", out)
	}
	// A broker that starts anew knows it from its own disk.
	broker.Kill(t)
	running[pki.RoleIssuer].Kill(t)
	b.daemon(t, pki.RoleBroker)
	monitor := running[pki.RoleMonitor]
	monitor.awaitLog(t, monitor.mark(), entry{"msg": "connected"})
	time.Sleep(12 * time.Second) // longer than the sensor waits between attempts
	if len(again.logged(0, entry{"msg": "connected"})) != 0 {
		t.Error("a broker that was started again let a revoked sensor in")
	}
}
