package main

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"levee/test/vectors"
)

// The reading that most cases begin with.
const (
	now     = int64(1729697327900)
	ts      = now - 78
	boot    = uint64(ts) - 60_000
	ramWeb1 = "melb/bank_server/metrics/ram/web-1"
	command = "melb/bank_server/control/command/monitor/m1"
	scaling = "melb/bank_server/status/scaling/lb-1"
	reading = `{"timestamp":1729697327.822,"server":"web-1","ram_usage":41.5}`

	skew       = 30_000
	macMember  = `,"mac":"`
	macPrefix  = "levee/envelope/v1\x00"
	signPrefix = "levee/signature/v1\x00"
)

// class is what policy says of a kind of topic.
type class struct {
	bytes  int
	signed bool
}

// classes are those of policies/default.yaml for the topics used here, by the
// levels after the site.
var classes = []struct {
	prefix string
	class
}{
	{"metrics/", class{4096, false}}, {"control/command/", class{32768, true}}, {"status/scaling/", class{8192, true}},
	{"statements/", class{32768, true}}, {"statement/", class{32768, true}}, {"backfill/", class{65536, false}}, {"acks/", class{4096, false}},
}

func classOf(topic string) class {
	_, rest, _ := strings.Cut(topic, "/bank_server/")
	for _, c := range classes {
		if strings.HasPrefix(rest, c.prefix) {
			return c.class
		}
	}
	panic("no class for " + topic)
}

// sender is who makes messages.
type sender struct {
	site, role, name string
	generation       uint32
}

func (s sender) String() string { return s.site + "/" + s.role + "/" + s.name }

func (s sender) kid() string { return fmt.Sprintf("%s/%d", s, s.generation) }

var (
	web1 = sender{"melb", "sensor", "web-1", 1}
	web2 = sender{"melb", "sensor", "web-2", 1}
	m1   = sender{"melb", "monitor", "m1", 1}
	lb1  = sender{"melb", "controller", "lb-1", 1}
	appr = sender{"melb", "approver", "approver", 1}
)

// siteKey is the one of docs/envelope.md, section 11.
var siteKey = []byte(strings.Repeat("\x2a", 32))

// derive is one step of section 6.
func derive(parent []byte, label string, fields ...string) []byte {
	info := label + "\x00"
	for _, f := range fields {
		info += string(byte(len(f))) + f
	}
	key, err := hkdf.Key(sha256.New, parent, []byte("levee/v1"), info, 32)
	if err != nil {
		panic(err) // 32 bytes are never too many
	}
	return key
}

func roleKey(site, role string) []byte { return derive(siteKey, "role", site, role) }

func (s sender) key() []byte {
	return derive(roleKey(s.site, s.role), "sender", s.name, fmt.Sprint(s.generation))
}

// message is a message before it is sealed.
type message struct {
	sender
	time    int64
	boot    uint64
	seq     uint64
	topic   string
	payload string
	signer  *signer
	secret  []byte // the key to seal with; nil: the sender's own
}

func (s sender) on(topic string) message {
	return message{sender: s, time: ts, boot: boot, seq: 1, topic: topic, payload: reading}
}

// A copy of the message with something else in one place.

func (m message) at(ms int64) message          { m.time = ms; return m }
func (m message) number(seq uint64) message    { m.seq = seq; return m }
func (m message) since(boot uint64) message    { m.boot = boot; return m }
func (m message) by(signer *signer) message    { m.signer = signer; return m }
func (m message) with(payload string) message  { m.payload = payload; return m }
func (m message) under(secret []byte) message  { m.secret = secret; return m }
func (m message) as(generation uint32) message { m.generation = generation; return m }

// member adds a member to the reading.
func (m message) member(text string) message {
	return m.with(strings.TrimSuffix(reading, "}") + "," + text + "}")
}

// value adds a member x with that value to the reading.
func (m message) value(text string) message { return m.member(`"x":` + text) }

func base64url[T string | []byte](b T) string { return base64.RawURLEncoding.EncodeToString([]byte(b)) }

// hexKeys returns melb's role keys as a receiver is given them.
func hexKeys(roles ...string) map[string]string {
	keys := make(map[string]string)
	for _, r := range roles {
		keys[r] = hex.EncodeToString(roleKey("melb", r))
	}
	return keys
}

// body returns the message without its MAC.
func (m message) body() string {
	b := fmt.Sprintf(`{"v":1,"kid":"%s","ts":%d,"nonce":"%011x-%d","topic":"%s"`, m.kid(), m.time, m.boot, m.seq, m.topic)
	if m.signer == nil {
		return b + `,"payload":` + m.payload
	}
	b += `,"chain":"` + m.signer.chain() + `","payload":` + m.payload
	return b + `,"sig":"` + base64url(m.signer.sign(signPrefix+b)) + `"`
}

func mac(key []byte, text string) string {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return base64url(h.Sum(nil))
}

// seal puts the MAC behind a body.
func (m message) seal(body string) string {
	key := m.secret
	if key == nil {
		key = m.sender.key()
	}
	return body + macMember + mac(key, macPrefix+body) + `"}`
}

func (m message) raw() string { return m.seal(m.body()) }

// edited returns the message with the one old in it replaced by new, and a MAC
// that is right.
func (m message) edited(old, new string) string { return m.seal(replace(m.body(), old, new)) }

func replace(s, old, new string) string {
	if strings.Count(s, old) != 1 {
		panic(fmt.Sprintf("%q does not stand once in %s", old, s))
	}
	return strings.Replace(s, old, new, 1)
}

// given is one message as a receiver gets it.
func given(publisher sender, topic, raw, expect string) vectors.Message {
	c := classOf(topic)
	return vectors.Message{Now: now, Topic: topic, Publisher: publisher.String(), MaxBytes: c.bytes, Signed: c.signed,
		Raw: []byte(raw), Expect: expect}
}

func (m message) given(expect string) vectors.Message {
	return given(m.sender, m.topic, m.raw(), expect)
}

// monitor is a receiver that holds the keys of sensors, monitors and
// controllers.
func monitor() vectors.Receiver {
	return vectors.Receiver{Site: "melb", Skew: skew, Keys: hexKeys("sensor", "monitor", "controller")}
}

// person is a receiver that holds no keys.
func person() vectors.Receiver { return vectors.Receiver{Site: "melb", Skew: skew} }

// reading adds a case of one reading of web-1.
func (s *set) reading(name, section, says, raw, expect string) {
	s.vector(name, section, says, monitor(), given(web1, ramWeb1, raw, expect))
}

// vector adds a case of the messages given.
func (s *set) vector(name, section, says string, r vectors.Receiver, messages ...vectors.Message) {
	s.add(vectors.Case{Name: name, Says: says, Section: section, Receiver: r, Messages: messages})
}
