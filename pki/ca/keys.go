package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"levee/pki"
)

// NewRootKey makes a key for a root: ECDSA P-384.
func NewRootKey() (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
}

// NewAuthorityKey makes a key for an issuing authority: ECDSA P-256.
func NewAuthorityKey() (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// NewKey makes a key for a leaf of role: ECDSA P-256 for people and brokers,
// whose certificates browsers and foreign MQTT clients must understand,
// Ed25519 for all other machines.
func NewKey(role pki.Role) (crypto.Signer, error) {
	switch {
	case role.Class() == pki.ClassNone:
		return nil, fmt.Errorf("making key: %q is no role", role)
	case role.Class() == pki.ClassPerson, role == pki.RoleBroker:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
}

// MarshalKey returns the PEM of the key in PKCS#8, unencrypted. A key that
// lies in a token cannot be marshalled.
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
	var b bytes.Buffer
	for _, cert := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return b.Bytes()
}

// WriteKey writes what MarshalKey returns to a new file of mode 0600, and
// returns when file and name are on disk. It never writes over a file: a key
// that is lost cannot be made again. After an error there is no file; after a
// crash there may be a part of one, which no reader takes for a key.
func WriteKey(path string, key crypto.Signer) (err error) {
	data, err := MarshalKey(key)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	return nil
}

// syncDirectory makes a new name survive a loss of power. Windows cannot sync
// a directory.
func syncDirectory(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	err = directory.Sync()
	if closing := directory.Close(); err == nil {
		err = closing
	}
	return err
}
