package broker

import (
	"crypto/x509"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee/pki"
	"levee/test/rawmqtt"
)

// A machine that has renewed its certificate comes a second time before it
// leaves: what is published meanwhile reaches it, and afterwards one session is
// left.
func TestHandover(t *testing.T) {
	s := open(t)
	older, newer := s.bank.issue(monitor, time.Hour), s.bank.issue(monitor, 5*time.Minute) // backdated less
	first := s.dialAs(older)
	s.enter(first, monitor.ClientID())
	s.subscribe(first, 0, cpuFilter)
	second := s.dialAs(newer)
	s.enter(second, monitor.ClientID()+"_1")
	s.subscribe(second, 0, cpuFilter)
	web, from := s.connect(web1), s.sender(web1)
	if err := web.Send(pub(cpuTopic, from.reading(cpuTopic), 0)); err != nil {
		t.Fatal(err)
	}
	s.message(first)
	s.message(second)
	began := time.Now()
	s.closed(first)
	if took := time.Since(began); took > 2*handover {
		t.Errorf("the one before went on for %s", took)
	}
	s.ping(second)

	// And back again, under the first identifier.
	third := s.dialAs(s.bank.issue(monitor, time.Minute))
	s.enter(third, monitor.ClientID())
	s.closed(second)
	s.ping(third)
}

// Two copies of one certificate are never there at once, whatever they call
// themselves, and an older one does not displace a newer.
func TestHandoverIsForNewerCertificates(t *testing.T) {
	s := open(t)
	older, newer := s.bank.issue(monitor, time.Hour), s.bank.issue(monitor, 5*time.Minute)
	first := s.dialAs(newer)
	s.enter(first, monitor.ClientID())
	stolen := s.dialAs(older)
	if code, err := stolen.Connect(rawmqtt.ConnectOptions{ClientID: monitor.ClientID() + "_1", KeepAlive: 30}); err == nil && code == 0 {
		t.Error("an older certificate was let in beside a newer one")
	}
	s.ping(first)
	s.counted("refused_outdated", 1)
	began := time.Now()
	copied := s.dialAs(newer)
	s.enter(copied, monitor.ClientID()+"_1")
	s.closed(first)
	if time.Since(began) >= handover {
		t.Error("two copies of one certificate were there at once")
	}
	s.ping(copied)
}

// A certificate that its machine has renewed since does not end the session with
// the newer one, under that session's own client identifier either.
func TestOlderCertificateEndsNobody(t *testing.T) {
	s := open(t)
	older, newer := s.bank.issue(monitor, time.Hour), s.bank.issue(monitor, 5*time.Minute)
	owner := s.dialAs(newer)
	s.enter(owner, monitor.ClientID())
	for range 3 {
		stolen := s.dialAs(older)
		if code, err := stolen.Connect(rawmqtt.ConnectOptions{ClientID: monitor.ClientID(), KeepAlive: 30}); err == nil && code == rawmqtt.Accepted {
			t.Fatal("the older certificate was let in")
		}
		s.ping(owner)
	}
	s.counted("refused_outdated", 3)
	again := s.dialAs(newer) // the same certificate: the newest session wins
	s.enter(again, monitor.ClientID())
	s.closed(owner)
	s.ping(again)
}

// Who is there already, owner or still waiting, is compared; a person is not.
func TestClaimByCertificate(t *testing.T) {
	noon := time.Date(1999, 7, 22, 12, 0, 0, 0, time.UTC) // before the time of a bubble
	with := func(role pki.Role, at time.Time) *session {
		s := fakeSession("a")
		s.identity.Role, s.leaf = role, &x509.Certificate{NotBefore: at}
		return s
	}
	for name, test := range map[string]struct {
		role pki.Role
		by   time.Duration
		want Reason
	}{
		"a machine's older": {pki.RoleSensor, -time.Second, Outdated},
		"a machine's same":  {pki.RoleSensor, 0, TakeoverTimeout}, // waits, and nobody gives way here
		"a machine's newer": {pki.RoleSensor, time.Second, TakeoverTimeout},
		"a person's older":  {pki.RoleOperator, -time.Second, TakeoverTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRegistry()
				owner := with(test.role, noon)
				r.claim(owner, time.Second)
				if got := r.claim(with(test.role, noon.Add(test.by)), time.Second); got != test.want {
					t.Errorf("claim: %v", got)
				}
				if ended := owner.reason() != None; ended != (test.want == TakeoverTimeout) {
					t.Errorf("the owner ended for %v", owner.reason())
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // the newest waits for an owner with an older certificate
		r := newRegistry()
		owner, waiting := with(pki.RoleSensor, noon), with(pki.RoleSensor, noon.Add(time.Hour))
		r.claim(owner, time.Second)
		done := make(chan Reason)
		go func() { done <- r.claim(waiting, time.Minute) }()
		synctest.Wait()
		if got := r.claim(with(pki.RoleSensor, noon.Add(time.Minute)), time.Second); got != Outdated || waiting.reason() != None {
			t.Errorf("claim: %v, who waited ended for %v", got, waiting.reason())
		}
		r.release(owner)
		close(owner.done)
		if got := <-done; got != None {
			t.Errorf("who waited: %v", got)
		}
	})
}

// A certificate that is not valid yet is no newer one: clocks were ahead when its
// machine renewed, and now it comes with the one before.
func TestNotValidYetIsNotNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for clientID, refused := range map[string]func(*registry, *session) Reason{
			"melb_sensor_web-1":   func(r *registry, s *session) Reason { return r.claim(s, time.Second) },
			"melb_sensor_web-1_1": (*registry).handOver,
		} {
			for ahead, want := range map[time.Duration]Reason{0: Outdated, time.Second: None} {
				r, owner, s := newRegistry(), fakeSession("melb_sensor_web-1"), fakeSession(clientID)
				owner.identity, s.identity = web1, web1
				owner.leaf, s.leaf = &x509.Certificate{NotBefore: time.Now().Add(ahead)}, &x509.Certificate{NotBefore: time.Now().Add(-time.Hour)}
				r.claim(owner, time.Second)
				go leaveAfter(r, owner, 0)
				if got := refused(r, s); got != want || (owner.reason() == Superseded) != (want == None) {
					t.Errorf("%s, %s ahead: %v, and the one before ended for %v", clientID, ahead, got, owner.reason())
				}
				owner.end(Draining)
			}
		}
	})
}

// A thief renews the certificate that he copied. From then on his is the newer one,
// and its owner is kept out until it renews: the broker says so each time, with the
// machine's name.
func TestOlderCertificateIsAnAlarm(t *testing.T) {
	s := open(t)
	owners, thiefs := s.bank.issue(monitor, time.Hour), s.bank.issue(monitor, 5*time.Minute)
	owner := s.dialAs(owners)
	s.enter(owner, monitor.ClientID())
	thief := s.dialAs(thiefs)
	s.enter(thief, monitor.ClientID())
	s.closed(owner)
	s.counted("refused_outdated", 0)
	again := s.dialAs(owners)
	if code, err := again.Connect(rawmqtt.ConnectOptions{ClientID: monitor.ClientID(), KeepAlive: 30}); err == nil && code == rawmqtt.Accepted {
		t.Fatal("the older certificate was let in")
	}
	s.counted("refused_outdated", 1)
	alarm := ""
	for deadline := time.Now().Add(time.Minute); alarm == "" && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) { // it is counted first
		for line := range strings.Lines(s.log.String()) {
			if strings.Contains(line, "level=ERROR") && strings.Contains(line, "an older certificate of a machine") {
				alarm = line
			}
		}
	}
	if !strings.Contains(alarm, "identity="+monitor.Sender()) || !strings.Contains(alarm, "remote=127.0.0.1:") {
		t.Errorf("%q in the log:\n%s", alarm, s.log)
	}
	// Renewed, the owner is the newer one.
	renewed := s.dialAs(s.bank.issue(monitor, time.Minute))
	s.enter(renewed, monitor.ClientID())
	s.closed(thief)
}

// enter opens a session under a client identifier.
func (s *space) enter(c *rawmqtt.Client, clientID string) {
	s.t.Helper()
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: clientID, KeepAlive: 30}); err != nil || code != rawmqtt.Accepted {
		s.t.Fatalf("%s: code %d, %v", clientID, code, err)
	}
}
