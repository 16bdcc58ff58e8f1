package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

// tlsConfig is that of a client that takes the broker of melb and presents
// certs, whatever the broker says it would accept.
func (b *bank) tlsConfig(t *testing.T, certs ...tls.Certificate) *tls.Config {
	t.Helper()
	root, err := pki.ReadCertificate(filepath.Join(b.layout.Bundle(b.ids[pki.RoleBroker]), site.FileRoot))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	config := &tls.Config{RootCAs: pool, ServerName: "melb.bank.example", MinVersion: tls.VersionTLS12}
	if len(certs) > 0 {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
	}
	return config
}

// dial opens a connection to the broker. TLS begins with the first packet, so
// that whoever is refused by it sees that in the first answer.
func (b *bank) dial(t *testing.T, config *tls.Config) *rawmqtt.Client {
	t.Helper()
	conn, err := net.Dial("tcp", b.broker)
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		conn = tls.Client(conn, config)
	}
	c := rawmqtt.New(conn)
	t.Cleanup(func() { c.Close() })
	return c
}

// connect opens a session of p, with its own client identifier.
func (b *bank) connect(t *testing.T, p *party) *rawmqtt.Client {
	t.Helper()
	c := b.dial(t, b.tlsConfig(t, p.cert))
	code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: p.id.ClientID(), KeepAlive: 120})
	if err != nil || code != rawmqtt.Accepted {
		t.Fatalf("%s is not let in: code %d, %v", p.id.Sender(), code, err)
	}
	return c
}

// publish sends one message and returns when the broker has dealt with it. The
// connection must survive that.
func publish(t *testing.T, c *rawmqtt.Client, topic string, raw []byte) {
	t.Helper()
	if err := c.Send(rawmqtt.Publish(rawmqtt.Message{Topic: topic, Payload: raw, QoS: 1, ID: 1})); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Expect(rawmqtt.TypePuback); err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(); err != nil { // PUBACK means read; this means that it went wherever it goes
		t.Fatal(err)
	}
}

// tap is a session of the operator that keeps everything it is sent.
type tap struct {
	client *rawmqtt.Client

	mu  sync.Mutex
	got []rawmqtt.Message
}

// operatorFilters are everything that policy lets an operator read.
var operatorFilters = []string{
	"melb/bank_server/metrics/cpu/+", "melb/bank_server/metrics/ram/+", "melb/bank_server/metrics/network/+",
	"melb/bank_server/alerts/+", "melb/bank_server/control/command/+/+", "melb/bank_server/status/scaling/+",
	"melb/bank_server/status/rate_limiting/+", "melb/bank_server/digests/+/+",
}

// tap opens a session that sees what an operator may see.
func (b *bank) tap(t *testing.T) *tap {
	t.Helper()
	alice := b.steal(t, pki.RoleOperator, "alice")
	c := b.dial(t, b.tlsConfig(t, alice.cert))
	c.Timeout = 10 * time.Minute
	code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: alice.id.ClientID() + "_1", KeepAlive: 120})
	if err != nil || code != rawmqtt.Accepted {
		t.Fatalf("the operator is not let in: code %d, %v", code, err)
	}
	codes, err := c.Subscribe(1, 0, operatorFilters...)
	if err != nil || slices.Contains(codes, rawmqtt.Refused) {
		t.Fatalf("the operator's filters: codes %x, %v", codes, err)
	}
	p := &tap{client: c}
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		for {
			packet, err := c.Read()
			if err != nil {
				return
			}
			if m, err := packet.Message(); err == nil {
				p.mu.Lock()
				p.got = append(p.got, m)
				p.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-reading
	})
	return p
}

// saw returns how often these bytes were delivered, on whatever topic.
func (p *tap) saw(raw []byte) int {
	return len(p.matching(func(m rawmqtt.Message) bool { return bytes.Equal(m.Payload, raw) }))
}

func (p *tap) matching(want func(rawmqtt.Message) bool) []rawmqtt.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []rawmqtt.Message
	for _, m := range p.got {
		if want(m) {
			found = append(found, m)
		}
	}
	return found
}

// await waits for a message of a kind whose payload is what want says, and
// returns it.
func (p *tap) await(t *testing.T, k wire.Kind, want func(payload []byte) bool) rawmqtt.Message {
	t.Helper()
	var found []rawmqtt.Message
	await(t, 60*time.Second, fmt.Sprintf("a message of kind %s", k), func() bool {
		found = p.matching(func(m rawmqtt.Message) bool {
			topic, err := wire.ParseTopic(m.Topic)
			if err != nil || topic.Kind != k {
				return false
			}
			e, err := envelope.Parse(m.Payload, envelope.MaxMessage)
			return err == nil && want(e.Payload)
		})
		return len(found) > 0
	})
	return found[len(found)-1]
}

// fence is an honest sensor beside the attacker. What the broker passed on
// before a fence, the tap has seen after it.
type fence struct {
	party  *party
	client *rawmqtt.Client
}

func (b *bank) fence(t *testing.T, name string) *fence {
	t.Helper()
	p := b.steal(t, pki.RoleSensor, name)
	return &fence{party: p, client: b.connect(t, p)}
}

// pass publishes an honest reading and waits until the tap has seen it.
func (f *fence) pass(t *testing.T, p *tap) {
	t.Helper()
	topic, raw := f.party.reading(t)
	publish(t, f.client, topic, raw)
	await(t, 10*time.Second, "an honest reading arrives", func() bool { return p.saw(raw) == 1 })
}
