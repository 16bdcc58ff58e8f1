package bulletin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func newBoard(t *testing.T) (*Board, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	b, err := New(slog.New(slog.NewJSONHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return b, &out
}

func lines(t *testing.T, out *bytes.Buffer) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(out.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, m)
	}
	return all
}

func TestShow(t *testing.T) {
	for _, test := range []struct {
		name, text, want string
		cut              bool
	}{
		{"plain", "hey from public", "hey from public", false},
		{"a line of its own", "x\n" + `{"msg":"command issued"}`, `x\n{\"msg\":\"command issued\"}`, false},
		{"a terminal's escape", "\x1b[2Jgone", `\x1b[2Jgone`, false},
		{"right to left", "a\u202eb", `a\u202eb`, false},
		{"not UTF-8", "a\xffb", `a\xffb`, false},
		{"empty", "", "", false},
		{"long", strings.Repeat("a", maxText+1), strings.Repeat("a", maxText), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, out := newBoard(t)
			b.Show("public/lobby", []byte(test.text), time.Unix(0, 0))
			all := lines(t, out)
			if len(all) != 1 {
				t.Fatalf("%d lines", len(all))
			}
			l := all[0]
			if l["msg"] != "public message" || l["verification"] != "unverified" || l["topic"] != "public/lobby" || l["text"] != test.want || l["cut"] != test.cut {
				t.Errorf("the line says %v", l)
			}
		})
	}
}

// A flood costs a line a second after the burst, and is told.
func TestFlood(t *testing.T) {
	b, out := newBoard(t)
	at := time.Unix(1_700_000_000, 0)
	for i := range 1000 {
		b.Show("public", fmt.Appendf(nil, "%d", i), at)
	}
	b.Show("public", []byte("later"), at.Add(interval))
	all := lines(t, out)
	if len(all) != burst+1 {
		t.Fatalf("%d lines of 1001 messages, want %d", len(all), burst+1)
	}
	last := all[burst]
	if last["text"] != "later" || last["not_shown"] != float64(1000-burst) {
		t.Errorf("the last line says %v", last)
	}
	if _, told := all[0]["not_shown"]; told {
		t.Error("the first line tells of messages that were not shown")
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(nil); err == nil {
		t.Error("a board without a logger")
	}
}
