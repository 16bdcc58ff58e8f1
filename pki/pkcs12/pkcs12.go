// Package pkcs12 puts a person's certificate and key into a file that browsers
// and operating systems import.
//
// It guarantees that the file opens only under a passphrase of 128 random bits
// that it makes itself: the key derivation of PKCS#12 is too weak for one that
// people think of. The encryption is what common systems read since 2018
// (PBES2 with AES-256-CBC, HMAC-SHA-256).
//
// It writes no file. A key that travels in one is a copy: where the browser or
// a token can make the key itself, let it.
package pkcs12

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"

	gopkcs12 "software.sslmate.com/src/go-pkcs12"
)

// Passphrase opens one file. It prints as "redacted". The zero value is empty.
type Passphrase struct{ text func() string }

// Reveal returns the passphrase, 26 characters of A to Z and 2 to 7, to be
// shown to its person once.
func (p Passphrase) Reveal() string {
	if p.text == nil {
		return ""
	}
	return p.text()
}

// String returns "redacted".
func (Passphrase) String() string { return "redacted" }

// Format prints "redacted", whatever the verb.
func (Passphrase) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "redacted") }

// LogValue returns "redacted".
func (Passphrase) LogValue() slog.Value { return slog.StringValue("redacted") }

// Encode returns the file of leaf, its key and its issuer, and the passphrase
// that opens it. The issuer is in it because servers of ours want the chain,
// and a browser sends what it has.
func Encode(key crypto.Signer, leaf, issuer *x509.Certificate) ([]byte, Passphrase, error) {
	private, ok := key.(*ecdsa.PrivateKey)
	switch {
	case leaf == nil || issuer == nil:
		return nil, Passphrase{}, errors.New("encoding PKCS#12: leaf or issuer missing")
	case !ok: // browsers authenticate with no Ed25519
		return nil, Passphrase{}, errors.New("encoding PKCS#12: not an ECDSA key that can be written")
	case !private.PublicKey.Equal(leaf.PublicKey):
		return nil, Passphrase{}, errors.New("encoding PKCS#12: the key does not belong to the certificate")
	}
	if err := leaf.CheckSignatureFrom(issuer); err != nil {
		return nil, Passphrase{}, fmt.Errorf("encoding PKCS#12: the issuer did not issue the certificate: %w", err)
	}
	text := rand.Text()
	file, err := gopkcs12.Modern2023.Encode(private, leaf, []*x509.Certificate{issuer}, text)
	if err != nil {
		return nil, Passphrase{}, fmt.Errorf("encoding PKCS#12: %w", err)
	}
	return file, Passphrase{text: func() string { return text }}, nil
}
