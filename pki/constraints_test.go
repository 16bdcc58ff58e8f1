package pki_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"levee/pki"
	"levee/pki/ca"
)

// TestWeakerConstraints: authorities that we do not issue, with a leaf that
// shows why, and each wall's word on that leaf. The second wall refuses the
// authority itself. Rows with a number are defects that crypto/x509 had in just
// this code: one that turns red after an upgrade of Go has come back.
func TestWeakerConstraints(t *testing.T) {
	root := newRoot(t, noon)
	sensorKey := newKey(t, pki.RoleSensor)
	v := newVerifier(t, root, "")
	key, err := ca.NewAuthorityKey()
	if err != nil {
		t.Fatal(err)
	}
	good := ca.Issuer{Certificate: mint(t, root, authorityTemplate(melbMachines, noon), key.Public()), Signer: key}
	own := func(name asn1.RawValue) func(*x509.Certificate) {
		return func(c *x509.Certificate) { setNames(c, uriName(melbSensor.URI()), name) }
	}
	only := func(name asn1.RawValue) func(*x509.Certificate) {
		return func(c *x509.Certificate) { setNames(c, name) }
	}
	// constrained replaces the constraints by bytes that crypto/x509 cannot
	// write: subtrees with or without bounds (RFC 5280, section 4.2.1.10).
	type subtree struct {
		Base    asn1.RawValue
		Minimum int `asn1:"optional,tag:0"`
		Maximum int `asn1:"optional,tag:1"`
	}
	constrained := func(c *x509.Certificate, permitted, excluded []subtree) {
		der, err := asn1.Marshal(struct {
			Permitted []subtree `asn1:"tag:0"`
			Excluded  []subtree `asn1:"tag:1"`
		}{permitted, excluded})
		if err != nil {
			t.Fatal(err)
		}
		free(c)
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Critical: true, Value: der})
	}
	host := melbMachines.Host()
	below := []subtree{{Base: uriName("." + host)}}
	noAddress := append(below, subtree{Base: generalName(7, make([]byte, 8))}, subtree{Base: generalName(7, make([]byte, 32))})

	for _, test := range []struct {
		name      string
		by        walls
		authority func(*x509.Certificate)
		leaf      func(*x509.Certificate)
	}{
		{"ours: an honest leaf", none, func(*x509.Certificate) {}, func(*x509.Certificate) {}},
		{"none: an honest leaf", second, free, func(*x509.Certificate) {}},
		{"none: another site", second, free, only(uriName(perthSensor.URI()))},
		{"URI: its host, what is below it not excluded", openssl | second, func(c *x509.Certificate) { c.ExcludedURIDomains = nil },
			only(uriName("spiffe://ops.melb.bank.example/operator/alice"))},
		{"URI: a leading dot, which is what is below alone", full, func(c *x509.Certificate) { c.PermittedURIDomains = []string{".melb.bank.example"} },
			only(uriName(melbSensor.URI()))},
		{"URI: a whole URI for a host", full, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"spiffe://melb.bank.example"} },
			func(*x509.Certificate) {}},
		{"e-mail: all excluded by nothing", first | second, func(c *x509.Certificate) {
			c.PermittedEmailAddresses, c.ExcludedEmailAddresses = nil, []string{""}
		}, own(emailName("x@perth.bank.example"))},
		{"e-mail: its host permitted", full, func(*x509.Certificate) {}, own(emailName("x@perth.bank.example"))},
		{"directory names constrained: an honest leaf", first | second, func(c *x509.Certificate) {
			constrained(c, []subtree{{Base: uriName(host)}, {Base: directoryName(pkix.Name{CommonName: melbSensor.ClientID()})}}, below)
		}, func(*x509.Certificate) {}},

		// CVE-2025-61727, GO-2025-4175: a wildcard was not held to exclusions.
		{"DNS: another site excluded, a wildcard over it", first | second, func(c *x509.Certificate) {
			c.PermittedDNSDomains, c.ExcludedDNSDomains = nil, []string{"perth.bank.example"}
		}, own(dnsName("*.bank.example"))},
		// CVE-2026-27137, Go 1.26.0: of several e-mail constraints with the same
		// local part the last alone counted.
		{"e-mail: two excluded, the first", full, func(c *x509.Certificate) {
			c.PermittedEmailAddresses, c.ExcludedEmailAddresses = nil, []string{"x@perth.bank.example", "x@sydney.bank.example"}
		}, own(emailName("x@perth.bank.example"))},
		{"e-mail: two excluded, the last", full, func(c *x509.Certificate) {
			c.PermittedEmailAddresses, c.ExcludedEmailAddresses = nil, []string{"x@perth.bank.example", "x@sydney.bank.example"}
		}, own(emailName("x@sydney.bank.example"))},
		// CVE-2026-27138: an empty DNS name under excluded ones made it panic.
		{"DNS: another site excluded, an empty name", second, func(c *x509.Certificate) {
			c.PermittedDNSDomains, c.ExcludedDNSDomains = nil, []string{"perth.bank.example"}
		}, own(dnsName(""))},
		// golang.org/issue/81499: crypto/x509 does not read minimum and maximum,
		// so neither wall of ours sees them. Only the root could write them.
		{"a maximum, which no profile has", openssl, func(c *x509.Certificate) {
			constrained(c, []subtree{{Base: uriName(host), Maximum: 1}, {Base: dnsName(host)}, {Base: emailName(host)}}, noAddress)
		}, func(*x509.Certificate) {}},
		{"the same without", none, func(c *x509.Certificate) {
			constrained(c, []subtree{{Base: uriName(host)}, {Base: dnsName(host)}, {Base: emailName(host)}}, noAddress)
		}, func(*x509.Certificate) {}},
		{"IP: a mask with holes", first | second, func(c *x509.Certificate) {
			constrained(c, []subtree{{Base: uriName(host)}, {Base: generalName(7, []byte{10, 0, 0, 1, 255, 0, 0, 255})}}, below)
		}, func(*x509.Certificate) {}},
		{"not critical", second, func(c *x509.Certificate) { c.PermittedDNSDomainsCritical = false }, func(*x509.Certificate) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			weak := authorityTemplate(melbMachines, noon)
			test.authority(weak)
			cert := template(melbSensor, noon)
			test.leaf(cert)
			// The leaf names its issuer and key alone, so one that can be read
			// signs for one that crypto/x509 may be unable to read.
			authority := captured{issuer: root}.sign(t, weak, key.Public())
			leaf := captured{issuer: good}.sign(t, cert, sensorKey.Public())

			var by walls
			if !opensslAccepts(t, root.Certificate, []*x509.Certificate{{Raw: authority}}, leaf)[0] {
				by |= openssl
			}
			issuer, errIssuer := x509.ParseCertificate(authority)
			minted, errLeaf := x509.ParseCertificate(leaf)
			if errIssuer != nil || errLeaf != nil { // it reaches no wall
				judge(t, by|first|second, test.by)
				return
			}
			if firstWall(root.Certificate, issuer, minted) != nil {
				by |= first
			}
			if _, err := pki.VerifyPath(minted, issuer, trustDomain, pki.UsageClient, noon); err != nil {
				by |= second
			}
			judge(t, by, test.by)
			if id, err := v.Verify(minted, issuer, pki.UsageClient, noon); (err == nil) != (by&(first|second) == 0) {
				t.Errorf("Verify = %v, %v", id, err)
			}
		})
	}
}

// golang.org/issue/59171: what constrains an authority above counts for the
// leaves of the one below it. Our root is free; another tool's may not be.
func TestConstraintsOfTheRoot(t *testing.T) {
	rootKey, err := ca.NewRootKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.NewAuthorityKey()
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]walls{"perth.bank.example": first | openssl, "melb.bank.example": none} {
		anchor := authorityTemplate(perthMachines, noon)
		free(anchor)
		anchor.Subject.CommonName, anchor.MaxPathLenZero, anchor.MaxPathLen = "a root", false, 1
		anchor.PermittedURIDomains = []string{host}
		setNames(anchor)
		root := mint(t, ca.Issuer{Certificate: anchor, Signer: rootKey}, anchor, rootKey.Public())
		issuer := mint(t, ca.Issuer{Certificate: root, Signer: rootKey}, authorityTemplate(melbMachines, noon), key.Public())
		leaf := mint(t, ca.Issuer{Certificate: issuer, Signer: key}, template(melbSensor, noon), newKey(t, pki.RoleSensor).Public())
		var by walls
		if firstWall(root, issuer, leaf) != nil {
			by |= first
		}
		if !opensslAccepts(t, root, []*x509.Certificate{issuer}, leaf.Raw)[0] {
			by |= openssl
		}
		t.Run(host, func(t *testing.T) { judge(t, by, want) })
	}
}

// free leaves nothing constrained.
func free(c *x509.Certificate) {
	c.PermittedURIDomains, c.ExcludedURIDomains, c.PermittedDNSDomains, c.PermittedEmailAddresses, c.ExcludedIPRanges = nil, nil, nil, nil, nil
}
