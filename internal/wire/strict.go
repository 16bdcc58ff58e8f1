package wire

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"unicode/utf8"
)

// Bounds of a payload. They exist so that checking one costs no memory and at
// most a known time, whoever sent it.
const (
	MaxDepth   = 8  // objects and arrays within each other, the payload itself included
	MaxMembers = 64 // of one object
	maxMember  = 32 // bytes of a member's name
)

// ErrPayload is the class of every refusal of a payload. What exactly was
// wrong is in the text, for the operator's log only.
var ErrPayload = errors.New("payload refused")

var (
	errSyntax    = payloadError("not one JSON object without insignificant white space")
	errName      = payloadError("a member name is not [a-z0-9_]{1,32}")
	errDuplicate = payloadError("a member name stands twice in one object")
	errDepth     = payloadError("nested deeper than 8")
	errMembers   = payloadError("an object has more than 64 members")
	errString    = payloadError("a string is not valid UTF-8, or escapes what it may not")
	errNull      = payloadError("null stands for nothing here")
)

type payloadError string

func (e payloadError) Error() string { return "payload refused: " + string(e) }
func (e payloadError) Unwrap() error { return ErrPayload }

// CheckObject reports whether b is exactly one JSON object (RFC 8259) in the
// strict form that every parser reads alike: no white space between tokens, no
// null, member names of "[a-z0-9_]{1,32}" without escapes and without
// duplicates, valid UTF-8, no escaped NUL and no lone surrogate, at most
// MaxDepth levels and MaxMembers members of each object. It does not allocate.
func CheckObject(b []byte) error {
	return check(b, nil)
}

// memberNames appends the names of the outermost object's members.
func memberNames(b []byte, names []string) ([]string, error) {
	err := check(b, func(name []byte) { names = append(names, string(name)) })
	return names, err
}

func check(b []byte, each func(name []byte)) error {
	end, err := object(b, 0, 1, each)
	if err == nil && end != len(b) {
		return errSyntax
	}
	return err
}

// The functions below read what begins at b[i] and return where it ends.

// object reads one object. each, unless nil, is told the names of its members.
func object(b []byte, i, depth int, each func(name []byte)) (int, error) {
	if depth > MaxDepth {
		return 0, errDepth
	}
	if i >= len(b) || b[i] != '{' {
		return 0, errSyntax
	}
	i++
	if i < len(b) && b[i] == '}' {
		return i + 1, nil
	}
	// A set bit of names says that a name like this one may have been seen;
	// only then are those at starts compared. Most objects never do.
	var starts [MaxMembers]int32
	var names uint64
	for n := 0; n < MaxMembers; n++ {
		if i >= len(b) || b[i] != '"' {
			return 0, errSyntax
		}
		i++
		from := i
		for i < len(b) && nameBytes[b[i]] {
			i++
		}
		if i == from || i-from > maxMember || i+1 >= len(b) || b[i] != '"' {
			return 0, errName
		}
		name := b[from:i]
		if b[i+1] != ':' {
			return 0, errSyntax
		}
		i += 2
		last := len(name) - 1
		bit := uint64(1) << ((uint(name[0]) + 5*uint(name[last]) + 23*uint(last)) % 64)
		if names&bit != 0 && seen(b, starts[:n], name) {
			return 0, errDuplicate
		}
		names |= bit
		starts[n] = int32(from)
		if each != nil {
			each(name)
		}
		end, err := value(b, i, depth)
		if err != nil {
			return 0, err
		}
		if end == len(b) {
			return 0, errSyntax
		}
		i = end + 1
		switch b[end] {
		case ',':
		case '}':
			return i, nil
		default:
			return 0, errSyntax
		}
	}
	return 0, errMembers
}

// seen reports whether a name that begins at one of starts is name.
func seen(b []byte, starts []int32, name []byte) bool {
	for _, start := range starts {
		end := int(start) + len(name)
		if b[end] == '"' && string(b[start:end]) == string(name) {
			return true
		}
	}
	return false
}

func value(b []byte, i, depth int) (int, error) {
	if i >= len(b) {
		return 0, errSyntax
	}
	switch c := b[i]; {
	case c == '"':
		return str(b, i)
	case c-'0' <= 9 || c == '-':
		return number(b, i)
	case c == '{':
		return object(b, i, depth+1, nil)
	case c == '[':
		return array(b, i, depth+1)
	case c == 't':
		return literal(b, i, "true")
	case c == 'f':
		return literal(b, i, "false")
	case c == 'n':
		return 0, errNull
	default:
		return 0, errSyntax
	}
}

func literal(b []byte, i int, word string) (int, error) {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return 0, errSyntax
	}
	return i + len(word), nil
}

func array(b []byte, i, depth int) (int, error) {
	if depth > MaxDepth {
		return 0, errDepth
	}
	i++ // the bracket that the caller saw
	if i < len(b) && b[i] == ']' {
		return i + 1, nil
	}
	for {
		end, err := value(b, i, depth)
		if err != nil {
			return 0, err
		}
		if end == len(b) {
			return 0, errSyntax
		}
		i = end + 1
		switch b[end] {
		case ',':
		case ']':
			return i, nil
		default:
			return 0, errSyntax
		}
	}
}

// number reads RFC 8259, section 6.
func number(b []byte, i int) (int, error) {
	if b[i] == '-' { // the caller saw this byte
		i++
	}
	whole := digits(b, i)
	if whole == i || b[i] == '0' && whole != i+1 {
		return 0, errSyntax
	}
	i = whole
	if i < len(b) && b[i] == '.' {
		fraction := digits(b, i+1)
		if fraction == i+1 {
			return 0, errSyntax
		}
		i = fraction
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		exponent := digits(b, i)
		if exponent == i {
			return 0, errSyntax
		}
		i = exponent
	}
	return i, nil
}

func digits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' <= 9 {
		i++
	}
	return i
}

// str reads RFC 8259, section 7, with valid UTF-8 and paired surrogates.
func str(b []byte, i int) (int, error) {
	i++ // the quote that the caller saw
	for {
		i = plain(b, i)
		if i == len(b) {
			return 0, errSyntax
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, nil
		case c == '\\':
			end, err := escape(b, i)
			if err != nil {
				return 0, err
			}
			i = end
		case c < 0x20:
			return 0, errString
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n == 1 {
				return 0, errString
			}
			i += n
		}
	}
}

// plain walks over the bytes of a string that need no further look: ASCII but
// the quote, the backslash and what is below space. It takes eight at a time.
func plain(b []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; len(b)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, slash := w^(ones*'"'), w^(ones*'\\')
		// The lowest bit that is set is right; those above it may be there by
		// a borrow.
		special := (w | (w-ones*0x20)&^w | (quote-ones)&^quote | (slash-ones)&^slash) & highs
		if special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= 0x20 && b[i] < utf8.RuneSelf {
		i++
	}
	return i
}

func escape(b []byte, i int) (int, error) {
	i++ // the backslash
	if i == len(b) {
		return 0, errString
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1, nil
	case 'u':
		code, ok := unit(b, i)
		if !ok || code == 0 || code >= 0xdc00 && code <= 0xdfff {
			return 0, errString
		}
		i += unitLength
		if code < 0xd800 || code > 0xdbff {
			return i, nil
		}
		if len(b)-i < 2 || b[i] != '\\' || b[i+1] != 'u' {
			return 0, errString
		}
		i++
		low, ok := unit(b, i)
		if !ok || low < 0xdc00 || low > 0xdfff {
			return 0, errString
		}
		return i + unitLength, nil
	default:
		return 0, errString
	}
}

// unitLength is a u and four hexadecimal digits.
const unitLength = 5

func unit(b []byte, i int) (code uint16, ok bool) {
	if len(b)-i < unitLength {
		return 0, false
	}
	for _, c := range b[i+1 : i+unitLength] {
		switch {
		case c-'0' <= 9:
			c -= '0'
		case (c|0x20)-'a' <= 5:
			c = (c | 0x20) - 'a' + 10
		default:
			return 0, false
		}
		code = code<<4 | uint16(c)
	}
	return code, true
}

// nameBytes are those of a member's name.
var nameBytes = bytesOf("abcdefghijklmnopqrstuvwxyz0123456789_")

func bytesOf(s string) (set [256]bool) {
	for i := range len(s) {
		set[s[i]] = true
	}
	return set
}
