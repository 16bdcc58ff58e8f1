package broker

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/brokeradmin"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

// heard waits for the next presence message that c is sent, which must be signed
// by broker b1, and returns its changes.
func (s *space) heard(c *rawmqtt.Client) (all []string) {
	s.t.Helper()
	m := s.message(c)
	e, err := envelope.Parse(m.Payload, envelope.MaxMessage)
	if err != nil || !e.Signed() || string(e.Sender()) != "melb/broker/b1" || m.Topic != "melb/bank_server/status/presence/b1" {
		s.t.Fatalf("%s: %v", m.Payload, err)
	}
	p, err := wire.ParsePresence(e.Payload)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range p.Changes {
		all = append(all, strings.TrimSpace(c.Machine+" "+c.State+" "+c.Reason))
	}
	return append(all, fmt.Sprint(p.Machines))
}

// A broker as a process runs it tells by itself, as a client of its own, which
// machines come and go.
func TestHerald(t *testing.T) {
	i := newIssued(t)
	s := i.open(t)
	reader := s.connect(identity("melb", pki.RoleMonitor, "m1"))
	if codes, err := reader.Subscribe(1, 0, "melb/bank_server/status/presence/+"); err != nil || !bytes.Equal(codes, []byte{0}) {
		t.Fatalf("%x, %v", codes, err)
	}
	s.connect(identity("melb", pki.RoleRecorder, "rec-1")) // for whom it waits a while
	if got := fmt.Sprint(s.heard(reader)); got != "[monitor/m1 present recorder/rec-1 present 2]" {
		t.Errorf("%s", got)
	}
	sensor := s.connect(web1)
	if got := fmt.Sprint(s.heard(reader)); got != "[sensor/web-1 present 3]" {
		t.Errorf("%s", got)
	}
	sensor.Close()
	if got := fmt.Sprint(s.heard(reader)); got != "[sensor/web-1 gone lost 2]" {
		t.Errorf("%s", got)
	}
	s.stop()
	if strings.Contains(s.log.String(), "level=ERROR") {
		t.Errorf("it logged an error:\n%s", s.log)
	}
}

// A broker that cannot tell of presence, or that bans its own voice, serves all
// the same and ends as it should.
func TestBrokerWithoutItsHerald(t *testing.T) {
	i := newIssued(t)
	i.open(t).stop()
	state := filepath.Join(i.layout.State(i.broker), "presence")
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := i.open(t)
	s.ping(s.connect(web1))
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(s.log.String(), "goes on without it"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nothing is logged:\n%s", s.log)
		}
	}
	s.ping(s.connect(web2))
	s.stop()

	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	s = i.open(t)
	if _, err := (administration{s.broker}).Ban(brokeradmin.Target{Identity: i.broker.Sender()}, time.Hour); err != nil {
		t.Fatal(err)
	}
	s.ping(s.connect(web1))
	s.stop()
}

// A broker's own session says nothing of the broker's clock: it is the same one.
func TestHeraldIsNoVoiceOnTheClock(t *testing.T) {
	s := open(t)
	for i, id := range []pki.Identity{broker1, web1, web2, identity("melb", pki.RoleSensor, "web-3")} {
		c, from, topic := s.connect(id), s.sender(id), "melb/bank_server/metrics/cpu/"+id.Name
		if id == broker1 {
			topic = presenceTopic
		}
		h := from.header(topic)
		if i > 1 {
			h.Time += 40_000
		}
		if err := c.Send(pub(topic, from.sealWith(h, []byte(`{}`), from.signer), 0)); err != nil {
			t.Fatal(err)
		}
		s.ping(c)
	}
	// Two of three sensors disagree with the broker. Its own voice would make that
	// two of four, which is no doubt.
	s.counted("envelope_"+envelope.Future.String(), 1)
	s.counted("messages_unjudged", 1)
}
