package e2e

import (
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

// captured is the site's broker in an attacker's hands: its certificate, its
// address and none of its rules. It tells any client anything, so that only
// the receivers' own checks are left.
type captured struct {
	mu        sync.Mutex
	links     map[string]*rawmqtt.Client // by client identifier, once subscribed
	published []rawmqtt.Message
}

func (b *bank) capture(t *testing.T) *captured {
	t.Helper()
	l, err := tls.Listen("tcp", b.broker, &tls.Config{
		Certificates: []tls.Certificate{b.steal(t, pki.RoleBroker, "broker-1").cert},
		ClientAuth:   tls.RequireAnyClientCert,
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &captured{links: make(map[string]*rawmqtt.Client)}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { c.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.mu.Lock()
		for _, link := range c.links {
			link.Close()
		}
		c.mu.Unlock()
		serving.Wait()
	})
	return c
}

// serve answers one client as a broker would, and does nothing for it.
func (c *captured) serve(conn net.Conn) {
	link := rawmqtt.New(conn)
	defer link.Close()
	connect, err := link.Expect(rawmqtt.TypeConnect)
	if err != nil || len(connect.Body) < 12 {
		return
	}
	name := string(connect.Body[12:][:binary.BigEndian.Uint16(connect.Body[10:])]) // there is nothing behind it
	answer := rawmqtt.Raw(rawmqtt.TypeConnack, 0, []byte{0, rawmqtt.Accepted})
	for {
		if err := link.Send(answer); err != nil {
			return
		}
		packet, err := link.Read()
		if err != nil {
			return
		}
		answer = nil
		switch packet.Type {
		case rawmqtt.TypeSubscribe:
			answer = rawmqtt.Raw(rawmqtt.TypeSuback, 0, append(slices.Clone(packet.Body[:2]), 0))
			c.mu.Lock()
			c.links[name] = link
			c.mu.Unlock()
		case rawmqtt.TypePublish:
			m, err := packet.Message()
			if err != nil {
				return
			}
			c.mu.Lock()
			c.published = append(c.published, m)
			c.mu.Unlock()
			answer = rawmqtt.Ack(rawmqtt.TypePuback, m.ID)
		case rawmqtt.TypePingreq:
			answer = rawmqtt.Raw(rawmqtt.TypePingresp, 0, nil)
		}
	}
}

// awaitClient waits until a client has connected and subscribed.
func (c *captured) awaitClient(t *testing.T, id pki.Identity) {
	t.Helper()
	await(t, 30*time.Second, id.Sender()+" connects", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.links[id.ClientID()] != nil
	})
}

// forget makes awaitClient wait for the client's next connection.
func (c *captured) forget(id pki.Identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.links, id.ClientID())
}

// tell delivers a message to one client.
func (c *captured) tell(t *testing.T, to pki.Identity, topic string, raw []byte) {
	t.Helper()
	c.mu.Lock()
	link := c.links[to.ClientID()]
	c.mu.Unlock()
	if err := link.Send(rawmqtt.Publish(rawmqtt.Message{Topic: topic, Payload: raw})); err != nil {
		t.Fatal(err)
	}
}

// said returns what clients have published on topics of a kind.
func (c *captured) said(k wire.Kind) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, m := range c.published {
		if topic, err := wire.ParseTopic(m.Topic); err == nil && topic.Kind == k {
			n++
		}
	}
	return n
}

// lie is a message for a receiver that is perfect but for one thing.
type lie struct {
	name   string
	topic  string
	raw    []byte
	reason string
}

// refuses delivers each lie to a receiver and waits until its log says why it
// was refused.
func (c *captured) refuses(t *testing.T, p *process, to pki.Identity, lies []lie) {
	t.Helper()
	for _, l := range lies {
		if !t.Run(l.name, func(t *testing.T) {
			before := p.mark()
			want := entry{"msg": "message refused", "reason": l.reason, "topic": l.topic}
			for range 8 { // a line for each reason once a second at most
				c.tell(t, to, l.topic, l.raw)
				for deadline := time.Now().Add(1100 * time.Millisecond); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
					for _, line := range p.logged(before, want) {
						if count, ok := line["count"].(float64); !ok || count < 1 {
							t.Errorf("without a count: %v", line)
						}
						return
					}
				}
			}
			t.Errorf("%s logs no refusal for %q", p.Name, l.reason)
		}) {
			return
		}
	}
}

// flip changes one byte behind the last place where after stands, to another of
// the same kind.
func flip(t *testing.T, raw []byte, after string) []byte {
	t.Helper()
	i := strings.LastIndex(string(raw), after)
	if i < 0 {
		t.Fatalf("no %q in %s", after, raw)
	}
	changed := slices.Clone(raw)
	at := &changed[i+len(after)]
	switch {
	case *at >= '1' && *at < '9', *at >= 'a' && *at < 'z', *at >= 'A' && *at < 'Z':
		*at++
	default:
		*at = '1'
	}
	return changed
}

// older makes a message, and its sender's start, 31 s old.
func older(h *envelope.Header) {
	h.Time -= 31_000
	h.Nonce.Boot -= 31_000
}

// limited reports whether the balancer refuses some of many requests.
func (b *bank) limited() bool {
	for range 15 { // more than the command's burst
		if get(b.balancer).code == http.StatusTooManyRequests {
			return true
		}
	}
	return false
}

// What a controller refuses by itself. Its broker is captured, so nobody has
// checked anything before it.
func TestCapturedBrokerController(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	c := b.capture(t)
	id := b.ids[pki.RoleController]
	controller := b.daemon(t, pki.RoleController)
	monitor, sensor := b.steal(t, pki.RoleMonitor, "mon-1"), b.steal(t, pki.RoleSensor, "web-1")
	unpinned := b.mint(t, monitor.id, time.Hour)
	c.awaitClient(t, id)
	await(t, 30*time.Second, "the balancer answers", func() bool { return get(b.balancer).code == http.StatusOK })

	topic := monitor.topic(wire.KindCommand)
	// command is a perfect command but for what edit does to its header.
	command := func(edit func(h *envelope.Header)) []byte {
		h := monitor.header(topic)
		edit(&h)
		return monitor.sign(t, h, monitor.limit())
	}
	perfect := func() []byte { return command(func(*envelope.Header) {}) }
	other := wire.Topic{Kind: wire.KindCommand, Site: "melb", Role: "monitor", Name: "mon-2"}.String()
	own := wire.Topic{Kind: wire.KindCommand, Site: "melb", Role: "sensor", Name: "web-1"}.String()
	c.refuses(t, controller, id, []lie{
		{"one byte changed", topic, flip(t, perfect(), `"ttl_seconds":`), "mac"},
		{"sealed with another's key", topic, seal(t, monitor.header(topic), monitor.limit(), sensor.key, monitor.signer), "mac"},
		{"one byte changed and sealed again by who checks MACs", topic, monitor.reseal(t, flip(t, perfect(), `"ttl_seconds":`)), "signature"},
		{"unsigned", topic, monitor.seal(t, monitor.header(topic), monitor.limit()), "unsigned"},
		{"signed by a sensor", topic, seal(t, monitor.header(topic), monitor.limit(), monitor.key, sensor.signer), "sender"},
		{"signed with a certificate that only the issuer made", topic, seal(t, monitor.header(topic), monitor.limit(), monitor.key, unpinned.signer), "pin"},
		{"another topic inside", topic, command(func(h *envelope.Header) { h.Topic = other }), "topic"},
		{"on another monitor's topic", other, command(func(h *envelope.Header) { h.Topic = other }), "sender"},
		{"on another site's topic", "perth" + strings.TrimPrefix(topic, "melb"), perfect(), "topic"},
		{"a sensor's own command", own, sensor.sign(t, sensor.header(own), monitor.limit()), "sender"},
		{"31 s old", topic, command(older), "stale"},
		{"from the future", topic, command(func(h *envelope.Header) { h.Time += 60_000 }), "future"},
		{"a start in the future", topic, command(func(h *envelope.Header) { h.Nonce.Boot += 60_000 }), "future"},
	})
	if n := c.said(wire.KindRateLimiting); n != 0 || b.limited() {
		t.Fatalf("a lie was acted on: %d statuses", n)
	}

	// The one thing that was wrong each time is all that was wrong.
	h := monitor.header(topic)
	truth := monitor.sign(t, h, monitor.limit())
	c.tell(t, id, topic, truth)
	await(t, 10*time.Second, "the true command is acted on", func() bool { return b.limited() && c.said(wire.KindRateLimiting) == 1 })

	// From here on the truth is a replay.
	c.refuses(t, controller, id, []lie{
		{"the same again", topic, truth, "redelivered"},
		{"another message under its nonce", topic, monitor.sign(t, h, monitor.limit()), "nonce_collision"},
		{"of an earlier start that still runs", topic, command(func(h *envelope.Header) { h.Nonce.Boot-- }), "cloned"},
	})
	c.forget(id)
	controller.Kill(t)
	controller = b.daemon(t, pki.RoleController)
	c.awaitClient(t, id)
	await(t, 10*time.Second, "the journal brings the limit back", b.limited)
	c.refuses(t, controller, id, []lie{
		{"the same again, after a crash", topic, truth, "redelivered"},
		{"another message under its nonce, after a crash", topic, monitor.sign(t, h, monitor.limit()), "nonce_collision"},
	})
	if n := c.said(wire.KindRateLimiting); n != 1 {
		t.Errorf("one command has %d statuses", n)
	}
}

// What a monitor refuses by itself.
func TestCapturedBrokerMonitor(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	c := b.capture(t)
	id := b.ids[pki.RoleMonitor]
	monitor := b.daemon(t, pki.RoleMonitor)
	sensor, operator, controller := b.steal(t, pki.RoleSensor, "web-1"), b.steal(t, pki.RoleOperator, "alice"), b.steal(t, pki.RoleController, "lb-1")
	c.awaitClient(t, id)

	topic := sensor.topic(wire.KindNetwork)
	flood := func() *wire.Network {
		return &wire.Network{Timestamp: unixSeconds(time.Now()), Server: "web-1", Interval: 5, ActiveTCPConnections: 5000, SYNPacketCount: 5000, SYNMethod: wire.SYNPacket}
	}
	reading := func(edit func(h *envelope.Header)) []byte {
		h := sensor.header(topic)
		edit(&h)
		return sensor.seal(t, h, flood())
	}
	other := wire.Topic{Kind: wire.KindNetwork, Site: "melb", Role: "sensor", Name: "web-2"}.String()
	calm := sensor.seal(t, sensor.header(topic), &wire.Network{Timestamp: unixSeconds(time.Now()), Server: "web-1", Interval: 5, ActiveTCPConnections: 5, SYNPacketCount: 7, SYNMethod: wire.SYNPacket})
	c.refuses(t, monitor, id, []lie{
		{"one byte changed", topic, flip(t, calm, `"active_tcp_connections":`), "mac"},
		{"sealed with another's key", topic, seal(t, sensor.header(topic), flood(), controller.key, nil), "mac"},
		{"a person's signature in place of a sensor's", topic, seal(t, sensor.header(topic), flood(), sensor.key, operator.signer), "sender"},
		{"another topic inside", topic, reading(func(h *envelope.Header) { h.Topic = other }), "topic"},
		{"on another sensor's topic", other, reading(func(h *envelope.Header) { h.Topic = other }), "sender"},
		{"31 s old", topic, reading(older), "stale"},
		{"from the future", topic, reading(func(h *envelope.Header) { h.Time += 60_000 }), "future"},
	})
	if n := c.said(wire.KindAlert); n != 0 {
		t.Fatalf("a lie was believed: %d alerts", n)
	}

	h := sensor.header(topic)
	truth := sensor.seal(t, h, flood())
	c.tell(t, id, topic, truth)
	const raised = 2 // SYNs and connections
	await(t, 10*time.Second, "the true reading is believed", func() bool { return c.said(wire.KindAlert) == raised })

	// A crash forgets the incident, so a second look at the same reading would
	// raise it again.
	c.forget(id)
	monitor.Kill(t)
	monitor = b.daemon(t, pki.RoleMonitor)
	c.awaitClient(t, id)
	c.refuses(t, monitor, id, []lie{
		{"the same again, after a crash", topic, truth, "redelivered"},
		{"another message under its nonce, after a crash", topic, sensor.seal(t, h, flood()), "nonce_collision"},
	})
	if n := c.said(wire.KindAlert); n != raised {
		t.Errorf("one reading has raised %d alerts", n)
	}
}
