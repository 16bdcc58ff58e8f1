//go:build linux

package bench

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"levee/internal/config"
	"levee/internal/provision"
	"levee/internal/site"
	"levee/pki"
	"levee/policies"
	"levee/test/processes"
	"levee/test/programs"
)

const (
	bareMochi = "mochi"
	sensors   = 20
	siteName  = "melb"
)

// plan is what differs between sites.
type plan struct {
	sensors, guests int
	// fast is a policy that lets sensors send as fast as the benchmark wants: what is
	// judged of each message stays the same. Else the default is in force.
	fast bool
	// together lets one address hold as many connections as all may: it stands for
	// the addresses of many. Nobody backfills: there is no recorder to acknowledge.
	together bool
}

// bankSite is one provisioned site: sensors, one monitor, one broker, guests.
type bankSite struct {
	layout   provision.Layout
	broker   pki.Identity
	monitor  pki.Identity
	sensors  []pki.Identity
	guests   []pki.Identity
	trust    *site.Trust
	boot     uint64 // of the last turn's messages
	ownCores unix.CPUSet
}

// broker is a running one.
type broker struct {
	name    string
	address string
	process *processes.Process
}

// newSite provisions.
func newSite(t testing.TB, p plan) *bankSite {
	t.Helper()
	dir := t.TempDir()
	s := &bankSite{layout: provision.Layout{Dir: dir}}
	inv := provision.Inventory{TrustDomain: "bank.example", Evaluation: true, Sites: []provision.Site{{
		Name: siteName, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers:     []provision.Broker{{Name: "broker-1", Listen: freePort(t), Address: freePort(t)}},
		Monitors:    []provision.Monitor{{Name: "mon-1"}},
		Controllers: []provision.Controller{{Name: "lb-1", Pools: []provision.Pool{{Server: "web-10", Listen: freePort(t)}}}},
		Recorder:    "rec-1",
	}}}
	for i := range p.sensors {
		inv.Sites[0].Sensors = append(inv.Sites[0].Sensors, provision.Sensor{Name: fmt.Sprintf("web-%d", 10+i)})
	}
	for i := range p.guests {
		inv.Sites[0].Guests = append(inv.Sites[0].Guests, provision.Guest{Name: fmt.Sprintf("guest-%d", 1+i)})
	}
	ids, err := provision.Apply(dir, inv, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		switch id.Role {
		case pki.RoleBroker:
			s.broker = id
		case pki.RoleMonitor:
			s.monitor = id
		case pki.RoleSensor:
			s.sensors = append(s.sensors, id)
		case pki.RoleGuest:
			s.guests = append(s.guests, id)
		}
	}
	switch {
	case p.fast:
		s.rewrite(t, inv, map[string]string{
			`\bmessages_per_second: \d+`: "messages_per_second: 100000", `\bburst: \d+`: "burst: 100000",
			`\bbytes_per_second: \d+`: "bytes_per_second: 100000000", `\bconnects: \d+`: "connects: 100000",
		})
	case p.together:
		s.rewrite(t, inv, map[string]string{
			`\baddress_connections: \d+`: "address_connections: 16384", `\baddress_pending: \d+`: "address_pending: 512",
			`\bfailures: \d+`: "failures: 100000", `(?m)^.*/backfill/.*\n`: "",
		})
	}
	s.trust, err = site.OpenTrust(site.Settings{Bundle: config.Path(s.layout.Bundle(s.broker)), Evaluation: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SchedGetaffinity(0, &s.ownCores); err != nil {
		t.Fatal(err)
	}
	return s
}

// rewrite replaces the policy by the default one with other figures.
func (s *bankSite) rewrite(t testing.TB, inv provision.Inventory, figures map[string]string) {
	t.Helper()
	policy := filepath.Join(s.layout.Authority(), siteName, site.FilePolicy)
	text := string(policies.Default())
	for old, raised := range figures {
		text = regexp.MustCompile(old).ReplaceAllString(text, raised)
	}
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := provision.Apply(s.layout.Dir, inv, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// brokers starts all that are compared, all on one core, and moves this process
// to the others.
func (s *bankSite) brokers(t testing.TB) []broker {
	t.Helper()
	all := []broker{s.levee(t, "levee", filepath.Join(bin, "levee-broker"))}
	if *also != "" {
		for _, other := range strings.Split(*also, ",") {
			name, binary, ok := strings.Cut(other, "=")
			if !ok {
				t.Fatalf("-also %q is not name=binary", other)
			}
			all = append(all, s.levee(t, name, binary))
		}
	}
	all = append(all, s.mochi(t), s.mosquitto(t))
	s.leaveCore(t)
	return all
}

// levee runs a levee broker with every check.
func (s *bankSite) levee(t testing.TB, name, binary string) broker {
	t.Helper()
	address, cmd := s.prepare(t, name, binary)
	return s.start(t, name, address, cmd())
}

// prepare returns the command that runs a levee broker, as often as it is asked
// for, and where that listens.
func (s *bankSite) prepare(t testing.TB, name, binary string) (address string, cmd func() *exec.Cmd) {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle")
	address = freePort(t)
	if out, err := exec.Command("cp", "-a", s.layout.Bundle(s.broker), bundle).CombinedOutput(); err != nil { // a state of its own, and modes as they are
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(bundle, filepath.Base(s.layout.Config(s.broker)))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := regexp.MustCompile(`(?m)^listen:.*$`).ReplaceAllString(string(text), "listen: "+address)
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	return address, func() *exec.Cmd {
		if *profile == "" || name != "levee" {
			return exec.Command(binary, "--config", file)
		}
		cmd := exec.Command(filepath.Join(bin, "profiled"), "--config", file)
		cmd.Env = append(os.Environ(), "LEVEE_BENCH_PROFILE="+filepath.Join(*profile, name+".pprof"))
		return cmd
	}
}

// mochi runs the bare library.
func (s *bankSite) mochi(t testing.TB) broker {
	t.Helper()
	address := freePort(t)
	args := []string{"-bundle", s.layout.Bundle(s.broker), "-listen", address}
	if *profile != "" {
		args = append(args, "-profile", filepath.Join(*profile, bareMochi+".pprof"))
	}
	return s.start(t, bareMochi, address, exec.Command(filepath.Join(bin, "mochi"), args...))
}

// mosquitto runs Debian's, with the same certificates and the same rights. Both
// it and Go's TLS then use the same cipher.
func (s *bankSite) mosquitto(t testing.TB) broker {
	t.Helper()
	program := programs.Need(t, "mosquitto", "apt-get install mosquitto")
	dir, address := t.TempDir(), freePort(t)
	var acl strings.Builder
	for _, id := range s.sensors {
		fmt.Fprintf(&acl, "user %s\ntopic write %s\n", id.ClientID(), topicOf(id))
	}
	fmt.Fprintf(&acl, "user %s\ntopic read %s\n", s.monitor.ClientID(), readerFilter)
	rights := filepath.Join(dir, "acl")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	bundle := s.layout.Bundle(s.broker)
	text := fmt.Sprintf(`user root
persistence false
log_dest stderr
log_type error
listener %s 127.0.0.1
cafile %s
certfile %s
keyfile %s
tls_version tlsv1.3
ciphers_tls1.3 TLS_AES_128_GCM_SHA256
require_certificate true
use_identity_as_username true
acl_file %s
max_queued_messages 100000
`, port, filepath.Join(bundle, site.FileRoot), filepath.Join(bundle, site.FileChain), filepath.Join(bundle, site.FileKey), rights)
	file := filepath.Join(dir, "mosquitto.conf")
	for name, content := range map[string]string{rights: acl.String(), file: text} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s.start(t, "mosquitto", address, exec.Command(program, "-c", file))
}

// start runs a broker on the first core that this process may use, and waits
// until it accepts.
func (s *bankSite) start(t testing.TB, name, address string, cmd *exec.Cmd) broker {
	t.Helper()
	process := s.launch(t, 0, cmd)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return broker{name: name, address: address, process: process}
		}
		if _, ended := process.Ended(); ended || time.Now().After(deadline) {
			t.Fatalf("%s does not listen: %v", name, err)
		}
	}
}

// launch starts a process on the n-th core that this one may use, or on the last
// there is.
func (s *bankSite) launch(t testing.TB, n int, cmd *exec.Cmd) *processes.Process {
	t.Helper()
	var core unix.CPUSet
	for i, seen := 0, 0; i < 1024 && seen <= n; i++ {
		if s.ownCores.IsSet(i) {
			core.Zero()
			core.Set(i)
			seen++
		}
	}
	runtime.LockOSThread() // a child inherits from the thread that makes it
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.SchedSetaffinity(0, &core); err != nil {
		t.Fatal(err)
	}
	process := processes.Start(t, cmd)
	if err := unix.SchedSetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	return process
}

// leaveCore moves every thread of this process to the cores that the brokers do
// not use, if there is one.
func (s *bankSite) leaveCore(t testing.TB) {
	t.Helper()
	if s.ownCores.Count() < 2 {
		t.Log("one core alone: the load runs beside the brokers")
		return
	}
	rest := s.ownCores
	for core := range 1024 {
		if rest.IsSet(core) {
			rest.Clear(core)
			break
		}
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads { // those to come inherit it
		var id int
		if _, err := fmt.Sscan(thread.Name(), &id); err != nil {
			t.Fatal(err)
		}
		_ = unix.SchedSetaffinity(id, &rest) // it may have ended
	}
	t.Cleanup(func() {
		threads, _ := os.ReadDir("/proc/self/task")
		for _, thread := range threads {
			var id int
			if _, err := fmt.Sscan(thread.Name(), &id); err == nil {
				_ = unix.SchedSetaffinity(id, &s.ownCores)
			}
		}
	})
}

// used returns the CPU time that a process has used, of all its threads, user and
// system, as precisely as the scheduler knows it: the clock of another process,
// which clock_getcpuclockid(3) names so.
func used(t testing.TB, p *processes.Process) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.PID())<<3|2, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
