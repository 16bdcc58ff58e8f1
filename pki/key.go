package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// ReadKey reads the PEM of a PKCS#8 private key of a leaf or an authority, a
// regular file of mode 0600 or stricter. No error shows any of its bytes.
func ReadKey(path string) (crypto.Signer, error) {
	b, err := readFile(path, maxKeyFile, true)
	if err != nil {
		return nil, fmt.Errorf("reading private key: %w", err)
	}
	key, err := ParseKey(b)
	if err != nil {
		return nil, fmt.Errorf("reading private key %s: %w", path, err)
	}
	return key, nil
}

// ParseKey reads what a file that ReadKey takes holds. No error shows any of
// its bytes.
func ParseKey(b []byte) (crypto.Signer, error) {
	if len(b) > maxKeyFile {
		return nil, errors.New("too long")
	}
	key, err := parseKey(b)
	if err != nil {
		return nil, err
	}
	if !CAKey(key.Public()) { // which every key of a leaf is
		return nil, errors.New("none of Ed25519, P-256, P-384")
	}
	return key, nil
}

// parseKey reads one PKCS#8 key. The errors of the parsers are left out: none
// of the key's bytes may reach a log.
func parseKey(b []byte) (crypto.Signer, error) {
	blocks, err := parsePEM(b, pemPrivateKey, 1)
	if err != nil {
		return nil, fmt.Errorf("not one PEM block of type %q", pemPrivateKey)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(blocks[0])
	if err != nil {
		return nil, errors.New("not PKCS#8")
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("not a signing key")
	}
	return key, nil
}

// NewKey makes a key for a leaf of role: ECDSA P-256 for people and brokers,
// whose certificates browsers and foreign MQTT clients must understand,
// Ed25519 for all other machines.
func NewKey(role Role) (crypto.Signer, error) {
	switch {
	case role.Class() == ClassNone:
		return nil, fmt.Errorf("making key: %q is no role", role)
	case role.Class() == ClassPerson, role == RoleBroker:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
}

// MarshalKey returns the PEM of the key in PKCS#8, unencrypted. A key that
// lies in a token cannot be marshalled, nor one that a credential holds.
func MarshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("marshalling key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// MarshalCertificates returns the PEM of certs in their order: for the chain
// file of a credential, leaf and issuer.
func MarshalCertificates(certs ...*x509.Certificate) []byte {
	var b []byte
	for _, cert := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return b
}

// MarshalCredential returns the key and the chain of a credential as the PEM
// that LoadCredential reads. The key may be one that a credential holds.
func MarshalCredential(key crypto.Signer, leaf, issuer *x509.Certificate) (keyPEM, chainPEM []byte, err error) {
	if held, ok := key.(privateKey); ok {
		key = held()
	}
	if keyPEM, err = MarshalKey(key); err != nil {
		return nil, nil, err
	}
	return keyPEM, MarshalCertificates(leaf, issuer), nil
}
