package broker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/policies"
	"levee/test/rawmqtt"
)

// edited returns the policy of the tests, edited.
func edited(t *testing.T, edits ...func(string) string) *policies.Policy {
	t.Helper()
	var c Config
	rules(t, edits...)(&c)
	return c.Policy
}

// replacing returns an edit of one line that stands in the policy so many times.
func replacing(t *testing.T, from, to string, times int) func(string) string {
	return func(text string) string {
		if n := strings.Count(text, from); n != times {
			t.Fatalf("%q stands %d times in the policy", from, n)
		}
		return strings.ReplaceAll(text, from, to)
	}
}

// Another policy judges the sessions that live: who loses a role or a right that
// it uses is ended, and who does not goes on under the new limits.
func TestReload(t *testing.T) {
	s := open(t)
	viewerID, auditorID := identity("melb", pki.RoleViewer, "vic"), identity("melb", pki.RoleAuditor, "eve")
	viewer, idle, auditor, sensor := s.connect(viewerID), s.connect(operator), s.connect(auditorID), s.connect(web1)
	s.subscribe(viewer, 0, "melb/bank_server/status/scaling/+")
	s.subscribe(idle, 0, cpuFilter)
	noScaling := func(text string) string {
		begin := strings.Index(text, "\n  viewer:")
		return text[:begin] + strings.Replace(text[begin:], "      - \"{site}/bank_server/status/scaling/+\"\n", "", 1)
	}
	s.broker.Reload(edited(t, withoutAuditors, noScaling, bounded("max_keep_alive: 1m"),
		replacing(t, "messages_per_second: 20,", "messages_per_second: 21,", 1)))
	s.closed(viewer)
	s.counted("refused_rejudged", 1)
	s.closed(auditor)
	s.counted("refused_role", 1)
	s.ping(idle)
	s.ping(sensor)
	if account := s.broker.registry.accounts[web1.Sender()]; account.messages.Limit() != 21 {
		t.Errorf("limit %v", account.messages.Limit())
	}
	viewer = s.connect(viewerID) // may come back, and is told
	if codes, err := viewer.Subscribe(1, 0, "melb/bank_server/status/scaling/+"); err != nil || len(codes) != 1 || codes[0] != 0x80 {
		t.Errorf("subscribing: % x, %v", codes, err)
	}
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(auditorID)))
	c := s.dial(web2)
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: web2.ClientID(), KeepAlive: 61}); err != nil || code != 5 {
		t.Errorf("a keep-alive above the new bound: code %d, %v", code, err)
	}
	s.broker.Reload(s.broker.policy()) // the same changes nothing
	s.ping(idle)
}

// tokens is a second credential that holds for a time.
type tokens struct{ hold time.Duration }

func (c tokens) Verify(id pki.Identity, username string, password []byte, now time.Time) (time.Time, error) {
	switch {
	case id.Role.Class() == pki.ClassMachine && len(password) == 0:
		return time.Time{}, nil
	case username != id.Name || string(password) != "open sesame":
		return time.Time{}, errors.New("no such token")
	}
	return now.Add(c.hold), nil
}

// Where a second credential is asked for nobody comes in without it, and the
// session ends with it.
func TestP12SecondCredentialIsNeededAsWell(t *testing.T) {
	s := open(t, func(c *Config) { c.Credentials = tokens{hold: 2 * time.Second} })
	for name, o := range map[string]rawmqtt.ConnectOptions{
		"none":         {},
		"a wrong one":  {Username: operator.Name, Password: "open barley"},
		"another name": {Username: "bob", Password: "open sesame"},
	} {
		o.ClientID, o.KeepAlive = operator.ClientID(), 30
		if code, err := s.dial(operator).Connect(o); err != nil || code != 4 {
			t.Errorf("%s: code %d, %v", name, code, err)
		}
	}
	s.counted("refused_credential", 3)
	if strings.Contains(s.log.String(), "sesame") || strings.Contains(s.log.String(), "barley") {
		t.Errorf("a secret in the log:\n%s", s.log)
	}
	machine, person := s.connect(web1), s.dial(operator)
	if code, err := person.Connect(rawmqtt.ConnectOptions{ClientID: operator.ClientID(), KeepAlive: 30, Username: operator.Name, Password: "open sesame"}); err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	s.ping(person)
	s.closed(person)
	s.counted("refused_expired", 1)
	s.ping(machine)
}

// A clock that jumped past a credential's end is noticed by the sweep.
func TestSecondCredentialAfterAClockJump(t *testing.T) {
	s := open(t, func(c *Config) { c.Credentials = tokens{hold: 10 * time.Minute} })
	c := s.dial(operator)
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: operator.ClientID(), KeepAlive: 30, Username: operator.Name, Password: "open sesame"}); err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	s.broker.sweepSessions(time.Now().Add(9*time.Minute), nil)
	s.ping(c)
	s.broker.sweepSessions(time.Now().Add(11*time.Minute), nil)
	s.closed(c)
	s.counted("refused_expired", 1)
}
