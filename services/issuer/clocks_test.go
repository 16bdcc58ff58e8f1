package issuer

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"levee/internal/issuance"
	"levee/pki"
)

// early has the issuer renew h for a key while its clock is ahead.
func (r *rig) early(h holder, key crypto.Signer, at time.Time) *x509.Certificate {
	r.t.Helper()
	csr, err := parseRequest(string(r.request(key, nil)))
	r.must(err)
	leaf, err := r.issuer.renew(r.t.Context(), &peer{id: h.id, leaf: h.leaf}, csr, func() bool { return true }, at)
	r.must(err)
	return leaf
}

// The issuer's clock was ahead for a moment. Who asked then keeps its key, and is
// not given again what is not valid yet: it would be locked out until it is.
func TestAnIssuerWhoseClockWasAhead(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	ahead := time.Now().Add(6 * time.Hour)
	h, key := w.holder(web1, time.Now()), w.key(pki.RoleSensor)
	first := r.early(h, key, ahead)
	right := r.issued(r.renew(h, key), web1, key)
	if again := r.issued(r.renew(h, key), web1, key); !again.leaf.Equal(right.leaf) || len(r.entries()) != 2 {
		t.Errorf("another one each time: %d entries", len(r.entries()))
	}
	// Revoked by its serial number, it is not made good by another one.
	other, lost := w.holder(web2, time.Now()), w.key(pki.RoleSensor)
	stolen := r.early(other, lost, ahead)
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Serials: []string{issuance.SerialText(stolen.SerialNumber)}}, w.holder(ann, time.Now()), time.Now()))
	r.refused("a lost answer that was revoked", r.renew(other, lost), 403, ReasonRevoked)
	if first.NotBefore.Before(time.Now()) {
		t.Fatal("it was not ahead")
	}
}

// The same, of a machine that has expired since and was readmitted.
func TestAnIssuerWhoseClockWasAheadReadmits(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	h, key := w.holder(web1, time.Now().Add(-48*time.Hour)), w.key(pki.RoleSensor)
	r.early(h, key, time.Now().Add(6*time.Hour))
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, w.holder(ann, time.Now()), time.Now()))
	r.issued(r.renew(h, key), web1, key)
}

// The same, of one that joined.
func TestAnIssuerWhoseClockWasAheadLetsJoin(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	web9, key, now := identity("melb", pki.RoleSensor, "web-9"), w.key(pki.RoleSensor), time.Now()
	token := w.order(issuance.Join, issuance.Order{Targets: []string{web9.Sender()}, SPKI: spkiOf(w, key), Expires: now.Add(14 * time.Minute).UnixMilli()}, w.holder(ann, now), now)
	csr, err := parseRequest(string(w.request(key, nil)))
	w.must(err)
	// Certificates are backdated by a minute; an order lasts a quarter of an hour.
	_, err = r.issuer.join(t.Context(), token, csr, now.Add(13*time.Minute))
	w.must(err)
	r.issued(r.join(key, token), web9, key)
	if n := len(r.entries()); n != 2 {
		t.Errorf("%d entries", n)
	}
}

// An order was carried out while all clocks were six hours ahead. Once they are
// right, a revocation by the people's authority takes the time back: the list is
// one that parts take, revokes what it revoked, and everybody orders again.
func TestAnOrderWhileTheClocksWereAhead(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	p, now := w.holder(ann, time.Now()), time.Now()
	ahead := now.Add(6 * time.Hour)
	victim := w.holder(web1, now.Add(-time.Hour))
	early := r.early(w.holder(web2, now), w.key(pki.RoleSensor), ahead)
	carryOut := func(kind issuance.OrderKind, o issuance.Order, by holder, at time.Time) error {
		_, err := r.issuer.carryOut(w.order(kind, o, by, at), at)
		return err
	}
	one := func(id pki.Identity) issuance.Order {
		return issuance.Order{Targets: []string{id.Sender()}, Generation: 2}
	}
	w.must(carryOut(issuance.Revoke, one(web1), p, ahead))
	w.must(carryOut(issuance.Revoke, one(web2), p, ahead))

	refusedFor(t, "an operator's revocation", carryOut(issuance.Revoke, one(web2), p, now), ReasonOrder)
	refusedFor(t, "the authority's readmission", carryOut(issuance.Readmit, issuance.Order{All: true}, w.people("melb"), now), ReasonOrder)
	w.must(carryOut(issuance.Revoke, issuance.Order{Targets: []string{vera.Sender()}}, w.people("melb"), now))
	list, number := r.issuer.ledger.current()
	if number != uint64(now.UnixMilli()) {
		t.Errorf("the list's number is %s ahead", time.Duration(int64(number)-now.UnixMilli())*time.Millisecond)
	}
	serials := 0
	for _, e := range list {
		if e.Before > now.UnixMilli() || e.Sender == web1.Sender() && e.Generation != 2 {
			t.Errorf("parts refuse, or miss: %+v", e)
		}
		if !e.Serial.IsZero() && e.Serial.String() == issuance.SerialText(early.SerialNumber) {
			serials++
		}
	}
	if len(list) != 4 || serials != 1 || !r.issuer.ledger.Revoked(web1, victim.leaf) || !r.issuer.ledger.Revoked(web2, early) {
		t.Errorf("the list is %+v", list)
	}
	if r.issuer.ledger.revokedSince(web1.Sender()) != now.UnixMilli() {
		t.Error("who was revoked then cannot come back until that time")
	}
	// Time goes on as ever, and the journal passes an audit.
	w.must(carryOut(issuance.Revoke, one(web2), p, now.Add(time.Second)))
	w.must(carryOut(issuance.Readmit, issuance.Order{All: true}, p, now.Add(time.Second)))
	if n := len(r.entries()); n != 6 {
		t.Errorf("%d entries", n)
	}
	before, number := r.issuer.ledger.current()
	r.stop()
	r = w.serve(options{dir: r.dir})
	if after, again := r.issuer.ledger.current(); again != number || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("list %d %+v after a restart, want %d %+v", again, after, number, before)
	}
}

// While the clock is behind the orders, none is taken.
func TestNoOrdersWhileTheClockIsBehind(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	p := w.holder(ann, time.Now())
	r.issuer.ledger.latest = time.Now().Add(issuance.MaxFall + time.Minute).UnixMilli()
	r.refused("behind", r.do(&p, "POST", "/v1/orders", w.order(issuance.Readmit, issuance.Order{All: true}, p, time.Now())), 503, ReasonOrder)
	r.issuer.ledger.latest = time.Now().Add(issuance.MaxFall - time.Minute).UnixMilli()
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, p, time.Now()))
}

// An issuer whose clock was set back does not renew what had ended when it
// carried out an order; everybody else it renews.
func TestAClockThatWasSetBackRenewsNothingThatEnded(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	now := time.Now()
	stolen, alive := w.holder(web1, now.Add(-36*time.Hour)), w.holder(web2, now.Add(-20*time.Hour))
	p := w.holder(ann, now)
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{Targets: []string{"melb/sensor/web-3"}}, p, now))
	renew := func(h holder, at time.Time) error {
		csr, err := parseRequest(string(w.request(w.key(pki.RoleSensor), nil)))
		w.must(err)
		_, err = r.issuer.renew(t.Context(), &peer{id: h.id, leaf: h.leaf, expired: at.After(h.leaf.NotAfter)}, csr, func() bool { return true }, at)
		return err
	}
	back := now.Add(-14 * time.Hour) // both are valid then
	err := renew(stolen, back)
	refusedFor(t, "one that had ended", err, ReasonExpired)
	if why, ok := err.(*refusal); !ok || why.status != 503 || why.retry == 0 {
		t.Errorf("%+v", err)
	}
	refusedFor(t, "by a readmission of then", renew(stolen, now.Add(-issuance.MaxFall-time.Minute)), ReasonExpired)
	if err := renew(alive, back); err != nil {
		t.Errorf("one that is valid whichever clock is right: %v", err)
	}
	// A clock that falls as far as clocks may differ holds up nobody.
	refusedFor(t, "expired, and nobody readmitted it", renew(stolen, now.Add(-issuance.MaxFall+time.Minute)), ReasonExpired)
	if l := r.issuer.ledger; l.endedSince(stolen.leaf, now.Add(-issuance.MaxFall+time.Minute)) || l.endedSince(stolen.leaf, now) {
		t.Error("the clock is behind although it is not")
	}
}
