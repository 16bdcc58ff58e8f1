package issuance

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"levee/pki"
)

// filled returns a journal of n issuances, one revocation and one readmission,
// its path and its entries.
func filled(w *world, n int) (string, []Entry) {
	w.t.Helper()
	path := w.create()
	j := w.open(w.config(path), nil)
	var entries []Entry
	add := func(r Record) {
		e, err := j.Append(r, w.now)
		w.must(err)
		entries = append(entries, e)
	}
	for i := range n {
		add(w.issuance(fmt.Sprintf("web-%d", i)))
	}
	ann := identity("melb", pki.RoleOperator, "ann")
	add(Record{Kind: Revocation, Order: w.order(Revoke, Order{Targets: []string{"melb/sensor/web-0"}}, ann), Number: 1})
	add(Record{Kind: Readmission, Order: w.order(Readmit, Order{All: true}, byPeople("melb")), Number: 1})
	w.must(j.Close())
	return path, entries
}

func TestEntriesAreReadAgain(t *testing.T) {
	w := newWorld(t)
	path, entries := filled(w, 3)
	var got []Entry
	j := w.open(w.config(path), func(e Entry) error { got = append(got, e); return nil })
	if len(got) != len(entries) {
		t.Fatalf("%d entries, want %d", len(got), len(entries))
	}
	for i, e := range got {
		want := entries[i]
		if !bytes.Equal(e.Raw, want.Raw) || e.Kind != want.Kind || e.ID != want.ID || e.Index != uint64(i) || e.Number != want.Number ||
			e.Cause != want.Cause || !bytes.Equal(e.Order, want.Order) || e.Authority != machines("melb") || e.Time != w.now.UnixMilli() {
			t.Errorf("entry %d is %+v", i, e)
		}
		if want.Certificate != nil && !want.Certificate.Equal(e.Certificate) {
			t.Errorf("entry %d has another certificate", i)
		}
	}
	if p := j.Position(); p.Lines != 5 || p.Last != (Position{}).after(entries[4].Raw).Last {
		t.Errorf("position %+v", p)
	}
	for _, test := range []struct {
		index uint64
		lines int
		size  int64
		want  []int
	}{
		{0, 9, 1 << 20, []int{0, 1, 2, 3, 4}}, {2, 2, 1 << 20, []int{2, 3}}, {4, 9, 0, []int{4}}, {5, 9, 1 << 20, nil}, {1 << 50, 9, 1 << 20, nil},
		{0, 9, int64(len(entries[0].Raw) + len(entries[1].Raw) + 2), []int{0, 1}}, {0, 9, int64(len(entries[0].Raw) + len(entries[1].Raw) + 1), []int{0}},
	} {
		lines, err := j.Read(test.index, test.lines, test.size)
		if err != nil || len(lines) != len(test.want) {
			t.Errorf("Read(%d, %d, %d): %d lines, %v; want %v", test.index, test.lines, test.size, len(lines), err, test.want)
			continue
		}
		for i, line := range lines {
			if !bytes.Equal(line, entries[test.want[i]].Raw) {
				t.Errorf("Read(%d, %d, %d): line %d is another one", test.index, test.lines, test.size, i)
			}
		}
	}
	// Whoever verifies from the root alone reads the same.
	lines, err := j.Read(0, 9, 1<<20)
	w.must(err)
	verified, at, err := Verify(lines, w.root.Certificate, w.verifier, machines("melb"), "iss-1", Position{})
	if err != nil || len(verified) != 5 || at != j.Position() {
		t.Errorf("Verify: %d entries, %+v, %v", len(verified), at, err)
	}
	e, err := ReadEntry(lines[1])
	if err != nil || !e.Certificate.Equal(entries[1].Certificate) {
		t.Errorf("ReadEntry: %v", err)
	}
}

func TestOneWriter(t *testing.T) {
	w := newWorld(t)
	path := w.create()
	if err := Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("creating again: %v", err)
	}
	j := w.open(w.config(path), nil)
	if _, err := Open(w.config(path), nil, w.now); !errors.Is(err, ErrInUse) {
		t.Errorf("a second writer: %v, want ErrInUse", err)
	}
	w.must(j.Close())
	if _, err := j.Append(w.issuance("web-1"), w.now); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("writing what is closed: %v", err)
	}
	if _, err := j.Read(0, 1, 1); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("reading what is closed: %v", err)
	}
	w.open(w.config(path), nil)
}

// A write that was cut short, wherever, is no reason to stop; and nothing of it
// stays in the way of the next.
func TestTornLastLine(t *testing.T) {
	w := newWorld(t)
	path, entries := filled(w, 2)
	whole, err := os.ReadFile(path)
	w.must(err)
	last := len(entries[3].Raw) + 1
	before := whole[:len(whole)-last]
	torn := map[string][]byte{
		"zeros alone": append(bytes.Clone(before), make([]byte, last)...),
		// The second page was written and the first was not.
		"a hole within": append(append(bytes.Clone(before), make([]byte, 100)...), whole[len(before)+100:]...),
	}
	for cut := 1; cut < last; cut += 97 {
		torn[fmt.Sprintf("%d bytes less", cut)] = whole[:len(whole)-cut]
	}
	torn["a byte less"] = whole[:len(whole)-1]
	torn["a byte of it"] = whole[:len(before)+1]
	for name, b := range torn {
		w.must(os.WriteFile(path, b, 0o600))
		var n int
		j, err := Open(w.config(path), func(Entry) error { n++; return nil }, w.now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, _ := os.ReadFile(path); n != 3 || !bytes.Equal(got, before) {
			t.Errorf("%s: %d entries, want 3; the rest is still there: %v", name, n, !bytes.Equal(got, before))
		}
		if _, err := j.Append(w.issuance("web-9"), w.now); err != nil {
			t.Errorf("%s: then: %v", name, err)
		}
		w.must(j.Close())
		w.must(w.open(w.config(path), nil).Close())
	}
}

// Whatever else is wrong with a journal, it is not continued.
func TestDamageRefuses(t *testing.T) {
	w := newWorld(t)
	path, entries := filled(w, 3)
	whole, err := os.ReadFile(path)
	w.must(err)
	lines := bytes.SplitAfter(whole, []byte("\n"))[:5]
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	flipped := func(line int, at int) []byte {
		b := bytes.Clone(whole)
		offset := at
		for _, l := range lines[:line] {
			offset += len(l)
		}
		b[offset] ^= 1
		return b
	}
	foreign := func(c Config, r Record, at Position) []byte {
		a, err := newAuthor(c.Name, c.Key, c.Issuer, c.Root, c.Verifier, w.now)
		w.must(err)
		e, err := a.line(r, at, w.now)
		w.must(err)
		return append(e.Raw, '\n')
	}
	other := w.config(path)
	other.Name = "iss-2"
	syd := w.config(path)
	syd.Key, syd.Issuer = w.issuers[machines("syd")].Signer, w.issuers[machines("syd")].Certificate
	persons := w.config(path)
	persons.Key, persons.Issuer = w.issuers[people("melb")].Signer, w.issuers[people("melb")].Certificate
	end := Position{Lines: 4, Last: entries[4].Previous}
	for name, b := range map[string][]byte{
		"a bit of the first line":         flipped(0, 30),
		"a bit of a certificate":          flipped(1, len(lines[1])/2),
		"a bit of the last signature":     flipped(4, len(lines[4])-40),
		"the first line is gone":          join(lines[1:]...),
		"a line within is gone":           join(lines[0], lines[2], lines[3], lines[4]),
		"two lines are swapped":           join(lines[1], lines[0], lines[2], lines[3], lines[4]),
		"a line stands twice":             join(lines[0], lines[1], lines[1], lines[2], lines[3], lines[4]),
		"an empty line":                   join(lines[0], []byte("\n"), lines[1]),
		"an empty last line":              join(lines[0], []byte("\n")),
		"zeros before whole lines":        join(make([]byte, 50), []byte("\n"), lines[0]),
		"something else":                  []byte("hello\n"),
		"a long line":                     append(bytes.Repeat([]byte("x"), MaxLine+2), '\n'),
		"a long line without an end":      bytes.Repeat([]byte("x"), MaxLine+2),
		"carriage returns":                bytes.ReplaceAll(whole, []byte("\n"), []byte("\r\n")),
		"a line of another journal":       join(lines[0], lines[1], lines[2], lines[3], foreign(other, w.issuance("a"), end)),
		"a line of another site":          join(lines[0], lines[1], lines[2], lines[3], foreign(syd, w.sydIssuance(), end)),
		"a line of the people's":          join(lines[0], lines[1], lines[2], lines[3], foreign(persons, w.issuance("a"), end)),
		"a last line that nobody vouches": join(lines[0], lines[1], lines[2], lines[3], resigned(entries[4])),
	} {
		w.must(os.WriteFile(path, b, 0o600))
		j, err := Open(w.config(path), nil, w.now)
		if err == nil {
			t.Errorf("%s: opened", name)
			j.Close()
			continue
		}
		if got, _ := os.ReadFile(path); !bytes.Equal(got, b) {
			t.Errorf("%s: refused, and the file was changed", name)
		}
	}
}

func (w *world) sydIssuance() Record {
	cert, _ := w.leaf(identity("syd", pki.RoleSensor, "web-1"))
	return Record{Kind: Issuance, Certificate: cert, Cause: CauseRenewal}
}

// resigned returns an entry's line with the last character of its signature
// changed.
func resigned(e Entry) []byte {
	b := bytes.Clone(e.Raw)
	at := len(b) - 40
	if b[at] == 'A' {
		b[at] = 'B'
	} else {
		b[at] = 'A'
	}
	return append(b, '\n')
}

func TestOpenRefuses(t *testing.T) {
	w := newWorld(t)
	path, entries := filled(w, 1)
	at := Position{}
	for _, e := range entries[:2] {
		at = at.after(e.Raw)
	}
	further := Position{Lines: 4, Last: at.Last}
	another := Position{Lines: 2, Last: strings.Repeat("A", 43)}
	for name, test := range map[string]struct {
		change func(*Config)
		want   error
	}{
		"missing":                       {func(c *Config) { c.Path = filepath.Join(t.TempDir(), "journal") }, fs.ErrNotExist},
		"a directory":                   {func(c *Config) { c.Path = t.TempDir() }, nil},
		"no name":                       {func(c *Config) { c.Name = "" }, nil},
		"another's name":                {func(c *Config) { c.Name = "iss-2" }, nil},
		"no key":                        {func(c *Config) { c.Key = nil }, nil},
		"another key":                   {func(c *Config) { c.Key = w.issuers[machines("syd")].Signer }, nil},
		"another site's authority":      {func(c *Config) { a := w.issuers[machines("syd")]; c.Key, c.Issuer = a.Signer, a.Certificate }, nil},
		"the people's authority":        {func(c *Config) { a := w.issuers[people("melb")]; c.Key, c.Issuer = a.Signer, a.Certificate }, nil},
		"fewer lines than were seen":    {func(c *Config) { c.Least = further }, ErrRolledBack},
		"another line than was seen":    {func(c *Config) { c.Least = another }, ErrRolledBack},
		"more lines than there ever is": {func(c *Config) { c.Least = Position{Lines: 1 << 60, Last: at.Last} }, ErrRolledBack},
	} {
		c := w.config(path)
		test.change(&c)
		j, err := Open(c, nil, w.now)
		if err == nil {
			t.Errorf("%s: opened", name)
			j.Close()
		} else if test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	c := w.config(path)
	c.Least = at
	w.must(w.open(c, nil).Close())
	bad := errors.New("bad")
	if _, err := Open(w.config(path), func(Entry) error { return bad }, w.now); !errors.Is(err, bad) {
		t.Errorf("an entry that its reader refuses: %v", err)
	}
}

func TestAppendRefuses(t *testing.T) {
	w := newWorld(t)
	path := w.create()
	j := w.open(w.config(path), nil)
	good := w.issuance("web-1")
	token := w.order(Revoke, Order{Targets: []string{"melb/sensor/web-0"}}, byPeople("melb"))
	for name, r := range map[string]Record{
		"nothing":                       {},
		"no kind":                       {Certificate: good.Certificate, Cause: CauseRenewal},
		"no certificate":                {Kind: Issuance, Cause: CauseRenewal},
		"no cause":                      {Kind: Issuance, Certificate: good.Certificate},
		"an unknown cause":              {Kind: Issuance, Certificate: good.Certificate, Cause: "gift"},
		"a renewal by order":            {Kind: Issuance, Certificate: good.Certificate, Cause: CauseRenewal, Order: token},
		"a join without a token":        {Kind: Issuance, Certificate: good.Certificate, Cause: CauseJoin},
		"an issuance with a number":     {Kind: Issuance, Certificate: good.Certificate, Cause: CauseRenewal, Number: 1},
		"a revocation without an order": {Kind: Revocation, Number: 1},
		"a revocation of a certificate": {Kind: Revocation, Order: token, Certificate: good.Certificate},
		"a number too large":            {Kind: Revocation, Order: token, Number: 1 << 60},
		"more than a line holds":        {Kind: Revocation, Order: make([]byte, MaxLine), Number: 1},
	} {
		if _, err := j.Append(r, w.now); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if b, _ := os.ReadFile(path); len(b) != 0 || j.Position() != (Position{}) {
		t.Errorf("%d bytes are in the file", len(b))
	}
	if _, err := j.Append(good, w.now); err != nil {
		t.Error(err)
	}
}
