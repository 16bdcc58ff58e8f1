// Package seal keeps private keys at rest: it encrypts a secret under a
// passphrase, and asks for that passphrase.
//
// It guarantees that a sealed secret opens only under the passphrase and for
// the purpose that it was sealed with, unchanged to the last byte; that each
// guess at the passphrase costs 64 MiB of memory and three passes over it; and
// that a wrong passphrase and a changed file are one error, which says nothing
// about either. A passphrase comes from a terminal, from a file descriptor or
// from a credential of systemd, never from an argument or the environment, and
// prints as "redacted".
//
// It does not write files (package pki/ca does), does not judge a passphrase
// beyond its length, and cannot keep a secret out of the memory of the process
// that opened it.
package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

// PEMType is the type of the PEM block of a sealed secret.
const PEMType = "LEVEE SEALED KEY"

// Bounds, in bytes.
const (
	MaxSecret  = 4 << 10 // what is sealed
	MaxSealed  = 8 << 10 // the PEM of it
	maxPurpose = 64
)

// What each guess costs: Argon2id with 64 MiB, three passes, one lane (above
// the second recommendation of RFC 9106, section 4, in what one lane costs).
const (
	memory = 64 << 10 // KiB
	passes = 3
	lanes  = 1
)

// The body of the PEM block is header, salt, nonce and the ciphertext with its
// tag. The header is version, memory, passes and lanes: whoever reads the file
// in ten years sees what it takes, but no file can ask for another cost.
const (
	version    = 1
	headerSize = 1 + 4 + 4 + 1
	saltSize   = 16
	prefixSize = headerSize + saltSize + chacha20poly1305.NonceSizeX
)

// label separates our additional data and keys from everybody else's.
const label = "levee/seal/v1\x00"

var (
	// ErrOpen means that the passphrase or the purpose is wrong or that the
	// file was changed. Nobody can tell which.
	ErrOpen = errors.New("wrong passphrase, or the file was changed")
	// ErrFormat means that this is no sealed secret of a form that is read.
	ErrFormat = errors.New("not a sealed key of version 1")
)

// Is reports whether data begins as a sealed secret does.
func Is(data []byte) bool {
	return bytes.HasPrefix(data, []byte("-----BEGIN "+PEMType+"-----"))
}

// Seal encrypts 1 to MaxSecret bytes and returns a PEM block. purpose, of 1 to
// 64 bytes, says what the secret is; Open must be given the same. A change of
// passphrase is another Seal, with another salt.
func Seal(secret []byte, passphrase Passphrase, purpose string) ([]byte, error) {
	switch {
	case len(secret) == 0 || len(secret) > MaxSecret:
		return nil, fmt.Errorf("sealing: %d bytes are not 1 to %d", len(secret), MaxSecret)
	case passphrase.text == nil:
		return nil, errors.New("sealing: no passphrase")
	case purpose == "" || len(purpose) > maxPurpose:
		return nil, errors.New("sealing: no purpose")
	}
	body := make([]byte, prefixSize, prefixSize+len(secret)+chacha20poly1305.Overhead)
	copy(body, header())
	_, _ = rand.Read(body[headerSize:]) // never fails (crypto/rand)
	aead, err := chacha20poly1305.NewX(derive(passphrase, body))
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	body = aead.Seal(body, nonce(body), secret, additional(body, purpose))
	return pem.EncodeToMemory(&pem.Block{Type: PEMType, Bytes: body}), nil
}

// Open returns what Seal was given. Its errors wrap ErrFormat or ErrOpen.
func Open(sealed []byte, passphrase Passphrase, purpose string) ([]byte, error) {
	body, err := parse(sealed)
	if err != nil {
		return nil, fmt.Errorf("opening sealed key: %w", err)
	}
	if passphrase.text == nil || purpose == "" || len(purpose) > maxPurpose {
		return nil, fmt.Errorf("opening sealed key: %w", ErrOpen)
	}
	aead, err := chacha20poly1305.NewX(derive(passphrase, body))
	if err != nil {
		return nil, fmt.Errorf("opening sealed key: %w", err)
	}
	secret, err := aead.Open(nil, nonce(body), body[prefixSize:], additional(body, purpose))
	if err != nil {
		return nil, fmt.Errorf("opening sealed key: %w", ErrOpen)
	}
	return secret, nil
}

// parse returns the body of exactly one block in exactly the spelling that
// Seal writes. It costs nothing that the file could choose.
func parse(sealed []byte) ([]byte, error) {
	if len(sealed) > MaxSealed || !Is(sealed) {
		return nil, ErrFormat
	}
	block, rest := pem.Decode(sealed)
	if block == nil || len(rest) != 0 || !bytes.Equal(sealed, pem.EncodeToMemory(&pem.Block{Type: PEMType, Bytes: block.Bytes})) {
		return nil, ErrFormat
	}
	size := len(block.Bytes) - prefixSize - chacha20poly1305.Overhead
	if size < 1 || size > MaxSecret || !bytes.Equal(block.Bytes[:headerSize], header()) {
		return nil, ErrFormat
	}
	return block.Bytes, nil
}

func header() []byte {
	h := []byte{version}
	h = binary.BigEndian.AppendUint32(h, memory)
	h = binary.BigEndian.AppendUint32(h, passes)
	return append(h, lanes)
}

func salt(body []byte) []byte  { return body[headerSize : headerSize+saltSize] }
func nonce(body []byte) []byte { return body[headerSize+saltSize : prefixSize] }

func derive(passphrase Passphrase, body []byte) []byte {
	return argon2.IDKey(passphrase.text(), salt(body), passes, memory, lanes, chacha20poly1305.KeySize)
}

// additional is what is authenticated beside the secret: the format, its
// parameters, and the purpose, which is last and so needs no length.
func additional(body []byte, purpose string) []byte {
	return append(append([]byte(label), body[:headerSize]...), purpose...)
}
