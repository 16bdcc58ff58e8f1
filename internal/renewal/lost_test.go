package renewal_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/enrol"
	"levee/internal/renewal"
)

// lossy loses the first answers of an issuer, which gives the same certificate
// for the same key again, as services/issuer does.
type lossy struct {
	*issuer
	lose   int
	issued map[string]*x509.Certificate
}

func (l *lossy) Reenroll(ctx context.Context, request []byte) (leaf, by *x509.Certificate, err error) {
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, nil, err
	}
	key := string(csr.RawSubjectPublicKeyInfo)
	if again := l.issued[key]; again != nil {
		l.asked = append(l.asked, time.Now())
		leaf, by = again, l.machines.Certificate
	} else if leaf, by, err = l.issuer.Reenroll(ctx, request); err != nil {
		return nil, nil, err
	}
	l.issued[key] = leaf
	if l.lose > 0 {
		l.lose--
		return nil, nil, errors.New("the connection broke")
	}
	return leaf, by, nil
}

func newLossy(p *part, lose int) *lossy {
	return &lossy{issuer: p.issuer, lose: lose, issued: make(map[string]*x509.Certificate)}
}

// keyWaits reports whether a key for the next certificate is on disk.
func (p *part) keyWaits(t *testing.T) bool {
	t.Helper()
	info, err := os.Stat(filepath.Join(p.dir, "renewing.key"))
	if err == nil && info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %s", info.Mode())
	}
	return err == nil
}

func TestALostAnswerIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		l := newLossy(p, 3)
		p.run(t, renewal.Config{Issuer: l}, month*5/12+time.Hour)
		if len(l.asked) != 4 || len(l.keys) != 1 {
			t.Errorf("asked %d times with %d keys", len(l.asked), len(l.keys))
		}
		if !l.issued[string(p.store.Current().Leaf().RawSubjectPublicKeyInfo)].Equal(p.store.Current().Leaf()) {
			t.Error("the store holds another certificate")
		}
		if p.keyWaits(t) {
			t.Error("the key was kept after it was used")
		}
	})
}

// Also by whoever was readmitted, whose one renewal it was, and also after a restart.
func TestALostAnswerAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		time.Sleep(2 * month)
		l := newLossy(p, 1<<30)
		p.run(t, renewal.Config{Issuer: l}, time.Hour)
		if !p.keyWaits(t) || len(l.keys) != 1 {
			t.Fatalf("asked %d times with %d keys", len(l.asked), len(l.keys))
		}
		p.open(t)
		l.lose = 0
		p.run(t, renewal.Config{Issuer: l}, time.Hour)
		if len(l.keys) != 1 || !p.store.Current().Leaf().NotAfter.After(time.Now()) {
			t.Errorf("%d keys, and the certificate ends at %s", len(l.keys), p.store.Current().Leaf().NotAfter)
		}
	})
}

// What was issued and could not be kept is asked for again, not made again.
func TestADiskThatIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		l := newLossy(p, 0)
		renewed := filepath.Join(p.dir, "renewed.pem")
		if err := os.Mkdir(renewed, 0o700); err != nil { // nothing can be renamed onto it
			t.Fatal(err)
		}
		time.Sleep(month / 2)
		p.run(t, renewal.Config{Issuer: l}, 2*time.Hour)
		if len(l.asked) < 10 || len(l.keys) != 1 {
			t.Errorf("asked %d times with %d keys", len(l.asked), len(l.keys))
		}
		if err := os.Remove(renewed); err != nil {
			t.Fatal(err)
		}
		p.run(t, renewal.Config{Issuer: l}, time.Hour)
		if len(l.keys) != 1 || l.issued[string(p.store.Current().Leaf().RawSubjectPublicKeyInfo)] == nil {
			t.Errorf("%d keys, or not renewed", len(l.keys))
		}
		// Where not even the key can be kept, nobody is asked.
		l.asked = nil
		if err := os.Mkdir(filepath.Join(p.dir, "renewing.key"), 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(month / 2)
		p.run(t, renewal.Config{Issuer: l}, time.Hour)
		if len(l.asked) != 0 {
			t.Errorf("asked %d times with a key that was not kept", len(l.asked))
		}
	})
}

// A key from which nothing can come any more is given up; one that may have its
// certificate already is not.
func TestAKeyIsGivenUp(t *testing.T) {
	for text, test := range map[string]struct {
		fail error
		gone bool
	}{
		"used":        {&enrol.Refused{Status: 403, Text: "key: the key was used before"}, true},
		"profile":     {&enrol.Refused{Status: 403, Text: "profile: no certificate can be issued for this identity and key"}, true},
		"revoked":     {&enrol.Refused{Status: 403, Text: "revoked: the certificate for this key is revoked"}, true},
		"expired":     {&enrol.Refused{Status: 403, Text: "expired: nobody has readmitted it"}, false},
		"journal":     {&enrol.Refused{Status: 503, Text: "journal: it cannot be written"}, false},
		"rate":        {&enrol.Refused{Status: 429, Text: "rate: too many renewals"}, false},
		"another 403": {&enrol.Refused{Status: 403, Text: "keys are not here"}, false},
		"unreachable": {errors.New("connection refused"), false},
	} {
		t.Run(text, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPart(t, month)
				before, err := p.store.NextKey()
				if err != nil {
					t.Fatal(err)
				}
				p.issuer.fail = test.fail
				time.Sleep(month / 2)
				p.run(t, renewal.Config{Issuer: p.issuer}, 10*time.Second)
				after, err := p.store.NextKey()
				if err != nil {
					t.Fatal(err)
				}
				if gone := string(spki(t, before)) != string(spki(t, after)); gone != test.gone {
					t.Errorf("given up: %v", gone)
				}
			})
		})
	}
}

// A certificate whose answer was lost, and which a bundle carried since outlasts,
// is of no use: the next attempt is with another key.
func TestANewBundleAfterALostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPart(t, month)
		l := newLossy(p, 1<<30)
		time.Sleep(month / 2)
		p.run(t, renewal.Config{Issuer: l}, time.Hour)
		p.carry(t, month)
		l.lose = 0
		carried := p.store.Current()
		p.run(t, renewal.Config{Issuer: l}, month/2)
		if len(l.keys) != 2 || !p.store.Current().Leaf().NotAfter.After(carried.Leaf().NotAfter) {
			t.Errorf("%d keys, and the certificate ends at %s:\n%s", len(l.keys), p.store.Current().Leaf().NotAfter, p.log)
		}
	})
}

func spki(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}
