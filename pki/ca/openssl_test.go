package ca_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
	"levee/test/programs"
)

// run runs openssl, without which nothing but Go has read our certificates.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	openssl := programs.Need(t, "openssl", "apt-get install openssl")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, openssl, args...).CombinedOutput()
	return string(output), err
}

// TestOpenSSLAgrees: what we issue, another implementation accepts at its
// strictest, and the constraints we write stop a captured authority there too.
func TestOpenSSLAgrees(t *testing.T) {
	root := newRoot(t)
	machineCA := newAuthority(t, root, machines, zones)
	unzonedCA := newAuthority(t, root, machines, ca.Zones{})
	peopleCA := newAuthority(t, root, people, ca.Zones{})
	verify := func(t *testing.T, purpose string, issuer ca.Issuer, leaf *x509.Certificate) (string, error) {
		t.Helper()
		directory := t.TempDir()
		for name, cert := range map[string]*x509.Certificate{"root": root.Certificate, "issuer": issuer.Certificate, "leaf": leaf} {
			if err := os.WriteFile(filepath.Join(directory, name), pki.MarshalCertificates(cert), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return run(t, "verify", "-x509_strict", "-purpose", purpose, "-attime", fmt.Sprint(noon.Unix()),
			"-CAfile", filepath.Join(directory, "root"), "-untrusted", filepath.Join(directory, "issuer"), filepath.Join(directory, "leaf"))
	}

	for _, role := range []pki.Role{pki.RoleSensor, pki.RoleBroker, pki.RoleOperator} {
		t.Run("accepts "+string(role), func(t *testing.T) {
			key := must[crypto.Signer](t)(pki.NewKey(role))
			issuers, names := []ca.Issuer{machineCA, unzonedCA}, ca.Names{}
			if role == pki.RoleOperator {
				issuers = []ca.Issuer{peopleCA}
			}
			for _, issuer := range issuers {
				leaf := must[*x509.Certificate](t)(ca.IssueLeaf(issuer, id(role), key.Public(), names, day, noon))
				for purpose, good := range map[string]bool{"sslclient": true, "sslserver": role.Server()} {
					if output, err := verify(t, purpose, issuer, leaf); (err == nil) != good {
						t.Errorf("%s: %v\n%s", purpose, err, output)
					}
				}
			}
		})
	}

	key := must[crypto.Signer](t)(pki.NewKey(pki.RoleBroker))
	honest := func() *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), NotBefore: noon, NotAfter: noon.Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			URIs: []*url.URL{{Scheme: "spiffe", Host: "melb.bank.example", Path: "/broker/x-1"}},
		}
	}
	hostile := map[string]func(*x509.Certificate){
		"other site":            func(c *x509.Certificate) { c.URIs[0].Host = "perth.bank.example" },
		"below the host":        func(c *x509.Certificate) { c.URIs[0].Host = "ops.melb.bank.example" },
		"user":                  func(c *x509.Certificate) { c.URIs[0].User = url.User("perth.bank.example") },
		"other DNS name":        func(c *x509.Certificate) { c.DNSNames = []string{"perth.bank.example"} },
		"wildcard":              func(c *x509.Certificate) { c.DNSNames = []string{"*.bank.example"} },
		"IPv4 address":          func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} },
		"IPv6 address":          func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("2001:db8:2::1")} },
		"other e-mail address":  func(c *x509.Certificate) { c.EmailAddresses = []string{"x@perth.bank.example"} },
		"a host as common name": func(c *x509.Certificate) { c.Subject.CommonName = "perth.bank.example" },
	}
	for _, issuer := range []ca.Issuer{machineCA, unzonedCA} {
		mint := func(t *testing.T, cert *x509.Certificate) *x509.Certificate {
			t.Helper()
			der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, cert, issuer.Certificate, key.Public(), issuer.Signer))
			return must[*x509.Certificate](t)(x509.ParseCertificate(der))
		}
		if output, err := verify(t, "sslclient", issuer, mint(t, honest())); err != nil {
			t.Fatalf("the template refused below is not good to begin with: %v\n%s", err, output)
		}
		for name, spoil := range hostile {
			t.Run("refuses "+name, func(t *testing.T) {
				cert := honest()
				spoil(cert)
				if output, err := verify(t, "sslclient", issuer, mint(t, cert)); err == nil {
					t.Errorf("openssl accepts it: %s", output)
				}
			})
		}
	}
}
