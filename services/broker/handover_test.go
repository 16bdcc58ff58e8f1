package broker

import (
	"testing"
	"time"

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
	began := time.Now()
	copied := s.dialAs(newer)
	s.enter(copied, monitor.ClientID()+"_1")
	s.closed(first)
	if time.Since(began) >= handover {
		t.Error("two copies of one certificate were there at once")
	}
	s.ping(copied)
}

// enter opens a session under a client identifier.
func (s *space) enter(c *rawmqtt.Client, clientID string) {
	s.t.Helper()
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: clientID, KeepAlive: 30}); err != nil || code != rawmqtt.Accepted {
		s.t.Fatalf("%s: code %d, %v", clientID, code, err)
	}
}
