package envelope

import (
	"bytes"
	"math"
	"strconv"

	"levee/internal/wire"
	"levee/pki"
)

// Bounds of a whole message in bytes.
const (
	MaxMessage  = 32 << 10
	MaxBackfill = 64 << 10
)

// MaxTime is the largest ts, 2^53-1: what every JSON parser holds exactly.
const MaxTime = 1<<53 - 1

const (
	macLength = 43
	sigLength = 86
	bootDigit = 11

	beginning = `{"v":1,"kid":"`
	macMember = `,"mac":"`
	sigMember = `,"sig":"`
	macTail   = len(macMember) + macLength + len(`"}`)
	sigTail   = len(sigMember) + sigLength + len(`"`)
)

// KeyID names a sender and the generation of its key.
type KeyID struct {
	Site, Role, Name string
	Generation       uint32
}

// String returns "site/role/name/generation".
func (k KeyID) String() string {
	return k.Sender() + "/" + strconv.FormatUint(uint64(k.Generation), 10)
}

// Sender returns "site/role/name".
func (k KeyID) Sender() string { return k.Site + "/" + k.Role + "/" + k.Name }

// ParseKeyID accepts exactly what String produces: a valid site, a role word,
// a valid name, and a generation of 1 to 2^32-1.
func ParseKeyID(b []byte) (KeyID, error) {
	var part [4][]byte
	rest := b
	for i := range 3 {
		slash := bytes.IndexByte(rest, '/')
		if slash < 0 {
			return KeyID{}, BadKeyID
		}
		part[i], rest = rest[:slash], rest[slash+1:]
	}
	generation, ok := decimal(rest)
	if !ok || generation == 0 || generation > math.MaxUint32 {
		return KeyID{}, BadKeyID
	}
	k := KeyID{Site: string(part[0]), Role: string(part[1]), Name: string(part[2]), Generation: uint32(generation)}
	if !pki.ValidSite(k.Site) || !pki.ValidName(k.Role) || !pki.ValidName(k.Name) {
		return KeyID{}, BadKeyID
	}
	return k, nil
}

// Nonce is a sender's start (ms since the epoch, raised at each start) and the
// message's number since then, from 1.
type Nonce struct{ Boot, Seq uint64 }

// FormatBoot spells a boot as in the nonce: 11 lower-case hexadecimal digits.
func FormatBoot(boot uint64) string { return string(appendBoot(nil, boot)) }

// ParseBoot is the inverse of FormatBoot.
func ParseBoot(s string) (uint64, bool) {
	if len(s) != bootDigit {
		return 0, false
	}
	return boot([]byte(s))
}

// Message is a parsed envelope. Its slices are views into Raw.
type Message struct {
	Raw     []byte // the whole envelope
	KID     []byte // site/role/name/generation
	Time    int64  // ts, ms since the epoch
	Nonce   Nonce
	Topic   []byte
	Chain   []byte // base64url of leaf and issuer, nil if unsigned
	Payload []byte // a strict JSON object
	Sig     []byte // base64url, nil if unsigned
	MAC     []byte // base64url; nil in a statement
}

// Signed reports whether the message carries a signature. It says nothing of
// whether that signature is good.
func (m *Message) Signed() bool { return m.Sig != nil }

// Sender returns "site/role/name" as a view of KID.
func (m *Message) Sender() []byte { return m.KID[:bytes.LastIndexByte(m.KID, '/')] }

// KeyID returns the parsed kid.
func (m *Message) KeyID() KeyID {
	k, err := ParseKeyID(m.KID)
	if err != nil { // Parse has accepted this kid
		return KeyID{}
	}
	return k
}

// Tag returns the part of the MAC that a replay window keeps.
func (m *Message) Tag() (tag [8]byte) {
	copy(tag[:], m.MAC)
	return tag
}

// signedBytes returns what the signature covers, without its prefix.
func (m *Message) signedBytes() []byte {
	end := len(m.Raw) - sigTail
	if m.MAC != nil {
		end -= macTail
	} else {
		end -= len(`}`)
	}
	return m.Raw[:end]
}

// ScanKeyID finds kid at its fixed place without reading anything else. It is
// the only thing read before the MAC is checked. An error has the reason
// BadSize or BadKeyID.
func ScanKeyID(raw []byte) ([]byte, error) {
	if len(raw) < len(beginning)+macTail {
		return nil, BadSize
	}
	if string(raw[:len(beginning)]) != beginning {
		return nil, BadKeyID
	}
	rest := raw[len(beginning):]
	quote := bytes.IndexByte(rest[:min(len(rest), 96)], '"')
	if quote < 0 || !validKeyID(rest[:quote]) {
		return nil, BadKeyID
	}
	return rest[:quote], nil
}

// validKeyID is ParseKeyID without allocating.
func validKeyID(b []byte) bool {
	slashes, from := 0, 0
	for i, c := range b {
		switch {
		case c == '/':
			if i == from || i-from > 24 || b[from] == '-' || b[i-1] == '-' || slashes == 3 {
				return false
			}
			slashes, from = slashes+1, i+1
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
		default:
			return false
		}
	}
	generation, ok := decimal(b[from:])
	if slashes != 3 || !ok || generation == 0 || generation > math.MaxUint32 {
		return false
	}
	site := b[:bytes.IndexByte(b, '/')]
	return string(site) != "public" && string(site) != "ops"
}

// Parse reads the grammar of a message that carries a MAC, which it does not
// check, and the strictness of its payload. max bounds its size in bytes.
func Parse(raw []byte, max int) (Message, error) {
	if len(raw) > max {
		return Message{}, BadSize
	}
	kid, err := ScanKeyID(raw)
	if err != nil {
		return Message{}, err
	}
	return parse(raw, kid, true)
}

// ParseStatement reads a statement that is not published by itself: the same
// grammar without mac, always signed.
func ParseStatement(raw []byte, max int) (Message, error) {
	if len(raw) > max {
		return Message{}, BadSize
	}
	kid, err := ScanKeyID(raw)
	if err != nil {
		return Message{}, err
	}
	m, err := parse(raw, kid, false)
	if err == nil && !m.Signed() {
		return Message{}, Unsigned
	}
	return m, err
}

func parse(raw, kid []byte, sealed bool) (Message, error) {
	m := Message{Raw: raw, KID: kid}
	body := raw[:len(raw)-1]
	if raw[len(raw)-1] != '}' {
		return Message{}, BadGrammar
	}
	if sealed {
		tail := raw[len(raw)-macTail:]
		m.MAC = tail[len(macMember) : len(macMember)+macLength]
		if string(tail[:len(macMember)]) != macMember || string(tail[len(tail)-2:]) != `"}` || !base64url(m.MAC) {
			return Message{}, BadGrammar
		}
		body = raw[:len(raw)-macTail]
	}
	r := reader{b: body, i: len(beginning) + len(kid), ok: true}
	r.literal(`","ts":`)
	m.Time = r.milliseconds()
	r.literal(`,"nonce":"`)
	m.Nonce = r.nonce()
	r.literal(`","topic":"`)
	m.Topic = r.until('"', wire.MaxTopic)
	r.literal(`"`)
	if r.has(`,"chain":"`) {
		m.Chain = r.until('"', MaxMessage)
		r.literal(`"`)
	}
	r.literal(`,"payload":`)
	if !r.ok || !wire.ValidTopic(m.Topic) {
		return Message{}, BadGrammar
	}
	m.Payload = r.b[r.i:]
	if m.Chain != nil {
		if len(m.Chain) == 0 || !base64url(m.Chain) || len(m.Payload) < sigTail {
			return Message{}, BadGrammar
		}
		tail := m.Payload[len(m.Payload)-sigTail:]
		m.Sig = tail[len(sigMember) : len(sigMember)+sigLength]
		if string(tail[:len(sigMember)]) != sigMember || tail[len(tail)-1] != '"' || !base64url(m.Sig) {
			return Message{}, BadGrammar
		}
		m.Payload = m.Payload[:len(m.Payload)-sigTail]
	}
	if wire.CheckObject(m.Payload) != nil {
		return Message{}, BadPayload
	}
	return m, nil
}
