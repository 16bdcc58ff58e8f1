package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"time"

	"levee/test/vectors"
)

const trustDomain = "bank.example"

// The validity of authorities and, unless a case says otherwise, of leaves.
var (
	authorityFrom = time.Date(2024, 10, 1, 0, 0, 0, 0, time.UTC)
	authorityTo   = time.Date(2024, 12, 1, 0, 0, 0, 0, time.UTC)
	leafFrom      = time.Date(2024, 10, 10, 0, 0, 0, 0, time.UTC)
	leafTo        = time.Date(2024, 11, 8, 0, 0, 0, 0, time.UTC)
)

// repeatable is a key whose signatures are the same each time.
type repeatable struct{ crypto.Signer }

func (k repeatable) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.Signer.Sign(nil, digest, opts) // ECDSA without randomness is RFC 6979
}

// edKey and ecKey make keys from what they are called: public, and so worth
// nothing.
func edKey(seed string) crypto.Signer {
	sum := sha256.Sum256([]byte("levee test vectors: " + seed))
	return ed25519.NewKeyFromSeed(sum[:])
}

func ecKey(seed string, curve elliptic.Curve) crypto.Signer {
	scalar := make([]byte, (curve.Params().BitSize+7)/8)
	sum := sha256.Sum256([]byte("levee test vectors: " + seed))
	copy(scalar[len(scalar)-len(sum):], sum[:])
	key, err := ecdsa.ParseRawPrivateKey(curve, scalar)
	if err != nil {
		panic(err) // the seeds here do not hit the one in 2^32 above the order
	}
	return repeatable{key}
}

// issuer is a CA certificate and its key.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// signer signs messages, rightly or wrongly.
type signer struct {
	certs []byte // DER, what the chain carries
	leaf  *x509.Certificate
	key   crypto.Signer
	mend  func(sig []byte) []byte // nil: as made
	bare  bool                    // sign without the prefix
}

func (s *signer) chain() string { return base64url(s.certs) }

// sign returns the 64 bytes over text, which begins with the prefix.
func (s *signer) sign(text string) []byte {
	if s.bare {
		text = text[len(signPrefix):]
	}
	sig := s.plain(text)
	if s.mend != nil {
		sig = s.mend(sig)
	}
	return sig
}

func (s *signer) plain(text string) []byte {
	if _, ok := s.key.Public().(ed25519.PublicKey); ok {
		sig, err := s.key.Sign(nil, []byte(text), crypto.Hash(0))
		if err != nil {
			panic(err)
		}
		return sig
	}
	digest := sha256.Sum256([]byte(text))
	der, err := s.key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		panic(err)
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		panic(err)
	}
	order := s.key.Public().(*ecdsa.PublicKey).Params().N
	if new(big.Int).Lsh(rs.S, 1).Cmp(order) > 0 {
		rs.S.Sub(order, rs.S)
	}
	sig := make([]byte, 64)
	if order.BitLen() > 256 { // a curve that signs no messages
		return sig
	}
	rs.R.FillBytes(sig[:32])
	rs.S.FillBytes(sig[32:])
	return sig
}

// mended returns s with another last step.
func (s *signer) mended(mend func([]byte) []byte) *signer {
	t := *s
	t.mend = mend
	return &t
}

// carrying returns s with other certificates in the chain.
func (s *signer) carrying(certs ...*x509.Certificate) *signer {
	t := *s
	t.certs = nil
	for _, c := range certs {
		t.certs = append(t.certs, c.Raw...)
	}
	return &t
}

// pin returns how a site document names the signer's key.
func (s *signer) pin() string {
	sum := sha256.Sum256(s.leaf.RawSubjectPublicKeyInfo)
	return base64url(sum[:])
}

// world is the authorities and signers of all cases.
type world struct {
	serial                                    int64
	root, machines, people, otherSite         issuer
	otherRoot, otherMachines, forged, expired issuer
	web1, web2, m1, m1Renewed, m1New, lb1     *signer
	lb1EC, appr, sydWeb1, web1Monitor         *signer
	err                                       error
}

func newWorld() (*world, error) {
	w := &world{serial: 1000}
	w.root = w.newRoot("root")
	w.machines = w.authority(w.root, "melb."+trustDomain, "melb machine authority", "melb machines", authorityTo)
	w.people = w.authority(w.root, "ops.melb."+trustDomain, "melb person authority", "melb people", authorityTo)
	w.otherSite = w.authority(w.root, "syd."+trustDomain, "syd machine authority", "syd machines", authorityTo)
	w.otherRoot = w.newRoot("another root")
	w.otherMachines = w.authority(w.otherRoot, "melb."+trustDomain, "melb machine authority", "melb machines of another root", authorityTo)
	// Signed by itself, under the name of the root.
	forged := issuer{cert: w.root.cert, key: edKey("nobody's root")}
	w.forged = w.authority(forged, "melb."+trustDomain, "melb machine authority", "forged machines", authorityTo)
	w.expired = w.authority(w.root, "melb."+trustDomain, "melb machine authority", "old machines", time.Date(2024, 10, 20, 0, 0, 0, 0, time.UTC))

	w.web1 = w.signer(w.machines, web1, edKey("web-1"), nil)
	w.web2 = w.signer(w.machines, web2, edKey("web-2"), nil)
	w.m1 = w.signer(w.machines, m1, edKey("m1"), nil)
	w.m1Renewed = w.signer(w.machines, m1, edKey("m1"), nil)
	w.m1New = w.signer(w.machines, m1, edKey("m1, another key"), nil)
	w.lb1 = w.signer(w.machines, lb1, edKey("lb-1"), nil)
	w.lb1EC = w.signer(w.machines, lb1, ecKey("lb-1, P-256", elliptic.P256()), nil)
	w.appr = w.signer(w.machines, appr, edKey("approver"), nil)
	w.sydWeb1 = w.signer(w.otherSite, sender{"syd", "sensor", "web-1", 1}, edKey("syd web-1"), nil)
	w.web1Monitor = w.signer(w.machines, sender{"melb", "monitor", "web-1", 1}, edKey("monitor web-1"), nil)
	return w, w.err
}

func (w *world) create(template *x509.Certificate, by issuer, public crypto.PublicKey) *x509.Certificate {
	w.serial++
	template.SerialNumber = big.NewInt(w.serial)
	parent := *by.cert
	parent.PublicKey = by.key.Public() // a forger's key is not its certificate's
	der, err := x509.CreateCertificate(nil, template, &parent, public, by.key)
	if err == nil {
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(der); err == nil {
			return cert
		}
	}
	if w.err == nil {
		w.err = fmt.Errorf("making the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return template
}

func keyID(seed string) []byte {
	sum := sha256.Sum256([]byte("key identifier: " + seed))
	return sum[:20]
}

func (w *world) newRoot(seed string) issuer { return w.rootUntil(seed, authorityTo) }

func (w *world) rootUntil(seed string, to time.Time) issuer {
	key := edKey(seed)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "levee root"}, NotBefore: authorityFrom, NotAfter: to,
		URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}}, BasicConstraintsValid: true, IsCA: true, MaxPathLen: 1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: keyID(seed),
	}
	return issuer{cert: w.create(template, issuer{cert: template, key: key}, key.Public()), key: key}
}

// authority makes an issuing authority of the profile of package pki.
func (w *world) authority(by issuer, host, name, seed string, to time.Time) issuer {
	return w.authorityWith(by, host, name, seed, to, nil)
}

// authorityWith makes one changed by change, unless that is nil.
func (w *world) authorityWith(by issuer, host, name, seed string, to time.Time, change func(*x509.Certificate)) issuer {
	key := edKey(seed)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: authorityFrom, NotAfter: to,
		URIs: []*url.URL{{Scheme: "spiffe", Host: host}}, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		SubjectKeyId:                keyID(seed),
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{host}, ExcludedURIDomains: []string{"." + host},
		PermittedDNSDomains: []string{host}, PermittedEmailAddresses: []string{host},
		ExcludedIPRanges: []*net.IPNet{
			{IP: make(net.IP, 4), Mask: make(net.IPMask, 4)}, {IP: make(net.IP, 16), Mask: make(net.IPMask, 16)},
		},
	}
	if change != nil {
		change(template)
	}
	return issuer{cert: w.create(template, by, key.Public()), key: key}
}

// signer issues a leaf, changed by change unless that is nil, and returns who
// signs with it.
func (w *world) signer(by issuer, id sender, key crypto.Signer, change func(*x509.Certificate)) *signer {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: id.site + "_" + id.role + "_" + id.name}, NotBefore: leafFrom, NotAfter: leafTo,
		URIs:     []*url.URL{{Scheme: "spiffe", Host: id.site + "." + trustDomain, Path: "/" + id.role + "/" + id.name}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	leaf := w.create(template, by, key.Public())
	s := &signer{leaf: leaf, key: key}
	return s.carrying(leaf, by.cert)
}

// verifying adds what a receiver needs for signatures: the root, and the pin
// of m1.
func (w *world) verifying(r vectors.Receiver) vectors.Receiver {
	r.Root = w.root.cert.Raw
	r.Pins = map[string]string{m1.String(): w.m1.pin()}
	return r
}
