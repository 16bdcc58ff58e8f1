package broker

import (
	"bytes"
	"slices"
	"testing"

	"levee/pki"
	"levee/test/rawmqtt"
)

func TestReadingArrivesByteForByte(t *testing.T) {
	s := open(t)
	reader := s.connect(monitor)
	s.subscribe(reader, 1, cpuFilter)
	writer, from := s.connect(web1), s.sender(web1)

	for i, id := range []uint16{0, 7} { // QoS 0 and 1
		want := from.reading(cpuTopic)
		if err := writer.Send(pub(cpuTopic, want, id)); err != nil {
			t.Fatal(err)
		}
		if id != 0 {
			if p, err := writer.Expect(rawmqtt.TypePuback); err != nil || !bytes.Equal(p.Body, []byte{0, 7}) {
				t.Fatalf("PUBACK: %x, %v", p.Body, err)
			}
		}
		got := s.message(reader)
		if got.Topic != cpuTopic || !bytes.Equal(got.Payload, want) || got.Retain || got.Dup || got.QoS != byte(i) {
			t.Errorf("got %+v, want %s", got, want)
		}
	}
	s.counted("messages_accepted", 2)
	s.counted("sessions_opened", 2)
}

func TestSignedAlertArrives(t *testing.T) {
	const topic = "melb/bank_server/alerts/monitor-1"
	s := open(t)
	reader := s.connect(operator)
	s.subscribe(reader, 0, "melb/bank_server/alerts/+")
	writer, from := s.connect(monitor), s.sender(monitor)
	want := from.sealWith(from.header(topic), []byte(`{"alert":"x"}`), from.signer)
	if err := writer.Send(pub(topic, want, 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); !bytes.Equal(got.Payload, want) {
		t.Errorf("got %s, want %s", got.Payload, want)
	}
}

func TestPublicIsPlainText(t *testing.T) {
	s := open(t)
	reader, writer := s.connect(web2), s.connect(guest)
	s.subscribe(reader, 0, "public/#")
	if err := writer.Send(pub("public/hello", []byte("hello"), 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); got.Topic != "public/hello" || string(got.Payload) != "hello" {
		t.Errorf("got %+v", got)
	}
	// Not more than the policy's 4,096 bytes.
	if err := writer.Send(pub("public/hello", make([]byte, 4097), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(writer)
	s.silent(reader)
	s.counted("envelope_size", 1)
	s.counted("messages_public", 2) // and the marker
}

// A backfill has its own counter, which starts below that of the readings.
func TestBackfillHasAWindowOfItsOwn(t *testing.T) {
	const topic = "melb/bank_server/backfill/sensor/web-1"
	s := open(t)
	reader := s.connect(identity("melb", pki.RoleRecorder, "recorder-1"))
	s.subscribe(reader, 0, "melb/bank_server/backfill/+/+")
	writer, from := s.connect(web1), s.sender(web1)
	if err := writer.Send(pub(cpuTopic, from.reading(cpuTopic), 0)); err != nil {
		t.Fatal(err)
	}
	from.seq = 0
	want := from.reading(topic)
	if err := writer.Send(pub(topic, want, 0), pub(topic, want, 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); !bytes.Equal(got.Payload, want) {
		t.Errorf("got %s", got.Payload)
	}
	s.ping(writer)
	s.silent(reader) // once
	s.counted("envelope_redelivered", 1)
}

func TestUnsubscribeEndsDelivery(t *testing.T) {
	s := open(t)
	reader, writer := s.connect(web2), s.connect(guest)
	s.subscribe(reader, 0, "public/#")
	if err := reader.Send(rawmqtt.Unsubscribe(2, "public/#")); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Expect(rawmqtt.TypeUnsuback); err != nil {
		t.Fatal(err)
	}
	if err := writer.Send(pub("public/hello", []byte("hello"), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(writer)
	s.silent(reader)
}

func TestPeopleHaveFourSessions(t *testing.T) {
	s := open(t)
	var clients []*rawmqtt.Client
	for _, suffix := range []string{"", "_1", "_2", "_3"} {
		c := s.dial(operator)
		if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: "melb_operator_alice" + suffix, KeepAlive: 30}); err != nil || code != 0 {
			t.Fatalf("suffix %q: code %d, %v", suffix, code, err)
		}
		clients = append(clients, c)
	}
	for _, c := range clients {
		s.ping(c)
	}
	for _, bad := range []string{"_0", "_4", "_11", "_1_1"} {
		c := s.dial(operator)
		if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: "melb_operator_alice" + bad, KeepAlive: 30}); err != nil || code != rawmqtt.BadIdentifier {
			t.Errorf("suffix %q: code %d, %v", bad, code, err)
		}
	}
	// Machines have one, and for a moment two (TestHandover).
	c := s.dial(web1)
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: "melb_sensor_web-1_2", KeepAlive: 30}); err != nil || code != rawmqtt.BadIdentifier {
		t.Errorf("a machine's second session: code %d, %v", code, err)
	}
	s.counted("refused_client_id", 5)
}

// mochi asks for the right to receive again at each delivery; a subscription
// that outlives its right delivers nothing.
func TestDeliveryIsCheckedAgain(t *testing.T) {
	s := open(t)
	reader, writer := s.connect(web2), s.connect(guest)
	s.subscribe(reader, 0, "public/#")
	cl, ok := s.broker.server.Clients.Get(web2.ClientID())
	if !ok {
		t.Fatal("no session")
	}
	subscriptions := cl.State.Subscriptions.GetAll()
	sub := subscriptions["public/#"]
	sub.Filter = cpuFilter
	s.broker.server.Topics.Subscribe(cl.ID, sub) // behind the hook's back
	first, from := s.connect(web1), s.sender(web1)
	if err := first.Send(pub(cpuTopic, from.reading(cpuTopic), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(first)
	if err := writer.Send(pub("public/a", []byte("a"), 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); got.Topic != "public/a" {
		t.Errorf("got %s", got.Topic)
	}
	s.counted("refused_not_receiver", 1)
}

func TestDrain(t *testing.T) {
	s := open(t)
	c, silent := s.connect(web1), s.dial(web2)
	s.stop()
	s.closed(c)
	s.closed(silent)
	if _, err := rawmqtt.Dial(s.broker.Addr().String(), s.bank.clientTLS("melb", s.bank.credential(web1))); err == nil {
		t.Error("the broker still listens")
	}
	s.counted("refused_draining", 2)
	if err := s.broker.Run(t.Context()); err == nil {
		t.Error("Run ran twice")
	}
	if n := s.broker.server.Clients.Len(); n != 0 {
		t.Errorf("%d clients are left", n)
	}
}

func TestSubscriptionsAreGrantedOneByOne(t *testing.T) {
	s := open(t)
	c := s.connect(monitor)
	codes, err := c.Subscribe(1, 1, cpuFilter, "perth/bank_server/metrics/cpu/+", "melb/bank_server/metrics/cpu/web-1", "public/#", "melb/#")
	if err != nil || !slices.Equal(codes, []byte{1, rawmqtt.Refused, 1, 1, rawmqtt.Refused}) {
		t.Errorf("codes %x, %v", codes, err)
	}
	if codes, err = c.Subscribe(2, 2, "public/a"); err != nil || !slices.Equal(codes, []byte{1}) {
		t.Errorf("QoS 2 is granted as %x, %v", codes, err)
	}
	s.ping(c)
}
