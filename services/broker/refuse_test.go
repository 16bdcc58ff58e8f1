package broker

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/test/rawmqtt"
)

// refusedAt demands that a connection with these certificates is closed, at the
// latest by the answer to CONNECT.
func (s *space) refusedAt(config *tls.Config) {
	s.t.Helper()
	c, err := rawmqtt.Dial(s.broker.Addr().String(), config)
	if err != nil {
		return
	}
	defer c.Close()
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30}); err == nil {
		s.t.Errorf("answered with code %d", code)
	}
}

func TestNoCertificate(t *testing.T) {
	s := open(t)
	s.refusedAt(s.bank.clientTLS("melb"))
	s.counted("refused_handshake", 1)
}

func TestForeignCA(t *testing.T) {
	s := open(t)
	config := s.bank.clientTLS("melb", newBank(t).credential(web1))
	s.refusedAt(config)
	s.counted("refused_certificate", 1)
}

func TestOtherSite(t *testing.T) {
	s := open(t)
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(identity("perth", pki.RoleSensor, "web-1"))))
	s.counted("refused_certificate", 1)
}

func TestLeafWithoutItsIssuer(t *testing.T) {
	s := open(t)
	cert := s.bank.credential(web1)
	cert.Certificate = cert.Certificate[:1]
	s.refusedAt(s.bank.clientTLS("melb", cert))
	s.counted("refused_certificate", 1)
}

func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	s := open(t)
	cert := s.bank.issue(web1, 2*time.Second)
	time.Sleep(time.Until(cert.Leaf.NotAfter.Add(time.Second))) // X.509 counts seconds
	s.refusedAt(s.bank.clientTLS("melb", cert))
	s.counted("refused_certificate", 1)
}

func TestTLS12(t *testing.T) {
	s := open(t)
	config := s.bank.clientTLS("melb", s.bank.credential(web1))
	config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if c, err := rawmqtt.Dial(s.broker.Addr().String(), config); err == nil {
		c.Close()
		t.Error("the handshake succeeded")
	}
	s.counted("refused_handshake", 1)
}

func TestPlainTCP(t *testing.T) {
	s := open(t)
	conn, err := net.Dial("tcp", s.broker.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := rawmqtt.New(conn)
	defer c.Close()
	if err := c.Send(connectPacket); err != nil {
		t.Fatal(err)
	}
	s.closed(c)
	s.counted("refused_handshake", 1)
}

// Whatever configuration a caller makes, the broker asks for itself.
func TestVerifierDecidesWithoutTheConfiguration(t *testing.T) {
	s := open(t, func(c *Config) {
		c.TLS.VerifyConnection = func(tls.ConnectionState) error { return nil }
	})
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(identity("perth", pki.RoleSensor, "web-1"))))
	s.counted("refused_certificate", 1)
}

func TestConnectRefusals(t *testing.T) {
	own := web1.ClientID()
	tests := []struct {
		name    string
		options rawmqtt.ConnectOptions
		code    byte // 0: closed without an answer
		counter string
	}{
		{"MQTT 5", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Level: 5}, rawmqtt.BadVersion, "refused_version"},
		{"MQTT 3.1", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Level: 3, Protocol: "MQIsdp"}, rawmqtt.BadVersion, "refused_version"},
		{"level 4 of another protocol", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Protocol: "MQIsdp"}, rawmqtt.BadVersion, "refused_version"},
		{"level 132, a bridge's", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Level: 132}, rawmqtt.BadVersion, "refused_version"},
		{"reserved flag", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Flags: 1}, 0, "refused_packet"},
		{"P2 will", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, WillTopic: cpuTopic, WillBody: "x"}, rawmqtt.NotAuthorized, "refused_will"},
		{"P2 retained will", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, WillTopic: "$SYS/broker/version", WillBody: "x", WillRetain: true}, rawmqtt.NotAuthorized, "refused_will"},
		{"P2 public will", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, WillTopic: "public/a", WillBody: "x"}, rawmqtt.NotAuthorized, "refused_will"},
		{"will QoS without a will", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Flags: 1 << 3}, rawmqtt.NotAuthorized, "refused_will"},
		{"will retain without a will", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Flags: 1 << 5}, rawmqtt.NotAuthorized, "refused_will"},
		{"P17 persistent session", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Persistent: true}, rawmqtt.NotAuthorized, "refused_persistent_session"},
		{"P19 keep-alive 0", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 0}, rawmqtt.NotAuthorized, "refused_keep_alive"},
		{"P19 keep-alive 9", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 9}, rawmqtt.NotAuthorized, "refused_keep_alive"},
		{"P19 keep-alive 121", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 121}, rawmqtt.NotAuthorized, "refused_keep_alive"},
		{"P19 keep-alive 43691", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 43691}, rawmqtt.NotAuthorized, "refused_keep_alive"},
		{"P19 keep-alive 65535", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 65535}, rawmqtt.NotAuthorized, "refused_keep_alive"},
		{"user name", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Username: "u"}, rawmqtt.BadCredential, "refused_credential"},
		{"user name and password", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Username: "u", Password: "p"}, rawmqtt.BadCredential, "refused_credential"},
		{"password alone", rawmqtt.ConnectOptions{ClientID: own, KeepAlive: 30, Password: "p"}, rawmqtt.BadCredential, "refused_credential"},
		{"P9 another's client ID", rawmqtt.ConnectOptions{ClientID: web2.ClientID(), KeepAlive: 30}, rawmqtt.BadIdentifier, "refused_client_id"},
		{"P9 the monitor's client ID", rawmqtt.ConnectOptions{ClientID: monitor.ClientID(), KeepAlive: 30}, rawmqtt.BadIdentifier, "refused_client_id"},
		{"P9 inline", rawmqtt.ConnectOptions{ClientID: "inline", KeepAlive: 30}, rawmqtt.BadIdentifier, "refused_client_id"},
		{"P9 no client ID", rawmqtt.ConnectOptions{ClientID: "", KeepAlive: 30}, rawmqtt.BadIdentifier, "refused_client_id"},
		{"P9 own client ID in capitals", rawmqtt.ConnectOptions{ClientID: strings.ToUpper(own), KeepAlive: 30}, rawmqtt.BadIdentifier, "refused_client_id"},
		{"P9 a wildcard", rawmqtt.ConnectOptions{ClientID: "melb_sensor_#", KeepAlive: 30}, rawmqtt.BadIdentifier, "refused_client_id"},
		{"client ID of 4 KiB", rawmqtt.ConnectOptions{ClientID: strings.Repeat("a", 4096), KeepAlive: 30}, 0, "refused_packet"},
	}
	s := open(t, rules(t, bounded("address_pending: 200")))
	counts := map[string]uint64{}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			c := s.dial(web1)
			code, err := c.Connect(test.options)
			switch {
			case test.code == 0 && err == nil:
				t.Errorf("answered with code %d", code)
			case test.code != 0 && (err != nil || code != test.code):
				t.Errorf("code %d, %v; want %d", code, err, test.code)
			}
			s.closed(c)
			counts[test.counter]++
			s.counted(test.counter, counts[test.counter])
		})
	}
	s.t = t
	s.counted("sessions_opened", 0)
	if s.broker.server.Clients.Len() != 0 || s.broker.server.Topics.Retained.Len() > 20 { // $SYS, which nobody reads
		t.Errorf("%d clients, %d retained", s.broker.server.Clients.Len(), s.broker.server.Topics.Retained.Len())
	}
}

// What a client may not send within a session ends it.
func TestPacketRefusals(t *testing.T) {
	deep := strings.Repeat("a/", 8) + "a" // nine levels
	tests := []struct {
		name    string
		packet  []byte
		counter string
	}{
		{"second CONNECT", rawmqtt.Connect(rawmqtt.ConnectOptions{ClientID: guest.ClientID(), KeepAlive: 30}), "refused_second_connect"},
		{"CONNACK", rawmqtt.Raw(rawmqtt.TypeConnack, 0, []byte{0, 0}), "refused_packet"},
		{"PUBREC", rawmqtt.Ack(rawmqtt.TypePubrec, 1), "refused_packet"},
		{"PUBREL", rawmqtt.Ack(rawmqtt.TypePubrel, 1), "refused_packet"},
		{"PUBCOMP", rawmqtt.Ack(rawmqtt.TypePubcomp, 1), "refused_packet"},
		{"SUBACK", rawmqtt.Raw(rawmqtt.TypeSuback, 0, []byte{0, 1, 0}), "refused_packet"},
		{"type 15", rawmqtt.Raw(15, 0, nil), "refused_packet"},
		{"P7 a header that claims 256 MiB", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, "refused_packet"},
		{"P7 a length without end", []byte{0x30, 0x80, 0x80, 0x80, 0x80, 0x80}, "refused_packet"},
		{"QoS 2", rawmqtt.Publish(rawmqtt.Message{Topic: "public/a", QoS: 2, ID: 1}), "refused_qos"},
		{"retained", rawmqtt.Publish(rawmqtt.Message{Topic: "public/a", Payload: []byte("x"), Retain: true}), "refused_retain"},
		{"retained on a protected topic", rawmqtt.Publish(rawmqtt.Message{Topic: cpuTopic, Payload: []byte("x"), Retain: true}), "refused_retain"},
		{"clearing what is retained", rawmqtt.Publish(rawmqtt.Message{Topic: "public/a", Retain: true}), "refused_retain"},
		{"QoS 1 without an identifier", rawmqtt.Publish(rawmqtt.Message{Topic: "public/a", QoS: 1}), "refused_packet"},
		{"P25 no topic", rawmqtt.Publish(rawmqtt.Message{}), "refused_topic"},
		{"a wildcard as a topic", rawmqtt.Publish(rawmqtt.Message{Topic: "public/+"}), "refused_topic"},
		{"P27 $SYS as a topic", rawmqtt.Publish(rawmqtt.Message{Topic: "$SYS/broker/version"}), "refused_topic"},
		{"an empty level", rawmqtt.Publish(rawmqtt.Message{Topic: "public//a"}), "refused_topic"},
		{"a dot", rawmqtt.Publish(rawmqtt.Message{Topic: "public/10.0.0.1"}), "refused_topic"},
		{"a space", rawmqtt.Publish(rawmqtt.Message{Topic: "public/a b"}), "refused_topic"},
		{"P14 nine levels", rawmqtt.Publish(rawmqtt.Message{Topic: deep}), "refused_topic"},
		{"P14 32,000 levels", rawmqtt.Publish(rawmqtt.Message{Topic: strings.Repeat("a/", 32000)}), "refused_topic"},
		{"P14 SUBSCRIBE of nine levels", rawmqtt.Subscribe(1, 0, deep), "refused_filter"},
		{"P14 SUBSCRIBE of 32,000 levels", rawmqtt.Subscribe(1, 0, strings.Repeat("+/", 32000)), "refused_packet"},
		{"P14 SUBSCRIBE of 201 bytes", rawmqtt.Subscribe(1, 0, "public/"+strings.Repeat("a", 194)), "refused_filter"},
		{"P14 UNSUBSCRIBE of nine levels", rawmqtt.Unsubscribe(1, deep), "refused_filter"},
		{"P14 UNSUBSCRIBE of 32,000 levels", rawmqtt.Unsubscribe(1, strings.Repeat("+/", 32000)), "refused_packet"},
		{"P18 nine filters", rawmqtt.Subscribe(1, 0, slices.Repeat([]string{"public/#"}, 9)...), "refused_too_many_filters"},
		{"P18 10,000 filters", rawmqtt.Subscribe(1, 0, slices.Repeat([]string{"a"}, 10000)...), "refused_packet"},
		{"SUBSCRIBE without a filter", rawmqtt.Subscribe(1, 0), "refused_packet"},
		{"SUBSCRIBE without an identifier", rawmqtt.Subscribe(0, 0, "public/#"), "refused_packet"},
		{"not a publisher at QoS 0", pub(cpuTopic, []byte("x"), 0), "refused_not_publisher"},
		{"not a publisher at QoS 1", pub(cpuTopic, []byte("x"), 1), "refused_not_publisher"},
		{"a command from a guest", pub("melb/bank_server/control/command/guest/guest-1", []byte("x"), 1), "refused_not_publisher"},
		{"another site", pub("perth/bank_server/metrics/cpu/web-1", []byte("x"), 0), "refused_not_publisher"},
		{"no topic of ours", pub("melb/elsewhere", []byte("x"), 0), "refused_not_publisher"},
	}
	s := open(t, rules(t, bounded("address_pending: 200", "strikes: 1000")))
	reader := s.connect(monitor)
	s.subscribe(reader, 0, cpuFilter)
	counts := map[string]uint64{}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			id := guest
			id.Name = fmt.Sprintf("guest-%d", i) // each its own limits
			c := s.connect(id)
			_ = c.Send(test.packet) // fails if the broker closes at the header of a long one
			s.closed(c)
			counts[test.counter]++
			s.counted(test.counter, counts[test.counter])
			s.silent(reader)
		})
	}
}

// Malformed packets that reach mochi's decoder end the session as well; what
// counts is that they end no more than that.
func TestMalformedPackets(t *testing.T) {
	s := open(t)
	bystander := s.connect(monitor)
	for name, packet := range map[string][]byte{
		"topic cut short":          rawmqtt.Raw(3, 0, []byte{0, 9, 'a'}),
		"topic of bad UTF-8":       rawmqtt.Publish(rawmqtt.Message{Topic: "public/\xff"}),
		"topic with NUL":           rawmqtt.Publish(rawmqtt.Message{Topic: "public/\x00"}),
		"PUBLISH without a body":   rawmqtt.Raw(3, 0, nil),
		"QoS 3":                    rawmqtt.Raw(3, 6, []byte{0, 1, 'a', 0, 1}),
		"DUP at QoS 0":             rawmqtt.Raw(3, 8, []byte{0, 1, 'a'}),
		"SUBSCRIBE flags":          rawmqtt.Raw(8, 0, []byte{0, 1, 0, 1, 'a', 0}),
		"P3 SUBSCRIBE without QoS": rawmqtt.Raw(8, 2, []byte{0, 1, 0, 1, 'a'}),
		"SUBSCRIBE to QoS 3":       rawmqtt.Subscribe(1, 3, "public/#"),
		"SUBSCRIBE of bad UTF-8":   rawmqtt.Subscribe(1, 0, "public/\xff"),
		"SUBSCRIBE without a body": rawmqtt.Raw(8, 2, nil),
		"UNSUBSCRIBE cut short":    rawmqtt.Raw(10, 2, []byte{0, 1, 0, 9}),
		"PUBACK without a body":    rawmqtt.Raw(4, 0, nil),
		"PINGREQ flags":            rawmqtt.Raw(12, 1, nil),
	} {
		c := s.connect(guest)
		if err := c.Send(packet); err != nil {
			t.Fatal(err)
		}
		if err := c.Closed(10 * time.Second); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.ping(bystander)
}

func TestFilterRefusals(t *testing.T) {
	tests := []struct {
		id      pki.Identity
		filter  string
		counter string
	}{
		{monitor, "$SYS/#", "refused_filter"},
		{monitor, "$SYS/broker/version", "refused_filter"},
		{monitor, "$share/g/" + cpuFilter, "refused_filter"}, // P15
		{monitor, "$share/g/#", "refused_filter"},            // P15
		{monitor, "$SHARE/g/public/#", "refused_filter"},     // P15
		{monitor, "$queue/public/a", "refused_filter"},
		{monitor, "#", "refused_not_subscriber"},
		{monitor, "+/#", "refused_not_subscriber"},
		{monitor, "melb/#", "refused_not_subscriber"},
		{monitor, "melb/bank_server/metrics/#", "refused_not_subscriber"},
		{monitor, "melb/bank_server/metrics/cpu/#", "refused_not_subscriber"}, // P13: below what it may read
		{monitor, "melb/bank_server/metrics/+/web-1", "refused_not_subscriber"},
		{monitor, "+/bank_server/metrics/cpu/+", "refused_not_subscriber"},
		{monitor, "perth/bank_server/metrics/cpu/+", "refused_not_subscriber"},
		{monitor, "melb/bank_server/metrics/cpu/web.1", "refused_not_subscriber"},
		{monitor, "melb/bank_server/digests/sensor/web-1", "refused_not_subscriber"},
		{monitor, "public/#/a", "refused_not_subscriber"},
		{monitor, "public/a#", "refused_not_subscriber"},
		{monitor, "public/+a", "refused_not_subscriber"},
		{monitor, "/public/a", "refused_not_subscriber"},
		{web1, cpuFilter, "refused_not_subscriber"},
		{web1, cpuTopic, "refused_not_subscriber"}, // P13: what one may write is not what one may read
		{web1, "melb/bank_server/control/command/+/+", "refused_not_subscriber"},
		{web1, "melb/bank_server/acks/+/sensor/web-2", "refused_not_subscriber"},
		{guest, "melb/bank_server/alerts/monitor-1", "refused_not_subscriber"},
		{guest, "melb/bank_server/alerts/+", "refused_not_subscriber"},
	}
	s := open(t)
	clients := map[pki.Identity]*rawmqtt.Client{monitor: s.connect(monitor), web1: s.connect(web1), guest: s.connect(guest)}
	counts := map[string]uint64{}
	for _, test := range tests {
		codes, err := clients[test.id].Subscribe(1, 0, test.filter)
		if err != nil || !slices.Equal(codes, []byte{rawmqtt.Refused}) {
			t.Fatalf("%s to %s: codes %x, %v", test.id, test.filter, codes, err)
		}
		counts[test.counter]++
	}
	for counter, want := range counts {
		s.counted(counter, want)
	}
	for id := range clients {
		cl, _ := s.broker.server.Clients.Get(id.ClientID())
		if n := cl.State.Subscriptions.Len(); n != 0 {
			t.Errorf("%s holds %d subscriptions", id, n)
		}
	}
}

func TestP18SubscriptionsOfOneSession(t *testing.T) {
	s := open(t)
	c := s.connect(guest) // 8 at once
	for i := range 8 {
		if codes, err := c.Subscribe(1, 0, fmt.Sprintf("public/%d", i)); err != nil || codes[0] != 0 {
			t.Fatalf("filter %d: %x, %v", i, codes, err)
		}
	}
	codes, err := c.Subscribe(1, 0, "public/8", "public/0")
	if err != nil || !slices.Equal(codes, []byte{rawmqtt.Refused, 0}) {
		t.Errorf("the ninth and one that is held: %x, %v", codes, err)
	}
	if err := c.Send(rawmqtt.Unsubscribe(2, "public/0")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Expect(rawmqtt.TypeUnsuback); err != nil {
		t.Fatal(err)
	}
	if codes, err = c.Subscribe(3, 0, "public/8"); err != nil || codes[0] != 0 {
		t.Errorf("after one was given up: %x, %v", codes, err)
	}
	s.counted("refused_too_many_filters", 1)
}

// A client may send on without waiting for CONNACK (section 3.1.4).
func TestPacketsBehindConnect(t *testing.T) {
	s := open(t)
	c := s.dial(guest)
	err := c.Send(slices.Concat(rawmqtt.Connect(rawmqtt.ConnectOptions{ClientID: guest.ClientID(), KeepAlive: 30}), rawmqtt.Pingreq()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []byte{rawmqtt.TypeConnack, rawmqtt.TypePingresp} {
		if _, err := c.Expect(want); err != nil {
			t.Fatal(err)
		}
	}
	// But none of it is passed on when CONNECT is refused.
	c = s.dial(identity("melb", pki.RoleGuest, "guest-2"))
	err = c.Send(slices.Concat(connectPacket, pub("public/a", []byte("x"), 0)))
	if err != nil {
		t.Fatal(err)
	}
	s.closed(c)
	s.counted("messages_public", 0)
}

func TestFirstPacketIsNotConnect(t *testing.T) {
	s := open(t)
	for _, packet := range [][]byte{publishPacket, rawmqtt.Pingreq(), rawmqtt.Subscribe(1, 0, "public/#"), rawmqtt.Raw(0, 0, nil)} {
		c := s.dial(guest)
		if err := c.Send(packet); err != nil {
			t.Fatal(err)
		}
		s.closed(c)
	}
	s.counted("refused_packet", 4)
}

// P7: whoever is silent before CONNECT loses the connection.
func TestP7SilenceBeforeConnect(t *testing.T) {
	t.Parallel()
	s := open(t, rules(t, bounded("handshake_timeout: 300ms", "connect_timeout: 300ms")))
	plain := func() *rawmqtt.Client {
		conn, err := net.Dial("tcp", s.broker.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return rawmqtt.New(conn)
	}
	s.closed(plain()) // no TLS
	s.counted("refused_handshake", 1)

	half := plain() // a part of a ClientHello
	if err := half.Send([]byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01}); err != nil {
		t.Fatal(err)
	}
	s.closed(half)
	s.counted("refused_handshake", 2)

	s.closed(s.dial(web1)) // no CONNECT
	s.counted("refused_silent", 1)

	slow := s.dial(web1) // a byte of CONNECT each 50 ms
	go func() {
		for _, b := range connectPacket {
			if _, err := slow.Conn.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	s.closed(slow)
	s.counted("refused_silent", 2)

	// In a session the keep-alive counts, and not those deadlines.
	c := s.connect(web1)
	time.Sleep(500 * time.Millisecond)
	s.ping(c)
}

func TestP7CapsOfConnections(t *testing.T) {
	s := open(t, rules(t, bounded("address_connections: 4", "address_pending: 2")))
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", s.broker.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	first, second := dial(), dial()
	third := dial()
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Fatal("a third silent connection was kept")
	}
	s.counted("refused_too_many_address", 1)
	first.Close()
	second.Close()
	s.counted("refused_handshake", 2)
	for i, id := range []pki.Identity{web1, web2, monitor, guest} {
		if c := s.connect(id); c == nil {
			t.Fatalf("session %d", i)
		}
	}
	fifth := dial()
	if _, err := fifth.Read(make([]byte, 1)); err == nil {
		t.Fatal("a fifth connection was kept")
	}
	s.counted("refused_too_many_address", 2)
}
