package revocation

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

const (
	trustDomain = "bank.example"
	topic       = "melb/bank_server/revocations/issuer-1"
	skew        = 30 * time.Second
)

var (
	issuer1 = identity("melb", pki.RoleIssuer, "issuer-1")
	web1    = identity("melb", pki.RoleSensor, "web-1")
	web2    = identity("melb", pki.RoleSensor, "web-2")
	alice   = identity("melb", pki.RoleOperator, "alice")
)

func identity(site string, role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: site, Role: role, Name: name}
}

// bank is a root with its authorities. It plays the issuer.
type bank struct {
	t           testing.TB
	root        ca.Issuer
	now         time.Time
	key         *envelope.Key
	authorities map[pki.Authority]ca.Issuer
	seq         uint64
}

func newBank(t testing.TB, now time.Time) *bank {
	t.Helper()
	key := must(ca.NewRootKey())
	b := &bank{t: t, now: now, authorities: map[pki.Authority]ca.Issuer{},
		root: must(ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 24 * 365 * time.Hour}, now.Add(-time.Hour)))}
	b.key = must(envelope.NewKey(bytes.Repeat([]byte{7}, envelope.KeySize)))
	return b
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (b *bank) authority(a pki.Authority) ca.Issuer {
	issuer, ok := b.authorities[a]
	if !ok {
		key := must(ca.NewAuthorityKey())
		issuer = ca.Issuer{Signer: key, Certificate: must(ca.IssueAuthority(b.root, a, key.Public(), ca.Zones{}, 24*300*time.Hour, b.now.Add(-time.Hour)))}
		b.authorities[a] = issuer
	}
	return issuer
}

// holder is a key with its certificate.
type holder struct {
	id     pki.Identity
	key    crypto.Signer
	leaf   *x509.Certificate
	issuer *x509.Certificate
}

// issue makes a certificate of id that begins at the time from or a little
// earlier.
func (b *bank) issue(id pki.Identity, from time.Time) holder {
	b.t.Helper()
	issuer := b.authority(id.Authority())
	key := must(pki.NewKey(id.Role))
	leaf, err := ca.IssueLeaf(issuer, id, key.Public(), ca.Names{}, 24*time.Hour, from)
	if err != nil {
		b.t.Fatal(err)
	}
	return holder{id: id, key: key, leaf: leaf, issuer: issuer.Certificate}
}

// sign returns a signed message of a payload, as h sends it at the time at.
func (b *bank) sign(h holder, topic string, payload []byte, at time.Time) []byte {
	b.t.Helper()
	return b.signAs(h, h.id, topic, payload, at)
}

func (b *bank) signAs(h holder, kid pki.Identity, topic string, payload []byte, at time.Time) []byte {
	b.t.Helper()
	b.seq++
	signer := must(envelope.NewSigner(h.key, h.leaf, h.issuer))
	return must(envelope.Append(nil, envelope.Header{
		KeyID: envelope.KeyID{Site: kid.Site, Role: string(kid.Role), Name: kid.Name, Generation: 1},
		Time:  at.UnixMilli(), Nonce: envelope.Nonce{Boot: uint64(b.now.UnixMilli()), Seq: b.seq}, Topic: topic,
	}, payload, b.key, signer))
}

// payload returns that of a list.
func payload(number uint64, at time.Time, revoked ...wire.Revoked) []byte {
	return must(wire.Encode(&wire.Revocations{Timestamp: float64(at.UnixMilli()) / 1000, Number: number, Issued: at.UnixMilli(),
		Revoked: append([]wire.Revoked{}, revoked...)}))
}

// pins is a document that pins the key of one sender, and without a sender
// whatever key is asked about.
type pins struct {
	sender string
	spki   [32]byte
}

func (p *pins) Pinned(sender string, leaf *x509.Certificate) (match, pinned bool) {
	if p.sender == "" {
		return true, true
	}
	return sender == p.sender && pki.SPKIHash(leaf) == p.spki, sender == p.sender
}

// part is what opens a Set, more than once.
type part struct {
	config Config
	log    *logBuffer
}

func newPart(t testing.TB, b *bank) *part {
	t.Helper()
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: b.root.Certificate, TrustDomain: trustDomain})
	if err != nil {
		t.Fatal(err)
	}
	log := &logBuffer{}
	return &part{log: log, config: Config{Site: "melb", Verifier: v, Document: &pins{}, File: filepath.Join(t.TempDir(), FileName), Skew: skew,
		Log: slog.New(slog.NewTextHandler(log, nil))}}
}

func (p *part) open(t testing.TB, now time.Time) *Set {
	t.Helper()
	s, err := Open(p.config, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
