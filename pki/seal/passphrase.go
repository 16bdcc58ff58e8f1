package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"unicode"
	"unicode/utf8"
)

// Bounds of a passphrase: characters at least, bytes at most.
const (
	MinPassphrase = 12
	maxPassphrase = 1024
)

// Passphrase opens sealed secrets. It prints as "redacted". The zero value
// seals and opens nothing.
type Passphrase struct {
	// A function, because package fmt looks into everything else.
	text func() []byte
}

// NewPassphrase takes a passphrase as it came from a file or a terminal: one
// line of at least 12 characters of UTF-8, without control characters. One
// line break at the end, which editors and echo add, is cut off.
func NewPassphrase(line []byte) (Passphrase, error) {
	text, cut := bytes.CutSuffix(line, []byte("\n"))
	if cut {
		text = bytes.TrimSuffix(text, []byte("\r"))
	}
	switch {
	case len(text) == 0:
		return Passphrase{}, errors.New("the passphrase is empty")
	case len(text) > maxPassphrase:
		return Passphrase{}, fmt.Errorf("the passphrase is longer than %d bytes", maxPassphrase)
	case !utf8.Valid(text):
		return Passphrase{}, errors.New("the passphrase is not UTF-8")
	case bytes.ContainsFunc(text, unicode.IsControl):
		return Passphrase{}, errors.New("the passphrase is not one line of text")
	case utf8.RuneCount(text) < MinPassphrase:
		return Passphrase{}, fmt.Errorf("the passphrase is shorter than %d characters", MinPassphrase)
	}
	kept := bytes.Clone(text)
	return Passphrase{text: func() []byte { return kept }}, nil
}

// String returns "redacted".
func (Passphrase) String() string { return "redacted" }

// Format prints "redacted", whatever the verb.
func (Passphrase) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "redacted") }

// LogValue returns "redacted".
func (Passphrase) LogValue() slog.Value { return slog.StringValue("redacted") }

// MarshalText refuses: a passphrase belongs in no document.
func (Passphrase) MarshalText() ([]byte, error) {
	return nil, errors.New("a passphrase is not written anywhere")
}

func (p Passphrase) equal(other Passphrase) bool { return bytes.Equal(p.text(), other.text()) }
