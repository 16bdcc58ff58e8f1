package broker

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/pki"
	"levee/test/rawmqtt"
)

// P1: a message that is refused is never delivered, at QoS 0 and at QoS 1,
// though mochi acknowledges it; and its reason is counted.
func TestP1RefusedMessages(t *testing.T) {
	const (
		alertTopic   = "melb/bank_server/alerts/monitor-1"
		commandTopic = "melb/bank_server/control/command/monitor/monitor-1"
		ramTopic     = "melb/bank_server/metrics/ram/web-1"
	)
	at := func(d time.Duration) func(*sender) []byte {
		return func(s *sender) []byte {
			h := s.header(cpuTopic)
			h.Time += d.Milliseconds()
			return s.seal(h)
		}
	}
	edited := func(old, new string) func(*sender) []byte {
		return func(s *sender) []byte {
			raw := s.reading(cpuTopic)
			if !bytes.Contains(raw, []byte(old)) {
				panic("nothing to edit")
			}
			return bytes.Replace(raw, []byte(old), []byte(new), 1)
		}
	}
	asKID := func(change func(*envelope.KeyID)) func(*sender) []byte {
		return func(s *sender) []byte {
			h := s.header(cpuTopic)
			change(&h.KeyID)
			return s.seal(h)
		}
	}
	unsigned := func(topic string) func(*sender) []byte {
		return func(s *sender) []byte { return s.reading(topic) }
	}
	tests := []struct {
		name  string
		id    pki.Identity
		topic string
		make  func(*sender) []byte
		want  envelope.Reason
	}{
		{"no envelope", web1, cpuTopic, func(*sender) []byte { return []byte(`{"cpu_usage":12.5}`) }, envelope.BadSize},
		{"nothing", web1, cpuTopic, func(*sender) []byte { return nil }, envelope.BadSize},
		{"text", web1, cpuTopic, func(*sender) []byte { return bytes.Repeat([]byte("hello "), 50) }, envelope.BadKeyID},
		{"another version", web1, cpuTopic, edited(`"v":1`, `"v":2`), envelope.BadKeyID},
		{"a space", web1, cpuTopic, edited(`,"ts"`, `, "ts"`), envelope.BadGrammar},
		{"a member twice", web1, cpuTopic, edited(`"cpu_usage":12.5`, `"cpu_usage":1,"cpu_usage":2`), envelope.BadPayload},
		{"a payload that is no object", web1, cpuTopic, edited(`{"cpu_usage":12.5}`, `[12.5]`), envelope.BadPayload},
		{"cut short", web1, cpuTopic, func(s *sender) []byte { r := s.reading(cpuTopic); return r[:len(r)-1] }, envelope.BadGrammar},
		{"a byte more", web1, cpuTopic, func(s *sender) []byte { return append(s.reading(cpuTopic), '\n') }, envelope.BadGrammar},
		{"over the size of its class", web1, cpuTopic, func(s *sender) []byte {
			return s.sealWith(s.header(cpuTopic), fmt.Appendf(nil, `{"cpu_usage":"%s"}`, strings.Repeat("x", 4096)), nil)
		}, envelope.BadSize},
		{"another's name", web1, cpuTopic, asKID(func(k *envelope.KeyID) { k.Name = "web-2" }), envelope.BadSender},
		{"another role", web1, cpuTopic, asKID(func(k *envelope.KeyID) { k.Role = "monitor" }), envelope.BadSender},
		{"another site", web1, cpuTopic, asKID(func(k *envelope.KeyID) { k.Site = "perth" }), envelope.BadSender},
		{"sealed for another topic", web1, cpuTopic, unsigned(ramTopic), envelope.BadTopic},
		{"sealed for another's topic", web1, cpuTopic, unsigned("melb/bank_server/metrics/cpu/web-2"), envelope.BadTopic},
		{"31 s old", web1, cpuTopic, at(-31 * time.Second), envelope.Stale},
		{"a day old", web1, cpuTopic, at(-24 * time.Hour), envelope.Stale},
		{"31 s ahead", web1, cpuTopic, at(31 * time.Second), envelope.Future},
		{"a start in the future", web1, cpuTopic, func(s *sender) []byte {
			h := s.header(cpuTopic)
			h.Nonce.Boot += 31_000
			return s.seal(h)
		}, envelope.Future},
		{"an unsigned alert", monitor, alertTopic, unsigned(alertTopic), envelope.Unsigned},
		{"an unsigned command", monitor, commandTopic, unsigned(commandTopic), envelope.Unsigned},
		{"an unsigned digest", web1, "melb/bank_server/digests/sensor/web-1", unsigned("melb/bank_server/digests/sensor/web-1"), envelope.Unsigned},
	}
	s := open(t, rules(t, bounded("strikes: 1000")))
	reader := s.connect(identity("melb", pki.RoleRecorder, "recorder-1"))
	for _, filter := range []string{cpuFilter, "melb/bank_server/alerts/+", "melb/bank_server/control/command/+/+", "melb/bank_server/digests/+/+"} {
		s.subscribe(reader, 1, filter)
	}
	writers, senders := map[pki.Identity]*rawmqtt.Client{}, map[pki.Identity]*sender{}
	for _, id := range []pki.Identity{web1, monitor} {
		writers[id], senders[id] = s.connect(id), s.sender(id)
	}
	counts := map[envelope.Reason]uint64{}
	for _, test := range tests {
		for _, id := range []uint16{0, 9} {
			t.Run(fmt.Sprintf("%s/QoS %d", test.name, min(id, 1)), func(t *testing.T) {
				s.t = t
				c := writers[test.id]
				if err := c.Send(pub(test.topic, test.make(senders[test.id]), id)); err != nil {
					t.Fatal(err)
				}
				if id != 0 {
					if _, err := c.Expect(rawmqtt.TypePuback); err != nil {
						t.Error(err)
					}
				}
				s.ping(c)
				counts[test.want]++
				s.counted("envelope_"+test.want.String(), counts[test.want])
				s.silent(reader)
			})
		}
	}
	s.t = t
	s.counted("messages_accepted", 0)
	// None of that spoilt what follows.
	want := senders[web1].reading(cpuTopic)
	if err := writers[web1].Send(pub(cpuTopic, want, 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); !bytes.Equal(got.Payload, want) {
		t.Errorf("got %s", got.Payload)
	}
}

// What lies within the skew passes.
func TestFreshness(t *testing.T) {
	s := open(t)
	reader, writer, from := s.connect(monitor), s.connect(web1), s.sender(web1)
	s.subscribe(reader, 0, cpuFilter)
	for _, offset := range []time.Duration{0, -28 * time.Second, 28 * time.Second} {
		h := from.header(cpuTopic)
		h.Time += offset.Milliseconds()
		want := from.seal(h)
		if err := writer.Send(pub(cpuTopic, want, 0)); err != nil {
			t.Fatal(err)
		}
		if got := s.message(reader); !bytes.Equal(got.Payload, want) {
			t.Errorf("offset %v: got %s", offset, got.Payload)
		}
	}
}

func TestReplay(t *testing.T) {
	s := open(t, rules(t, bounded("strikes: 1000")))
	reader, writer, from := s.connect(monitor), s.connect(web1), s.sender(web1)
	s.subscribe(reader, 0, cpuFilter)
	publish := func(c *rawmqtt.Client, raw []byte) {
		t.Helper()
		if err := c.Send(pub(cpuTopic, raw, 0)); err != nil {
			t.Fatal(err)
		}
		s.ping(c)
	}
	delivered := func(raw []byte) {
		t.Helper()
		publish(writer, raw)
		if got := s.message(reader); !bytes.Equal(got.Payload, raw) {
			t.Fatalf("got %s, want %s", got.Payload, raw)
		}
	}
	first := from.header(cpuTopic)
	captured := from.seal(first)
	delivered(captured)

	publish(writer, captured)
	s.silent(reader)
	s.counted("envelope_redelivered", 1)

	collision := first // the same nonce over other bytes
	collision.Time++
	publish(writer, from.seal(collision))
	s.silent(reader)
	s.counted("envelope_nonce_collision", 1)

	for range 100 {
		from.seq++
	}
	delivered(from.reading(cpuTopic))
	publish(writer, captured) // its tag is forgotten, it is not
	s.silent(reader)
	s.counted("envelope_replayed", 1)

	// A new connection begins no new window.
	writer = s.connect(web1)
	publish(writer, captured)
	s.silent(reader)
	s.counted("envelope_replayed", 2)

	old := from.boot // a restart, and then the process before it once more
	from.boot, from.seq = old+1000, 0
	delivered(from.reading(cpuTopic))
	from.boot, from.seq = old, 500
	h := from.header(cpuTopic)
	h.Time += 2000
	publish(writer, from.seal(h))
	s.silent(reader)
	s.counted("envelope_cloned", 1)
	if log := s.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "reason=cloned") {
		t.Error("a clone is no error in the log")
	}

	// Another certificate cannot use it, not even under its own topic.
	thief := s.connect(web2)
	if err := thief.Send(pub("melb/bank_server/metrics/cpu/web-2", captured, 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(thief)
	s.silent(reader)
	s.counted("envelope_topic", 1)
}

// Every verdict of the windows but Fresh refuses, one that is not known yet
// included.
func TestVerdicts(t *testing.T) {
	s := open(t, rules(t, bounded("strikes: 1000")))
	reader, writer, from := s.connect(monitor), s.connect(web1), s.sender(web1)
	s.subscribe(reader, 0, cpuFilter)
	for v := range replay.Verdict(20) {
		s.windows.answer(func(replay.Message) replay.Verdict { return v })
		raw := from.reading(cpuTopic)
		if err := writer.Send(pub(cpuTopic, raw, 0)); err != nil {
			t.Fatal(err)
		}
		s.ping(writer)
		if v == replay.Fresh {
			if got := s.message(reader); !bytes.Equal(got.Payload, raw) {
				t.Errorf("fresh: got %s", got.Payload)
			}
		}
		s.silent(reader)
	}
	s.counted("messages_accepted", 1)
	s.counted("envelope_windows_failed", 1)
	s.counted("envelope_before_start", 1)
	s.counted("envelope_windows_full", 1)
}

func TestWindowsAreAskedForTheSender(t *testing.T) {
	s := open(t)
	writer, from := s.connect(web1), s.sender(web1)
	asked := make(chan replay.Message, 1)
	s.windows.answer(func(m replay.Message) replay.Verdict {
		m.Sender = bytes.Clone(m.Sender)
		asked <- m
		return replay.Fresh
	})
	h := from.header(cpuTopic)
	raw := from.seal(h)
	if err := writer.Send(pub(cpuTopic, raw, 0)); err != nil {
		t.Fatal(err)
	}
	got := <-asked
	if string(got.Sender) != "melb/sensor/web-1" || got.Boot != h.Nonce.Boot || got.Seq != h.Nonce.Seq || got.Time != h.Time ||
		!bytes.Contains(raw, append([]byte(`,"mac":"`), got.Tag[:]...)) {
		t.Errorf("asked for %+v", got)
	}
}

func TestStrikesEndTheSession(t *testing.T) {
	s := open(t, rules(t, bounded("strikes: 5")))
	c := s.connect(web1)
	for range 4 {
		if err := c.Send(pub(cpuTopic, []byte("nonsense"), 0)); err != nil {
			t.Fatal(err)
		}
	}
	s.ping(c)
	if err := c.Send(pub(cpuTopic, []byte("nonsense"), 0)); err != nil {
		t.Fatal(err)
	}
	s.closed(c)
	s.counted("refused_misbehaved", 1)
	// A new connection does not begin at zero.
	c = s.connect(web1)
	if err := c.Send(pub(cpuTopic, []byte("nonsense"), 0)); err != nil {
		t.Fatal(err)
	}
	s.closed(c)
	s.counted("refused_misbehaved", 2)
	s.ping(s.connect(web2))
}

// A wrong clock and the network's redeliveries are no offence.
func TestHonestFaultsAreNoStrikes(t *testing.T) {
	s := open(t, rules(t, bounded("strikes: 2")))
	c, from := s.connect(web1), s.sender(web1)
	raw := from.reading(cpuTopic)
	for range 5 {
		h := from.header(cpuTopic)
		h.Time -= time.Minute.Milliseconds()
		if err := c.Send(pub(cpuTopic, from.seal(h), 0), pub(cpuTopic, raw, 0)); err != nil {
			t.Fatal(err)
		}
	}
	s.ping(c)
	s.counted("envelope_stale", 5)
	s.counted("envelope_redelivered", 4)
}

// Architecture, section 5: a broker whose own clock is wrong must not silence
// a site.
func TestWrongClockSilencesNobody(t *testing.T) {
	s := open(t)
	reader := s.connect(monitor)
	s.subscribe(reader, 0, cpuFilter)
	behind := func(id pki.Identity) (*rawmqtt.Client, string, []byte) {
		from, topic := s.sender(id), "melb/bank_server/metrics/cpu/"+id.Name
		from.boot -= 3_600_000
		h := from.header(topic)
		h.Time -= 600_000
		return s.connect(id), topic, from.seal(h)
	}
	for i := range 2 { // two are not enough to doubt
		c, topic, raw := behind(identity("melb", pki.RoleSensor, fmt.Sprintf("web-%d", i)))
		if err := c.Send(pub(topic, raw, 0)); err != nil {
			t.Fatal(err)
		}
		s.ping(c)
		s.silent(reader)
	}
	s.counted("envelope_stale", 2)
	c, topic, raw := behind(identity("melb", pki.RoleSensor, "web-3"))
	if err := c.Send(pub(topic, raw, 0), pub(topic, raw, 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); !bytes.Equal(got.Payload, raw) {
		t.Errorf("got %s", got.Payload)
	}
	s.ping(c)
	s.silent(reader) // a replay stays a replay
	s.counted("messages_unjudged", 1)
	s.counted("envelope_redelivered", 1)
	if !strings.Contains(s.log.String(), "disagree with this broker's clock") {
		t.Error("no alarm")
	}
	// The windows' own refusal after a reboot rests on the same clock.
	s.windows.answer(func(replay.Message) replay.Verdict { return replay.BeforeStart })
	c, topic, raw = behind(identity("melb", pki.RoleSensor, "web-4"))
	if err := c.Send(pub(topic, raw, 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); !bytes.Equal(got.Payload, raw) {
		t.Errorf("got %s", got.Payload)
	}
}

// P1 and P11 once more, on the hook itself: whatever goes wrong, the answer is
// one of the few that mochi takes for a refusal.
func TestP1P11HookAnswers(t *testing.T) {
	s := open(t)
	c, from := s.connect(web1), s.sender(web1)
	s.ping(c)
	cl, ok := s.broker.server.Clients.Get(web1.ClientID())
	if !ok {
		t.Fatal("no session")
	}
	h := &hook{b: s.broker}
	good := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: cpuTopic, Payload: from.reading(cpuTopic)}
	if _, err := h.OnPublish(cl, good); err != nil {
		t.Errorf("a good message: %v", err)
	}
	bad := good
	bad.Payload = []byte("nonsense")
	if _, err := h.OnPublish(cl, bad); err != error(packets.CodeSuccessIgnore) {
		t.Errorf("a bad message: %v", err)
	}
	s.windows.answer(func(replay.Message) replay.Verdict { panic("windows") })
	good.Payload = from.reading(cpuTopic)
	if _, err := h.OnPublish(cl, good); err != error(packets.CodeSuccessIgnore) {
		t.Errorf("a panic: %v", err)
	}
	s.closed(c)
	s.counted("refused_panicked", 1)

	stranger := s.broker.server.NewClient(nil, "local", "inline", true)
	if _, err := h.OnPublish(stranger, good); err != error(packets.CodeSuccessIgnore) {
		t.Errorf("a message of no session: %v", err)
	}
	if _, err := h.OnPacketRead(stranger, good); !errors.Is(err, packets.ErrRejectPacket) {
		t.Errorf("a packet of no session: %v", err)
	}
	subscribe := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1, Filters: packets.Subscriptions{{Filter: "public/#"}}}
	if got := h.OnSubscribe(stranger, subscribe); len(got.Filters) != 1 || mqtt.IsValidFilter(got.Filters[0].Filter, false) {
		t.Errorf("a filter of no session: %+v", got.Filters)
	}
	if h.OnACLCheck(stranger, "public/a", true) || h.OnACLCheck(stranger, "public/a", false) ||
		h.OnConnectAuthenticate(stranger, packets.Packet{}) || h.OnConnect(stranger, packets.Packet{}) == nil {
		t.Error("a client of no session was let in")
	}
}

// A panic within any decision refuses. The session lacks what every decision
// needs, so each of them panics.
func TestP3PanicsRefuse(t *testing.T) {
	s := open(t)
	h := &hook{b: s.broker}
	broken := func() (*mqtt.Client, *session) {
		b := fakeSession("melb_sensor_web-1")
		b.identity = web1
		return s.broker.server.NewClient(b, entranceID, "melb_sensor_web-1", false), b
	}
	publish := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: cpuTopic}
	cl, b := broken()
	if _, err := h.OnPacketRead(cl, publish); !errors.Is(err, packets.ErrRejectPacket) || b.reason() != Panicked {
		t.Errorf("OnPacketRead: %v, %v", err, b.reason())
	}
	cl, _ = broken()
	if _, err := h.OnPublish(cl, publish); err != error(packets.CodeSuccessIgnore) {
		t.Errorf("OnPublish: %v", err)
	}
	cl, b = broken()
	connect := packets.Packet{Connect: packets.ConnectParams{ClientIdentifier: cl.ID}}
	if h.OnConnectAuthenticate(cl, connect) || b.reason() != Panicked {
		t.Errorf("OnConnectAuthenticate let it in, %v", b.reason())
	}
	cl, _ = broken()
	if h.OnACLCheck(cl, cpuTopic, true) || h.OnACLCheck(cl, cpuTopic, false) || h.OnACLCheck(cl, cpuFilter, false) {
		t.Error("OnACLCheck without rights")
	}
	cl, b = broken()
	cl.State.Subscriptions = nil
	got := h.OnSubscribe(cl, packets.Packet{Filters: packets.Subscriptions{{Filter: "public/#"}, {Filter: "public/a"}}})
	for _, f := range got.Filters {
		if mqtt.IsValidFilter(f.Filter, false) {
			t.Errorf("OnSubscribe granted %q", f.Filter)
		}
	}
	if b.reason() != Panicked {
		t.Errorf("OnSubscribe: %v", b.reason())
	}
}
