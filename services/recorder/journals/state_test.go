package journals

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"levee/internal/issuance"
	"levee/internal/records"
	"levee/internal/translog/leaf"
	"levee/pki"
)

// The note of the progress saves time and decides nothing: whatever becomes of
// it, each line is in the log once.
func TestNote(t *testing.T) {
	w := newWorld(t)
	j := w.write(machines, issuance.Deployer).sensors(5)
	fork := w.write(machines, issuance.Deployer).sensors(5)
	link := func(lines [][]byte, n int) string { return hash(lines[n-1]) }
	for name, test := range map[string]struct{ content, said string }{
		"lost":                 {"", ""},
		"empty":                {" ", "does not hold"},
		"of a longer log":      {`{"size":99,"journals":[{"class":"machine","name":"deployer","lines":5,"last":"` + link(j.lines, 5) + `"}]}`, "of a log with 99 entries"},
		"older":                {`{"size":2,"journals":[{"class":"machine","name":"deployer","lines":2,"last":"` + link(j.lines, 2) + `"}]}`, ""},
		"of nothing":           {`{"size":0,"journals":[]}`, ""},
		"twice":                {`{"size":0,"journals":[{"class":"machine","name":"deployer","lines":1,"last":"` + link(j.lines, 1) + `"},{"class":"machine","name":"deployer","lines":1,"last":"` + link(j.lines, 1) + `"}]}`, "does not hold"},
		"of no class":          {`{"size":0,"journals":[{"class":"none","name":"deployer","lines":1,"last":"` + link(j.lines, 1) + `"}]}`, "does not hold"},
		"with another member":  {`{"size":0,"journals":[],"more":1}`, "does not hold"},
		"of a negative length": {`{"size":-1,"journals":[]}`, "does not hold"},
		"of another history":   {`{"size":2,"journals":[{"class":"machine","name":"deployer","lines":2,"last":"` + link(fork.lines, 2) + `"}]}`, "does not follow the one before"},
	} {
		t.Run(name, func(t *testing.T) {
			p := w.place()
			p.put(records.FileMachines, text(j.lines[:3]))
			p.put(records.FilePeople, nil)
			i := p.start()
			i.round()
			i.stop()
			if test.content == "" {
				w.must(os.Remove(p.path("state/imported")))
			} else {
				w.must(os.WriteFile(p.path("state/imported"), []byte(test.content), 0o600))
			}
			p.put(records.FileMachines, text(j.lines))
			i = p.start()
			said := i.round()
			if !strings.Contains(said, test.said) || test.said == "" && said != "" {
				t.Errorf("said %q, want %q", said, test.said)
			}
			if name == "of another history" { // nobody can tell which: nothing more is imported
				i.want(j.lines[:3])
				return
			}
			i.want(j.lines)
		})
	}
}

// A crash between the writes of a batch may leave a later line without an
// earlier one. Neither is then there twice.
func TestHoles(t *testing.T) {
	w := newWorld(t)
	j := w.write(machines, issuance.Deployer).sensors(6)
	p := w.place()
	p.put(records.FileMachines, text(j.lines[:2]))
	p.put(records.FilePeople, nil)
	first := p.start()
	for _, n := range []int{3, 0, 5, 1} {
		raw, err := leaf.Leaf{Received: w.now.UnixMilli(), Verdict: "accepted", Kind: leaf.KindIssuance, Data: j.lines[n]}.Marshal()
		w.must(err)
		_, err = first.log.AppendAll(t.Context(), [][]byte{raw})
		w.must(err)
	}
	first.stop()
	second := p.start()
	for range 2 { // with what is carried, nothing can be filled in
		if said := second.round(); said != "" {
			t.Errorf("said %q", said)
		}
	}
	second.stop()
	p.put(records.FileMachines, text(j.lines))
	i := p.start()
	if said := i.round(); said != "" {
		t.Errorf("said %q", said)
	}
	_, err := i.log.Checkpoint(t.Context())
	w.must(err)
	if got, _ := i.entries(); !slices.EqualFunc(got, [][]byte{j.lines[3], j.lines[0], j.lines[5], j.lines[1], j.lines[2], j.lines[4]}, bytes.Equal) {
		t.Errorf("%d entries, or others than what was missing", len(got))
	}
}

// A line that the log holds already, ahead of others, is not covered by another
// one.
func TestAheadOfAnotherHistory(t *testing.T) {
	w := newWorld(t)
	j, fork := w.write(machines, issuance.Deployer).sensors(4), w.write(machines, issuance.Deployer).sensors(4)
	p := w.place()
	p.put(records.FileMachines, text(j.lines))
	i := p.start()
	raw, err := leaf.Leaf{Received: w.now.UnixMilli(), Verdict: "accepted", Kind: leaf.KindIssuance, Data: fork.lines[2]}.Marshal()
	w.must(err)
	_, err = i.log.AppendAll(t.Context(), [][]byte{raw})
	w.must(err)
	if said := i.round(); !strings.Contains(said, "ERROR a journal is not imported") || !strings.Contains(said, "line 2 is another one than the log holds") {
		t.Errorf("said %q", said)
	}
	i.want(fork.lines[2:3])
}

// What the log holds of a journal may contradict itself, or be more than a site
// can have: then nothing is added to it, and what is kept in memory is bounded.
func TestTracks(t *testing.T) {
	i := &Importer{tracks: make(map[key]*track)}
	at := func(n int) link { return link{fmt.Sprint("line ", n), fmt.Sprint("line ", n-1)} }
	for name, test := range map[string]struct {
		saw  func(*track)
		want string
	}{
		"two lines of one index": {func(t *track) { t.saw(3, at(3)); t.saw(3, at(4)) }, "two lines of index 3"},
		"another history":        {func(t *track) { t.saw(1, at(7)); t.saw(0, link{"line 0", ""}) }, "line 1 in the log does not follow"},
		"a line that is missing": {func(t *track) {
			for n := 1; n < maxAhead+10; n++ {
				t.saw(uint64(n), at(n))
			}
		}, "lacks line 0"},
		"a line twice": {func(t *track) {
			t.saw(0, link{"line 0", ""})
			t.saw(0, link{"line 0", ""})
			t.saw(2, at(2))
			t.saw(2, at(2))
		}, ""},
	} {
		k := key{pki.ClassMachine, name}
		test.saw(i.track(k))
		got, err := i.open(k)
		if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) || len(got.ahead) > maxAhead {
			t.Errorf("%s: %v, %d lines wait", name, err, len(got.ahead))
		}
	}
	for n := range maxTracks + 5 {
		i.track(key{pki.ClassMachine, fmt.Sprint("iss-", n)})
	}
	if _, err := i.open(key{pki.ClassPerson, "more"}); !errors.Is(err, errTooMany) || len(i.tracks) != maxTracks {
		t.Errorf("%v, %d journals", err, len(i.tracks))
	}
}

// What the log does not take is asked of the log again, and not appended anew.
func TestAppendFails(t *testing.T) {
	w := newWorld(t)
	j := w.write(machines, issuance.Deployer).sensors(maxBatch + 3)
	p := w.place()
	p.put(records.FileMachines, text(j.lines))
	p.put(records.FilePeople, nil)
	i := p.start()
	l := &lossy{Log: i.log}
	i.Importer.log = l
	if said := i.round(); !strings.Contains(said, "no space") {
		t.Fatalf("said %q", said)
	}
	if said := i.round(); !strings.Contains(said, "imported again") {
		t.Errorf("said %q", said)
	}
	i.want(j.lines)
}

// lossy appends the first batch, and says that it did not.
type lossy struct {
	Log
	failed bool
}

func (l *lossy) AppendAll(ctx context.Context, entries [][]byte) ([]uint64, error) {
	indices, err := l.Log.AppendAll(ctx, entries)
	if !l.failed {
		l.failed = true
		return nil, errors.New("no space left on device")
	}
	return indices, err
}
