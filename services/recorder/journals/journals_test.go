package journals

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/enrol"
	"levee/internal/issuance"
	"levee/internal/metrics"
	"levee/internal/records"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/pki"
)

// What a deployer's journal must not be. Nothing of it reaches the log, and what
// is right beside it does.
func TestFileRefusals(t *testing.T) {
	w := newWorld(t)
	good := w.write(machines, issuance.Deployer).sensors(4)
	other := w.write(machines, issuance.Deployer).sensors(4)
	large := w.write(machines, issuance.Deployer).sensors(maxBatch + 2)
	beside := w.write(people, issuance.Deployer).issue(identity("melb", pki.RoleOperator, "ann"))
	long := slices.Insert(slices.Clone(good.lines), 3, bytes.Repeat([]byte("x"), issuance.MaxLine+1))
	change := func(line int, old, new string) [][]byte {
		lines := slices.Clone(good.lines)
		lines[line] = bytes.Replace(lines[line], []byte(old), []byte(new), 1)
		return lines
	}
	for name, test := range map[string]struct {
		content []byte
		want    string
	}{
		"another site's":             {text(w.write(authority("syd", pki.ClassMachine), issuance.Deployer).issue(identity("syd", pki.RoleSensor, "web-1")).lines), "line 0"},
		"the people's":               {text(beside.lines), "line 0"},
		"an issuer's":                {text(w.write(machines, "iss-1").sensors(1).lines), `of journal "iss-1"`},
		"a gap":                      {text(slices.Delete(slices.Clone(good.lines), 2, 3)), "line 2"},
		"a gap in a second batch":    {text(slices.Delete(slices.Clone(large.lines), maxBatch, maxBatch+1)), "line 64"},
		"a beginning that is gone":   {text(good.lines[1:]), "line 0"},
		"lines in another order":     {text([][]byte{good.lines[1], good.lines[0]}), "line 0"},
		"a line twice":               {text(slices.Insert(slices.Clone(good.lines), 3, good.lines[2])), "line 3"},
		"a line of another journal":  {text(slices.Concat(good.lines[:3], other.lines[3:])), "line 3"},
		"a changed time":             {text(change(3, `"ts":`, `"ts":1`)), "line 3"},
		"a changed signature":        {text(change(3, `"sig":"`, `"sig":"A`)), "line 3"},
		"a broken certificate":       {text(change(3, `"certificate":"MII`, `"certificate":"MIJ`)), "line 3"},
		"a line that is too long":    {text(long), "longer than"},
		"an empty line":              {append(text(good.lines), '\n'), "line 4"},
		"a last line that is cut":    {text(good.lines)[:len(text(good.lines))-1], "not carried whole"},
		"zeros in place of its end":  {append(text(good.lines), make([]byte, 100)...), "not carried whole"},
		"something else":             {[]byte("nothing of ours\n"), "line 0"},
		"more than a journal can be": {nil, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			p := w.place()
			p.put(records.FileMachines, test.content)
			if test.content == nil {
				w.must(os.Truncate(p.path("bundle/"+records.FileMachines), maxFile+1))
			}
			p.put(records.FilePeople, text(beside.lines))
			i := p.start()
			said := i.round()
			if !strings.Contains(said, "ERROR a journal is not imported") || !strings.Contains(said, test.want) || strings.Count(said, "\n") != 0 {
				t.Errorf("said %q, want %q", said, test.want)
			}
			i.want(beside.lines)
			if said := i.round(); said != "" {
				t.Errorf("said again %q", said)
			}
			p.put(records.FileMachines, text(good.lines))
			if said := i.round(); !strings.Contains(said, "imported again") {
				t.Errorf("the right one in its place: %q", said)
			}
			i.want(beside.lines, good.lines)
		})
	}
}

// A journal may only grow.
func TestFileContinues(t *testing.T) {
	w := newWorld(t)
	j := w.write(machines, issuance.Deployer).sensors(5)
	fork := w.write(machines, issuance.Deployer).sensors(9)
	for _, restart := range []bool{false, true} {
		p := w.place()
		p.put(records.FileMachines, text(j.lines[:3]))
		i := p.start()
		next := func(content []byte, want string, lines [][]byte) {
			t.Helper()
			if content == nil {
				w.must(os.Remove(p.path("bundle/" + records.FileMachines)))
			} else {
				p.put(records.FileMachines, content)
			}
			if restart {
				i.stop()
				i = p.start()
			}
			if said := i.round(); !strings.Contains(said, want) {
				t.Errorf("restart %t: said %q, want %q", restart, said, want)
			}
			i.want(lines)
		}
		if said := i.round(); !strings.Contains(said, "no such journal") || !strings.Contains(said, records.FilePeople) {
			t.Errorf("said %q", said)
		}
		i.want(j.lines[:3])
		next(text(j.lines[:2]), "older copy", j.lines[:3])
		next([]byte{}, "older copy", j.lines[:3])
		next(text(fork.lines), "another journal", j.lines[:3])
		next(text(slices.Concat(j.lines[:2], j.lines[3:])), "line 2", j.lines[:3])
		next(text(fork.lines[:3]), "another journal", j.lines[:3])
		next(nil, "is gone", j.lines[:3])
		next(text(j.lines), "", j.lines)
		next(text(j.lines[:3]), "older copy", j.lines)
	}
}

// Journals that a bundle does not hold are spoken of once.
func TestAbsent(t *testing.T) {
	p := newWorld(t).place()
	i := p.start()
	if said := i.round(); strings.Count(said, "INFO no such journal") != 2 || strings.Contains(said, "ERROR") {
		t.Errorf("said %q", said)
	}
	if said := i.round(); said != "" {
		t.Errorf("said again %q", said)
	}
	if got := ages(i.Importer); len(got) != 0 {
		t.Errorf("ages %v", got)
	}
	j := p.write(machines, issuance.Deployer).sensors(1)
	p.put(records.FileMachines, []byte("wrong\n"))
	if said := i.round(); !strings.Contains(said, "ERROR a journal is not imported") || strings.Contains(said, "overdue") {
		t.Errorf("said %q", said)
	}
	p.put(records.FileMachines, text(j.lines))
	i.round()
	i.want(j.lines)
	if got := ages(i.Importer); len(got) != 1 {
		t.Errorf("ages %v", got)
	}
}

// A path that is no file is refused, and nothing waits for it.
func TestNoRegularFile(t *testing.T) {
	p := newWorld(t).place()
	p.must(os.Mkdir(p.path("bundle/"+records.FileMachines), 0o700))
	if said := p.start().round(); !strings.Contains(said, "not a regular file") {
		t.Errorf("said %q", said)
	}
}

// The kinds of the log's entries.
func TestKinds(t *testing.T) {
	w := newWorld(t)
	p := w.place()
	j := w.write(machines, issuance.Deployer).sensors(1).orders()
	p.put(records.FileMachines, text(j.lines))
	i := p.start()
	i.round()
	i.want(j.lines)
	if _, kinds := i.entries(); !slices.Equal(kinds, []leaf.Kind{leaf.KindIssuance, leaf.KindRevocation, leaf.KindRevocation}) {
		t.Errorf("%q", kinds)
	}
}

// deployed is a place whose bundle names the issuer iss-2.
func deployed(w *world) (*place, [][]byte) {
	p := w.place()
	j := w.write(machines, issuance.Deployer).issue(identity("melb", pki.RoleIssuer, "iss-1")).issue(identity("melb", pki.RoleIssuer, "iss-2")).sensors(1)
	p.put(records.FileMachines, text(j.lines))
	p.put(records.FilePeople, nil)
	return p, j.lines
}

func TestIssuer(t *testing.T) {
	w := newWorld(t)
	p, before := deployed(w)
	j := w.write(machines, "iss-2").sensors(7)
	a := &answers{lines: j.lines[:5], page: 2}
	p.issuer = a
	i := p.start()
	if said := i.round(); said != "" {
		t.Errorf("said %q", said)
	}
	i.want(before, j.lines[:5])
	if want := []string{"iss-2 0", "iss-2 2", "iss-2 4", "iss-2 5"}; !slices.Equal(a.asked, want) {
		t.Errorf("asked %q, want %q", a.asked, want)
	}
	a.lines, a.page, a.asked = j.lines, 100, nil
	for range 2 {
		i.round()
	}
	i.want(before, j.lines)
	if want := []string{"iss-2 4", "iss-2 7", "iss-2 6", "iss-2 7"}; !slices.Equal(a.asked, want) {
		t.Errorf("asked %q, want %q", a.asked, want)
	}
	i.stop()
	again := p.start()
	again.round()
	again.want(before, j.lines)
}

func TestIssuerRefusals(t *testing.T) {
	w := newWorld(t)
	j := w.write(machines, "iss-2").sensors(6)
	other := w.write(machines, "iss-2").sensors(7)
	broken := slices.Clone(j.lines)
	broken[5] = bytes.Replace(broken[5], []byte(`"sig":"`), []byte(`"sig":"A`), 1)
	for name, test := range map[string]struct {
		lines [][]byte
		err   error
		want  string
	}{
		"shorter":                 {lines: j.lines[:3], want: "ERROR a journal is not imported journal=issuer error=the issuer's journal is shorter"},
		"much shorter":            {lines: j.lines[:2], want: "ERROR a journal is not imported journal=issuer error=the issuer's journal is shorter"},
		"empty":                   {lines: nil, want: "ERROR a journal is not imported"},
		"another":                 {lines: other.lines, want: "another journal"},
		"another's continuation":  {lines: slices.Concat(j.lines[:4], other.lines[4:]), want: "line 4"},
		"a gap":                   {lines: slices.Concat(j.lines[:4], j.lines[5:]), want: "line 4"},
		"another site's":          {lines: slices.Concat(j.lines[:4], w.write(authority("syd", pki.ClassMachine), "iss-2").issue(identity("syd", pki.RoleSensor, "web-1")).lines), want: "line 4"},
		"the people's":            {lines: slices.Concat(j.lines[:4], w.write(people, "iss-2").issue(identity("melb", pki.RoleOperator, "ann")).lines), want: "line 4"},
		"a line that is broken":   {lines: broken, want: "line 5"},
		"a line that is too long": {lines: slices.Concat(j.lines[:4], [][]byte{bytes.Repeat([]byte("x"), 1<<20)}), want: "line 4"},
		"no answer":               {err: errors.New("connection refused"), want: "WARN a journal is not imported"},
	} {
		t.Run(name, func(t *testing.T) {
			p, before := deployed(w)
			a := &answers{lines: j.lines[:4], page: 100}
			p.issuer = a
			i := p.start()
			i.round()
			a.lines, a.err = test.lines, test.err
			if said := i.round(); !strings.Contains(said, test.want) || strings.Contains(said, "\n") {
				t.Errorf("said %q, want %q", said, test.want)
			}
			if said := i.round(); said != "" {
				t.Errorf("said again %q", said)
			}
			i.want(before, j.lines[:4])
			a.lines, a.err = j.lines, nil
			if said := i.round(); !strings.Contains(said, "imported again") {
				t.Errorf("said %q", said)
			}
			i.want(before, j.lines)
		})
	}
}

// Whose journal to ask for is what the deployer's journal says.
func TestIssuerOfNoName(t *testing.T) {
	p := newWorld(t).place()
	a := &answers{}
	p.issuer = a
	if said := p.start().round(); !strings.Contains(said, "name of the issuer is not known") || len(a.asked) != 0 {
		t.Errorf("said %q, asked %q", said, a.asked)
	}
}

// memory is a log for bubbles.
type memory struct{ n atomic.Int64 }

func (m *memory) AppendAll(_ context.Context, entries [][]byte) ([]uint64, error) {
	m.n.Add(int64(len(entries)))
	return make([]uint64, len(entries)), nil
}

func (m *memory) Checkpoint(context.Context) (proof.Checkpoint, error) {
	return proof.Checkpoint{}, nil
}

func ages(i *Importer) map[string]float64 {
	got := make(map[string]float64)
	for _, f := range i.Metrics() {
		if f.Name == "levee_issuance_import_age_seconds" && f.Type == metrics.Gauge {
			f.Collect(func(label string, value float64) { got[label] = value })
		}
	}
	return got
}

// What is overdue is said once, and when it is over; meanwhile the rest goes on.
func TestOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := &place{world: w, root: t.TempDir(), said: new(logged)}
		w.must(errors.Join(os.Mkdir(p.path("bundle"), 0o700), os.Mkdir(p.path("state"), 0o700)))
		d := w.write(machines, issuance.Deployer).issue(identity("melb", pki.RoleIssuer, "iss-1"))
		j := w.write(machines, "iss-1").sensors(1)
		p.put(records.FileMachines, text(d.lines))
		a := &answers{err: errors.New("connection refused"), lines: j.lines}
		p.issuer = a
		i, err := New(p.config())
		w.must(err)
		log := new(memory)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { i.Run(ctx, log); close(done) }()
		time.Sleep(14*time.Minute + time.Second)
		if said := p.said.take(); strings.Contains(said, "overdue") || !strings.Contains(said, "WARN") || strings.Count(said, "refused") != 1 {
			t.Errorf("said %q", said)
		}
		time.Sleep(time.Hour)
		if said := p.said.take(); strings.Count(said, "\n") != 0 || !strings.Contains(said, "ERROR what was issued is overdue") {
			t.Errorf("said %q", said)
		}
		if got := ages(i); len(got) != 2 || got["issuer"] < 74*60 || got[records.FileMachines] > 60 {
			t.Errorf("ages %v", got)
		}
		a.fail(nil)
		time.Sleep(time.Minute)
		if said := p.said.take(); said != "INFO the journal is imported again journal=issuer" || log.n.Load() != 2 {
			t.Errorf("said %q, %d entries", said, log.n.Load())
		}
		if got := ages(i); got["issuer"] > 60 {
			t.Errorf("ages %v", got)
		}
		a.fail(errors.New("connection refused"))
		time.Sleep(20 * time.Minute)
		if said := p.said.take(); strings.Count(said, "overdue") != 1 {
			t.Errorf("it begins anew: said %q", said)
		}
		stop()
		<-done
	})
}

// The end of the context is no failure.
func TestStopped(t *testing.T) {
	w := newWorld(t)
	p := w.place()
	p.put(records.FileMachines, text(w.write(machines, issuance.Deployer).sensors(1).lines))
	i := p.start()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	i.Importer.Run(ctx, i.log)
	if said := p.said.take(); said != "" {
		t.Errorf("said %q", said)
	}
	i.want(nil)
}

func TestNewRefuses(t *testing.T) {
	p := newWorld(t).place()
	for name, change := range map[string]func(*Config){
		"site": func(c *Config) { c.Site = "ops" }, "root": func(c *Config) { c.Root = nil }, "verifier": func(c *Config) { c.Verifier = nil },
		"bundle": func(c *Config) { c.Bundle = "" }, "log": func(c *Config) { c.Log = "" }, "state": func(c *Config) { c.State = "" },
		"logger": func(c *Config) { c.Logger = nil },
	} {
		c := p.config()
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("without %s: accepted", name)
		}
	}
	var _ Issuer = (*enrol.Client)(nil)
}

// The page's examples are what the code reads and writes.
func TestPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "..", "docs", "records.md"))
	if err != nil {
		t.Fatal(err)
	}
	notes, leaves := 0, 0
	for line := range strings.Lines(string(page)) {
		example := []byte(strings.TrimSpace(line))
		switch {
		case bytes.HasPrefix(example, []byte(`{"size":4`)):
			notes++
			n, tracks, err := parseNote(example)
			if err != nil || n.Size != 4711 || tracks[deployers(pki.ClassMachine)].position.Lines != 2 {
				t.Errorf("%s: %v", example, err)
			}
			p := newWorld(t).place()
			p.must(os.WriteFile(p.path("state/imported"), example, 0o600))
			i := p.start().Importer
			i.known, i.tracks = true, tracks
			p.must(i.remember(t.Context()))
			want := bytes.Replace(example, []byte("4711"), []byte("0"), 1)
			if got, _ := os.ReadFile(p.path("state/imported")); !bytes.Equal(got, want) {
				t.Errorf("written as %s", got)
			}
		case bytes.Contains(example, []byte(`"kind":"issuance"`)):
			leaves++
			l, err := leaf.Parse(example)
			if err != nil || l.Kind != leaf.KindIssuance || string(l.Data) != `{"v":1}` {
				t.Errorf("%s: %v", example, err)
			}
		}
	}
	if notes != 1 || leaves != 1 {
		t.Errorf("%d notes and %d entries on the page", notes, leaves)
	}
}

func FuzzNote(f *testing.F) {
	f.Add([]byte(`{"size":0,"journals":[]}`))
	f.Add([]byte(`{"size":4711,"journals":[{"class":"machine","name":"deployer","lines":2,"last":"47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, tracks, err := parseNote(b)
		if err != nil {
			if tracks != nil {
				t.Error("an error and tracks")
			}
			return
		}
		if n.Size < 0 || len(tracks) != len(n.Journals) {
			t.Errorf("%+v", n)
		}
		for k, track := range tracks {
			if k.class == pki.ClassNone || track.position.Lines == 0 {
				t.Errorf("%v: %+v", k, track)
			}
		}
	})
}

// Whatever a file holds, it is imported only if it is a journal, from its
// beginning on.
func FuzzFile(f *testing.F) {
	w := newWorld(f)
	j := w.write(machines, issuance.Deployer).issue(identity("melb", pki.RoleIssuer, "iss-1")).sensors(1).orders()
	whole := text(j.lines)
	for _, seed := range [][]byte{whole, whole[:len(whole)-1], whole[len(j.lines[0])+1:], text(j.lines[:1]), nil, []byte("\n"), []byte("hello\n")} {
		f.Add(seed)
	}
	i, err := New(w.place().config())
	w.must(err)
	f.Fuzz(func(t *testing.T, b []byte) {
		taken := 0
		name, err := i.walk(bytes.NewReader(b), pki.ClassMachine, issuance.Position{}, func(entries []issuance.Entry) error { taken += len(entries); return nil })
		switch {
		case err != nil && name != "":
			t.Error("an error and a name")
		case err == nil && (!bytes.HasPrefix(whole, b) || taken != bytes.Count(b, []byte("\n")) || (name != "") != (taken > 0)):
			t.Errorf("%d lines of %q are taken, and %q", taken, b, name)
		}
	})
}

// BenchmarkImport imports a deployer's journal into a log on this disk.
func BenchmarkImport(b *testing.B) {
	w := newWorld(b)
	j := w.write(machines, issuance.Deployer).sensors(2 * maxBatch)
	for b.Loop() {
		b.StopTimer()
		p := w.place()
		p.put(records.FileMachines, text(j.lines))
		i := p.start()
		b.StartTimer()
		i.round()
	}
	b.ReportMetric(float64(b.N*2*maxBatch)/b.Elapsed().Seconds(), "lines/s")
}
