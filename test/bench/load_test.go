//go:build linux

package bench

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"levee/envelope"
	"levee/envelope/keys"
	"levee/internal/site"
	"levee/pki"
	"levee/test/rawmqtt"
)

const (
	size         = 300 // of an envelope
	readerFilter = siteName + "/bank_server/metrics/network/+"
	firstSeq     = 10_000 // so that every number has five digits
)

func topicOf(id pki.Identity) string { return siteName + "/bank_server/metrics/network/" + id.Name }

// mostBehind is how much of what was not sent in time is sent at once.
const mostBehind = 5 * time.Millisecond

// load is what one turn is given.
type load struct {
	qos           byte
	rate, burst   int
	warm, measure time.Duration
}

// figures are what one turn came to.
type figures struct {
	cost     time.Duration // CPU of the broker's process for each delivered message
	p50, p99 time.Duration // from before the write to after the read, both by this process
}

// publisher is one sensor that is connected.
type publisher struct {
	topic  string
	key    *envelope.Key
	keyID  envelope.KeyID
	client *rawmqtt.Client
	seq    uint64 // of the last message
	sent   []atomic.Int64
	got    int // of the next delivery; the reader's
}

// turn connects everybody anew and sends at the rate, first to warm up.
func (s *bankSite) turn(t testing.TB, b broker, l load) figures {
	t.Helper()
	s.boot = max(s.boot+1, uint64(time.Now().UnixMilli()))
	most := int((l.warm+l.measure).Seconds()*float64(l.rate))/sensors + 2
	publishers := make(map[string]*publisher)
	var order []*publisher
	var discarding sync.WaitGroup
	defer discarding.Wait()
	for _, id := range s.sensors {
		ring, err := keys.Load(filepath.Join(s.layout.Bundle(id), site.FileKeys))
		if err != nil {
			t.Fatal(err)
		}
		p := &publisher{topic: topicOf(id), client: s.connect(t, b, id), seq: firstSeq, sent: make([]atomic.Int64, most)}
		p.key, p.keyID = ring.Own()
		publishers[p.topic] = p
		order = append(order, p)
		defer p.client.Close()
		discarding.Go(func() { _, _ = io.Copy(io.Discard, p.client.Conn) }) // acknowledgements
	}
	reader := s.connect(t, b, s.monitor)
	defer reader.Close()
	if codes, err := reader.Subscribe(1, l.qos, readerFilter); err != nil || len(codes) != 1 || codes[0] != l.qos {
		t.Fatalf("%s: SUBACK %x, %v", b.name, codes, err)
	}
	var delivered atomic.Int64
	latencies := make([]time.Duration, 0, most*sensors)
	failed := make(chan error, 1)
	var reading sync.WaitGroup
	reading.Go(func() { failed <- receive(reader, publishers, l.qos, &delivered, &latencies) })
	defer reading.Wait()
	defer reader.Close()

	settle := func(sent int) {
		for deadline := time.Now().Add(20 * time.Second); delivered.Load() < int64(sent); time.Sleep(5 * time.Millisecond) {
			select {
			case err := <-failed:
				t.Fatalf("%s: reading: %v", b.name, err)
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d messages sent, %d delivered", b.name, sent, delivered.Load())
			}
		}
	}
	warm := s.send(t, b, order, l, l.warm)
	settle(warm)
	before := used(t, b.process)
	sent := s.send(t, b, order, l, l.measure)
	settle(warm + sent)
	cost := used(t, b.process) - before
	if n := delivered.Load(); n != int64(warm+sent) {
		t.Fatalf("%s: %d messages sent, %d delivered", b.name, warm+sent, n)
	}
	reader.Close()
	reading.Wait()
	latencies = latencies[warm:]
	slices.Sort(latencies)
	return figures{cost: cost / time.Duration(sent), p50: latencies[len(latencies)/2], p99: latencies[len(latencies)*99/100]}
}

// connect opens one identity's session.
func (s *bankSite) connect(t testing.TB, b broker, id pki.Identity) *rawmqtt.Client {
	t.Helper()
	bundle := s.layout.Bundle(id)
	credential, err := pki.LoadCredential(filepath.Join(bundle, site.FileKey), filepath.Join(bundle, site.FileChain))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.trust.Root)
	client, err := rawmqtt.Dial(b.address, &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: s.broker.Host(), Certificates: []tls.Certificate{credential.TLS()},
	})
	if err != nil {
		t.Fatalf("%s: %v", b.name, err)
	}
	if code, err := client.Connect(rawmqtt.ConnectOptions{ClientID: id.ClientID(), KeepAlive: 60}); err != nil || code != rawmqtt.Accepted {
		t.Fatalf("%s: CONNACK %d, %v", b.name, code, err)
	}
	_ = client.Conn.SetDeadline(time.Time{})
	return client
}

// send publishes for a while at the rate, burst publishers at each moment and all
// of them in turn, and returns how many messages that were.
func (s *bankSite) send(t testing.TB, b broker, order []*publisher, l load, while time.Duration) int {
	t.Helper()
	runtime.LockOSThread() // for sleeps shorter than a millisecond
	defer runtime.UnlockOSThread()
	start := time.Now()
	total := int(while.Seconds() * float64(l.rate))
	for n := range total {
		if n%l.burst == 0 {
			switch wait := time.Until(start.Add(time.Duration(n) * time.Second / time.Duration(l.rate))); {
			case wait > 0:
				pause := unix.NsecToTimespec(wait.Nanoseconds())
				_ = unix.Nanosleep(&pause, nil)
			case wait < -mostBehind: // something else had this core: the load does not become a flood
				start = start.Add(-wait)
			}
		}
		if err := order[n%len(order)].publish(s.boot, l.qos); err != nil {
			t.Fatalf("%s: publishing: %v", b.name, err)
		}
	}
	return total
}

// publish sends the next reading, sealed, of exactly size bytes.
func (p *publisher) publish(boot uint64, qos byte) error {
	p.seq++
	now := time.Now()
	h := envelope.Header{KeyID: p.keyID, Time: now.UnixMilli(), Nonce: envelope.Nonce{Boot: boot, Seq: p.seq}, Topic: p.topic}
	payload := fmt.Sprintf(`{"timestamp":%d.5,"server":%q,"active_tcp_connections":84,"syn_packet_count":2`, now.Unix(), p.keyID.Name)
	raw, err := envelope.Append(nil, h, []byte(payload+`,"note":""}`), p.key, nil)
	if err != nil {
		return err
	}
	if len(raw) > size {
		return fmt.Errorf("%d bytes", len(raw))
	}
	raw, err = envelope.Append(raw[:0], h, []byte(payload+`,"note":"`+strings.Repeat("x", size-len(raw))+`"}`), p.key, nil)
	if err != nil {
		return err
	}
	n := p.seq - firstSeq - 1
	p.sent[n].Store(now.UnixNano())
	_, err = p.client.Conn.Write(rawmqtt.Publish(rawmqtt.Message{Topic: p.topic, Payload: raw, QoS: qos, ID: uint16(n%math.MaxUint16) + 1}))
	return err
}

// receive reads, acknowledges and counts deliveries until the connection ends. It
// requires that each publisher's come in order, without a gap.
func receive(c *rawmqtt.Client, publishers map[string]*publisher, qos byte, delivered *atomic.Int64, latencies *[]time.Duration) error {
	r := bufio.NewReaderSize(c.Conn, 64<<10)
	body := make([]byte, 1024)
	for {
		first, err := r.ReadByte()
		if err != nil {
			return err
		}
		length, err := binary.ReadUvarint(r)
		if err != nil || length > uint64(len(body)) {
			return fmt.Errorf("a packet of %d bytes: %v", length, err)
		}
		packet := body[:length]
		if _, err := io.ReadFull(r, packet); err != nil {
			return err
		}
		if first>>4 != rawmqtt.TypePublish {
			return fmt.Errorf("a packet of type %d", first>>4)
		}
		topic := int(binary.BigEndian.Uint16(packet)) + 2
		p := publishers[string(packet[2:topic])]
		payload := packet[topic:]
		if qos > 0 {
			if _, err := c.Conn.Write([]byte{rawmqtt.TypePuback << 4, 2, payload[0], payload[1]}); err != nil {
				return err
			}
			payload = payload[2:]
		}
		if p == nil || len(payload) != size {
			return fmt.Errorf("topic %q, %d bytes", packet[2:topic], len(payload))
		}
		m, err := envelope.Parse(payload, size)
		if err != nil {
			return err
		}
		if want := uint64(firstSeq + 1 + p.got); m.Nonce.Seq != want {
			return fmt.Errorf("%s: message %d in place of %d", p.topic, m.Nonce.Seq, want)
		}
		*latencies = append(*latencies, time.Duration(time.Now().UnixNano()-p.sent[p.got].Load()))
		p.got++
		delivered.Add(1)
	}
}
