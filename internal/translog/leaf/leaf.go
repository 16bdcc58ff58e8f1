// Package leaf is the format of one entry of the transparency log:
// docs/records.md specifies it, for the recorder who writes it and the auditor
// who reads it.
//
// It guarantees that an accepted leaf has one reading in every JSON parser and
// is spelt as Marshal would spell it. It does not look into the data.
package leaf

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
)

// MaxSize bounds a leaf in bytes (C2SP tlog-tiles, "Log Entries").
const MaxSize = 1<<16 - 1

// maxReceived is the largest integer that every JSON parser reads alike.
const maxReceived = 1<<53 - 1

// maxVerdict bounds a verdict in bytes.
const maxVerdict = 32

// Kind says what a leaf's data is. The set is closed.
type Kind string

// The kinds.
const (
	KindMessage    Kind = "message"    // an envelope, verbatim
	KindGrant      Kind = "grant"      // the JSON array of request, approvals and JWT
	KindIssuance   Kind = "issuance"   // a certificate that was issued
	KindRevocation Kind = "revocation" // a revocation or readmission that was carried out
)

// Valid reports whether k is one of the kinds.
func (k Kind) Valid() bool {
	switch k {
	case KindMessage, KindGrant, KindIssuance, KindRevocation:
		return true
	default:
		return false
	}
}

// A Leaf is one entry of the log.
type Leaf struct {
	// Received is when the recorder received the data, in ms since the epoch.
	Received int64
	// Verdict is what the recorder found when it checked the data: "accepted",
	// or the reason why not, 1 to 32 of "a-z 0-9 _".
	Verdict string
	Kind    Kind
	// Data is what was received, verbatim and not empty.
	Data []byte
}

var errLeaf = errors.New("not a leaf of this system")

func (l Leaf) check() error {
	switch {
	case l.Received < 0 || l.Received > maxReceived:
		return fmt.Errorf("time of receipt out of range: %w", errLeaf)
	case !validVerdict(l.Verdict):
		return fmt.Errorf("verdict outside the grammar: %w", errLeaf)
	case !l.Kind.Valid():
		return fmt.Errorf("unknown kind: %w", errLeaf)
	case len(l.Data) == 0:
		return fmt.Errorf("no data: %w", errLeaf)
	}
	return nil
}

// The fixed bytes between the values.
const (
	beforeReceived = `{"v":1,"received":`
	beforeVerdict  = `,"verdict":"`
	beforeKind     = `","kind":"`
	beforeData     = `","data":"`
	end            = `"}`
)

// Marshal spells the leaf. It refuses a leaf that Parse would refuse, and one
// that is longer than MaxSize.
func (l Leaf) Marshal() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("writing leaf: %w", err)
	}
	size := len(beforeReceived) + 16 + len(beforeVerdict) + len(l.Verdict) + len(beforeKind) + len(l.Kind) +
		len(beforeData) + base64.RawURLEncoding.EncodedLen(len(l.Data)) + len(end)
	b := make([]byte, 0, size)
	b = append(b, beforeReceived...)
	b = strconv.AppendInt(b, l.Received, 10)
	b = append(b, beforeVerdict...)
	b = append(b, l.Verdict...)
	b = append(b, beforeKind...)
	b = append(b, l.Kind...)
	b = append(b, beforeData...)
	b = base64.RawURLEncoding.AppendEncode(b, l.Data)
	b = append(b, end...)
	if len(b) > MaxSize {
		return nil, fmt.Errorf("writing leaf: %d bytes of data do not fit in %d: %w", len(l.Data), MaxSize, errLeaf)
	}
	return b, nil
}

// Parse reads a leaf. It accepts exactly what Marshal spells. The data is a
// copy.
func Parse(raw []byte) (Leaf, error) {
	if len(raw) > MaxSize {
		return Leaf{}, fmt.Errorf("reading leaf: longer than %d bytes: %w", MaxSize, errLeaf)
	}
	rest, ok := bytes.CutPrefix(raw, []byte(beforeReceived))
	received, rest, ok1 := bytes.Cut(rest, []byte(beforeVerdict))
	verdict, rest, ok2 := bytes.Cut(rest, []byte(beforeKind))
	kind, rest, ok3 := bytes.Cut(rest, []byte(beforeData))
	data64, ok4 := bytes.CutSuffix(rest, []byte(end))
	if !ok || !ok1 || !ok2 || !ok3 || !ok4 {
		return Leaf{}, fmt.Errorf("reading leaf: %w", errLeaf)
	}
	at, ok := parseReceived(received)
	if !ok {
		return Leaf{}, fmt.Errorf("reading leaf: malformed time of receipt: %w", errLeaf)
	}
	// The decoder skips line breaks, even a strict one.
	if bytes.ContainsAny(data64, "\r\n") {
		return Leaf{}, fmt.Errorf("reading leaf: malformed data: %w", errLeaf)
	}
	data, err := base64.RawURLEncoding.Strict().AppendDecode(nil, data64)
	if err != nil {
		return Leaf{}, fmt.Errorf("reading leaf: malformed data: %w", errLeaf)
	}
	l := Leaf{Received: at, Verdict: string(verdict), Kind: Kind(kind), Data: data}
	if err := l.check(); err != nil {
		return Leaf{}, fmt.Errorf("reading leaf: %w", err)
	}
	return l, nil
}

// parseReceived reads 1 to 16 digits without a leading zero.
func parseReceived(s []byte) (int64, bool) {
	if len(s) == 0 || len(s) > 16 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n := int64(0)
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func validVerdict(s string) bool {
	if len(s) == 0 || len(s) > maxVerdict {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}
