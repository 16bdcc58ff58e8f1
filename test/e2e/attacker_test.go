package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

// party is an identity in the attacker's hands: everything that its bundle
// holds, and no levee code between it and the socket.
type party struct {
	id     pki.Identity
	cert   tls.Certificate
	signer *envelope.Signer
	key    *envelope.Key // nil for people
	secret []byte        // of key
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
		file, err := os.ReadFile(filepath.Join(dir, site.FileKeys))
		if err != nil {
			t.Fatal(err)
		}
		own, _ := pem.Decode(file) // the first block
		p.secret = own.Bytes
		if p.key, err = envelope.NewKey(p.secret); err != nil {
			t.Fatal(err)
		}
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

// alert returns the next honest alert of a monitor, and its topic.
func (p *party) alert(t *testing.T) (topic string, raw []byte) {
	t.Helper()
	topic = p.topic(wire.KindAlert)
	return topic, p.sign(t, p.header(topic), p.anAlert())
}

func (p *party) anAlert() *wire.Alert {
	return &wire.Alert{Timestamp: unixSeconds(time.Now()), Alert: wire.AlertCPU, State: wire.StateRaised, Incident: wire.NewID(),
		Server: "web-1", Metric: "cpu_usage", Value: 99, Threshold: 80}
}

// command returns the next honest command of a monitor, and its topic.
func (p *party) command(t *testing.T) (topic string, raw []byte) {
	t.Helper()
	topic = p.topic(wire.KindCommand)
	return topic, p.sign(t, p.header(topic), p.limit())
}

// limit is a command that the default policy lets a monitor give by itself.
func (p *party) limit() *wire.Command {
	now := time.Now()
	return &wire.Command{Timestamp: unixSeconds(now), ID: wire.NewID(), Command: wire.EnableRateLimiting, Controller: "lb-1", Server: "web-1",
		Parameters: wire.Parameters{RatePerSecond: 5, Burst: 10}, Issued: now.UnixMilli(), TTL: 300,
		Cause: "active_tcp_connections", Incident: wire.NewID(), Sensors: []string{"web-1"}}
}

// mint makes a certificate with the site's own machine authority, which is what
// a captured issuer can do, for a key that nobody was given.
func (b *bank) mint(t *testing.T, id pki.Identity, lifetime time.Duration) *party {
	t.Helper()
	path := filepath.Join(b.layout.Authority(), id.Site, "machine-ca")
	signer, err := pki.ReadKey(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := pki.ReadCertificate(path + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey(id.Role)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(ca.Issuer{Certificate: certificate, Signer: signer}, id, key.Public(), ca.Names{}, lifetime, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := pki.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.ParseCredential(keyPEM, pki.MarshalCertificates(leaf, certificate))
	if err != nil {
		t.Fatal(err)
	}
	return newParty(t, id, c)
}

// reseal gives a message the MAC that fits it, and leaves its signature alone:
// what whoever can check the party's MACs can do.
func (p *party) reseal(t *testing.T, raw []byte) []byte {
	t.Helper()
	body := raw[:bytes.LastIndex(raw, []byte(`,"mac":"`))]
	mac := hmac.New(sha256.New, p.secret)
	mac.Write([]byte("levee/envelope/v1\x00"))
	mac.Write(body)
	return fmt.Appendf(nil, `%s,"mac":"%s"}`, body, base64.RawURLEncoding.EncodeToString(mac.Sum(nil)))
}
