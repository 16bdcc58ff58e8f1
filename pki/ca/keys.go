package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
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

// SealKey returns the PEM of the key, sealed under the passphrase (pki/seal).
func SealKey(key crypto.Signer, passphrase seal.Passphrase) ([]byte, error) {
	plain, err := pki.MarshalKey(key)
	if err != nil {
		return nil, err
	}
	return seal.Seal(plain, passphrase, purpose)
}

// OpenKey reads a file that holds what SealKey or pki.MarshalKey returned: of
// mode 0600 or stricter, ours or root's. ask is called if the file is sealed,
// and only then; nil refuses sealed files. A file that is missing is
// fs.ErrNotExist.
func OpenKey(path string, ask func() (seal.Passphrase, error)) (crypto.Signer, error) {
	data, err := pki.ReadPrivate(path, seal.MaxSealed)
	if err != nil {
		return nil, fmt.Errorf("reading private key: %w", err)
	}
	key, err := parseKey(data, ask)
	if err != nil {
		return nil, fmt.Errorf("reading private key %s: %w", path, err)
	}
	return key, nil
}

// purpose is what keys are sealed for.
const purpose = "private key"

// parseKey reads what pki.MarshalKey or SealKey returned. It asks for a passphrase
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
