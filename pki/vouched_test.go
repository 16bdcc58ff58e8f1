package pki_test

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

// What a verifier remembers of the root's signature changes no answer but its
// price: one that has just verified a good leaf of an authority refuses what
// one that never saw it refuses.
func TestVouched(t *testing.T) {
	root := newRoot(t, noon)
	machines := newAuthority(t, root, melbMachines, melbZones, noon)
	key := newKey(t, pki.RoleBroker)
	good := newLeaf(t, machines, melbBroker, key, noon)

	// The same names and key identifiers, but a root of the attacker's above.
	impostor := newRoot(t, noon)
	impostors := newAuthority(t, impostor, melbMachines, melbZones, noon)
	posing := func(as, by ca.Issuer) ca.Issuer {
		certificate := *as.Certificate
		certificate.PublicKey = by.Signer.Public()
		return ca.Issuer{Certificate: &certificate, Signer: by.Signer}
	}
	same := *machines.Certificate
	forged := mint(t, posing(root, impostor), &same, impostors.Signer.Public())
	longer := template(melbBroker, noon) // so that the authority ends before it
	longer.NotAfter = noon.Add(3 * year)
	late := mint(t, machines, longer, key.Public())

	outlives := authorityTemplate(melbMachines, noon) // before the root, and after it
	outlives.NotBefore, outlives.NotAfter = noon.Add(-year), noon.Add(3*year)
	outliving := ca.Issuer{Certificate: mint(t, root, outlives, machines.Signer.Public()), Signer: machines.Signer}
	early := template(melbBroker, noon)
	early.NotBefore, early.NotAfter = noon.Add(-year), noon.Add(3*year)
	around := mint(t, outliving, early, key.Public())
	within := newLeaf(t, outliving, melbBroker, key, noon)

	for name, test := range map[string]struct {
		leaf, issuer *x509.Certificate
		usage        pki.Usage
		at           time.Time
		want         error
	}{
		"good":                     {good, machines.Certificate, pki.UsageServer, noon, nil},
		"expired":                  {good, machines.Certificate, pki.UsageServer, noon.Add(31 * 24 * time.Hour), pki.ErrChain},
		"not yet valid":            {good, machines.Certificate, pki.UsageServer, noon.Add(-2 * time.Hour), pki.ErrChain},
		"no time":                  {good, machines.Certificate, pki.UsageServer, time.Time{}, pki.ErrChain},
		"no usage":                 {good, machines.Certificate, 0, noon, pki.ErrChain},
		"after its authority":      {late, machines.Certificate, pki.UsageServer, noon.Add(year + time.Hour), pki.ErrChain},
		"after the root":           {around, outliving.Certificate, pki.UsageServer, noon.Add(2*year + time.Hour), pki.ErrChain},
		"before the root":          {around, outliving.Certificate, pki.UsageServer, noon.Add(-2 * 24 * time.Hour), pki.ErrChain},
		"a forged authority":       {mint(t, ca.Issuer{Certificate: forged, Signer: impostors.Signer}, template(melbBroker, noon), key.Public()), forged, pki.UsageServer, noon, pki.ErrChain},
		"signed by somebody else":  {mint(t, posing(machines, impostors), template(melbBroker, noon), key.Public()), machines.Certificate, pki.UsageServer, noon, pki.ErrChain},
		"a leaf as authority":      {good, good, pki.UsageServer, noon, pki.ErrChain},
		"the authority as a leaf":  {machines.Certificate, machines.Certificate, pki.UsageServer, noon, pki.ErrChain},
		"the root as an authority": {machines.Certificate, root.Certificate, pki.UsageServer, noon, pki.ErrChain},
	} {
		t.Run(name, func(t *testing.T) {
			fresh, warm := newVerifier(t, root, ""), newVerifier(t, root, "")
			for leaf, issuer := range map[*x509.Certificate]*x509.Certificate{good: machines.Certificate, within: outliving.Certificate} {
				if _, err := warm.Verify(leaf, issuer, pki.UsageServer, noon); err != nil {
					t.Fatal(err)
				}
			}
			for who, v := range map[string]*pki.Verifier{"fresh": fresh, "warm": warm, "warm, revocations": warm.WithRevocations(nil)} {
				if id, err := v.Verify(test.leaf, test.issuer, test.usage, test.at); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) || (err != nil) != (id == pki.Identity{}) {
					t.Errorf("%s: %v, %v; want %v", who, id, err, test.want)
				}
			}
		})
	}
}

// A root that restricts what is below it is asked each time.
func TestARootThatRestricts(t *testing.T) {
	plain := newRoot(t, noon)
	key := newKey(t, pki.RoleBroker)
	for name, test := range map[string]struct {
		restrict func(*x509.Certificate)
		usage    pki.Usage
		dns      string
	}{
		"usages": {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, pki.UsageServer, ""},
		"names": {func(c *x509.Certificate) {
			c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{melbMachines.Host()}, true
		}, pki.UsageClient, "melb.bank.test"},
	} {
		t.Run(name, func(t *testing.T) {
			restricted := *plain.Certificate
			test.restrict(&restricted)
			der, err := x509.CreateCertificate(rand.Reader, &restricted, &restricted, plain.Signer.Public(), plain.Signer)
			if err != nil {
				t.Fatal(err)
			}
			root := ca.Issuer{Signer: plain.Signer}
			if root.Certificate, err = x509.ParseCertificate(der); err != nil {
				t.Fatal(err)
			}
			machines := newAuthority(t, root, melbMachines, melbZones, noon)
			v := newVerifier(t, root, "")
			if _, err := v.Verify(newLeaf(t, machines, melbBroker, key, noon), machines.Certificate, pki.UsageClient, noon); err != nil {
				t.Fatal(err)
			}
			outside := template(melbBroker, noon)
			if test.dns != "" {
				setNames(outside, uriName(melbBroker.URI()), dnsName(test.dns))
			}
			if id, err := v.Verify(mint(t, machines, outside, key.Public()), machines.Certificate, test.usage, noon); !errors.Is(err, pki.ErrChain) {
				t.Errorf("%v, %v", id, err)
			}
		})
	}
}
