package pki_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

// noon is the time of the tests that do not depend on the clock.
var noon = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

const year = 365 * 24 * time.Hour

var (
	melbMachines  = pki.Authority{TrustDomain: trustDomain, Site: "melb", Class: pki.ClassMachine}
	perthMachines = pki.Authority{TrustDomain: trustDomain, Site: "perth", Class: pki.ClassMachine}
	melbPeople    = pki.Authority{TrustDomain: trustDomain, Site: "melb", Class: pki.ClassPerson}
	melbSensor    = pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: pki.RoleSensor, Name: "web-1"}
	melbBroker    = pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: pki.RoleBroker, Name: "b-1"}
	melbOperator  = pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: pki.RoleOperator, Name: "alice"}
	perthSensor   = pki.Identity{TrustDomain: trustDomain, Site: "perth", Role: pki.RoleSensor, Name: "web-1"}

	melbZones = ca.Zones{DNS: []string{"melb.bank.test"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}
)

func newRoot(t testing.TB, now time.Time) ca.Issuer {
	t.Helper()
	key, err := ca.NewRootKey()
	if err != nil {
		t.Fatal(err)
	}
	root, err := ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 2 * year}, now)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func newAuthority(t testing.TB, root ca.Issuer, a pki.Authority, zones ca.Zones, now time.Time) ca.Issuer {
	t.Helper()
	key, err := ca.NewAuthorityKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.IssueAuthority(root, a, key.Public(), zones, year, now)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Issuer{Certificate: cert, Signer: key}
}

func newKey(t testing.TB, role pki.Role) crypto.Signer {
	t.Helper()
	key, err := pki.NewKey(role)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newLeaf(t testing.TB, issuer ca.Issuer, id pki.Identity, key crypto.Signer, now time.Time) *x509.Certificate {
	t.Helper()
	cert, err := ca.IssueLeaf(issuer, id, key.Public(), ca.Names{}, id.Role.Class().MaxLifetime(), now)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newVerifier(t testing.TB, root ca.Issuer, site string) *pki.Verifier {
	t.Helper()
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: trustDomain, Site: site})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// template is what an honest authority would sign for id, for a test to spoil.
func template(id pki.Identity, now time.Time) *x509.Certificate {
	cert := &x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano()),
		Subject:               pkix.Name{CommonName: id.ClientID()},
		NotBefore:             now.Add(-time.Minute),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if id.Role.Server() {
		cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	setNames(cert, uriName(id.URI()))
	return cert
}

// mint signs template as it is, as the captured key of an issuer would.
func mint(t testing.TB, issuer ca.Issuer, template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Certificate, public, issuer.Signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// setNames sets the alternative names byte for byte: package x509 would refuse
// or mend some of what an attacker writes.
func setNames(cert *x509.Certificate, names ...asn1.RawValue) {
	cert.ExtraExtensions = nil
	if len(names) == 0 {
		return
	}
	der, err := asn1.Marshal(names)
	if err != nil {
		panic(err)
	}
	cert.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}}
}

func generalName(tag int, value []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: value}
}

func uriName(uri string) asn1.RawValue    { return generalName(6, []byte(uri)) }
func dnsName(name string) asn1.RawValue   { return generalName(2, []byte(name)) }
func emailName(name string) asn1.RawValue { return generalName(1, []byte(name)) }
func ipName(address string) asn1.RawValue {
	return generalName(7, netip.MustParseAddr(address).AsSlice())
}
func registeredID(id ...byte) asn1.RawValue { return generalName(8, id) }

func directoryName(name pkix.Name) asn1.RawValue {
	der, err := asn1.Marshal(name.ToRDNSequence())
	if err != nil {
		panic(err)
	}
	value := generalName(4, der)
	value.IsCompound = true
	return value
}

// files writes a credential and returns the paths of its key and chain.
func files(t testing.TB, key crypto.Signer, certs ...*x509.Certificate) (keyFile, chainFile string) {
	t.Helper()
	directory := t.TempDir()
	keyFile, chainFile = filepath.Join(directory, "key.pem"), filepath.Join(directory, "chain.pem")
	keyPEM, err := pki.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, keyFile, keyPEM)
	write(t, chainFile, pki.MarshalCertificates(certs...))
	return keyFile, chainFile
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// authorityTemplate is the profile of an authority, for a test to spoil.
func authorityTemplate(a pki.Authority, now time.Time) *x509.Certificate {
	host := a.Host()
	_, all4, _ := net.ParseCIDR("0.0.0.0/0")
	_, all6, _ := net.ParseCIDR("::/0")
	cert := &x509.Certificate{
		SerialNumber:                big.NewInt(now.UnixNano()),
		Subject:                     pkix.Name{CommonName: "an authority of " + a.Site},
		NotBefore:                   now.Add(-time.Minute),
		NotAfter:                    now.Add(24 * time.Hour),
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{host},
		ExcludedURIDomains:          []string{"." + host},
		PermittedDNSDomains:         []string{host},
		PermittedEmailAddresses:     []string{host},
		ExcludedIPRanges:            []*net.IPNet{all4, all6},
	}
	setNames(cert, uriName(a.URI()))
	return cert
}
