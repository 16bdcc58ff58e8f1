package proof

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func TestVerifyAcceptsWhatPackageTlogWrote(t *testing.T) {
	for _, sizes := range [][]int64{
		{0}, {1}, {2}, {3}, {255}, {256}, {257}, {511}, {512}, {513}, {1, 2, 3}, {100, 300, 301, 700},
		{256, 512}, {65535}, {65536, 65537, 66000},
	} {
		t.Run(fmt.Sprint(sizes), func(t *testing.T) {
			l := grown(t, sizes...)
			size := sizes[len(sizes)-1]
			next := int64(0)
			cp, err := Verify(t.Context(), l.config(l.files), func(index int64, entry []byte) error {
				if index != next || !bytes.Equal(entry, testEntry(index)) {
					return fmt.Errorf("got %d %q", index, entry)
				}
				next++
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if next != size || cp.Tree.N != size || cp.Tree.Hash != l.roots[size] {
				t.Fatalf("handed out %d entries of %d, checkpoint %+v", next, size, cp.Tree)
			}
		})
	}
}

// accuses checks that err names the entry or the path.
func accuses(t *testing.T, err error, wantEntry int64, wantPath string) {
	t.Helper()
	var entry *EntryError
	var file *FileError
	switch {
	case err == nil:
		t.Fatal("nothing was found")
	case errors.As(err, &entry) && entry.Index == wantEntry && strings.Contains(err.Error(), fmt.Sprintf("entry %d ", wantEntry)):
	case errors.As(err, &file) && file.Path == wantPath && strings.Contains(err.Error(), wantPath):
	default:
		t.Fatalf("accused %v, want entry %d or %q", err, wantEntry, wantPath)
	}
}

// Every file, changed at its first, last and some middle bytes; the small ones
// at each byte.
func TestVerifyNamesTheChangedByte(t *testing.T) {
	l := grown(t, 3, 290, 700)
	for path, file := range l.files {
		step := max(1, len(file.Data)/7)
		if !strings.HasPrefix(path, "tile/") {
			step = 1
		}
		for at := 0; at < len(file.Data); at += step {
			checkChanged(t, l, path, at, 0x01, 0x20, 0x80)
		}
		if len(file.Data) > 0 {
			checkChanged(t, l, path, len(file.Data)-1, 0x01, 0x20, 0x80)
		}
	}
}

// The same where there are three levels of tiles.
func TestVerifyNamesTheChangedByteInATallTree(t *testing.T) {
	l := grown(t, 300, 65536, 66000)
	for _, path := range []string{
		"tile/2/000.p/1", "tile/1/000", "tile/1/001.p/1", "tile/0/255", "tile/0/256", "tile/0/257.p/208", "tile/0/001.p/44",
		"tile/entries/000", "tile/entries/256", "tile/entries/257.p/208", "tile/entries/001.p/44",
	} {
		checkChanged(t, l, path, len(l.files[path].Data)/2, 1)
	}
}

func checkChanged(t *testing.T, l *testLog, path string, at int, flips ...byte) {
	t.Helper()
	content := l.files[path].Data
	for _, flip := range flips {
		fsys := l.copied()
		changed(fsys, path, at, flip)
		_, err := Verify(t.Context(), l.config(fsys), nil)
		state, serr := ParseTreeState(l.files[TreeStateFile].Data)
		if serr != nil {
			t.Fatal(serr)
		}
		wantEntry, wantPath := int64(-1), path
		tile, perr := ParseTilePath(path)
		if perr == nil && tile.L == entryLevel && tile.W == widthIn(tile.L, tile.N, state.N) {
			wantEntry, wantPath = entryAt(tile, content, at), ""
		}
		t.Run(fmt.Sprintf("%s@%d^%x", path, at, flip), func(t *testing.T) { accuses(t, err, wantEntry, wantPath) })
	}
}

// entryAt returns the index of the entry whose length or bytes are at offset at.
func entryAt(tile tlog.Tile, bundle []byte, at int) int64 {
	index := tile.N << tileHeight
	for rest := bundle; ; index++ {
		_, after, ok := cutEntry(rest)
		if !ok || len(bundle)-len(after) > at {
			return index
		}
		rest = after
	}
}

func TestVerifyNamesWhatElseWasDone(t *testing.T) {
	bundle := func(fsys fstest.MapFS, path string, change func([][]byte) [][]byte) {
		var entries [][]byte
		for rest := fsys[path].Data; len(rest) > 0; {
			entry, after, _ := cutEntry(rest)
			entries = append(entries, rest[:2+len(entry)])
			rest = after
		}
		fsys[path] = &fstest.MapFile{Data: bytes.Join(change(entries), nil)}
	}
	other, _, err := note.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		do    func(t *testing.T, l *testLog, fsys fstest.MapFS)
		entry int64
		path  string
	}{
		{"entry removed", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			bundle(fsys, "tile/entries/001", func(e [][]byte) [][]byte { return slices.Delete(e, 17, 18) })
		}, 256 + 17, ""},
		{"last entry removed", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			bundle(fsys, "tile/entries/002.p/188", func(e [][]byte) [][]byte { return e[:187] })
		}, 699, ""},
		{"entry added", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			bundle(fsys, "tile/entries/001", func(e [][]byte) [][]byte { return append(e, e[0]) })
		}, -1, "tile/entries/001"},
		{"two entries swapped", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			bundle(fsys, "tile/entries/000", func(e [][]byte) [][]byte { e[5], e[9] = e[9], e[5]; return e })
		}, 5, ""},
		{"entry and its tile changed together", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			bundle(fsys, "tile/entries/001", func(e [][]byte) [][]byte { e[4] = append([]byte{0, 1}, 'x'); return e })
			h := tlog.RecordHash([]byte("x"))
			tile := bytes.Clone(fsys["tile/0/001"].Data)
			copy(tile[4*tlog.HashSize:], h[:])
			delete(fsys, "tile/0/001.p/44")
			delete(fsys, "tile/entries/001.p/44")
			fsys["tile/0/001"] = &fstest.MapFile{Data: tile}
		}, 256, ""},
		{"bundle missing", func(t *testing.T, l *testLog, fsys fstest.MapFS) { delete(fsys, "tile/entries/001") }, -1, "tile/entries/001"},
		{"newest bundle missing", func(t *testing.T, l *testLog, fsys fstest.MapFS) { delete(fsys, "tile/entries/002.p/188") }, -1, "tile/entries/002.p/188"},
		{"tile missing", func(t *testing.T, l *testLog, fsys fstest.MapFS) { delete(fsys, "tile/0/001") }, -1, "tile/0/001"},
		{"upper tile missing", func(t *testing.T, l *testLog, fsys fstest.MapFS) { delete(fsys, "tile/1/000.p/2") }, -1, "tile/1/000.p/2"},
		{"tile cut", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			fsys["tile/0/001"] = &fstest.MapFile{Data: fsys["tile/0/001"].Data[:8191]}
		}, -1, "tile/0/001"},
		{"checkpoint missing", func(t *testing.T, l *testLog, fsys fstest.MapFS) { delete(fsys, CheckpointFile) }, -1, CheckpointFile},
		{"tree state missing", func(t *testing.T, l *testLog, fsys fstest.MapFS) { delete(fsys, TreeStateFile) }, -1, TreeStateFile},
		{"version missing", func(t *testing.T, l *testLog, fsys fstest.MapFS) { delete(fsys, VersionFile) }, -1, VersionFile},
		{"tree state put back", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			l.integrated(t, 300)
			fsys[TreeStateFile] = l.files[TreeStateFile]
			l.integrated(t, 700)
		}, -1, TreeStateFile},
		{"checkpoint of another log's key", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			signer, err := note.NewSigner(other)
			if err != nil {
				t.Fatal(err)
			}
			fsys[CheckpointFile] = &fstest.MapFile{Data: sign(t, CheckpointText(testOrigin, tlog.Tree{N: 700, Hash: l.roots[700]}), signer)}
		}, -1, CheckpointFile},
		{"checkpoint of another root", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			fsys[CheckpointFile] = &fstest.MapFile{Data: sign(t, CheckpointText(testOrigin, tlog.Tree{N: 700, Hash: l.roots[300]}), l.signer)}
		}, -1, CheckpointFile},
		{"checkpoint with a line more", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			fsys[CheckpointFile] = &fstest.MapFile{Data: sign(t, CheckpointText(testOrigin, tlog.Tree{N: 700, Hash: l.roots[700]})+"more\n", l.signer)}
		}, -1, CheckpointFile},
		{"checkpoint with its size spelt otherwise", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			text := strings.Replace(CheckpointText(testOrigin, tlog.Tree{N: 700, Hash: l.roots[700]}), "\n700", "\n0700", 1)
			fsys[CheckpointFile] = &fstest.MapFile{Data: sign(t, text, l.signer)}
		}, -1, CheckpointFile},
		{"checkpoint with its signature twice", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			lines := strings.SplitAfter(string(fsys[CheckpointFile].Data), "\n")
			fsys[CheckpointFile] = &fstest.MapFile{Data: []byte(strings.Join(lines, "") + lines[len(lines)-2])}
		}, -1, CheckpointFile},
		{"checkpoint ahead of the tree", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			fsys[CheckpointFile] = &fstest.MapFile{Data: sign(t, CheckpointText(testOrigin, tlog.Tree{N: 701, Hash: l.roots[700]}), l.signer)}
		}, -1, TreeStateFile},
		{"lock not empty", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			fsys[".state/treeState.lock"] = &fstest.MapFile{Data: []byte("x")}
		}, -1, ".state/treeState.lock"},
		{"tile after the end", func(t *testing.T, l *testLog, fsys fstest.MapFS) { fsys["tile/0/003"] = fsys["tile/0/001"] }, -1, "tile/0/003"},
		{"wider tile at the end", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			fsys["tile/0/002.p/189"] = fsys["tile/0/001"]
		}, -1, "tile/0/002.p/189"},
		{"level above the root", func(t *testing.T, l *testLog, fsys fstest.MapFS) { fsys["tile/2/000.p/1"] = fsys["tile/0/001"] }, -1, "tile/2/000.p/1"},
		{"foreign file", func(t *testing.T, l *testLog, fsys fstest.MapFS) { fsys["notes.txt"] = &fstest.MapFile{} }, -1, "notes.txt"},
		{"second spelling of a tile", func(t *testing.T, l *testLog, fsys fstest.MapFS) { fsys["tile/00/001"] = fsys["tile/0/001"] }, -1, "tile/00/001"},
		{"temporary file", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			fsys["tile/0/0011804289383"] = fsys["tile/0/001"]
		}, -1, "tile/0/0011804289383"},
		{"link", func(t *testing.T, l *testLog, fsys fstest.MapFS) {
			fsys["outside"] = fsys["tile/0/001.p/44"] // as good as the original
			fsys["tile/0/001.p/44"] = &fstest.MapFile{Data: []byte("../../../outside"), Mode: fs.ModeSymlink}
		}, -1, "tile/0/001.p/44"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := grown(t, 300, 700)
			fsys := l.copied()
			tc.do(t, l, fsys)
			_, err := Verify(t.Context(), l.config(fsys), nil)
			var entry *EntryError
			if errors.As(err, &entry) && entry.Last > 0 && entry.Index == tc.entry {
				return // a range, which begins there
			}
			accuses(t, err, tc.entry, tc.path)
		})
	}
}

// All of a bundle, its tile and everything above rewritten by someone without
// the key: only the signed root is left to contradict.
func TestVerifyFindsARewrittenTree(t *testing.T) {
	l := grown(t, 700)
	forged := newTestLog(t)
	forged.files = fstest.MapFS{}
	for i := range int64(700) {
		entry := testEntry(i)
		if i == 17 {
			entry = []byte("another")
		}
		hashes, err := tlog.StoredHashes(i, entry, forged)
		if err != nil {
			t.Fatal(err)
		}
		forged.stored = append(forged.stored, hashes...)
	}
	fsys := l.copied()
	for _, tile := range tlog.NewTiles(tileHeight, 0, 700) {
		data, err := tlog.ReadTileData(tile, forged)
		if err != nil {
			t.Fatal(err)
		}
		fsys[TilePath(tile)] = &fstest.MapFile{Data: data}
	}
	path := "tile/entries/000"
	old := fsys[path].Data
	from, to := entryOffsets(old, 17)
	fsys[path] = &fstest.MapFile{Data: slices.Concat(old[:from], []byte("\x00\x07another"), old[to:])}
	_, err := Verify(t.Context(), l.config(fsys), nil)
	accuses(t, err, -1, CheckpointFile)

	// With the tree state fixed as well, nothing but the signature differs.
	root, err := tlog.TreeHash(700, forged)
	if err != nil {
		t.Fatal(err)
	}
	state, err := TreeState(tlog.Tree{N: 700, Hash: root})
	if err != nil {
		t.Fatal(err)
	}
	fsys[TreeStateFile] = &fstest.MapFile{Data: state}
	_, err = Verify(t.Context(), l.config(fsys), nil)
	accuses(t, err, -1, CheckpointFile)
}

func entryOffsets(bundle []byte, i int) (from, to int) {
	rest := bundle
	for range i {
		_, rest, _ = cutEntry(rest)
	}
	_, after, _ := cutEntry(rest)
	return len(bundle) - len(rest), len(bundle) - len(after)
}

func TestVerifyChecksEntriesAheadOfTheCheckpoint(t *testing.T) {
	l := grown(t, 300)
	l.grow(t, 300, 310)
	handed := int64(0)
	count := func(int64, []byte) error { handed++; return nil }
	if _, err := Verify(t.Context(), l.config(l.files), count); err != nil || handed != 300 {
		t.Fatalf("handed out %d entries: %v", handed, err)
	}
	fsys := l.copied()
	path := "tile/entries/001.p/54"
	changed(fsys, path, len(fsys[path].Data)-1, 1)
	_, err := Verify(t.Context(), l.config(fsys), nil)
	accuses(t, err, 309, path)

	// The record of the tree is all that says 310: it is the one to name.
	fsys = l.copied()
	delete(fsys, path)
	delete(fsys, "tile/0/001.p/54")
	_, err = Verify(t.Context(), l.config(fsys), nil)
	accuses(t, err, -1, TreeStateFile)

	fsys = l.copied()
	state, err := TreeState(tlog.Tree{N: 310, Hash: l.roots[300]})
	if err != nil {
		t.Fatal(err)
	}
	fsys[TreeStateFile] = &fstest.MapFile{Data: state}
	_, err = Verify(t.Context(), l.config(fsys), nil)
	accuses(t, err, -1, TreeStateFile)
}

func TestVerifyReadsTheFullTileOnceThePartialOneIsGone(t *testing.T) {
	l := grown(t, 300)
	l.grow(t, 300, 700)
	fsys := l.copied()
	for path := range l.files {
		if strings.HasPrefix(path, "tile/0/001.p/") || strings.HasPrefix(path, "tile/entries/001.p/") {
			delete(fsys, path)
		}
	}
	// The tree state of a reader who was slower than the writer.
	l.integrated(t, 300)
	state := l.files[TreeStateFile]
	fsys[TreeStateFile] = state
	slow := slowState{MapFS: maps.Clone(fsys), later: l, t: t}
	cfg := l.config(&slow)
	cfg.Grace = time.Minute
	synctest.Test(t, func(t *testing.T) {
		if _, err := Verify(t.Context(), cfg, nil); err != nil {
			t.Fatal(err)
		}
	})
	// At rest, the same files are ahead of the tree for ever.
	fsys[TreeStateFile] = state
	_, err := Verify(t.Context(), l.config(fsys), nil)
	var file *FileError
	if !errors.As(err, &file) || !strings.HasPrefix(file.Path, "tile/") {
		t.Fatalf("got %v", err)
	}
}

// slowState shows the tree of 300 entries at the first look, 700 afterwards.
type slowState struct {
	fstest.MapFS
	later *testLog
	t     *testing.T
	looks int
}

func (s *slowState) Open(name string) (fs.File, error) {
	if name == TreeStateFile {
		if s.looks++; s.looks > 1 {
			s.later.integrated(s.t, 700)
			s.MapFS[TreeStateFile] = s.later.files[TreeStateFile]
		}
	}
	return s.MapFS.Open(name)
}

func TestVerifyGivesUpOnFilesThatStay(t *testing.T) {
	l := grown(t, 300)
	l.put("tile/entries/0011804289383", nil)
	cfg := l.config(l.files)
	cfg.Grace = 5 * time.Second
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := Verify(t.Context(), cfg, nil)
		accuses(t, err, -1, "tile/entries/0011804289383")
		if waited := time.Since(start); waited < cfg.Grace {
			t.Fatalf("waited %v", waited)
		}
	})
}

func TestVerifyReturnsTheCallersError(t *testing.T) {
	l := grown(t, 10)
	stop := errors.New("stop")
	_, err := Verify(t.Context(), l.config(l.files), func(index int64, _ []byte) error {
		if index == 4 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || !strings.Contains(err.Error(), "entry 4") {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, l.config(l.files), nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// An entry that contradicts its tile is not handed out, nor is any after it.
func TestVerifyHandsOutNoEntryThatIsWrong(t *testing.T) {
	l := grown(t, 700)
	fsys := l.copied()
	from, to := entryOffsets(fsys["tile/entries/001"].Data, 20)
	changed(fsys, "tile/entries/001", to-1, 1)
	if from >= to {
		t.Fatal("empty entry")
	}
	_, err := Verify(t.Context(), l.config(fsys), func(index int64, _ []byte) error {
		if index >= 256 {
			return fmt.Errorf("was given entry %d", index)
		}
		return nil
	})
	accuses(t, err, 276, "")
}

// With a tile above changed as well, nothing but the root can tell which of the
// two is wrong. Until then no further entry is handed out.
func TestVerifyHandsOutNothingWhileItIsInDoubt(t *testing.T) {
	l := grown(t, 700)
	for _, tc := range []struct {
		path  string
		entry int64
	}{{"tile/entries/000", 0}, {"tile/0/000", -1}} {
		fsys := l.copied()
		changed(fsys, tc.path, 2, 1)
		changed(fsys, "tile/1/000.p/2", 40, 1)
		_, err := Verify(t.Context(), l.config(fsys), func(index int64, _ []byte) error {
			return fmt.Errorf("was given entry %d", index)
		})
		accuses(t, err, tc.entry, tc.path)
	}
}

func TestVerifyRefusesAKeyOfAnotherOrigin(t *testing.T) {
	l := grown(t, 1)
	cfg := l.config(l.files)
	cfg.Origin = "syd.bank.example/log"
	if _, err := Verify(t.Context(), cfg, nil); err == nil || !strings.Contains(err.Error(), "is for") {
		t.Fatalf("got %v", err)
	}
}

func BenchmarkVerify(b *testing.B) {
	const entries = 1 << 16
	l := grown(b, entries)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(b.Context(), l.config(l.files), func(int64, []byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(entries)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
