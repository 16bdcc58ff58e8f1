package ca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/pki"
	"levee/pki/ca"
)

const (
	trustDomain = "bank.example"
	day         = 24 * time.Hour
)

var (
	noon     = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)
	machines = pki.Authority{TrustDomain: trustDomain, Site: "melb", Class: pki.ClassMachine}
	people   = pki.Authority{TrustDomain: trustDomain, Site: "melb", Class: pki.ClassPerson}
	zones    = ca.Zones{
		DNS:      []string{"melb.bank.test"},
		Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8:1::/48")},
	}
)

func id(role pki.Role) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: role, Name: "x-1"}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func newRoot(t testing.TB) ca.Issuer {
	t.Helper()
	key := must[crypto.Signer](t)(ca.NewRootKey())
	return must[ca.Issuer](t)(ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 730 * day}, noon))
}

func newAuthority(t testing.TB, root ca.Issuer, a pki.Authority, zones ca.Zones) ca.Issuer {
	t.Helper()
	key := must[crypto.Signer](t)(ca.NewAuthorityKey())
	return ca.Issuer{
		Certificate: must[*x509.Certificate](t)(ca.IssueAuthority(root, a, key.Public(), zones, 365*day, noon)),
		Signer:      key,
	}
}

// counting is a key that counts its signatures.
type counting struct {
	crypto.Signer
	count *int
}

func (k counting) Sign(random io.Reader, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	*k.count++
	return k.Signer.Sign(random, digest, options)
}

func count(issuer ca.Issuer, signatures *int) ca.Issuer {
	return ca.Issuer{Certificate: issuer.Certificate, Signer: counting{issuer.Signer, signatures}}
}

func TestRoot(t *testing.T) {
	root := newRoot(t).Certificate
	if !root.IsCA || root.MaxPathLen != 1 || root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign ||
		!root.NotBefore.Equal(noon.Add(-time.Minute)) || !root.NotAfter.Equal(noon.Add(730*day)) {
		t.Errorf("root: CA %v, path %d, usage %b, from %s to %s", root.IsCA, root.MaxPathLen, root.KeyUsage, root.NotBefore, root.NotAfter)
	}
	if got, err := pki.TrustDomain(root); err != nil || got != trustDomain {
		t.Errorf("root of %q, %v", got, err)
	}
}

func TestIssueEveryRole(t *testing.T) {
	root := newRoot(t)
	verifier := must[*pki.Verifier](t)(pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: trustDomain}))
	issuers := map[pki.Class]ca.Issuer{
		pki.ClassMachine: newAuthority(t, root, machines, zones),
		pki.ClassPerson:  newAuthority(t, root, people, ca.Zones{}),
	}
	servers := []pki.Role{pki.RoleBroker, pki.RoleIssuer, pki.RoleApprover, pki.RoleRecorder, pki.RoleController}
	seen := make(map[string]bool)
	for _, role := range []pki.Role{
		pki.RoleBroker, pki.RoleSensor, pki.RoleMonitor, pki.RoleController, pki.RoleApprover, pki.RoleIssuer,
		pki.RoleRecorder, pki.RoleConsole, pki.RoleGuest, pki.RoleOperator, pki.RoleViewer, pki.RoleAuditor,
	} {
		issuer := issuers[role.Class()]
		key := must[crypto.Signer](t)(pki.NewKey(role))
		leaf, err := ca.IssueLeaf(issuer, id(role), key.Public(), ca.Names{}, role.Class().MaxLifetime(), noon)
		if err != nil {
			t.Errorf("%s: %v", role, err)
			continue
		}
		for _, usage := range []pki.Usage{pki.UsageClient, pki.UsageSign} {
			if got, err := verifier.Verify(leaf, issuer.Certificate, usage, noon); err != nil || got != id(role) {
				t.Errorf("%s as %s: %v, %v", role, usage, got, err)
			}
		}
		if _, err := verifier.Verify(leaf, issuer.Certificate, pki.UsageServer, noon); (err == nil) != slices.Contains(servers, role) {
			t.Errorf("%s as server: %v", role, err)
		}
		if !leaf.NotBefore.Equal(noon.Add(-time.Minute)) || !leaf.NotAfter.Equal(noon.Add(role.Class().MaxLifetime())) {
			t.Errorf("%s is valid from %s to %s", role, leaf.NotBefore, leaf.NotAfter)
		}
		if !leaf.BasicConstraintsValid || leaf.IsCA {
			t.Errorf("%s does not say that it is no CA", role)
		}
		if serial := leaf.SerialNumber.Text(16); seen[serial] || leaf.SerialNumber.BitLen() < 64 || leaf.SerialNumber.BitLen() > 128 {
			t.Errorf("%s: serial number %s", role, serial)
		} else {
			seen[serial] = true
		}
		if wantDNS := role == pki.RoleBroker || role == pki.RoleIssuer; wantDNS != slices.Equal(leaf.DNSNames, []string{"melb.bank.example"}) {
			t.Errorf("%s: DNS names %v", role, leaf.DNSNames)
		}
	}
}

func TestKeyKinds(t *testing.T) {
	curve := func(key crypto.Signer) elliptic.Curve {
		if key, ok := key.(*ecdsa.PrivateKey); ok {
			return key.Curve
		}
		return nil
	}
	if curve(must[crypto.Signer](t)(ca.NewRootKey())) != elliptic.P384() {
		t.Error("root key is not P-384")
	}
	if curve(must[crypto.Signer](t)(ca.NewAuthorityKey())) != elliptic.P256() {
		t.Error("authority key is not P-256")
	}
	for role, want := range map[pki.Role]elliptic.Curve{
		pki.RoleBroker: elliptic.P256(), pki.RoleOperator: elliptic.P256(), pki.RoleAuditor: elliptic.P256(),
		pki.RoleSensor: nil, pki.RoleApprover: nil,
	} {
		if got := curve(must[crypto.Signer](t)(pki.NewKey(role))); got != want {
			t.Errorf("key of %s is on %v", role, got)
		}
	}
	if _, err := pki.NewKey("root"); err == nil {
		t.Error("a key for no role")
	}
}

func TestNewRootRefuses(t *testing.T) {
	key := must[crypto.Signer](t)(ca.NewRootKey())
	p521 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	for name, newRoot := range map[string]func() (ca.Issuer, error){
		"no key": func() (ca.Issuer, error) {
			return ca.NewRoot(nil, trustDomain, ca.RootOptions{Lifetime: day}, noon)
		},
		"P-521": func() (ca.Issuer, error) {
			return ca.NewRoot(p521, trustDomain, ca.RootOptions{Lifetime: day}, noon)
		},
		"no trust domain": func() (ca.Issuer, error) { return ca.NewRoot(key, "", ca.RootOptions{Lifetime: day}, noon) },
		"upper case": func() (ca.Issuer, error) {
			return ca.NewRoot(key, "Bank.example", ca.RootOptions{Lifetime: day}, noon)
		},
		"no lifetime": func() (ca.Issuer, error) { return ca.NewRoot(key, trustDomain, ca.RootOptions{}, noon) },
		"100 years": func() (ca.Issuer, error) {
			return ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 36500 * day}, noon)
		},
		"evaluation for 8 days": func() (ca.Issuer, error) {
			return ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 8 * day, Evaluation: true}, noon)
		},
	} {
		if root, err := newRoot(); err == nil || root.Certificate != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestIssueAuthorityRefuses(t *testing.T) {
	var signatures int
	root := newRoot(t)
	machineCA := count(newAuthority(t, root, machines, zones), &signatures)
	root = count(root, &signatures)
	key := must[crypto.Signer](t)(ca.NewAuthorityKey())
	p521 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))
	with := func(change func(*pki.Authority)) pki.Authority {
		a := machines
		change(&a)
		return a
	}
	dns := func(names ...string) ca.Zones { return ca.Zones{DNS: names} }
	network := func(s string) ca.Zones { return ca.Zones{Networks: []netip.Prefix{netip.MustParsePrefix(s)}} }

	tests := []struct {
		name      string
		root      ca.Issuer
		authority pki.Authority
		public    crypto.PublicKey
		zones     ca.Zones
		lifetime  time.Duration
		now       time.Time
	}{
		{"no root", ca.Issuer{}, machines, key.Public(), ca.Zones{}, day, noon},
		{"no certificate", ca.Issuer{Signer: root.Signer}, machines, key.Public(), ca.Zones{}, day, noon},
		{"no signer", ca.Issuer{Certificate: root.Certificate}, machines, key.Public(), ca.Zones{}, day, noon},
		{"another's key", ca.Issuer{Certificate: root.Certificate, Signer: counting{key, &signatures}}, machines, key.Public(), ca.Zones{}, day, noon},
		{"an authority as root", machineCA, with(func(a *pki.Authority) { a.TrustDomain = "melb.bank.example" }), key.Public(), ca.Zones{}, day, noon},
		{"other trust domain", root, with(func(a *pki.Authority) { a.TrustDomain = "bank.test" }), key.Public(), ca.Zones{}, day, noon},
		{"no class", root, with(func(a *pki.Authority) { a.Class = pki.ClassNone }), key.Public(), ca.Zones{}, day, noon},
		{"unknown class", root, with(func(a *pki.Authority) { a.Class = 9 }), key.Public(), ca.Zones{}, day, noon},
		{"reserved site", root, with(func(a *pki.Authority) { a.Site = "ops" }), key.Public(), ca.Zones{}, day, noon},
		{"site with a dot", root, with(func(a *pki.Authority) { a.Site = "ops.melb" }), key.Public(), ca.Zones{}, day, noon},
		{"no key", root, machines, nil, ca.Zones{}, day, noon},
		{"P-521", root, machines, p521.Public(), ca.Zones{}, day, noon},
		{"people with a zone", root, people, key.Public(), dns("melb.bank.test"), day, noon},
		{"people with a network", root, people, key.Public(), network("10.1.0.0/16"), day, noon},
		{"zone: trust domain", root, machines, key.Public(), dns("bank.example"), day, noon},
		{"zone: above the trust domain", root, machines, key.Public(), dns("example"), day, noon},
		{"zone: other site", root, machines, key.Public(), dns("perth.bank.example"), day, noon},
		{"zone: wildcard", root, machines, key.Public(), dns("*.bank.test"), day, noon},
		{"zone: leading dot", root, machines, key.Public(), dns(".bank.test"), day, noon},
		{"zone: empty", root, machines, key.Public(), dns(""), day, noon},
		{"network: all of IPv4", root, machines, key.Public(), network("0.0.0.0/0"), day, noon},
		{"network: all of IPv6", root, machines, key.Public(), network("::/0"), day, noon},
		{"network: host bits", root, machines, key.Public(), network("10.1.2.3/16"), day, noon},
		{"network: mapped", root, machines, key.Public(), network("::ffff:10.1.0.0/112"), day, noon},
		{"network: none", root, machines, key.Public(), ca.Zones{Networks: []netip.Prefix{{}}}, day, noon},
		{"no lifetime", root, machines, key.Public(), ca.Zones{}, 0, noon},
		{"negative lifetime", root, machines, key.Public(), ca.Zones{}, -day, noon},
		{"root not yet valid", root, machines, key.Public(), ca.Zones{}, day, noon.Add(-day)},
		{"root expired", root, machines, key.Public(), ca.Zones{}, day, root.Certificate.NotAfter},
	}
	if _, err := ca.IssueAuthority(root, machines, key.Public(), zones, day, noon); err != nil || signatures != 1 {
		t.Fatalf("a good authority: %v, %d signatures", err, signatures)
	}
	for _, test := range tests {
		signatures = 0
		cert, err := ca.IssueAuthority(test.root, test.authority, test.public, test.zones, test.lifetime, test.now)
		if err == nil || cert != nil || signatures != 0 {
			t.Errorf("%s: %v, %d signatures", test.name, err, signatures)
		}
	}
}

func TestIssueAuthorityErrors(t *testing.T) {
	root := newRoot(t)
	key := must[crypto.Signer](t)(ca.NewAuthorityKey())
	if _, err := ca.IssueAuthority(root, machines, key.Public(), ca.Zones{DNS: []string{"*.bank.test"}}, day, noon); err == nil || !strings.Contains(err.Error(), "*.bank.test") {
		t.Errorf("the wrong zone is not named: %v", err)
	}

	// A root below which none of our usages is allowed, made by another tool.
	template := *root.Certificate
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, &template, &template, root.Signer.Public(), root.Signer))
	root.Certificate = must[*x509.Certificate](t)(x509.ParseCertificate(der))
	if cert, err := ca.IssueAuthority(root, machines, key.Public(), ca.Zones{}, day, noon); !errors.Is(err, pki.ErrChain) || cert != nil {
		t.Errorf("below a root for code alone: %v", err)
	}
}

func TestIssueLeafRefuses(t *testing.T) {
	var signatures int
	root := newRoot(t)
	machineCA := count(newAuthority(t, root, machines, zones), &signatures)
	peopleCA := count(newAuthority(t, root, people, ca.Zones{}), &signatures)
	root = count(root, &signatures)
	key := must[crypto.Signer](t)(pki.NewKey(pki.RoleSensor))
	p384 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	with := func(change func(*pki.Identity)) pki.Identity {
		sensor := id(pki.RoleSensor)
		change(&sensor)
		return sensor
	}
	dns := func(names ...string) ca.Names { return ca.Names{DNS: names} }
	ip := func(s string) ca.Names { return ca.Names{IPs: []netip.Addr{netip.MustParseAddr(s)}} }
	sensor, broker, operator := id(pki.RoleSensor), id(pki.RoleBroker), id(pki.RoleOperator)

	tests := []struct {
		name     string
		issuer   ca.Issuer
		id       pki.Identity
		public   crypto.PublicKey
		names    ca.Names
		lifetime time.Duration
		now      time.Time
	}{
		{"no issuer", ca.Issuer{}, sensor, key.Public(), ca.Names{}, day, noon},
		{"no certificate", ca.Issuer{Signer: machineCA.Signer}, sensor, key.Public(), ca.Names{}, day, noon},
		{"no signer", ca.Issuer{Certificate: machineCA.Certificate}, sensor, key.Public(), ca.Names{}, day, noon},
		{"another's key", ca.Issuer{Certificate: machineCA.Certificate, Signer: peopleCA.Signer}, sensor, key.Public(), ca.Names{}, day, noon},
		{"the root as issuer", root, sensor, key.Public(), ca.Names{}, day, noon},
		{"nobody", machineCA, pki.Identity{}, key.Public(), ca.Names{}, day, noon},
		{"other trust domain", machineCA, with(func(i *pki.Identity) { i.TrustDomain = "bank.test" }), key.Public(), ca.Names{}, day, noon},
		{"other site", machineCA, with(func(i *pki.Identity) { i.Site = "perth" }), key.Public(), ca.Names{}, day, noon},
		{"person from the machines' authority", machineCA, operator, key.Public(), ca.Names{}, day, noon},
		{"machine from the people's authority", peopleCA, sensor, key.Public(), ca.Names{}, day, noon},
		{"unknown role", machineCA, with(func(i *pki.Identity) { i.Role = "root" }), key.Public(), ca.Names{}, day, noon},
		{"role with a slash", machineCA, with(func(i *pki.Identity) { i.Role = "sensor/x" }), key.Public(), ca.Names{}, day, noon},
		{"name outside the grammar", machineCA, with(func(i *pki.Identity) { i.Name = "Web_1" }), key.Public(), ca.Names{}, day, noon},
		{"name with a path", machineCA, with(func(i *pki.Identity) { i.Name = "../x" }), key.Public(), ca.Names{}, day, noon},
		{"no name", machineCA, with(func(i *pki.Identity) { i.Name = "" }), key.Public(), ca.Names{}, day, noon},
		{"no key", machineCA, sensor, nil, ca.Names{}, day, noon},
		{"P-384", machineCA, sensor, p384.Public(), ca.Names{}, day, noon},
		{"RSA", machineCA, sensor, rsaKey.Public(), ca.Names{}, day, noon},
		{"DNS for a sensor", machineCA, sensor, key.Public(), dns("melb.bank.example"), day, noon},
		{"address for a sensor", machineCA, sensor, key.Public(), ip("10.1.2.3"), day, noon},
		{"DNS for a person", peopleCA, operator, key.Public(), dns("ops.melb.bank.example"), day, noon},
		{"DNS outside the zones", machineCA, broker, key.Public(), dns("perth.bank.example"), day, noon},
		{"DNS wildcard", machineCA, broker, key.Public(), dns("*.melb.bank.test"), day, noon},
		{"empty DNS name", machineCA, broker, key.Public(), dns(""), day, noon},
		{"address outside the networks", machineCA, broker, key.Public(), ip("10.2.0.1"), day, noon},
		{"mapped address", machineCA, broker, key.Public(), ip("::ffff:10.1.2.3"), day, noon},
		{"address with a zone", machineCA, broker, key.Public(), ip("2001:db8:1::1%eth0"), day, noon},
		{"no address", machineCA, broker, key.Public(), ca.Names{IPs: []netip.Addr{{}}}, day, noon},
		{"no lifetime", machineCA, sensor, key.Public(), ca.Names{}, 0, noon},
		{"machine for longer than 30 days", machineCA, sensor, key.Public(), ca.Names{}, 30*day + time.Second, noon},
		{"person for longer than 90 days", peopleCA, operator, key.Public(), ca.Names{}, 90*day + time.Second, noon},
		{"issuer not yet valid", machineCA, sensor, key.Public(), ca.Names{}, day, noon.Add(-day)},
		{"issuer expired", machineCA, sensor, key.Public(), ca.Names{}, day, machineCA.Certificate.NotAfter.Add(time.Second)},
	}
	if _, err := ca.IssueLeaf(machineCA, sensor, key.Public(), ca.Names{}, day, noon); err != nil || signatures != 1 {
		t.Fatalf("a good leaf: %v, %d signatures", err, signatures)
	}
	for _, test := range tests {
		signatures = 0
		cert, err := ca.IssueLeaf(test.issuer, test.id, test.public, test.names, test.lifetime, test.now)
		if err == nil || cert != nil || signatures != 0 {
			t.Errorf("%s: %v, %d signatures", test.name, err, signatures)
		}
	}
}

func TestServerNames(t *testing.T) {
	machineCA := newAuthority(t, newRoot(t), machines, zones)
	key := must[crypto.Signer](t)(pki.NewKey(pki.RoleBroker))
	names := ca.Names{
		DNS: []string{"melb.bank.test", "mqtt.melb.bank.test"},
		IPs: []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("2001:db8:1::1")},
	}
	leaf := must[*x509.Certificate](t)(ca.IssueLeaf(machineCA, id(pki.RoleBroker), key.Public(), names, day, noon))
	for _, host := range []string{"melb.bank.test", "mqtt.melb.bank.test", "melb.bank.example", "10.1.2.3", "2001:db8:1::1"} {
		if err := leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	again := ca.Names{DNS: []string{"melb.bank.example"}}
	leaf = must[*x509.Certificate](t)(ca.IssueLeaf(machineCA, id(pki.RoleBroker), key.Public(), again, day, noon))
	if !slices.Equal(leaf.DNSNames, again.DNS) {
		t.Errorf("the host of the site, asked for, is carried as %v", leaf.DNSNames)
	}
	if !slices.Equal(names.DNS, []string{"melb.bank.test", "mqtt.melb.bank.test"}) {
		t.Errorf("the caller's names were changed to %v", names.DNS)
	}
}

// Authorities sign statements and lists as well; the root does not sign
// statements.
func TestAuthorityUsages(t *testing.T) {
	root := newRoot(t)
	for _, a := range []pki.Authority{machines, people} {
		if got := newAuthority(t, root, a, ca.Zones{}).Certificate.KeyUsage; got != x509.KeyUsageCertSign|x509.KeyUsageCRLSign|x509.KeyUsageDigitalSignature {
			t.Errorf("%s: key usage %b", a.Host(), got)
		}
	}
}

// A certificate begins a tenth of its life ago, and a minute at most: a short
// life must not lie in the past.
func TestBackdating(t *testing.T) {
	key := must[crypto.Signer](t)(pki.NewKey(pki.RoleSensor))
	rootKey := must[crypto.Signer](t)(ca.NewRootKey())
	root := newRoot(t)
	issuer := newAuthority(t, root, machines, zones)
	later := noon.Add(time.Hour) // the issuer's own beginning cuts nothing
	for lifetime, want := range map[time.Duration]time.Duration{
		30 * time.Second: 3 * time.Second, 10 * time.Minute: time.Minute, 11 * time.Minute: time.Minute, 30 * day: time.Minute,
	} {
		leaf := must[*x509.Certificate](t)(ca.IssueLeaf(issuer, id(pki.RoleSensor), key.Public(), ca.Names{}, lifetime, later))
		authority := must[*x509.Certificate](t)(ca.IssueAuthority(root, machines, issuer.Signer.Public(), zones, lifetime, later))
		evaluation := must[ca.Issuer](t)(ca.NewRoot(rootKey, trustDomain, ca.RootOptions{Lifetime: lifetime}, later))
		for name, cert := range map[string]*x509.Certificate{"leaf": leaf, "authority": authority, "root": evaluation.Certificate} {
			if before := later.Sub(cert.NotBefore); before != want || !cert.NotAfter.Equal(later.Add(lifetime)) {
				t.Errorf("%s of %s begins %s ago and ends %s", name, lifetime, before, cert.NotAfter.Sub(later))
			}
		}
	}
}

// TestNotAfterIsCapped: nothing outlives what vouches for it.
func TestNotAfterIsCapped(t *testing.T) {
	root := newRoot(t)
	key := must[crypto.Signer](t)(ca.NewAuthorityKey())
	cert := must[*x509.Certificate](t)(ca.IssueAuthority(root, machines, key.Public(), ca.Zones{}, 10000*day, noon))
	if !cert.NotAfter.Equal(root.Certificate.NotAfter) {
		t.Errorf("the authority ends %s, the root %s", cert.NotAfter, root.Certificate.NotAfter)
	}
	late := cert.NotAfter.Add(-day)
	sensorKey := must[crypto.Signer](t)(pki.NewKey(pki.RoleSensor))
	leaf := must[*x509.Certificate](t)(ca.IssueLeaf(ca.Issuer{Certificate: cert, Signer: key}, id(pki.RoleSensor), sensorKey.Public(), ca.Names{}, 30*day, late))
	if !leaf.NotAfter.Equal(cert.NotAfter) {
		t.Errorf("the leaf ends %s, its issuer %s", leaf.NotAfter, cert.NotAfter)
	}
	early := cert.NotBefore
	leaf = must[*x509.Certificate](t)(ca.IssueLeaf(ca.Issuer{Certificate: cert, Signer: key}, id(pki.RoleSensor), sensorKey.Public(), ca.Names{}, day, early))
	if !leaf.NotBefore.Equal(cert.NotBefore) {
		t.Errorf("the leaf begins %s, its issuer %s", leaf.NotBefore, cert.NotBefore)
	}
}
