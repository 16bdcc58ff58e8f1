package issuance

import (
	"crypto"
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

const trustDomain = "bank.example"

// world is a root with two sites' authorities, and people of one of them.
type world struct {
	t        testing.TB
	now      time.Time
	root     ca.Issuer
	verifier *pki.Verifier
	issuers  map[pki.Authority]ca.Issuer
}

func machines(site string) pki.Authority {
	return pki.Authority{TrustDomain: trustDomain, Site: site, Class: pki.ClassMachine}
}

func people(site string) pki.Authority {
	return pki.Authority{TrustDomain: trustDomain, Site: site, Class: pki.ClassPerson}
}

func identity(site string, role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: site, Role: role, Name: name}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, now: time.Now(), issuers: make(map[pki.Authority]ca.Issuer)}
	key, err := ca.NewRootKey()
	w.must(err)
	w.root, err = ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 24 * time.Hour * 365}, w.now)
	w.must(err)
	w.verifier, err = pki.NewVerifier(pki.VerifierConfig{Root: w.root.Certificate, TrustDomain: trustDomain})
	w.must(err)
	for _, a := range []pki.Authority{machines("melb"), people("melb"), machines("syd"), people("syd")} {
		w.issuers[a] = w.authority(a)
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// authority makes a further certificate of a, with a key of its own.
func (w *world) authority(a pki.Authority) ca.Issuer {
	w.t.Helper()
	key, err := ca.NewAuthorityKey()
	w.must(err)
	cert, err := ca.IssueAuthority(w.root, a, key.Public(), ca.Zones{}, 24*time.Hour*300, w.now)
	w.must(err)
	return ca.Issuer{Certificate: cert, Signer: key}
}

func (w *world) leaf(id pki.Identity) (*x509.Certificate, crypto.Signer) {
	w.t.Helper()
	key, err := pki.NewKey(id.Role)
	w.must(err)
	cert, err := ca.IssueLeaf(w.issuers[id.Authority()], id, key.Public(), ca.Names{}, 24*time.Hour, w.now)
	w.must(err)
	return cert, key
}

func (w *world) config(path string) Config {
	a := w.issuers[machines("melb")]
	return Config{Path: path, Name: "iss-1", Key: a.Signer, Issuer: a.Certificate, Root: w.root.Certificate, Verifier: w.verifier}
}

func (w *world) create() string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "journal")
	w.must(Create(path))
	return path
}

func (w *world) open(c Config, each func(Entry) error) *Journal {
	w.t.Helper()
	j, err := Open(c, each, w.now)
	w.must(err)
	w.t.Cleanup(func() { j.Close() })
	return j
}

func (w *world) issuance(name string) Record {
	cert, _ := w.leaf(identity("melb", pki.RoleSensor, name))
	return Record{Kind: Issuance, Certificate: cert, Cause: CauseRenewal}
}

// order returns an order signed by an operator, or by the people's authority.
func (w *world) order(kind OrderKind, o Order, by pki.Identity) []byte {
	w.t.Helper()
	if o.ID.IsZero() {
		o.ID = wire.NewID()
	}
	if o.Expires == 0 {
		o.Expires = w.now.Add(10 * time.Minute).UnixMilli()
	}
	sender, signer := by.Sender(), w.signer(by)
	if by.Role == "ca" {
		sender = by.Site + "/ca/people"
	}
	raw, err := SignOrder(kind, o, sender, signer, w.now)
	w.must(err)
	return raw
}

// byPeople stands for a site's people authority itself.
func byPeople(site string) pki.Identity { return pki.Identity{Site: site, Role: "ca", Name: "people"} }

func (w *world) signer(by pki.Identity) *envelope.Signer {
	w.t.Helper()
	key, cert, above := crypto.Signer(nil), (*x509.Certificate)(nil), w.root.Certificate
	if by.Role == "ca" {
		a := w.issuers[people(by.Site)]
		key, cert = a.Signer, a.Certificate
	} else {
		cert, key = w.leaf(by)
		above = w.issuers[by.Authority()].Certificate
	}
	signer, err := envelope.NewSigner(key, cert, above)
	w.must(err)
	return signer
}

func (w *world) parse(raw []byte) (*SignedOrder, error) {
	return ParseOrder(raw, w.root.Certificate, w.verifier, machines("melb"))
}
