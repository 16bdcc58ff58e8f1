package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"levee/pki"
	"levee/pki/seal"
)

// NewRootKey makes a key for a root: ECDSA P-384.
func NewRootKey() (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
}

// NewAuthorityKey makes a key for an issuing authority: ECDSA P-256.
func NewAuthorityKey() (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// NewKey makes a key for a leaf of role, as pki.NewKey does.
func NewKey(role pki.Role) (crypto.Signer, error) { return pki.NewKey(role) }

// MarshalKey returns the PEM of the key in PKCS#8, unencrypted. A key that
// lies in a token cannot be marshalled.
func MarshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("marshalling key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// SealKey returns the PEM of the key, sealed under the passphrase (pki/seal).
func SealKey(key crypto.Signer, passphrase seal.Passphrase) ([]byte, error) {
	plain, err := MarshalKey(key)
	if err != nil {
		return nil, err
	}
	return seal.Seal(plain, passphrase, purpose)
}

// purpose is what keys are sealed for.
const purpose = "private key"

// parseKey reads what MarshalKey or SealKey returned. It asks for a passphrase
// only when there is something to open with it.
func parseKey(data []byte, ask func() (seal.Passphrase, error)) (crypto.Signer, error) {
	if !seal.Is(data) {
		return pki.ParseKey(data)
	}
	if ask == nil {
		return nil, errors.New("it is sealed, and nobody can be asked for its passphrase")
	}
	passphrase, err := ask()
	if err != nil {
		return nil, err
	}
	plain, err := seal.Open(data, passphrase, purpose)
	if err != nil {
		return nil, err
	}
	return pki.ParseKey(plain)
}

// MarshalCertificates returns the PEM of certs in their order: for the chain
// file of a credential, leaf and issuer.
func MarshalCertificates(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, cert := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return b.Bytes()
}
