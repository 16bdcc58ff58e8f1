package ca

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"levee/pki"
)

// The longest lifetimes of roots.
const (
	MaxRootLifetime       = 10 * 366 * 24 * time.Hour
	MaxEvaluationLifetime = 7 * 24 * time.Hour
)

// maxBackdating is how far before now a certificate becomes valid, for peers
// whose clocks are behind. A short-lived one begins a tenth of its life ago.
const maxBackdating = time.Minute

func backdating(lifetime time.Duration) time.Duration { return min(maxBackdating, lifetime/10) }

// Issuer is a CA certificate and its key.
type Issuer struct {
	Certificate *x509.Certificate
	Signer      crypto.Signer
}

// RootOptions are the choices for a root. The zero value is refused, because a
// root without an end is no choice to make by leaving it out.
type RootOptions struct {
	// Lifetime is at most MaxRootLifetime, or MaxEvaluationLifetime.
	Lifetime time.Duration
	// Evaluation marks the root as one that production refuses.
	Evaluation bool
}

// NewRoot makes the root of a trust domain, signed by its own key.
func NewRoot(key crypto.Signer, trustDomain string, options RootOptions, now time.Time) (Issuer, error) {
	longest := MaxRootLifetime
	subject := pkix.Name{CommonName: "levee root"}
	if options.Evaluation {
		longest = MaxEvaluationLifetime
		subject.Organization = []string{pki.EvaluationOrganization}
	}
	switch {
	case !pki.ValidTrustDomain(trustDomain):
		return Issuer{}, fmt.Errorf("making root: %q is no trust domain", trustDomain)
	case key == nil || !pki.CAKey(key.Public()):
		return Issuer{}, errors.New("making root: key is none of Ed25519, P-256, P-384")
	case options.Lifetime <= 0 || options.Lifetime > longest:
		return Issuer{}, fmt.Errorf("making root: lifetime %s is not within %s", options.Lifetime, longest)
	}
	template := &x509.Certificate{
		Subject:               subject,
		NotBefore:             now.Add(-backdating(options.Lifetime)),
		NotAfter:              now.Add(options.Lifetime),
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err := sign(Issuer{Certificate: template, Signer: key}, template, key.Public(), func(cert *x509.Certificate) error {
		_, err := pki.TrustDomain(cert)
		return err
	})
	if err != nil {
		return Issuer{}, fmt.Errorf("making root: %w", err)
	}
	return Issuer{Certificate: cert, Signer: key}, nil
}

// Zones are the names beyond its own host that an authority of machines may
// put into certificates: DNS zones (the zone and all below it) and networks.
type Zones struct {
	DNS      []string
	Networks []netip.Prefix
}

// IssueAuthority makes the certificate of the issuing authority a for the key
// public, constrained to a's host and zones. The certificate ends with the
// root if lifetime would end later.
func IssueAuthority(root Issuer, a pki.Authority, public crypto.PublicKey, zones Zones, lifetime time.Duration, now time.Time) (*x509.Certificate, error) {
	cert, err := issueAuthority(root, a, public, zones, lifetime, now)
	if err != nil {
		return nil, fmt.Errorf("issuing authority %s: %w", a.Host(), err)
	}
	return cert, nil
}

func issueAuthority(root Issuer, a pki.Authority, public crypto.PublicKey, zones Zones, lifetime time.Duration, now time.Time) (*x509.Certificate, error) {
	verifier, err := pki.NewVerifier(pki.VerifierConfig{
		Root: root.Certificate, TrustDomain: a.TrustDomain, AllowEvaluation: true,
	})
	if err != nil {
		return nil, err
	}
	if err := checkZones(zones, a); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: authorityName(a)},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: a.Host()}},
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature, // of statements
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	constrain(template, a, zones)
	if err := setValidity(template, root.Certificate, lifetime, now); err != nil {
		return nil, err
	}
	cert, err := sign(root, template, public, func(cert *x509.Certificate) error {
		got, err := pki.VerifyAuthorityPath(cert, a.TrustDomain, now)
		if err == nil && got != a {
			err = fmt.Errorf("the certificate would name %s", got.Host())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// A root that another tool made may forbid what we ask of authorities.
	if _, err := verifier.VerifyAuthority(cert, now); err != nil {
		return nil, err
	}
	return cert, nil
}

// authorityName is the subject of an authority's certificate. Nobody reads an
// identity from it.
func authorityName(a pki.Authority) string { return a.Site + " " + a.Class.String() + " authority" }

// constrain sets the name constraints of a and its zones. Every kind of name
// is constrained, because a kind without a constraint is free. The exclusion
// is for libraries that take a permitted host for a suffix. E-mail is
// permitted at the host, where nobody receives any, because excluding all of
// it is not portable.
func constrain(template *x509.Certificate, a pki.Authority, zones Zones) {
	template.PermittedDNSDomainsCritical = true
	template.PermittedURIDomains = []string{a.Host()}
	template.ExcludedURIDomains = []string{"." + a.Host()}
	template.PermittedDNSDomains = append([]string{a.Host()}, zones.DNS...)
	template.PermittedEmailAddresses = []string{a.Host()}
	for _, network := range zones.Networks {
		template.PermittedIPRanges = append(template.PermittedIPRanges, ipNet(network))
	}
	if len(zones.Networks) == 0 {
		template.ExcludedIPRanges = []*net.IPNet{
			ipNet(netip.MustParsePrefix("0.0.0.0/0")),
			ipNet(netip.MustParsePrefix("::/0")),
		}
	}
}

// checkZones refuses a zone that reaches into the trust domain, because it
// would hold the hosts of other sites, and zones for people.
func checkZones(zones Zones, a pki.Authority) error {
	if a.Class == pki.ClassPerson && len(zones.DNS)+len(zones.Networks) != 0 {
		return errors.New("people have no zones and no networks")
	}
	for _, zone := range zones.DNS {
		if !pki.ValidTrustDomain(zone) {
			return fmt.Errorf("%q is no DNS zone", zone)
		}
		if zone == a.TrustDomain || strings.HasSuffix(a.TrustDomain, "."+zone) || strings.HasSuffix(zone, "."+a.TrustDomain) {
			return fmt.Errorf("DNS zone %q overlaps the trust domain", zone)
		}
	}
	for _, network := range zones.Networks {
		if !network.IsValid() || network != network.Masked() || network.Addr().Is4In6() {
			return fmt.Errorf("%q is no network", network)
		}
	}
	return nil
}

// Names are the names beside the identity by which a server is reached.
type Names struct {
	DNS []string
	IPs []netip.Addr
}

// IssueLeaf makes the certificate of id for the key public. id must belong to
// the issuer's authority. Names are for server roles only; every broker and
// issuer carries the host of its site besides. lifetime is at most what id's class may
// have, and the certificate ends with its issuer if that would end earlier.
func IssueLeaf(issuer Issuer, id pki.Identity, public crypto.PublicKey, names Names, lifetime time.Duration, now time.Time) (*x509.Certificate, error) {
	cert, err := issueLeaf(issuer, id, public, names, lifetime, now)
	if err != nil {
		return nil, fmt.Errorf("issuing certificate of %s: %w", id, err)
	}
	return cert, nil
}

func issueLeaf(issuer Issuer, id pki.Identity, public crypto.PublicKey, names Names, lifetime time.Duration, now time.Time) (*x509.Certificate, error) {
	authority, err := pki.VerifyAuthorityPath(issuer.Certificate, id.TrustDomain, now)
	if err != nil {
		return nil, err
	}
	if longest := authority.Class.MaxLifetime(); lifetime > longest {
		return nil, fmt.Errorf("lifetime %s is longer than %s", lifetime, longest)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: id.ClientID()},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: id.Host(), Path: "/" + string(id.Role) + "/" + id.Name}},
		DNSNames:    slices.Clone(names.DNS),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},

		BasicConstraintsValid: true,
	}
	if id.Role.Server() {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	// Who is asked for by the site's name. No other part carries it: foreign MQTT
	// clients, which know no roles, would take it for the broker.
	named := id.Role == pki.RoleBroker || id.Role == pki.RoleIssuer
	if named && !slices.Contains(template.DNSNames, id.Host()) {
		template.DNSNames = append(template.DNSNames, id.Host())
	}
	for _, ip := range names.IPs {
		// crypto/x509 would write a mapped address as IPv4 and drop a zone.
		if !ip.IsValid() || ip.Is4In6() || ip.Zone() != "" {
			return nil, fmt.Errorf("%q is no plain IP address", ip)
		}
		template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
	}
	if err := setValidity(template, issuer.Certificate, lifetime, now); err != nil {
		return nil, err
	}
	return sign(issuer, template, public, func(cert *x509.Certificate) error {
		got, err := pki.VerifyPath(cert, issuer.Certificate, id.TrustDomain, pki.UsageSign, now)
		if err == nil && got != id {
			err = fmt.Errorf("the certificate would name %s", got)
		}
		return err
	})
}

// setValidity makes template valid from a little before now, for lifetime,
// within what its issuer has.
func setValidity(template, issuer *x509.Certificate, lifetime time.Duration, now time.Time) error {
	if lifetime <= 0 {
		return fmt.Errorf("lifetime %s is none", lifetime)
	}
	if now.Before(issuer.NotBefore) || !now.Before(issuer.NotAfter) {
		return fmt.Errorf("the issuer is valid from %s to %s only",
			issuer.NotBefore.UTC().Format(time.RFC3339), issuer.NotAfter.UTC().Format(time.RFC3339))
	}
	template.NotBefore = now.Add(-backdating(lifetime))
	if template.NotBefore.Before(issuer.NotBefore) {
		template.NotBefore = issuer.NotBefore
	}
	template.NotAfter = now.Add(lifetime)
	if template.NotAfter.After(issuer.NotAfter) {
		template.NotAfter = issuer.NotAfter
	}
	return nil
}

// sign completes template with a serial number and signs it, after check has
// agreed to the same certificate under a signature that is worth nothing: the
// issuer's key must never sign what peers would refuse, because a signature
// once made cannot be taken back.
func sign(issuer Issuer, template *x509.Certificate, public crypto.PublicKey, check func(*x509.Certificate) error) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // never fails (crypto/rand)
	template.SerialNumber = new(big.Int).SetBytes(serial)

	worthlessPublic, worthless, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key to try with: %w", err)
	}
	parent := *issuer.Certificate
	parent.PublicKey = worthlessPublic
	trial, err := create(template, &parent, public, worthless)
	if err != nil {
		return nil, err
	}
	if err := check(trial); err != nil {
		return nil, err
	}
	return create(template, issuer.Certificate, public, issuer.Signer)
}

// worthless returns template as a certificate that its own key signed, a key
// that nobody has.
func worthless(template *x509.Certificate) (*x509.Certificate, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key to try with: %w", err)
	}
	template.SerialNumber = big.NewInt(1)
	return create(template, template, public, key)
}

// create signs template for parent. That key is parent's, crypto/x509 checks
// before it signs.
func create(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return x509.ParseCertificate(der)
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	bits := prefix.Addr().BitLen()
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), bits)}
}
