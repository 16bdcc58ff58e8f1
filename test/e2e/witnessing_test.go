package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee/internal/provision"
	"levee/internal/records"
	"levee/pki"
	"levee/test/processes"
)

// neighbours is melb with a broker, and perth, whose recorders witness each other.
type neighbours struct {
	*bank
	t     *testing.T
	perth pki.Identity
}

func newNeighbours(t *testing.T) *neighbours {
	t.Helper()
	ports := steadyPorts(t, 3)
	b := newBank(t, func(inv *provision.Inventory) {
		inv.Sites[0].Log = provision.Log{Listen: ports[0], Address: ports[0]}
		inv.Sites = append(inv.Sites, provision.Site{Name: "perth", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Brokers: []provision.Broker{{Name: "broker-1", Listen: ports[2], Address: ports[2]}}, Recorder: "rec-1",
			Log: provision.Log{Listen: ports[1], Address: ports[1]}})
	})
	n := &neighbours{bank: b, t: t, perth: pki.Identity{TrustDomain: "bank.example", Site: "perth", Role: pki.RoleRecorder, Name: "rec-1"}}
	for _, id := range []pki.Identity{n.melb(), n.perth} {
		processes.Edit(t, b.layout.Config(id), "log_listen:", "witness_interval: 1s\nlog_listen:")
	}
	return n
}

func (n *neighbours) melb() pki.Identity { return n.ids[pki.RoleRecorder] }

// recorder starts the recorder of a site.
func (n *neighbours) recorder(id pki.Identity) *process {
	n.t.Helper()
	return start(n.t, "levee-recorder", "--config", n.layout.Config(id))
}

// size returns how many entries the checkpoint in a file has, -1 if there is none.
func (n *neighbours) size(path string) int {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return -1
	}
	if err != nil {
		n.t.Fatal(err)
	}
	size, err := strconv.Atoi(strings.Split(string(text), "\n")[1])
	if err != nil {
		n.t.Fatal(err)
	}
	return size
}

// cosigned returns how many entries of a site's log its witnesses have cosigned.
func (n *neighbours) cosigned(id pki.Identity) int {
	return n.size(filepath.Join(n.layout.State(id), "cosigned"))
}

// signed returns how many entries of melb's log are signed.
func (n *neighbours) signed() int {
	return n.size(filepath.Join(n.layout.State(n.melb()), "log", "checkpoint"))
}

// caughtUp waits until perth has cosigned more than melb's log had.
func (n *neighbours) caughtUp(than int) {
	n.t.Helper()
	await(n.t, 30*time.Second, fmt.Sprintf("more than %d entries of melb's log are cosigned", than), func() bool { return n.cosigned(n.melb()) > than })
}

// backup copies everything that melb's recorder remembers, its watermark included.
func (n *neighbours) backup() (to string) {
	n.t.Helper()
	to = n.t.TempDir()
	for name, from := range n.remembers() {
		n.copy(from, filepath.Join(to, name))
	}
	return to
}

func (n *neighbours) restore(from string) {
	n.t.Helper()
	for name, to := range n.remembers() {
		if err := os.RemoveAll(to); err != nil {
			n.t.Fatal(err)
		}
		n.copy(filepath.Join(from, name), to)
	}
}

// copy copies a directory with its modes.
func (n *neighbours) copy(from, to string) {
	n.t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
}

func (n *neighbours) remembers() map[string]string {
	return map[string]string{"state": n.layout.State(n.melb()), "watermark": filepath.Dir(n.layout.Watermark(n.melb()))}
}

// ends waits until a process has ended by itself, with an error that says all of
// parts.
func (n *neighbours) ends(p *process, parts ...string) {
	n.t.Helper()
	await(n.t, 30*time.Second, "melb's recorder stops", func() bool { _, ended := p.Ended(); return ended })
	for _, e := range append(p.logged(0, entry{"msg": "stopped"}), p.logged(0, entry{"msg": "not started"})...) {
		text, _ := e["error"].(string)
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) }) {
			return
		}
	}
	n.t.Errorf("melb's recorder does not say %q:\n%s", parts, p.Output())
}

// Two sites witness each other. One is rolled back, by restoring a backup, its
// watermark included: as it was, and after it has gone on while nobody could see.
// The other one names it, and it does not go on.
func TestSitesWitnessEachOther(t *testing.T) {
	n := newNeighbours(t)
	broker := n.daemon(t, pki.RoleBroker)
	broker.awaitLog(t, 0, entry{"msg": "broker listens"})
	perth, melb := n.recorder(n.perth), n.recorder(n.melb())
	melb.awaitLog(t, 0, entry{"msg": "connected"})
	monitor := n.steal(t, pki.RoleMonitor, "mon-1")
	client := n.connect(t, monitor)
	alerts := func(count int) {
		t.Helper()
		before := n.signed()
		for range count {
			topic, raw := monitor.alert(t)
			publish(t, client, topic, raw)
		}
		await(t, 30*time.Second, "the alerts are in the log", func() bool { return n.signed() >= before+count })
	}
	alerts(6)
	n.caughtUp(n.signed() - 1)
	await(t, 30*time.Second, "perth's log is cosigned too", func() bool { return n.cosigned(n.perth) > 0 })

	melb.Stop(t)
	old := n.backup()
	before := n.cosigned(n.melb())
	melb = n.recorder(n.melb())
	melb.awaitLog(t, 0, entry{"msg": "connected"})
	alerts(6)
	n.caughtUp(before + 5)
	melb.Stop(t)
	if errors := perth.logged(0, entry{"level": "ERROR"}); len(errors) > 0 {
		t.Fatalf("perth complains of an honest neighbour: %v", errors)
	}
	right := n.backup()
	names := entry{"level": "ERROR", "msg": "a log contradicts what it signed before", "log": records.LogOrigin(n.melb())}

	t.Run("as it was", func(t *testing.T) {
		mark := perth.mark()
		n.restore(old)
		signed := n.signed()
		melb := n.recorder(n.melb())
		n.ends(melb, "witness perth.bank.example/witness/rec-1", "rolled back")
		names["reason"] = "rollback"
		perth.awaitLog(t, mark, names)
		// Nothing was signed that continues it, and it stays shut with perth away.
		if now := n.signed(); now != signed || len(melb.logged(0, entry{"msg": "log opened"})) > 0 {
			t.Errorf("%d entries became %d, or the log was opened before anybody was asked", signed, now)
		}
		perth.Stop(t)
		n.ends(n.recorder(n.melb()), "the log is older than it was")
	})

	t.Run("gone on while nobody could see", func(t *testing.T) {
		n.restore(old)
		melb := n.recorder(n.melb())
		melb.awaitLog(t, 0, entry{"msg": "connected"})
		alerts(20) // more than it had
		perth = n.recorder(n.perth)
		n.ends(melb, "witness perth.bank.example/witness/rec-1", "fork")
		names["reason"] = "fork"
		perth.awaitLog(t, 0, names)
		n.ends(n.recorder(n.melb()), "another history")
	})

	n.provesIt(t)
	t.Run("the right one is put back", func(t *testing.T) {
		mark, cosigned := perth.mark(), n.size(filepath.Join(right, "state", "cosigned"))
		n.restore(right)
		melb := n.recorder(n.melb())
		melb.awaitLog(t, 0, entry{"msg": "connected"})
		alerts(3)
		n.caughtUp(cosigned + 2)
		if again := perth.logged(mark, names); len(again) > 0 {
			t.Errorf("perth still says %v", again)
		}
		melb.Stop(t)
	})
	perth.Stop(t)
}

// provesIt wants perth's evidence: of both kinds, each a pair that melb's own key
// signed.
func (n *neighbours) provesIt(t *testing.T) {
	t.Helper()
	for _, reason := range []string{"rollback", "fork"} {
		found, err := filepath.Glob(filepath.Join(n.layout.State(n.perth), "witnessed", "evidence", "melb.bank.example_recorder_rec-1."+reason+".*"))
		if err != nil || len(found) < 2 {
			t.Errorf("%s: %v, %v", reason, found, err)
		}
	}
}
