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
	"levee/envelope/keys"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

// party is an identity in the attacker's hands: everything that its bundle
// holds, and no levee code between it and the socket.
type party struct {
	id     pki.Identity
	cert   tls.Certificate
	signer *envelope.Signer
	key    *envelope.Key // nil for people
	boot   uint64
	seq    uint64
}

// steal reads the bundle of one of the bank's identities.
func (b *bank) steal(t *testing.T, role pki.Role, name string) *party {
	t.Helper()
	return b.stealAt(t, "melb", role, name)
}

func (b *bank) stealAt(t *testing.T, siteName string, role pki.Role, name string) *party {
	t.Helper()
	id := pki.Identity{TrustDomain: "bank.example", Site: siteName, Role: role, Name: name}
	dir := b.layout.Bundle(id)
	c, err := pki.LoadCredential(filepath.Join(dir, site.FileKey), filepath.Join(dir, site.FileChain))
	if err != nil {
		t.Fatal(err)
	}
	p := newParty(t, id, c)
	if role.Class() == pki.ClassMachine {
		ring, err := keys.Load(filepath.Join(dir, site.FileKeys))
		if err != nil {
			t.Fatal(err)
		}
		p.key, _ = ring.Own()
	}
	return p
}

func newParty(t *testing.T, id pki.Identity, c *pki.Credential) *party {
	t.Helper()
	signer, err := envelope.NewSigner(c.Signer(), c.Leaf(), c.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	return &party{id: id, cert: c.TLS(), signer: signer, boot: uint64(time.Now().UnixMilli())}
}

// topic returns the party's own topic of a kind.
func (p *party) topic(k wire.Kind) string {
	return wire.Topic{Kind: k, Site: p.id.Site, Role: string(p.id.Role), Name: p.id.Name}.String()
}

// header returns that of the party's next honest message on topic.
func (p *party) header(topic string) envelope.Header {
	p.seq++
	return envelope.Header{
		KeyID: envelope.KeyID{Site: p.id.Site, Role: string(p.id.Role), Name: p.id.Name, Generation: 1},
		Time:  time.Now().UnixMilli(), Nonce: envelope.Nonce{Boot: p.boot, Seq: p.seq}, Topic: topic,
	}
}

// seal seals a payload with the party's key.
func (p *party) seal(t *testing.T, h envelope.Header, payload any) []byte {
	t.Helper()
	return seal(t, h, payload, p.key, nil)
}

// sign seals and signs a payload with the party's keys.
func (p *party) sign(t *testing.T, h envelope.Header, payload any) []byte {
	t.Helper()
	return seal(t, h, payload, p.key, p.signer)
}

func seal(t *testing.T, h envelope.Header, payload any, key *envelope.Key, signer *envelope.Signer) []byte {
	t.Helper()
	b, err := wire.Encode(payload)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := envelope.Append(nil, h, b, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// reading returns the next honest reading of a sensor, and its topic.
func (p *party) reading(t *testing.T) (topic string, raw []byte) {
	t.Helper()
	topic = p.topic(wire.KindCPU)
	return topic, p.seal(t, p.header(topic), p.cpu(3))
}

func (p *party) cpu(usage float64) *wire.CPU {
	return &wire.CPU{Timestamp: unixSeconds(time.Now()), Server: p.id.Name, Interval: 5, CPUUsage: usage}
}

func unixSeconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

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
func (p *tap) saw(raw []byte) int { return len(p.matching(func(m rawmqtt.Message) bool { return bytes.Equal(m.Payload, raw) })) }

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
