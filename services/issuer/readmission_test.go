package issuer

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"levee/internal/issuance"
	"levee/pki"
)

// An order for all admits no certificate that a bundle of provisioning replaced,
// whether the issuer knew that bundle from the start or not.
func TestReplacedBundleIsNotReadmitted(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	first, second, third := w.holder(web1, now.Add(-20*24*time.Hour)), w.holder(web1, now.Add(-3*24*time.Hour)), w.holder(web1, now.Add(-2*24*time.Hour))
	issued := []*x509.Certificate{second.leaf, first.leaf}
	r := w.serve(options{more: func() ([]*x509.Certificate, error) { return issued, nil }})
	p := w.holder(ann, now)
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, p, time.Now()))
	r.refused("a replaced one", r.renew(first, w.key(pki.RoleSensor)), 403, ReasonExpired)
	issued = append(issued, third.leaf)
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, p, time.Now()))
	r.refused("one that was replaced since", r.renew(second, w.key(pki.RoleSensor)), 403, ReasonExpired)
	key := w.key(pki.RoleSensor)
	r.issued(r.renew(third, key), web1, key)
}

func TestReadmission(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{more: w.bundles(identity("melb", pki.RoleSensor, "web-4"))})
	now := time.Now()
	p := w.holder(ann, now)
	dead := func(id pki.Identity) holder { return w.holder(id, now.Add(-48*time.Hour)) }
	web3 := identity("melb", pki.RoleSensor, "web-3")
	h1, h2, h3, gone := dead(web1), dead(web2), dead(web3), dead(identity("melb", pki.RoleSensor, "web-4"))
	r.refused("before", r.renew(h1, w.key(pki.RoleSensor)), 0, "")
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Targets: []string{gone.id.Sender()}}, p, time.Now()))
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{Targets: []string{web1.Sender()}}, p, time.Now()))
	key := w.key(pki.RoleSensor)
	back := r.issued(r.renew(h1, key), web1, key)
	if e := r.entries(); e[len(e)-1].Cause != issuance.CauseReadmission {
		t.Errorf("the cause is %s", e[len(e)-1].Cause)
	}
	if again := r.issued(r.renew(h1, key), web1, key); !again.leaf.Equal(back.leaf) {
		t.Error("a lost answer became another certificate")
	}
	r.refused("twice", r.renew(h1, w.key(pki.RoleSensor)), 403, ReasonExpired)
	next := w.key(pki.RoleSensor)
	r.issued(r.renew(back, next), web1, next)
	r.refused("one that was not named", r.renew(h2, w.key(pki.RoleSensor)), 0, "")
	// For nothing else than renewal.
	r.refused("the list", r.do(&h1, "GET", "/v1/crl", nil), 403, ReasonExpired)

	// A restart admits, and remembers who has come back.
	r.stop()
	r = w.serve(options{dir: r.dir})
	r.refused("twice, after a restart", r.renew(h1, w.key(pki.RoleSensor)), 403, ReasonExpired)
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, p, time.Now()))
	key = w.key(pki.RoleSensor)
	r.issued(r.renew(h2, key), web2, key)
	r.refused("a revoked one", r.renew(gone, w.key(pki.RoleSensor)), 0, "")
	// By an order for all, no certificate comes back that a newer one followed.
	r.refused("a superseded one", r.renew(h1, w.key(pki.RoleSensor)), 403, ReasonExpired)
	for name, h := range map[string]holder{
		"a person":             w.holder(vera, now.Add(-48*time.Hour)),
		"another site's":       dead(syd1),
		"one from tomorrow":    w.holder(web3, now.Add(24*time.Hour)),
		"one of another key":   {id: web3, key: w.key(pki.RoleSensor), leaf: h3.leaf, issuer: h3.issuer},
		"one of another root":  newWorld(t).holder(web3, now.Add(-48*time.Hour)),
		"a replaced authority": w.holderOf(web3, w.key(pki.RoleSensor), w.authority(machines("melb"), 24*time.Hour*300, now.Add(-30*24*time.Hour)), now.Add(-48*time.Hour)),
	} {
		r.refused(name, r.renew(h, w.key(pki.RoleSensor)), 0, "")
	}
	// A day after the order it is over.
	for _, a := range r.issuer.ledger.admits {
		a.from, a.until = a.from-admission.Milliseconds(), a.until-admission.Milliseconds()
	}
	r.refused("a day later", r.renew(h3, w.key(pki.RoleSensor)), 0, "")
}

// An order that names a revoked machine is refused, and nothing of it is done:
// whoever gave it would wait for a machine that never comes back.
func TestARevokedMachineIsNotReadmitted(t *testing.T) {
	w := newWorld(t)
	more := w.bundles(web1, web2)
	issued, err := more()
	w.must(err)
	r := w.serve(options{more: func() ([]*x509.Certificate, error) { return issued, nil }})
	p := w.holder(ann, time.Now())
	readmit := func(o issuance.Order) answer {
		return r.do(&p, "POST", "/v1/orders", w.order(issuance.Readmit, o, p, time.Now()))
	}
	serial := func(h holder) []string { return []string{issuance.SerialText(h.leaf.SerialNumber)} }

	// A single certificate that is revoked leaves the identity's others.
	h := w.holder(web2, time.Now())
	key := w.key(pki.RoleSensor)
	next := r.issued(r.renew(h, key), web2, key)
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Serials: serial(next)}, p, time.Now()))
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{Targets: []string{web2.Sender()}}, p, time.Now()))

	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Targets: []string{web1.Sender()}}, p, time.Now()))
	before := r.journal.Position().Lines
	refused := func(name string, a answer) {
		t.Helper()
		r.refused(name, a, 422, ReasonRevoked)
		if want := web1.Sender() + " is revoked: make a new bundle"; !strings.Contains(a.body, want) {
			t.Errorf("%s: %q, want %q", name, a.body, want)
		}
	}
	refused("alone", readmit(issuance.Order{Targets: []string{web1.Sender()}}))
	refused("beside another", readmit(issuance.Order{Targets: []string{web2.Sender(), web1.Sender()}}))
	r.stop()
	r = w.serve(options{dir: r.dir, more: func() ([]*x509.Certificate, error) { return issued, nil }})
	refused("after a restart", readmit(issuance.Order{Targets: []string{web1.Sender()}}))
	if n := r.journal.Position().Lines; n != before {
		t.Errorf("%d entries of what was refused", n-before)
	}
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, p, time.Now()))

	// A new bundle brings it back, until that is revoked as well.
	bundle := w.holder(web1, time.Now().Add(2*time.Minute))
	issued = append(issued, bundle.leaf)
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{Targets: []string{web1.Sender()}}, p, time.Now()))
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Serials: serial(bundle)}, w.people("melb"), time.Now()))
	refused("with its bundle revoked", readmit(issuance.Order{Targets: []string{web1.Sender()}}))
}
