package wire_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"levee/envelope"
	"levee/internal/wire"
)

const goodPresence = `{"timestamp":1729697327.8,"machines":3,"changes":[{"machine":"sensor/web-1","state":"gone","since":1729697327822,"reason":"lost"},` +
	`{"machine":"controller/lb-1","state":"present","since":1729697327000},{"machine":"sensor/web-2","state":"present","since":1729697327001,"reason":"silent"}],` +
	`"roster":{"after":"","through":"sensor/web-1","present":[["controller/lb-1",1729697327000],["monitor/m1",1]]}}`

func TestParsePresence(t *testing.T) {
	p, err := wire.ParsePresence([]byte(goodPresence))
	if err != nil || p.Machines != 3 || len(p.Changes) != 3 || p.Changes[0].Reason != wire.EndLost || p.Roster.Present[1] != (wire.Attendee{Machine: "monitor/m1", Since: 1}) {
		t.Fatalf("%+v, %v", p, err)
	}
	if b, err := wire.Encode(&p); err != nil || string(b) != goodPresence {
		t.Errorf("it came back as %s, %v", b, err)
	}
	for _, good := range []string{
		`{"timestamp":1,"machines":0,"changes":[]}`,
		`{"timestamp":1,"machines":0,"changes":[],"more":{"x":1}}`, // a newer broker may say more
		`{"timestamp":1,"machines":0,"changes":[],"roster":{"after":"sensor/a","through":"","present":[]}}`,
	} {
		if _, err := wire.ParsePresence([]byte(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}

func TestPresenceIsRefused(t *testing.T) {
	change := func(members string) string {
		return `{"timestamp":1,"machines":0,"changes":[{` + members + `}]}`
	}
	page := func(members string) string {
		return `{"timestamp":1,"machines":0,"changes":[],"roster":{` + members + `}}`
	}
	many := func(n int, format string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(all, ",")
	}
	const changed, attendee = `{"machine":"sensor/w%03d","state":"present","since":1}`, `["sensor/w%03d",1]`
	for _, good := range []string{
		`{"timestamp":1,"machines":0,"changes":[` + many(wire.MaxPresenceChanges, changed) + `]}`,
		page(`"after":"","through":"","present":[` + many(wire.MaxRosterPage, attendee) + `]`),
	} {
		if _, err := wire.ParsePresence([]byte(good)); err != nil {
			t.Errorf("as many as there may be: %v", err)
		}
	}
	for name, bad := range map[string]string{
		"no changes":                   `{"timestamp":1,"machines":0}`,
		"no count":                     `{"timestamp":1,"changes":[]}`,
		"a count below 0":              `{"timestamp":1,"machines":-1,"changes":[]}`,
		"too many changes":             `{"timestamp":1,"machines":0,"changes":[` + many(wire.MaxPresenceChanges+1, changed) + `]}`,
		"one machine twice":            `{"timestamp":1,"machines":0,"changes":[` + many(2, `{"machine":"sensor/web-1","state":"present","since":1%d}`) + `]}`,
		"no machine":                   change(`"state":"present","since":1`),
		"a site before it":             change(`"machine":"melb/sensor/web-1","state":"present","since":1`),
		"no name":                      change(`"machine":"sensor/","state":"present","since":1`),
		"a name with a dot":            change(`"machine":"sensor/web.1","state":"present","since":1`),
		"a name that ends with -":      change(`"machine":"sensor/web-","state":"present","since":1`),
		"a name of 25 letters":         change(`"machine":"sensor/` + strings.Repeat("a", 25) + `","state":"present","since":1`),
		"a person":                     change(`"machine":"operator/alice","state":"present","since":1`),
		"a guest":                      change(`"machine":"guest/g1","state":"present","since":1`),
		"a broker":                     change(`"machine":"broker/b1","state":"present","since":1`),
		"no state":                     change(`"machine":"sensor/web-1","since":1`),
		"an invented state":            change(`"machine":"sensor/web-1","state":"asleep","since":1`),
		"no time":                      change(`"machine":"sensor/web-1","state":"present"`),
		"a time before 1970":           change(`"machine":"sensor/web-1","state":"present","since":-1`),
		"a time beyond JSON":           change(`"machine":"sensor/web-1","state":"present","since":9007199254740993`),
		"gone without a reason":        change(`"machine":"sensor/web-1","state":"gone","since":1`),
		"an invented reason":           change(`"machine":"sensor/web-1","state":"gone","since":1,"reason":"\u001b[2J"`),
		"a page without its list":      page(`"after":"","through":""`),
		"a page without its beginning": page(`"through":"","present":[]`),
		"a page without its end":       page(`"after":"","present":[]`),
		"a page that ends first":       page(`"after":"sensor/b","through":"sensor/a","present":[]`),
		"a page of nothing":            page(`"after":"sensor/b","through":"sensor/b","present":[]`),
		"a page from nowhere":          page(`"after":"x","through":"","present":[]`),
		"too long a page":              page(`"after":"","through":"","present":[` + many(wire.MaxRosterPage+1, attendee) + `]`),
		"one before the page":          page(`"after":"sensor/b","through":"","present":[["sensor/b",1]]`),
		"one behind the page":          page(`"after":"","through":"sensor/b","present":[["sensor/c",1]]`),
		"out of order":                 page(`"after":"","through":"","present":[["sensor/b",1],["sensor/a",1]]`),
		"one twice":                    page(`"after":"","through":"","present":[["sensor/b",1],["sensor/b",1]]`),
		"a person on the page":         page(`"after":"","through":"","present":[["operator/alice",1]]`),
		"no time on the page":          page(`"after":"","through":"","present":[["sensor/b",0]]`),
		"half of one":                  page(`"after":"","through":"","present":[["sensor/b"]]`),
		"more of one":                  page(`"after":"","through":"","present":[["sensor/b",1,2]]`),
		"no pair":                      page(`"after":"","through":"","present":[{}]`),
		"null":                         `{"timestamp":1,"machines":0,"changes":[],"roster":null}`,
	} {
		if p, err := wire.ParsePresence([]byte(bad)); !errors.Is(err, wire.ErrPayload) || !reflect.DeepEqual(p, wire.Presence{}) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

// The longest payloads leave room in an envelope of the class, whose signature
// brings two certificates.
func TestPresenceFitsItsClass(t *testing.T) {
	const certificates = 4 << 10
	longest := func(i int) string { return fmt.Sprintf("controller/%024d", i) }
	var changes, page wire.Presence
	page.Changes, page.Roster = []wire.PresenceChange{}, &wire.Roster{After: longest(1), Through: longest(999)}
	for i := range wire.MaxPresenceChanges {
		changes.Changes = append(changes.Changes, wire.PresenceChange{Machine: longest(i), State: wire.StatePresent, Since: 1 << 53, Reason: wire.EndMisconduct})
	}
	for i := range wire.MaxRosterPage {
		page.Roster.Present = append(page.Roster.Present, wire.Attendee{Machine: longest(i + 2), Since: 1 << 53})
	}
	for name, p := range map[string]wire.Presence{"changes": changes, "page": page} {
		p.Timestamp, p.Machines = 1729697327.822, 1<<53
		b, err := wire.Encode(&p)
		if err != nil || len(b) > envelope.MaxMessage-certificates {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		if _, err := wire.ParsePresence(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzPresence(f *testing.F) {
	for _, seed := range []string{goodPresence, `{"timestamp":1,"machines":0,"changes":[]}`, `{"timestamp":1,"machines":0,"changes":[],"roster":{"after":"","through":"","present":[]}}`,
		`{"timestamp":1,"machines":1,"changes":[{"machine":"sensor/a","state":"gone","since":1,"reason":"left","more":[]}]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := wire.ParsePresence(b)
		if err != nil {
			if !reflect.DeepEqual(p, wire.Presence{}) {
				t.Fatalf("a refusal returned %+v", p)
			}
			return
		}
		if wire.CheckObject(b) != nil || len(p.Changes) > wire.MaxPresenceChanges || p.Roster != nil && len(p.Roster.Present) > wire.MaxRosterPage {
			t.Fatalf("%q is accepted", b)
		}
		again, err := wire.Encode(&p)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := wire.ParsePresence(again); err != nil || !reflect.DeepEqual(back, p) {
			t.Fatalf("%q came back as %q, %v", b, again, err)
		}
	})
}
