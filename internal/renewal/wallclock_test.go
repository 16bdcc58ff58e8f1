package renewal

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

// fixed is a sensor with a certificate of 20 hours, of which 15 have passed, by
// the clock of this machine. The steps of its renewal may have another.
type fixed struct {
	*Renewal
	t        *testing.T
	now      time.Time
	dir      string
	machines ca.Issuer
	asked    int
	log      bytes.Buffer
}

func (f *fixed) Reenroll(context.Context, []byte) (leaf, issuer *x509.Certificate, err error) {
	f.asked++
	return nil, nil, errors.New("not today")
}

func (f *fixed) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func newFixed(t *testing.T) *fixed {
	t.Helper()
	f := &fixed{t: t, now: time.Now(), dir: t.TempDir()}
	rootKey, err := ca.NewRootKey()
	f.must(err)
	root, err := ca.NewRoot(rootKey, "bank.example", ca.RootOptions{Lifetime: 300 * 24 * time.Hour}, f.now.Add(-24*time.Hour))
	f.must(err)
	key, err := ca.NewAuthorityKey()
	f.must(err)
	cert, err := ca.IssueAuthority(root, pki.Authority{TrustDomain: "bank.example", Site: "melb", Class: pki.ClassMachine}, key.Public(), ca.Zones{}, 200*24*time.Hour, f.now.Add(-24*time.Hour))
	f.must(err)
	f.machines = ca.Issuer{Certificate: cert, Signer: key}
	keyPEM, chainPEM := f.issue(f.now.Add(-15 * time.Hour))
	f.write("tls.key", keyPEM)
	f.write("tls.pem", chainPEM)
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: "bank.example"})
	f.must(err)
	store, err := pki.OpenRenewable(filepath.Join(f.dir, "tls.key"), filepath.Join(f.dir, "tls.pem"), filepath.Join(f.dir, "renewed.pem"), v)
	f.must(err)
	f.Renewal, err = New(Config{Store: store, Issuer: f, Log: slog.New(slog.NewTextHandler(&f.log, nil))})
	f.must(err)
	return f
}

func (f *fixed) write(name string, b []byte) {
	f.must(os.WriteFile(filepath.Join(f.dir, name), b, 0o600))
}

func (f *fixed) issue(at time.Time) (keyPEM, chainPEM []byte) {
	f.t.Helper()
	own, err := pki.NewKey(pki.RoleSensor)
	f.must(err)
	leaf, err := ca.IssueLeaf(f.machines, pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: pki.RoleSensor, Name: "web-1"},
		own.Public(), ca.Names{}, 20*time.Hour, at)
	f.must(err)
	keyPEM, chainPEM, err = pki.MarshalCredential(own, leaf, f.machines.Certificate)
	f.must(err)
	return keyPEM, chainPEM
}

// A clock that was set back does not hold up the next attempt.
func TestTheClockWasSetBack(t *testing.T) {
	f := newFixed(t)
	f.step(t.Context(), f.now.Add(2*time.Hour))
	f.step(t.Context(), f.now)
	if f.asked != 2 {
		t.Errorf("asked %d times, want once at each time", f.asked)
	}
	f.step(t.Context(), f.now.Add(time.Millisecond))
	if f.asked != 2 {
		t.Error("the wait does not hold")
	}
}

// A part that runs when its clock is put right says once that its certificate is
// not valid yet, takes another one that is on disk, and asks for the next.
func TestTheClockIsPutRightMeanwhile(t *testing.T) {
	f := newFixed(t)
	first := f.config.Store.Current()
	early := f.now.Add(-17 * time.Hour)
	f.step(t.Context(), early)
	f.step(t.Context(), early.Add(time.Hour))
	if f.asked != 2 || f.config.Store.Current() != first {
		t.Errorf("asked %d times, and there is nothing better", f.asked)
	}
	if n := strings.Count(f.log.String(), "level=ERROR"); n != 1 || !strings.Contains(f.log.String(), "not valid yet") {
		t.Errorf("%d alarms:\n%s", n, f.log.String())
	}
	key, chain := f.issue(f.now.Add(-time.Hour))
	f.write("renewed.pem", slices.Concat(key, chain))
	f.step(t.Context(), f.now) // what is valid now is not read again
	if f.config.Store.Current() != first {
		t.Error("read again without need")
	}
	f.step(t.Context(), early.Add(time.Hour+time.Minute)) // nor often
	if f.config.Store.Current() != first {
		t.Error("read again each time")
	}
	f.step(t.Context(), early)
	if f.config.Store.Current() == first {
		t.Error("what is on disk is not used")
	}
	// And when what is used has ended.
	f = newFixed(t)
	first = f.config.Store.Current()
	key, chain = f.issue(f.now.Add(-time.Hour))
	f.write("renewed.pem", slices.Concat(key, chain))
	f.step(t.Context(), f.now.Add(310*time.Minute)) // and the other is not due
	if f.config.Store.Current() == first || f.asked != 0 {
		t.Errorf("what is on disk is not used once the other has ended, asked %d times", f.asked)
	}
}
