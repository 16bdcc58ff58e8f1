package e2e

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/http"
	"testing"
	"time"

	"levee/pki"
)

// minted is a certificate that the stolen key can sign, and what is said of it.
type minted struct {
	name    string
	id      pki.Identity // whose it would be, and whose client identifier is used
	openssl bool         // openssl accepts it: it is the first wall alone
	why     string       // what both brokers and the issuer say; "": broker and issuer let it in
	spoil   func(*forgery)
	issuer  string // what the issuer says instead
}

// TestStolenAuthority: whoever has the key of melb's machine authority tries
// every certificate that it can sign at a broker, at an issuer and at another
// site's broker that run, and then, as a machine of its own site, what that may
// do. docs/controls.md has what happens without each wall.
func TestStolenAuthority(t *testing.T) {
	t.Parallel()
	s := newStolen(t)
	t.Run("certificates", s.certificates)
	t.Run("issuer", s.atTheIssuer)
	t.Run("pinned parts", s.asPinned)
	t.Run("lists", s.lists)
	// Whatever was tried, the honest parts have kept their sessions.
	for _, name := range []string{"melb/recorder", "melb/controller"} {
		if lines := s.parts[name].logged(0, entry{"msg": "not connected"}); len(lines) != 0 {
			t.Errorf("%s was without a session: %v", name, lines)
		}
	}
	t.Run("servers", s.asServers) // ends the brokers
}

func (s *stolen) certificates(t *testing.T) {
	sensor, broker := at("melb", pki.RoleSensor, "thief"), at("melb", pki.RoleBroker, "thief")
	perth, alice := at("perth", pki.RoleSensor, "web-1"), at("melb", pki.RoleOperator, "alice")
	melb, ops := sensor.Authority(), alice.Authority()
	const good = "spiffe://melb.bank.example/sensor/thief"
	const (
		notPermitted = "is not permitted by any constraint"
		excluded     = "is excluded by constraint"
		noIdentity   = "not an identity of this system"
		usage        = "incompatible key usage"
		otherUsage   = "an extended key usage that no profile has"
		otherName    = "a kind of name that no profile has"
		unknown      = "certificate signed by unknown authority"
	)
	p384, rsa2048 := otherKeys(t)

	for i, row := range []minted{
		// What it may do: without these rows the others would prove nothing.
		{name: "a sensor of its site", id: sensor, openssl: true},
		{name: "a broker of its site", id: broker, openssl: true},
		{name: "DNS: its site", id: broker, openssl: true, spoil: func(f *forgery) { f.DNSNames = []string{"melb.bank.example"} }},

		// Another site, people.
		{name: "URI: another site", id: perth, why: notPermitted},
		{name: "URI: its host as a suffix", id: sensor, why: notPermitted, spoil: names("spiffe://xmelb.bank.example/sensor/thief")},
		{name: "URI: two, own and other", id: sensor, why: notPermitted, spoil: names(good, perth.URI())},
		{name: "URI: two, other and own", id: perth, why: notPermitted, spoil: names(perth.URI(), good)},
		{name: "URI: another trust domain", id: sensor, why: notPermitted, spoil: names("spiffe://melb.bank.test/sensor/thief")},
		{name: "URI: the trust domain itself", id: sensor, why: notPermitted, spoil: names("spiffe://bank.example/sensor/thief")},
		{name: "URI: below its host", id: sensor, why: excluded, spoil: names("spiffe://sub.melb.bank.example/sensor/thief")},
		{name: "URI: an operator", id: alice, why: excluded},
		{name: "URI: an auditor", id: at("melb", pki.RoleAuditor, "thief"), why: excluded},
		{name: "URI: an operator of another site", id: at("perth", pki.RoleOperator, "alice"), why: notPermitted},
		{name: "URI: an operator at the machines' host", id: alice, openssl: true, why: "role not allowed for a machine",
			spoil: names("spiffe://melb.bank.example/operator/alice")},
		{name: "URI: urn", id: sensor, why: "URI with empty host", spoil: names("urn:uuid:00000000-0000-0000-0000-000000000000")},
		{name: "URI: opaque", id: sensor, why: "URI with empty host", spoil: names("spiffe:opaque")},

		// Its own host, in another spelling.
		{name: "URI: user", id: sensor, why: noIdentity, spoil: names("spiffe://perth.bank.example@melb.bank.example/sensor/web-1")},
		{name: "URI: port", id: sensor, openssl: true, why: noIdentity, spoil: names("spiffe://melb.bank.example:443/sensor/thief")},
		{name: "URI: upper case", id: sensor, openssl: true, why: noIdentity, spoil: names("spiffe://MELB.BANK.EXAMPLE/sensor/thief")},
		{name: "URI: https", id: sensor, openssl: true, why: noIdentity, spoil: names("https://melb.bank.example/sensor/thief")},
		{name: "URI: dots", id: sensor, openssl: true, why: noIdentity, spoil: names("spiffe://melb.bank.example/../sensor/thief")},
		{name: "URI: query", id: sensor, openssl: true, why: noIdentity, spoil: names(good + "?site=perth")},
		{name: "URI: two of its own", id: sensor, openssl: true, why: "2 URIs instead of one", spoil: names(good, "spiffe://melb.bank.example/sensor/web-2")},
		{name: "URI: no path", id: sensor, openssl: true, why: "no path", spoil: names("spiffe://melb.bank.example")},

		// Other kinds of names.
		{name: "no names, identity as common name", id: perth, openssl: true, why: "0 URIs instead of one", spoil: func(f *forgery) {
			f.URIs, f.Subject = nil, pkix.Name{CommonName: perth.URI()}
		}},
		{name: "common name: another's", id: sensor, openssl: true, why: "subject is not the common name", spoil: func(f *forgery) {
			f.Subject = pkix.Name{CommonName: perth.ClientID()}
		}},
		{name: "DNS: another site", id: broker, why: notPermitted, spoil: func(f *forgery) { f.DNSNames = []string{"perth.bank.example"} }},
		{name: "DNS: wildcard", id: broker, why: notPermitted, spoil: func(f *forgery) { f.DNSNames = []string{"*.bank.example"} }},
		{name: "IP: outside its networks", id: broker, why: notPermitted, spoil: func(f *forgery) { f.IPAddresses = []net.IP{{192, 0, 2, 1}} }},
		{name: "IP: IPv6", id: broker, why: notPermitted, spoil: func(f *forgery) { f.IPAddresses = []net.IP{net.IPv6loopback} }},
		{name: "e-mail: another site", id: sensor, why: notPermitted, spoil: func(f *forgery) { f.EmailAddresses = []string{"x@perth.bank.example"} }},
		{name: "e-mail: its host", id: sensor, openssl: true, why: otherName, spoil: func(f *forgery) { f.EmailAddresses = []string{"x@melb.bank.example"} }},

		// Authorities.
		{name: "CA: a leaf that is one", id: sensor, openssl: true, why: "is a CA", spoil: func(f *forgery) { f.IsCA = true }},
		{name: "CA: its own again", id: sensor, openssl: true, why: "no path", spoil: authorityOf(melb)},
		{name: "CA: another site's", id: perth, why: notPermitted, spoil: authorityOf(perth.Authority())},
		{name: "CA: its people's", id: alice, why: excluded, spoil: authorityOf(ops)},
		{name: "CA: one below it", id: sensor, why: unknown, spoil: s.below(t, melb)},
		{name: "CA: one below it, both shown", id: sensor, why: "3 certificates instead of leaf and issuer", spoil: s.below(t, melb, s.authority.Certificate)},
		{name: "CA: another site's below it", id: perth, why: unknown, spoil: s.below(t, perth.Authority())},
		{name: "CA: another site's below it, both shown", id: perth, why: "3 certificates instead of leaf and issuer", spoil: s.below(t, perth.Authority(), s.authority.Certificate)},
		{name: "CA: another site's named as the issuer", id: perth, why: unknown, spoil: func(f *forgery) {
			f.parent, f.chain = s.perth, []*x509.Certificate{s.perth}
		}},
		{name: "CA: its people's named as the issuer", id: alice, why: unknown, spoil: func(f *forgery) {
			f.parent, f.chain = s.people, []*x509.Certificate{s.people}
		}},
		{name: "CA: itself as the client", id: sensor, openssl: true, why: "not by way of the issuer given", spoil: func(f *forgery) {
			f.leaf, f.key, f.chain = s.authority.Certificate, s.authority.Signer, []*x509.Certificate{s.root}
		}},
		{name: "CA: itself alone", id: sensor, openssl: true, why: "1 certificates instead of leaf and issuer", spoil: func(f *forgery) {
			f.leaf, f.key, f.chain = s.authority.Certificate, s.authority.Signer, nil
		}},

		// Usages, keys, times.
		{name: "key usage: certSign besides", id: sensor, why: "key usage is not digitalSignature alone", spoil: func(f *forgery) { f.KeyUsage |= x509.KeyUsageCertSign }},
		{name: "key usage: keyEncipherment besides", id: sensor, openssl: true, why: "key usage is not digitalSignature alone", spoil: func(f *forgery) { f.KeyUsage |= x509.KeyUsageKeyEncipherment }},
		{name: "key usage: none", id: sensor, openssl: true, why: "key usage is not digitalSignature alone", spoil: func(f *forgery) { f.KeyUsage = 0 }},
		{name: "extended key usage: none", id: sensor, openssl: true, why: "not for usage client", spoil: func(f *forgery) { f.ExtKeyUsage = nil }},
		{name: "extended key usage: any", id: sensor, why: otherUsage, spoil: func(f *forgery) { f.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		{name: "extended key usage: code signing besides", id: sensor, openssl: true, why: otherUsage, spoil: func(f *forgery) {
			f.ExtKeyUsage = append(f.ExtKeyUsage, x509.ExtKeyUsageCodeSigning)
		}},
		{name: "extended key usage: server alone", id: broker, why: usage, spoil: func(f *forgery) { f.ExtKeyUsage = f.ExtKeyUsage[1:] }},
		{name: "extended key usage: server for a sensor", id: sensor, openssl: true, why: "role sensor is no server", spoil: func(f *forgery) {
			f.ExtKeyUsage = append(f.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}},
		{name: "key: P-384", id: sensor, openssl: true, why: "neither Ed25519 nor P-256", spoil: func(f *forgery) { f.key = p384 }},
		{name: "key: RSA", id: sensor, openssl: true, why: "neither Ed25519 nor P-256", spoil: func(f *forgery) { f.key = rsa2048 }},
		{name: "lives longer than a machine may", id: sensor, openssl: true, why: "lives longer than a machine may", spoil: func(f *forgery) {
			f.NotAfter = f.NotBefore.Add(pki.MaxMachineLifetime + pki.Backdating + time.Second)
		}},
		{name: "began long ago", id: sensor, openssl: true, why: "lives longer than a machine may", spoil: func(f *forgery) {
			f.NotBefore = f.NotAfter.Add(-pki.MaxMachineLifetime - pki.Backdating - time.Second)
		}},
		{name: "expired", id: sensor, why: "expired or is not yet valid", spoil: func(f *forgery) { f.NotAfter = time.Now().Add(-2 * time.Second) },
			issuer: "nobody has readmitted it"},
		{name: "not yet valid", id: sensor, why: "expired or is not yet valid", spoil: func(f *forgery) { f.NotBefore = time.Now().Add(time.Minute) }},
	} {
		s.from = net.IPv4(127, 0, 1, byte(i+1))
		t.Run(row.name, func(t *testing.T) { s.show(t, row) })
	}
}

// show shows a certificate to everybody.
func (s *stolen) show(t *testing.T, row minted) {
	cert := s.forge(t, row.id, row.spoil)
	broker, issuer, perth := s.doors()
	if got := s.opensslAccepts(t, cert); got != row.openssl {
		t.Errorf("openssl accepts it: %v, want %v", got, row.openssl)
	}
	if row.why == "" {
		before := broker.guard.mark()
		if _, open := broker.knock(t, cert, row.id); !open {
			t.Error("the broker refuses it")
		}
		broker.guard.awaitLog(t, before, entry{"msg": "session opened", "identity": row.id.Sender()})
		if a := s.ask(t, cert, http.MethodGet, "/v1/crl", nil); a.code != http.StatusOK {
			t.Errorf("the issuer answers %+v", a)
		}
		row.why = "checking identity " + row.id.URI()
	} else {
		broker.refuses(t, cert, row.id, row.why)
		if row.issuer == "" {
			row.issuer = row.why
		}
		issuer.refuses(t, cert, row.id, row.issuer)
	}
	perth.refuses(t, cert, row.id, row.why)
}
