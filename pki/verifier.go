package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Usage is what a leaf is to be verified for. The zero value is refused.
type Usage uint8

// The usages of leaves.
const (
	UsageClient Usage = iota + 1 // authenticates the client of a connection
	UsageServer                  // authenticates the server of a connection
	UsageSign                    // signs envelopes: either extended key usage will do
)

// String returns "client", "server", "sign" or "none".
func (u Usage) String() string {
	switch u {
	case UsageClient:
		return "client"
	case UsageServer:
		return "server"
	case UsageSign:
		return "sign"
	default:
		return "none"
	}
}

func (u Usage) extKeyUsages() []x509.ExtKeyUsage {
	switch u {
	case UsageClient:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case UsageServer:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case UsageSign:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	default:
		return nil
	}
}

// Why a certificate was refused. Every error of a verification wraps one.
var (
	// ErrChain is the first wall's: signatures, validity, extended key usage,
	// name constraints, as crypto/x509 sees them.
	ErrChain = errors.New("certificate chain refused")
	// ErrProfile is the second wall's: not what pki/ca issues.
	ErrProfile = errors.New("certificate outside the profile")
	// ErrSite means that the identity belongs to another site.
	ErrSite = errors.New("certificate of another site")
	// ErrConnection means that the connection is not of the form that
	// certificates are looked at: TLS 1.3, not resumed, leaf and issuer.
	ErrConnection = errors.New("connection refused")
	// ErrRevoked means that the certificate is good and was taken back.
	ErrRevoked = errors.New("certificate revoked")
)

// Revocations know which certificates were taken back until now;
// *revocation.Set is one. leaf is id's, and was verified.
type Revocations interface {
	Revoked(id Identity, leaf *x509.Certificate) bool
}

// EvaluationOrganization is the organization in the subject of a root that
// `levee up` made, whose key lies unsealed on one machine.
const EvaluationOrganization = "levee evaluation"

// IsEvaluation reports whether root is marked as made for evaluation.
func IsEvaluation(root *x509.Certificate) bool {
	return slices.Contains(root.Subject.Organization, EvaluationOrganization)
}

// TrustDomain returns the trust domain that root names as its own.
func TrustDomain(root *x509.Certificate) (string, error) {
	uri, err := onlyURI(root)
	if err != nil {
		return "", fmt.Errorf("reading the root's trust domain: %w", err)
	}
	trustDomain, ok := strings.CutPrefix(uri, "spiffe://")
	if !ok || !ValidTrustDomain(trustDomain) {
		return "", fmt.Errorf("reading the root's trust domain: %q names none", uri)
	}
	return trustDomain, nil
}

// VerifierConfig says whom to trust.
type VerifierConfig struct {
	// Root is the one trust anchor: a self-signed CA whose only alternative
	// name is the URI spiffe://{TrustDomain}.
	Root *x509.Certificate
	// TrustDomain is the trust domain that the root must name.
	TrustDomain string
	// AllowEvaluation accepts a root that is marked as made for evaluation.
	AllowEvaluation bool
	// Site, if set, is the only site whose identities are accepted.
	Site string
}

// Verifier verifies certificates below one root. Its answers depend on nothing
// but its configuration and what it is asked, so it is safe for concurrent use.
type Verifier struct {
	root        *x509.Certificate
	roots       *x509.CertPool
	vouched     *vouched
	trustDomain string
	site        string
	revocations Revocations // nil: nothing is known to be revoked
}

// NewVerifier checks the root and returns a verifier for what it vouches for.
// Whether the root is still valid is a question of the time of each
// verification, not of this call.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	root := cfg.Root
	if root == nil {
		return nil, errors.New("checking root: no certificate")
	}
	trustDomain, err := TrustDomain(root)
	if err != nil {
		return nil, fmt.Errorf("checking root: %w", err)
	}
	switch {
	case trustDomain != cfg.TrustDomain:
		return nil, fmt.Errorf("checking root: it is the root of %q, not of %q", trustDomain, cfg.TrustDomain)
	case !root.IsCA || root.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("checking root: not a CA")
	case !CAKey(root.PublicKey):
		return nil, errors.New("checking root: key is none of Ed25519, P-256, P-384")
	case IsEvaluation(root) && !cfg.AllowEvaluation:
		return nil, errors.New("checking root: it was made for evaluation only")
	case cfg.Site != "" && !ValidSite(cfg.Site):
		return nil, fmt.Errorf("checking site: %q is none", cfg.Site)
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("checking root: not self-signed: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return &Verifier{root: root, roots: roots, vouched: newVouched(root), trustDomain: trustDomain, site: cfg.Site}, nil
}

// WithRevocations returns a verifier that refuses connections of certificates
// that r says are revoked. r is verified by a verifier itself, which is why it
// comes later than that.
func (v *Verifier) WithRevocations(r Revocations) *Verifier {
	with := *v
	with.revocations = r
	return &with
}

// TrustDomain returns the trust domain of the verifier's root.
func (v *Verifier) TrustDomain() string { return v.trustDomain }

// Verify returns the identity of leaf if the root vouches for issuer and
// issuer for leaf, for usage, at the time at. Its errors wrap ErrChain,
// ErrProfile or ErrSite, in the order in which the walls are passed. It asks
// nobody about revocation, so that an auditor's answer for an earlier time does
// not change when something is revoked later.
func (v *Verifier) Verify(leaf, issuer *x509.Certificate, usage Usage, at time.Time) (Identity, error) {
	if leaf == nil || issuer == nil {
		return Identity{}, fmt.Errorf("verifying certificate: %w: leaf or issuer missing", ErrChain)
	}
	usages := usage.extKeyUsages()
	if usages == nil { // crypto/x509 would take none for server authentication
		return Identity{}, fmt.Errorf("verifying certificate: %w: no usage asked for", ErrChain)
	}
	if err := v.verifyLeaf(leaf, issuer, usages, at); err != nil {
		return Identity{}, fmt.Errorf("verifying certificate: %w", err)
	}
	id, err := VerifyPath(leaf, issuer, v.trustDomain, usage, at)
	if err != nil {
		return Identity{}, fmt.Errorf("verifying certificate: %w", err)
	}
	if v.site != "" && id.Site != v.site {
		return Identity{}, fmt.Errorf("verifying certificate: %w: %s instead of %s", ErrSite, id.Site, v.site)
	}
	return id, nil
}

// VerifyAuthority returns the authority that issuer is the certificate of, if
// the root vouches for it at the time at. It is for documents that the
// authority itself signs. Errors are those of Verify.
func (v *Verifier) VerifyAuthority(issuer *x509.Certificate, at time.Time) (Authority, error) {
	if issuer == nil {
		return Authority{}, fmt.Errorf("verifying authority: %w: certificate missing", ErrChain)
	}
	if err := v.verifyChain([]*x509.Certificate{issuer}, UsageSign.extKeyUsages(), at); err != nil {
		return Authority{}, fmt.Errorf("verifying authority: %w", err)
	}
	authority, err := VerifyAuthorityPath(issuer, v.trustDomain, at)
	if err != nil {
		return Authority{}, fmt.Errorf("verifying authority: %w", err)
	}
	if v.site != "" && authority.Site != v.site {
		return Authority{}, fmt.Errorf("verifying authority: %w: %s instead of %s", ErrSite, authority.Site, v.site)
	}
	return authority, nil
}

// verifyLeaf is the first wall for a leaf.
func (v *Verifier) verifyLeaf(leaf, issuer *x509.Certificate, usages []x509.ExtKeyUsage, at time.Time) error {
	if anchor := v.vouched.anchor(issuer, at); anchor != nil {
		return verifyBelow(anchor, x509.NewCertPool(), leaf, []*x509.Certificate{issuer}, usages, at)
	}
	if err := v.verifyChain([]*x509.Certificate{leaf, issuer}, usages, at); err != nil {
		return err
	}
	v.vouched.add(issuer)
	return nil
}

// verifyChain is the first wall. certs are the chain without the root, and
// exactly that chain must lead to it: a path around the issuer that the second
// wall looks at would make the two walls judge different certificates.
func (v *Verifier) verifyChain(certs []*x509.Certificate, usages []x509.ExtKeyUsage, at time.Time) error {
	intermediates := x509.NewCertPool()
	for _, cert := range certs[1:] {
		intermediates.AddCert(cert)
	}
	return verifyBelow(v.roots, intermediates, certs[0], append(slices.Clone(certs[1:]), v.root), usages, at)
}

// verifyBelow verifies that exactly the chain above leads from cert to a
// certificate of roots.
func verifyBelow(roots, intermediates *x509.CertPool, cert *x509.Certificate, above []*x509.Certificate, usages []x509.ExtKeyUsage, at time.Time) error {
	if at.IsZero() { // crypto/x509 would take it for now
		return fmt.Errorf("%w: no time", ErrChain)
	}
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   at,
		KeyUsages:     usages,
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrChain, err)
	}
	for _, chain := range chains {
		if slices.EqualFunc(chain[1:], above, (*x509.Certificate).Equal) {
			return nil
		}
	}
	return fmt.Errorf("%w: not by way of the issuer given", ErrChain)
}

// VerifyConnection returns the identity of the peer of a connection. The peer
// must have sent its leaf and its issuer and nothing else. A resumed session is
// refused: its certificates were judged at another time. A certificate that is
// revoked is refused with ErrRevoked; apart from that errors are those of Verify.
func (v *Verifier) VerifyConnection(cs tls.ConnectionState, usage Usage, at time.Time) (Identity, error) {
	switch {
	case cs.Version != tls.VersionTLS13:
		return Identity{}, fmt.Errorf("verifying connection: %w: not TLS 1.3", ErrConnection)
	case cs.DidResume:
		return Identity{}, fmt.Errorf("verifying connection: %w: resumed", ErrConnection)
	case len(cs.PeerCertificates) != 2:
		return Identity{}, fmt.Errorf("verifying connection: %w: %d certificates instead of leaf and issuer",
			ErrConnection, len(cs.PeerCertificates))
	}
	id, err := v.Verify(cs.PeerCertificates[0], cs.PeerCertificates[1], usage, at)
	if err != nil {
		return Identity{}, err
	}
	if v.revocations != nil && v.revocations.Revoked(id, cs.PeerCertificates[0]) {
		return Identity{}, fmt.Errorf("verifying connection of %s: %w", id, ErrRevoked)
	}
	return id, nil
}
