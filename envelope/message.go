package envelope

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"levee/internal/wire"
)

// Bounds of a whole message in bytes.
const (
	MaxMessage  = 32 << 10
	MaxBackfill = 64 << 10
)

// MaxTime is the largest ts, 2^53-1: what every JSON parser holds exactly. The
// smallest is 1.
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
	generation, length := scanKeyID(b)
	if length == 0 || length != len(b) {
		return KeyID{}, BadKeyID
	}
	site, rest, _ := strings.Cut(string(b), "/")
	role, rest, _ := strings.Cut(rest, "/")
	name, _, _ := strings.Cut(rest, "/")
	return KeyID{Site: site, Role: role, Name: name, Generation: uint32(generation)}, nil
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
	_, length := scanKeyID(rest)
	if length == 0 || length == len(rest) || rest[length] != '"' {
		return nil, BadKeyID
	}
	return rest[:length], nil
}

// nameBytes are those of a name.
var nameBytes = func() (set [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyz0123456789-") {
		set[c] = true
	}
	return set
}()

// scanKeyID reads the key identifier with which b begins and returns its
// generation and how many bytes it is: 0 if there is none.
func scanKeyID(b []byte) (generation uint64, length int) {
	i := 0
	for part := range 3 { // site, role, name
		from := i
		for i < len(b) && nameBytes[b[i]] {
			i++
		}
		switch {
		case i == len(b) || b[i] != '/', i == from || i-from > 24, b[from] == '-' || b[i-1] == '-':
			return 0, 0
		case part == 0 && (string(b[:i]) == "public" || string(b[:i]) == "ops"):
			return 0, 0
		}
		i++
	}
	generation, digits := decimal(b[i:])
	if digits == 0 || generation == 0 || generation > math.MaxUint32 {
		return 0, 0
	}
	return generation, i + digits
}

// Parse reads the grammar of a message that carries a MAC, which it does not
// check, and the strictness of its payload. max bounds its size in bytes.
func Parse(raw []byte, max int) (m Message, err error) {
	if len(raw) > max {
		return Message{}, BadSize
	}
	kid, err := ScanKeyID(raw)
	if err != nil {
		return Message{}, err
	}
	if !sealed(raw) || !base64url(macOf(raw)) {
		return Message{}, BadGrammar
	}
	if reason := m.parse(raw, kid, true); reason != Accepted {
		return Message{}, reason
	}
	return m, nil
}

// sealed reports whether raw ends in the member mac, whatever that holds. raw
// has passed ScanKeyID.
func sealed(raw []byte) bool {
	tail := raw[len(raw)-macTail:]
	return string(tail[:len(macMember)]) == macMember && string(tail[macTail-2:]) == `"}`
}

// macOf returns the 43 characters of a message for which sealed is true.
func macOf(raw []byte) []byte { return raw[len(raw)-macLength-2 : len(raw)-2] }

// ParseStatement reads a statement that is not published by itself: the same
// grammar without mac, always signed.
func ParseStatement(raw []byte, max int) (m Message, err error) {
	if len(raw) > max {
		return Message{}, BadSize
	}
	kid, err := ScanKeyID(raw)
	if err != nil {
		return Message{}, err
	}
	if raw[len(raw)-1] != '}' {
		return Message{}, BadGrammar
	}
	if reason := m.parse(raw, kid, false); reason != Accepted {
		return Message{}, reason
	}
	return m, nil
}

// parse reads everything behind kid into m, which is worth nothing unless it
// answers Accepted. The caller has checked how raw ends.
func (m *Message) parse(raw, kid []byte, carriesMAC bool) Reason {
	m.Raw, m.KID = raw, kid
	body := raw[:len(raw)-1]
	if carriesMAC {
		m.MAC = macOf(raw)
		body = raw[:len(raw)-macTail]
	}
	// kid holds no comma and no brace, so it ends before whatever ends body.
	r := reader{b: body[len(beginning)+len(kid):], ok: true}
	r.literal(`","ts":`)
	m.Time = r.milliseconds()
	r.literal(`,"nonce":"`)
	m.Nonce = r.nonce()
	r.literal(`","topic":"`)
	m.Topic = r.quoted(wire.MaxTopic)
	if r.has(`","chain":"`) {
		m.Chain = r.quoted(maxChain)
	}
	r.literal(`","payload":`)
	if !r.ok || !wire.ValidTopic(m.Topic) || !carriesMAC && !m.statement() {
		return BadGrammar
	}
	m.Payload = r.b
	if m.Chain != nil {
		if len(m.Chain) == 0 || !base64url(m.Chain) || len(m.Payload) < sigTail {
			return BadGrammar
		}
		tail := m.Payload[len(m.Payload)-sigTail:]
		m.Sig = tail[len(sigMember) : len(sigMember)+sigLength]
		if string(tail[:len(sigMember)]) != sigMember || tail[len(tail)-1] != '"' || !base64url(m.Sig) {
			return BadGrammar
		}
		m.Payload = m.Payload[:len(m.Payload)-sigTail]
	}
	if wire.CheckObject(m.Payload) != nil {
		return BadPayload
	}
	return Accepted
}
