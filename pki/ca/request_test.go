package ca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"levee/pki"
	"levee/pki/ca"
)

func request(t testing.TB, key crypto.Signer, template x509.CertificateRequest) []byte {
	t.Helper()
	return must[[]byte](t)(x509.CreateCertificateRequest(rand.Reader, &template, key))
}

func TestParseRequest(t *testing.T) {
	for _, role := range []pki.Role{pki.RoleSensor, pki.RoleBroker} {
		key := must[crypto.Signer](t)(pki.NewKey(role))
		// Whatever it asks for, it is read; nobody takes a name from it.
		der := request(t, key, x509.CertificateRequest{Subject: pkix.Name{CommonName: "perth_sensor_web-1"}, DNSNames: []string{"perth.bank.example"}})
		got, err := ca.ParseRequest(der)
		if err != nil || !got.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
			t.Errorf("%s: %v", role, err)
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	key := must[crypto.Signer](t)(pki.NewKey(pki.RoleBroker))
	good := request(t, key, x509.CertificateRequest{})
	if _, err := ca.ParseRequest(good); err != nil {
		t.Fatalf("the request spoilt below is not good to begin with: %v", err)
	}
	other := must[crypto.Signer](t)(pki.NewKey(pki.RoleBroker))
	swapped := func() []byte { // another's public key under one's own signature
		stolen := must[*x509.CertificateRequest](t)(x509.ParseCertificateRequest(request(t, other, x509.CertificateRequest{})))
		mine := must[*x509.CertificateRequest](t)(x509.ParseCertificateRequest(good))
		return []byte(strings.Replace(string(good), string(mine.RawSubjectPublicKeyInfo), string(stolen.RawSubjectPublicKeyInfo), 1))
	}
	p384 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	changed := append([]byte(nil), good...)
	changed[len(changed)-1] ^= 1
	for name, der := range map[string][]byte{
		"nothing":           nil,
		"cut":               good[:len(good)-1],
		"a byte more":       append(append([]byte(nil), good...), 0),
		"PEM":               pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: good}),
		"signature changed": changed,
		"another's key":     swapped(),
		"P-384":             request(t, p384, x509.CertificateRequest{}),
		"RSA":               request(t, rsaKey, x509.CertificateRequest{}),
		"too long":          request(t, key, x509.CertificateRequest{Subject: pkix.Name{CommonName: strings.Repeat("x", ca.MaxRequest)}}),
	} {
		if got, err := ca.ParseRequest(der); err == nil || got != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAuthorityRequest(t *testing.T) {
	root := newRoot(t)
	verifier := must[*pki.Verifier](t)(pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: trustDomain}))
	for name, test := range map[string]struct {
		authority pki.Authority
		zones     ca.Zones
	}{
		"machines with zones": {machines, zones},
		"machines without":    {machines, ca.Zones{}},
		"people":              {people, ca.Zones{}},
	} {
		key := must[crypto.Signer](t)(ca.NewAuthorityKey())
		der := must[[]byte](t)(ca.NewAuthorityRequest(key, test.authority, test.zones))
		got, err := ca.ParseAuthorityRequest(der, trustDomain)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Authority != test.authority || !reflect.DeepEqual(got.Zones, test.zones) || !key.Public().(*ecdsa.PublicKey).Equal(got.Public) {
			t.Errorf("%s: read as %+v", name, got)
		}
		spki := must[[]byte](t)(x509.MarshalPKIXPublicKey(key.Public()))
		if got.Key != sha256.Sum256(spki) {
			t.Errorf("%s: the key's hash is not that of its SPKI", name)
		}
		// The offline half.
		cert := must[*x509.Certificate](t)(ca.IssueAuthority(root, got.Authority, got.Public, got.Zones, 365*day, noon))
		if authority, err := verifier.VerifyAuthority(cert, noon); err != nil || authority != test.authority {
			t.Errorf("%s: %v, %v", name, authority, err)
		}
		if pki.SPKIHash(cert) != got.Key {
			t.Errorf("%s: issued for another key", name)
		}
	}
}

// Whatever a request holds beside a host and zones, the offline signer sees a
// refusal and no certificate.
func TestParseAuthorityRequestRefuses(t *testing.T) {
	key := must[crypto.Signer](t)(ca.NewAuthorityKey())
	p521 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	good := must[*x509.CertificateRequest](t)(x509.ParseCertificateRequest(must[[]byte](t)(ca.NewAuthorityRequest(key, machines, zones))))
	constraints := func(request *x509.CertificateRequest) pkix.Extension {
		for _, extension := range request.Extensions {
			if extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}) {
				return extension
			}
		}
		t.Fatal("the request has no constraints")
		return pkix.Extension{}
	}
	// constrained returns constraints as a certificate would have them.
	constrained := func(change func(*x509.Certificate)) pkix.Extension {
		template := &x509.Certificate{SerialNumber: big.NewInt(1)}
		template.PermittedDNSDomainsCritical = true
		template.PermittedURIDomains = []string{machines.Host()}
		template.ExcludedURIDomains = []string{"." + machines.Host()}
		template.PermittedDNSDomains = []string{machines.Host()}
		template.PermittedEmailAddresses = []string{machines.Host()}
		all4, all6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
		for _, all := range []netip.Prefix{all4, all6} {
			template.ExcludedIPRanges = append(template.ExcludedIPRanges, &net.IPNet{IP: all.Addr().AsSlice(), Mask: net.CIDRMask(0, all.Addr().BitLen())})
		}
		change(template)
		cert := must[*x509.Certificate](t)(x509.ParseCertificate(must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))))
		for _, extension := range cert.Extensions {
			if extension.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}) {
				return extension
			}
		}
		return pkix.Extension{}
	}
	host := func(host string) []*url.URL { return []*url.URL{{Scheme: "spiffe", Host: host}} }
	base := func() *x509.CertificateRequest {
		return &x509.CertificateRequest{Subject: good.Subject, URIs: good.URIs, ExtraExtensions: []pkix.Extension{constraints(good)}}
	}
	if _, err := ca.ParseAuthorityRequest(request(t, key, *base()), trustDomain); err != nil {
		t.Fatalf("the request spoilt below is not good to begin with: %v", err)
	}
	with := func(change func(*x509.Certificate)) func(*x509.CertificateRequest) {
		return func(r *x509.CertificateRequest) { r.ExtraExtensions = []pkix.Extension{constrained(change)} }
	}
	if _, err := ca.ParseAuthorityRequest(request(t, key, func() x509.CertificateRequest {
		r := base()
		with(func(*x509.Certificate) {})(r)
		return *r
	}()), trustDomain); err != nil {
		t.Fatalf("the constraints spoilt below are not good to begin with: %v", err)
	}
	for name, spoil := range map[string]func(*x509.CertificateRequest){
		"no URI":                  func(r *x509.CertificateRequest) { r.URIs = nil },
		"two URIs":                func(r *x509.CertificateRequest) { r.URIs = append(host("perth."+trustDomain), r.URIs...) },
		"two URIs, its own first": func(r *x509.CertificateRequest) { r.URIs = append(r.URIs[:1:1], host("perth."+trustDomain)...) },
		"other trust domain":      func(r *x509.CertificateRequest) { r.URIs = host("melb.bank.test") },
		"the trust domain":        func(r *x509.CertificateRequest) { r.URIs = host(trustDomain) },
		"a leaf": func(r *x509.CertificateRequest) {
			r.URIs = []*url.URL{{Scheme: "spiffe", Host: machines.Host(), Path: "/sensor/x"}}
		},
		"another's host":          func(r *x509.CertificateRequest) { r.URIs = host("perth." + trustDomain) },
		"its site's people":       func(r *x509.CertificateRequest) { r.URIs = host(people.Host()) },
		"a DNS name":              func(r *x509.CertificateRequest) { r.DNSNames = []string{"melb.bank.test"} },
		"an e-mail address":       func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"x@melb.bank.example"} },
		"an address":              func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 1, 0, 1)} },
		"other common name":       func(r *x509.CertificateRequest) { r.Subject.CommonName = "levee root" },
		"an organization":         func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"levee evaluation"} },
		"no constraints":          func(r *x509.CertificateRequest) { r.ExtraExtensions = nil },
		"constraints of no bytes": func(r *x509.CertificateRequest) { r.ExtraExtensions[0].Value = nil },
		"constraints with a tail": func(r *x509.CertificateRequest) {
			r.ExtraExtensions[0].Value = append(r.ExtraExtensions[0].Value, 5, 0)
		},
		"another extension": func(r *x509.CertificateRequest) {
			r.ExtraExtensions = append(r.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}})
		},
		"URIs free":                with(func(c *x509.Certificate) { c.PermittedURIDomains = nil }),
		"URIs of another besides":  with(func(c *x509.Certificate) { c.PermittedURIDomains = append(c.PermittedURIDomains, "perth."+trustDomain) }),
		"URIs below not excluded":  with(func(c *x509.Certificate) { c.ExcludedURIDomains = nil }),
		"e-mail free":              with(func(c *x509.Certificate) { c.PermittedEmailAddresses = nil }),
		"DNS names free":           with(func(c *x509.Certificate) { c.PermittedDNSDomains = nil }),
		"zone: another site":       with(func(c *x509.Certificate) { c.PermittedDNSDomains = append(c.PermittedDNSDomains, "perth."+trustDomain) }),
		"zone: the trust domain":   with(func(c *x509.Certificate) { c.PermittedDNSDomains = append(c.PermittedDNSDomains, trustDomain) }),
		"zone: all":                with(func(c *x509.Certificate) { c.PermittedDNSDomains = append(c.PermittedDNSDomains, "") }),
		"addresses free":           with(func(c *x509.Certificate) { c.ExcludedIPRanges = nil }),
		"IPv6 addresses free":      with(func(c *x509.Certificate) { c.ExcludedIPRanges = c.ExcludedIPRanges[:1] }),
		"networks and exclusions":  with(func(c *x509.Certificate) { c.PermittedIPRanges = c.ExcludedIPRanges }),
		"constraints not critical": with(func(c *x509.Certificate) { c.PermittedDNSDomainsCritical = false }),
	} {
		r := base()
		spoil(r)
		if got, err := ca.ParseAuthorityRequest(request(t, key, *r), trustDomain); err == nil || got.Public != nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
	der := request(t, key, *base())
	der[len(der)-1] ^= 1
	for name, der := range map[string][]byte{"signature changed": der, "P-521": request(t, p521, *base()), "nothing": nil, "too long": make([]byte, 64<<10)} {
		if got, err := ca.ParseAuthorityRequest(der, trustDomain); err == nil || got.Public != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNewAuthorityRequestRefuses(t *testing.T) {
	key := must[crypto.Signer](t)(ca.NewAuthorityKey())
	p521 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	many := ca.Zones{}
	for range 2000 {
		many.DNS = append(many.DNS, "a-zone-of-the-bank.test")
	}
	for name, try := range map[string]func() ([]byte, error){
		"no key":       func() ([]byte, error) { return ca.NewAuthorityRequest(nil, machines, ca.Zones{}) },
		"P-521":        func() ([]byte, error) { return ca.NewAuthorityRequest(p521, machines, ca.Zones{}) },
		"no authority": func() ([]byte, error) { return ca.NewAuthorityRequest(key, pki.Authority{}, ca.Zones{}) },
		"no class": func() ([]byte, error) {
			return ca.NewAuthorityRequest(key, pki.Authority{TrustDomain: trustDomain, Site: "melb"}, ca.Zones{})
		},
		"reserved site": func() ([]byte, error) {
			return ca.NewAuthorityRequest(key, pki.Authority{TrustDomain: trustDomain, Site: "ops", Class: pki.ClassMachine}, ca.Zones{})
		},
		"a zone too wide": func() ([]byte, error) {
			return ca.NewAuthorityRequest(key, machines, ca.Zones{DNS: []string{"example"}})
		},
		"too many zones":   func() ([]byte, error) { return ca.NewAuthorityRequest(key, machines, many) },
		"people and zones": func() ([]byte, error) { return ca.NewAuthorityRequest(key, people, zones) },
	} {
		if der, err := try(); err == nil || der != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	key := must[crypto.Signer](f)(pki.NewKey(pki.RoleSensor))
	f.Add(request(f, key, x509.CertificateRequest{}))
	f.Add(must[[]byte](f)(ca.NewAuthorityRequest(key, machines, zones)))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		if got, err := ca.ParseRequest(der); (err == nil) != (got != nil) || err == nil && got.CheckSignature() != nil {
			t.Errorf("%v, %v", got, err)
		}
		got, err := ca.ParseAuthorityRequest(der, trustDomain)
		if err != nil {
			return
		}
		// What is read is what would be asked for.
		again, err := ca.NewAuthorityRequest(key, got.Authority, got.Zones)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := ca.ParseAuthorityRequest(again, trustDomain); err != nil || second.Authority != got.Authority || !reflect.DeepEqual(second.Zones, got.Zones) {
			t.Errorf("read %+v, and again %+v, %v", got, second, err)
		}
	})
}

// openssl shows a request, and says that it is signed by its own key.
func TestOpenSSLReadsRequests(t *testing.T) {
	key := must[crypto.Signer](t)(ca.NewAuthorityKey())
	path := filepath.Join(t.TempDir(), "csr")
	if err := os.WriteFile(path, must[[]byte](t)(ca.NewAuthorityRequest(key, machines, zones)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, "req", "-inform", "DER", "-in", path, "-verify", "-noout", "-text")
	if err != nil || !strings.Contains(out, "verify OK") || !strings.Contains(out, "URI:melb.bank.example") || !strings.Contains(out, "IP:10.1.0.0/255.255.0.0") {
		t.Errorf("%v\n%s", err, out)
	}
}
