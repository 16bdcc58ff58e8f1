package envelope

// reader walks the fixed grammar. After the first mismatch ok stays false and
// every further call is harmless.
type reader struct {
	b  []byte
	i  int
	ok bool
}

func (r *reader) has(word string) bool {
	if !r.ok || len(r.b)-r.i < len(word) || string(r.b[r.i:r.i+len(word)]) != word {
		return false
	}
	r.i += len(word)
	return true
}

func (r *reader) literal(word string) {
	if !r.has(word) {
		r.ok = false
	}
}

// until returns the bytes before c, at most max of them, and stops at c.
func (r *reader) until(c byte, max int) []byte {
	from := r.i
	for r.ok && r.i < len(r.b) && r.i-from <= max {
		if r.b[r.i] == c {
			return r.b[from:r.i]
		}
		r.i++
	}
	r.ok = false
	return nil
}

func (r *reader) milliseconds() int64 {
	ms, ok := decimal(r.digits())
	if !ok || ms > MaxTime {
		r.ok = false
	}
	return int64(ms)
}

func (r *reader) digits() []byte {
	from := r.i
	for r.ok && r.i < len(r.b) && r.b[r.i] >= '0' && r.b[r.i] <= '9' {
		r.i++
	}
	return r.b[from:r.i]
}

func (r *reader) nonce() Nonce {
	if !r.ok || len(r.b)-r.i < bootDigit+1 {
		r.ok = false
		return Nonce{}
	}
	b, ok := boot(r.b[r.i : r.i+bootDigit])
	r.i += bootDigit
	r.literal("-")
	seq, fine := decimal(r.digits())
	if !ok || !fine || seq == 0 {
		r.ok = false
	}
	return Nonce{Boot: b, Seq: seq}
}

// decimal reads an unsigned integer in its one shortest spelling.
func decimal(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 20 || b[0] == '0' && len(b) > 1 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := uint64(c - '0')
		if n > (1<<64-1-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

func boot(b []byte) (uint64, bool) {
	var n uint64
	for _, c := range b {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
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

// base64url reports whether b is unpadded base64url (RFC 4648, section 5) in
// its one canonical spelling: the bits after the last whole byte are zero.
func base64url(b []byte) bool {
	last := byte(0)
	for _, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			last = c - 'A'
		case c >= 'a' && c <= 'z':
			last = c - 'a' + 26
		case c >= '0' && c <= '9':
			last = c - '0' + 52
		case c == '-':
			last = 62
		case c == '_':
			last = 63
		default:
			return false
		}
	}
	switch len(b) % 4 {
	case 0:
		return true
	case 2:
		return last&0xf == 0
	case 3:
		return last&0x3 == 0
	default:
		return false
	}
}
