package broker

import (
	"fmt"
	"go/parser"
	"go/token"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"levee/pki"
	"levee/test/rawmqtt"
)

// P2: nobody's will is published, whoever it is for and however its client ends.
func TestP2WillsAreRefused(t *testing.T) {
	s := open(t)
	reader := s.connect(monitor)
	s.subscribe(reader, 0, "public/#")
	for i, topic := range []string{"public/a", cpuTopic, "$SYS/broker/version"} {
		c := s.dial(guest)
		if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: guest.ClientID(), KeepAlive: 30, WillTopic: topic, WillBody: "x", WillRetain: true}); err != nil || code != rawmqtt.NotAuthorized {
			t.Fatalf("%s: code %d, %v", topic, code, err)
		}
		s.closed(c)
		s.counted("refused_will", uint64(i+1))
	}
	s.silent(reader)
}

// P4, P5: their flow control and its lock are of MQTT 5, which nobody speaks here.
func TestP4P5Version5IsRefused(t *testing.T) {
	s := open(t)
	c := s.dial(guest)
	withReceiveMaximum := rawmqtt.Raw(rawmqtt.TypeConnect, 0, slices.Concat([]byte("\x00\x04MQTT\x05\x02\x00\x1e\x03\x21\xea\x60\x00\x0c"), []byte(guest.ClientID())))
	if err := c.Send(withReceiveMaximum); err != nil {
		t.Fatal(err)
	}
	if p, err := c.Expect(rawmqtt.TypeConnack); err == nil && p.Body[1] != rawmqtt.BadVersion {
		t.Errorf("answered %x", p.Body)
	}
	s.closed(c)
	if n := s.broker.counters.sessions.Load(); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// P7: lengths that never end, or that nobody needs, before a client is anybody.
func TestP7LengthsBeforeConnect(t *testing.T) {
	s := open(t)
	for i, head := range [][]byte{{0x10, 0xff, 0xff, 0xff, 0x7f}, slices.Concat([]byte{0x10}, slices.Repeat([]byte{0x80}, 4000))} {
		c := s.dial(guest)
		_ = c.Send(head)
		s.closed(c)
		s.counted("refused_packet", uint64(i+1))
	}
	s.ping(s.connect(guest))
}

// P13, P20, P21, P22: mochi's own hooks let in, persist and restore what was
// refused. None of them is part of this package.
func TestP13P20P21P22NoHookOfMochisOwn(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	found := false
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if strings.HasPrefix(path, "github.com/mochi-mqtt/server/v2/hooks") {
				t.Errorf("%s imports %s", file, path)
			}
			if path == "github.com/mochi-mqtt/server/v2" {
				found = true
			}
		}
	}
	if !found {
		t.Error("nothing of mochi was found")
	}
}

// P14: mochi's index takes time that grows with the square of the levels, for
// everybody. Nine levels never get there, nor do 32,000.
func TestP14TopicDepth(t *testing.T) {
	s := open(t)
	bystander := s.connect(monitor)
	before := s.broker.server.Info.Subscriptions
	for _, packet := range [][]byte{
		rawmqtt.Subscribe(1, 0, strings.Repeat("a/", 8)+"a"), rawmqtt.Subscribe(1, 0, strings.Repeat("+/", 32_000)),
		rawmqtt.Unsubscribe(1, strings.Repeat("a/", 8)+"a"), rawmqtt.Unsubscribe(1, strings.Repeat("+/", 32_000)),
		pub(strings.Repeat("a/", 8)+"a", nil, 0), pub(strings.Repeat("a/", 32_000), nil, 0),
	} {
		c := s.connect(guest)
		_ = c.Send(packet)
		s.closed(c)
		s.subscribe(bystander, 0, "public/#")
	}
	if after := s.broker.server.Info.Subscriptions - before; after != 2 { // the bystander's
		t.Errorf("%d subscriptions", after)
	}
}

// P15, P27: what begins with "$" is not for clients.
func TestP15P27DollarFilters(t *testing.T) {
	s := open(t)
	c := s.connect(monitor)
	filters := []string{"$SYS/#", "$SYS/broker/version", "$share/g/#", "$share/g/public/#", "$SHARE/g/public/#", "$queue/public/a"}
	codes, err := c.Subscribe(1, 0, filters...)
	if err != nil || !slices.Equal(codes, slices.Repeat([]byte{rawmqtt.Refused}, len(filters))) {
		t.Errorf("codes %x, %v", codes, err)
	}
	s.counted("refused_filter", uint64(len(filters)))
	if len(s.broker.server.Topics.Subscribers("$SYS/broker/version").Shared)+len(s.broker.server.Topics.Subscribers("$SYS/broker/version").Subscriptions) != 0 {
		t.Error("somebody would be told")
	}
}

// P16: a PUBLISH with the identifier of a message that is on its way to its
// sender is a message like any other.
func TestP16PublishWithAnIdentifierInUse(t *testing.T) {
	s := open(t)
	both, other := s.connect(web2), s.connect(guest)
	s.subscribe(both, 1, "public/#")
	if err := other.Send(pub("public/a", []byte("a"), 7)); err != nil {
		t.Fatal(err)
	}
	m := s.message(both) // not acknowledged
	s.subscribe(other, 1, "public/b")
	for range 3 {
		if err := both.Send(pub("public/b", []byte("b"), m.ID)); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < 2; { // its own copy, and the acknowledgement
			p, err := both.Read()
			if err != nil {
				t.Fatal(err)
			}
			if p.Type == rawmqtt.TypePuback || p.Type == rawmqtt.TypePublish {
				got++
			}
		}
		for {
			p, err := other.Read()
			if err != nil {
				t.Fatal(err)
			}
			if p.Type == rawmqtt.TypePublish {
				break
			}
		}
	}
}

// P17, P29: of a session that ended nothing is left to be searched, sorted or
// counted once a second.
func TestP17P29NothingIsLeftOfEndedSessions(t *testing.T) {
	s := open(t)
	writer := s.connect(guest)
	for i := range 20 {
		c := s.connect(web2)
		s.subscribe(c, 1, fmt.Sprintf("public/%d", i))
		if err := writer.Send(pub(fmt.Sprintf("public/%d", i), nil, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Expect(rawmqtt.TypePuback); err != nil {
			t.Fatal(err)
		}
		s.message(c) // and never acknowledges it
		c.Close()
	}
	writer.Close()
	s.stop()
	m := s.broker.server
	if m.Clients.Len() != 0 || m.Info.Subscriptions != 0 || m.Info.Inflight != 0 {
		t.Errorf("%d clients, %d subscriptions, %d in flight", m.Clients.Len(), m.Info.Subscriptions, m.Info.Inflight)
	}
	for i := range 20 {
		if n := len(m.Topics.Subscribers(fmt.Sprintf("public/%d", i)).Subscriptions); n != 0 {
			t.Fatalf("%d subscriptions are left in the index", n)
		}
	}
}

// P29: what a reader does not acknowledge is bounded, and the rest is dropped
// for it alone, and counted.
func TestP29ReaderThatNeverAcknowledges(t *testing.T) {
	s := open(t, rules(t, fast, bounded("in_flight: 64")))
	mute, honest, writer := s.connect(web2), s.connect(monitor), s.connect(guest)
	s.subscribe(mute, 1, "public/#")
	s.subscribe(honest, 1, "public/#")
	const sent = 300
	for i := range sent {
		if err := writer.Send(pub("public/a", []byte(fmt.Sprint(i)), uint16(i+1))); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Expect(rawmqtt.TypePuback); err != nil {
			t.Fatal(err)
		}
		m := s.message(honest)
		if string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d: got %s", i, m.Payload)
		}
		if err := honest.Send(rawmqtt.Ack(rawmqtt.TypePuback, m.ID)); err != nil {
			t.Fatal(err)
		}
		s.ping(honest) // it has been taken
	}
	cl, _ := s.broker.server.Clients.Get(web2.ClientID())
	if n := cl.State.Inflight.Len(); n != 64 {
		t.Errorf("%d messages are kept for it", n)
	}
	s.counted("deliveries_unacknowledged_dropped", sent-64)
	for range 64 {
		s.message(mute)
	}
	s.ping(mute)
}

// A message goes to a session once, however many of its filters match.
func TestOverlappingFiltersMultiplyNothing(t *testing.T) {
	s := open(t)
	reader, writer := s.connect(guest), s.connect(web1)
	codes, err := reader.Subscribe(1, 0, "public/#", "public/+", "public/a", "public/+/#", "public/a/#", "public/marker")
	if err != nil || len(codes) != 6 || slices.Max(codes) != 0 {
		t.Fatalf("codes %x, %v", codes, err)
	}
	if err := writer.Send(pub("public/a", []byte("a"), 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); got.Topic != "public/a" {
		t.Errorf("got %+v", got)
	}
	s.ping(writer)
	s.silent(reader)
}

// P25: no alias stands for a topic.
func TestP25TopicIsNeverEmpty(t *testing.T) {
	s := open(t)
	c := s.connect(guest)
	if err := c.Send(pub("", []byte("x"), 0)); err != nil {
		t.Fatal(err)
	}
	s.closed(c)
	s.counted("refused_topic", 1)
	if n := s.broker.server.Options.Capabilities.TopicAliasMaximum; n != 0 {
		t.Errorf("%d aliases", n)
	}
}

// P28: an error of writing ends the session at once, not after the keep-alive.
func TestP28ErrorOfWritingEndsTheSession(t *testing.T) {
	s := open(t)
	conn := &deaf{attempts: make(chan struct{}, 10)}
	socket := &flakySocket{wrap: func(c net.Conn) net.Conn { conn.Conn = c; return conn }}
	var err error
	if socket.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	d, err := newDoor(socket, s.broker)
	if err != nil {
		t.Fatal(err)
	}
	go d.accept()
	defer d.close()
	c, err := rawmqtt.Dial(socket.Addr().String(), s.bank.clientTLS("melb", s.bank.credential(web2)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: web2.ClientID(), KeepAlive: 120}); err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	s.subscribe(c, 0, "public/#")
	conn.arm()
	writer := s.connect(guest)
	if err := writer.Send(pub("public/a", nil, 0)); err != nil {
		t.Fatal(err)
	}
	s.closed(c)
	s.ping(writer)
}

// What storms through a session costs its sender alone.
func TestStorms(t *testing.T) {
	storm := func(packet []byte) []byte { return slices.Repeat(packet, 10_000) }
	s := open(t, rules(t, fast, bounded("connects: 1000000")))
	bystander, retained := s.connect(monitor), s.broker.server.Topics.Retained.Len()
	s.subscribe(bystander, 0, "public/#")
	counts := map[string]uint64{}
	for _, test := range []struct {
		name, counter string
		packets       []byte
	}{
		{"PUBREL", "refused_packet", storm(rawmqtt.Ack(rawmqtt.TypePubrel, 1))},
		{"PUBCOMP", "refused_packet", storm(rawmqtt.Ack(rawmqtt.TypePubcomp, 1))},
		{"PUBREC", "refused_packet", storm(rawmqtt.Ack(rawmqtt.TypePubrec, 1))},
		{"retained", "refused_retain", storm(rawmqtt.Publish(rawmqtt.Message{Topic: "public/a", Payload: []byte("x"), Retain: true}))},
		{"CONNECT", "refused_second_connect", storm(rawmqtt.Connect(rawmqtt.ConnectOptions{ClientID: guest.ClientID(), KeepAlive: 30}))},
	} {
		c := s.connect(guest)
		_ = c.Send(test.packets) // fails when the broker closes
		s.closed(c)
		counts[test.counter]++
		s.counted(test.counter, counts[test.counter])
		s.silent(bystander)
	}
	// Acknowledgements of nothing cost their bytes.
	c := s.connect(web1)
	if err := c.Send(storm(rawmqtt.Ack(rawmqtt.TypePuback, 1))); err != nil {
		t.Fatal(err)
	}
	s.ping(c)
	s.silent(bystander)
	if n := s.broker.server.Topics.Retained.Len(); n != retained {
		t.Errorf("%d messages are retained, %d before", n, retained)
	}
}

// Subscribing over and over is paid for like publishing.
func TestSubscriptionStorm(t *testing.T) {
	s := open(t, rules(t, bounded("throttled: 1ms")))
	c := s.connect(guest) // 5 packets a second, 20 at once
	for i := range 40 {
		if c.Send(rawmqtt.Subscribe(uint16(i+1), 0, "public/a"), rawmqtt.Unsubscribe(uint16(i+1), "public/a")) != nil {
			break
		}
	}
	s.closed(c)
	s.counted("refused_too_fast", 1)
	s.ping(s.connect(identity("melb", pki.RoleGuest, "guest-2")))
}

// docs/broker.md says for which reason each attack ends. The labels are real.
func TestPageNamesRealReasons(t *testing.T) {
	page, err := os.ReadFile("../../docs/broker.md")
	if err != nil {
		t.Fatal(err)
	}
	counters, found := new(counters).snapshot(), 0
	word := regexp.MustCompile("`([a-z_]+)`")
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.Contains(cells[4], ".Test") {
			continue
		}
		for _, m := range word.FindAllStringSubmatch(cells[3], -1) {
			found++
			_, ended := counters["refused_"+m[1]]
			if _, refused := counters["envelope_"+m[1]]; !ended && !refused {
				t.Errorf("no reason is called %q: %s", m[1], line)
			}
		}
	}
	if found < 30 {
		t.Errorf("%d reasons were found on the page", found)
	}
}
