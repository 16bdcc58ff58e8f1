package vectors_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/test/programs"
	"levee/test/vectors"
)

// script is the second implementation.
const script = "../../scripts/levee_envelope.py"

// python runs a command of the second implementation, which was written from
// docs/envelope.md alone.
func python(t *testing.T, command ...string) {
	t.Helper()
	if _, err := os.Stat(script); err != nil {
		programs.Missing(t, "scripts/levee_envelope.py", "it is part of this repository")
	}
	interpreter := programs.Need(t, "python3", "apt-get install python3")
	programs.Need(t, "openssl", "apt-get install openssl")
	out, err := exec.Command(interpreter, append([]string{script}, command...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%.20000s", err, out)
	} else {
		t.Logf("%s", out)
	}
}

func TestPythonAgrees(t *testing.T) { python(t, "vectors", ".") }

// It has tests of its own: each rule of the page, and the page's example.
func TestPythonTestsItself(t *testing.T) { python(t, "selftest") }

// What no author of cases thought of: messages changed at random, the same
// ones each time. The receivers have no keys, so that a change reaches the
// checks behind the MAC.
func TestPythonAgreesOnChangedMessages(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	expected := make(map[string]int)
	for _, name := range []string{"honest-person-reading", "honest-person-command"} {
		c := byName(t, name)
		original := c.Messages[0].Raw
		r := newReceiver(t, c.Receiver)
		for i := range 1000 {
			r.windows = replay.New(1)
			m := c.Messages[0]
			m.Raw = change(random, original)
			m.Expect = r.receive(m).String()
			expected[m.Expect]++
			c.Name, c.Says, c.Messages = fmt.Sprintf("%s-changed-%d", name, i), "changed at random", []vectors.Message{m}
			b, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, c.Name+".json"), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, reason := range []envelope.Reason{envelope.Accepted, envelope.BadKeyID, envelope.BadGrammar, envelope.BadPayload, envelope.BadTopic, envelope.BadSignature} {
		if expected[reason.String()] == 0 {
			t.Errorf("no change leads to %s: %v", reason.String(), expected)
		}
	}
	t.Log(expected)
	python(t, "vectors", dir)
}

// scraps are what a change puts in: what the grammar is made of, and what it
// does not have.
var scraps = []string{"0", "1", "9", "-", "+", ".", "e", "E", `"`, `\`, `\u0000`, `\ud800`, `\udc00`, "{", "}", "[", "]", ",", ":", " ", "\t",
	"null", "true", "a", "A", "_", "/", "=", "\x00", "\x80", "\xff", "\u00e9", "\xed\xa0\x80", `,"payload":`, `,"ts":1`, `"a":1`, `,"a":1`}

// change makes one to three changes, half of them in the payload.
func change(random *rand.Rand, original []byte) []byte {
	raw := bytes.Clone(original)
	for range 1 + random.IntN(3) {
		from := 0
		if at := bytes.Index(raw, []byte(`"payload":`)); at >= 0 && random.IntN(2) == 0 {
			from = at
		}
		at := from + random.IntN(len(raw)-from)
		end := min(len(raw), at+1+random.IntN(8))
		scrap := []byte(scraps[random.IntN(len(scraps))])
		switch random.IntN(4) {
		case 0:
			raw = slices.Insert(raw, at, scrap...)
		case 1:
			raw = slices.Replace(raw, at, at+1, scrap...)
		case 2:
			raw = slices.Delete(raw, at, end)
		default:
			raw = slices.Insert(raw, at, bytes.Clone(raw[at:end])...)
		}
	}
	return raw
}
