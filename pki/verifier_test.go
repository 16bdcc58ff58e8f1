package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

func TestVerifyUsages(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, melbZones, noon)
	people := newAuthority(t, root, melbPeople, ca.Zones{}, noon)
	v := newVerifier(t, root, "melb")
	leaf := func(issuer ca.Issuer, id pki.Identity) *x509.Certificate {
		return newLeaf(t, issuer, id, newKey(t, id.Role), noon)
	}
	sensor, broker, operator := leaf(machines, melbSensor), leaf(machines, melbBroker), leaf(people, melbOperator)

	tests := []struct {
		name   string
		leaf   *x509.Certificate
		issuer ca.Issuer
		usage  pki.Usage
		want   pki.Identity // zero: refused
	}{
		{"sensor as client", sensor, machines, pki.UsageClient, melbSensor},
		{"sensor as signer", sensor, machines, pki.UsageSign, melbSensor},
		{"sensor as server", sensor, machines, pki.UsageServer, pki.Identity{}},
		{"broker as client", broker, machines, pki.UsageClient, melbBroker},
		{"broker as signer", broker, machines, pki.UsageSign, melbBroker},
		{"broker as server", broker, machines, pki.UsageServer, melbBroker},
		{"operator as client", operator, people, pki.UsageClient, melbOperator},
		{"operator as signer", operator, people, pki.UsageSign, melbOperator},
		{"operator as server", operator, people, pki.UsageServer, pki.Identity{}},
		{"no usage", sensor, machines, 0, pki.Identity{}},
		{"unknown usage", sensor, machines, 9, pki.Identity{}},
		{"the authority as a leaf", machines.Certificate, root, pki.UsageClient, pki.Identity{}},
		{"the root as issuer", sensor, root, pki.UsageClient, pki.Identity{}},
		{"the other authority as issuer", sensor, people, pki.UsageClient, pki.Identity{}},
		{"leaf as its own issuer", sensor, ca.Issuer{Certificate: sensor}, pki.UsageClient, pki.Identity{}},
		{"no leaf", nil, machines, pki.UsageClient, pki.Identity{}},
		{"no issuer", sensor, ca.Issuer{}, pki.UsageClient, pki.Identity{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			id, err := v.Verify(test.leaf, test.issuer.Certificate, test.usage, noon)
			if id != test.want || (err == nil) != (test.want != pki.Identity{}) {
				t.Errorf("Verify = %v, %v; want %v", id, err, test.want)
			}
			// The second wall alone judges usages alike.
			if id, err := pki.VerifyPath(test.leaf, test.issuer.Certificate, trustDomain, test.usage, noon); id != test.want || (err == nil) != (test.want != pki.Identity{}) {
				t.Errorf("VerifyPath = %v, %v; want %v", id, err, test.want)
			}
		})
	}

	t.Run("signer without extended key usage", func(t *testing.T) {
		// crypto/x509 takes none for any.
		cert := template(melbSensor, noon)
		cert.ExtKeyUsage = nil
		leaf := mint(t, machines, cert, newKey(t, pki.RoleSensor).Public())
		if _, err := v.Verify(leaf, machines.Certificate, pki.UsageSign, noon); !errors.Is(err, pki.ErrProfile) {
			t.Errorf("Verify: %v", err)
		}
	})
	t.Run("no time", func(t *testing.T) {
		// crypto/x509 would put the present in its place.
		if _, err := v.Verify(sensor, machines.Certificate, pki.UsageClient, time.Time{}); !errors.Is(err, pki.ErrChain) {
			t.Errorf("Verify: %v", err)
		}
	})
	t.Run("authority expired", func(t *testing.T) {
		at := machines.Certificate.NotAfter.Add(time.Second)
		if _, err := v.VerifyAuthority(machines.Certificate, at); !errors.Is(err, pki.ErrChain) {
			t.Errorf("VerifyAuthority: %v", err)
		}
		if _, err := pki.VerifyAuthorityPath(machines.Certificate, trustDomain, at); !errors.Is(err, pki.ErrProfile) {
			t.Errorf("VerifyAuthorityPath: %v", err)
		}
	})
}

func TestVerifySite(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
	sensor := newLeaf(t, machines, melbSensor, newKey(t, pki.RoleSensor), noon)
	melb, perth := newVerifier(t, root, "melb"), newVerifier(t, root, "perth")
	if id, err := melb.Verify(sensor, machines.Certificate, pki.UsageClient, noon); err != nil || id != melbSensor {
		t.Errorf("Verify = %v, %v", id, err)
	}
	if a, err := melb.VerifyAuthority(machines.Certificate, noon); err != nil || a != melbMachines {
		t.Errorf("VerifyAuthority = %v, %v", a, err)
	}
	if id, err := perth.Verify(sensor, machines.Certificate, pki.UsageClient, noon); !errors.Is(err, pki.ErrSite) || id != (pki.Identity{}) {
		t.Errorf("Verify = %v, %v", id, err)
	}
	if a, err := perth.VerifyAuthority(machines.Certificate, noon); !errors.Is(err, pki.ErrSite) || a != (pki.Authority{}) {
		t.Errorf("VerifyAuthority = %v, %v", a, err)
	}
}

func TestVerifyForeignRoot(t *testing.T) {
	ours, theirs := newRoot(t, noon), newRoot(t, noon)
	machines := newAuthority(t, theirs, melbMachines, ca.Zones{}, noon)
	sensor := newLeaf(t, machines, melbSensor, newKey(t, pki.RoleSensor), noon)
	v := newVerifier(t, ours, "")
	// Same names all the way up: only the signatures differ.
	if _, err := v.Verify(sensor, machines.Certificate, pki.UsageClient, noon); !errors.Is(err, pki.ErrChain) {
		t.Errorf("Verify: %v", err)
	}
	if _, err := v.VerifyAuthority(machines.Certificate, noon); !errors.Is(err, pki.ErrChain) {
		t.Errorf("VerifyAuthority: %v", err)
	}
}

func TestVerifyLeafOfRoot(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
	key := newKey(t, pki.RoleSensor)
	leaf := mint(t, root, template(melbSensor, noon), key.Public())
	v := newVerifier(t, root, "")
	for name, issuer := range map[string]*x509.Certificate{"root": root.Certificate, "authority": machines.Certificate} {
		if _, err := v.Verify(leaf, issuer, pki.UsageClient, noon); !errors.Is(err, pki.ErrChain) {
			t.Errorf("issuer %s: %v", name, err)
		}
	}
}

// TestMalformedAuthority: the root signed an authority outside the profile,
// by mistake or by another tool. The first wall knows no profile.
func TestMalformedAuthority(t *testing.T) {
	root := newRoot(t, noon)
	v := newVerifier(t, root, "")
	key, err := ca.NewAuthorityKey()
	if err != nil {
		t.Fatal(err)
	}
	sensorKey := newKey(t, pki.RoleSensor)
	_, all4, _ := net.ParseCIDR("0.0.0.0/0")
	_, all6, _ := net.ParseCIDR("::/0")
	_, ten, _ := net.ParseCIDR("10.0.0.0/8")
	host := melbMachines.Host()

	tests := []struct {
		name  string
		good  bool
		spoil func(*x509.Certificate)
	}{
		{"the profile", true, func(*x509.Certificate) {}},
		{"with zones", true, func(c *x509.Certificate) {
			c.PermittedDNSDomains = append(c.PermittedDNSDomains, "melb.bank.test")
			c.PermittedIPRanges, c.ExcludedIPRanges = []*net.IPNet{ten}, nil
		}},
		{"no URI", false, func(c *x509.Certificate) { setNames(c) }},
		{"URI with a path", false, func(c *x509.Certificate) { setNames(c, uriName(melbMachines.URI()+"/ca/x")) }},
		{"two URIs", false, func(c *x509.Certificate) {
			setNames(c, uriName(melbMachines.URI()), uriName("spiffe://perth.bank.example"))
		}},
		{"URI of the trust domain", false, func(c *x509.Certificate) { setNames(c, uriName("spiffe://bank.example")) }},
		{"URI of another site", false, func(c *x509.Certificate) { setNames(c, uriName("spiffe://perth.bank.example")) }},
		{"a DNS name besides", false, func(c *x509.Certificate) { setNames(c, uriName(melbMachines.URI()), dnsName(host)) }},
		{"an address besides", false, func(c *x509.Certificate) { setNames(c, uriName(melbMachines.URI()), ipName("10.1.2.3")) }},
		{"no constraints", false, func(c *x509.Certificate) {
			c.PermittedURIDomains, c.ExcludedURIDomains, c.PermittedDNSDomains = nil, nil, nil
			c.PermittedEmailAddresses, c.ExcludedIPRanges = nil, nil
		}},
		{"constraints not critical", false, func(c *x509.Certificate) { c.PermittedDNSDomainsCritical = false }},
		{"URIs free", false, func(c *x509.Certificate) { c.PermittedURIDomains, c.ExcludedURIDomains = nil, nil }},
		{"URIs below the host free", false, func(c *x509.Certificate) { c.ExcludedURIDomains = nil }},
		{"URIs of another site too", false, func(c *x509.Certificate) {
			c.PermittedURIDomains = append(c.PermittedURIDomains, "perth.bank.example")
		}},
		{"DNS names free", false, func(c *x509.Certificate) { c.PermittedDNSDomains = nil }},
		{"DNS names: a zone without its host", false, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"melb.bank.test"} }},
		{"DNS names: all", false, func(c *x509.Certificate) { c.PermittedDNSDomains = append(c.PermittedDNSDomains, "") }},
		{"e-mail addresses free", false, func(c *x509.Certificate) { c.PermittedEmailAddresses = nil }},
		{"addresses free", false, func(c *x509.Certificate) { c.ExcludedIPRanges = nil }},
		{"IPv6 addresses free", false, func(c *x509.Certificate) { c.ExcludedIPRanges = []*net.IPNet{all4} }},
		{"IPv4 addresses free", false, func(c *x509.Certificate) { c.ExcludedIPRanges = []*net.IPNet{all6} }},
		{"all addresses permitted", false, func(c *x509.Certificate) {
			c.PermittedIPRanges, c.ExcludedIPRanges = []*net.IPNet{ten, all4}, nil
		}},
		{"no path length", false, func(c *x509.Certificate) { c.MaxPathLenZero = false }},
		{"not a CA", false, func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{ // the path length alone
				Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 2, 1, 0}})
		}},
		{"no basic constraints", false, func(c *x509.Certificate) { c.BasicConstraintsValid = false }},
		{"path length 1", false, func(c *x509.Certificate) { c.MaxPathLenZero, c.MaxPathLen = false, 1 }},
		{"key usage: digitalSignature besides", true, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }},
		{"key usage: keyAgreement besides", false, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyAgreement }},
		{"key usage: digitalSignature and no crlSign", false, func(c *x509.Certificate) {
			c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
		}},
		{"extended key usage: none, which means any", false, func(c *x509.Certificate) { c.ExtKeyUsage = nil }},
		{"extended key usage: client alone", false, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }},
		{"extended key usage: any", false, func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageAny) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			cert := authorityTemplate(melbMachines, noon)
			test.spoil(cert)
			issuer := ca.Issuer{Certificate: mint(t, root, cert, key.Public()), Signer: key}
			authority, err := v.VerifyAuthority(issuer.Certificate, noon)
			if test.good {
				if err != nil || authority != melbMachines {
					t.Errorf("VerifyAuthority = %v, %v", authority, err)
				}
			} else if !errors.Is(err, pki.ErrProfile) || authority != (pki.Authority{}) {
				t.Errorf("VerifyAuthority = %v, %v; want a refusal by the second wall", authority, err)
			}
			leaf := mint(t, issuer, template(melbSensor, noon), sensorKey.Public())
			if id, err := pki.VerifyPath(leaf, issuer.Certificate, trustDomain, pki.UsageClient, noon); (err == nil) != test.good {
				t.Errorf("VerifyPath = %v, %v", id, err)
			}
			if _, err := ca.IssueLeaf(issuer, melbSensor, sensorKey.Public(), ca.Names{}, time.Hour, noon); (err == nil) != test.good {
				t.Errorf("IssueLeaf: %v", err)
			}
		})
	}

	t.Run("people with zones", func(t *testing.T) {
		cert := authorityTemplate(melbPeople, noon)
		cert.PermittedDNSDomains = append(cert.PermittedDNSDomains, "melb.bank.test")
		if _, err := v.VerifyAuthority(mint(t, root, cert, key.Public()), noon); !errors.Is(err, pki.ErrProfile) {
			t.Errorf("VerifyAuthority: %v", err)
		}
	})
	t.Run("a leaf as an authority", func(t *testing.T) {
		machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
		leaf := newLeaf(t, machines, melbSensor, sensorKey, noon)
		if _, err := v.VerifyAuthority(leaf, noon); !errors.Is(err, pki.ErrChain) {
			t.Errorf("VerifyAuthority: %v", err)
		}
	})
	t.Run("the root as an authority", func(t *testing.T) {
		if _, err := v.VerifyAuthority(root.Certificate, noon); err == nil {
			t.Error("VerifyAuthority accepted the root")
		}
	})
	t.Run("nothing as an authority", func(t *testing.T) {
		if _, err := v.VerifyAuthority(nil, noon); !errors.Is(err, pki.ErrChain) {
			t.Errorf("VerifyAuthority: %v", err)
		}
	})
}

func TestNewVerifier(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
	key, err := ca.NewRootKey()
	if err != nil {
		t.Fatal(err)
	}
	evaluation, err := ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: time.Hour, Evaluation: true}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if !pki.IsEvaluation(evaluation.Certificate) || pki.IsEvaluation(root.Certificate) {
		t.Error("IsEvaluation does not tell the roots apart")
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	selfSigned := func(signer *ecdsa.PrivateKey, spoil func(*x509.Certificate)) *x509.Certificate {
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(1), NotBefore: noon, NotAfter: noon.Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		setNames(cert, uriName("spiffe://bank.example"))
		spoil(cert)
		return mint(t, ca.Issuer{Certificate: cert, Signer: signer}, cert, signer.Public())
	}
	p384 := key.(*ecdsa.PrivateKey)
	crossSigned := mint(t, ca.Issuer{Certificate: evaluation.Certificate, Signer: key}, root.Certificate, root.Signer.Public())

	tests := []struct {
		name string
		cfg  pki.VerifierConfig
		want string // in the error; empty: accepted
	}{
		{"root", pki.VerifierConfig{Root: root.Certificate, TrustDomain: trustDomain}, ""},
		{"evaluation root, allowed", pki.VerifierConfig{Root: evaluation.Certificate, TrustDomain: trustDomain, AllowEvaluation: true}, ""},
		{"production root where evaluation is allowed", pki.VerifierConfig{Root: root.Certificate, TrustDomain: trustDomain, AllowEvaluation: true}, ""},
		{"minimal root", pki.VerifierConfig{Root: selfSigned(p384, func(*x509.Certificate) {}), TrustDomain: trustDomain}, ""},
		{"evaluation root", pki.VerifierConfig{Root: evaluation.Certificate, TrustDomain: trustDomain}, "evaluation"},
		{"evaluation root that names another organization too", pki.VerifierConfig{Root: selfSigned(p384, func(c *x509.Certificate) {
			c.Subject.Organization = []string{"bank", pki.EvaluationOrganization}
		}), TrustDomain: trustDomain}, "evaluation"},
		{"nothing", pki.VerifierConfig{}, "no certificate"},
		{"no trust domain", pki.VerifierConfig{Root: root.Certificate}, "root of"},
		{"other trust domain", pki.VerifierConfig{Root: root.Certificate, TrustDomain: "bank.test"}, "root of"},
		{"reserved site", pki.VerifierConfig{Root: root.Certificate, TrustDomain: trustDomain, Site: "ops"}, "site"},
		{"an authority", pki.VerifierConfig{Root: machines.Certificate, TrustDomain: machines.Certificate.URIs[0].Host}, "self-signed"},
		{"a root signed by another", pki.VerifierConfig{Root: crossSigned, TrustDomain: trustDomain}, "self-signed"},
		{"no URI", pki.VerifierConfig{Root: selfSigned(p384, func(c *x509.Certificate) { setNames(c) }), TrustDomain: trustDomain}, "URI"},
		{"two URIs", pki.VerifierConfig{Root: selfSigned(p384, func(c *x509.Certificate) {
			setNames(c, uriName("spiffe://bank.example"), uriName("spiffe://bank.test"))
		}), TrustDomain: trustDomain}, "URI"},
		{"a DNS name besides", pki.VerifierConfig{Root: selfSigned(p384, func(c *x509.Certificate) {
			setNames(c, uriName("spiffe://bank.example"), dnsName("bank.example"))
		}), TrustDomain: trustDomain}, "URI"},
		{"URI with a path", pki.VerifierConfig{Root: selfSigned(p384, func(c *x509.Certificate) {
			setNames(c, uriName("spiffe://bank.example/"))
		}), TrustDomain: trustDomain}, "names none"},
		{"no CA", pki.VerifierConfig{Root: selfSigned(p384, func(c *x509.Certificate) { c.IsCA = false }), TrustDomain: trustDomain}, "not a CA"},
		{"may not sign", pki.VerifierConfig{Root: selfSigned(p384, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), TrustDomain: trustDomain}, "not a CA"},
		{"P-521", pki.VerifierConfig{Root: selfSigned(p521, func(*x509.Certificate) {}), TrustDomain: trustDomain}, "key"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v, err := pki.NewVerifier(test.cfg)
			switch {
			case test.want == "" && (err != nil || v.TrustDomain() != trustDomain):
				t.Errorf("NewVerifier: %v", err)
			case test.want != "" && (err == nil || v != nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("NewVerifier = %v, %v; want an error about %q", v, err, test.want)
			}
		})
	}
}

func TestVerifyConnectionForm(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
	sensor := newLeaf(t, machines, melbSensor, newKey(t, pki.RoleSensor), noon)
	v := newVerifier(t, root, "")
	state := tls.ConnectionState{Version: tls.VersionTLS13, PeerCertificates: []*x509.Certificate{sensor, machines.Certificate}}
	if id, err := v.VerifyConnection(state, pki.UsageClient, noon); err != nil || id != melbSensor {
		t.Errorf("VerifyConnection = %v, %v", id, err)
	}
	for name, spoil := range map[string]func(*tls.ConnectionState){
		"TLS 1.2":         func(cs *tls.ConnectionState) { cs.Version = tls.VersionTLS12 },
		"resumed":         func(cs *tls.ConnectionState) { cs.DidResume = true },
		"no certificates": func(cs *tls.ConnectionState) { cs.PeerCertificates = nil },
		"leaf alone":      func(cs *tls.ConnectionState) { cs.PeerCertificates = cs.PeerCertificates[:1] },
		"root besides": func(cs *tls.ConnectionState) {
			cs.PeerCertificates = []*x509.Certificate{sensor, machines.Certificate, root.Certificate}
		},
	} {
		cs := state
		spoil(&cs)
		if id, err := v.VerifyConnection(cs, pki.UsageClient, noon); !errors.Is(err, pki.ErrConnection) || id != (pki.Identity{}) {
			t.Errorf("%s: VerifyConnection = %v, %v", name, id, err)
		}
	}
}

// TestVerifyConcurrently is for the race detector.
func TestVerifyConcurrently(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, ca.Zones{}, noon)
	sensor := newLeaf(t, machines, melbSensor, newKey(t, pki.RoleSensor), noon)
	v := newVerifier(t, root, "melb")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 10 {
				if id, err := v.Verify(sensor, machines.Certificate, pki.UsageClient, noon); err != nil || id != melbSensor {
					t.Errorf("Verify = %v, %v", id, err)
				}
			}
		})
	}
	group.Wait()
}

// FuzzVerifyPath: whatever the certificate says, an identity that comes out is
// the one URI in it, of the issuer's site and class.
func FuzzVerifyPath(f *testing.F) {
	root := newRoot(f, noon)
	machines := newAuthority(f, root, melbMachines, melbZones, noon)
	f.Add(newLeaf(f, machines, melbSensor, newKey(f, pki.RoleSensor), noon).Raw)
	f.Add(newLeaf(f, machines, melbBroker, newKey(f, pki.RoleBroker), noon).Raw)
	f.Add(root.Certificate.Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		id, err := pki.VerifyPath(leaf, machines.Certificate, trustDomain, pki.UsageSign, noon)
		if err != nil {
			if id != (pki.Identity{}) || !errors.Is(err, pki.ErrProfile) {
				t.Fatalf("VerifyPath = %v, %v", id, err)
			}
			return
		}
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id.URI() || id.Authority() != melbMachines || leaf.IsCA {
			t.Fatalf("VerifyPath = %v of %v", id, leaf.URIs)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	root := newRoot(b, noon)
	machines := newAuthority(b, root, melbMachines, ca.Zones{}, noon)
	sensor := newLeaf(b, machines, melbSensor, newKey(b, pki.RoleSensor), noon)
	v := newVerifier(b, root, "melb")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(sensor, machines.Certificate, pki.UsageSign, noon); err != nil {
			b.Fatal(err)
		}
	}
}
