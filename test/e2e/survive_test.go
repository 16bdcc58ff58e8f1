package e2e

import (
	"flag"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/provision"
	"levee/internal/wire"
	"levee/pki"
)

var surviveSeed = flag.Uint64("survive-seed", 0, "kill in the order of the run of TestSurvive that logged this `seed`")

// patience is how long anything may take to come back. Nothing is asserted
// about how long it does take.
const patience = 90 * time.Second

// killed are the parts of the chain, each a process.
var killed = []pki.Role{pki.RoleBroker, pki.RoleRecorder, pki.RoleController, pki.RoleMonitor, pki.RoleSensor}

// victims are the servers whose readings are those of an attack, one after the
// other: a pool that is attacked no more must become free again while its
// controller goes on dying.
var victims = []string{"web-2", "web-3", "web-4"}

// survival is a bank under load whose parts are killed.
type survival struct {
	*bank
	rand    *rand.Rand
	pools   map[string]string // balancer addresses, by server
	alive   map[pki.Role]*process
	lives   map[pki.Role][]*process // all that ever ran
	load    *load
	screen  *screen
	ear     *ear
	archive *archive
	resumed int // how often a limit was in force again before its controller had acted on anything
}

// Every part is killed in turn, some right after another, and then all of them,
// ten times under load. Each time the chain comes back by itself, and at the
// end nothing that was kept is gone and no command has acted twice.
//
// A message counts as kept once its record can be read in the recorder's files:
// what the recorder has not come to is missing, and named by the audit. A kill
// leaves what the kernel was given; what a power failure leaves is for the
// tests of the packages that write.
func TestSurvive(t *testing.T) {
	if !goOn(t) {
		return
	}
	seed := *surviveSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-survive-seed=%d", seed)
	s := newSurvival(t, seed)
	s.start(t, killed...)
	s.recovered(t, time.Now(), killed, nil)

	for round := range 10 {
		s.attack(t, victims[round*len(victims)/10])
		for order := s.shuffled(); len(order) > 0; {
			n := min(1+s.rand.IntN(2), len(order))
			s.crash(t, order[:n])
			order = order[n:]
		}
		s.crashAll(t)
		kept, entries := s.archive.size()
		t.Logf("round %d: %d envelopes and %d entries kept, %d readings acknowledged, %d commands", round+1, kept, entries, s.load.acknowledged.Load(), len(s.ear.commands()))
	}
	s.checkWaits(t)
	s.replay(t)

	for _, role := range slices.Backward(killed) {
		s.alive[role].Stop(t)
	}
	r := s.audited(t)
	t.Logf("%d entries, %d envelopes, %d missing, %d digests incomplete, %d entries' segments alone", r.Entries, r.Envelopes, r.Missing, r.Incomplete, r.Unlogged)
	s.archive.check(t)
	s.checkCommands(t)
}

func newSurvival(t *testing.T, seed uint64) *survival {
	t.Helper()
	s := &survival{rand: rand.New(rand.NewPCG(seed, 0)), pools: make(map[string]string),
		alive: make(map[pki.Role]*process), lives: make(map[pki.Role][]*process)}
	speakers := slices.Concat(victims, []string{"web-11", "web-12", "web-13", "web-14", "web-15", "web-16", "web-17", "web-18", "web-19"})
	balanced := append([]string{"web-1"}, victims...)
	ports := steadyPorts(t, 1+len(balanced))
	broker := ports[0]
	s.bank = newBank(t, func(inv *provision.Inventory) {
		melb := &inv.Sites[0]
		melb.Brokers[0].Listen, melb.Brokers[0].Address = broker, broker
		for _, name := range speakers {
			melb.Sensors = append(melb.Sensors, provision.Sensor{Name: name})
		}
		melb.Controllers[0].Pools = nil
		for i, server := range balanced {
			s.pools[server] = ports[1+i]
			melb.Controllers[0].Pools = append(melb.Controllers[0].Pools, provision.Pool{Server: server, Listen: s.pools[server]})
		}
	})
	s.broker, s.balancer = broker, s.pools["web-1"]
	// The kernel's counter belongs to all tests' sensors of this name together.
	s.configure(t, pki.RoleSensor, "syn_method: auto", "syn_method: estimate")
	s.archive = newArchive(t, s.bank)
	s.screen = s.bank.screen(t)
	s.ear = s.bank.listen(t)
	s.load = s.bank.speak(t, speakers)
	return s
}

func (s *survival) start(t *testing.T, roles ...pki.Role) {
	t.Helper()
	for _, role := range roles {
		s.alive[role] = s.daemon(t, role)
		s.lives[role] = append(s.lives[role], s.alive[role])
	}
}

func (s *survival) shuffled() []pki.Role {
	roles := slices.Clone(killed)
	s.rand.Shuffle(len(roles), func(i, j int) { roles[i], roles[j] = roles[j], roles[i] })
	return roles
}

// crash kills and restarts roles, one after the other without a pause, and
// waits until the chain works again. Nothing else is restarted.
func (s *survival) crash(t *testing.T, roles []pki.Role) {
	t.Helper()
	time.Sleep(time.Duration(s.rand.IntN(300)) * time.Millisecond) // into something else each time
	marks := make(map[*process]mark)
	for role, p := range s.alive {
		if !slices.Contains(roles, role) {
			marks[p] = p.mark()
		}
	}
	var since time.Time
	for _, role := range roles {
		since = s.restart(t, role)
	}
	s.recovered(t, since, roles, marks)
}

// restart kills a part and starts it again at once.
func (s *survival) restart(t *testing.T, role pki.Role) (since time.Time) {
	t.Helper()
	s.archive.read(t)
	s.alive[role].Kill(t)
	s.archive.read(t)
	since = time.Now()
	s.start(t, role)
	return since
}

// crashAll kills everything and starts it again, the recorder last: before that
// the record is audited as the crash has left it.
func (s *survival) crashAll(t *testing.T) {
	t.Helper()
	for _, role := range s.shuffled() {
		s.archive.read(t)
		s.alive[role].Kill(t)
	}
	s.archive.read(t)
	since := time.Now()
	s.start(t, slices.DeleteFunc(s.shuffled(), func(role pki.Role) bool { return role == pki.RoleRecorder })...)
	s.auditRest(t)
	s.start(t, pki.RoleRecorder)
	s.recovered(t, since, killed, nil)
	s.audited(t)
}

// auditRest audits what a crash of everything has left. It passes, or it tells
// of a write that the crash has interrupted and that the recorder's next start
// removes or completes (docs/records.md, section 1.4).
func (s *survival) auditRest(t *testing.T) {
	t.Helper()
	code, r := s.auditReport(t)
	for _, f := range r.Findings {
		if !slices.ContainsFunc([]string{"is the rest of an interrupted write", "the recorder crashed: start it", "ends with an incomplete record"},
			func(known string) bool { return strings.Contains(f.What, known) }) {
			t.Errorf("the audit after a crash of everything: %s: %s", f.Where, f.What)
		}
	}
	if code != 0 {
		t.Logf("the audit after a crash of everything ends with %d: %+v", code, r.Findings)
	}
}

// recovered waits until the chain has worked from one end to the other after a
// crash of roles. marks are where the logs of the survivors were before it.
func (s *survival) recovered(t *testing.T, since time.Time, roles []pki.Role, marks map[*process]mark) {
	t.Helper()
	server := s.load.attacked()
	if server != "" {
		limited := s.stillLimited(t, server)
		acted := s.alive[pki.RoleController].logged(0, entry{"msg": "acting on a command", "server": server})
		if limited && slices.Contains(roles, pki.RoleController) && len(acted) == 0 {
			s.resumed++ // by what an earlier life was told
		}
	}
	const sender = "melb/sensor/web-1"
	await(t, patience, "levee watch shows a new reading after a crash of "+text(roles), func() bool { return s.screen.newest(sender) > since.UnixMilli() })
	await(t, patience, "the recorder keeps a new reading after a crash of "+text(roles), func() bool {
		s.archive.read(t)
		return s.archive.newest[sender] > since.UnixMilli()
	})
	if slices.Contains(roles, pki.RoleBroker) {
		for p, before := range marks {
			p.awaitLog(t, before, entry{"msg": "not connected"})
			p.awaitLog(t, before, entry{"msg": "connected"})
		}
	}
	if server != "" && slices.Contains(roles, pki.RoleMonitor) {
		s.commanded(t, server, since)
		s.stillLimited(t, server)
	}
}

func text(roles []pki.Role) string {
	var names []string
	for _, role := range roles {
		names = append(names, string(role))
	}
	return strings.Join(names, " and ")
}

// attack makes a server the one that is attacked, and waits for the answer.
func (s *survival) attack(t *testing.T, server string) {
	t.Helper()
	if s.load.attacked() == server {
		return
	}
	since := time.Now()
	s.load.victim.Store(&server)
	s.commanded(t, server, since)
	s.stillLimited(t, server)
}

// commanded waits for a command about a server that was issued since then, and
// for the signed status that says that it is in force.
func (s *survival) commanded(t *testing.T, server string, since time.Time) {
	t.Helper()
	var about []wire.Command
	await(t, patience, "a new command is in force", func() bool {
		about = slices.DeleteFunc(s.ear.commands(), func(c wire.Command) bool { return c.Server != server || c.Issued < since.UnixMilli() })
		return slices.ContainsFunc(about, func(c wire.Command) bool { return s.ear.active(c.ID) })
	})
}

// stillLimited waits until a pool is limited, for as long as a signed status
// says that it is. It reports whether it was, and fails the test if it was not
// although there was a lot of time.
func (s *survival) stillLimited(t *testing.T, server string) (limited bool) {
	t.Helper()
	began := time.Now()
	for ; !limited; time.Sleep(20 * time.Millisecond) {
		until := s.ear.until(server)
		if !time.Now().Before(until) {
			// On a machine this slow there was no time to see it.
			if until.Sub(began) > 10*time.Second {
				t.Fatalf("the pool of %s was not limited until %s, although a status says so", server, until)
			}
			return false
		}
		limited = limits(s.pools[server])
	}
	return true
}

// limits reports whether a pool refuses some of many requests.
func limits(address string) bool {
	for range 20 { // more than the commands' burst
		if get(address).code == http.StatusTooManyRequests {
			return true
		}
	}
	return false
}

// free waits until a pool serves again, for less time than a command lives.
func (s *survival) free(t *testing.T, server string) {
	t.Helper()
	await(t, 15*time.Second, "the pool of "+server+" serves again", func() bool { return get(s.pools[server]).code == http.StatusOK && !limits(s.pools[server]) })
}
