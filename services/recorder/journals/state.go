package journals

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"reflect"
	"slices"

	"levee/internal/durable"
	"levee/internal/issuance"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/entries"
)

// note is the content of the state file.
type note struct {
	Size     int64      `json:"size"`
	Journals []progress `json:"journals"`
}

// progress is how far one journal was imported.
type progress struct {
	Class string `json:"class"`
	Name  string `json:"name"`
	Lines uint64 `json:"lines"`
	Last  string `json:"last"`
}

// maxNote bounds the state file in bytes.
const maxNote = 64 << 10

// parseNote reads the state file.
func parseNote(b []byte) (n note, tracks map[key]*track, err error) {
	if err := wire.DecodeExact(b, &n); err != nil {
		return note{}, nil, err
	}
	tracks = make(map[key]*track)
	for _, p := range n.Journals {
		k := key{name: p.Name}
		for _, class := range []pki.Class{pki.ClassMachine, pki.ClassPerson} {
			if p.Class == class.String() {
				k.class = class
			}
		}
		if k.class == pki.ClassNone || !pki.ValidName(p.Name) || tracks[k] != nil || p.Lines == 0 || len(p.Last) != len(hash(nil)) {
			return note{}, nil, fmt.Errorf("it does not say how far %q of %q was imported", p.Name, p.Class)
		}
		tracks[k] = &track{position: issuance.Position{Lines: p.Lines, Last: p.Last}, ahead: make(map[uint64]link)}
	}
	if n.Size < 0 || len(tracks) > maxTracks {
		return note{}, nil, errors.New("it is of no log of ours")
	}
	return n, tracks, nil
}

// learn finds out what the log holds, unless that is known: what was noted, and
// what came after. The log decides; the note only saves time.
func (i *Importer) learn(ctx context.Context) error {
	if i.known {
		return nil
	}
	head, err := i.log.Checkpoint(ctx) // of everything that a crash left in the tree
	if err != nil {
		return fmt.Errorf("reading what the log holds: %w", err)
	}
	i.noted, i.tracks = note{}, make(map[key]*track)
	b, err := durable.ReadFile(i.config.State, maxNote)
	if err == nil {
		var n note
		var tracks map[key]*track
		n, tracks, err = parseNote(b)
		if err == nil && n.Size > head.Tree.N {
			err = fmt.Errorf("it is of a log with %d entries, and this one has %d", n.Size, head.Tree.N)
		}
		if err == nil {
			i.noted, i.tracks = n, tracks
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		i.config.Logger.Error("the note of what was imported does not hold; the whole log is read instead",
			slog.String("file", i.config.State), slog.Any("error", err))
	}
	if err := entries.Read(ctx, i.config.Log, i.noted.Size, head.Tree.N, i.saw); err != nil {
		return fmt.Errorf("reading what the log holds: %w", err)
	}
	i.known = true
	return nil
}

// remember notes what is known for the next start.
func (i *Importer) remember(ctx context.Context) error {
	head, err := i.log.Checkpoint(ctx)
	if err != nil {
		return err
	}
	n := note{Size: head.Tree.N, Journals: []progress{}}
	for _, k := range slices.SortedFunc(maps.Keys(i.tracks), func(a, b key) int { return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.name, b.name)) }) {
		t := i.tracks[k]
		if len(t.ahead) > 0 || t.forked != nil {
			return nil // what the note cannot say must be read again
		}
		if t.position.Lines > 0 {
			n.Journals = append(n.Journals, progress{k.class.String(), k.name, t.position.Lines, t.position.Last})
		}
	}
	if reflect.DeepEqual(n, i.noted) {
		return nil
	}
	b, err := wire.Encode(&n)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(i.config.State, b, 0o600); err != nil {
		return err
	}
	i.noted = n
	return nil
}

// saw takes note of an entry of the log.
func (i *Importer) saw(_ int64, raw []byte) error {
	l, err := leaf.Parse(raw)
	if err != nil {
		return err
	}
	if l.Kind != leaf.KindIssuance && l.Kind != leaf.KindRevocation {
		return nil
	}
	e, err := issuance.ReadEntry(l.Data)
	if err != nil {
		return err
	}
	t := i.track(key{e.Authority.Class, e.Journal})
	if t == nil {
		return errTooMany
	}
	t.saw(e.Index, link{hash(e.Raw), e.Previous})
	return nil
}
