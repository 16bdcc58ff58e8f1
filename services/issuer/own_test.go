package issuer

import (
	"context"
	"crypto"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/issuance"
	"levee/pki"
)

func orderOf(ids ...pki.Identity) (o issuance.Order) {
	for _, id := range ids {
		o.Targets = append(o.Targets, id.Sender())
	}
	return o
}

func nil0() (crypto.Signer, error) { return nil, errors.New("no key") }

// The issuer renews its own certificate from a third of life on, and when it has
// expired; through the journal, with a new key.
func TestOwnCertificate(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]struct {
		age   time.Duration // of a certificate of a day
		renew bool
	}{
		"young": {7 * time.Hour, false}, "at a third": {8*time.Hour + time.Minute, true}, "nearly over": {23 * time.Hour, true}, "expired": {40 * time.Hour, true},
	} {
		r := w.serve(options{own: w.holder(iss1, time.Now().Add(-test.age)), lifetime: 48 * time.Hour})
		old := r.store.Current().Leaf()
		r.issuer.tendOwn(time.Now())
		leaf := r.store.Current().Leaf()
		if renewed := !leaf.Equal(old); renewed != test.renew {
			t.Errorf("%s: renewed %v", name, renewed)
			continue
		}
		if !test.renew {
			continue
		}
		if pki.SPKIHash(leaf) == pki.SPKIHash(old) || strings.Join(leaf.DNSNames, " ") != strings.Join(old.DNSNames, " ") {
			t.Errorf("%s: the key is the old one, or the names are others: %v", name, leaf.DNSNames)
		}
		entries := r.entries()
		if len(entries) != 1 || !entries[0].Certificate.Equal(leaf) {
			t.Errorf("%s: %d entries", name, len(entries))
		}
		// Clients see it from the next connection on.
		key := w.key(pki.RoleSensor)
		r.issued(r.renew(w.holder(web1, time.Now()), key), web1, key)
		r.issuer.tendOwn(time.Now())
		if !r.store.Current().Leaf().Equal(leaf) {
			t.Errorf("%s: it renewed twice", name)
		}
	}
}

func TestOwnCertificateIsPinned(t *testing.T) {
	w := newWorld(t)
	own := w.holder(iss1, time.Now().Add(-20*time.Hour))
	r := w.serve(options{own: own, lifetime: 48 * time.Hour, pins: pins{iss1.Sender(): issuance.SPKIText(own.leaf.RawSubjectPublicKeyInfo)}})
	r.issuer.tendOwn(time.Now())
	leaf := r.store.Current().Leaf()
	if leaf.Equal(own.leaf) || pki.SPKIHash(leaf) != pki.SPKIHash(own.leaf) {
		t.Errorf("it was not renewed for the key that is pinned\n%s", r.log.tail())
	}
}

// What fails is tried again, says so, and leaves no entries behind.
func TestOwnCertificateNotRenewed(t *testing.T) {
	w := newWorld(t)
	j := &failing{err: errors.New("disk full")}
	r := w.serve(options{own: w.holder(iss1, time.Now().Add(-20*time.Hour)), wrap: func(inner Journal) Journal { j.Journal = inner; return j }})
	old := r.store.Current().Leaf()
	r.issuer.tendOwn(time.Now())
	if !r.store.Current().Leaf().Equal(old) || !r.log.contains("was not renewed") {
		t.Error("it has a certificate that is not in the journal, or nobody was told")
	}
	j.err = nil
	r.issuer.tendOwn(time.Now())
	if r.store.Current().Leaf().Equal(old) {
		t.Error("it was not tried again")
	}
	r.stop()
	// An authority that ends with the certificate has nothing more to give.
	w.issuers[machines("melb")] = w.authority(machines("melb"), 24*time.Hour, time.Now().Add(-23*time.Hour))
	own := w.holder(iss1, time.Now().Add(-20*time.Hour)) // a day, and cut to the authority's end
	r = w.serve(options{own: own})
	for range 3 {
		r.issuer.tendOwn(time.Now())
	}
	if n := len(r.entries()); n != 0 || !r.log.contains("the authority itself ends") {
		t.Errorf("%d entries, or nobody was told", n)
	}
}

// A lifetime that was lowered: what the issuer has lasts longer, so it renews
// nothing, and says nothing each time it looks.
func TestOwnCertificateWithALowerLifetime(t *testing.T) {
	w := newWorld(t)
	own := w.holder(iss1, time.Now().Add(-10*time.Hour)) // of 24 h, due since 2 h
	r := w.serve(options{lifetime: time.Hour, own: own})
	for range 3 {
		if err := r.issuer.renewOwn(time.Now()); err != nil {
			t.Error(err)
		}
	}
	if n := r.journal.Position().Lines; n != 0 {
		t.Errorf("%d certificates in the journal, none in use", n)
	}
	r.stop()
	own = w.holder(iss1, time.Now().Add(-23*time.Hour-time.Minute))
	r = w.serve(options{lifetime: time.Hour, own: own})
	w.must(r.issuer.renewOwn(time.Now()))
	if r.store.Current().Leaf().Equal(own.leaf) {
		t.Error("not renewed when it is of use")
	}
}

func TestARevokedIssuerDoesNotRenewItself(t *testing.T) {
	w := newWorld(t)
	own := w.holder(iss1, time.Now().Add(-10*time.Hour))
	r := w.serve(options{own: own})
	serial, _ := serialOf(own.leaf)
	r.issuer.ledger.single[serial] = 1
	err := r.issuer.renewOwn(time.Now())
	if err == nil || !strings.Contains(err.Error(), "revoked") || r.journal.Position().Lines != 0 {
		t.Errorf("%v, %d entries", err, r.journal.Position().Lines)
	}
}

// early are credentials whose current certificate is not valid yet, until they are
// read again.
type early struct {
	*pki.Store
	now      *pki.Credential
	reloaded bool
}

func (e *early) Current() *pki.Credential {
	if e.reloaded {
		return e.Store.Current()
	}
	return e.now
}

func (e *early) Reload() error {
	e.reloaded = true
	return e.Store.Reload()
}

// An issuer whose clock was ahead when it renewed itself goes back to what is
// valid, once the clock is right, and renews that in time.
func TestOwnCertificateFromTheFuture(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{own: w.holder(iss1, time.Now().Add(-9*time.Hour)), lifetime: 48 * time.Hour})
	before := r.store.Current().Leaf()
	future := w.storeOf(w.holder(iss1, time.Now()), t.TempDir()).Current()
	future.Leaf().NotBefore = time.Now().Add(time.Hour) // as far as anybody asks
	r.issuer.config.Credentials = &early{Store: r.store, now: future}
	r.issuer.tendOwn(time.Now())
	if leaf := r.issuer.config.Credentials.Current().Leaf(); leaf.Equal(before) || leaf.Equal(future.Leaf()) || time.Now().Before(leaf.NotBefore) {
		t.Errorf("it holds a certificate of %s", leaf.NotBefore)
	}
}

// An issuer that runs for long renews itself, writes its watermark, forgets what
// has ended, and raises the alarm when its clock cannot be right.
func TestTends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, dir, log := newWorld(t), t.TempDir(), new(logBuffer)
		store, a := w.storeOf(w.holder(iss1, time.Now()), dir), w.issuers[machines("melb")]
		seen := 0
		s, err := New(Config{Identity: iss1, Authority: a, Root: w.root.Certificate, Verifier: w.verifier, Pins: pins{}, Credentials: store,
			Key:      func() (crypto.Signer, error) { return pki.ReadKey(filepath.Join(dir, "tls.key")) },
			Seen:     func(issuance.Position) error { seen++; return nil },
			Lifetime: 24 * time.Hour, Log: log.logger()})
		w.must(err)
		path := filepath.Join(dir, FileJournal)
		w.must(issuance.Create(path))
		j, err := issuance.Open(issuance.Config{Path: path, Name: "iss-1", Key: a.Signer, Issuer: a.Certificate, Root: w.root.Certificate, Verifier: w.verifier}, s.Restore, time.Now())
		w.must(err)
		defer j.Close()
		s.Continue(j)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.tend(ctx); close(done) }()
		time.Sleep(5 * 24 * time.Hour)
		stop()
		<-done
		if end := store.Current().Leaf().NotAfter; end.Before(time.Now()) {
			t.Errorf("its own certificate ended at %s", end)
		}
		if seen < 5*24*60-1 {
			t.Errorf("the watermark was written %d times", seen)
		}
		if n := len(s.ledger.serials); n > 5 {
			t.Errorf("%d certificates are remembered", n)
		}
		if log.contains("is behind the orders") {
			t.Error("an alarm although the clock is right")
		}
		s.ledger.latest = time.Now().Add(issuance.MaxFall + time.Hour).UnixMilli()
		ctx, stop = context.WithTimeout(t.Context(), 2*time.Minute)
		defer stop()
		s.tend(ctx)
		if !log.contains("is behind the orders") {
			t.Error("nobody was told that the clock is behind the orders")
		}
	})
}
