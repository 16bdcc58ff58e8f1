package wire_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"levee/internal/wire"
)

const (
	goodAck      = `{"timestamp":1729697327.822,"boot":"192b9fdc06e","seq":42,"backfill":3}`
	goodBackfill = `{"timestamp":1729697327.822,"from":38,"envelopes":["eyJ2IjoxfQ","eyJ2IjoyfQ"]}`
)

// edited returns text with old replaced by new, which must stand in it.
func edited(t testing.TB, text, old, new string) []byte {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("%q is not in %s", old, text)
	}
	return []byte(strings.Replace(text, old, new, 1))
}

func TestAck(t *testing.T) {
	a, err := wire.ParseAck([]byte(goodAck))
	if err != nil || a != (wire.Ack{Timestamp: 1729697327.822, Boot: "192b9fdc06e", Seq: 42, Backfill: 3}) {
		t.Errorf("%+v, %v", a, err)
	}
	if b, err := wire.Encode(&a); err != nil || string(b) != goodAck {
		t.Errorf("%s, %v", b, err)
	}
	for _, edit := range [][2]string{
		{`"boot":"192b9fdc06e",`, ``}, {`"seq":42,`, ``}, {`,"backfill":3`, ``}, {`"timestamp":1729697327.822,`, ``},
		{`"192b9fdc06e"`, `"00000000000"`}, {`"192b9fdc06e"`, `"192B9FDC06E"`}, {`"192b9fdc06e"`, `"92b9fdc06e"`}, {`"192b9fdc06e"`, `"1192b9fdc06e"`},
		{`"192b9fdc06e"`, `"192b9fdc06 "`}, {`"192b9fdc06e"`, `1729697267822`}, {`42`, `-1`}, {`42`, `1.5`}, {`42`, `18446744073709551616`},
		{`:3`, `:"3"`}, {`:3`, `:null`}, {`{`, `{"more":1,`},
	} {
		if a, err := wire.ParseAck(edited(t, goodAck, edit[0], edit[1])); !errors.Is(err, wire.ErrPayload) || a != (wire.Ack{}) {
			t.Errorf("%q: %+v, %v", edit, a, err)
		}
	}
}

func TestBackfill(t *testing.T) {
	f, err := wire.ParseBackfill([]byte(goodBackfill))
	if err != nil || f.From != 38 || len(f.Envelopes) != 2 || string(f.Envelopes[1]) != `{"v":2}` {
		t.Errorf("%+v, %v", f, err)
	}
	if b, err := wire.Encode(&f); err != nil || string(b) != goodBackfill {
		t.Errorf("%s, %v", b, err)
	}
	many := func(n int) string { return strings.TrimSuffix(strings.Repeat(`"eyJ2IjoxfQ",`, n), ",") }
	long := func(n int) string { return base64.RawURLEncoding.EncodeToString(make([]byte, n)) }
	originals := `"eyJ2IjoxfQ","eyJ2IjoyfQ"`
	for _, good := range []string{many(1), many(wire.MaxOriginals), `"` + long(wire.MaxOriginal) + `"`} {
		if _, err := wire.ParseBackfill(edited(t, goodBackfill, originals, good)); err != nil {
			t.Errorf("%.40s: %v", good, err)
		}
	}
	for _, edit := range [][2]string{
		{`"from":38,`, ``}, {`38`, `0`}, {`38`, `-1`}, {`38`, `1.5`}, {`,"envelopes":[` + originals + `]`, ``}, {originals, ``}, {`[` + originals + `]`, `null`},
		{originals, many(wire.MaxOriginals + 1)}, {originals, `"` + long(wire.MaxOriginal+1) + `"`}, {originals, `""`}, {originals, `1`}, {originals, `["eyJ2IjoxfQ"]`},
		{`eyJ2IjoxfQ`, `eyJ2IjoxfR`}, {`eyJ2IjoxfQ`, `eyJ2IjoxfQ==`}, {`eyJ2IjoxfQ`, `eyJ2Ijox\nfQ`}, {`eyJ2IjoxfQ`, `eyJ2Ijox\r\nfQ`},
		{`eyJ2IjoxfQ`, `eyJ2Ijoxf`}, {`eyJ2IjoxfQ`, `+yJ2IjoxfQ`}, {`{`, `{"more":1,`},
	} {
		if f, err := wire.ParseBackfill(edited(t, goodBackfill, edit[0], edit[1])); !errors.Is(err, wire.ErrPayload) || f.Envelopes != nil {
			t.Errorf("%.60q: %+v, %v", edit, f, err)
		}
	}
}

// What is accepted has one spelling, but for its numbers' and strings' escapes;
// and what is refused leaves nothing.
func FuzzDelivery(f *testing.F) {
	for _, seed := range []string{goodAck, goodBackfill, `{}`, `{"timestamp":1,"boot":"00000000001","seq":0,"backfill":0}`,
		`{"timestamp":1,"from":1,"envelopes":["AA"]}`, `{"timestamp":1,"from":1,"envelopes":["A\u0041"]}`, `{"timestamp":1,"from":1,"envelopes":["AB"]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := wire.ParseAck(b)
		if err != nil && a != (wire.Ack{}) {
			t.Fatal("a refusal returned an acknowledgement")
		}
		if err == nil {
			again, err := wire.Encode(&a)
			if err != nil || wire.CheckObject(b) != nil {
				t.Fatalf("%q: %v", b, err)
			}
			if back, err := wire.ParseAck(again); err != nil || back != a {
				t.Fatalf("%q came back as %q, %v", b, again, err)
			}
		}
		x, err := wire.ParseBackfill(b)
		if err != nil {
			if x.Envelopes != nil {
				t.Fatal("a refusal returned originals")
			}
			return
		}
		if len(x.Envelopes) == 0 || len(x.Envelopes) > wire.MaxOriginals || x.From == 0 || wire.CheckObject(b) != nil {
			t.Fatalf("%q is accepted", b)
		}
		for _, o := range x.Envelopes {
			if len(o) == 0 || len(o) > wire.MaxOriginal {
				t.Fatalf("an original of %d bytes", len(o))
			}
		}
		again, err := wire.Encode(&x)
		if err != nil {
			t.Fatal(err)
		}
		back, err := wire.ParseBackfill(again)
		if err != nil || fmt.Sprint(back) != fmt.Sprint(x) || !bytes.Contains(again, []byte(base64.RawURLEncoding.EncodeToString(x.Envelopes[0]))) {
			t.Fatalf("%q came back as %q, %v", b, again, err)
		}
	})
}
