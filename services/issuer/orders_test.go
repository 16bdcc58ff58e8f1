package issuer

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"levee/internal/issuance"
	"levee/internal/wire"
	"levee/pki"
)

func TestRevocation(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	now := time.Now()
	old := w.holder(web1, now.Add(-time.Hour))
	key := w.key(pki.RoleSensor)
	renewed := r.issued(r.renew(old, key), web1, key)
	p := w.holder(ann, now)
	raw := w.order(issuance.Revoke, issuance.Order{Targets: []string{web1.Sender()}, Generation: 2, Reason: "stolen"}, p, time.Now())
	a := r.do(&p, "POST", "/v1/orders", raw)
	var got struct {
		Journal       string
		Index, Number uint64
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || got.Journal != "iss-1" || got.Index != 1 || got.Number < uint64(now.UnixMilli()) {
		t.Fatalf("%d %q %v", a.status, a.body, err)
	}
	select {
	case <-r.issuer.changed:
	default:
		t.Error("no list is to be published")
	}
	// By identity: every certificate, the bundle's and the renewed one.
	for name, h := range map[string]holder{"the old": old, "the renewed": renewed} {
		r.refused(name, r.renew(h, w.key(pki.RoleSensor)), 0, "")
	}
	list, number := r.issuer.ledger.current()
	if len(list) != 1 || number != got.Number || list[0].Sender != web1.Sender() || list[0].Generation != 2 || list[0].Before < now.UnixMilli() {
		t.Errorf("list %d: %+v", number, list)
	}
	// Another machine goes on.
	other := w.key(pki.RoleSensor)
	r.issued(r.renew(w.holder(web2, now), other), web2, other)
	// The same order again does nothing.
	r.refused("the same order", r.do(&p, "POST", "/v1/orders", raw), 409, ReasonUsed)
	before := r.entries()
	r.stop()

	// After a restart all of it holds, and the number does not fall.
	r = w.serve(options{dir: r.dir})
	r.refused("after a restart", r.renew(renewed, w.key(pki.RoleSensor)), 0, "")
	p = w.holder(ann, now)
	r.refused("the same order after a restart", r.do(&p, "POST", "/v1/orders", raw), 409, ReasonUsed)
	again, after := r.issuer.ledger.current()
	if after != number || fmt.Sprint(again) != fmt.Sprint(list) {
		t.Errorf("list %d %+v after a restart, want %d %+v", after, again, number, list)
	}
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Serials: []string{issuance.SerialText(before[2].Certificate.SerialNumber)}}, p, time.Now()))
	list, after = r.issuer.ledger.current()
	if after <= number || after > uint64(time.Now().UnixMilli()) || len(list) != 2 || list[1].Until != before[2].Certificate.NotAfter.UnixMilli() {
		t.Errorf("list %d %+v, want one above %d, and two entries", after, list, number)
	}
}

// By serial number one certificate goes, and its sibling stays.
func TestRevokedBySerial(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	first, second := w.key(pki.RoleSensor), w.key(pki.RoleSensor)
	h1 := r.issued(r.renew(w.holder(web1, time.Now()), first), web1, first)
	h2 := r.issued(r.renew(h1, second), web1, second)
	p := w.holder(ann, time.Now())
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Serials: []string{issuance.SerialText(h1.leaf.SerialNumber)}}, p, time.Now()))
	r.refused("the revoked one", r.renew(h1, w.key(pki.RoleSensor)), 0, "")
	third := w.key(pki.RoleSensor)
	r.issued(r.renew(h2, third), web1, third)
	// A lost answer is not given again once it is revoked: the certificate for
	// the same key is.
	bundle := w.holder(web2, time.Now())
	lost := w.key(pki.RoleSensor)
	h := r.issued(r.renew(bundle, lost), web2, lost)
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Serials: []string{issuance.SerialText(h.leaf.SerialNumber)}}, p, time.Now()))
	r.refused("a lost answer that was revoked", r.renew(bundle, lost), 403, ReasonRevoked)
}

func TestOrdersRefused(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	r.server.requests = newLimiter[string](time.Millisecond, 1000)
	now := time.Now()
	p := w.holder(ann, now)
	one := []string{web1.Sender()}
	revoke := issuance.Order{Targets: one}
	foreign := w.order(issuance.Revoke, issuance.Order{Serials: []string{strings.Repeat("0a", 16)}}, p, now)
	key := w.key(pki.RoleSensor)
	token := w.order(issuance.Join, issuance.Order{Targets: []string{"melb/sensor/web-9"}, SPKI: spkiOf(w, key)}, p, now)
	at := func(h holder) *holder { return &h }
	good := w.order(issuance.Revoke, revoke, p, now)
	own := r.store.Current().Leaf()
	for name, test := range map[string]struct {
		peer   *holder
		body   []byte
		status int
		reason Reason
	}{
		// Who may hand it over.
		"no certificate":        {nil, good, 403, ReasonIdentity},
		"a machine":             {at(w.holder(web1, now)), good, 403, ReasonIdentity},
		"the recorder":          {at(w.holder(rec1, now)), good, 403, ReasonIdentity},
		"another site's person": {at(w.holder(eve, now)), good, 0, ""},
		// What it says, and who says it.
		"nothing":                       {&p, nil, 403, ReasonOrder},
		"no order":                      {&p, []byte("{}"), 403, ReasonOrder},
		"too large":                     {&p, []byte(strings.Repeat("x", maxBody+1)), 413, ReasonRequest},
		"a viewer's":                    {&p, w.order(issuance.Revoke, revoke, w.holder(vera, now), now), 403, ReasonOrder},
		"another site's operator's":     {&p, w.order(issuance.Revoke, revoke, w.holder(eve, now), now), 403, ReasonOrder},
		"another site's authority's":    {&p, w.order(issuance.Revoke, revoke, w.people("syd"), now), 403, ReasonOrder},
		"a person, by an operator":      {&p, w.order(issuance.Revoke, issuance.Order{Targets: []string{vera.Sender()}}, p, now), 403, ReasonOrder},
		"another site's machine":        {&p, w.order(issuance.Revoke, issuance.Order{Targets: []string{syd1.Sender()}}, w.people("melb"), now), 403, ReasonOrder},
		"expired":                       {&p, w.order(issuance.Revoke, revoke, p, now.Add(-11*time.Minute)), 403, ReasonOrder},
		"from the future":               {&p, w.order(issuance.Revoke, revoke, p, now.Add(45*time.Second)), 403, ReasonOrder},
		"meant for too long":            {&p, w.order(issuance.Revoke, issuance.Order{Targets: one, Expires: now.Add(16 * time.Minute).UnixMilli()}, p, now), 403, ReasonOrder},
		"changed":                       {&p, bytes.Replace(good, []byte("web-1"), []byte("web-2"), 1), 403, ReasonOrder},
		"a token":                       {&p, token, 403, ReasonOrder},
		"a serial of nobody knows whom": {&p, foreign, 403, ReasonOrder},
		"the issuer itself":             {&p, w.order(issuance.Revoke, issuance.Order{Targets: []string{iss1.Sender()}}, w.people("melb"), now), 422, ReasonOrder},
		"the issuer's own certificate":  {&p, w.order(issuance.Revoke, issuance.Order{Serials: []string{issuance.SerialText(own.SerialNumber)}}, w.people("melb"), now), 422, ReasonOrder},
		"the serial number zero":        {&p, w.order(issuance.Revoke, issuance.Order{Serials: []string{strings.Repeat("0", 32)}}, w.people("melb"), now), 422, ReasonOrder},
		"an operator's whose certificate has expired since": {&p, w.order(issuance.Revoke, revoke, w.holder(ann, now.Add(-25*time.Hour)), now), 403, ReasonOrder},
	} {
		r.refused(name, r.do(test.peer, "POST", "/v1/orders", test.body), test.status, test.reason)
	}
	if n := len(r.entries()); n != 0 {
		t.Fatalf("%d entries", n)
	}
	// Who was revoked gives no orders any more, neither before nor through
	// somebody else.
	ben := w.holder(identity("melb", pki.RoleOperator, "ben"), now)
	late := w.order(issuance.Revoke, revoke, ben, now)
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Targets: []string{ben.id.Sender()}}, w.people("melb"), now))
	r.refused("a revoked operator", r.do(&ben, "POST", "/v1/orders", late), 0, "")
	r.refused("a revoked operator's, through another", r.do(&p, "POST", "/v1/orders", late), 403, ReasonRevoked)
	// What the authority may, it may by serial number and about people too.
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Serials: []string{strings.Repeat("0a", 16)}, Targets: []string{vera.Sender()}}, w.people("melb"), now))
}

// The list has room for 256 entries, of which operators' orders fill half. An
// order that it has no room for is not carried out.
func TestFullList(t *testing.T) {
	w := newWorld(t)
	var machines []pki.Identity
	for i := range maxOperators + 1 {
		machines = append(machines, identity("melb", pki.RoleSensor, fmt.Sprintf("s%d", i)))
	}
	more := w.bundles(append(machines, identity("melb", pki.RoleSensor, "s300"))...)
	r := w.serve(options{more: more})
	r.server.requests = newLimiter[string](time.Millisecond, 1000)
	p, authority := w.holder(ann, time.Now()), w.people("melb")
	order := func(from, n int, by holder) []byte {
		var targets []string
		for i := range n {
			targets = append(targets, fmt.Sprintf("melb/sensor/s%d", from+i))
		}
		return w.order(issuance.Revoke, issuance.Order{Targets: targets}, by, time.Now())
	}
	send := func(from, n int, by holder) answer { return r.do(&p, "POST", "/v1/orders", order(from, n, by)) }
	r.carriedOut(order(0, 64, p))
	r.carriedOut(order(64, 60, p))
	r.refused("an operator's 129th", send(124, 5, p), 507, ReasonFull)
	r.carriedOut(order(124, 4, p))
	r.carriedOut(order(0, 64, p)) // those that are on it take no more room
	r.refused("an operator's one more", send(300, 1, p), 507, ReasonFull)
	// What an operator invents keeps nobody from revoking the operator.
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Targets: []string{"melb/operator/ben"}}, authority, time.Now()))
	r.carriedOut(order(128, 64, authority))
	r.carriedOut(order(192, 60, authority))
	r.carriedOut(order(128, 64, p)) // nor does it become the operator's
	r.stop()

	// A restart knows whose is what.
	r = w.serve(options{dir: r.dir, more: more})
	r.server.requests = newLimiter[string](time.Millisecond, 1000)
	r.refused("an operator's one more, after a restart", send(300, 1, p), 507, ReasonFull)
	r.refused("the 257th", send(252, 4, authority), 507, ReasonFull)
	r.carriedOut(order(252, 3, authority))
	r.refused("the authority's one more", send(300, 1, authority), 507, ReasonFull)
	r.carriedOut(order(0, 1, authority)) // it takes an operator's over
	list, number := r.issuer.ledger.current()
	text, err := json.Marshal(&wire.Revocations{Number: number, Revoked: list})
	if len(list) != wire.MaxRevoked || err != nil {
		t.Fatalf("%d entries, %v", len(list), err)
	}
	// A message holds it, with the longest chain.
	if len(text)+11<<10 > 32<<10 {
		t.Errorf("the list has %d bytes", len(text))
	}
}

// With names of the greatest length the bytes run out first.
func TestLongListFitsAMessage(t *testing.T) {
	l := newLedger(machines("melb"))
	long := strings.Repeat("x", 24)
	var list []wire.Revoked
	for i := range 256 {
		list = append(list, wire.Revoked{Sender: fmt.Sprintf("%s/controller/%s", long, long[:21]+fmt.Sprintf("%03d", i)), Before: 1 << 43, Generation: 1<<32 - 1})
		text, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > maxList {
			break
		}
		l.list = list
	}
	text, err := json.Marshal(&wire.Revocations{Timestamp: 1.7e9, Number: 1 << 43, Issued: 1 << 43, Revoked: l.list})
	if err != nil {
		t.Fatal(err)
	}
	if total := len(text) + 10923 + 600; total > 32<<10 {
		t.Errorf("%d entries and the longest chain make %d bytes", len(l.list), total)
	}
}

func TestJoin(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	r.server.joins, r.server.allJoins = newLimiter[addr](time.Millisecond, 1000), newLimiter[struct{}](time.Millisecond, 1000)
	now := time.Now()
	p := w.holder(ann, now)
	web9 := identity("melb", pki.RoleSensor, "web-9")
	key, stolen := w.key(pki.RoleSensor), w.key(pki.RoleSensor)
	order := issuance.Order{Targets: []string{web9.Sender()}, SPKI: spkiOf(w, key)}
	token := w.order(issuance.Join, order, p, now)
	r.refused("another key", r.join(stolen, token), 403, ReasonKey)
	h := r.issued(r.join(key, token), web9, key)
	entries := r.entries()
	if len(entries) != 1 || entries[0].Cause != issuance.CauseJoin || !bytes.Equal(entries[0].Order, token) {
		t.Fatalf("%+v", entries)
	}
	if again := r.issued(r.join(key, token), web9, key); !again.leaf.Equal(h.leaf) || len(r.entries()) != 1 {
		t.Error("the token issued a second certificate")
	}
	next := w.key(pki.RoleSensor)
	h = r.issued(r.renew(h, next), web9, next)
	r.refused("the token, once it was followed by a renewal", r.join(key, token), 403, ReasonKey)
	r.refused("another token for a key that was used", r.join(key, w.order(issuance.Join, order, p, now)), 403, ReasonKey)
	for name, token := range map[string][]byte{
		"expired":               w.order(issuance.Join, order, p, now.Add(-11*time.Minute)),
		"a viewer's":            w.order(issuance.Join, order, w.holder(vera, now), now),
		"another site's":        w.order(issuance.Join, order, w.holder(eve, now), now),
		"for another site":      w.order(issuance.Join, issuance.Order{Targets: []string{syd1.Sender()}, SPKI: order.SPKI}, w.people("melb"), now),
		"for a person":          w.order(issuance.Join, issuance.Order{Targets: []string{vera.Sender()}, SPKI: order.SPKI}, w.people("melb"), now),
		"an order of that kind": w.order(issuance.Readmit, issuance.Order{All: true}, p, now),
		"nothing":               nil,
		"an operator's issuer":  w.order(issuance.Join, issuance.Order{Targets: []string{"melb/issuer/iss-9"}, SPKI: order.SPKI}, p, now),
		"a machine's own":       w.order(issuance.Join, order, w.holder(web2, now), now),
	} {
		r.refused(name, r.join(key, token), 403, ReasonOrder)
	}
	for name, body := range map[string]string{
		"no JSON": "hello", "an unknown member": `{"csr":"","token":"","role":"broker"}`, "no token": `{"csr":""}`,
		"a token that is no base64url": `{"csr":"","token":"***"}`, "no request": `{"csr":"","token":"e30"}`,
	} {
		r.refused(name, r.do(nil, "POST", "/v1/join", []byte(body)), 400, ReasonRequest)
	}
	// A pinned sender joins with its key or not at all.
	m1Key := w.key(pki.RoleMonitor)
	r.issuer.config.Pins = pins{mon1.Sender(): spkiOf(w, m1Key)}
	other := w.key(pki.RoleMonitor)
	r.refused("a pinned sender with another key", r.join(other, w.order(issuance.Join, issuance.Order{Targets: []string{mon1.Sender()}, SPKI: spkiOf(w, other)}, w.people("melb"), now)), 403, ReasonKey)
	pinned := w.order(issuance.Join, issuance.Order{Targets: []string{mon1.Sender()}, SPKI: spkiOf(w, m1Key)}, w.people("melb"), now)
	r.issued(r.join(m1Key, pinned), mon1, m1Key)
	r.refused("its token again", r.join(m1Key, pinned), 409, ReasonUsed)
	// A token does not outlive a revocation, and a newer one waits until its
	// certificate would not be revoked at once.
	fresh := w.key(pki.RoleSensor)
	early := w.order(issuance.Join, issuance.Order{Targets: []string{web9.Sender()}, SPKI: spkiOf(w, fresh)}, p, time.Now())
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Targets: []string{web9.Sender()}}, p, time.Now()))
	r.refused("a token from before the revocation", r.join(fresh, early), 403, ReasonRevoked)
	time.Sleep(2 * time.Millisecond)
	later := w.order(issuance.Join, issuance.Order{Targets: []string{web9.Sender()}, SPKI: spkiOf(w, fresh)}, p, time.Now().Add(2*time.Second))
	a := r.join(fresh, later)
	r.refused("a token at once after it", a, 503, ReasonRevoked)
	if a.header.Get("Retry-After") == "" {
		t.Error("it does not say when")
	}
	r.refused("the certificate from before", r.renew(h, w.key(pki.RoleSensor)), 0, "")
}

// Each list overtakes whatever was published with a number of its time, also
// where the clock falls; and it revokes nothing that is issued after it, but what
// was dated ahead.
func TestNumbersAndTimes(t *testing.T) {
	w := newWorld(t)
	l := newLedger(machines("melb"))
	now := time.Now()
	if got := l.next(now); got != uint64(now.UnixMilli()) {
		t.Errorf("the first number is %d", got)
	}
	l.number = uint64(now.UnixMilli())
	if got := l.next(now.Add(time.Hour)); got != uint64(now.Add(time.Hour).UnixMilli()) {
		t.Errorf("an hour later the number is %d", got)
	}
	if got := l.next(now.Add(-time.Hour)); got != l.number+1 {
		t.Errorf("an hour back the number is %d", got)
	}
	today, tomorrow := w.holder(web1, now), w.holder(web1, now.Add(24*time.Hour))
	for i, h := range []holder{tomorrow, today} {
		w.must(l.apply(issuance.Entry{Index: uint64(i), Time: now.UnixMilli(),
			Record: issuance.Record{Kind: issuance.Issuance, Certificate: h.leaf, Cause: issuance.CauseRenewal}}))
	}
	raw := w.order(issuance.Revoke, issuance.Order{Targets: []string{web1.Sender()}}, w.holder(ann, now), now)
	at := now.Add(time.Second)
	w.must(l.apply(issuance.Entry{Index: 2, Time: at.UnixMilli(), Record: issuance.Record{Kind: issuance.Revocation, Order: raw, Number: l.next(at)}}))
	list, _ := l.current()
	if len(list) != 2 || list[0].Before != at.UnixMilli() || list[1].Serial.IsZero() || list[1].Until != tomorrow.leaf.NotAfter.UnixMilli() {
		t.Errorf("the list is %+v", list)
	}
	if n := len((&outcome{list: l.list, theirs: l.theirs}).operators()); n != 2 {
		t.Errorf("%d of the entries are operators'", n)
	}
	// An order far before an earlier one would look like a replay.
	if l.behind(at.Add(-issuance.MaxFall)) || !l.behind(at.Add(-issuance.MaxFall-time.Millisecond)) {
		t.Error("how far the clock may fall between two orders")
	}
}

func TestJournalIsTheRecorders(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	r.server.renewals = newLimiter[caller](time.Millisecond, 1000)
	h := w.holder(web1, time.Now())
	for range 3 {
		key := w.key(pki.RoleSensor)
		h = r.issued(r.renew(h, key), web1, key)
	}
	rec := w.holder(rec1, time.Now())
	for from, want := range []int{3, 2, 1, 0} {
		a := r.do(&rec, "GET", fmt.Sprintf("/v1/journal?name=iss-1&from=%d", from), nil)
		if a.status != 200 || strings.Count(a.body, "\n") != want {
			t.Errorf("from %d: %d, %d lines, want %d", from, a.status, strings.Count(a.body, "\n"), want)
		}
	}
	a := r.do(&rec, "GET", "/v1/journal?name=iss-1&from=0", nil)
	lines := bytes.Split([]byte(strings.TrimSuffix(a.body, "\n")), []byte("\n"))
	if _, at, err := issuance.Verify(lines, w.root.Certificate, w.verifier, machines("melb"), "iss-1", issuance.Position{}); err != nil || at != r.journal.Position() {
		t.Errorf("the recorder cannot verify it: %v", err)
	}
	p := w.holder(ann, time.Now())
	for name, test := range map[string]struct {
		peer   *holder
		query  string
		status int
		reason Reason
	}{
		"nobody":                   {nil, "name=iss-1&from=0", 403, ReasonIdentity},
		"a sensor":                 {&h, "name=iss-1&from=0", 403, ReasonIdentity},
		"a person":                 {&p, "name=iss-1&from=0", 403, ReasonIdentity},
		"another journal":          {&rec, "name=deployer&from=0", 404, ReasonRequest},
		"no number":                {&rec, "name=iss-1", 400, ReasonRequest},
		"below zero":               {&rec, "name=iss-1&from=-1", 400, ReasonRequest},
		"more than there ever was": {&rec, "name=iss-1&from=4", 416, ReasonRequest},
	} {
		r.refused(name, r.do(test.peer, "GET", "/v1/journal?"+test.query, nil), test.status, test.reason)
	}
}

func TestCRL(t *testing.T) {
	w := newWorld(t)
	bundle := w.holder(web2, time.Now().Add(-time.Hour))
	r := w.serve(options{more: func() ([]*x509.Certificate, error) { return []*x509.Certificate{bundle.leaf}, nil }})
	read := func() *x509.RevocationList {
		t.Helper()
		h := w.holder(vera, time.Now())
		a := r.do(&h, "GET", "/v1/crl", nil)
		if a.status != 200 || a.header.Get("Content-Type") != "application/pkix-crl" {
			t.Fatalf("%d %q", a.status, a.body)
		}
		list, err := x509.ParseRevocationList([]byte(a.body))
		w.must(err)
		w.must(list.CheckSignatureFrom(w.issuers[machines("melb")].Certificate))
		return list
	}
	empty := read()
	if len(empty.RevokedCertificateEntries) != 0 || empty.NextUpdate.Sub(empty.ThisUpdate) != listLife {
		t.Errorf("%+v", empty)
	}
	key := w.key(pki.RoleSensor)
	h := r.issued(r.renew(w.holder(web1, time.Now()), key), web1, key)
	p := w.holder(ann, time.Now())
	const foreign = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Targets: []string{web1.Sender(), web2.Sender()}}, p, time.Now()))
	first := read()
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Serials: []string{foreign}}, w.people("melb"), time.Now()))
	second := read()
	if first.Number.Cmp(empty.Number) <= 0 || second.Number.Cmp(first.Number) <= 0 {
		t.Errorf("the numbers are %s, %s, %s", empty.Number, first.Number, second.Number)
	}
	serials := make(map[string]bool)
	for _, e := range second.RevokedCertificateEntries {
		serials[e.SerialNumber.String()] = true
		if e.RevocationTime.After(time.Now()) {
			t.Errorf("%x is revoked at %s", e.SerialNumber, e.RevocationTime)
		}
	}
	other, _ := new(big.Int).SetString(foreign, 16)
	for _, serial := range []*big.Int{h.leaf.SerialNumber, bundle.leaf.SerialNumber, other} {
		if !serials[serial.String()] {
			t.Errorf("%x is not on the list", serial)
		}
	}
	if len(serials) != 3 || len(first.RevokedCertificateEntries) != 2 {
		t.Errorf("%d and %d entries, want 2 and 3", len(first.RevokedCertificateEntries), len(serials))
	}
	// Nobody without a certificate gets it.
	r.refused("nobody", r.do(nil, "GET", "/v1/crl", nil), 403, ReasonIdentity)
	// It is made again each hour, and not for each request.
	if third := read(); third.Number.Cmp(second.Number) != 0 || !bytes.Equal(third.Raw, second.Raw) {
		t.Error("a new list for each request")
	}
	r.issuer.crl.made = time.Now().Add(-listAge)
	if fourth := read(); bytes.Equal(fourth.Raw, second.Raw) || fourth.Number.Cmp(second.Number) < 0 {
		t.Error("no new list after an hour")
	}
}

func TestCACerts(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	h := w.holder(web1, time.Now())
	for name, peer := range map[string]*holder{"nobody": nil, "a sensor": &h} {
		a := r.do(peer, "GET", "/.well-known/est/cacerts", nil)
		certs := r.certificates(a)
		if len(certs) != 2 || !certs[0].Equal(w.issuers[machines("melb")].Certificate) || !certs[1].Equal(w.root.Certificate) {
			t.Errorf("%s: %d %q", name, a.status, a.body)
		}
	}
}
