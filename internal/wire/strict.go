package wire

import (
	"errors"
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
	s := scanner{b: b}
	if err := s.object(1, nil); err != nil {
		return err
	}
	if s.i != len(b) {
		return errSyntax
	}
	return nil
}

// memberNames appends the names of the outermost object's members.
func memberNames(b []byte, names []string) ([]string, error) {
	s := scanner{b: b}
	err := s.object(1, func(name []byte) { names = append(names, string(name)) })
	if err == nil && s.i != len(b) {
		err = errSyntax
	}
	return names, err
}

type scanner struct {
	b []byte
	i int
}

type span struct{ from, to int32 }

func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

// object reads one object. each, unless nil, is told the names of its members.
func (s *scanner) object(depth int, each func(name []byte)) error {
	if depth > MaxDepth {
		return errDepth
	}
	if !s.take('{') {
		return errSyntax
	}
	if s.take('}') {
		return nil
	}
	var seen [MaxMembers]span
	for n := 0; ; n++ {
		if n == MaxMembers {
			return errMembers
		}
		name, err := s.name()
		if err != nil {
			return err
		}
		for _, other := range seen[:n] {
			if string(s.b[other.from:other.to]) == string(name) {
				return errDuplicate
			}
		}
		seen[n] = span{from: int32(s.i - len(name) - 2), to: int32(s.i - 2)}
		if each != nil {
			each(name)
		}
		if err := s.value(depth); err != nil {
			return err
		}
		if s.take('}') {
			return nil
		}
		if !s.take(',') {
			return errSyntax
		}
	}
}

// name reads a member's name, its quotes and the colon after it.
func (s *scanner) name() ([]byte, error) {
	if !s.take('"') {
		return nil, errSyntax
	}
	from := s.i
	for s.i < len(s.b) && s.i-from <= maxMember {
		c := s.b[s.i]
		if c == '"' {
			break
		}
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return nil, errName
		}
		s.i++
	}
	name := s.b[from:s.i]
	if len(name) == 0 || len(name) > maxMember {
		return nil, errName
	}
	if !s.take('"') || !s.take(':') {
		return nil, errSyntax
	}
	return name, nil
}

func (s *scanner) value(depth int) error {
	switch c := s.peek(); {
	case c == '{':
		return s.object(depth+1, nil)
	case c == '[':
		return s.array(depth + 1)
	case c == '"':
		return s.str()
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return errNull
	default:
		return errSyntax
	}
}

func (s *scanner) literal(word string) error {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return errSyntax
	}
	s.i += len(word)
	return nil
}

func (s *scanner) array(depth int) error {
	if depth > MaxDepth {
		return errDepth
	}
	s.i++ // the bracket that the caller saw
	if s.take(']') {
		return nil
	}
	for {
		if err := s.value(depth); err != nil {
			return err
		}
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return errSyntax
		}
	}
}

func (s *scanner) digits() bool {
	from := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > from
}

// number reads RFC 8259, section 6.
func (s *scanner) number() error {
	s.take('-')
	if !s.take('0') && !s.digits() {
		return errSyntax
	}
	if s.take('.') && !s.digits() {
		return errSyntax
	}
	if s.take('e') || s.take('E') {
		if !s.take('+') {
			s.take('-')
		}
		if !s.digits() {
			return errSyntax
		}
	}
	return nil
}

// str reads RFC 8259, section 7, with valid UTF-8 and paired surrogates.
func (s *scanner) str() error {
	s.i++ // the quote that the caller saw
	for s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case c == '"':
			s.i++
			return nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		case c < 0x20:
			return errString
		case c < utf8.RuneSelf:
			s.i++
		default:
			r, n := utf8.DecodeRune(s.b[s.i:])
			if r == utf8.RuneError && n == 1 {
				return errString
			}
			s.i += n
		}
	}
	return errSyntax
}

func (s *scanner) escape() error {
	s.i++ // the backslash
	switch c := s.peek(); c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i++
		return nil
	case 'u':
		unit, ok := s.unit()
		if !ok || unit == 0 || unit >= 0xdc00 && unit <= 0xdfff {
			return errString
		}
		if unit < 0xd800 || unit > 0xdbff {
			return nil
		}
		if !s.take('\\') || s.peek() != 'u' {
			return errString
		}
		low, ok := s.unit()
		if !ok || low < 0xdc00 || low > 0xdfff {
			return errString
		}
		return nil
	default:
		return errString
	}
}

// unit reads the u and the four hexadecimal digits of an escape.
func (s *scanner) unit() (uint16, bool) {
	s.i++
	if len(s.b)-s.i < 4 {
		return 0, false
	}
	var unit uint16
	for range 4 {
		c := s.b[s.i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		unit = unit<<4 | uint16(c)
		s.i++
	}
	return unit, true
}
