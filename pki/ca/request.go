package ca

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"

	"levee/pki"
)

// Bounds of requests, in bytes. A leaf's has about 200; an authority's has its
// zones, as its certificate.
const (
	MaxRequest          = 8 << 10
	maxAuthorityRequest = 32 << 10
)

// ParseRequest reads the PKCS#10 request of a leaf, DER. It guarantees that
// whoever made the request holds the private key, and that the key is of a
// kind that leaves have. It guarantees nothing about names: a request says who
// somebody wants to be, so its caller takes the identity from elsewhere.
func ParseRequest(der []byte) (*x509.CertificateRequest, error) {
	request, err := parseRequest(der, MaxRequest)
	if err != nil {
		return nil, err
	}
	if !pki.LeafKey(request.PublicKey) {
		return nil, errors.New("reading request: key is neither Ed25519 nor P-256")
	}
	return request, nil
}

func parseRequest(der []byte, limit int) (*x509.CertificateRequest, error) {
	if len(der) > limit {
		return nil, fmt.Errorf("reading request: longer than %d bytes", limit)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("reading request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("reading request: it is not signed by its own key: %w", err)
	}
	return request, nil
}

// AuthorityRequest is what a site's machine asks of the offline root: its
// authority, for a key that never leaves the site.
type AuthorityRequest struct {
	Authority pki.Authority
	Zones     Zones
	Public    crypto.PublicKey
	// Key is SHA-256 of the public key's SubjectPublicKeyInfo, for the people
	// at both ends to compare: the carrier could have swapped the request.
	Key [sha256.Size]byte
}

var oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// NewAuthorityRequest returns the request, DER, of the authority a with zones
// for key: PKCS#10 with the authority's URI and, as a requested extension, the
// name constraints that it will get, for any tool to show.
func NewAuthorityRequest(key crypto.Signer, a pki.Authority, zones Zones) ([]byte, error) {
	der, err := newAuthorityRequest(key, a, zones)
	if err != nil {
		return nil, fmt.Errorf("requesting authority %s: %w", a.Host(), err)
	}
	return der, nil
}

func newAuthorityRequest(key crypto.Signer, a pki.Authority, zones Zones) ([]byte, error) {
	if key == nil || !pki.CAKey(key.Public()) {
		return nil, errors.New("key is none of Ed25519, P-256, P-384")
	}
	if got, err := pki.ParseAuthority(a.URI(), a.TrustDomain); err != nil || got != a {
		return nil, errors.New("it names no authority")
	}
	if err := checkZones(zones, a); err != nil {
		return nil, err
	}
	constraints, err := constraintsOf(a, zones)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: authorityName(a)},
		URIs:            []*url.URL{{Scheme: "spiffe", Host: a.Host()}},
		ExtraExtensions: []pkix.Extension{constraints},
	}, key)
	if err != nil {
		return nil, err
	}
	if len(der) > maxAuthorityRequest {
		return nil, errors.New("too many zones")
	}
	return der, nil
}

// ParseAuthorityRequest reads what NewAuthorityRequest returned, below
// trustDomain, and refuses a request that asks for anything else. What it
// returns is for a person to look at and then for IssueAuthority, which
// computes the certificate from it: no byte of the request but the key is
// signed.
func ParseAuthorityRequest(der []byte, trustDomain string) (AuthorityRequest, error) {
	request, err := parseRequest(der, maxAuthorityRequest)
	if err != nil {
		return AuthorityRequest{}, err
	}
	parsed, err := parseAuthorityRequest(request, trustDomain)
	if err != nil {
		return AuthorityRequest{}, fmt.Errorf("reading request of an authority: %w", err)
	}
	return parsed, nil
}

func parseAuthorityRequest(request *x509.CertificateRequest, trustDomain string) (AuthorityRequest, error) {
	if !pki.CAKey(request.PublicKey) {
		return AuthorityRequest{}, errors.New("key is none of Ed25519, P-256, P-384")
	}
	if len(request.URIs) != 1 {
		return AuthorityRequest{}, fmt.Errorf("%d URIs instead of one", len(request.URIs))
	}
	a, err := pki.ParseAuthority(request.URIs[0].String(), trustDomain)
	if err != nil {
		return AuthorityRequest{}, err
	}
	zones, err := requestedZones(request, a)
	if err != nil {
		return AuthorityRequest{}, err
	}
	if err := checkZones(zones, a); err != nil {
		return AuthorityRequest{}, err
	}
	// What a request of ours for just this would hold: two extensions, the
	// name and the key. A person looks at what was read, so there must be
	// nothing else to read.
	want, err := constraintsOf(a, zones)
	if err != nil {
		return AuthorityRequest{}, err
	}
	for _, extension := range request.Extensions {
		if extension.Id.Equal(oidNameConstraints) && (extension.Critical != want.Critical || !bytes.Equal(extension.Value, want.Value)) {
			return AuthorityRequest{}, errors.New("it asks for other constraints than those of its host and zones")
		}
	}
	if len(request.Extensions) != 2 || len(request.DNSNames)+len(request.EmailAddresses)+len(request.IPAddresses) != 0 ||
		len(request.Subject.Names) != 1 || request.Subject.CommonName != authorityName(a) {
		return AuthorityRequest{}, errors.New("it asks for more than a host and zones")
	}
	return AuthorityRequest{
		Authority: a, Zones: zones, Public: request.PublicKey,
		Key: sha256.Sum256(request.RawSubjectPublicKeyInfo),
	}, nil
}

// requestedZones reads the zones from the requested constraints. crypto/x509
// reads constraints in certificates only, so they are read from one that
// nobody ever sees.
func requestedZones(request *x509.CertificateRequest, a pki.Authority) (Zones, error) {
	var extra []pkix.Extension
	for _, extension := range request.Extensions {
		if extension.Id.Equal(oidNameConstraints) {
			extra = append(extra, extension)
		}
	}
	if len(extra) != 1 {
		return Zones{}, errors.New("it asks for no constraints")
	}
	cert, err := worthless(&x509.Certificate{ExtraExtensions: extra})
	if err != nil {
		return Zones{}, err
	}
	var zones Zones
	for _, zone := range cert.PermittedDNSDomains {
		if zone != a.Host() {
			zones.DNS = append(zones.DNS, zone)
		}
	}
	for _, network := range cert.PermittedIPRanges {
		prefix, err := prefixOf(network)
		if err != nil {
			return Zones{}, err
		}
		zones.Networks = append(zones.Networks, prefix)
	}
	return zones, nil
}

func prefixOf(network *net.IPNet) (netip.Prefix, error) {
	address, ok := netip.AddrFromSlice(network.IP)
	ones, bits := network.Mask.Size()
	if !ok || bits != address.BitLen() {
		return netip.Prefix{}, errors.New("a network that is none")
	}
	return netip.PrefixFrom(address, ones), nil
}

// constraintsOf returns the name constraints of the certificate of a.
func constraintsOf(a pki.Authority, zones Zones) (pkix.Extension, error) {
	template := &x509.Certificate{}
	constrain(template, a, zones)
	cert, err := worthless(template)
	if err != nil {
		return pkix.Extension{}, err
	}
	for _, extension := range cert.Extensions {
		if extension.Id.Equal(oidNameConstraints) {
			return extension, nil
		}
	}
	return pkix.Extension{}, errors.New("no constraints") // constrain sets some
}
