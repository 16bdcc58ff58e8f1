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

// refusal says which of the two walls refuse a certificate.
type refusal struct{ chain, path bool }

var (
	byNone  = refusal{}
	byChain = refusal{chain: true}
	byPath  = refusal{path: true}
	byBoth  = refusal{chain: true, path: true}
)

// TestHostileAuthority: the key of melb's machine authority is in an
// attacker's hands and signs whatever it is told. Nothing but the machines of
// melb may come of it. Each row says which wall refuses, alone: a row that only
// the second refuses is a reason for there being two, and a row that moves
// after an upgrade of Go must be looked at.
func TestHostileAuthority(t *testing.T) {
	root := newRoot(t, noon)
	captured := newAuthority(t, root, melbMachines, melbZones, noon)
	v := newVerifier(t, root, "")
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

	tests := []struct {
		name  string
		by    refusal
		id    pki.Identity
		spoil func(*x509.Certificate)
	}{
		// What it may do.
		{"a sensor of melb", byNone, melbSensor, func(*x509.Certificate) {}},
		{"a broker of melb", byNone, melbBroker, func(*x509.Certificate) {}},
		{"DNS: its host", byNone, melbBroker, beside(melbBroker, dnsName("melb.bank.example"))},
		{"DNS: its zone", byNone, melbBroker, beside(melbBroker, dnsName("mqtt.melb.bank.test"))},
		{"IP: its network", byNone, melbBroker, beside(melbBroker, ipName("10.1.2.3"))},

		// URIs: the hosts of others.
		{"URI: other site", byBoth, melbSensor, uri("spiffe://perth.bank.example/sensor/web-1")},
		{"URI: host with its own as suffix", byBoth, melbSensor, uri("spiffe://xmelb.bank.example/sensor/web-1")},
		{"URI: two, own and other", byBoth, melbSensor, uri(good, "spiffe://perth.bank.example/sensor/web-1")},
		{"URI: below its host", byBoth, melbSensor, uri("spiffe://sub.melb.bank.example/sensor/web-1")},
		{"URI: its site's people", byBoth, melbSensor, uri("spiffe://ops.melb.bank.example/operator/alice")},
		{"URI: other trust domain", byBoth, melbSensor, uri("spiffe://melb.bank.test/sensor/web-1")},
		{"URI: the trust domain itself", byBoth, melbSensor, uri("spiffe://bank.example/sensor/web-1")},
		{"URI: urn", byBoth, melbSensor, uri("urn:uuid:00000000-0000-0000-0000-000000000000")},
		{"URI: opaque", byBoth, melbSensor, uri("spiffe:opaque")},
		{"URI: address for host", byBoth, melbSensor, uri("spiffe://10.1.2.3/sensor/web-1")},
		{"URI: IPv6 with zone for host", byBoth, melbSensor, uri("spiffe://[fe80::1%25melb.bank.example]/sensor/web-1")},

		// URIs: its own host, spelt so that someone may read it otherwise.
		{"URI: two of its own", byPath, melbSensor, uri(good, "spiffe://melb.bank.example/sensor/web-2")},
		{"URI: user", byPath, melbSensor, uri("spiffe://perth.bank.example@melb.bank.example/sensor/web-1")},
		{"URI: port", byPath, melbSensor, uri("spiffe://melb.bank.example:443/sensor/web-1")},
		{"URI: upper case", byPath, melbSensor, uri("spiffe://MELB.BANK.EXAMPLE/sensor/web-1")},
		{"URI: https", byPath, melbSensor, uri("https://melb.bank.example/sensor/web-1")},
		{"URI: upper-case scheme", byPath, melbSensor, uri("SPIFFE://melb.bank.example/sensor/web-1")},
		{"URI: dots", byPath, melbSensor, uri("spiffe://melb.bank.example/../sensor/web-1")},
		{"URI: escape", byPath, melbSensor, uri("spiffe://melb.bank.example/sensor/web%2D1")},
		{"URI: query", byPath, melbSensor, uri(good + "?site=perth")},
		{"URI: fragment", byPath, melbSensor, uri(good + "#perth")},
		{"URI: empty fragment", byPath, melbSensor, uri(good + "#")},
		{"URI: no path", byPath, melbSensor, uri("spiffe://melb.bank.example")},
		{"URI: too long", byPath, melbSensor, uri(good + strings.Repeat("1", 600))},

		// URIs: its own host, what it does not have.
		{"URI: role of people at the machines' host", byPath, melbSensor, uri("spiffe://melb.bank.example/operator/alice")},
		{"URI: unknown role", byPath, melbSensor, uri("spiffe://melb.bank.example/root/web-1")},

		// Other kinds of names.
		{"no names, identity as common name", byPath, melbSensor, func(cert *x509.Certificate) {
			setNames(cert)
			cert.Subject = pkix.Name{CommonName: "spiffe://perth.bank.example/sensor/web-1"}
		}},
		{"DNS alone", byPath, melbBroker, func(cert *x509.Certificate) { setNames(cert, dnsName("melb.bank.example")) }},
		{"DNS: other host", byBoth, melbBroker, beside(melbBroker, dnsName("perth.bank.example"))},
		{"DNS: trust domain", byBoth, melbBroker, beside(melbBroker, dnsName("bank.example"))},
		{"DNS: wildcard over all sites", byBoth, melbBroker, beside(melbBroker, dnsName("*.bank.example"))},
		{"DNS: wildcard in its zone", byPath, melbBroker, beside(melbBroker, dnsName("*.melb.bank.test"))},
		{"DNS: upper case", byPath, melbBroker, beside(melbBroker, dnsName("MELB.bank.example"))},
		{"DNS: zone as suffix of a label", byBoth, melbBroker, beside(melbBroker, dnsName("xmelb.bank.test"))},
		{"DNS: on a part that is no server", byPath, melbSensor, beside(melbSensor, dnsName("melb.bank.example"))},
		{"IP: outside its networks", byBoth, melbBroker, beside(melbBroker, ipName("10.2.0.1"))},
		{"IP: IPv6", byBoth, melbBroker, beside(melbBroker, ipName("2001:db8::1"))},
		{"IP: its network, mapped to IPv6", byBoth, melbBroker, beside(melbBroker, ipName("::ffff:10.1.2.3"))},
		{"IP: on a part that is no server", byPath, melbSensor, beside(melbSensor, ipName("10.1.2.3"))},
		{"e-mail: other host", byBoth, melbSensor, beside(melbSensor, emailName("x@perth.bank.example"))},
		{"e-mail: its host", byPath, melbSensor, beside(melbSensor, emailName("x@melb.bank.example"))},
		{"directory name", byPath, melbSensor, beside(melbSensor, directoryName(pkix.Name{CommonName: "perth"}))},
		{"registered ID", byPath, melbSensor, beside(melbSensor, registeredID(42, 3))},

		// The subject, which mosquitto and NATS may read.
		{"subject: other common name", byPath, melbSensor, func(cert *x509.Certificate) { cert.Subject.CommonName = "perth_sensor_web-1" }},
		{"subject: none", byPath, melbSensor, func(cert *x509.Certificate) { cert.Subject = pkix.Name{} }},
		{"subject: two common names", byPath, melbSensor, func(cert *x509.Certificate) {
			cert.Subject = pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
				{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "perth_sensor_web-1"},
				{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: melbSensor.ClientID()},
			}}
		}},
		{"subject: more than the common name", byPath, melbSensor, func(cert *x509.Certificate) { cert.Subject.Organization = []string{"perth"} }},

		// Usages.
		{"CA", byPath, melbSensor, func(cert *x509.Certificate) { cert.IsCA = true }},
		{"key usage: certSign besides", byPath, melbSensor, func(cert *x509.Certificate) { cert.KeyUsage |= x509.KeyUsageCertSign }},
		{"key usage: keyEncipherment besides", byPath, melbSensor, func(cert *x509.Certificate) { cert.KeyUsage |= x509.KeyUsageKeyEncipherment }},
		{"key usage: none", byPath, melbSensor, func(cert *x509.Certificate) { cert.KeyUsage = 0 }},
		{"extended key usage: none, which means any", byPath, melbSensor, func(cert *x509.Certificate) { cert.ExtKeyUsage = nil }},
		{"extended key usage: any", byPath, melbSensor, func(cert *x509.Certificate) { cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }},
		{"extended key usage: code signing besides", byPath, melbSensor, func(cert *x509.Certificate) {
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageCodeSigning)
		}},
		{"extended key usage: unknown besides", byPath, melbSensor, func(cert *x509.Certificate) {
			cert.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 99999, 1}}
		}},
		{"extended key usage: server for a sensor", byPath, melbSensor, func(cert *x509.Certificate) {
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}},
		{"unknown critical extension", byBoth, melbSensor, func(cert *x509.Certificate) {
			cert.ExtraExtensions = append(cert.ExtraExtensions, pkix.Extension{
				Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Critical: true, Value: []byte{5, 0}})
		}},

		// Times.
		{"lives longer than a machine may", byPath, melbSensor, func(cert *x509.Certificate) { cert.NotAfter = noon.Add(31 * 24 * time.Hour) }},
		{"lives as long as a machine may", byNone, melbSensor, func(cert *x509.Certificate) { cert.NotAfter = noon.Add(pki.MaxMachineLifetime) }},
		{"begins long ago to live longer", byPath, melbSensor, func(cert *x509.Certificate) { cert.NotBefore = noon.Add(-31 * 24 * time.Hour) }},
		{"expired", byBoth, melbSensor, func(cert *x509.Certificate) { cert.NotAfter = noon.Add(-time.Second) }},
		{"not yet valid", byBoth, melbSensor, func(cert *x509.Certificate) { cert.NotBefore = noon.Add(time.Second) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cert := template(test.id, noon)
			test.spoil(cert)
			key := sensorKey
			if test.id.Role == pki.RoleBroker {
				key = brokerKey
			}
			leaf := mint(t, captured, cert, key.Public())
			checkWalls(t, v, leaf, captured.Certificate, test.by, test.id)
		})
	}

	for name, public := range map[string]any{"P-384": p384.Public(), "RSA": rsaKey.Public()} {
		t.Run("key of a leaf: "+name, func(t *testing.T) {
			leaf := mint(t, captured, template(melbSensor, noon), public)
			checkWalls(t, v, leaf, captured.Certificate, byPath, melbSensor)
		})
	}

	// What crypto/x509 does not even read reaches no wall.
	unreadable := map[string]func(*x509.Certificate){
		"URI: final dot": uri("spiffe://melb.bank.example./sensor/web-1"),
		"two extensions of names": func(cert *x509.Certificate) {
			cert.ExtraExtensions = append(cert.ExtraExtensions, cert.ExtraExtensions[0])
		},
	}
	for name, spoil := range unreadable {
		t.Run("unreadable: "+name, func(t *testing.T) {
			cert := template(melbSensor, noon)
			spoil(cert)
			der, err := x509.CreateCertificate(rand.Reader, cert, captured.Certificate, sensorKey.Public(), captured.Signer)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := x509.ParseCertificate(der); err == nil {
				t.Error("crypto/x509 reads it now: give it a row above")
			}
		})
	}

	t.Run("a CA of its own below itself", func(t *testing.T) {
		key, err := ca.NewAuthorityKey()
		if err != nil {
			t.Fatal(err)
		}
		cert := authorityTemplate(melbMachines, noon)
		below := ca.Issuer{Certificate: mint(t, captured, cert, key.Public()), Signer: key}
		leaf := mint(t, below, template(melbSensor, noon), sensorKey.Public())
		// Alone it looks like the authority: that the root did not sign it is
		// for the first wall to find.
		checkWalls(t, v, leaf, below.Certificate, byChain, melbSensor)
		if _, err := v.VerifyAuthority(below.Certificate, noon); !errors.Is(err, pki.ErrChain) {
			t.Errorf("VerifyAuthority: %v", err)
		}
	})

	t.Run("another authority shown as the issuer", func(t *testing.T) {
		perth := newAuthority(t, root, pki.Authority{TrustDomain: trustDomain, Site: "perth", Class: pki.ClassMachine}, ca.Zones{}, noon)
		cert := template(perthSensor, noon)
		parent := *captured.Certificate
		parent.RawSubject, parent.SubjectKeyId = perth.Certificate.RawSubject, perth.Certificate.SubjectKeyId
		leaf := mint(t, ca.Issuer{Certificate: &parent, Signer: captured.Signer}, cert, sensorKey.Public())
		checkWalls(t, v, leaf, perth.Certificate, byChain, perthSensor)
		// And the other way round: the second wall must look at who signed.
		leaf = mint(t, captured, template(melbSensor, noon), sensorKey.Public())
		checkWalls(t, v, leaf, perth.Certificate, byBoth, melbSensor)
	})
}

// checkWalls asks Verify, which passes the first wall first, and VerifyPath,
// which is the second alone.
func checkWalls(t *testing.T, v *pki.Verifier, leaf, issuer *x509.Certificate, by refusal, want pki.Identity) {
	t.Helper()
	pathID, pathErr := pki.VerifyPath(leaf, issuer, trustDomain, pki.UsageClient, noon)
	if got := errors.Is(pathErr, pki.ErrProfile); got != by.path || got != (pathErr != nil) {
		t.Errorf("second wall: refuses %v, want %v: %v", got, by.path, pathErr)
	}
	id, err := v.Verify(leaf, issuer, pki.UsageClient, noon)
	if got := errors.Is(err, pki.ErrChain); got != by.chain {
		t.Errorf("first wall: refuses %v, want %v: %v", got, by.chain, err)
	}
	if by == byNone {
		if err != nil || id != want || pathID != want {
			t.Errorf("Verify = %v, %v; VerifyPath = %v; want %v", id, err, pathID, want)
		}
		return
	}
	if err == nil || id != (pki.Identity{}) {
		t.Errorf("Verify = %v, %v; want a refusal", id, err)
	}
	if by.path && pathID != (pki.Identity{}) {
		t.Errorf("VerifyPath returned %v beside its error", pathID)
	}
}
