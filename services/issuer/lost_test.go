package issuer

import (
	"bytes"
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"levee/internal/issuance"
	"levee/pki"
	"levee/pki/ca"
)

// lived issues a certificate of web1 that has left only so much of its life.
func (w *world) lived(life, left time.Duration) holder {
	w.t.Helper()
	key := w.key(pki.RoleSensor)
	by := w.issuers[machines("melb")]
	leaf, err := ca.IssueLeaf(by, web1, key.Public(), ca.Names{}, life, time.Now().Add(left-life))
	w.must(err)
	return holder{id: web1, key: key, leaf: leaf, issuer: by.Certificate}
}

// Who was readmitted and lost the answer asks again with the same key, and
// gets it; a thief of the expired certificate does not have that key.
func TestALostAnswerToAReadmission(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	h := w.holder(web1, time.Now().Add(-48*time.Hour))
	all := func() {
		t.Helper()
		r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, w.holder(ann, time.Now()), time.Now()))
	}
	all()
	key := w.key(pki.RoleSensor)
	lost := r.issued(r.renew(h, key), web1, key)
	r.refused("another key", r.renew(h, w.key(pki.RoleSensor)), 403, ReasonExpired)
	if again := r.issued(r.renew(h, key), web1, key); !again.leaf.Equal(lost.leaf) {
		t.Error("another certificate")
	}
	all()
	if again := r.issued(r.renew(h, key), web1, key); !again.leaf.Equal(lost.leaf) {
		t.Error("another certificate, after another readmission")
	}
	if n := len(r.entries()); n != 3 {
		t.Errorf("%d entries", n)
	}
}

// A certificate that expired before its answer came does not lock its machine
// out of a readmission of all: it has the newest key.
func TestALostAnswerThatExpired(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{lifetime: 2 * time.Second})
	h := w.lived(time.Hour, 1500*time.Millisecond)
	key := w.key(pki.RoleSensor)
	lost := r.issued(r.renew(h, key), web1, key)
	time.Sleep(time.Until(lost.leaf.NotAfter) + time.Second)
	r.refused("before anybody readmits it", r.renew(h, key), 0, "")
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, w.holder(ann, time.Now()), time.Now()))
	r.refused("a thief", r.renew(h, w.key(pki.RoleSensor)), 403, ReasonExpired)
	next := r.issued(r.renew(h, key), web1, key)
	if next.leaf.Equal(lost.leaf) {
		t.Error("it got the one that expired")
	}
	time.Sleep(time.Until(next.leaf.NotAfter) + time.Second)
	r.refused("a second time", r.renew(h, key), 403, ReasonExpired)
}

// What an authority that was replaced has issued is not given again: nobody
// would take it.
func TestALostAnswerOfAnotherAuthority(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	h := w.holder(web1, time.Now().Add(-time.Hour))
	key := w.key(pki.RoleSensor)
	r.issued(r.renew(h, key), web1, key)
	r.issuer.config.Authority = w.authority(machines("melb"), 24*time.Hour*300, time.Now().Add(-time.Hour))
	r.refused("the key of before", r.renew(h, key), 403, ReasonKey)
}

// Nothing is issued for who has gone: a slow disk would use up readmissions
// that nobody hears of.
func TestNobodyWaits(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	h := w.holder(web1, time.Now().Add(-48*time.Hour))
	r.carriedOut(w.order(issuance.Readmit, issuance.Order{All: true}, w.holder(ann, time.Now()), time.Now()))
	gone, leave := context.WithCancel(t.Context())
	leave()
	before := r.journal.Position().Lines
	key := w.key(pki.RoleSensor)
	request := httptest.NewRequestWithContext(gone, "POST", pathRenew, bytes.NewReader(w.request(key, nil)))
	answer := httptest.NewRecorder()
	err := r.server.reenroll(answer, request, &peer{id: web1, leaf: h.leaf, expired: true}, time.Now())
	if why, ok := err.(*refusal); !ok || why.reason != ReasonJournal || why.retry == 0 {
		t.Errorf("a renewal: %v", err)
	}
	token := w.order(issuance.Join, issuance.Order{Targets: []string{"melb/sensor/web-9"}, SPKI: spkiOf(w, key)}, w.holder(ann, time.Now()), time.Now())
	csr, err := parseRequest(string(w.request(key, nil)))
	w.must(err)
	if _, err := r.issuer.join(gone, token, csr, time.Now()); err == nil {
		t.Error("a join")
	}
	if n := r.journal.Position().Lines; n != before {
		t.Fatalf("%d entries for nobody", n-before)
	}
	// Both are as good as before.
	r.issued(r.renew(h, key), web1, key)
}

// A thief of a certificate does not use up its owner's renewals, neither with
// rubbish nor, from elsewhere, with renewals.
func TestAThiefDoesNotStarveTheOwner(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{lifetime: pki.MaxMachineLifetime})
	h := w.holder(web1, time.Now())
	for range 12 {
		r.refused("rubbish", r.do(&h, "POST", pathRenew, []byte("garbage")), 400, ReasonRequest)
		r.refused("the same key", r.renew(h, h.key), 403, ReasonKey)
	}
	thief := caller{web1.Sender(), addressOf("127.0.0.2:1")}
	for r.server.renewals.take(thief, time.Now()) {
	}
	for range 10 {
		key := w.key(pki.RoleSensor)
		r.issued(r.renew(h, key), web1, key)
	}
	r.refused("the eleventh", r.renew(h, w.key(pki.RoleSensor)), 429, ReasonRate)
}
