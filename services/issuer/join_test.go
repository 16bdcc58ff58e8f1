package issuer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"levee/internal/enrol"
	"levee/internal/issuance"
	"levee/pki"
)

// joiner returns the client of a machine that has no certificate.
func (r *rig) joiner() *enrol.Client {
	r.t.Helper()
	c, err := enrol.New(enrol.Config{Address: r.address, Verifier: r.verifier, Host: machines("melb").Host()})
	r.must(err)
	return c
}

// der is a PKCS#10 for the key.
func (w *world) der(key crypto.Signer) []byte {
	w.t.Helper()
	der, err := base64.StdEncoding.DecodeString(string(w.request(key, nil)))
	w.must(err)
	return der
}

func (r *rig) unlimited() {
	r.server.joins, r.server.allJoins = newLimiter[addr](time.Millisecond, 1000), newLimiter[struct{}](time.Millisecond, 1000)
}

// A machine joins with the client that it really uses, and each wrong token is
// refused to that client, before and after.
func TestJoinByClient(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	r.unlimited()
	now := time.Now()
	p := w.holder(ann, now)
	web9 := identity("melb", pki.RoleSensor, "web-9")
	key, stolen, m1Key := w.key(pki.RoleSensor), w.key(pki.RoleSensor), w.key(pki.RoleMonitor)
	r.issuer.config.Pins = pins{mon1.Sender(): spkiOf(w, m1Key)}
	order := issuance.Order{Targets: []string{web9.Sender()}, SPKI: spkiOf(w, key)}
	target := func(name string) issuance.Order {
		return issuance.Order{Targets: []string{name}, SPKI: spkiOf(w, key)}
	}
	token := w.order(issuance.Join, order, p, now)
	unsigned, _, _ := bytes.Cut(token, []byte(`,"sig":`))
	unsigned = append(bytes.Clone(unsigned), '}')
	changed := bytes.Replace(token, []byte(web9.Sender()), []byte("melb/sensor/web-8"), 1)
	ended := w.holder(ann, now.Add(-25*time.Hour))

	c := r.joiner()
	refused := func(t *testing.T, key crypto.Signer, token []byte, status int, reason Reason) {
		t.Helper()
		before := r.journal.Position().Lines
		leaf, _, err := c.Join(t.Context(), w.der(key), token)
		why, ok := errors.AsType[*enrol.Refused](err)
		if !ok || why.Status != status || !strings.HasPrefix(why.Text, string(reason)+": ") || leaf != nil {
			t.Errorf("got %v, want %d %s", err, status, reason)
		}
		if n := r.journal.Position().Lines; n != before {
			t.Errorf("%d entries for it", n-before)
		}
	}
	for name, test := range map[string]struct {
		key    crypto.Signer
		token  []byte
		status int
		reason Reason
	}{
		"another key":                {stolen, token, 403, ReasonKey},
		"no token":                   {key, nil, 403, ReasonOrder},
		"unsigned":                   {key, unsigned, 403, ReasonOrder},
		"changed":                    {key, changed, 403, ReasonOrder},
		"expired":                    {key, w.order(issuance.Join, order, p, now.Add(-11*time.Minute)), 403, ReasonOrder},
		"from the future":            {key, w.order(issuance.Join, order, p, now.Add(45*time.Second)), 403, ReasonOrder},
		"for longer than it may be":  {key, w.order(issuance.Join, with(order, now.Add(time.Hour)), p, now), 403, ReasonOrder},
		"a viewer's":                 {key, w.order(issuance.Join, order, w.holder(vera, now), now), 403, ReasonOrder},
		"a machine's":                {key, w.order(issuance.Join, order, w.holder(web2, now), now), 403, ReasonOrder},
		"an ended certificate's":     {key, w.order(issuance.Join, order, ended, now), 403, ReasonOrder},
		"another site's operator's":  {key, w.order(issuance.Join, order, w.holder(eve, now), now), 403, ReasonOrder},
		"another site's authority's": {key, w.order(issuance.Join, order, w.people("syd"), now), 403, ReasonOrder},
		"for another site":           {key, w.order(issuance.Join, target(syd1.Sender()), w.people("melb"), now), 403, ReasonOrder},
		"for a person":               {key, w.order(issuance.Join, target(vera.Sender()), w.people("melb"), now), 403, ReasonOrder},
		"an operator's monitor":      {key, w.order(issuance.Join, target(mon1.Sender()), p, now), 403, ReasonOrder},
		"an operator's approver":     {key, w.order(issuance.Join, target("melb/approver/a1"), p, now), 403, ReasonOrder},
		"a pinned monitor":           {key, w.order(issuance.Join, target(mon1.Sender()), w.people("melb"), now), 403, ReasonKey},
		"a revocation":               {key, w.order(issuance.Revoke, issuance.Order{Targets: order.Targets}, p, now), 403, ReasonOrder},
		"no order at all":            {key, []byte("hello"), 403, ReasonOrder},
		"longer than a request":      {key, bytes.Repeat([]byte("x"), maxBody), http.StatusRequestEntityTooLarge, ReasonRequest},
	} {
		t.Run(name, func(t *testing.T) { refused(t, test.key, test.token, test.status, test.reason) })
	}

	leaf, by, err := c.Join(t.Context(), w.der(key), token)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.log.tail())
	}
	id, err := w.verifier.Verify(leaf, by, pki.UsageSign, time.Now())
	if err != nil || id != web9 || issuance.SPKIText(leaf.RawSubjectPublicKeyInfo) != order.SPKI {
		t.Fatalf("a certificate of %v, %v", id, err)
	}
	// Whoever lost the answer asks again; whoever found the token has no use for it.
	again, _, err := c.Join(t.Context(), w.der(key), token)
	if err != nil || !again.Equal(leaf) {
		t.Errorf("asked again: %v", err)
	}
	refused(t, stolen, token, 403, ReasonKey)
	refused(t, key, w.order(issuance.Join, order, p, now), 403, ReasonKey)
	refused(t, key, w.order(issuance.Join, with(order, now.Add(10*time.Minute)), p, now), 403, ReasonKey)
	if e := r.entries(); len(e) != 1 || e[0].Cause != issuance.CauseJoin || !bytes.Equal(e[0].Order, token) {
		t.Errorf("the journal has %d entries", len(e))
	}
}

// with returns an order that ends at another time, with an identifier of its own.
func with(o issuance.Order, expires time.Time) issuance.Order {
	o.Expires = expires.UnixMilli()
	return o
}

// A lost answer is asked for again after the issuer was started anew: it knows
// the token from its journal.
func TestJoinAfterARestart(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	key := w.key(pki.RoleConsole)
	token := w.order(issuance.Join, issuance.Order{Targets: []string{"melb/console/c9"}, SPKI: spkiOf(w, key)}, w.holder(ann, time.Now()), time.Now())
	leaf, _, err := r.joiner().Join(t.Context(), w.der(key), token)
	w.must(err)
	r.stop()
	r = w.serve(options{dir: r.dir})
	again, _, err := r.joiner().Join(t.Context(), w.der(key), token)
	if err != nil || !again.Equal(leaf) {
		t.Errorf("%v", err)
	}
	if _, _, err := r.joiner().Join(t.Context(), w.der(w.key(pki.RoleConsole)), token); err == nil {
		t.Error("another key joined with a token that was used")
	}
}

// A machine without a certificate tells nobody its token but an issuer of its
// own site.
func TestWhoMachinesAskToJoin(t *testing.T) {
	for name, server := range map[string]func(*world) holder{
		"a broker of the site": func(w *world) holder { return w.holder(b1, time.Now()) },
		"another site's issuer": func(w *world) holder {
			return w.holder(identity("syd", pki.RoleIssuer, "iss-1"), time.Now())
		},
		"an issuer below another root": func(w *world) holder { return newWorld(w.t).holder(iss1, time.Now()) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := server(w)
			asked := false
			address := serveTLS(t, h, func() { asked = true })
			c, err := enrol.New(enrol.Config{Address: address, Verifier: w.verifier, Host: machines("melb").Host()})
			w.must(err)
			ctx, done := context.WithTimeout(t.Context(), 5*time.Second)
			defer done()
			_, _, err = c.Join(ctx, w.der(w.key(pki.RoleSensor)), []byte("token"))
			if _, refused := errors.AsType[*enrol.Refused](err); err == nil || refused || asked {
				t.Errorf("it was asked: %v", err)
			}
		})
	}
}

// serveTLS answers on a socket with the certificate of h, and tells of each
// request.
func serveTLS(t *testing.T, h holder, told func()) (address string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told() }))
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*h.tls()}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// A key that has its certificate, and a token as old as a revocation, join nobody.
func TestJoinBoundaries(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	now, p := time.Now(), w.holder(ann, time.Now())
	key := w.key(pki.RoleSensor)
	r.issued(r.renew(w.holder(web1, now), key), web1, key)
	r.refused("a key that has its certificate", r.join(key, w.order(issuance.Join, issuance.Order{Targets: []string{web1.Sender()}, SPKI: spkiOf(w, key)}, p, now)), 403, ReasonKey)
	key = w.key(pki.RoleSensor)
	token := w.order(issuance.Join, issuance.Order{Targets: []string{web2.Sender()}, SPKI: spkiOf(w, key)}, p, now)
	r.issuer.ledger.before[web2.Sender()] = now.UnixMilli()
	r.refused("a token of the revocation's own time", r.join(key, token), 403, ReasonRevoked)
}

// An operator lets nobody join in the place of a machine that holds a certificate
// of this issuer; once that is revoked, or where the people's authority says so,
// the machine has been replaced.
func TestJoinAsALivingMachine(t *testing.T) {
	w := newWorld(t)
	r := w.serve(options{})
	now, key := time.Now(), w.key(pki.RoleSensor)
	owner := r.issued(r.renew(w.holder(web1, now.Add(-time.Hour)), key), web1, key)
	other := w.key(pki.RoleSensor)
	o := issuance.Order{Targets: []string{web1.Sender()}, SPKI: spkiOf(w, other)}
	r.refused("an operator's token", r.join(other, w.order(issuance.Join, o, w.holder(ann, now), now)), 403, ReasonOrder)
	if r.issuer.ledger.superseded(web1.Sender(), owner.leaf) || len(r.entries()) != 1 {
		t.Error("the true one is superseded")
	}
	l := r.issuer.ledger
	if l.holds(web1.Sender(), now) != owner.leaf.NotAfter.UnixMilli() || l.holds(web1.Sender(), owner.leaf.NotAfter) != 0 || l.holds(web2.Sender(), now) != 0 {
		t.Error("who holds a certificate, and until when")
	}
	r.issued(r.join(other, w.order(issuance.Join, o, w.people("melb"), now)), web1, other)
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Targets: []string{web1.Sender()}}, w.holder(ann, now), time.Now()))
	if l.holds(web1.Sender(), now) != 0 {
		t.Error("a revoked one holds its certificate for ever")
	}
	next := w.key(pki.RoleSensor)
	second := r.issued(r.renew(w.holder(web2, now.Add(-time.Hour)), next), web2, next)
	r.carriedOut(w.order(issuance.Revoke, issuance.Order{Serials: []string{serialText(second)}}, w.holder(ann, now), time.Now()))
	if l.holds(web2.Sender(), now) != 0 {
		t.Error("one whose serial number is revoked holds it for ever")
	}
}
