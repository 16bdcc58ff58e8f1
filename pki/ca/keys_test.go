package ca_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"levee/pki"
	"levee/pki/ca"
)

func TestWriteKey(t *testing.T) {
	for _, role := range []pki.Role{pki.RoleSensor, pki.RoleBroker} {
		key := must[crypto.Signer](t)(pki.NewKey(role))
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := ca.WriteKey(path, key, nil); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS != "windows" && info.Mode() != 0o600 {
			t.Errorf("mode is %s", info.Mode())
		}
		written := must[[]byte](t)(os.ReadFile(path))
		block, rest := pem.Decode(written)
		if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
			t.Fatal("not one PEM block")
		}
		read, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil || !read.(interface{ Equal(crypto.PrivateKey) bool }).Equal(key) {
			t.Errorf("reading the key back: %v", err)
		}

		// Nothing is ever written over, and what was there stays.
		if err := ca.WriteKey(path, must[crypto.Signer](t)(pki.NewKey(role)), nil); err == nil {
			t.Error("a key was written over another")
		}
		if now := must[[]byte](t)(os.ReadFile(path)); !bytes.Equal(now, written) {
			t.Error("the first key was changed")
		}
	}
}

// A token's key: it signs, and cannot be written.
type token struct{ public crypto.PublicKey }

func (k token) Public() crypto.PublicKey { return k.public }
func (token) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, io.ErrUnexpectedEOF
}

func TestWriteKeyLeavesNothingBehind(t *testing.T) {
	directory := t.TempDir()
	if err := ca.WriteKey(filepath.Join(directory, "key.pem"), token{}, nil); err == nil {
		t.Error("a key was written that cannot be")
	}
	key := must[crypto.Signer](t)(pki.NewKey(pki.RoleSensor))
	if err := ca.WriteKey(filepath.Join(directory, "none", "key.pem"), key, nil); err == nil {
		t.Error("a key was written into no directory")
	}
	link := filepath.Join(directory, "link.pem")
	if err := os.Symlink(filepath.Join(directory, "target.pem"), link); err == nil {
		if err := ca.WriteKey(link, key, nil); err == nil {
			t.Error("a key was written through a symbolic link")
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
	}
	if left := must[[]os.DirEntry](t)(os.ReadDir(directory)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestSignerThatFails: a token that refuses to sign is an error, not a certificate.
func TestSignerThatFails(t *testing.T) {
	root := newRoot(t)
	key := must[crypto.Signer](t)(ca.NewAuthorityKey())
	broken := ca.Issuer{Certificate: root.Certificate, Signer: token{root.Signer.Public()}}
	if cert, err := ca.IssueAuthority(broken, machines, key.Public(), zones, day, noon); err == nil || cert != nil {
		t.Error("a certificate without a signature")
	}
}
