// Package ownkey holds the one envelope key that every machine is issued: that
// of its own messages (docs/envelope.md, section 6).
//
// It guarantees that a key file readable by others is refused, and that no type
// here prints its secret. From its key follows that of the acknowledgements to
// it, and nothing else: this package links no code that derives the key of
// another sender. A part that judges nobody, such as a broker, needs no more;
// package envelope/keys is for the rest.
package ownkey

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"log/slog"
	"strconv"

	"levee/envelope"
)

// Salt is that of every step of the hierarchy of keys.
const Salt = "levee/v1"

// block is the PEM type of a sender's key in a key file. Headers name what it is
// for; the body is its 32 bytes.
const block = "LEVEE SENDER KEY"

// Key is the key of one sender and generation.
type Key struct {
	id     envelope.KeyID
	secret [envelope.KeySize]byte
}

// New returns the key of the sender and generation that id names.
func New(id envelope.KeyID, secret [envelope.KeySize]byte) Key { return Key{id: id, secret: secret} }

// ID returns the kid that messages under k carry.
func (k Key) ID() envelope.KeyID { return k.id }

// Envelope returns the key in the form that seals and opens.
func (k Key) Envelope() (*envelope.Key, error) { return envelope.NewKey(k.secret[:]) }

// Ack returns the key of the acknowledgements to k's sender: HKDF-SHA256 (RFC
// 5869) with the label "ack" and no field.
func (k Key) Ack() (*envelope.Key, error) {
	key, err := hkdf.Key(sha256.New, k.secret[:], []byte(Salt), "ack\x00", envelope.KeySize)
	if err != nil {
		return nil, fmt.Errorf("deriving a key: %w", err)
	}
	return envelope.NewKey(key)
}

// Encode returns the key as it stands first in a key file.
func (k Key) Encode() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: block, Bytes: k.secret[:], Headers: map[string]string{
		"Site": k.id.Site, "Role": k.id.Role, "Name": k.id.Name,
		"Generation": strconv.FormatUint(uint64(k.id.Generation), 10),
	}})
}

// Format hides the key, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "key of %s (redacted)", k.id) }

// LogValue hides the key.
func (k Key) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(k)) }
