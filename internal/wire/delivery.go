package wire

import (
	"encoding/base64"
	"strings"
)

// What a recorder and a sender tell each other, so that what was lost on the way
// is recorded all the same (docs/topics.md).

// Bounds of a Backfill: an original is a whole message, whose class holds 32 KiB
// at most (docs/envelope.md, section 2).
const (
	MaxOriginals = 256
	MaxOriginal  = 32 << 10
)

// Ack is the payload of acks: what a recorder holds for good of one sender, its
// peer. It refuses unknown members.
type Ack struct {
	Timestamp float64 `json:"timestamp"`
	Boot      string  `json:"boot"`     // the peer's newest that the recorder knows, 11 hex digits
	Seq       uint64  `json:"seq"`      // every message of that boot up to here is kept, or its sender gave it up; 0: none
	Backfill  uint64  `json:"backfill"` // every backfill of that boot up to this number is dealt with; 0: none
}

// Backfill is the payload of backfill: messages that were not acknowledged, as
// they were sent. It refuses unknown members.
type Backfill struct {
	Timestamp float64    `json:"timestamp"`
	From      uint64     `json:"from"`      // of the envelope's boot the sender holds nothing below this number: 1 at least
	Envelopes []Original `json:"envelopes"` // 1 to MaxOriginals, in the order of their nonces
}

// Original is a whole envelope, in JSON as base64url.
type Original []byte

// MarshalText returns the envelope as base64url without padding.
func (o Original) MarshalText() ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(nil, o), nil
}

// UnmarshalText accepts exactly what MarshalText produces of 1 to MaxOriginal
// bytes.
func (o *Original) UnmarshalText(b []byte) error {
	// The decoder skips line ends, which payloads may spell as escapes.
	if len(b) == 0 || len(b) > base64.RawURLEncoding.EncodedLen(MaxOriginal) || strings.ContainsAny(string(b), "\r\n") {
		return payloadError("an original is not base64url of a message's length")
	}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(string(b))
	if err != nil {
		return payloadError("an original is not base64url of a message's length")
	}
	*o = decoded
	return nil
}

// ParseAck reads an acknowledgement's payload and checks everything that it
// must be by itself.
func ParseAck(b []byte) (Ack, error) {
	var a Ack
	if err := DecodeExact(b, &a); err != nil {
		return Ack{}, err
	}
	if !validBoot(a.Boot) {
		return Ack{}, payloadError("an acknowledgement's boot is not 11 hexadecimal digits")
	}
	return a, nil
}

// ParseBackfill reads a backfill's payload and checks everything that it must be
// by itself. What the originals are, it does not look at.
func ParseBackfill(b []byte) (Backfill, error) {
	var f Backfill
	if err := DecodeExact(b, &f); err != nil {
		return Backfill{}, err
	}
	if f.From == 0 || len(f.Envelopes) == 0 || len(f.Envelopes) > MaxOriginals {
		return Backfill{}, payloadError("a backfill counts from 0, or holds no original or too many")
	}
	return f, nil
}

// validBoot reports whether s is the boot of a nonce (docs/envelope.md, section 2).
func validBoot(s string) bool {
	return len(s) == 11 && strings.Trim(s, "0123456789abcdef") == "" && strings.Trim(s, "0") != ""
}
