package envelope

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"levee/pki"
)

// signaturePrefix separates our signatures from every other use of the keys.
const signaturePrefix = "levee/signature/v1\x00"

// maxChain bounds chain in characters: leaf and issuer are maxCertificates
// bytes of DER at most.
const (
	maxCertificates = 8 << 10
	maxChain        = (maxCertificates*8 + 5) / 6
)

// Signer signs for one sender. The key may live in hardware.
type Signer struct {
	key   crypto.Signer
	chain string
}

// NewSigner returns a signer whose messages carry leaf and issuer. The key
// must be Ed25519 or P-256 and belong to leaf, and the two certificates have
// 8,192 bytes at most.
func NewSigner(key crypto.Signer, leaf, issuer *x509.Certificate) (*Signer, error) {
	switch public := key.Public().(type) {
	case ed25519.PublicKey:
		if !public.Equal(leaf.PublicKey) {
			return nil, errors.New("making a signer: the key does not belong to the certificate")
		}
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() || !public.Equal(leaf.PublicKey) {
			return nil, errors.New("making a signer: the key is not P-256, or does not belong to the certificate")
		}
	default:
		return nil, fmt.Errorf("making a signer: keys of type %T do not sign messages", public)
	}
	der := append(append([]byte(nil), leaf.Raw...), issuer.Raw...)
	if len(der) > maxCertificates {
		return nil, fmt.Errorf("making a signer: leaf and issuer are %d bytes, more than %d", len(der), maxCertificates)
	}
	return &Signer{key: key, chain: base64.RawURLEncoding.EncodeToString(der)}, nil
}

// sign returns the 64-byte signature over the prefix and b.
func (s *Signer) sign(b []byte) ([]byte, error) {
	input := append([]byte(signaturePrefix), b...)
	if _, ok := s.key.Public().(ed25519.PublicKey); ok {
		sig, err := s.key.Sign(nil, input, crypto.Hash(0))
		if err != nil {
			return nil, fmt.Errorf("signing: %w", err)
		}
		return sig, nil
	}
	digest := sha256.Sum256(input)
	der, err := s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) != 0 {
		return nil, errors.New("signing: the key returned no ECDSA signature")
	}
	order := elliptic.P256().Params().N
	if rs.S.Cmp(halfOrder()) > 0 { // the other of the two valid values
		rs.S.Sub(order, rs.S)
	}
	sig := make([]byte, 64)
	rs.R.FillBytes(sig[:32])
	rs.S.FillBytes(sig[32:])
	return sig, nil
}

func halfOrder() *big.Int { return new(big.Int).Rsh(elliptic.P256().Params().N, 1) }

// Certificates returns the leaf and issuer that the message carries. Nothing
// vouches for them yet.
func (m *Message) Certificates() (leaf, issuer *x509.Certificate, err error) {
	if !m.Signed() {
		return nil, nil, Unsigned
	}
	der, err := base64.RawURLEncoding.AppendDecode(nil, m.Chain)
	if err != nil {
		return nil, nil, BadSignature
	}
	chain, err := x509.ParseCertificates(der)
	if err != nil || len(chain) != 2 {
		return nil, nil, BadSignature
	}
	return chain[0], chain[1], nil
}

// CheckSignature checks the signature alone, with a public key that the caller
// trusts: Ed25519 (RFC 8032), or ECDSA over P-256 and SHA-256 with low s.
func (m *Message) CheckSignature(public crypto.PublicKey) error {
	if !m.Signed() {
		return Unsigned
	}
	var sig [64]byte
	if n, err := base64.RawURLEncoding.Decode(sig[:], m.Sig); err != nil || n != len(sig) {
		return BadSignature
	}
	input := append([]byte(signaturePrefix), m.signedBytes()...)
	switch public := public.(type) {
	case ed25519.PublicKey:
		if len(public) == ed25519.PublicKeySize && ed25519.Verify(public, input, sig[:]) {
			return nil
		}
	case *ecdsa.PublicKey:
		r, s := new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])
		digest := sha256.Sum256(input)
		if public.Curve == elliptic.P256() && s.Cmp(halfOrder()) <= 0 && ecdsa.Verify(public, digest[:], r, s) {
			return nil
		}
	}
	return BadSignature
}

// ChainVerifier says whose certificate a leaf is; *pki.Verifier is one.
type ChainVerifier interface {
	Verify(leaf, issuer *x509.Certificate, usage pki.Usage, at time.Time) (pki.Identity, error)
}

// VerifySignature checks that the message is signed by its sender: the chain
// reaches the verifier's root at the time at, its identity is kid's, and the
// signature is good. It returns the identity and the leaf, whose key a site
// document may pin. It needs no secret. Every error is a Reason.
func (m *Message) VerifySignature(v ChainVerifier, at time.Time) (pki.Identity, *x509.Certificate, error) {
	leaf, issuer, err := m.Certificates()
	if err != nil {
		return pki.Identity{}, nil, err
	}
	id, err := v.Verify(leaf, issuer, pki.UsageSign, at)
	if err != nil {
		return pki.Identity{}, nil, BadSignature
	}
	if err := m.CheckSigner(id, leaf); err != nil {
		return pki.Identity{}, nil, err
	}
	return id, leaf, nil
}

// CheckSigner is what is left of VerifySignature for a caller that knows of the
// message's very chain what a verifier said of it at the message's time: whose
// identity it is, and its leaf. Every error is a Reason.
func (m *Message) CheckSigner(id pki.Identity, leaf *x509.Certificate) error {
	if id.Sender() != string(m.Sender()) {
		return BadSender
	}
	return m.CheckSignature(leaf.PublicKey)
}

// StatementNonce returns the one nonce of a statement of ts, in ms since the
// epoch. It counts nothing: what makes a statement unique is in its payload.
func StatementNonce(ts int64) Nonce { return Nonce{Boot: uint64(ts), Seq: 1} }

// statementGeneration reports whether a statement on topic may carry this
// generation. The site document's is its number; keys play no part in any other.
func statementGeneration(topic string, generation uint32) bool {
	return generation == 1 || strings.HasSuffix(topic, "/statement/site")
}

// statement reports whether what was read before the payload is a statement's.
func (m *Message) statement() bool {
	return m.Chain != nil && m.Nonce == StatementNonce(m.Time) && statementGeneration(string(m.Topic), m.KeyID().Generation)
}

// Digest returns SHA-256 over the signed bytes, prefix included: what people
// approve, and how other messages refer to this one.
func (m *Message) Digest() [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(signaturePrefix))
	h.Write(m.signedBytes())
	return [sha256.Size]byte(h.Sum(nil))
}
