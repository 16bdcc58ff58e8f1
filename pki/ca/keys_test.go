package ca_test

import (
	"crypto"
	"io"
	"testing"

	"levee/pki/ca"
	"levee/pki/seal"
)

// A token's key: it signs, and cannot be written.
type token struct{ public crypto.PublicKey }

func (k token) Public() crypto.PublicKey { return k.public }
func (token) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, io.ErrUnexpectedEOF
}

func TestSealKey(t *testing.T) {
	p := must[seal.Passphrase](t)(seal.NewPassphrase([]byte("correct horse")))
	if b, err := ca.SealKey(token{}, p); err == nil || b != nil {
		t.Error("a key was sealed that cannot be read")
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
