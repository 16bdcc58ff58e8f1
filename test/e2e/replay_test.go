package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/feed"
	"levee/internal/provision"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

// taken is a message from the wire, in the hands of who has also taken its
// sender's certificate.
type taken struct {
	rawmqtt.Message
	client *rawmqtt.Client
	ts     time.Time
	nonce  envelope.Nonce
	raised uint64 // how far seq has been raised in forgeries
}

func take(t *testing.T, m rawmqtt.Message) *taken {
	t.Helper()
	e, err := envelope.Parse(m.Payload, envelope.MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	return &taken{Message: m, ts: time.UnixMilli(e.Time), nonce: e.Nonce}
}

// renumbered returns the message with a number that no window has seen.
func (m *taken) renumbered() []byte {
	m.raised += 100
	old := fmt.Sprintf(`"nonce":"%s-%d"`, envelope.FormatBoot(m.nonce.Boot), m.nonce.Seq)
	return []byte(strings.Replace(string(m.Payload), old, fmt.Sprintf(`"nonce":"%s-%d"`, envelope.FormatBoot(m.nonce.Boot), m.nonce.Seq+m.raised), 1))
}

// replay publishes bytes with the sender's certificate; the broker must refuse
// them for a reason and the operator must not see them.
func (a *arena) replay(t *testing.T, m *taken, topic string, raw []byte, reason string) {
	t.Helper()
	a.refused(t, reason, func(t *testing.T) entry {
		before := a.tap.saw(raw)
		publish(t, m.client, topic, raw)
		a.fence.pass(t, a.tap)
		if after := a.tap.saw(raw); after != before {
			t.Errorf("the broker passes on a replay on %s", topic)
		}
		want := remote(m.client)
		want["topic"] = topic
		return want
	})
}

// forge publishes what the broker, which holds no key, has no reason to refuse,
// until each receiver has logged why it does.
func (a *arena) forge(t *testing.T, m *taken, reason string, forgery func() []byte, receivers ...*process) {
	t.Helper()
	marks := make([]mark, len(receivers))
	for i, p := range receivers {
		marks[i] = p.mark()
	}
	refused := func() bool {
		for i, p := range receivers {
			if len(p.logged(marks[i], entry{"msg": "message refused", "reason": reason, "topic": m.Topic})) == 0 {
				return false
			}
		}
		return true
	}
	for range 8 { // a line for each reason once a second at most
		raw := forgery()
		publish(t, m.client, m.Topic, raw)
		a.fence.pass(t, a.tap)
		if a.tap.saw(raw) != 1 {
			t.Fatalf("the broker has not passed on a forgery on %s: what refuses it?", m.Topic)
		}
		for deadline := time.Now().Add(1100 * time.Millisecond); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if refused() {
				return
			}
		}
	}
	t.Errorf("not every receiver refuses a forgery on %s with reason %q", m.Topic, reason)
}

// A reading, an alert and a command are captured from the wire and published
// again with their senders' own certificates. Nobody acts on any of them.
func TestReplay(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t, func(inv *provision.Inventory) {
		inv.Sites[0].Sensors = append(inv.Sites[0].Sensors, provision.Sensor{Name: "web-2"}, provision.Sensor{Name: "web-3"})
	})
	// Any reading with a connection in it is an incident.
	b.configure(t, pki.RoleMonitor, "active_tcp_connections: 400", "active_tcp_connections: 0.5")
	a := &arena{bank: b, process: b.daemon(t, pki.RoleBroker)}
	a.process.awaitLog(t, 0, entry{"msg": "broker listens"})
	a.tap, a.fence = b.tap(t), b.fence(t, "web-3")
	seen := b.watchAs(t, pki.RoleOperator)
	recorder, monitor := b.daemon(t, pki.RoleRecorder), b.daemon(t, pki.RoleMonitor)
	for _, p := range []*process{recorder, monitor} {
		p.awaitLog(t, 0, entry{"msg": "connected"})
	}
	a.shown(t, seen)
	sensor := b.daemon(t, pki.RoleSensor)

	// No controller runs yet: one that has never seen the command has nothing
	// but the broker, its keys and its clock to refuse it by.
	alert := take(t, a.tap.await(t, wire.KindAlert, func(p []byte) bool {
		var alert wire.Alert
		return json.Unmarshal(p, &alert) == nil && alert.Alert == wire.AlertConnections
	}))
	command := take(t, a.tap.await(t, wire.KindCommand, func(p []byte) bool {
		var command wire.Command
		return json.Unmarshal(p, &command) == nil && command.Command == wire.EnableRateLimiting
	}))
	killed := a.process.mark()
	sensor.Kill(t)
	monitor.Kill(t)
	for _, id := range []string{"melb/sensor/web-1", "melb/monitor/mon-1"} { // their last words have been read
		a.process.awaitLog(t, killed, entry{"msg": "connection closed", "identity": id})
	}
	reading := take(t, a.tap.await(t, wire.KindNetwork, func([]byte) bool { return true }))
	a.shown(t, seen)
	said := map[wire.Kind]int{}
	for _, k := range []wire.Kind{wire.KindAlert, wire.KindCommand, wire.KindRateLimiting, wire.KindScaling} {
		said[k] = seen.verified(k)
	}
	if said[wire.KindAlert] == 0 || said[wire.KindCommand] == 0 || said[wire.KindRateLimiting] != 0 {
		t.Fatalf("what was said before the attack: %v", said)
	}
	// nothing checks that nobody has acted on anything since.
	nothing := func(t *testing.T) {
		t.Helper()
		a.shown(t, seen)
		for k, n := range said {
			if now := seen.verified(k); now != n {
				t.Errorf("%d messages of kind %s, %d before", now, k, n)
			}
		}
		if b.limited() {
			t.Error("the balancer is limited")
		}
	}
	startController := func() *process {
		p := b.daemon(t, pki.RoleController)
		p.awaitLog(t, 0, entry{"msg": "connected"})
		await(t, 30*time.Second, "the balancer answers", func() bool { return get(b.balancer).code == http.StatusOK })
		return p
	}
	controller := startController()
	thief, sensorThief := b.steal(t, pki.RoleMonitor, "mon-1"), b.steal(t, pki.RoleSensor, "web-1")
	reconnect := func() {
		reading.client = b.connect(t, sensorThief)
		alert.client = b.connect(t, thief)
		command.client = alert.client
	}
	reconnect()

	t.Run("at once", func(t *testing.T) {
		a.replay(t, command, command.Topic, command.Payload, "redelivered")
		a.replay(t, alert, alert.Topic, alert.Payload, "redelivered")
		a.replay(t, reading, reading.Topic, reading.Payload, "redelivered")
		nothing(t)
	})
	t.Run("one byte changed under the same nonce", func(t *testing.T) {
		a.replay(t, command, command.Topic, flip(t, command.Payload, `"ttl_seconds":`), "redelivered") // its MAC is the one that was seen
		a.replay(t, command, command.Topic, flip(t, command.Payload, `"mac":"`), "nonce_collision")
		a.replay(t, reading, reading.Topic, flip(t, reading.Payload, `"mac":"`), "nonce_collision")
		nothing(t)
	})
	t.Run("on another topic of the sender", func(t *testing.T) {
		a.replay(t, reading, sensorThief.topic(wire.KindCPU), reading.Payload, "topic")
		a.replay(t, command, alert.Topic, command.Payload, "topic")
		a.replay(t, alert, command.Topic, alert.Payload, "topic")
		nothing(t)
	})

	// Everything that remembers dies, and the attacker is faster than the skew.
	a.process.Kill(t)
	controller.Kill(t)
	a.process = b.daemon(t, pki.RoleBroker)
	a.process.awaitLog(t, 0, entry{"msg": "broker listens"})
	a.tap, a.fence = b.tap(t), b.fence(t, "web-3")
	controller = startController()
	reconnect()
	t.Run("after crashes of broker and controller", func(t *testing.T) {
		a.replay(t, command, command.Topic, command.Payload, "redelivered")
		nothing(t)
	})
	t.Run("one byte changed under a new nonce", func(t *testing.T) {
		a.forge(t, command, "mac", func() []byte { return flip(t, command.renumbered(), `"ttl_seconds":`) }, controller, recorder)
		a.forge(t, alert, "mac", func() []byte { return flip(t, alert.renumbered(), `"value":`) }, recorder)
		nothing(t)
	})
	t.Run("under a new nonce, sealed again by who checks MACs", func(t *testing.T) {
		a.forge(t, command, "signature", func() []byte { return thief.reseal(t, command.renumbered()) }, controller, recorder)
		a.forge(t, alert, "signature", func() []byte { return thief.reseal(t, alert.renumbered()) }, recorder)
		nothing(t)
		if len(seen.matching(func(l feed.Line) bool { return l.Verification == feed.Refused && l.Reason == "signature" })) == 0 {
			t.Error("the operator, who holds no keys, is not told of a bad signature")
		}
	})
	alert.client.Close() // the monitor needs its identifier for itself
	monitor = b.daemon(t, pki.RoleMonitor)
	monitor.awaitLog(t, 0, entry{"msg": "connected"})
	t.Run("after a crash of the monitor", func(t *testing.T) {
		a.replay(t, reading, reading.Topic, reading.Payload, "redelivered")
		a.forge(t, reading, "mac", func() []byte { return flip(t, reading.renumbered(), `"active_tcp_connections":`) }, monitor, recorder)
		nothing(t)
	})
	if age := time.Since(command.ts); age > 30*time.Second {
		t.Logf("this machine is slow: the last of these replays was %s old", age)
	}
	monitor.Stop(t)

	time.Sleep(time.Until(reading.ts.Add(31 * time.Second)))
	reconnect()
	// While most of three or more senders are late the broker would suspect its
	// own clock and leave freshness to the receivers, so two honest ones speak.
	b.fence(t, "web-2").pass(t, a.tap)
	t.Run("after 31 s", func(t *testing.T) {
		a.replay(t, command, command.Topic, command.Payload, "stale")
		a.replay(t, alert, alert.Topic, alert.Payload, "stale")
		a.replay(t, reading, reading.Topic, reading.Payload, "stale")
		nothing(t)
	})
}

// verified returns how many messages of a kind `levee watch` has shown as
// verified.
func (l *lines) verified(k wire.Kind) int {
	return len(l.matching(func(line feed.Line) bool { return line.Kind == k.String() && line.Verification == feed.Verified }))
}

// shown waits until `levee watch` shows a message that was published now, and
// with it everything that was published before.
func (a *arena) shown(t *testing.T, seen *lines) {
	t.Helper()
	await(t, 30*time.Second, "levee watch shows an honest reading", func() bool {
		a.fence.pass(t, a.tap)
		p := a.fence.party
		boot, seq := envelope.FormatBoot(p.boot), p.seq
		for deadline := time.Now().Add(300 * time.Millisecond); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if len(seen.matching(func(l feed.Line) bool { return l.Sender == p.id.Sender() && l.Boot == boot && l.Seq == seq })) > 0 {
				return true
			}
		}
		return false // it is still connecting
	})
}
