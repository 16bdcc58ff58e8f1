package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/feed"
	"levee/internal/provision"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/processes"
	"levee/test/programs"
)

// network is a few hosts on one wire, each a network namespace of its own that
// goes with the test.
type network struct{ prefix string }

// newNetwork makes the hosts; the n-th, from 1, has the address 10.99.7.n.
func newNetwork(t *testing.T, hosts ...string) network {
	t.Helper()
	programs.Need(t, "ip", "apt-get install iproute2")
	n := network{prefix: fmt.Sprintf("levee%d-", os.Getpid())}
	if out, err := exec.Command("ip", "netns", "add", n.prefix+"wire").CombinedOutput(); err != nil {
		t.Logf("ip netns add: %v: %s", err, out)
		programs.Missing(t, "the right to make network namespaces", "run as root")
	}
	t.Cleanup(func() { n.delete(t, "wire") })
	n.ip(t, "-n", n.prefix+"wire", "link", "add", "br0", "type", "bridge")
	n.ip(t, "-n", n.prefix+"wire", "link", "set", "br0", "up")
	for i, host := range hosts {
		n.ip(t, "netns", "add", n.prefix+host)
		t.Cleanup(func() { n.delete(t, host) })
		n.ip(t, "-n", n.prefix+"wire", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", n.prefix+host)
		n.ip(t, "-n", n.prefix+"wire", "link", "set", host, "master", "br0", "up")
		n.ip(t, "-n", n.prefix+host, "addr", "add", fmt.Sprintf("10.99.7.%d/24", i+1), "dev", "eth0")
		n.ip(t, "-n", n.prefix+host, "link", "set", "eth0", "up")
		n.ip(t, "-n", n.prefix+host, "link", "set", "lo", "up")
	}
	return n
}

func (n network) ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (n network) delete(t *testing.T, host string) {
	if out, err := exec.Command("ip", "netns", "del", n.prefix+host).CombinedOutput(); err != nil {
		t.Errorf("removing %s: %v: %s", host, err, out)
	}
}

// on is the command line that runs one of levee's binaries on a host.
func (n network) on(host, binary string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", n.prefix + host, filepath.Join(bin, binary)}, args...)...)
}

// One site on four hosts with addresses of their own: bundles made elsewhere,
// each carried to its host, and nothing shared but the wire.
func TestSeveralMachines(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, "dmz", "control", "web", "desk")
	dir := t.TempDir()
	inv := provision.Inventory{TrustDomain: "bank.example", Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("10.99.7.0/24")},
		Brokers:     []provision.Broker{{Name: "broker-1", Listen: "10.99.7.1:8883", Address: "10.99.7.1:8883"}},
		Sensors:     []provision.Sensor{{Name: "web-1"}},
		Monitors:    []provision.Monitor{{Name: "mon-1", Act: true}},
		Controllers: []provision.Controller{{Name: "lb-1", Pools: []provision.Pool{{Server: "web-1", Listen: "127.0.0.1:8080"}}}},
		Recorder:    "rec-1",
		People:      []provision.Person{{Role: pki.RoleOperator, Name: "alice"}},
	}}}
	ids, err := provision.Apply(dir, inv, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[pki.Role]string{pki.RoleBroker: "dmz", pki.RoleRecorder: "control", pki.RoleMonitor: "control",
		pki.RoleController: "web", pki.RoleSensor: "web", pki.RoleOperator: "desk"}
	bundles := make(map[pki.Role]string)
	for _, id := range ids {
		bundles[id.Role] = filepath.Join(t.TempDir(), string(id.Role))
		if err := os.Rename(provision.Layout{Dir: dir}.Bundle(id), bundles[id.Role]); err != nil {
			t.Fatal(err)
		}
	}
	config := func(role pki.Role) string { return filepath.Join(bundles[role], "levee-"+string(role)+".yaml") }
	processes.Edit(t, config(pki.RoleSensor), "interval: 5s", "interval: 1s\ndigest_interval: 3s")
	var seen *lines
	for _, role := range []pki.Role{pki.RoleBroker, pki.RoleRecorder, pki.RoleController, pki.RoleMonitor, pki.RoleSensor} {
		p := startCommand(t, n.on(hosts[role], "levee-"+string(role), "--config", config(role)))
		if role == pki.RoleBroker {
			p.awaitLog(t, 0, entry{"msg": "broker listens"})
			seen = watchCommand(t, n.on(hosts[pki.RoleOperator], "levee", "watch", "--json", "--bundle", bundles[pki.RoleOperator]))
		} else {
			p.awaitLog(t, 0, entry{"msg": "connected", "broker": "10.99.7.1:8883"})
		}
	}
	seen.await(t, 30*time.Second, "readings are confirmed", func(l feed.Line) bool {
		return l.Kind == "confirmation" && l.Verification == "confirmed" && l.Sender == "melb/sensor/web-1"
	})
	// The flood stays on the loopback interface of the host that it is for.
	out, err := n.on("web", "levee", "drill", "flood", "--target", "127.0.0.1:8080", "--rate", "600", "--duration", "15s").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "first refusal after") {
		t.Errorf("the drill: %v\n%s", err, out)
	}
	var status wire.Status
	seen.await(t, 10*time.Second, "the status of the command that answered it", func(l feed.Line) bool {
		return l.Verification == feed.Verified && l.Kind == wire.KindRateLimiting.String() && json.Unmarshal(l.Payload, &status) == nil &&
			status.Status == wire.StatusSuccess
	})
}
