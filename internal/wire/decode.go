package wire

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// ID is 128 random bits, spelt as 32 lower-case hexadecimal digits.
type ID [16]byte

// NewID returns a fresh identifier.
func NewID() ID {
	var id ID
	rand.Read(id[:]) // never fails (crypto/rand since Go 1.24)
	return id
}

// IsZero reports whether id is unset. No valid message carries a zero ID.
func (id ID) IsZero() bool { return id == ID{} }

// String returns the 32 digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns the 32 digits.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText accepts exactly what MarshalText produces, and not the zero ID.
func (id *ID) UnmarshalText(b []byte) error {
	var got ID
	if len(b) != 32 || bytes.ContainsAny(b, "ABCDEF") {
		return payloadError("an identifier is not 32 lower-case hexadecimal digits")
	}
	if _, err := hex.Decode(got[:], b); err != nil || got.IsZero() {
		return payloadError("an identifier is not 32 lower-case hexadecimal digits")
	}
	*id = got
	return nil
}

// Payload is a pointer to one of the payload types of this package, or to any
// struct that follows their rules: every exported field has a json name, and a
// member may be absent only where its tag says omitempty or omitzero.
type Payload any

// Encode marshals v in the strict form that CheckObject accepts.
func Encode(v Payload) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding payload: %w", err)
	}
	if err := CheckObject(b); err != nil {
		return nil, fmt.Errorf("encoding payload: %w", err)
	}
	return b, nil
}

// Decode reads telemetry into v: it tolerates members that v does not know,
// and refuses the absence of one that v requires.
func Decode(b []byte, v Payload) error { return decode(b, v, false) }

// DecodeExact reads commands and statements into v: it refuses members that v
// does not know as well.
func DecodeExact(b []byte, v Payload) error { return decode(b, v, true) }

func decode(b []byte, v Payload, exact bool) error {
	names, err := memberNames(b, make([]string, 0, 16))
	if err != nil {
		return err
	}
	t := reflect.TypeOf(v).Elem()
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if options == "" && !slices.Contains(names, name) {
			return payloadError("member " + name + " is missing")
		}
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if exact {
		d.DisallowUnknownFields()
	}
	// encoding/json folds the case of names and takes the last of two; neither
	// can happen here, because memberNames has refused such names.
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrPayload, err)
	}
	return nil
}
