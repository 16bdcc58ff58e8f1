package issuer

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee/internal/issuance"
	"levee/pki"
	"levee/pki/ca"
)

func TestRenewal(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{lifetime: 10 * time.Hour})
	for _, id := range []pki.Identity{web1, b1, rec1} {
		old := w.holder(id, time.Now().Add(-20*time.Hour))
		key := w.key(id.Role)
		renewed := r.issued(r.renew(old, key), id, key)
		if life := time.Until(renewed.leaf.NotAfter); life > 10*time.Hour || life < 10*time.Hour-time.Minute {
			t.Errorf("%s lives %s, want 10 h", id.Sender(), life)
		}
		// Names are those of the old certificate.
		if !slices.Equal(renewed.leaf.DNSNames, old.leaf.DNSNames) || len(renewed.leaf.IPAddresses) != len(old.leaf.IPAddresses) {
			t.Errorf("%s: names %v %v, want %v %v", id.Sender(), renewed.leaf.DNSNames, renewed.leaf.IPAddresses, old.leaf.DNSNames, old.leaf.IPAddresses)
		}
		// And again, with the new one.
		next := w.key(id.Role)
		r.issued(r.renew(renewed, next), id, next)
	}
	entries := r.entries()
	if len(entries) != 6 {
		t.Fatalf("%d entries", len(entries))
	}
	for _, e := range entries {
		if e.Kind != issuance.Issuance || e.Cause != issuance.CauseRenewal {
			t.Errorf("entry %d: %s %s", e.Index, e.Kind, e.Cause)
		}
	}
}

// A request says who somebody wants to be. Nobody asks it.
func TestIdentityIsNotTheRequests(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	key := w.key(pki.RoleSensor)
	uri, err := url.Parse(iss1.URI())
	w.must(err)
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: iss1.ClientID()}, URIs: []*url.URL{uri},
		DNSNames: []string{"melb.bank.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	h := w.holder(web1, time.Now())
	renewed := r.issued(r.do(&h, "POST", pathRenew, w.request(key, template)), web1, key)
	if len(renewed.leaf.DNSNames)+len(renewed.leaf.IPAddresses) != 0 || renewed.leaf.Subject.CommonName != web1.ClientID() {
		t.Errorf("the certificate says %v %v %v", renewed.leaf.Subject, renewed.leaf.DNSNames, renewed.leaf.IPAddresses)
	}
}

func TestRenewalRefused(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	good := w.holder(web1, now)
	stranger := newWorld(t)
	m1Key := w.key(pki.RoleMonitor)
	pinned := w.holderOf(mon1, m1Key, w.issuers[machines("melb")], now)
	b2 := identity("melb", pki.RoleBroker, "b2")
	pinnedBroker, strayBroker := w.holder(b2, now), w.holder(b2, now)
	r := w.serve(options{pins: pins{
		mon1.Sender(): issuance.SPKIText(pinned.leaf.RawSubjectPublicKeyInfo), b2.Sender(): issuance.SPKIText(pinnedBroker.leaf.RawSubjectPublicKeyInfo),
	}})
	at := func(h holder) *holder { return &h }
	fresh := func() []byte { return w.request(w.key(pki.RoleSensor), nil) }
	rootKey, err := ca.NewRootKey()
	w.must(err)
	tampered := fresh()
	tampered[len(tampered)-8] ^= 1
	for name, test := range map[string]struct {
		peer   *holder
		body   []byte
		status int
		reason Reason
	}{
		"no certificate":                   {nil, fresh(), 403, ReasonIdentity},
		"another site":                     {at(w.holder(syd1, now)), fresh(), 0, ""},
		"another root":                     {at(stranger.holder(web1, now)), fresh(), 0, ""},
		"expired":                          {at(w.holder(web1, now.Add(-48*time.Hour))), fresh(), 0, ""},
		"not valid yet":                    {at(w.holder(web1, now.Add(2*time.Hour))), fresh(), 0, ""},
		"another's certificate":            {&holder{id: web1, key: w.key(pki.RoleSensor), leaf: good.leaf, issuer: good.issuer}, fresh(), 0, ""},
		"a person":                         {at(w.holder(ann, now)), fresh(), 403, ReasonIdentity},
		"a body that is empty":             {&good, nil, 400, ReasonRequest},
		"a body that is no base64":         {&good, []byte("***"), 400, ReasonRequest},
		"a body that is no request":        {&good, []byte("aGVsbG8="), 400, ReasonRequest},
		"a body too large":                 {&good, []byte(strings.Repeat("A", maxBody+1)), 413, ReasonRequest},
		"a request that its key disowns":   {&good, tampered, 400, ReasonRequest},
		"a key of another kind":            {&good, w.request(rootKey, nil), 400, ReasonRequest},
		"the key that it has":              {&good, w.request(good.key, nil), 403, ReasonKey},
		"a pinned one with a new key":      {&pinned, fresh(), 403, ReasonKey},
		"a broker pinned to another key":   {&strayBroker, w.request(strayBroker.key, nil), 403, ReasonKey},
		"a pinned broker with a new key":   {&pinnedBroker, fresh(), 403, ReasonKey},
		"a monitor without pin, new key":   {at(w.holder(identity("melb", pki.RoleMonitor, "m2"), now)), fresh(), 403, ReasonKey},
		"an approver without pin, new key": {at(w.holder(identity("melb", pki.RoleApprover, "a1"), now)), fresh(), 403, ReasonKey},
	} {
		// Each of them is another client: the limit of renewals is not meant.
		r.server.renewals = newLimiter[caller](time.Millisecond, 1000)
		r.refused(name, r.do(test.peer, "POST", pathRenew, test.body), test.status, test.reason)
	}
	if n := len(r.entries()); n != 0 {
		t.Fatalf("%d entries", n)
	}
	// Pinned parts keep their key, and get their certificates.
	r.issued(r.renew(pinned, m1Key), mon1, m1Key)
	r.issued(r.renew(pinned, m1Key), mon1, m1Key)
	r.issued(r.renew(pinnedBroker, pinnedBroker.key), b2, pinnedBroker.key)
	m2 := w.holder(identity("melb", pki.RoleMonitor, "m2"), now)
	r.issued(r.renew(m2, m2.key), m2.id, m2.key)
	// A method or path that there is not.
	for _, p := range []struct{ method, path string }{{"GET", pathRenew}, {"PUT", pathRenew}, {"POST", "/v1/crl"}, {"GET", "/"}, {"POST", "/.well-known/est/simpleenroll"}, {"OPTIONS", "*"}} {
		if a := r.do(&good, p.method, "/"+strings.TrimPrefix(p.path, "/"), nil); a.status != 404 && a.status != 405 {
			t.Errorf("%s %s: %d", p.method, p.path, a.status)
		}
	}
}

// Whose answer was lost asks again, and gets what the journal already has. A key
// that was superseded, or is another's, is no new one.
func TestKeysAreUsedOnce(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	old := w.holder(web1, time.Now().Add(-time.Hour))
	key := w.key(pki.RoleSensor)
	first := r.issued(r.renew(old, key), web1, key)
	again := r.issued(r.renew(old, key), web1, key)
	if !first.leaf.Equal(again.leaf) || len(r.entries()) != 1 {
		t.Errorf("asked again for the same key: another certificate, or %d entries", len(r.entries()))
	}
	r.refused("the key of the newest, with it", r.renew(first, key), 403, ReasonKey)
	next := w.key(pki.RoleSensor)
	second := r.issued(r.renew(first, next), web1, next)
	r.refused("a key that was superseded", r.renew(second, key), 403, ReasonKey)
	r.refused("a key that was superseded, with the oldest", r.renew(old, key), 403, ReasonKey)
	r.refused("another's key", r.renew(w.holder(web2, time.Now()), key), 403, ReasonKey)
	r.refused("another's newest key", r.renew(w.holder(web2, time.Now()), next), 403, ReasonKey)
	// The certificate before still counts, and is reported.
	last := w.key(pki.RoleSensor)
	r.issued(r.renew(first, last), web1, last)
	if !r.log.contains("not the newest") {
		t.Error("nobody was told that a certificate which is not the newest was used")
	}
	// A restart knows all of it.
	r.stop()
	r = w.serve(options{dir: r.dir})
	r.refused("a superseded key after a restart", r.renew(second, key), 403, ReasonKey)
	if again := r.issued(r.renew(first, last), web1, last); again.leaf.NotBefore.IsZero() || len(r.entries()) != 3 {
		t.Errorf("after a restart the same key got another entry")
	}
}

// Nothing outlives the authority.
func TestLifetimes(t *testing.T) {
	w := newWorld(t)
	ends := time.Now().Add(2 * time.Hour)
	w.issuers[machines("melb")] = w.authority(machines("melb"), 24*time.Hour, ends.Add(-24*time.Hour))
	r := w.serve(options{lifetime: pki.MaxMachineLifetime})
	key := w.key(pki.RoleSensor)
	renewed := r.issued(r.renew(w.holder(web1, time.Now()), key), web1, key)
	if renewed.leaf.NotAfter.After(r.issuers[machines("melb")].Certificate.NotAfter) {
		t.Errorf("it ends at %s, the authority at %s", renewed.leaf.NotAfter, ends)
	}
	for _, lifetime := range []time.Duration{0, -1, pki.MaxMachineLifetime + 1} {
		if _, err := New(Config{Identity: iss1, Authority: w.issuers[machines("melb")], Root: w.root.Certificate, Verifier: w.verifier, Pins: pins{},
			Credentials: r.store, Key: r.issuer.config.Key, Lifetime: lifetime, Log: r.log.logger()}); err == nil {
			t.Errorf("a lifetime of %s was taken", lifetime)
		}
	}
	for name, id := range map[string]pki.Identity{"a sensor": web1, "the deployer's name": identity("melb", pki.RoleIssuer, issuance.Deployer)} {
		if _, err := New(Config{Identity: id, Authority: w.issuers[machines("melb")], Root: w.root.Certificate, Verifier: w.verifier, Pins: pins{},
			Credentials: r.store, Key: r.issuer.config.Key, Lifetime: time.Hour, Log: r.log.logger()}); err == nil {
			t.Errorf("%s became an issuer", name)
		}
	}
}

// failing is a journal that cannot be written.
type failing struct {
	Journal
	err error
}

func (f *failing) Append(r issuance.Record, now time.Time) (issuance.Entry, error) {
	if f.err != nil {
		return issuance.Entry{}, f.err
	}
	return f.Journal.Append(r, now)
}

// What is not in the journal does not leave, and does not count.
func TestJournalFirst(t *testing.T) {
	w := newWorld(t)
	j := &failing{err: errors.New("disk full")}
	r := w.serve(options{wrap: func(inner Journal) Journal { j.Journal = inner; return j }})
	h := w.holder(web1, time.Now())
	key := w.key(pki.RoleSensor)
	a := r.renew(h, key)
	r.refused("a renewal", a, 503, ReasonJournal)
	if a.header.Get("Retry-After") == "" || strings.Contains(a.body, "disk full") {
		t.Errorf("the answer was %v %q", a.header, a.body)
	}
	token := w.order(issuance.Join, issuance.Order{Targets: []string{"melb/sensor/web-9"}, SPKI: spkiOf(w, key)}, w.holder(ann, time.Now()), time.Now())
	r.refused("a join", r.join(key, token), 503, ReasonJournal)
	p := w.holder(ann, time.Now())
	revoke := w.order(issuance.Revoke, issuance.Order{Targets: []string{web1.Sender()}}, p, time.Now())
	r.refused("a revocation", r.do(&p, "POST", "/v1/orders", revoke), 503, ReasonJournal)
	if list, number := r.issuer.ledger.current(); len(list) != 0 || number != 1 || r.issuer.ledger.entries != 0 {
		t.Errorf("%v is revoked by list %d", list, number)
	}
	select {
	case <-r.issuer.changed:
		t.Error("a list was to be published")
	default:
	}
	// The disk has room again: the same requests do.
	j.err = nil
	r.issued(r.renew(h, key), web1, key)
	if a := r.do(&p, "POST", "/v1/orders", revoke); a.status != 200 {
		t.Errorf("%d %q", a.status, a.body)
	}
}

func spkiOf(w *world, key crypto.Signer) string {
	w.t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	w.must(err)
	return issuance.SPKIText(der)
}

// refusedFor wants a refusal for a reason.
func refusedFor(t *testing.T, name string, err error, reason Reason) {
	t.Helper()
	if why, ok := err.(*refusal); !ok || why.reason != reason {
		t.Errorf("%s: %v, want %s", name, err, reason)
	}
}

// What changes between the handshake and the decision counts.
func TestRenewDecidesAgain(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{lifetime: time.Hour})
	now := time.Now()
	h := w.holder(web1, now.Add(-23*time.Hour-30*time.Minute))
	csr := func(role pki.Role) *x509.CertificateRequest {
		request, err := parseRequest(string(w.request(w.key(role), nil)))
		w.must(err)
		return request
	}
	yes := func() bool { return true }
	p := &peer{id: web1, leaf: h.leaf}
	lost := csr(pki.RoleSensor)
	_, err := r.issuer.renew(t.Context(), p, lost, yes, now)
	w.must(err)
	// Its certificate has ended, the peer's has not: another key, please.
	_, err = r.issuer.renew(t.Context(), p, lost, yes, now.Add(2*time.Hour))
	refusedFor(t, "a lost answer that has expired", err, ReasonKey)
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Targets: []string{web1.Sender()}}, w.holder(ann, now), time.Now()))
	_, err = r.issuer.renew(t.Context(), p, csr(pki.RoleSensor), yes, now.Add(time.Hour))
	refusedFor(t, "revoked since the handshake", err, ReasonRevoked)
}

// Where the lifetime was lowered, a renewal that would end before the certificate
// shown waits until it would not: its owner has no use for it, and each attempt
// would be a line in the journal.
func TestALowerLifetime(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{lifetime: time.Hour})
	now := time.Now()
	h := w.holder(web1, now.Add(-22*time.Hour)) // two hours are left
	a := r.renew(h, w.key(pki.RoleSensor))
	r.refused("an hour for two", a, 503, ReasonProfile)
	if wait, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || wait < 3590 || wait > 3600 {
		t.Errorf("to be asked again in %q s", a.header.Get("Retry-After"))
	}
	if n := len(r.entries()); n != 0 {
		t.Fatalf("%d entries", n)
	}
	key := w.key(pki.RoleSensor)
	r.issued(r.renew(w.holder(web1, now.Add(-23*time.Hour-time.Minute)), key), web1, key)
}
