package broker

import (
	"bytes"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/wire"
	"levee/policies"
	"levee/test/rawmqtt"
)

// offline returns a broker that does not listen, and a session of web-1 with
// it, for what needs no connection.
func offline(t testing.TB) (*Broker, *session) {
	t.Helper()
	policy, err := policies.Parse(policies.Default())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	b := &Broker{
		site: "melb", windows: replay.New(10), revocations: nothing{}, log: log, reporter: newReporter(log), registry: newRegistry(),
		server: mqtt.New(&mqtt.Options{Logger: log, Capabilities: capabilities(policy.Broker())}),
	}
	b.rules.Store(policy)
	s := fakeSession("")
	s.b, s.identity, s.sender = b, web1, web1.Sender()
	g, _ := granted(policy, web1)
	g.limits.MessagesPerSecond, g.limits.Burst = 1<<30, 1<<30
	s.grant.Store(g)
	s.account = b.registry.open(s.sender, g.limits, time.Now())
	return b, s
}

// FuzzPackets takes a client's bytes through the framer, mochi's decoders and
// the judgement of each packet. Nothing may panic, and what passes is within
// what the package promises.
func FuzzPackets(f *testing.F) {
	connect := rawmqtt.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30})
	for _, seed := range [][]byte{
		connect,
		slices.Concat(connect, pub(cpuTopic, []byte("{}"), 0), pub("public/a", []byte("a"), 1)),
		slices.Concat(connect, rawmqtt.Subscribe(1, 1, cpuFilter, "public/#"), rawmqtt.Unsubscribe(2, "public/#"), rawmqtt.Pingreq()),
		slices.Concat(connect, rawmqtt.Subscribe(1, 0, "$share/g/#"), rawmqtt.Ack(rawmqtt.TypePuback, 1), rawmqtt.Disconnect()),
		slices.Concat(connect, rawmqtt.Publish(rawmqtt.Message{Topic: "public/a", QoS: 1, ID: 1, Retain: true, Dup: true})),
		rawmqtt.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30, Level: 5, WillTopic: "a", WillBody: "b"}),
		rawmqtt.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30, Username: "u", Password: "p"}),
		slices.Concat(connect, rawmqtt.Raw(8, 2, []byte{0, 1, 0, 1, 'a'}), rawmqtt.Raw(3, 0, []byte{0, 9, 'a'})),
	} {
		f.Add(seed)
	}
	b, model := offline(f)
	h := &hook{b: b}
	f.Fuzz(func(t *testing.T, stream []byte) {
		s := fakeSession("")
		s.b, s.identity, s.sender, s.account = b, model.identity, model.sender, model.account
		s.grant.Store(model.grant.Load())
		cl := b.server.NewClient(s, entranceID, "", false)
		var frame framer
		n, _ := frame.feed(stream)
		for r := bytes.NewReader(stream[:n]); r.Len() > 0; {
			pk, err := decode(r)
			if err != nil {
				return // mochi ends the connection
			}
			first := s.clientID == ""
			if h.judge(s, cl, &pk) != None {
				return
			}
			switch c := pk.Connect; pk.FixedHeader.Type {
			case packets.Connect:
				if !first || pk.ProtocolVersion != 4 || c.WillFlag || !c.Clean || c.UsernameFlag || c.PasswordFlag ||
					c.ClientIdentifier != web1.ClientID() || c.Keepalive < 10 || c.Keepalive > 120 {
					t.Fatalf("passed CONNECT %+v", c)
				}
			case packets.Publish:
				if first || pk.FixedHeader.Qos > 1 || pk.FixedHeader.Retain || !wire.ValidTopic(pk.TopicName) {
					t.Fatalf("passed PUBLISH %+v", pk)
				}
			case packets.Subscribe:
				if first || len(pk.Filters) == 0 || len(pk.Filters) > 8 {
					t.Fatalf("passed SUBSCRIBE %+v", pk)
				}
				for _, f := range h.OnSubscribe(cl, pk).Filters {
					if f.Filter != "" && !s.grant.Load().rights.MaySubscribe(f.Filter) {
						t.Fatalf("granted %q", f.Filter)
					}
				}
			case packets.Unsubscribe, packets.Puback, packets.Pingreq, packets.Disconnect:
			default:
				t.Fatalf("passed type %d", pk.FixedHeader.Type)
			}
		}
		if b.counters.refused[Panicked].Load() != 0 {
			t.Fatal("a panic was contained")
		}
	})
}

// decode reads one packet as mochi's client does.
func decode(r *bytes.Reader) (pk packets.Packet, err error) {
	first, _ := r.ReadByte()
	if err := pk.FixedHeader.Decode(first); err != nil {
		return pk, err
	}
	if pk.FixedHeader.Remaining, _, err = packets.DecodeLength(r); err != nil {
		return pk, err
	}
	body := make([]byte, pk.FixedHeader.Remaining)
	if _, err := io.ReadFull(r, body); err != nil {
		return pk, err
	}
	pk.ProtocolVersion = 4
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Subscribe:
		err = pk.SubscribeDecode(body)
	case packets.Unsubscribe:
		err = pk.UnsubscribeDecode(body)
	}
	return pk, err
}

// FuzzInspect gives the checks of a message any bytes. What they accept on a
// protected topic is an envelope of the session's identity for that topic.
func FuzzInspect(f *testing.F) {
	b, s := offline(f)
	key, err := envelope.NewKey(make([]byte, envelope.KeySize))
	if err != nil {
		f.Fatal(err)
	}
	h := envelope.Header{
		KeyID: envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1},
		Time:  time.Now().UnixMilli(), Nonce: envelope.Nonce{Boot: 1, Seq: 1}, Topic: cpuTopic,
	}
	good, err := envelope.Append(nil, h, []byte(`{"cpu_usage":1}`), key, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cpuTopic, good)
	f.Add("melb/bank_server/metrics/cpu/web-2", good)
	f.Add("melb/bank_server/digests/sensor/web-1", good)
	f.Add("public/a", []byte("hello"))
	f.Add("", []byte(nil))
	f.Fuzz(func(t *testing.T, topic string, payload []byte) {
		if r, _ := b.inspect(s, topic, payload, time.Now()); r != envelope.Accepted || topic == "public" || len(topic) > 7 && topic[:7] == "public/" {
			return
		}
		m, err := envelope.Parse(payload, envelope.MaxBackfill)
		if err != nil || string(m.Sender()) != s.sender || string(m.Topic) != topic {
			t.Fatalf("accepted on %q: %q", topic, payload)
		}
	})
}

func BenchmarkInspect(b *testing.B) {
	broker, s := offline(b)
	key, err := envelope.NewKey(make([]byte, envelope.KeySize))
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	h := envelope.Header{
		KeyID: envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1},
		Time:  now.UnixMilli(), Nonce: envelope.Nonce{Boot: uint64(now.UnixMilli())}, Topic: cpuTopic,
	}
	raws := make([][]byte, b.N)
	for i := range raws {
		h.Nonce.Seq++
		if raws[i], err = envelope.Append(nil, h, []byte(`{"timestamp":1729697327.822,"server":"web-1","interval_seconds":5,"cpu_usage":12.5}`), key, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, raw := range raws {
		if r, _ := broker.inspect(s, cpuTopic, raw, now); r != envelope.Accepted {
			b.Fatal(r)
		}
	}
}
