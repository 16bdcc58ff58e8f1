package translog

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"levee/internal/translog/proof"
)

// One byte changed in every file of a log that was really written, in turn: the
// entry or the path is named.
func TestOneChangedByteIsNamed(t *testing.T) {
	s := newSite(t)
	s.create(t)
	s.extend(t, "run", 40, 300, 5, 256, 700)
	files := fstest.MapFS{}
	for _, name := range s.files(t) {
		content, err := os.ReadFile(s.cfg.path(name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: content}
	}
	cfg := s.proofConfig()
	cfg.FS = files
	if _, err := proof.Verify(t.Context(), cfg, nil); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for name, file := range files {
		if len(file.Data) == 0 && !strings.HasSuffix(name, ".lock") {
			t.Fatalf("%s is empty", name)
		}
		last := len(file.Data) - 1
		for _, at := range []int{0, 1, last / 3, last / 2, last - 1, last} {
			if at < 0 || at > last {
				continue
			}
			changed := maps.Clone(files)
			content := append([]byte(nil), file.Data...)
			content[at] ^= 0x04
			changed[name] = &fstest.MapFile{Data: content}
			cfg.FS = changed
			_, err := proof.Verify(t.Context(), cfg, nil)
			checked++
			var entry *proof.EntryError
			var other *proof.FileError
			switch {
			case errors.As(err, &entry) && entry.Path == name && entry.Last == 0:
			case errors.As(err, &other) && other.Path == name:
			default:
				t.Errorf("%s, byte %d: %v", name, at, err)
			}
		}
	}
	t.Logf("%d files, %d changes", len(files), checked)
	if checked < 100 {
		t.Fatal("too few changes to mean anything")
	}
}

// The file that was emptied or is gone is named.
func TestAMissingFileIsNamed(t *testing.T) {
	s := newSite(t)
	s.create(t)
	s.extend(t, "run", 40, 300)
	all := os.DirFS(s.cfg.Dir)
	files := s.files(t)
	for _, name := range files {
		if strings.HasSuffix(name, ".lock") || superseded(name, files) {
			continue
		}
		cfg := s.proofConfig()
		cfg.FS = without{all, name}
		_, err := proof.Verify(t.Context(), cfg, nil)
		var file *proof.FileError
		if !errors.As(err, &file) || file.Path != name {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// superseded reports whether a wider tile stands in place of the partial tile
// name. How many of those a log leaves behind depends on how its appends met in
// batches.
func superseded(name string, files []string) bool {
	tile, width, partial := strings.Cut(name, ".p/")
	return partial && slices.ContainsFunc(files, func(other string) bool {
		wider, found := strings.CutPrefix(other, tile+".p/")
		if !found {
			return other == tile
		}
		return len(wider) > len(width) || len(wider) == len(width) && wider > width
	})
}

type without struct {
	fs.FS
	name string
}

func (w without) Open(name string) (fs.File, error) {
	if name == w.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return w.FS.Open(name)
}
