package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"levee/test/rawmqtt"
)

func TestP9BareTakeoverInherits(t *testing.T) {
	m := bare(t)
	victim := m.connectAs(rawmqtt.ConnectOptions{ClientID: "victim", KeepAlive: 30, Persistent: true})
	if _, err := victim.Subscribe(1, 1, "secret"); err != nil {
		t.Fatal(err)
	}
	go victim.Closed(time.Minute) //nolint:errcheck // a pipe: somebody has to read what it is told at its end
	thief := m.connectAs(rawmqtt.ConnectOptions{ClientID: "victim", KeepAlive: 30, Persistent: true})
	m.publish(m.connect("writer"), "secret", 1)
	if _, err := thief.Expect(rawmqtt.TypePublish); err != nil {
		gone(t, "who takes a client identifier inherits its subscriptions", err)
	}
}

func TestP11BareRefusedPacketIsProcessed(t *testing.T) {
	m := bare(t, &bareHook{read: func(pk packets.Packet) error {
		if pk.FixedHeader.Type == packets.Pingreq {
			return errors.New("over its rate")
		}
		return nil
	}})
	if err := m.connect("a").Ping(); err != nil {
		gone(t, "OnPacketRead fails open", err)
	}
}

func TestP12BareOneHookThatAdmitsIsEnough(t *testing.T) {
	no := &bareHook{admit: func() bool { return false }, acl: func(string, bool) bool { return false }}
	m := bare(t, no, &bareHook{})
	reader := m.connect("reader", "a")
	m.publish(m.connect("writer"), "a", 1)
	if _, err := reader.Expect(rawmqtt.TypePublish); err != nil {
		gone(t, "one hook's yes outweighs another's no", err)
	}
}

func TestP15BareSharesReachWhatWildcardsDoNot(t *testing.T) {
	m := bare(t)
	m.server.Options.Capabilities.SharedSubAvailable = 0
	codes, err := m.connect("a").Subscribe(1, 0, "$share/g/#")
	if err != nil || !slices.Equal(codes, []byte{0}) {
		gone(t, "shared subscriptions cannot be switched off", codes, err)
	}
	if len(m.server.Topics.Subscribers("$SYS/broker/version").Shared) == 0 {
		gone(t, "$share/g/# matches $SYS")
	}
}

func TestP16BareIdentifiersOfBothDirectionsCollide(t *testing.T) {
	m := bare(t)
	reader := m.connect("reader", "a")
	m.publish(m.connect("writer"), "a", 1)
	p, err := reader.Expect(rawmqtt.TypePublish)
	if err != nil {
		t.Fatal(err)
	}
	message, _ := p.Message()
	if codes, err := reader.Subscribe(message.ID, 0, "b"); err != nil || slices.Equal(codes, []byte{0}) {
		gone(t, "a SUBSCRIBE is refused for an identifier of the other direction", codes, err)
	}
}

func TestP17BareExpiredSessionStaysInTheIndex(t *testing.T) {
	t.Parallel()
	m := bare(t)
	if err := m.server.Serve(); err != nil { // its loop forgets sessions
		t.Fatal(err)
	}
	c := m.connectAs(rawmqtt.ConnectOptions{ClientID: "a", KeepAlive: 30, Persistent: true})
	if _, err := c.Subscribe(1, 0, "a/b"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	for range 2000 {
		if m.server.Clients.Len() == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if m.server.Clients.Len() != 0 || len(m.server.Topics.Subscribers("a/b").Subscriptions) == 0 {
		gone(t, "the subscriptions of an expired session stay", m.server.Clients.Len())
	}
}

func TestP18BareCountsNoFilters(t *testing.T) {
	m := bare(t)
	filters := make([]string, 10_000)
	for i := range filters {
		filters[i] = fmt.Sprint(i)
	}
	codes, err := m.connect("a").Subscribe(1, 0, filters...)
	if err != nil || len(codes) != len(filters) || slices.Max(codes) != 0 {
		gone(t, "any number of filters is granted", len(codes), err)
	}
}

func TestP19BareKeepAliveOverflows(t *testing.T) {
	m := bare(t)
	if code, err := m.dial().Connect(rawmqtt.ConnectOptions{ClientID: "a", KeepAlive: 0}); err != nil || code != 0 {
		gone(t, "a session without any deadline", code, err)
	}
	c := m.dial()
	_, err := c.Connect(rawmqtt.ConnectOptions{ClientID: "b", KeepAlive: 43691})
	if err == nil && c.Ping() == nil {
		gone(t, "43,691 s times one and a half is none")
	}
}

func TestP23BareLogsPasswords(t *testing.T) {
	m := bare(t)
	c := m.connect("a")
	if err := c.Send(rawmqtt.Connect(rawmqtt.ConnectOptions{ClientID: "a", KeepAlive: 30, Username: "u", Password: "correct-horse"})); err != nil {
		t.Fatal(err)
	}
	if err := c.Closed(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	text := m.log.String()
	if encoded := fmt.Sprint([]byte("correct-horse")); !strings.Contains(text, "correct-horse") && !strings.Contains(text, strings.Trim(encoded, "[]")) {
		gone(t, "it logs packets whole", text)
	}
}

// PUBACK says "read": a delivery that has not begun is acknowledged.
func TestP24BareAcknowledgesBeforeItDelivers(t *testing.T) {
	release := make(chan struct{})
	m := bare(t, &bareHook{acl: func(topic string, write bool) bool {
		if topic == "a" && !write {
			<-release // a delivery
		}
		return true
	}})
	m.connect("reader", "+")
	writer := m.connect("writer")
	defer close(release)
	if err := writer.Send(pub("a", nil, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Expect(rawmqtt.TypePuback); err != nil {
		gone(t, "PUBACK comes before the delivery", err)
	}
}

// A topic alias of MQTT 5 is put in the topic's place after the right to publish
// was asked for.
func TestP25BareAsksForTheRightBeforeTheTopic(t *testing.T) {
	asked := make(chan string, 10)
	m := bare(t, &bareHook{acl: func(topic string, write bool) bool {
		if write {
			asked <- topic
		}
		return true
	}})
	c := m.dial()
	if err := c.Send(rawmqtt.Raw(rawmqtt.TypeConnect, 0, []byte("\x00\x04MQTT\x05\x02\x00\x1e\x00\x00\x01a"))); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Expect(rawmqtt.TypeConnack); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(rawmqtt.Raw(rawmqtt.TypePublish, 0, []byte("\x00\x01a\x03\x23\x00\x01x")),
		rawmqtt.Raw(rawmqtt.TypePublish, 0, []byte("\x00\x00\x03\x23\x00\x01x")), rawmqtt.Pingreq()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Expect(rawmqtt.TypePingresp); err != nil {
		t.Fatal(err)
	}
	if first, second := <-asked, <-asked; first != "a" || second != "" {
		gone(t, "the right is asked for an alias", first, second)
	}
}

func TestP27BareTellsAnybodyOfItself(t *testing.T) {
	m := bare(t)
	if err := m.server.Serve(); err != nil {
		t.Fatal(err)
	}
	c := m.connect("a")
	if err := c.Send(rawmqtt.Subscribe(1, 0, "$SYS/#")); err != nil {
		t.Fatal(err)
	}
	for {
		p, err := c.Read()
		if err != nil {
			gone(t, "$SYS is there for whoever asks", err)
			return
		}
		if p.Type == rawmqtt.TypePublish {
			break
		}
	}
	go c.Closed(time.Minute) //nolint:errcheck // it is told more
}

// deaf fails every write once it is armed.
type deaf struct {
	net.Conn
	mu       sync.Mutex
	armed    bool
	attempts chan struct{}
}

func (d *deaf) Write(p []byte) (int, error) {
	d.mu.Lock()
	armed := d.armed
	d.mu.Unlock()
	if !armed {
		return d.Conn.Write(p)
	}
	d.attempts <- struct{}{}
	return 0, io.ErrClosedPipe
}

func (d *deaf) arm() { d.mu.Lock(); d.armed = true; d.mu.Unlock() }

func TestP28BareIgnoresErrorsOfWriting(t *testing.T) {
	m := bare(t)
	conn := &deaf{attempts: make(chan struct{}, 10)}
	reader := m.connectAs(rawmqtt.ConnectOptions{ClientID: "reader", KeepAlive: 30}, func(c net.Conn) net.Conn { conn.Conn = c; return conn })
	if _, err := reader.Subscribe(1, 0, "a"); err != nil {
		t.Fatal(err)
	}
	conn.arm()
	writer := m.connect("writer")
	for i := range 3 {
		m.publish(writer, "a", uint16(i+1))
		select {
		case <-conn.attempts:
		case <-time.After(10 * time.Second):
			gone(t, "it goes on after an error of writing", i)
			return
		}
	}
}
