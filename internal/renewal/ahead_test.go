package renewal_test

import (
	"context"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/enrol"
	"levee/internal/renewal"
	"levee/pki"
	"levee/pki/ca"
)

// The clocks of a site were ahead, its machines renewed, the clocks were put right:
// what a part holds last is not valid yet, and the one before it is used.
func TestClocksWereAhead(t *testing.T) {
	var p *part
	var right time.Duration
	dir := t.TempDir() // of longer life than a bubble's
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		p = newPart(t, month)
		p.run(t, renewal.Config{Issuer: p.issuer}, 45*24*time.Hour)
		right = time.Since(begin)
		time.Sleep(14 * 24 * time.Hour) // the clock jumps
		asked := len(p.issuer.asked)
		p.run(t, renewal.Config{Issuer: p.issuer}, time.Hour)
		if len(p.issuer.asked) == asked {
			t.Fatal("it was not renewed meanwhile")
		}
		if err := os.CopyFS(dir, os.DirFS(p.dir)); err != nil {
			t.Fatal(err)
		}
		err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			return os.Chmod(filepath.Join(dir, name), 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // and is put right
		time.Sleep(right + 2*time.Hour)
		s, err := pki.OpenRenewable(dir+"/tls.key", dir+"/tls.pem", dir+"/renewed.pem", p.v)
		if err != nil {
			t.Fatal(err)
		}
		if leaf, now := s.Current().Leaf(), time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
			t.Errorf("at %s the part holds a certificate from %s to %s", now, leaf.NotBefore, leaf.NotAfter)
		}
	})
}

// ahead is an issuer whose clock was ahead when it answered first. It gives the
// same certificate for the same key again, as services/issuer does.
type ahead struct {
	*issuer
	by     time.Duration
	issued map[string]*x509.Certificate
}

func (a *ahead) Reenroll(_ context.Context, request []byte) (leaf, by *x509.Certificate, err error) {
	a.asked = append(a.asked, time.Now())
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, nil, err
	}
	key := string(csr.RawSubjectPublicKeyInfo)
	if a.issued[key] == nil {
		if a.issued[key], err = ca.IssueLeaf(a.machines, a.id, csr.PublicKey, ca.Names{}, a.life, time.Now().Add(a.by)); err != nil {
			return nil, nil, err
		}
	}
	a.by = 0 // it is right again
	return a.issued[key], a.machines.Certificate, nil
}

// The issuer's clock was ahead when a machine asked, once: what becomes valid soon
// is asked for again, and for anything else there is another key.
func TestTheIssuersClockWasAhead(t *testing.T) {
	for name, test := range map[string]struct {
		by   time.Duration
		keep bool
		keys int
		said bool
	}{
		"by 25 days":     {25 * 24 * time.Hour, false, 2, true},
		"by a minute":    {110 * time.Second, false, 1, false}, // a minute of that it dates back
		"by two minutes": {130 * time.Second, false, 2, true},
		"a pinned key":   {30 * time.Minute, true, 1, true}, // the issuer's to put right
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPart(t, month)
				a := &ahead{issuer: p.issuer, by: test.by, issued: make(map[string]*x509.Certificate)}
				time.Sleep(month / 2)
				p.run(t, renewal.Config{Issuer: a, KeepKey: test.keep}, time.Hour)
				if leaf := p.store.Current().Leaf(); leaf.NotBefore.Before(time.Now().Add(-2 * time.Hour)) {
					t.Errorf("not renewed:\n%s", p.log)
				}
				if len(a.issued) != test.keys || len(a.asked) > 30 {
					t.Errorf("asked %d times with %d keys", len(a.asked), len(a.issued))
				}
				if said := strings.Contains(p.log.String(), "not valid yet"); said != test.said {
					t.Errorf("said so: %v\n%s", said, p.log)
				}
			})
		})
	}
}

// An issuer whose clock stays ahead is not asked in a tight loop, and no key is
// left of it.
func TestAnIssuersClockThatStaysAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		before := p.store.Current()
		p.issuer.tamper = func(leaf, by *x509.Certificate) (*x509.Certificate, *x509.Certificate) {
			leaf, err := ca.IssueLeaf(p.issuer.machines, p.issuer.id, leaf.PublicKey, ca.Names{}, month, time.Now().Add(24*time.Hour))
			if err != nil {
				t.Error(err)
			}
			return leaf, by
		}
		time.Sleep(month / 2)
		p.run(t, renewal.Config{Issuer: p.issuer}, 24*time.Hour)
		if n := len(p.issuer.asked); n < 50 || n > 300 || len(p.issuer.keys) != n {
			t.Errorf("asked %d times within a day, with %d keys", n, len(p.issuer.keys))
		}
		if p.store.Current() != before || p.keyWaits(t) {
			t.Error("it was taken, or its key kept")
		}
	})
}

// Somebody lowers the issuer's lifetime. What would end earlier is not taken, and
// not asked for each few minutes: each question costs a line of the journal.
func TestAShorterLifetime(t *testing.T) {
	for name, fail := range map[string]error{
		"as issued": nil, "as refused": &enrol.Refused{Status: 503, Text: "profile: it would end earlier", RetryAfter: 12 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPart(t, month)
				p.issuer.life, p.issuer.fail = 24*time.Hour, fail
				time.Sleep(month / 2)
				p.run(t, renewal.Config{Issuer: p.issuer}, 24*time.Hour)
				if n := len(p.issuer.asked); n < 15 || n > 25 {
					t.Errorf("asked %d times within a day", n)
				}
				for i := 1; i < len(p.issuer.asked); i++ {
					if wait := p.issuer.asked[i].Sub(p.issuer.asked[i-1]); wait < time.Hour {
						t.Errorf("question %d after %s", i, wait)
					}
				}
				// Near the end of the longer life it is taken.
				p.issuer.fail = nil
				p.run(t, renewal.Config{Issuer: p.issuer}, 14*24*time.Hour)
				if left := time.Until(p.store.Current().Leaf().NotAfter); left < 12*time.Hour || left > 24*time.Hour {
					t.Errorf("%s are left", left)
				}
			})
		})
	}
}

// A short life does not pass while the issuer has the part wait, nor does an hour
// more than it asks for.
func TestWaitsForTheIssuerAreBounded(t *testing.T) {
	for name, test := range map[string]struct{ life, asks, least, most time.Duration }{
		"a month":       {month, 30 * time.Minute, 30 * time.Minute, 40 * time.Minute},
		"a day too far": {month, 18 * time.Hour, time.Hour, 80 * time.Minute},
		"a short life":  {time.Hour, 18 * time.Hour, 3 * time.Minute, 4 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPart(t, test.life)
				p.issuer.fail = &enrol.Refused{Status: 503, Text: "profile: not now", RetryAfter: test.asks}
				time.Sleep(test.life / 2)
				p.run(t, renewal.Config{Issuer: p.issuer}, 4*test.most)
				if len(p.issuer.asked) < 3 {
					t.Fatalf("asked %d times", len(p.issuer.asked))
				}
				for i := 1; i < len(p.issuer.asked); i++ {
					if wait := p.issuer.asked[i].Sub(p.issuer.asked[i-1]); wait < test.least || wait > test.most+time.Minute {
						t.Errorf("question %d after %s", i, wait)
					}
				}
			})
		})
	}
}

// counted counts what it passes on, while the part runs.
type counted struct {
	renewal.Issuer
	n atomic.Int32
}

func (c *counted) Reenroll(ctx context.Context, request []byte) (leaf, by *x509.Certificate, err error) {
	c.n.Add(1)
	return c.Issuer.Reenroll(ctx, request)
}

// Whoever is put out at each connection renews before it is due, once an hour
// whatever happens, and goes on asking until it has.
func TestHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		asked := &counted{Issuer: newLossy(p, 1)}
		r, err := renewal.New(renewal.Config{Store: p.store, Issuer: asked, Log: p.logger})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		time.Sleep(24 * time.Hour)
		if asked.n.Load() != 0 {
			t.Fatal("asked before it was due")
		}
		first := p.store.Current()
		r.Hurry()
		synctest.Wait()
		if asked.n.Load() != 1 {
			t.Fatalf("asked %d times", asked.n.Load())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		second := p.store.Current()
		if second == first || asked.n.Load() != 2 {
			t.Fatalf("not renewed, asked %d times:\n%s", asked.n.Load(), p.log)
		}
		for range 50 {
			r.Hurry()
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		if n := asked.n.Load(); n != 2 {
			t.Errorf("asked %d times within the hour", n)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		r.Hurry()
		r.Hurry()
		synctest.Wait()
		if asked.n.Load() != 3 || p.store.Current() == second {
			t.Errorf("an hour later: asked %d times", asked.n.Load())
		}
		cancel()
		<-done
	})
}
