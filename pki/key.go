package pki

import (
	"crypto"
	"crypto/x509"
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
