package envelope

import "bytes"

// reader walks the fixed grammar: b is what is left. After the first mismatch
// ok is false and nothing is left, so that every further call is harmless.
type reader struct {
	b  []byte
	ok bool
}

func (r *reader) fail() { r.b, r.ok = nil, false }

func (r *reader) has(word string) bool {
	if len(r.b) < len(word) || string(r.b[:len(word)]) != word {
		return false
	}
	r.b = r.b[len(word):]
	return true
}

func (r *reader) literal(word string) {
	if !r.has(word) {
		r.fail()
	}
}

// quoted returns the bytes before the next quote, at most max of them, and
// stops at the quote.
func (r *reader) quoted(max int) []byte {
	n := bytes.IndexByte(r.b[:min(len(r.b), max+1)], '"')
	if n < 0 {
		r.fail()
		return nil
	}
	found := r.b[:n]
	r.b = r.b[n:]
	return found
}

func (r *reader) milliseconds() int64 {
	ms := r.decimal()
	if ms == 0 || ms > MaxTime {
		r.fail()
	}
	return int64(ms)
}

func (r *reader) nonce() Nonce {
	if len(r.b) < bootDigit {
		r.fail()
		return Nonce{}
	}
	b, ok := boot(r.b[:bootDigit])
	r.b = r.b[bootDigit:]
	r.literal("-")
	seq := r.decimal()
	if !ok || seq == 0 {
		r.fail()
	}
	return Nonce{Boot: b, Seq: seq}
}

// decimal reads the unsigned integer that begins here.
func (r *reader) decimal() uint64 {
	n, length := decimal(r.b)
	if length == 0 {
		r.fail()
		return 0
	}
	r.b = r.b[length:]
	return n
}

// decimal reads the unsigned integer below 2^64 with which b begins, in its one
// shortest spelling, and returns how many bytes that is: 0 if there is none.
func decimal(b []byte) (n uint64, length int) {
	for length < len(b) && length < 19 && b[length]-'0' <= 9 { // nineteen digits never overflow
		n = n*10 + uint64(b[length]-'0')
		length++
	}
	if length == 19 && length < len(b) && b[length]-'0' <= 9 {
		d := uint64(b[length] - '0')
		if n > (1<<64-1-d)/10 {
			return 0, 0
		}
		n = n*10 + d
		length++
		if length < len(b) && b[length]-'0' <= 9 {
			return 0, 0
		}
	}
	if length > 1 && b[0] == '0' {
		return 0, 0
	}
	return n, length
}

func boot(b []byte) (uint64, bool) {
	var n uint64
	for _, c := range b {
		switch {
		case c-'0' <= 9:
			n = n<<4 | uint64(c-'0')
		case c-'a' <= 5:
			n = n<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return n, n != 0
}

func appendBoot(b []byte, boot uint64) []byte {
	for shift := 4 * (bootDigit - 1); shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[boot>>shift&0xf])
	}
	return b
}
