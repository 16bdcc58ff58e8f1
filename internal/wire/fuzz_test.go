package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"levee/internal/wire"
	"levee/test/vectors"
)

// messages returns what the test vectors hold. They are embedded: without
// them, nothing here compiles or passes.
func messages(t testing.TB) []vectors.Message {
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

// payloads returns the payloads of all messages, good and bad ones, each once.
func payloads(t testing.TB) [][]byte {
	t.Helper()
	var all [][]byte
	seen := make(map[string]bool)
	for _, m := range messages(t) {
		_, payload, found := bytes.Cut(m.Raw, []byte(`,"payload":`))
		for _, end := range []string{`,"mac":"`, `,"sig":"`} {
			if at := bytes.LastIndex(payload, []byte(end)); at >= 0 {
				payload = payload[:at]
			}
		}
		if found && len(payload) <= 4096 && !seen[string(payload)] {
			seen[string(payload)] = true
			all = append(all, payload)
		}
	}
	if len(all) < 100 {
		t.Fatalf("%d payloads are no corpus", len(all))
	}
	return all
}

var (
	strictName = regexp.MustCompile(`^"[a-z0-9_]{1,32}"$`)
	character  = regexp.MustCompile(`(?s)\\u[0-9a-fA-F]{4}|\\.|[^\\]`) // of a string, as it is spelt
)

// slowly is CheckObject once more, out of the parts of encoding/json: what the
// page says, with no thought of speed.
func slowly(b []byte) error {
	var compact bytes.Buffer
	switch {
	case !json.Valid(b):
		return errors.New("not JSON")
	case !utf8.Valid(b):
		return errors.New("not UTF-8")
	case json.Compact(&compact, b) != nil || !bytes.Equal(compact.Bytes(), b):
		return errors.New("white space")
	case b[0] != '{':
		return errors.New("no object")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return value(d, b, 1)
}

// value reads the next value of d, which reads b. It would stand in an object
// or array of the level depth-1.
func value(d *json.Decoder, b []byte, depth int) error {
	token, spelling := next(d, b)
	switch token := token.(type) {
	case nil:
		return errors.New("null")
	case string:
		return text(token, spelling)
	case json.Delim:
		if depth > 8 {
			return errors.New("too deep")
		}
		names := make(map[string]bool)
		for members := 1; d.More(); members++ {
			if token == '{' {
				_, name := next(d, b)
				if !strictName.Match(name) || names[string(name)] || members > 64 {
					return fmt.Errorf("member %d, %s", members, name)
				}
				names[string(name)] = true
			}
			if err := value(d, b, depth+1); err != nil {
				return err
			}
		}
		next(d, b) // the other bracket
	}
	return nil
}

// next returns a token and how it is spelt in b, which is JSON.
func next(d *json.Decoder, b []byte) (json.Token, []byte) {
	from := d.InputOffset()
	token, err := d.Token()
	if err != nil {
		panic(err)
	}
	return token, bytes.TrimLeft(b[from:d.InputOffset()], ",:")
}

// text refuses what encoding/json made of an escaped zero or half a pair: the
// latter becomes U+FFFD, which is honest only where it is spelt so.
func text(got string, spelling []byte) error {
	honest := 0
	for _, c := range character.FindAllString(string(spelling), -1) {
		if c == "\ufffd" || strings.EqualFold(c, `\ufffd`) {
			honest++
		}
	}
	if strings.Contains(got, "\x00") || strings.Count(got, "\ufffd") != honest {
		return errors.New("an escape")
	}
	return nil
}

// same fails where CheckObject and the slow checker disagree, or where
// encoding/json reads something else in what both accept.
func same(t *testing.T, b []byte) {
	t.Helper()
	got, want := wire.CheckObject(b), slowly(b)
	if (got == nil) != (want == nil) {
		t.Fatalf("%q: %v instead of %v", b, got, want)
	}
	var nothing struct{} // requires no member, knows none
	if err := wire.Decode(b, &nothing); (err == nil) != (want == nil) {
		t.Fatalf("%q: Decode says %v instead of %v", b, err, want)
	}
	if got != nil {
		if !errors.Is(got, wire.ErrPayload) {
			t.Fatalf("%q: %v is of no class", b, got)
		}
		return
	}
	first := decoded(t, b)
	var again bytes.Buffer
	e := json.NewEncoder(&again)
	e.SetEscapeHTML(false)
	if err := e.Encode(first); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	back := bytes.TrimSuffix(again.Bytes(), []byte("\n"))
	if err := wire.CheckObject(back); err != nil {
		t.Fatalf("%q became %q: %v", b, back, err)
	}
	if !reflect.DeepEqual(decoded(t, back), first) {
		t.Fatalf("%q became %q", b, back)
	}
}

func decoded(t *testing.T, b []byte) (object map[string]any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&object); err != nil {
		t.Fatalf("%q: %v", b, err)
	}
	return object
}

// CheckObject accepts exactly what the page does.
func FuzzCheckObject(f *testing.F) {
	for _, payload := range payloads(f) {
		f.Add(payload)
	}
	for _, seed := range []string{
		``, `{}`, `{"a":[1,-2.5e3,"é\ud83d\ude00",{"b":true}]}`, `{"a":1,"a":2}`, `{"ab":1,"ba":2,"aa":3,"bb":4,"ab":5}`, `{"a":"\u0000"}`,
		`{"a":"\ufffd\ud800"}`, `{"a":"\\ud800"}`, `{"a":"\ud83d\\ude00"}`, `{"a":"\uD83D\uDE00"}`, "{\"a\":\"\ufffd\u2028<\"}", `{"a": 1}`, "{\"a\":1\n}",
		`{"a":[[[[[[[]]]]]]]}`, `{"a":[[[[[[[[]]]]]]]]}`, `{"a":[[[[[[{}]]]]]]}`, `{"a":[[[[[[{"b":{}}]]]]]]}`, `{"a":00}`, `{"a":-01}`, `{"a":-0}`, `{"a":1E+05}`,
		"{\"a\":\"0123456789\x1f0123456789\"}", `{"a":"0123456789\"01234567\\"}`, "{\"a\":\"01234\xff56789\"}", "{\"a\":\"01234\xed\xa0\x8056789\"}",
		`{"a":NaN}`, `{"":1}`, `{"a":[1,]}`, `{"a":1,}`, `{"a.b":1}`, `{"A":1}`, `{"\u0061":1}`, `{"a":1}{}`, `{"a":1}}`, `["a"]`, `{"a":{"b":1,"b":2}}`, `{"a":{"b":1},"b":2}`, `{"a":[null]}`,
		members(64), members(65), `{"` + strings.Repeat("a", 32) + `":1}`, `{"` + strings.Repeat("a", 33) + `":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(same)
}

func members(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"a_%d":%d`, i, i)
	}
	return "{" + b.String()[1:] + "}"
}

// Every byte value in every place: no table and no loop over eight bytes at a
// time treats one differently.
func TestEveryByteInEveryPlace(t *testing.T) {
	for _, text := range []string{
		`{"timestamp":1.5,"server":"web-1","values":[-0.5e+7,true,{"a":"éx\ud83d\ude00\n-+{}"}]}`,
		`{"a":"0123456789abcdef0123456789abcdef","b9":"","ba":false}`,
	} {
		same(t, []byte(text))
		for i := range text {
			b := []byte(text)
			for c := range 256 {
				b[i] = byte(c)
				same(t, b)
			}
			same(t, []byte(text[:i]))
			same(t, []byte(text[:i]+text[i+1:]))
			same(t, []byte(text[:i]+text[i:i+1]+text[i:]))
		}
	}
}

func FuzzParseTopic(f *testing.F) {
	for _, m := range messages(f) {
		f.Add(m.Topic)
	}
	for kind := wire.KindCPU; kind < wire.KindPublic; kind++ {
		f.Add(strings.ReplaceAll(wire.Filter(kind, "melb"), "+", "web-1"))
	}
	for _, seed := range []string{"melb/bank_server/acks/r/sensor/s", "public/x", "public", "ops/bank_server/alerts/m1", "melb/bank_server/alerts/-m", "a//b"} {
		f.Add(seed)
	}
	level := regexp.MustCompile(`^[a-z0-9_-]{1,32}(/[a-z0-9_-]{1,32}){0,7}$`)
	f.Fuzz(func(t *testing.T, s string) {
		if got := wire.ValidTopic(s); got != (level.MatchString(s) && len(s) <= wire.MaxTopic) || wire.ValidTopic([]byte(s)) != got {
			t.Fatalf("%q is valid: %v", s, got)
		}
		topic, err := wire.ParseTopic(s)
		if err != nil {
			if topic != (wire.Topic{}) {
				t.Fatal("a refusal returned a topic")
			}
			return
		}
		if !wire.ValidTopic(s) {
			t.Fatalf("%q is parsed, and not valid", s)
		}
		if topic.Protected() && topic.String() != s {
			t.Fatalf("%q came back as %q", s, topic)
		}
	})
}
