package renewal_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/enrol"
	"levee/internal/renewal"
	"levee/pki"
	"levee/pki/ca"
)

const trustDomain = "bank.example"

// issuer renews by hand: what services/issuer decides is that package's test.
type issuer struct {
	t        *testing.T
	machines ca.Issuer
	id       pki.Identity
	life     time.Duration
	fail     error
	asked    []time.Time
	keys     map[string]bool
	tamper   func(leaf, issuer *x509.Certificate) (*x509.Certificate, *x509.Certificate)
}

func (i *issuer) Reenroll(_ context.Context, request []byte) (leaf, by *x509.Certificate, err error) {
	i.asked = append(i.asked, time.Now())
	if i.fail != nil {
		return nil, nil, i.fail
	}
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil || csr.CheckSignature() != nil {
		i.t.Errorf("the request is none: %v", err)
	}
	i.keys[string(csr.RawSubjectPublicKeyInfo)] = true
	leaf, err = ca.IssueLeaf(i.machines, i.id, csr.PublicKey, ca.Names{}, i.life, time.Now())
	if err == nil && i.tamper != nil {
		leaf, by = i.tamper(leaf, i.machines.Certificate)
		return leaf, by, nil
	}
	return leaf, i.machines.Certificate, err
}

// part is a sensor with a certificate of a given life, and who renews it.
type part struct {
	store  *pki.Store
	issuer *issuer
	log    *bytes.Buffer
	logger *slog.Logger
	dir    string
	root   ca.Issuer
	v      *pki.Verifier
}

func newPart(t *testing.T, life time.Duration) *part {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	rootKey, err := ca.NewRootKey()
	must(err)
	root, err := ca.NewRoot(rootKey, trustDomain, ca.RootOptions{Lifetime: 5 * 366 * 24 * time.Hour}, now)
	must(err)
	key, err := ca.NewAuthorityKey()
	must(err)
	cert, err := ca.IssueAuthority(root, pki.Authority{TrustDomain: trustDomain, Site: "melb", Class: pki.ClassMachine}, key.Public(), ca.Zones{}, 4*366*24*time.Hour, now)
	must(err)
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: trustDomain})
	must(err)
	machines := ca.Issuer{Certificate: cert, Signer: key}
	id := pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: pki.RoleSensor, Name: "web-1"}
	p := &part{dir: t.TempDir(), root: root, v: v, log: new(bytes.Buffer), issuer: &issuer{t: t, machines: machines, id: id, life: life, keys: make(map[string]bool)}}
	p.logger = slog.New(slog.NewTextHandler(p.log, nil))
	p.carry(t, life)
	return p
}

// carry gives the part a new bundle.
func (p *part) carry(t *testing.T, life time.Duration) {
	t.Helper()
	own, err := pki.NewKey(p.issuer.id.Role)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(p.issuer.machines, p.issuer.id, own.Public(), ca.Names{}, life, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, chainPEM, err := pki.MarshalCredential(own, leaf, p.issuer.machines.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"tls.key": keyPEM, "tls.pem": chainPEM} {
		if err := os.WriteFile(filepath.Join(p.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.open(t)
}

func (p *part) open(t *testing.T) {
	t.Helper()
	var err error
	p.store, err = pki.OpenRenewable(filepath.Join(p.dir, "tls.key"), filepath.Join(p.dir, "tls.pem"), filepath.Join(p.dir, "renewed.pem"), p.v)
	if err != nil {
		t.Fatal(err)
	}
}

// run renews for a while.
func (p *part) run(t *testing.T, c renewal.Config, d time.Duration) {
	t.Helper()
	c.Store, c.Log = p.store, p.logger
	r, err := renewal.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	r.Run(ctx)
}

const month = 30 * 24 * time.Hour

func TestRenewsFromAThirdOfLifeOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		start := time.Now()
		p.run(t, renewal.Config{Issuer: p.issuer}, 10*month)
		if n := len(p.issuer.asked); n < 24 || n > 30 {
			t.Fatalf("%d renewals in ten lifetimes", n)
		}
		last := start
		for i, at := range p.issuer.asked {
			if passed := at.Sub(last); passed < month/3-time.Hour || passed > month*5/12+time.Hour {
				t.Errorf("renewal %d after %s", i, passed)
			}
			last = at
		}
		if len(p.issuer.keys) != len(p.issuer.asked) {
			t.Errorf("%d keys for %d certificates", len(p.issuer.keys), len(p.issuer.asked))
		}
		if !p.store.Current().Leaf().NotAfter.After(time.Now().Add(month / 2)) {
			t.Error("the store holds an old certificate")
		}
		if strings.Contains(p.log.String(), "level=WARN") || strings.Contains(p.log.String(), "level=ERROR") {
			t.Errorf("all went well, and yet:\n%s", p.log)
		}
	})
}

func TestShortLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, 30*time.Second)
		p.run(t, renewal.Config{Issuer: p.issuer}, 10*30*time.Second)
		if n := len(p.issuer.asked); n < 20 || n > 40 {
			t.Errorf("%d renewals in ten lifetimes of 30 s", n)
		}
		if p.store.Current().Leaf().NotAfter.Before(time.Now().Add(10 * time.Second)) {
			t.Error("less than a third of the last certificate is left")
		}
	})
}

func TestAPinnedPartKeepsItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		first := p.store.Current().Leaf()
		p.run(t, renewal.Config{Issuer: p.issuer, KeepKey: true}, 3*month)
		last := p.store.Current().Leaf()
		if !last.NotAfter.After(first.NotAfter.Add(month)) || pki.SPKIHash(last) != pki.SPKIHash(first) {
			t.Errorf("not renewed, or with another key:\n%s", p.log)
		}
	})
}

// An issuer that is away for two thirds of life is no emergency; afterwards the
// part says so and goes on asking, until a person readmits it.
func TestAnIssuerThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		p.issuer.fail = errors.New("connection refused")
		p.run(t, renewal.Config{Issuer: p.issuer}, month*5/8)
		if strings.Contains(p.log.String(), "third of the certificate") {
			t.Errorf("warned of the end with more than a third left:\n%s", p.log)
		}
		asked := len(p.issuer.asked)
		if asked < 100 {
			t.Errorf("asked %d times only", asked)
		}
		p.log.Reset()
		p.run(t, renewal.Config{Issuer: p.issuer}, month*3/8+24*time.Hour)
		for _, line := range []string{"less than a third of the certificate's life is left", "the certificate has expired"} {
			if n := strings.Count(p.log.String(), line); n != 1 {
				t.Errorf("%q was said %d times", line, n)
			}
		}
		p.open(t) // the part starts with what has expired
		p.issuer.fail = nil
		p.run(t, renewal.Config{Issuer: p.issuer}, time.Hour)
		if !p.store.Current().Leaf().NotAfter.After(time.Now()) {
			t.Error("readmitted, and yet not renewed")
		}
		p.open(t)
		if !p.store.Current().Leaf().NotAfter.After(time.Now()) {
			t.Error("the renewed credential is not found at the next start")
		}
	})
}

func TestWaitsAsLongAsTheIssuerAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		p.issuer.fail = &enrol.Refused{Status: 429, Text: "slowly", RetryAfter: 8 * time.Minute}
		p.run(t, renewal.Config{Issuer: p.issuer}, month/2)
		for i := 1; i < len(p.issuer.asked); i++ {
			if wait := p.issuer.asked[i].Sub(p.issuer.asked[i-1]); wait < 4*time.Minute {
				t.Fatalf("asked again after %s", wait)
			}
		}
	})
}

func TestWithoutAnIssuerItWarns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		p.run(t, renewal.Config{}, 2*month)
		if !strings.Contains(p.log.String(), "less than a third") || !strings.Contains(p.log.String(), "has expired") {
			t.Errorf("the log says:\n%s", p.log)
		}
	})
}

// Near its authority's end a certificate ends with it. To renew it changes
// nothing, unless there is a new authority: it is asked for seldom, and not ever
// more often as its life becomes shorter.
func TestAnAuthorityThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		end := p.store.Current().Issuer().NotAfter
		time.Sleep(time.Until(end) - 20*24*time.Hour)
		p.carry(t, month)
		p.run(t, renewal.Config{Issuer: p.issuer}, 21*24*time.Hour)
		if n := len(p.issuer.asked); n < 10 || n > 60 {
			t.Errorf("asked %d times for what could not last longer", n)
		}
		for i := 1; i < len(p.issuer.asked); i++ {
			if wait := p.issuer.asked[i].Sub(p.issuer.asked[i-1]); wait < time.Hour {
				t.Errorf("question %d after %s", i, wait)
			}
		}
		if last := p.issuer.asked[len(p.issuer.asked)-1]; last.Before(end.Add(22 * time.Hour)) {
			t.Errorf("asked for the last time at %s, and the authority ended at %s", last, end)
		}
		for _, line := range []string{"its authority ends as well", "the certificate has expired"} {
			if n := strings.Count(p.log.String(), line); n != 1 {
				t.Errorf("%q was said %d times:\n%s", line, n, p.log)
			}
		}
	})
}

// A new authority reaches the machines whose certificates end with the old one,
// before that end, and also after it.
func TestANewAuthorityArrives(t *testing.T) {
	for name, left := range map[string]time.Duration{"in its last month": 15 * 24 * time.Hour, "in its last day": 20 * time.Hour, "after its end": -48 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPart(t, month)
				end := p.store.Current().Issuer().NotAfter
				time.Sleep(time.Until(end) - 20*24*time.Hour)
				p.carry(t, month)
				p.run(t, renewal.Config{Issuer: p.issuer}, time.Until(end)-left)
				next, err := ca.IssueAuthority(p.root, pki.Authority{TrustDomain: trustDomain, Site: "melb", Class: pki.ClassMachine},
					p.issuer.machines.Signer.Public(), ca.Zones{}, 300*24*time.Hour, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				p.issuer.machines.Certificate = next
				wait := 2 * time.Hour
				if left > 0 {
					wait = left - time.Hour
				}
				p.run(t, renewal.Config{Issuer: p.issuer}, wait)
				if c := p.store.Current(); !c.Issuer().Equal(next) || !c.Leaf().NotAfter.After(end.Add(10*24*time.Hour)) {
					t.Errorf("the certificate ends at %s, the old authority at %s", c.Leaf().NotAfter, end)
				}
			})
		})
	}
}

func TestAuthoritiesAreAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		time.Sleep(time.Until(p.store.Current().Issuer().NotAfter) - 40*24*time.Hour)
		p.carry(t, month)
		p.run(t, renewal.Config{Root: p.store.Current().Issuer()}, 41*24*time.Hour) // the same one twice is said once
		var said []string
		for line := range strings.Lines(p.log.String()) {
			if strings.Contains(line, "certificate authority") {
				said = append(said, line)
			}
		}
		want := []string{"days=30", "days=14", "days=7", "days=1", "has expired"}
		if len(said) != len(want) {
			t.Fatalf("%q", said)
		}
		for i, w := range want {
			if !strings.Contains(said[i], w) {
				t.Errorf("%q instead of %s", said[i], w)
			}
		}
	})
}

// What an issuer, or who plays one, must not get into the store.
func TestRefusedAnswers(t *testing.T) {
	const day = 24 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		other := newPart(t, day)
		for name, tamper := range map[string]func(leaf, by *x509.Certificate) (*x509.Certificate, *x509.Certificate){
			"another key": func(_, by *x509.Certificate) (*x509.Certificate, *x509.Certificate) {
				return other.store.Current().Leaf(), by
			},
			"another root": func(leaf, _ *x509.Certificate) (*x509.Certificate, *x509.Certificate) {
				return leaf, other.store.Current().Issuer()
			},
			"the authority itself": func(_, by *x509.Certificate) (*x509.Certificate, *x509.Certificate) { return by, by },
		} {
			p := newPart(t, day)
			before := p.store.Current()
			p.issuer.tamper = tamper
			p.run(t, renewal.Config{Issuer: p.issuer}, day/2)
			if p.store.Current() != before {
				t.Errorf("%s: the store took it", name)
			}
			if _, err := os.Stat(filepath.Join(p.dir, "renewed.pem")); err == nil {
				t.Errorf("%s: it was kept", name)
			}
		}
	})
}
