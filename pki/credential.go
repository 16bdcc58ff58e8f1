package pki

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Credential is a leaf, the certificate of its issuer, and the leaf's private
// key. However it is printed, the key does not show.
type Credential struct {
	leaf, issuer *x509.Certificate
	key          privateKey
}

// LoadCredential reads a credential from two files: keyFile, the PEM of a
// PKCS#8 key of Ed25519 or P-256, a regular file of mode 0600 or stricter; and
// chainFile, the PEM of leaf and issuer, in this order and nothing else. The
// key must belong to the leaf, and the issuer's key must have signed it.
// Whether the root vouches for them is for a Verifier to say.
//
// A renewal replaces both files. To replace them at once, keep each pair in a
// directory of its own and let a symbolic link lead to the current directory;
// the files themselves may not be links.
func LoadCredential(keyFile, chainFile string) (*Credential, error) {
	keyPEM, err := readFile(keyFile, maxKeyFile, true)
	if err != nil {
		return nil, fmt.Errorf("reading private key: %w", err)
	}
	chainPEM, err := readFile(chainFile, maxChainFile, false)
	if err != nil {
		return nil, fmt.Errorf("reading certificate chain: %w", err)
	}
	credential, err := ParseCredential(keyPEM, chainPEM)
	if err != nil {
		return nil, fmt.Errorf("reading credential %s with %s: %w", keyFile, chainFile, err)
	}
	return credential, nil
}

// ParseCredential reads a credential from the contents of the two files that
// LoadCredential takes.
func ParseCredential(keyPEM, chainPEM []byte) (*Credential, error) {
	if len(keyPEM) > maxKeyFile || len(chainPEM) > maxChainFile {
		return nil, errors.New("key or chain too long")
	}
	signer, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	if !LeafKey(signer.Public()) {
		return nil, errors.New("private key: neither Ed25519 nor P-256")
	}
	certs, err := parseCertificates(chainPEM, 2)
	if err != nil {
		return nil, fmt.Errorf("certificate chain: %w", err)
	}
	leaf, issuer := certs[0], certs[1]
	if public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return nil, errors.New("the private key does not belong to the certificate")
	}
	if err := leaf.CheckSignatureFrom(issuer); err != nil {
		return nil, fmt.Errorf("the second certificate did not issue the first: %w", err)
	}
	return &Credential{leaf: leaf, issuer: issuer, key: func() crypto.Signer { return signer }}, nil
}

// Leaf returns the certificate of the credential. Nobody may change it.
func (c Credential) Leaf() *x509.Certificate { return c.leaf }

// Issuer returns the certificate that vouches for the leaf. Nobody may change it.
func (c Credential) Issuer() *x509.Certificate { return c.issuer }

// Signer signs with the leaf's key.
func (c Credential) Signer() crypto.Signer { return c.key }

// TLS returns the credential in the form that package tls takes.
func (c Credential) TLS() tls.Certificate {
	return tls.Certificate{
		Certificate: [][]byte{c.leaf.Raw, c.issuer.Raw},
		PrivateKey:  c.key,
		Leaf:        c.leaf,
	}
}

// String returns the leaf's common name and "redacted".
func (c Credential) String() string {
	if c.leaf == nil {
		return "credential (redacted)"
	}
	return fmt.Sprintf("credential of %q (redacted)", c.leaf.Subject.CommonName)
}

// Format prints what String returns, whatever the verb: package fmt would ask
// String for some of them only.
func (c Credential) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// LogValue returns what String returns.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// privateKey signs, and prints as "redacted". It is a function, because package
// fmt cannot look into functions, while in unexported fields of other structs
// it calls no Format and reads everything else by reflection.
type privateKey func() crypto.Signer

func (k privateKey) Public() crypto.PublicKey { return k().Public() }

func (k privateKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k().Sign(rand, digest, opts)
}

func (k privateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "redacted") }
