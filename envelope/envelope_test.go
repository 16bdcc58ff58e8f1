package envelope_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"levee/envelope"
)

func find(key *envelope.Key) func([]byte) *envelope.Key {
	return func([]byte) *envelope.Key { return key }
}

func TestOpenReturnsWhatWasSealed(t *testing.T) {
	key := newKey(t, 0x2a)
	raw := seal(t, exampleHeader, examplePayload, key, nil)
	m, err := envelope.Open(raw, envelope.MaxMessage, find(key))
	if err != nil {
		t.Fatalf("%v (%v)", err, envelope.ReasonOf(err))
	}
	if m.KeyID() != exampleHeader.KeyID || string(m.Sender()) != "melb/sensor/web-1" || m.Time != exampleHeader.Time ||
		m.Nonce != exampleHeader.Nonce || string(m.Topic) != exampleHeader.Topic || !bytes.Equal(m.Payload, examplePayload) || m.Signed() {
		t.Errorf("opened %+v", m)
	}
}

// The page is the format: its example must be what the code makes.
func TestExampleOfTheSpecification(t *testing.T) {
	page, err := os.ReadFile("../docs/envelope.md")
	if err != nil {
		t.Fatal(err)
	}
	raw := seal(t, exampleHeader, examplePayload, newKey(t, 0x2a), nil)
	if !strings.Contains(string(page), "\n    "+string(raw)+"\n") {
		t.Errorf("docs/envelope.md does not show\n    %s", raw)
	}
}

// resealed makes the last 53 bytes right again, so that only the grammar can
// refuse what the edit did.
func resealed(t *testing.T, key *envelope.Key, edit func(string) string) []byte {
	t.Helper()
	raw := string(seal(t, exampleHeader, examplePayload, key, nil))
	return envelope.Reseal(key, []byte(edit(raw)))
}

func TestReasons(t *testing.T) {
	key := newKey(t, 0x2a)
	replace := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				panic(fmt.Sprintf("%q is not in %q", old, s))
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	for _, test := range []struct {
		name string
		edit func(string) string
		want envelope.Reason
	}{
		{"as sealed", func(s string) string { return s }, envelope.Accepted},
		{"other version", replace(`{"v":1,`, `{"v":2,`), envelope.BadKeyID},
		{"leading space", func(s string) string { return " " + s }, envelope.BadKeyID},
		{"byte order mark", func(s string) string { return "\ufeff" + s }, envelope.BadKeyID},
		{"kid with an escape", replace("melb/sensor", `melb\u002fsensor`), envelope.BadKeyID},
		{"kid in upper case", replace("melb/sensor", "MELB/sensor"), envelope.BadKeyID},
		{"kid without generation", replace("web-1/1", "web-1"), envelope.BadKeyID},
		{"kid of generation 0", replace("web-1/1", "web-1/0"), envelope.BadKeyID},
		{"kid of generation 01", replace("web-1/1", "web-1/01"), envelope.BadKeyID},
		{"kid of generation 2^32", replace("web-1/1", "web-1/4294967296"), envelope.BadKeyID},
		{"kid of site public", replace("melb/sensor", "public/sensor"), envelope.BadKeyID},
		{"kid of site ops", replace("melb/sensor", "ops/sensor"), envelope.BadKeyID},
		{"kid with a dash at an end", replace("sensor/web-1", "sensor/-web"), envelope.BadKeyID},
		{"space after a colon", replace(`"ts":`, `"ts": `), envelope.BadGrammar},
		{"members in another order", replace(`"ts":1729697327822,"nonce":"192b9fdc06e-42"`, `"nonce":"192b9fdc06e-42","ts":1729697327822`), envelope.BadGrammar},
		{"member of another case", replace(`"topic"`, `"Topic"`), envelope.BadGrammar},
		{"escaped member name", replace(`"topic"`, `"\u0074opic"`), envelope.BadGrammar},
		{"second topic", replace(`,"payload"`, `,"topic":"melb/bank_server/metrics/ram/web-2","payload"`), envelope.BadGrammar},
		{"negative ts", replace(`"ts":1`, `"ts":-1`), envelope.BadGrammar},
		{"ts with a leading zero", replace(`"ts":1`, `"ts":01`), envelope.BadGrammar},
		{"ts as a float", replace(`"ts":1729697327822`, `"ts":1729697327822.0`), envelope.BadGrammar},
		{"ts with an exponent", replace(`"ts":1729697327822`, `"ts":17e11`), envelope.BadGrammar},
		{"ts of 2^53", replace(`"ts":1729697327822`, `"ts":9007199254740992`), envelope.BadGrammar},
		{"boot too short", replace("192b9fdc06e-", "92b9fdc06e-"), envelope.BadGrammar},
		{"boot in upper case", replace("192b9fdc06e-", "192B9FDC06e-"), envelope.BadGrammar},
		{"boot zero", replace("192b9fdc06e-", "00000000000-"), envelope.BadGrammar},
		{"seq zero", replace("-42", "-0"), envelope.BadGrammar},
		{"seq 042", replace("-42", "-042"), envelope.BadGrammar},
		{"seq of 2^64", replace("-42", "-18446744073709551616"), envelope.BadGrammar},
		{"topic with a wildcard", replace("metrics/ram", "metrics/+"), envelope.BadGrammar},
		{"topic of nine levels", replace("metrics/ram/web-1", "a/b/c/d/e/f/g"), envelope.BadGrammar},
		{"empty topic level", replace("metrics/ram", "metrics//ram"), envelope.BadGrammar},
		{"chain without sig", replace(`,"payload"`, `,"chain":"AAAA","payload"`), envelope.BadGrammar},
		{"sig without chain", replace(`,"mac"`, `,"sig":"`+strings.Repeat("A", 86)+`","mac"`), envelope.BadPayload},
		{"payload is an array", replace(`{"timestamp":1729697327.822,"server":"web-1","ram_usage":41.5}`, `[1]`), envelope.BadPayload},
		{"second member after the payload", replace(`41.5}`, `41.5},"payload":{}`), envelope.BadPayload},
		{"duplicate name in the payload", replace(`"server":"web-1"`, `"server":"web-1","server":"web-2"`), envelope.BadPayload},
		{"name of another case in the payload", replace(`"server"`, `"Server"`), envelope.BadPayload},
		{"invalid UTF-8 in the payload", replace(`"web-1","ram`, "\"web\xff\",\"ram"), envelope.BadPayload},
		{"null in the payload", replace(`41.5`, `null`), envelope.BadPayload},
		{"payload too deep", replace(`41.5`, strings.Repeat(`[`, 8)+strings.Repeat(`]`, 8)), envelope.BadPayload},
	} {
		_, err := envelope.Open(resealed(t, key, test.edit), envelope.MaxMessage, find(key))
		if got := envelope.ReasonOf(err); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestOpenOrder(t *testing.T) {
	key, other := newKey(t, 0x2a), newKey(t, 0x2b)
	raw := seal(t, exampleHeader, examplePayload, key, nil)
	if _, err := envelope.Open(raw, len(raw)-1, find(key)); envelope.ReasonOf(err) != envelope.BadSize {
		t.Errorf("over the bound: %v", envelope.ReasonOf(err))
	}
	if _, err := envelope.Open(raw, len(raw), find(nil)); envelope.ReasonOf(err) != envelope.UnknownKey {
		t.Errorf("without a key: %v", envelope.ReasonOf(err))
	}
	if _, err := envelope.Open(raw, len(raw), find(other)); envelope.ReasonOf(err) != envelope.BadMAC {
		t.Errorf("with another key: %v", envelope.ReasonOf(err))
	}
	// Nothing but kid is read before the MAC: broken grammar under a wrong MAC
	// is a wrong MAC.
	broken := bytes.Replace(raw, []byte(`"ts"`), []byte(`"xx"`), 1)
	if _, err := envelope.Open(broken, len(raw), find(key)); envelope.ReasonOf(err) != envelope.BadMAC {
		t.Errorf("broken grammar: %v", envelope.ReasonOf(err))
	}
}

func TestErrorsTellAnAttackerNothing(t *testing.T) {
	for _, r := range envelope.Reasons() {
		if r.Error() != envelope.ErrRejected.Error() {
			t.Errorf("%v says %q", r, r.Error())
		}
		if r.String() == "" || r.String() == "unknown" {
			t.Errorf("reason %d has no label", r)
		}
	}
}

func TestKeysPrintAsRedacted(t *testing.T) {
	key := newKey(t, 0x2a)
	inside := struct{ Key *envelope.Key }{key}
	for _, verb := range strings.Fields("%v %+v %#v %T %t %b %c %d %o %O %q %x %X %U %e %E %f %F %g %G %s %p %y %10.3s") {
		for _, v := range []any{key, []*envelope.Key{key}, inside} {
			if verb == "%T" || verb == "%p" { // of the type, of the address: package fmt asks nobody
				continue
			}
			if text := fmt.Sprintf(verb, v); !strings.Contains(text, "redacted") || strings.Contains(text, "0x") {
				t.Errorf("%s printed %q", verb, text)
			}
		}
	}
	if text := fmt.Sprint(key); text != "redacted" {
		t.Errorf("printed %q", text)
	}
}

func TestUnsignedMessagesDoNotAllocate(t *testing.T) {
	key := newKey(t, 0x2a)
	raw := seal(t, exampleHeader, examplePayload, key, nil)
	keyOf := find(key)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := envelope.Open(raw, envelope.MaxMessage, keyOf); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Open allocates %v times", n)
	}
	buffer := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := envelope.Append(buffer, exampleHeader, examplePayload, key, nil); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Append allocates %v times", n)
	}
}
