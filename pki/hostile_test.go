package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

// TestHostileAuthority: the key of melb's machine authority is in an
// attacker's hands and signs whatever it is told. Nothing but the machines of
// melb may come of it. Each row says which walls refuse, each alone: a row that
// only the second refuses is a reason for there being two, and a row that moves
// after an upgrade of Go must be looked at. TestWeakerConstraints has the
// authorities that we do not issue.
func TestHostileAuthority(t *testing.T) {
	captured := capture(t)
	v := captured.v
	sensorKey, brokerKey := newKey(t, pki.RoleSensor), newKey(t, pki.RoleBroker)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}

	uri := func(uris ...string) func(*x509.Certificate) {
		var names []asn1.RawValue
		for _, u := range uris {
			names = append(names, uriName(u))
		}
		return func(cert *x509.Certificate) { setNames(cert, names...) }
	}
	beside := func(id pki.Identity, name asn1.RawValue) func(*x509.Certificate) {
		return func(cert *x509.Certificate) { setNames(cert, uriName(id.URI()), name) }
	}
	const good = "spiffe://melb.bank.example/sensor/web-1"

	type hostile struct {
		name  string
		by    walls
		id    pki.Identity // which it names, if it names one
		spoil func(*x509.Certificate)
	}
	tests := []hostile{
		// What it may do.
		{"a sensor of melb", none, melbSensor, func(*x509.Certificate) {}},
		{"a broker of melb", none, melbBroker, func(*x509.Certificate) {}},
		{"DNS: its host", none, melbBroker, beside(melbBroker, dnsName("melb.bank.example"))},
		{"DNS: its zone", none, melbBroker, beside(melbBroker, dnsName("mqtt.melb.bank.test"))},
		{"IP: its network", none, melbBroker, beside(melbBroker, ipName("10.1.2.3"))},

		// URIs: the hosts of others.
		{"URI: other site", every, melbSensor, uri("spiffe://perth.bank.example/sensor/web-1")},
		{"URI: host with its own as suffix", every, melbSensor, uri("spiffe://xmelb.bank.example/sensor/web-1")},
		{"URI: two, own and other", every, melbSensor, uri(good, "spiffe://perth.bank.example/sensor/web-1")},
		{"URI: below its host", full, melbSensor, uri("spiffe://sub.melb.bank.example/sensor/web-1")},
		{"URI: its site's people", full, melbSensor, uri("spiffe://ops.melb.bank.example/operator/alice")},
		{"URI: other trust domain", every, melbSensor, uri("spiffe://melb.bank.test/sensor/web-1")},
		{"URI: the trust domain itself", every, melbSensor, uri("spiffe://bank.example/sensor/web-1")},
		{"URI: urn", every, melbSensor, uri("urn:uuid:00000000-0000-0000-0000-000000000000")},
		{"URI: opaque", every, melbSensor, uri("spiffe:opaque")},
		{"URI: address for host", every, melbSensor, uri("spiffe://10.1.2.3/sensor/web-1")},
		// CVE-2024-45341: the zone of an IPv6 address was taken for a host.
		{"URI: IPv6 with zone for host", every, melbSensor, uri("spiffe://[fe80::1%25melb.bank.example]/sensor/web-1")},

		// URIs: its own host, spelt so that someone may read it otherwise.
		{"URI: two of its own", second, melbSensor, uri(good, "spiffe://melb.bank.example/sensor/web-2")},
		{"URI: user", openssl | second, melbSensor, uri("spiffe://perth.bank.example@melb.bank.example/sensor/web-1")},
		{"URI: port", second, melbSensor, uri("spiffe://melb.bank.example:443/sensor/web-1")},
		{"URI: upper case", second, melbSensor, uri("spiffe://MELB.BANK.EXAMPLE/sensor/web-1")},
		{"URI: https", second, melbSensor, uri("https://melb.bank.example/sensor/web-1")},
		{"URI: upper-case scheme", second, melbSensor, uri("SPIFFE://melb.bank.example/sensor/web-1")},
		{"URI: dots", second, melbSensor, uri("spiffe://melb.bank.example/../sensor/web-1")},
		{"URI: escape", second, melbSensor, uri("spiffe://melb.bank.example/sensor/web%2D1")},
		{"URI: query", second, melbSensor, uri(good + "?site=perth")},
		{"URI: fragment", second, melbSensor, uri(good + "#perth")},
		{"URI: empty fragment", second, melbSensor, uri(good + "#")},
		{"URI: no path", second, melbSensor, uri("spiffe://melb.bank.example")},
		{"URI: too long", second, melbSensor, uri(good + strings.Repeat("1", 600))},
		{"URI: final dot", every, melbSensor, uri("spiffe://melb.bank.example./sensor/web-1")},
		{"URI: its own, and a second extension with another's", every, melbSensor, func(cert *x509.Certificate) {
			names := cert.ExtraExtensions[0]
			setNames(cert, uriName(perthSensor.URI()))
			cert.ExtraExtensions = append(cert.ExtraExtensions, names)
		}},

		// URIs: its own host, what it does not have.
		{"URI: role of people at the machines' host", second, melbSensor, uri("spiffe://melb.bank.example/operator/alice")},
		{"URI: unknown role", second, melbSensor, uri("spiffe://melb.bank.example/root/web-1")},

		// Other kinds of names.
		{"no names, identity as common name", second, melbSensor, func(cert *x509.Certificate) {
			setNames(cert)
			cert.Subject = pkix.Name{CommonName: "spiffe://perth.bank.example/sensor/web-1"}
		}},
		{"DNS alone", second, melbBroker, func(cert *x509.Certificate) { setNames(cert, dnsName("melb.bank.example")) }},
		{"DNS: other host", full, melbBroker, beside(melbBroker, dnsName("perth.bank.example"))},
		{"DNS: trust domain", full, melbBroker, beside(melbBroker, dnsName("bank.example"))},
		{"DNS: wildcard over all sites", full, melbBroker, beside(melbBroker, dnsName("*.bank.example"))},
		{"DNS: wildcard in its zone", second, melbBroker, beside(melbBroker, dnsName("*.melb.bank.test"))},
		{"DNS: upper case", second, melbBroker, beside(melbBroker, dnsName("MELB.bank.example"))},
		{"DNS: zone as suffix of a label", full, melbBroker, beside(melbBroker, dnsName("xmelb.bank.test"))},
		{"DNS: on a part that is no server", second, melbSensor, beside(melbSensor, dnsName("melb.bank.example"))},
		{"IP: outside its networks", full, melbBroker, beside(melbBroker, ipName("10.2.0.1"))},
		{"IP: IPv6", full, melbBroker, beside(melbBroker, ipName("2001:db8::1"))},
		{"IP: its network, mapped to IPv6", full, melbBroker, beside(melbBroker, ipName("::ffff:10.1.2.3"))},
		{"IP: on a part that is no server", second, melbSensor, beside(melbSensor, ipName("10.1.2.3"))},
		// CVE-2026-27138: an empty DNS name made crypto/x509 panic.
		{"DNS: empty", full, melbBroker, beside(melbBroker, dnsName(""))},
		{"DNS: final dot", every, melbBroker, beside(melbBroker, dnsName("perth.bank.example."))},
		{"DNS: NUL", every &^ openssl, melbBroker, beside(melbBroker, dnsName("perth.bank.example\x00.melb.bank.test"))},
		{"IP: all, as none", every, melbBroker, beside(melbBroker, generalName(7, nil))},
		{"e-mail: quoted other host", second, melbSensor, beside(melbSensor, emailName("\"x@perth.bank.example\"@melb.bank.example"))},
		{"e-mail: other host", full, melbSensor, beside(melbSensor, emailName("x@perth.bank.example"))},
		{"e-mail: its host", second, melbSensor, beside(melbSensor, emailName("x@melb.bank.example"))},
		{"directory name", second, melbSensor, beside(melbSensor, directoryName(pkix.Name{CommonName: "perth"}))},
		{"registered ID", second, melbSensor, beside(melbSensor, registeredID(42, 3))},

		// The subject, which mosquitto and NATS may read.
		{"subject: other common name", second, melbSensor, func(cert *x509.Certificate) { cert.Subject.CommonName = "perth_sensor_web-1" }},
		{"subject: none", openssl | second, melbSensor, func(cert *x509.Certificate) { cert.Subject = pkix.Name{} }},
		{"subject: two common names", second, melbSensor, func(cert *x509.Certificate) {
			cert.Subject = pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
				{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "perth_sensor_web-1"},
				{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: melbSensor.ClientID()},
			}}
		}},
		{"subject: more than the common name", second, melbSensor, func(cert *x509.Certificate) { cert.Subject.Organization = []string{"perth"} }},

		// Usages.
		{"CA: another site's", every, melbSensor, func(cert *x509.Certificate) {
			*cert = *authorityTemplate(perthMachines, noon)
		}},
		{"CA: its own again", openssl | second, melbSensor, func(cert *x509.Certificate) {
			*cert = *authorityTemplate(melbMachines, noon)
		}},
		{"CA", second, melbSensor, func(cert *x509.Certificate) { cert.IsCA = true }},
		{"key usage: certSign besides", openssl | second, melbSensor, func(cert *x509.Certificate) { cert.KeyUsage |= x509.KeyUsageCertSign }},
		{"key usage: keyEncipherment besides", second, melbSensor, func(cert *x509.Certificate) { cert.KeyUsage |= x509.KeyUsageKeyEncipherment }},
		{"key usage: none", second, melbSensor, func(cert *x509.Certificate) { cert.KeyUsage = 0 }},
		{"extended key usage: none, which means any", second, melbSensor, func(cert *x509.Certificate) { cert.ExtKeyUsage = nil }},
		{"extended key usage: any", openssl | second, melbSensor, func(cert *x509.Certificate) { cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		{"extended key usage: code signing besides", second, melbSensor, func(cert *x509.Certificate) {
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageCodeSigning)
		}},
		{"extended key usage: unknown besides", second, melbSensor, func(cert *x509.Certificate) {
			cert.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 99999, 1}}
		}},
		{"extended key usage: server for a sensor", second, melbSensor, func(cert *x509.Certificate) {
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}},
		{"unknown critical extension", every, melbSensor, func(cert *x509.Certificate) {
			cert.ExtraExtensions = append(cert.ExtraExtensions, pkix.Extension{
				Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Critical: true, Value: []byte{5, 0}})
		}},

		// Times.
		{"lives longer than a machine may", second, melbSensor, func(cert *x509.Certificate) { cert.NotAfter = noon.Add(31 * 24 * time.Hour) }},
		{"lives as long as a machine may", none, melbSensor, func(cert *x509.Certificate) { cert.NotAfter = noon.Add(pki.MaxMachineLifetime) }},
		{"begins long ago to live longer", second, melbSensor, func(cert *x509.Certificate) { cert.NotBefore = noon.Add(-31 * 24 * time.Hour) }},
		{"expired", every, melbSensor, func(cert *x509.Certificate) { cert.NotAfter = noon.Add(-time.Second) }},
		{"not yet valid", every, melbSensor, func(cert *x509.Certificate) { cert.NotBefore = noon.Add(time.Second) }},
	}
	keys := map[string]any{"key of a leaf: P-384": p384.Public(), "key of a leaf: RSA": rsaKey.Public()}
	for name := range keys {
		tests = append(tests, hostile{name, second, melbSensor, func(*x509.Certificate) {}})
	}
	leaves := make([][]byte, len(tests))
	for i, test := range tests {
		cert := template(test.id, noon)
		test.spoil(cert)
		public, other := keys[test.name]
		if !other {
			public = sensorKey.Public()
		}
		if test.id.Role == pki.RoleBroker {
			public = brokerKey.Public()
		}
		leaves[i] = captured.sign(t, cert, public)
	}
	accepted := opensslAccepts(t, captured.root.Certificate, []*x509.Certificate{captured.issuer.Certificate}, leaves...)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var by walls
			if !accepted[i] {
				by |= openssl
			}
			leaf, err := x509.ParseCertificate(leaves[i])
			if err != nil { // it reaches no wall
				judge(t, by|uriOnly|first|second, test.by)
				return
			}
			if firstWall(captured.root.Certificate, captured.uriOnly, leaf) != nil {
				by |= uriOnly
			}
			judge(t, by|ourWalls(t, v, leaf, captured.issuer.Certificate, test.id), test.by)
			if authority, err := v.VerifyAuthority(leaf, noon); err == nil {
				t.Errorf("it is taken for the authority of %s", authority.Host())
			}
		})
	}

	t.Run("a CA of its own below itself", func(t *testing.T) {
		key, err := ca.NewAuthorityKey()
		if err != nil {
			t.Fatal(err)
		}
		below := ca.Issuer{Certificate: mint(t, captured.issuer, authorityTemplate(melbMachines, noon), key.Public()), Signer: key}
		leaf := mint(t, below, template(melbSensor, noon), sensorKey.Public())
		// Alone it looks like the authority: that the root did not sign it is
		// for the first wall to find.
		by := ourWalls(t, v, leaf, below.Certificate, melbSensor)
		if !opensslAccepts(t, captured.root.Certificate, []*x509.Certificate{below.Certificate, captured.issuer.Certificate}, leaf.Raw)[0] {
			by |= openssl
		}
		judge(t, by, first|openssl)
		if _, err := v.VerifyAuthority(below.Certificate, noon); !errors.Is(err, pki.ErrChain) {
			t.Errorf("VerifyAuthority: %v", err)
		}
	})

	t.Run("an authority of another site below itself", func(t *testing.T) {
		key, err := ca.NewAuthorityKey()
		if err != nil {
			t.Fatal(err)
		}
		below := ca.Issuer{Certificate: mint(t, captured.issuer, authorityTemplate(perthMachines, noon), key.Public()), Signer: key}
		leaf := mint(t, below, template(perthSensor, noon), sensorKey.Public())
		by := ourWalls(t, v, leaf, below.Certificate, perthSensor)
		if !opensslAccepts(t, captured.root.Certificate, []*x509.Certificate{below.Certificate, captured.issuer.Certificate}, leaf.Raw)[0] {
			by |= openssl
		}
		judge(t, by, first|openssl)
	})

	t.Run("another authority shown as the issuer", func(t *testing.T) {
		perth := newAuthority(t, captured.root, perthMachines, ca.Zones{}, noon)
		parent := *captured.issuer.Certificate
		parent.RawSubject, parent.SubjectKeyId = perth.Certificate.RawSubject, perth.Certificate.SubjectKeyId
		leaf := mint(t, ca.Issuer{Certificate: &parent, Signer: captured.issuer.Signer}, template(perthSensor, noon), sensorKey.Public())
		by := ourWalls(t, v, leaf, perth.Certificate, perthSensor)
		if !opensslAccepts(t, captured.root.Certificate, []*x509.Certificate{perth.Certificate}, leaf.Raw)[0] {
			by |= openssl
		}
		judge(t, by, first|openssl)
		// And the other way round: the second wall must look at who signed.
		leaf = mint(t, captured.issuer, template(melbSensor, noon), sensorKey.Public())
		judge(t, ourWalls(t, v, leaf, perth.Certificate, melbSensor), first|second)
	})

	// The walls let it mint a second monitor, because it is the authority of
	// monitors. That is what pins are for: whoever pins compares the key.
	t.Run("in place of a pinned part", func(t *testing.T) {
		for _, role := range []pki.Role{pki.RoleMonitor, pki.RoleApprover} {
			id := pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: role, Name: "x-1"}
			honest := newLeaf(t, captured.issuer, id, newKey(t, role), noon)
			minted := mint(t, captured.issuer, template(id, noon), newKey(t, role).Public())
			judge(t, ourWalls(t, v, minted, captured.issuer.Certificate, id), none)
			if pki.SPKIHash(minted) == pki.SPKIHash(honest) {
				t.Errorf("%s: the pin of one key is the pin of another", role)
			}
			// The pinned key itself in a new certificate, which is a renewal.
			renewed := mint(t, captured.issuer, template(id, noon), honest.PublicKey)
			if pki.SPKIHash(renewed) != pki.SPKIHash(honest) {
				t.Errorf("%s: the pin does not outlive the certificate", role)
			}
		}
	})
}
