package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// The longest lifetimes of leaves. Backdating is how much longer than that a
// certificate's validity may be, because issuers set its start a little into
// the past for clocks that are behind.
const (
	MaxMachineLifetime = 30 * 24 * time.Hour
	MaxPersonLifetime  = 90 * 24 * time.Hour
	Backdating         = time.Hour
)

// MaxLifetime returns the longest lifetime of a leaf of class c, 0 for ClassNone.
func (c Class) MaxLifetime() time.Duration {
	switch c {
	case ClassMachine:
		return MaxMachineLifetime
	case ClassPerson:
		return MaxPersonLifetime
	default:
		return 0
	}
}

// Server reports whether parts of role r are dialled by others: only their
// leaves carry the server usage, DNS names and IP addresses.
func (r Role) Server() bool {
	switch r {
	case RoleBroker, RoleIssuer, RoleApprover, RoleRecorder, RoleController:
		return true
	default:
		return false
	}
}

// VerifyPath is the second wall: it checks leaf and issuer against the one
// profile that pki/ca issues, and that both name the same authority below
// trustDomain, for usage, at the time at. It checks no signature and knows no
// root, so a caller that verifies a peer wants Verifier.Verify instead. All
// errors wrap ErrProfile.
func VerifyPath(leaf, issuer *x509.Certificate, trustDomain string, usage Usage, at time.Time) (Identity, error) {
	authority, err := VerifyAuthorityPath(issuer, trustDomain, at)
	if err != nil {
		return Identity{}, err
	}
	id, err := checkLeaf(leaf, issuer, authority, usage, at)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: leaf: %w", ErrProfile, err)
	}
	return id, nil
}

// VerifyAuthorityPath is the second wall for the certificate of an issuing
// authority alone. All errors wrap ErrProfile.
func VerifyAuthorityPath(issuer *x509.Certificate, trustDomain string, at time.Time) (Authority, error) {
	authority, err := checkAuthority(issuer, trustDomain, at)
	if err != nil {
		return Authority{}, fmt.Errorf("%w: authority: %w", ErrProfile, err)
	}
	return authority, nil
}

func checkLeaf(leaf, issuer *x509.Certificate, authority Authority, usage Usage, at time.Time) (Identity, error) {
	if leaf == nil {
		return Identity{}, errors.New("no certificate")
	}
	names, err := readAltNames(leaf)
	if err != nil {
		return Identity{}, err
	}
	if len(names.uris) != 1 {
		return Identity{}, fmt.Errorf("%d URIs instead of one", len(names.uris))
	}
	id, err := ParseIdentity(names.uris[0], authority.TrustDomain)
	if err != nil {
		return Identity{}, err
	}
	// Site and class make the host, and ParseIdentity allows each host the
	// roles of its class only: this compares hosts and roles at once.
	if id.Authority() != authority {
		return Identity{}, fmt.Errorf("%s was issued by the authority of %s", id, authority.Host())
	}
	switch {
	case leaf.IsCA:
		return Identity{}, errors.New("is a CA")
	case leaf.KeyUsage != x509.KeyUsageDigitalSignature:
		return Identity{}, errors.New("key usage is not digitalSignature alone")
	// A second common name, or anything beside it, would be read by one
	// engine and not by another.
	case len(leaf.Subject.Names) != 1 || leaf.Subject.CommonName != id.ClientID():
		return Identity{}, fmt.Errorf("subject is not the common name %q alone", id.ClientID())
	case leaf.NotAfter.Sub(leaf.NotBefore) > authority.Class.MaxLifetime()+Backdating:
		return Identity{}, fmt.Errorf("lives longer than a %s may", authority.Class)
	case !LeafKey(leaf.PublicKey):
		return Identity{}, errors.New("key is neither Ed25519 nor P-256")
	}
	if err := checkEvery(leaf, at); err != nil {
		return Identity{}, err
	}
	if err := checkUsage(leaf, id.Role, usage); err != nil {
		return Identity{}, err
	}
	return id, checkServerNames(names, issuer, id.Role)
}

// checkUsage wants the usage asked for, server authentication in leaves of
// server roles only, and no usage beyond client and server.
func checkUsage(leaf *x509.Certificate, role Role, usage Usage) error {
	client, server, err := extKeyUsages(leaf)
	if err != nil {
		return err
	}
	if server && !role.Server() {
		return fmt.Errorf("role %s is no server", role)
	}
	switch {
	case usage == UsageClient && client, usage == UsageServer && server, usage == UsageSign && (client || server):
		return nil
	default:
		return fmt.Errorf("not for usage %s", usage)
	}
}

// extKeyUsages tells which of the two extended key usages cert has, and
// refuses all others.
func extKeyUsages(cert *x509.Certificate) (client, server bool, err error) {
	for _, usage := range cert.ExtKeyUsage {
		switch usage {
		case x509.ExtKeyUsageClientAuth:
			client = true
		case x509.ExtKeyUsageServerAuth:
			server = true
		default:
			return false, false, errors.New("an extended key usage that no profile has")
		}
	}
	if len(cert.UnknownExtKeyUsage) != 0 {
		return false, false, errors.New("an extended key usage that no profile has")
	}
	return client, server, nil
}

// checkServerNames holds DNS names and addresses to server roles and to what
// the issuer's certificate permits.
func checkServerNames(names altNames, issuer *x509.Certificate, role Role) error {
	if !role.Server() && len(names.dns)+len(names.ips) != 0 {
		return fmt.Errorf("role %s may carry no DNS name and no address", role)
	}
	for _, name := range names.dns {
		// The grammar of a trust domain is that of a plain host name, so
		// wildcards, upper case and final dots end here.
		if !ValidTrustDomain(name) || !slices.ContainsFunc(issuer.PermittedDNSDomains, func(zone string) bool {
			return name == zone || strings.HasSuffix(name, "."+zone)
		}) {
			return errors.New("a DNS name outside the zones of its authority")
		}
	}
	for _, ip := range names.ips {
		if !slices.ContainsFunc(issuer.PermittedIPRanges, func(network *net.IPNet) bool {
			return network.Contains(ip.AsSlice())
		}) {
			return errors.New("an address outside the networks of its authority")
		}
	}
	return nil
}

func checkAuthority(issuer *x509.Certificate, trustDomain string, at time.Time) (Authority, error) {
	if issuer == nil {
		return Authority{}, errors.New("no certificate")
	}
	uri, err := onlyURI(issuer)
	if err != nil {
		return Authority{}, err
	}
	authority, err := ParseAuthority(uri, trustDomain)
	if err != nil {
		return Authority{}, err
	}
	switch {
	case !issuer.IsCA:
		return Authority{}, errors.New("is not a CA")
	case !issuer.MaxPathLenZero: // crypto/x509 sets it for a length of 0 that was spelt out
		return Authority{}, errors.New("may issue further CAs")
	// An authority signs statements too, so what is issued says so
	// (digitalSignature). One that does not say so is no less our root's.
	case issuer.KeyUsage&^x509.KeyUsageDigitalSignature != x509.KeyUsageCertSign|x509.KeyUsageCRLSign:
		return Authority{}, errors.New("key usage is not certSign and crlSign, and digitalSignature at most")
	case !CAKey(issuer.PublicKey):
		return Authority{}, errors.New("key is none of Ed25519, P-256, P-384")
	}
	if err := checkEvery(issuer, at); err != nil {
		return Authority{}, err
	}
	client, server, err := extKeyUsages(issuer)
	if err != nil {
		return Authority{}, err
	}
	if !client || !server {
		return Authority{}, errors.New("extended key usage is not client and server")
	}
	return authority, checkConstraints(issuer, authority)
}

// checkConstraints wants the name constraints in full. Constraints work for
// each kind of name separately: a kind left out is a kind left free.
func checkConstraints(issuer *x509.Certificate, authority Authority) error {
	host := authority.Host()
	switch {
	case !issuer.PermittedDNSDomainsCritical:
		return errors.New("name constraints missing or not critical")
	// Without the exclusion some libraries take the host for a suffix.
	case !slices.Equal(issuer.PermittedURIDomains, []string{host}) ||
		!slices.Contains(issuer.ExcludedURIDomains, "."+host):
		return errors.New("URIs are not constrained to its host")
	case !slices.Equal(issuer.PermittedEmailAddresses, []string{host}):
		return errors.New("e-mail addresses are not constrained to its host")
	case !slices.Contains(issuer.PermittedDNSDomains, host) ||
		slices.ContainsFunc(issuer.PermittedDNSDomains, func(zone string) bool { return !ValidTrustDomain(zone) }):
		return errors.New("DNS names are not constrained to its host and zones")
	case len(issuer.PermittedIPRanges) == 0 && !excludesAllAddresses(issuer.ExcludedIPRanges) ||
		slices.ContainsFunc(issuer.PermittedIPRanges, func(network *net.IPNet) bool { return allAddresses(network) != 0 }):
		return errors.New("addresses are not constrained")
	case authority.Class == ClassPerson && (len(issuer.PermittedDNSDomains) != 1 || len(issuer.PermittedIPRanges) != 0):
		return errors.New("people have no zones and no networks")
	}
	return nil
}

func excludesAllAddresses(networks []*net.IPNet) bool {
	var all int
	for _, network := range networks {
		all |= allAddresses(network)
	}
	return all == 32|128
}

// allAddresses returns 32 if network holds all of IPv4, 128 if all of IPv6,
// 0 otherwise.
func allAddresses(network *net.IPNet) int {
	if ones, bits := network.Mask.Size(); ones == 0 {
		return bits
	}
	return 0
}

// checkEvery checks what leaves and authorities have in common.
func checkEvery(cert *x509.Certificate, at time.Time) error {
	switch {
	case at.Before(cert.NotBefore):
		return fmt.Errorf("not valid before %s", cert.NotBefore.UTC().Format(time.RFC3339))
	case at.After(cert.NotAfter):
		return fmt.Errorf("not valid after %s", cert.NotAfter.UTC().Format(time.RFC3339))
	case len(cert.UnhandledCriticalExtensions) != 0:
		return errors.New("a critical extension that no profile has")
	default:
		return nil
	}
}

// LeafKey reports whether key may belong to a leaf: Ed25519 or ECDSA P-256,
// the two that envelopes can be signed with.
func LeafKey(key crypto.PublicKey) bool {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return true
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256()
	default:
		return false
	}
}

// CAKey reports whether key may belong to the root or to an authority:
// Ed25519, ECDSA P-256 or P-384.
func CAKey(key crypto.PublicKey) bool {
	ec, ok := key.(*ecdsa.PublicKey)
	return LeafKey(key) || ok && ec.Curve == elliptic.P384()
}
