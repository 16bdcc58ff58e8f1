package issuer

import (
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"levee/internal/issuance"
	"levee/pki"
)

// An operator revokes whom the issuer knows: who has a certificate of its
// journal, or of provisioning's, or is on the list. Names that nobody has would
// fill the list for good.
func TestOperatorsRevokeWhomTheIssuerKnows(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	var carried []*x509.Certificate
	r := w.serve(options{more: func() ([]*x509.Certificate, error) { return carried, nil }})
	p := w.holder(ann, now)
	send := func(by holder, o issuance.Order) answer {
		return r.do(&p, "POST", "/v1/orders", w.order(issuance.Revoke, o, by, time.Now()))
	}
	one := func(id pki.Identity) issuance.Order { return issuance.Order{Targets: []string{id.Sender()}} }
	renewed, named := identity("melb", pki.RoleSensor, "web-7"), identity("melb", pki.RoleGuest, "g-1")
	key := w.key(pki.RoleSensor)
	r.issued(r.renew(w.holder(renewed, now), key), renewed, key)

	invented := one(renewed)
	for i := range issuance.MaxTargets - 1 {
		invented.Targets = append(invented.Targets, fmt.Sprintf("melb/guest/x%d", i))
	}
	invented.Generation = 2
	r.refused("invented beside a true one", send(p, invented), 403, ReasonOrder)
	r.refused("one that no journal has", send(p, one(web1)), 403, ReasonOrder)
	if list, _ := r.issuer.ledger.current(); len(list) != 0 {
		t.Fatalf("%d entries", len(list))
	}
	// A bundle came since the issuer started.
	carried = append(carried, w.holder(web1, now.Add(-time.Hour)).leaf)
	for name, test := range map[string]struct {
		by holder
		id pki.Identity
	}{
		"of its journal": {p, renewed}, "of a bundle": {p, web1}, "by the people's authority": {w.people("melb"), named},
	} {
		if a := send(test.by, one(test.id)); a.status != 200 {
			t.Errorf("%s: %d %q", name, a.status, a.body)
		}
	}
	if a := send(p, one(named)); a.status != 200 {
		t.Errorf("on the list: %d %q", a.status, a.body)
	}
}

// What a readmission in force allows already is not ordered again; what it does
// not allow, or not for long, is.
func TestReadmissionsAddSomething(t *testing.T) {
	w := newWorld(t)
	now, p := time.Now(), w.holder(ann, time.Now())
	order := func(o issuance.Order) *issuance.SignedOrder {
		signed, err := issuance.ReadOrder(w.order(issuance.Readmit, o, p, now), machines("melb"))
		w.must(err)
		return signed
	}
	first, both, all := issuance.Order{Targets: []string{web1.Sender()}}, issuance.Order{Targets: []string{web1.Sender(), web2.Sender()}}, issuance.Order{All: true}
	b := w.book()
	check := func(when string, at time.Time, want [3]bool) {
		t.Helper()
		for i, o := range []issuance.Order{first, both, all} {
			if got := b.admitsAlready(order(o), at); got != want[i] {
				t.Errorf("%s, order %d: %v", when, i, got)
			}
		}
	}
	check("none", now, [3]bool{})
	b.readmit(first, p, now)
	check("one", now, [3]bool{true, false, false})
	b.readmit(issuance.Order{Targets: []string{web2.Sender()}}, p, now)
	check("each", now, [3]bool{true, true, false})
	check("half a day before the end", now.Add(admission/2), [3]bool{})
	b.issue(w.holder(web1, now), issuance.CauseReadmission, now)
	check("one has used it", now, [3]bool{})
	b.readmit(all, p, now)
	check("all", now, [3]bool{false, false, true})
	b.issue(w.holder(mon1, now), issuance.CauseReadmission, now)
	check("all, and one has used it", now, [3]bool{})
}

// Repeated readmissions do not fill journal and memory; other orders of the same
// signer are bounded, and those of another go on.
func TestOrdersAreLimited(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	r.server.requests = newLimiter[string](time.Millisecond, 1000)
	r.issuer.orders.every = 1e-6 // nothing comes back, however slow this machine is
	p := w.holder(ann, time.Now())
	readmit := func(o issuance.Order) answer {
		return r.do(&p, "POST", "/v1/orders", w.order(issuance.Readmit, o, p, time.Now()))
	}
	same := issuance.Order{Targets: []string{web1.Sender()}}
	if a := readmit(same); a.status != 200 {
		t.Fatalf("%d %q", a.status, a.body)
	}
	r.refused("the same again", readmit(same), 409, ReasonUsed)
	for i := range ordersAtOnce - 2 {
		if a := readmit(issuance.Order{Targets: []string{fmt.Sprintf("melb/sensor/x%d", i)}}); a.status != 200 {
			t.Fatalf("%d: %d %q", i, a.status, a.body)
		}
	}
	a := readmit(issuance.Order{Targets: []string{web2.Sender()}})
	r.refused("one too many", a, 429, ReasonRate)
	if a.header.Get("Retry-After") == "" || len(r.entries()) != ordersAtOnce-1 {
		t.Errorf("%d entries, to be asked again in %q s", len(r.entries()), a.header.Get("Retry-After"))
	}
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Targets: []string{ann.Sender()}}, w.people("melb"), time.Now()))
}

// A readmission changes no list.
func TestReadmissionHasTheListsNumber(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	p := w.holder(ann, time.Now())
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Targets: []string{web1.Sender()}}, p, time.Now()))
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, p, time.Now()))
	if e := r.entries(); e[0].Number != e[1].Number {
		t.Errorf("number %d, then %d", e[0].Number, e[1].Number)
	}
}

// A restart knows what bundles replaced, although the order came before it.
func TestReplacedBundleIsNotReadmittedAfterARestart(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	first, second := w.holder(web1, now.Add(-5*day)), w.holder(web1, now.Add(-3*day))
	more := func() ([]*x509.Certificate, error) { return []*x509.Certificate{first.leaf, second.leaf}, nil }
	r := w.serve(options{more: more})
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, w.holder(ann, now), time.Now()))
	r.stop()
	r = w.serve(options{dir: r.dir, more: more})
	r.refused("a replaced one", r.renew(first, w.key(pki.RoleSensor)), 403, ReasonExpired)
}
