package envelope_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"levee/envelope"
	"levee/internal/wire"
	"levee/test/vectors"
)

// corpus returns the messages of the test vectors. They are embedded: without
// them, nothing here compiles or passes.
func corpus(t testing.TB) []vectors.Message {
	t.Helper()
	cases, err := vectors.All()
	if err != nil {
		t.Fatal(err)
	}
	var all []vectors.Message
	for _, c := range cases {
		all = append(all, c.Messages...)
	}
	if len(all) < 700 {
		t.Fatalf("%d messages are no corpus", len(all))
	}
	return all
}

// fuzzSecret is the key of the fuzz targets, of 32 bytes.
var fuzzSecret = bytes.Repeat([]byte{0x2a}, envelope.KeySize)

// macOf is section 3 of docs/envelope.md, out of the standard library.
func macOf(secret, body []byte) string {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("levee/envelope/v1\x00"))
	h.Write(body)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// sealedAgain replaces the last 53 bytes by the right ones.
func sealedAgain(secret, raw []byte) []byte {
	body := raw[:max(0, len(raw)-53)]
	return fmt.Appendf(nil, `%s,"mac":"%s"}`, body, macOf(secret, body))
}

// The grammar of docs/envelope.md, section 2, up to the payload.
var (
	kidPattern = regexp.MustCompile(strings.NewReplacer("name", `[a-z0-9](?:[a-z0-9-]{0,22}[a-z0-9])?`, "integer", `0|[1-9][0-9]*`).
			Replace(`^\{"v":1,"kid":"((name)/name/name)/(integer)"`))
	restPattern = regexp.MustCompile(strings.NewReplacer("level", `[a-z0-9_-]{1,32}`, "integer", `0|[1-9][0-9]*`, "boot", `[0-9a-f]{11}`).
			Replace(`^,"ts":(integer),"nonce":"(boot)-(integer)","topic":"(level(?:/level){0,7})"(?:,"chain":"([A-Za-z0-9_-]+)")?,"payload":`))
	sigPattern = regexp.MustCompile(`,"sig":"([A-Za-z0-9_-]{86})"$`)
	macPattern = regexp.MustCompile(`,"mac":"([A-Za-z0-9_-]{43})"\}$`)
)

// reading is what a message says, each member as it is spelt.
type reading struct {
	sender, generation, ts, boot, seq, topic, chain, payload, sig, mac string
}

// read is Parse, or ParseStatement, once more, out of the page: checks 1, 2, 5
// and 6 of section 7 with no thought of speed.
func read(raw []byte, bound int, statement bool) (reading, envelope.Reason) {
	if len(raw) < 67 || len(raw) > bound {
		return reading{}, envelope.BadSize
	}
	kid := kidPattern.FindSubmatch(raw)
	if kid == nil || string(kid[2]) == "public" || string(kid[2]) == "ops" || !between(kid[3], 1, 1<<32-1) {
		return reading{}, envelope.BadKeyID
	}
	r := reading{sender: string(kid[1]), generation: string(kid[3])}
	body, closed := bytes.CutSuffix(raw, []byte("}"))
	if !statement {
		mac := macPattern.FindSubmatch(raw)
		if closed = mac != nil && canonical(mac[1]); closed {
			body, r.mac = raw[:len(raw)-len(mac[0])], string(mac[1])
		}
	}
	if !closed || len(body) < len(kid[0]) {
		return reading{}, envelope.BadGrammar
	}
	rest := restPattern.FindSubmatch(body[len(kid[0]):])
	if rest == nil || !between(rest[1], 1, 1<<53-1) || string(rest[2]) == "00000000000" || !between(rest[3], 1, 1<<64-1) || len(rest[4]) > 200 || len(rest[5]) > 10923 {
		return reading{}, envelope.BadGrammar
	}
	r.ts, r.boot, r.seq, r.topic, r.chain = string(rest[1]), string(rest[2]), string(rest[3]), string(rest[4]), string(rest[5])
	payload := body[len(kid[0])+len(rest[0]):]
	if sig := sigPattern.FindSubmatch(payload); r.chain != "" {
		if sig == nil || !canonical(rest[5]) || !canonical(sig[1]) {
			return reading{}, envelope.BadGrammar
		}
		payload, r.sig = payload[:len(payload)-len(sig[0])], string(sig[1])
	} else if statement {
		return reading{}, envelope.BadGrammar
	}
	if boot, err := strconv.ParseUint(r.boot, 16, 64); statement && (err != nil || fmt.Sprint(boot) != r.ts || r.seq != "1") {
		return reading{}, envelope.BadGrammar
	}
	if statement && r.generation != "1" && !strings.HasSuffix(r.topic, "/statement/site") {
		return reading{}, envelope.BadGrammar
	}
	// That the payload's judge is right is for the fuzz target of package wire.
	if r.payload = string(payload); wire.CheckObject(payload) != nil {
		return reading{}, envelope.BadPayload
	}
	return r, envelope.Accepted
}

func between(digits []byte, low, high uint64) bool {
	n, err := strconv.ParseUint(string(digits), 10, 64)
	return err == nil && n >= low && n <= high
}

func canonical(b []byte) bool {
	_, err := base64.RawURLEncoding.Strict().DecodeString(string(b))
	return err == nil
}

// spell writes a message from what was read of it.
func (r reading) spell() string {
	s := fmt.Sprintf(`{"v":1,"kid":"%s/%s","ts":%s,"nonce":"%s-%s","topic":"%s"`, r.sender, r.generation, r.ts, r.boot, r.seq, r.topic)
	if r.chain != "" {
		s += `,"chain":"` + r.chain + `"`
	}
	if s += `,"payload":` + r.payload; r.sig != "" {
		s += `,"sig":"` + r.sig + `"`
	}
	if r.mac != "" {
		s += `,"mac":"` + r.mac + `"`
	}
	return s + "}"
}

// readingOf is what package envelope says of a message.
func readingOf(m *envelope.Message) reading {
	id := m.KeyID()
	return reading{sender: id.Sender(), generation: fmt.Sprint(id.Generation), ts: fmt.Sprint(m.Time), boot: fmt.Sprintf("%011x", m.Nonce.Boot),
		seq: fmt.Sprint(m.Nonce.Seq), topic: string(m.Topic), chain: string(m.Chain), payload: string(m.Payload), sig: string(m.Sig), mac: string(m.MAC)}
}

// readingOfJSON is what encoding/json says of it, and in which order. A member
// that stands twice, or one too many, shows.
func readingOfJSON(t testing.TB, raw []byte) (r reading, names []string) {
	t.Helper()
	var shown struct {
		V                                  int
		TS                                 json.Number
		KID, Nonce, Topic, Chain, Sig, MAC string
		Payload                            json.RawMessage
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&shown); err != nil || shown.V != 1 || d.InputOffset() != int64(len(raw)) {
		t.Fatalf("encoding/json reads version %d, %v: %q", shown.V, err, raw)
	}
	cut := func(s, sep string) (string, string) {
		at := strings.LastIndex(s, sep)
		if at < 0 {
			t.Fatalf("encoding/json reads %q: %q", s, raw)
		}
		return s[:at], s[at+len(sep):]
	}
	r = reading{ts: shown.TS.String(), topic: shown.Topic, chain: shown.Chain, payload: string(shown.Payload), sig: shown.Sig, mac: shown.MAC}
	r.sender, r.generation = cut(shown.KID, "/")
	r.boot, r.seq = cut(shown.Nonce, "-")
	d = json.NewDecoder(bytes.NewReader(raw))
	d.Token()
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatal(err)
		}
		names = append(names, name.(string))
	}
	return r, names
}

// judge compares what package envelope made of raw with the page's own
// reading. Of what it accepts, every reading spells the same bytes again.
func judge(t testing.TB, m envelope.Message, err error, raw []byte, bound int, statement bool) {
	t.Helper()
	want, reason := read(raw, bound, statement)
	got := envelope.ReasonOf(err)
	if got != reason {
		t.Fatalf("%s instead of %s: %q", got.String(), reason.String(), raw)
	}
	if err != nil {
		if m.Raw != nil || m.Payload != nil {
			t.Fatalf("a refusal returned a message: %q", raw)
		}
		return
	}
	if of := readingOf(&m); of != want || of.spell() != string(raw) || !bytes.Equal(m.Raw, raw) || m.Signed() != (want.sig != "") ||
		string(m.Sender()) != want.sender || string(m.KID) != want.sender+"/"+want.generation {
		t.Fatalf("read as %+v instead of %+v: %q", of, want, raw)
	}
	order := []string{"v", "kid", "ts", "nonce", "topic", "chain", "payload", "sig", "mac"}
	order = slices.DeleteFunc(order, func(name string) bool {
		return name == "mac" && statement || (name == "chain" || name == "sig") && want.sig == ""
	})
	if of, names := readingOfJSON(t, raw); of != want || !slices.Equal(names, order) {
		t.Fatalf("encoding/json reads %+v with the members %v instead of %+v: %q", of, names, want, raw)
	}
	if want.sig != "" {
		signed, _ := strings.CutSuffix(string(raw[:len(raw)-1]), fmt.Sprintf(`,"sig":"%s"`, want.sig))
		if !statement {
			signed, _ = strings.CutSuffix(string(raw), fmt.Sprintf(`,"sig":"%s","mac":"%s"}`, want.sig, want.mac))
		}
		if m.Digest() != sha256.Sum256([]byte("levee/signature/v1\x00"+signed)) {
			t.Fatalf("the digest is not that of the signed bytes: %q", raw)
		}
	}
}
