package leaf

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

const golden = `{"v":1,"received":1729697327822,"verdict":"accepted","kind":"message","data":"eyJ2IjoxfQ"}`

var goldenLeaf = Leaf{Received: 1729697327822, Verdict: "accepted", Kind: KindMessage, Data: []byte(`{"v":1}`)}

func TestGolden(t *testing.T) {
	got, err := goldenLeaf.Marshal()
	if err != nil || string(got) != golden {
		t.Fatalf("Marshal gave %s, %v", got, err)
	}
	l, err := Parse([]byte(golden))
	if err != nil || !reflect.DeepEqual(l, goldenLeaf) {
		t.Fatalf("Parse gave %+v, %v", l, err)
	}
	if !json.Valid(got) {
		t.Fatal("not JSON")
	}
}

func TestParseRefuses(t *testing.T) {
	for name, raw := range map[string]string{
		"nothing":            "",
		"another version":    strings.Replace(golden, `"v":1`, `"v":2`, 1),
		"a space":            strings.Replace(golden, `"v":1,`, `"v":1, `, 1),
		"a space in front":   " " + golden,
		"a line after":       golden + "\n",
		"a leading zero":     strings.Replace(golden, `:172`, `:0172`, 1),
		"no time":            strings.Replace(golden, `1729697327822`, ``, 1),
		"a negative time":    strings.Replace(golden, `:172`, `:-172`, 1),
		"a fraction":         strings.Replace(golden, `:1729`, `:1.729`, 1),
		"a time too large":   strings.Replace(golden, `1729697327822`, `9007199254740992`, 1),
		"a time far too big": strings.Replace(golden, `1729697327822`, `99999999999999999999`, 1),
		"no verdict":         strings.Replace(golden, `"accepted"`, `""`, 1),
		"a capital":          strings.Replace(golden, `"accepted"`, `"Accepted"`, 1),
		"an escape":          strings.Replace(golden, `"accepted"`, `"\u0061ccepted"`, 1),
		"a long verdict":     strings.Replace(golden, `accepted`, strings.Repeat("a", 33), 1),
		"an unknown kind":    strings.Replace(golden, `"message"`, `"massage"`, 1),
		"no data":            strings.Replace(golden, `eyJ2IjoxfQ`, ``, 1),
		"padding":            strings.Replace(golden, `eyJ2IjoxfQ`, `eyJ2IjoxfQ==`, 1),
		"stray bits":         strings.Replace(golden, `eyJ2IjoxfQ`, `eyJ2IjoxfR`, 1),
		"the other base64":   strings.Replace(golden, `eyJ2IjoxfQ`, `+/++`, 1),
		"a line break":       strings.Replace(golden, `eyJ2IjoxfQ`, "eyJ2\nIjoxfQ", 1),
		"a carriage return":  strings.Replace(golden, `eyJ2IjoxfQ`, "eyJ2\rIjoxfQ", 1),
		"a member more":      strings.Replace(golden, `"}`, `","x":"y"}`, 1),
		"a member twice":     strings.Replace(golden, `,"kind"`, `,"verdict":"accepted","kind"`, 1),
		"another order":      `{"v":1,"verdict":"accepted","received":1,"kind":"message","data":"eyJ2IjoxfQ"}`,
		"cut":                golden[:len(golden)-1],
		"too long":           strings.Replace(golden, `eyJ2IjoxfQ`, strings.Repeat("AAAA", MaxSize/4), 1),
	} {
		if l, err := Parse([]byte(raw)); err == nil {
			t.Errorf("%s: read as %+v", name, l)
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, change := range map[string]func(*Leaf){
		"a negative time":  func(l *Leaf) { l.Received = -1 },
		"a time too large": func(l *Leaf) { l.Received = 1 << 53 },
		"no verdict":       func(l *Leaf) { l.Verdict = "" },
		"a quote":          func(l *Leaf) { l.Verdict = `a"` },
		"no kind":          func(l *Leaf) { l.Kind = "" },
		"no data":          func(l *Leaf) { l.Data = nil },
		"too much data":    func(l *Leaf) { l.Data = make([]byte, 49_200) },
	} {
		l := goldenLeaf
		change(&l)
		if raw, err := l.Marshal(); err == nil {
			t.Errorf("%s: written as %s", name, raw)
		}
	}
}

// The largest envelope of a signed message fits.
func TestMarshalHoldsTheLargestEnvelope(t *testing.T) {
	l := Leaf{Received: maxReceived, Verdict: strings.Repeat("a", maxVerdict), Kind: KindRevocation, Data: make([]byte, 32<<10)}
	raw, err := l.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Parse(raw); err != nil || !reflect.DeepEqual(again, l) {
		t.Fatal(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(golden))
	f.Add([]byte(strings.Replace(golden, "message", "grant", 1)))
	f.Add([]byte(strings.Replace(golden, "1729697327822", "0", 1)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := Parse(raw)
		if err != nil {
			if !reflect.DeepEqual(l, Leaf{}) {
				t.Fatalf("refused, but returned %+v", l)
			}
			return
		}
		again, err := l.Marshal()
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("%q is spelt %q again, %v", raw, again, err)
		}
		var members struct {
			V        int
			Received int64
			Verdict  string
			Kind     string
			Data     string
		}
		if err := json.Unmarshal(raw, &members); err != nil || members.Received != l.Received || members.Verdict != l.Verdict || members.Kind != string(l.Kind) {
			t.Fatalf("%q reads as %+v in encoding/json, %v", raw, members, err)
		}
	})
}
