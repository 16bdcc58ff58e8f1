// Package e2e runs levee's binaries as separate processes over real sockets.
package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/feed"
	"levee/internal/provision"
	"levee/internal/site"
	"levee/pki"
	"levee/test/alone"
	"levee/test/processes"
)

// bin is where the binaries are.
var bin string

func TestMain(m *testing.M) {
	os.Exit(processes.Run(m, func(dir string) { bin = dir },
		"levee", "levee-broker", "levee-sensor", "levee-monitor", "levee-controller", "levee-recorder", "levee-issuer", "levee-console"))
}

// goOn reports whether a test that floods, or that runs a sensor, is to go on here;
// see package alone. Two sensors of one name would take each other's counter away.
func goOn(t *testing.T) bool {
	t.Helper()
	return alone.Run(t, processes.Binaries+"="+bin)
}

// bank is one site on this machine, provisioned and not running.
type bank struct {
	dir      string
	layout   provision.Layout
	ids      map[pki.Role]pki.Identity // the first of each role
	broker   string                    // address
	balancer string                    // address
	inv      provision.Inventory
}

// newBank provisions a site with one part of each role, short intervals, and
// free ports. more adds to the inventory.
func newBank(t *testing.T, more ...func(*provision.Inventory)) *bank {
	t.Helper()
	dir := t.TempDir()
	b := &bank{dir: dir, layout: provision.Layout{Dir: dir}, ids: make(map[pki.Role]pki.Identity), broker: freePort(t), balancer: freePort(t)}
	inv := provision.Inventory{
		TrustDomain: "bank.example", Evaluation: true,
		Sites: []provision.Site{{
			Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Brokers:     []provision.Broker{{Name: "broker-1", Listen: b.broker, Address: b.broker}},
			Sensors:     []provision.Sensor{{Name: "web-1"}},
			Monitors:    []provision.Monitor{{Name: "mon-1", Act: true}},
			Controllers: []provision.Controller{{Name: "lb-1", Pools: []provision.Pool{{Server: "web-1", Listen: b.balancer}}}},
			Recorder:    "rec-1",
			People:      []provision.Person{{Role: pki.RoleOperator, Name: "alice"}, {Role: pki.RoleViewer, Name: "vera"}},
		}},
	}
	for _, add := range more {
		add(&inv)
	}
	b.inv = inv
	ids, err := provision.Apply(dir, inv, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if _, ok := b.ids[id.Role]; !ok { // the first of each role is the one that runs
			b.ids[id.Role] = id
		}
	}
	b.configure(t, pki.RoleSensor, "interval: 5s", "interval: 1s\ndigest_interval: 3s")
	b.configure(t, pki.RoleMonitor, "mode: act", "mode: act\nhold: 2s\ndigest_interval: 3s")
	return b
}

// forgiving has the broker ban nobody, for tests that misbehave again and again.
// Provisioning carries the policy into the bundles and signs for it.
func (b *bank) forgiving(t *testing.T) {
	t.Helper()
	file := filepath.Join(b.layout.Authority(), "melb", site.FilePolicy)
	processes.Edit(t, file, "offences: 5 ", "offences: 1000000 ")
	processes.Edit(t, file, "connects: 30 ", "connects: 1000000 ")
	processes.Edit(t, file, "failures: 120 ", "failures: 1000000 ")
	if _, err := provision.Apply(b.dir, b.inv, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// configure edits a part's configuration file.
func (b *bank) configure(t *testing.T, role pki.Role, old, new string) {
	t.Helper()
	processes.Edit(t, b.layout.Config(b.ids[role]), old, new)
}

// freePort returns an address that nobody else is given before its owner takes it.
func freePort(t *testing.T) string {
	t.Helper()
	return steadyPorts(t, 1)[0]
}

// process is a running binary, whose log can be read.
type process struct{ *processes.Process }

// start runs a binary until the test ends.
func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	return startCommand(t, exec.Command(filepath.Join(bin, name), args...))
}

// startCommand does it with any command line.
func startCommand(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	return &process{processes.Start(t, cmd)}
}

// entry is one line of a process's log.
type entry map[string]any

// mark is a place in a process's log.
type mark int

// mark returns the end of what the process has written.
func (p *process) mark() mark { return mark(len(p.Output())) }

// logged returns the lines after a mark that hold all the members of want.
func (p *process) logged(after mark, want entry) []entry {
	var found []entry
	for line := range strings.Lines(p.Output()[after:]) {
		var e entry
		if json.Unmarshal([]byte(line), &e) == nil && e.holds(want) {
			found = append(found, e)
		}
	}
	return found
}

func (e entry) holds(want entry) bool {
	for k, v := range want {
		if e[k] != v {
			return false
		}
	}
	return true
}

// awaitLog waits for a line after a mark that holds all the members of want.
func (p *process) awaitLog(t *testing.T, after mark, want entry) {
	t.Helper()
	await(t, 30*time.Second, fmt.Sprintf("%s logs %v", p.Name, want), func() bool {
		if len(p.logged(after, want)) > 0 {
			return true
		}
		if err, ended := p.Ended(); ended {
			t.Fatalf("%s has ended (%v) and did not log %v", p.Name, err, want)
		}
		return false
	})
}

// daemon starts a part from its configuration file.
func (b *bank) daemon(t *testing.T, role pki.Role) *process {
	t.Helper()
	return start(t, "levee-"+string(role), "--config", b.layout.Config(b.ids[role]))
}

// await waits until what holds, and fails the test if it never does.
func await(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", limit, what)
		}
	}
}

// lines is what a running `levee watch --json` has shown.
type lines struct {
	mu  sync.Mutex
	all []feed.Line
}

// watchAs runs `levee watch --json` as a person and collects what it shows.
func (b *bank) watchAs(t *testing.T, role pki.Role) *lines {
	t.Helper()
	return watchBundle(t, b.layout.Bundle(b.ids[role]))
}

// watchBundle does it with a person's bundle, wherever it is.
func watchBundle(t *testing.T, bundle string) *lines {
	t.Helper()
	return watchCommand(t, exec.Command(filepath.Join(bin, "levee"), "watch", "--json", "--bundle", bundle))
}

// watchCommand does it with any command line of levee watch --json.
func watchCommand(t *testing.T, cmd *exec.Cmd) *lines {
	t.Helper()
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := new(lines)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(pipe); s.Scan(); {
			var line feed.Line
			if json.Unmarshal(s.Bytes(), &line) == nil {
				l.mu.Lock()
				l.all = append(l.all, line)
				l.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		<-done
		if err := cmd.Wait(); err != nil {
			t.Errorf("levee watch ended with %v", err)
		}
		if t.Failed() {
			for _, line := range l.matching(func(feed.Line) bool { return true }) {
				t.Logf("watch: %s %s %s %s %s", line.Verification, line.Kind, line.Sender, line.Reason, line.Payload)
			}
		}
	})
	return l
}

func (l *lines) matching(want func(feed.Line) bool) []feed.Line {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []feed.Line
	for _, line := range l.all {
		if want(line) {
			found = append(found, line)
		}
	}
	return found
}

// await waits for a line.
func (l *lines) await(t *testing.T, limit time.Duration, what string, want func(feed.Line) bool) feed.Line {
	t.Helper()
	var found []feed.Line
	await(t, limit, what, func() bool {
		found = l.matching(want)
		return len(found) > 0
	})
	return found[0]
}
