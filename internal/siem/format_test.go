package siem

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write the golden files")

var here = origin{host: "melb.bank.example", version: "1.0"}

// examples has one event of each kind, as a recorder tells it.
func examples() map[ID]Event {
	at := time.UnixMilli(1729697327822)
	all := map[ID]Event{
		AlertRaised: {Message: "SYN packet count exceeded threshold: 812 over 500", Sender: "melb/monitor/mon-1", Server: "web-1", Object: "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
			Topic: "melb/bank_server/alerts/mon-1", Metric: "syn_packet_count", Value: 812, Limit: 500},
		AlertEnded: {Message: "SYN packet count exceeded threshold: ended", Sender: "melb/monitor/mon-1", Server: "web-1", Object: "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
			Topic: "melb/bank_server/alerts/mon-1", Metric: "syn_packet_count", Value: 12.5, Limit: 500, Late: true},
		CommandIssued: {Message: "enable_rate_limiting for web-1 of lb-1, 60 s: automatic, because of syn_packet_count", Sender: "melb/monitor/mon-1", Server: "web-1",
			Action: "enable_rate_limiting", Reason: "automatic", Object: "a0b1c2d3e4f5061728394a5b6c7d8e9f", Topic: "melb/bank_server/control/command/monitor/mon-1"},
		CommandStatus: {Severity: Medium, Message: "enable_rate_limiting for web-1: refused", Sender: "melb/controller/lb-1", Server: "web-1", Action: "enable_rate_limiting", Outcome: Failure,
			Reason: "refused: cool-down", Object: "a0b1c2d3e4f5061728394a5b6c7d8e9f", Topic: "melb/bank_server/status/rate_limiting/lb-1"},
		AccessRevoked:   {Message: "revoked: melb/sensor/web-1", Sender: "melb/sensor/web-1", Actor: "melb/operator/ann", Reason: "stolen", Object: "00112233445566778899aabbccddeeff", Count: 1},
		AccessRestored:  {Message: "readmitted: melb/sensor/web-1", Sender: "melb/sensor/web-1", Actor: "melb/operator/ann", Reason: "was off", Object: "00112233445566778899aabbccddeeff", Count: 1},
		MachineGone:     {Message: "melb/sensor/web-1 is gone from broker-1: lost", Sender: "melb/sensor/web-1", Reason: "lost", Broker: "broker-1"},
		MessageRefused:  {Severity: High, Message: "message refused: nonce_collision", Sender: "melb/sensor/web-1", Reason: "nonce_collision", Topic: "melb/bank_server/metrics/cpu/web-1", Broker: "broker-1", Count: 4},
		GapFound:        {Message: "messages 41 to 52 of melb/sensor/web-1 are missing", Sender: "melb/sensor/web-1", Object: "melb/sensor/web-1 192b9fdc06e-41", Count: 12},
		GapClosed:       {Message: "messages 41 to 52 of melb/sensor/web-1 arrived", Sender: "melb/sensor/web-1", Reason: "arrived", Object: "melb/sensor/web-1 192b9fdc06e-41", Count: 12},
		LogContradicted: {Message: "the log is older than it was", Reason: "rollback"},
		RecorderError:   {Message: "segments were not deleted after their retention", Reason: "error=\"no space left on device\" | bar \\ back\nline", Count: 1},
		RecorderStarted: {Message: "the recorder of melb started"},
		RecorderStopped: {Severity: High, Message: "the recorder of melb stopped", Outcome: Failure, Reason: "keeping envelopes: no space left on device – ENOSPC"},
		EventsDropped:   {Message: "17 events were dropped for want of room; what they told of is in the log", Count: 17},
	}
	for id, e := range all {
		e.ID, e.Time, e.Received = id, at, at.Add(1500*time.Millisecond)
		all[id] = e.settle()
	}
	return all
}

// Every kind of event is spelt as docs/siem.md says, in both formats.
func TestGolden(t *testing.T) {
	t.Parallel()
	all := examples()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "siem.md"))
	if err != nil {
		t.Fatal(err)
	}
	for id := range kinds {
		if _, ok := all[id]; !ok {
			t.Errorf("%s has no example", id)
		}
		if !bytes.Contains(page, []byte("| `"+string(id)+"` |")) {
			t.Errorf("docs/siem.md has no row of %s", id)
		}
	}
	for id, e := range all {
		for format := range formats {
			line := append(appendMessage(nil, e, format, here, "5bd1e995a3c4f701-17", 17), '\n')
			path := filepath.Join("testdata", string(id)+"."+string(format))
			if *update {
				if err := os.WriteFile(path, line, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(line, want) {
				t.Errorf("%s is\n%s instead of\n%s", path, line, want)
			}
			if id == AlertRaised && !bytes.Contains(page, bytes.TrimSpace(line)) {
				t.Errorf("docs/siem.md does not show %s", path)
			}
		}
	}
}

// What a class of OCSF must have beside the classification, and what its numbers
// may be, from the schema 1.8.0.
func TestOCSFSchema(t *testing.T) {
	t.Parallel()
	classes := map[float64]struct {
		needs      string
		activities []float64
	}{
		2004: {"finding_info", []float64{1, 3}},
		3004: {"entity", []float64{10, 11}},
		6002: {"app", []float64{3, 4}},
		6008: {"message", []float64{1}},
		7001: {"command_uid", []float64{1, 3, 4, 99}},
	}
	for id, e := range examples() {
		var r map[string]any
		if err := json.Unmarshal(appendOCSF(nil, e, here, "uid"), &r); err != nil {
			t.Fatal(err)
		}
		number := func(name string) float64 { v, _ := r[name].(float64); return v }
		class, known := classes[number("class_uid")]
		allowed := false
		for _, a := range class.activities {
			allowed = allowed || a == number("activity_id")
		}
		if !known || !allowed || r[class.needs] == nil || number("type_uid") != 100*number("class_uid")+number("activity_id") ||
			number("category_uid") != float64(int(number("class_uid"))/1000) || number("severity_id") < 1 || number("severity_id") > 5 || number("time") != 1729697327822 {
			t.Errorf("%s: %v", id, r)
		}
		if m, _ := r["metadata"].(map[string]any); m["version"] != "1.8.0" || m["product"] == nil {
			t.Errorf("%s: %v", id, m)
		}
	}
	hold := Event{ID: CommandIssued, Time: time.Now(), Action: "hold_automation", Object: "x"}.settle()
	if line := string(appendOCSF(nil, hold, here, "uid")); !strings.Contains(line, `"activity_id":99,"activity_name":"hold_automation"`) {
		t.Error(line)
	}
}

// What texts hold is shown, and nothing else comes of it.
func TestTextsAreInert(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a\nb": "a\nb", "a\r\nb": "a\nb", "a\rb": "a\uFFFDb", "a\x00b": "a\uFFFDb", "a\x1b[2Jb": "a\uFFFD[2Jb", "a\u202eb": "a\uFFFDb", "a\u2028b": "a\uFFFDb", "a\u0085b": "a\uFFFDb",
		"a\xffb": "a\uFFFDb", " a ": "a", "\ufeffa": "\uFFFDa", strings.Repeat("x", 21): strings.Repeat("x", 17) + "...",
		strings.Repeat("é", 11): strings.Repeat("é", 8) + "...", // 22 bytes; no half of a letter stays
	} {
		if got := clean(text, 20); got != want {
			t.Errorf("%q becomes %q", text, got)
		}
	}
	e := Event{ID: RecorderError, Time: time.UnixMilli(1), Reason: "a=b c|d\\e\nf suser=root"}.settle()
	if line := string(appendCEF(nil, e, origin{"h", `1|2\3`}, "u")); !strings.Contains(line, `|1\|2\\3|`) || !strings.Contains(line, ` reason=a\=b c|d\\e\nf suser\=root`) {
		t.Error(line)
	}
}

// The longest that every text can be still fits what receivers take, and a
// message that needs no mark of UTF-8 has none.
func TestBounds(t *testing.T) {
	t.Parallel()
	for _, text := range []string{strings.Repeat("=", 5000), strings.Repeat("\\", 5000), strings.Repeat("\"", 5000), strings.Repeat("\x00", 5000), strings.Repeat("é", 5000), strings.Repeat("\n.", 5000)} {
		for id := range kinds {
			e := everywhere(id, text)
			for format := range formats {
				if line := appendMessage(nil, e, format, here, "uid", 1); len(line) > 8192 {
					t.Errorf("%s, %s, %.5q: %d bytes", id, format, text, len(line))
				}
			}
		}
	}
	for text, mark := range map[string]bool{"e": false, "é": true} {
		line := string(appendMessage(nil, Event{ID: RecorderError, Time: time.UnixMilli(1), Message: text}.settle(), CEF, here, "u", 1<<31))
		if want := map[bool]string{true: "\"] " + bom + "CEF:0|", false: "\"] CEF:0|"}[mark]; !strings.Contains(line, want) || !strings.Contains(line, `sequenceId="1"`) {
			t.Errorf("%q", line)
		}
	}
}

// everywhere is an event with one text in each place.
func everywhere(id ID, text string) Event {
	return Event{ID: id, Time: time.UnixMilli(1729697327822), Message: text, Sender: text, Actor: text, Server: text, Action: text, Outcome: text, Reason: text, Object: text, Topic: text,
		Broker: text, Metric: text, Value: 1, Limit: 2, Count: 3, Late: true}.settle()
}

// cefLine is what a reader of CEF sees: a header of seven fields, and a key
// wherever an equals sign is not escaped.
var (
	cefHead  = regexp.MustCompile(`^CEF:0(?:\|(?:[^|\\]|\\[|\\])*){6}\|`)
	cefPiece = regexp.MustCompile(`^(?:[^=\\\n\r]|\\[=\\nr])*$`)
)

// Whatever a text holds, it adds no field to CEF, no member to JSON and no line
// to either, and it is there as it was.
func FuzzTexts(f *testing.F) {
	ids := slices.Sorted(maps.Keys(kinds))
	for _, text := range []string{"", "plain", "a=b", " suser=root", "|", "\\", "\\=", "\\\\", "\n", "\r\n<34>1 - - - - - - forged", "\"}", "\u2028", "\x00\x1b[2J", "é", "\xff\xfe", "x\\", "a\\nb", "\ufeff", "</script>"} {
		for which := range ids {
			f.Add(text, uint8(which))
		}
	}
	plain := make(map[ID]int)
	for id := range kinds {
		plain[id] = keysOf(appendCEF(nil, everywhere(id, "x"), here, "uid"))
	}
	f.Fuzz(func(t *testing.T, text string, which uint8) {
		id := ids[int(which)%len(ids)]
		e := everywhere(id, text)
		if e.Reason == "" {
			return
		}
		for format := range formats {
			m := appendMessage(nil, e, format, here, "uid", 7)
			if bytes.ContainsAny(m, "\n\r\x00\x1b\u2028\u0085") || !utf8.Valid(m) || len(m) > 8192 {
				t.Fatalf("%q", m)
			}
			frame := appendFrame(nil, e, format, here, "uid", 7)
			if !bytes.Equal(frame, append([]byte(strconv.Itoa(len(m))+" "), m...)) {
				t.Fatalf("%q", frame)
			}
		}
		line := string(appendCEF(nil, e, here, "uid"))
		head := cefHead.FindString(line)
		if head == "" {
			t.Fatalf("%q", line)
		}
		// A key follows a blank, and what stands before its equals sign has no
		// backslash: an escaped one is text.
		keys, values := split(line[len(head):])
		if len(keys) != plain[id] {
			t.Fatalf("%d keys instead of %d: %q", len(keys), plain[id], line)
		}
		for i, value := range values {
			if !cefPiece.MatchString(value) {
				t.Fatalf("%s=%q", keys[i], value)
			}
			if keys[i] == "reason" && strings.NewReplacer(`\\`, `\`, `\=`, `=`, `\n`, "\n").Replace(value) != e.Reason {
				t.Fatalf("%q becomes %q", e.Reason, value)
			}
		}
		d := json.NewDecoder(bytes.NewReader(appendOCSF(nil, e, here, "uid")))
		d.DisallowUnknownFields()
		var r record
		if err := d.Decode(&r); err != nil || d.More() || r.Unmapped.Reason != e.Reason || r.Message != e.Message || r.Metadata.EventCode != string(id) {
			t.Fatalf("%v: %+v", err, r)
		}
	})
}

// split reads an extension as its readers do: a key is the word before an equals
// sign that no backslash escapes.
func split(extension string) (keys, values []string) {
	last := 0
	for i := 0; i < len(extension); i++ {
		switch extension[i] {
		case '\\':
			i++
		case '=':
			begin := strings.LastIndexByte(extension[:i], ' ') + 1
			if len(keys) > 0 {
				values = append(values, strings.TrimSuffix(extension[last:begin], " "))
			}
			keys, last = append(keys, extension[begin:i]), i+1
		}
	}
	return keys, append(values, extension[last:])
}

// keysOf counts the keys of a line.
func keysOf(line []byte) int {
	keys, _ := split(string(line[len(cefHead.Find(line)):]))
	return len(keys)
}
