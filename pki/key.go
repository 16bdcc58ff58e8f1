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
	key, err := parseKey(b)
	if err != nil {
		return nil, fmt.Errorf("reading private key %s: %w", path, err)
	}
	if !LeafKey(key.Public()) && !CAKey(key.Public()) {
		return nil, fmt.Errorf("reading private key %s: none of Ed25519, P-256, P-384", path)
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
