package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/envelope/keys"
	"levee/internal/config"
	"levee/internal/enrol"
	"levee/internal/export"
	"levee/internal/issuance"
	"levee/internal/provision"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

// desk is a deployer's directory, and the bundle of a sensor that has not joined.
type desk struct {
	layout provision.Layout
	bundle string
	id     pki.Identity
	by     ca.Issuer
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{layout: provision.Layout{Dir: t.TempDir()}, bundle: filepath.Join(t.TempDir(), "web-9"),
		id: pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: pki.RoleSensor, Name: "web-9"}}
	_, err := provision.Apply(d.layout.Dir, provision.Inventory{TrustDomain: "bank.example", Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers: []provision.Broker{{Name: "b1", Listen: "127.0.0.1:8883", Address: "127.0.0.1:8883"}},
		Sensors: []provision.Sensor{{Name: "web-9"}},
		People:  []provision.Person{{Role: pki.RoleOperator, Name: "ann"}},
	}}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := export.ForJoining(export.Options{Bundle: d.layout.Bundle(d.id), Out: d.bundle}, time.Now()); err != nil {
		t.Fatal(err)
	}
	authority := filepath.Join(d.layout.Authority(), "melb", "machine-ca")
	if d.by.Signer, err = ca.OpenKey(authority+".key", nil); err != nil {
		t.Fatal(err)
	}
	if d.by.Certificate, err = pki.ReadCertificate(authority + ".pem"); err != nil {
		t.Fatal(err)
	}
	return d
}

// asked opens the bundle, has it ask, and returns the file of a token for it.
func (d *desk) asked(t *testing.T) (*joining, string) {
	t.Helper()
	j, err := openJoining(d.bundle, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	spki, err := j.ask()
	if err != nil {
		t.Fatal(err)
	}
	o := ordering{life: time.Minute, order: issuance.Order{Targets: []string{d.id.Sender()}, SPKI: spki, Reason: "new"}}
	o.bundle.bundle = d.layout.Bundle(pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: pki.RoleOperator, Name: "ann"})
	token, _, err := o.sign(issuance.Join, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, append(token, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	return j, path
}

// lets is an issuer that issues once for each key, and may lose its answer.
type lets struct {
	by     ca.Issuer
	id     pki.Identity
	key    crypto.PublicKey // in place of the request's
	fail   error
	issued *x509.Certificate
	asked  int
	before func()
}

func (l *lets) Join(_ context.Context, request, token []byte) (leaf, issuer *x509.Certificate, err error) {
	l.asked++
	if l.before != nil {
		l.before()
	}
	asked, err := ca.ParseRequest(request)
	if err != nil {
		return nil, nil, err
	}
	if _, err := issuance.ReadOrder(token, l.id.Authority()); err != nil {
		return nil, nil, err
	}
	public := asked.PublicKey
	if l.key != nil {
		public = l.key
	}
	if l.issued == nil || !bytes.Equal(l.issued.RawSubjectPublicKeyInfo, asked.RawSubjectPublicKeyInfo) {
		if l.issued, err = ca.IssueLeaf(l.by, l.id, public, ca.Names{}, time.Hour, time.Now()); err != nil {
			return nil, nil, err
		}
	}
	return l.issued, l.by.Certificate, l.fail
}

func (d *desk) has(t *testing.T, name string) bool {
	t.Helper()
	_, err := os.Lstat(filepath.Join(d.bundle, name))
	return err == nil
}

// An answer that was lost is asked for again with the same key, also after the
// command was cut short; what came of it is a bundle like any other.
func TestJoinLosesNoKey(t *testing.T) {
	d := newDesk(t)
	j, token := d.asked(t)
	l := &lets{by: d.by, id: d.id, fail: errors.New("the connection broke")}
	for range 2 {
		if _, err := j.join(t.Context(), l, token); err == nil || !strings.Contains(err.Error(), "nothing is lost") {
			t.Fatal(err)
		}
		if d.has(t, site.FileChain) {
			t.Fatal("it has a certificate")
		}
	}
	lost := l.issued
	l.fail = nil
	again, err := openJoining(d.bundle, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := again.join(t.Context(), l, token)
	if err != nil || !leaf.Equal(lost) || l.asked != 3 {
		t.Fatalf("asked %d times, %v", l.asked, err)
	}
	if d.has(t, fileRequest) {
		t.Error("the request stays")
	}
	b, err := site.Open(site.Settings{Bundle: config.Path(d.bundle), State: config.Path(filepath.Join(d.bundle, "state"))}, time.Now())
	if err != nil || b.Identity != d.id || !b.Credentials.Current().Leaf().Equal(lost) {
		t.Errorf("the part does not open it: %v", err)
	}
	if _, err := openJoining(d.bundle, time.Now()); err == nil || !strings.Contains(err.Error(), "has a certificate already") {
		t.Errorf("joined twice: %v", err)
	}
}

// What is not this machine's certificate is not kept, and changes nothing.
func TestJoinKeepsNoOthersCertificate(t *testing.T) {
	d := newDesk(t)
	j, token := d.asked(t)
	key, err := os.ReadFile(j.file(site.FileKey))
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewKey(pki.RoleSensor)
	if err != nil {
		t.Fatal(err)
	}
	web8 := d.id
	web8.Name = "web-8"
	for name, l := range map[string]*lets{
		"for another key":          {by: d.by, id: d.id, key: other.Public()},
		"of another identity":      {by: d.by, id: web8},
		"below another root":       {by: newDesk(t).by, id: d.id},
		"of nobody that we expect": {by: d.by, id: d.id, fail: &enrol.Refused{Status: 403, Text: "key: the key was used before"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := j.join(t.Context(), l, token)
			var f failure
			if !errors.As(err, &f) || f.code != exitVerification || l.asked != 1 {
				t.Errorf("%v, asked %d times", err, l.asked)
			}
			if d.has(t, site.FileChain) {
				t.Error("it was kept")
			}
			if b, err := os.ReadFile(j.file(site.FileKey)); err != nil || !bytes.Equal(b, key) {
				t.Errorf("the key changed: %v", err)
			}
		})
	}
}

// A certificate that came while the issuer was asked is not written over.
func TestJoinWritesOverNothing(t *testing.T) {
	d := newDesk(t)
	j, token := d.asked(t)
	l := &lets{by: d.by, id: d.id, before: func() {
		if err := os.WriteFile(j.file(site.FileChain), []byte("carried"), 0o644); err != nil {
			t.Error(err)
		}
	}}
	if _, err := j.join(t.Context(), l, token); err == nil || !strings.Contains(err.Error(), "has a certificate already") {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(j.file(site.FileChain)); err != nil || string(b) != "carried" {
		t.Errorf("it holds %q, %v", b, err)
	}
}

// Message keys of another site come from another deployer, or from a mistake.
func TestJoinWithKeysOfAnotherSite(t *testing.T) {
	d := newDesk(t)
	root, err := keys.NewSiteKey("syd")
	if err != nil {
		t.Fatal(err)
	}
	role, err := root.Role(pki.RoleSensor)
	if err != nil {
		t.Fatal(err)
	}
	own, err := role.Sender("web-9", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.bundle, site.FileKeys), keys.EncodeBundle(own), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openJoining(d.bundle, time.Now()); err == nil || !strings.Contains(err.Error(), `of site "syd"`) {
		t.Error(err)
	}
}

// Orders for other machines, other keys, or of another kind are not handed in.
func TestJoinHandsInItsOwnTokenAlone(t *testing.T) {
	d := newDesk(t)
	j, token := d.asked(t)
	text, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	o := ordering{life: time.Minute, order: issuance.Order{ID: wire.NewID(), All: true, Reason: "outage"}}
	o.bundle.bundle = d.layout.Bundle(pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: pki.RoleOperator, Name: "ann"})
	readmission, _, err := o.sign(issuance.Readmit, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		token []byte
		want  string
	}{
		"a readmission": {readmission, "is no token"},
		"another root's": {func() []byte {
			_, path := newDesk(t).asked(t)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}(), "reading an order"},
		"changed": {bytes.Replace(text, []byte("web-9"), []byte("web-8"), 1), "reading an order"},
		"twice":   {append(bytes.Clone(text), text...), "reading an order"},
	} {
		path := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(path, test.token, 0o600); err != nil {
			t.Fatal(err)
		}
		l := &lets{by: d.by, id: d.id}
		if _, err := j.join(t.Context(), l, path); err == nil || !strings.Contains(err.Error(), test.want) || l.asked != 0 {
			t.Errorf("%s: %v, asked %d times", name, err, l.asked)
		}
	}
}

// A refusal says what to do next, and a machine that did not hear an answer
// learns that its token is still good.
func TestWhatARefusalToJoinSays(t *testing.T) {
	j := &joining{dir: "web-9"}
	for _, test := range []struct {
		err  error
		want string
		code int
	}{
		{&enrol.Refused{Status: 403, Text: "order: the order is not fresh"}, "have a new token signed", exitVerification},
		{&enrol.Refused{Status: 403, Text: "revoked: the token is older"}, "have a new token signed", exitVerification},
		{&enrol.Refused{Status: 403, Text: "key: the key was used before"}, "remove " + filepath.Join("web-9", "tls.key"), exitVerification},
		{&enrol.Refused{Status: 503, Text: "revoked: just now", RetryAfter: 7 * time.Second}, "ask again in 7s", exitVerification},
		{&enrol.Refused{Status: 409, Text: "used: the token was used before"}, "used before", exitVerification},
		{errors.New("connection refused"), "the same token may be used again", 0},
	} {
		err := j.refused(test.err)
		var f failure
		if errors.As(err, &f); f.code != test.code || !strings.Contains(err.Error(), test.want) || !errors.Is(err, test.err) {
			t.Errorf("%v (exit code %d), want %q", err, f.code, test.want)
		}
	}
}
