package broker

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"levee/test/rawmqtt"
)

// These tests show the defects of the library alone, under the numbers that its
// guards in this package carry. One that fails after an upgrade is good news: the
// defect is gone, and the guard may go with it.

// bareMochi is mochi without any of ours.
type bareMochi struct {
	t      *testing.T
	server *mqtt.Server
	log    *logBuffer

	clients []net.Conn
	running sync.WaitGroup
}

// bareHook lets everything pass but what a test says.
type bareHook struct {
	mqtt.HookBase
	admit   func() bool
	acl     func(topic string, write bool) bool
	read    func(packets.Packet) error
	publish func() error
}

func (h *bareHook) Provides(method byte) bool {
	switch method {
	case mqtt.OnConnectAuthenticate, mqtt.OnACLCheck:
		return true
	case mqtt.OnPacketRead:
		return h.read != nil
	case mqtt.OnPublish:
		return h.publish != nil
	}
	return false
}

func (h *bareHook) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool {
	return h.admit == nil || h.admit()
}

func (h *bareHook) OnACLCheck(_ *mqtt.Client, topic string, write bool) bool {
	return h.acl == nil || h.acl(topic, write)
}

func (h *bareHook) OnPacketRead(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	return pk, h.read(pk)
}

func (h *bareHook) OnPublish(_ *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	return pk, h.publish()
}

func bare(t *testing.T, hooks ...*bareHook) *bareMochi {
	t.Helper()
	log := &logBuffer{}
	m := &bareMochi{t: t, log: log, server: mqtt.New(&mqtt.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})}
	m.server.Options.Capabilities.MaximumSessionExpiryInterval = 0
	if len(hooks) == 0 {
		hooks = []*bareHook{{}}
	}
	for _, h := range hooks {
		if err := m.server.AddHook(h, nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, c := range m.clients { // all of them, before waiting for one: they may hold up each other
			_ = c.Close()
		}
		m.running.Wait()
		_ = m.server.Close()
	})
	return m
}

// dial opens a connection whose peer takes nothing that is not read. wrap may
// change the server's end.
func (m *bareMochi) dial(wrap ...func(net.Conn) net.Conn) *rawmqtt.Client {
	client, server := net.Pipe()
	for _, w := range wrap {
		server = w(server)
	}
	return m.serve(client, server)
}

func (m *bareMochi) serve(client, server net.Conn) *rawmqtt.Client {
	m.clients = append(m.clients, client)
	m.running.Go(func() { _ = m.server.EstablishConnection("bare", server) })
	c := rawmqtt.New(client)
	c.Timeout = 10 * time.Second
	return c
}

func (m *bareMochi) connectAs(o rawmqtt.ConnectOptions, wrap ...func(net.Conn) net.Conn) *rawmqtt.Client {
	m.t.Helper()
	c := m.dial(wrap...)
	if code, err := c.Connect(o); err != nil || code != rawmqtt.Accepted {
		m.t.Fatalf("connecting: code %d, %v", code, err)
	}
	return c
}

func (m *bareMochi) connect(id string, filters ...string) *rawmqtt.Client {
	m.t.Helper()
	c := m.connectAs(rawmqtt.ConnectOptions{ClientID: id, KeepAlive: 30})
	if len(filters) > 0 {
		if _, err := c.Subscribe(1, 1, filters...); err != nil {
			m.t.Fatal(err)
		}
	}
	return c
}

// publish sends a message at QoS 1 and waits for its acknowledgement.
func (m *bareMochi) publish(c *rawmqtt.Client, topic string, id uint16) {
	m.t.Helper()
	if err := c.Send(pub(topic, []byte("x"), id)); err != nil {
		m.t.Fatal(err)
	}
	if _, err := c.Expect(rawmqtt.TypePuback); err != nil {
		m.t.Fatal(err)
	}
}

// gone fails the test because the library no longer does this.
func gone(t *testing.T, defect string, got ...any) {
	t.Helper()
	t.Errorf("mochi no longer does this, so its guard may go: %s %v", defect, got)
}

func TestP1BareDeliversWhatAHookRefused(t *testing.T) {
	m := bare(t, &bareHook{publish: func() error { return errors.New("a bad MAC") }})
	reader, writer := m.connect("reader", "a"), m.connect("writer")
	m.publish(writer, "a", 1)
	if _, err := reader.Expect(rawmqtt.TypePublish); err != nil {
		gone(t, "OnPublish fails open", err)
	}
}

func TestP2BareWillPassesEveryCheck(t *testing.T) {
	m := bare(t, &bareHook{acl: func(_ string, write bool) bool { return !write }, publish: func() error { return packets.ErrRejectPacket }})
	reader := m.connect("reader", "a")
	m.connectAs(rawmqtt.ConnectOptions{ClientID: "dying", KeepAlive: 30, WillTopic: "a", WillBody: "forged"}).Close()
	if _, err := reader.Expect(rawmqtt.TypePublish); err != nil {
		gone(t, "a will needs no right", err)
	}
}

func TestP3BareDecoderPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			gone(t, "a SUBSCRIBE of MQTT 5 without options panics")
		}
	}()
	pk := packets.Packet{ProtocolVersion: 5}
	_ = pk.SubscribeDecode([]byte{0, 1, 0, 0, 1, 'a'})
}

// A subscriber of MQTT 5 that takes two messages at a time gets four of twenty.
func TestP5BareFlowControlStarves(t *testing.T) {
	m := bare(t)
	reader := m.serve(tcpPair(t))
	if err := reader.Send(rawmqtt.Raw(rawmqtt.TypeConnect, 0, []byte("\x00\x04MQTT\x05\x02\x00\x1e\x03\x21\x00\x02\x00\x01r"))); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Expect(rawmqtt.TypeConnack); err != nil {
		t.Fatal(err)
	}
	if err := reader.Send(rawmqtt.Raw(rawmqtt.TypeSubscribe, 2, []byte("\x00\x01\x00\x00\x01a\x01"))); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Expect(rawmqtt.TypeSuback); err != nil {
		t.Fatal(err)
	}
	writer := m.connect("writer")
	const sent = 20
	for i := range sent {
		m.publish(writer, "a", uint16(i+1))
	}
	if err := writer.Ping(); err != nil { // all of them are in flight
		t.Fatal(err)
	}
	reader.Timeout = 500 * time.Millisecond
	got := 0
	for {
		p, err := reader.Expect(rawmqtt.TypePublish)
		if err != nil {
			break
		}
		message, _ := p.Message()
		got++
		if err := reader.Send(rawmqtt.Ack(rawmqtt.TypePuback, message.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if got == sent {
		gone(t, "acknowledgements do not restore the quota of MQTT 5")
	}
}

// One reader that does not read stops whoever publishes to it.
func TestP6BareSlowReaderStopsPublishers(t *testing.T) {
	m := bare(t)
	m.connect("slow", "a")
	writer := m.connect("writer")
	writer.Timeout = time.Second
	for i := range 5000 { // a busy scheduler takes its time to run who writes
		if err := writer.Send(pub("a", nil, uint16(i+1))); err != nil {
			return
		}
		if _, err := writer.Expect(rawmqtt.TypePuback); err != nil {
			return
		}
	}
	gone(t, "it writes under the lock that publishers need")
}

// deadlines tells when a read begins, and whether it had a deadline.
type deadlines struct {
	net.Conn
	set   bool
	begun chan bool
}

func (d *deadlines) SetDeadline(t time.Time) error { d.set = true; return d.Conn.SetDeadline(t) }
func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.set = true
	return d.Conn.SetReadDeadline(t)
}
func (d *deadlines) Read(p []byte) (int, error) {
	select {
	case d.begun <- d.set:
	default:
	}
	return d.Conn.Read(p)
}

func TestP7BareWaitsForeverAndReadsAnyLength(t *testing.T) {
	m := bare(t)
	conn := &deadlines{begun: make(chan bool, 1)}
	m.dial(func(c net.Conn) net.Conn { conn.Conn = c; return conn })
	if <-conn.begun {
		gone(t, "no deadline before CONNECT")
	}
	if _, n, err := packets.DecodeLength(bytes.NewReader(bytes.Repeat([]byte{0x80}, 1000))); !errors.Is(err, io.EOF) || n <= 1000 {
		gone(t, "a length of any number of bytes", n, err)
	}
	if m.server.Options.Capabilities.MaximumPacketSize != 0 {
		gone(t, "packets of 256 MiB unless told otherwise")
	}
}

func TestP8BareListenerEndsAtTheFirstError(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		listeners.NewNet("bare", &flakySocket{Listener: socket, errs: 1}).Serve(func(string, net.Conn) error { return nil })
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		gone(t, "an error of accept ends the listener")
		socket.Close()
		<-ended
	}
}
