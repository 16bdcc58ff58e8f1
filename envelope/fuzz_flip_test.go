package envelope_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"

	"levee/envelope"
)

// source turns fuzz bytes into choices; when they run out, every choice is 0.
type source struct{ b []byte }

func (s *source) below(n uint64) uint64 {
	var v uint64
	for m := n - 1; m > 0; m >>= 8 {
		var c byte
		if len(s.b) > 0 {
			c, s.b = s.b[0], s.b[1:]
		}
		v = v<<8 | uint64(c)
	}
	if n == 0 { // all 64 bits
		return v
	}
	return v % n
}

func pick[T any](s *source, of ...T) T { return of[s.below(uint64(len(of)))] }

// word has low to high characters of an alphabet.
func (s *source) word(alphabet string, low, high uint64) string {
	b := make([]byte, low+s.below(high-low+1))
	for i := range b {
		b[i] = alphabet[s.below(uint64(len(alphabet)))]
	}
	return string(b)
}

const (
	letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	digits  = "0123456789"
)

func (s *source) name() string {
	return s.word(letters, 1, 1) + pick(s, "", s.word(letters+"-", 0, 22)+s.word(letters, 1, 1))
}

// number is within low to high, and often at an end.
func (s *source) number(low, high uint64) uint64 {
	return pick(s, low, low+s.below(high-low+1), high)
}

func (s *source) header() envelope.Header {
	h := envelope.Header{
		KeyID: envelope.KeyID{Site: s.name(), Role: s.name(), Name: s.name(), Generation: uint32(s.number(1, 1<<32-1))},
		Time:  int64(s.number(1, envelope.MaxTime)),
		Nonce: envelope.Nonce{Boot: s.number(1, 1<<44-1), Seq: s.number(1, 1<<64-1)},
		Topic: s.word(letters+"_-", 1, 32),
	}
	if h.KeyID.Site == "public" || h.KeyID.Site == "ops" {
		h.KeyID.Site += "-1"
	}
	for range s.below(8) {
		if level := "/" + s.word(letters+"_-", 1, 32); len(h.Topic)+len(level) <= 200 {
			h.Topic += level
		}
	}
	return h
}

// object appends a strict object of the level depth.
func (s *source) object(b []byte, depth int) []byte {
	b = append(b, '{')
	var names []string
	for i := range pick(s, s.below(4), s.below(4), s.below(65)) {
		name := s.word(letters+"_", 1, 32)
		if slices.Contains(names, name) || len(b) > 512 {
			break
		}
		if names = append(names, name); i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `"%s":`, name)
		b = s.value(b, depth)
	}
	return append(b, '}')
}

func (s *source) value(b []byte, depth int) []byte {
	switch kind := s.below(8); {
	case kind == 0 && depth < 8:
		return s.object(b, depth+1)
	case kind == 1 && depth < 8:
		b = append(b, '[')
		for i := range s.below(5) {
			if len(b) > 512 {
				break
			}
			if i > 0 {
				b = append(b, ',')
			}
			b = s.value(b, depth+1)
		}
		return append(b, ']')
	case kind == 2:
		return append(b, pick(s, "true", "false")...)
	case kind < 5:
		b = append(b, pick(s, "", "-")...)
		b = append(b, pick(s, "0", pick(s, "1", "9")+s.word(digits, 0, 20))...)
		b = append(b, pick(s, "", "."+s.word(digits, 1, 5))...)
		return append(b, pick(s, "", pick(s, "e", "E")+pick(s, "", "+", "-")+s.word(digits, 1, 3))...)
	default:
		b = append(b, '"')
		for range s.below(24) {
			plain := string(rune(0x20 + s.below(0x7f-0x20)))
			if plain == `"` || plain == `\` {
				plain = `\` + plain
			}
			b = append(b, pick(s, plain, plain, plain, `\/`, `\b`, `\f`, `\n`, `\r`, `\t`, `\u0001`, `\uFFFD`, `\ud83d\uDE00`, "é", "€", "\U0001f600", "\ufffd", "\x7f")...)
		}
		return append(b, '"')
	}
}

// rejectsEveryChange fails if open takes raw with a bit flipped, any beginning
// of it, or with any byte behind or before it. It flips as many bits of each
// byte as bits says: signatures take long to verify.
func rejectsEveryChange(t *testing.T, raw []byte, bits int, open func([]byte) error) {
	t.Helper()
	if err := open(raw); err != nil {
		t.Fatalf("%s: %q", envelope.ReasonOf(err).String(), raw)
	}
	changed := bytes.Clone(raw)
	for i := range raw {
		for bit := range bits {
			changed[i] ^= 1 << ((i + bit) % 8)
			if open(changed) == nil {
				t.Fatalf("accepted with a bit of byte %d flipped: %q", i, changed)
			}
			changed[i] = raw[i]
		}
		if open(raw[:i]) == nil {
			t.Fatalf("accepted the first %d bytes of %q", i, raw)
		}
	}
	for c := range 256 {
		if open(append(bytes.Clone(raw), byte(c))) == nil || open(append([]byte{byte(c)}, raw...)) == nil {
			t.Fatalf("accepted with the byte %#x behind or before it: %q", c, raw)
		}
	}
}

// FuzzFlip makes valid messages out of the bytes. They come back as they went
// in, under the MAC of the standard library, and no bit of them is free.
func FuzzFlip(f *testing.F) {
	a := newAuthority(f)
	signer := a.signer(f, "sensor", "web-1", ed25519Key(f))
	for i, m := range corpus(f) {
		if i%8 == 0 { // as bytes to choose by, all are much alike
			f.Add(m.Raw[:min(len(m.Raw), 256)], fuzzSecret, false)
		}
	}
	for i := range 32 {
		f.Add(bytes.Repeat([]byte{byte(i), byte(17 * i), byte(40 + i*i)}, 8*i), bytes.Repeat([]byte{byte(i)}, i), i%8 == 7)
	}
	f.Fuzz(func(t *testing.T, b, secret []byte, sign bool) {
		s := &source{b}
		h := s.header()
		payload := s.object(nil, 1)
		secret = append(bytes.Clone(secret), make([]byte, envelope.KeySize)...)[:envelope.KeySize]
		key, err := envelope.NewKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		by := signer
		if !sign {
			by = nil
		}
		raw := seal(t, h, payload, key, by)
		if !bytes.Equal(raw, sealedAgain(secret, raw)) {
			t.Fatalf("another MAC than that of the standard library: %q", raw)
		}
		m, err := envelope.Open(raw, len(raw), find(key))
		judge(t, m, err, raw, len(raw), false)
		if m.KeyID() != h.KeyID || m.Time != h.Time || m.Nonce != h.Nonce || string(m.Topic) != h.Topic || !bytes.Equal(m.Payload, payload) || m.Signed() != sign {
			t.Fatalf("sealed %+v with %s, opened %+v", h, payload, m)
		}
		rejectsEveryChange(t, raw, 8, func(raw []byte) error {
			_, err := envelope.Open(raw, envelope.MaxMessage, find(key))
			return err
		})
	})
}

// statementHeader is exampleHeader with the one nonce that a statement of its
// time has.
var statementHeader = envelope.Header{KeyID: exampleHeader.KeyID, Time: exampleHeader.Time, Topic: "melb/bank_server/statement/request",
	Nonce: envelope.Nonce{Boot: uint64(exampleHeader.Time), Seq: 1}}

// No bit of a message is free: with the key, and for whoever holds none, none
// of what the signature covers.
func TestEveryBitFlipAndTruncationIsRejected(t *testing.T) {
	key, private := newKey(t, 0x2a), ed25519Key(t)
	signer := newAuthority(t).signer(t, "sensor", "web-1", private)
	unsigned, signed := seal(t, exampleHeader, examplePayload, key, nil), seal(t, exampleHeader, examplePayload, key, signer)
	for _, raw := range [][]byte{unsigned, signed} {
		rejectsEveryChange(t, raw, 8, func(raw []byte) error {
			_, err := envelope.Open(raw, envelope.MaxMessage, find(key))
			return err
		})
	}
	h := exampleHeader
	h.Nonce = envelope.StatementNonce(h.Time)
	statement, err := envelope.AppendStatement(nil, h, examplePayload, signer)
	if err != nil {
		t.Fatal(err)
	}
	check := func(m envelope.Message, err error) error {
		if err == nil {
			err = m.CheckSignature(private.Public().(ed25519.PublicKey))
		}
		return err
	}
	rejectsEveryChange(t, statement, 1, func(raw []byte) error { return check(envelope.ParseStatement(raw, envelope.MaxMessage)) })
	tail := signed[len(signed)-53:] // whose 43 characters are for the key's holder alone
	rejectsEveryChange(t, signed[:len(signed)-53], 1, func(body []byte) error {
		return check(envelope.Parse(append(bytes.Clone(body), tail...), envelope.MaxMessage))
	})
}

// Every byte value in every place of a message is judged as the page says.
func TestEveryByteInEveryPlace(t *testing.T) {
	key := newKey(t, 0x2a)
	h := envelope.Header{KeyID: envelope.KeyID{Site: "m", Role: "sensor", Name: "w-1", Generation: 10}, Time: 1,
		Nonce: envelope.Nonce{Boot: 0x192b9fdc06e, Seq: 1<<64 - 1}, Topic: "m/a_b-c/1"}
	raw := seal(t, h, []byte(`{"a":"b"}`), key, nil)
	for i := range raw {
		changed := bytes.Clone(raw)
		for c := range 256 {
			changed[i] = byte(c)
			m, err := envelope.Parse(changed, envelope.MaxMessage)
			judge(t, m, err, changed, envelope.MaxMessage, false)
		}
	}
}
