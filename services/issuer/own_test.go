package issuer

import (
	"crypto"
	"errors"
	"strings"
	"testing"
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
