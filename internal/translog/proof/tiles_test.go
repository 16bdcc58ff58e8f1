package proof

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func TestTilePath(t *testing.T) {
	for _, tc := range []struct {
		tile tlog.Tile
		path string
	}{
		{tlog.Tile{H: 8, L: 0, N: 0, W: 256}, "tile/0/000"},
		{tlog.Tile{H: 8, L: 0, N: 1234067, W: 8}, "tile/0/x001/x234/067.p/8"},
		{tlog.Tile{H: 8, L: 12, N: 5, W: 255}, "tile/12/005.p/255"},
		{tlog.Tile{H: 8, L: -1, N: 1000, W: 256}, "tile/entries/x001/000"},
		{tlog.Tile{H: 8, L: -1, N: 0, W: 1}, "tile/entries/000.p/1"},
	} {
		if got := TilePath(tc.tile); got != tc.path {
			t.Errorf("%+v is at %q, want %q", tc.tile, got, tc.path)
		}
		if got, err := ParseTilePath(tc.path); err != nil || got != tc.tile {
			t.Errorf("%q is %+v, %v", tc.path, got, err)
		}
	}
	for _, path := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/", "tile/0/0", "tile/0/0000", "tile/0/1000", "tile/0/x000/001", "tile/00/001",
		"tile/0/000.p", "tile/0/000.p/", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/-1", "tile/-1/000",
		"tile/data/000", "tile/entries", "tile/entries/entries/000", "entries/000", "/tile/0/000", "tile/0/000/", "tile/8/0/000",
		"tile/0/x999/x999/x999/x999/x999/x999/x999/x999/999", "tile/+1/000",
	} {
		if got, err := ParseTilePath(path); err == nil {
			t.Errorf("%q was read as %+v", path, got)
		}
	}
}

func FuzzParseTilePath(f *testing.F) {
	f.Add("tile/0/x001/x234/067.p/8")
	f.Add("tile/entries/000.p/1")
	f.Fuzz(func(t *testing.T, path string) {
		if tile, err := ParseTilePath(path); err == nil && TilePath(tile) != path {
			t.Fatalf("%q was read as %+v", path, tile)
		}
	})
}

func TestCoversWhatTheTreeHas(t *testing.T) {
	for _, tc := range []struct {
		path string
		size int64
		want bool
	}{
		{"tile/entries/000.p/1", 0, false}, {"tile/entries/000.p/1", 1, true}, {"tile/entries/000.p/2", 1, false},
		{"tile/0/000", 255, false}, {"tile/0/000", 256, true}, {"tile/0/001.p/1", 256, false}, {"tile/0/001.p/1", 257, true},
		{"tile/1/000.p/1", 255, false}, {"tile/1/000.p/1", 256, true}, {"tile/1/000", 65535, false}, {"tile/1/000", 65536, true},
		{"tile/2/000.p/1", 65536, true}, {"tile/63/000.p/1", 1 << 62, false}, {"tile/0/x999/x999/x999/x999/x999/999.p/1", 5, false},
	} {
		tile, err := ParseTilePath(tc.path)
		if err != nil {
			t.Fatal(err)
		}
		if got := Covers(tc.size, tile); got != tc.want {
			t.Errorf("Covers(%d, %s) = %t", tc.size, tc.path, got)
		}
	}
}

func TestConsistent(t *testing.T) {
	l := grown(t, 1, 100, 256, 300, 700)
	tree := func(n int64) tlog.Tree { return tlog.Tree{N: n, Hash: l.roots[n]} }
	for _, n := range []int64{1, 100, 256, 300, 700} {
		if err := Consistent(l.files, tree(n), tree(700)); err != nil {
			t.Errorf("%d is a prefix of 700, but: %v", n, err)
		}
		other := tree(n)
		other.Hash[0] ^= 1
		if err := Consistent(l.files, other, tree(700)); !errors.Is(err, ErrInconsistent) {
			t.Errorf("another tree of %d: %v", n, err)
		}
	}
	if err := Consistent(l.files, tlog.Tree{}, tree(700)); err != nil {
		t.Error(err)
	}
	if err := Consistent(l.files, tree(700), tree(300)); !errors.Is(err, ErrInconsistent) {
		t.Errorf("going back: %v", err)
	}
	// Damage is not taken for a fork.
	fsys := l.copied()
	changed(fsys, "tile/1/000.p/2", 3, 1)
	if err := Consistent(fsys, tree(300), tree(700)); err == nil || errors.Is(err, ErrInconsistent) {
		t.Errorf("a changed tile: %v", err)
	}
}

func TestInclusionProofFromTheTiles(t *testing.T) {
	l := grown(t, 300, 700)
	tree := tlog.Tree{N: 700, Hash: l.roots[700]}
	for _, i := range []int64{0, 255, 256, 299, 512, 699} {
		p, err := tlog.ProveRecord(tree.N, i, tlog.TileHashReader(tree, Tiles(l.files)))
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(p, tree.N, tree.Hash, i, tlog.RecordHash(testEntry(i))); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
		if err := tlog.CheckRecord(p, tree.N, tree.Hash, i, tlog.RecordHash(testEntry(i+1))); err == nil {
			t.Errorf("entry %d stands for entry %d", i+1, i)
		}
	}
}

func TestCheckEdge(t *testing.T) {
	for _, tc := range []struct {
		name string
		size int64
		do   func(fstest.MapFS)
		want string
	}{
		{"as written", 700, func(fstest.MapFS) {}, ""},
		{"full last bundle", 512, func(fstest.MapFS) {}, ""},
		{"empty", 0, func(fstest.MapFS) {}, ""},
		{"last entry", 700, func(fsys fstest.MapFS) {
			changed(fsys, "tile/entries/002.p/188", len(fsys["tile/entries/002.p/188"].Data)-1, 1)
		}, "entry 699"},
		{"first of the newest bundle", 700, func(fsys fstest.MapFS) { changed(fsys, "tile/entries/002.p/188", 2, 1) }, "entry 512"},
		{"a length", 700, func(fsys fstest.MapFS) { changed(fsys, "tile/entries/002.p/188", 0, 0x80) }, "entry 512"},
		{"newest tile", 700, func(fsys fstest.MapFS) { changed(fsys, "tile/0/002.p/188", 2, 1) }, "against the root"},
		{"upper tile", 700, func(fsys fstest.MapFS) { changed(fsys, "tile/1/000.p/2", 2, 1) }, "against the root"},
		{"something after the last entry", 700, func(fsys fstest.MapFS) {
			fsys["tile/entries/002.p/188"] = &fstest.MapFile{Data: append(fsys["tile/entries/002.p/188"].Data, 0)}
		}, "follow the last entry"},
		{"only a full bundle", 700, func(fsys fstest.MapFS) {
			fsys["tile/entries/002"] = fsys["tile/entries/002.p/188"]
			delete(fsys, "tile/entries/002.p/188")
		}, "tile/entries/002.p/188"},
		{"only a full tile", 700, func(fsys fstest.MapFS) {
			fsys["tile/0/002"] = fsys["tile/0/001"]
			delete(fsys, "tile/0/002.p/188")
		}, "tile/0/002.p/188"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := grown(t, tc.size)
			fsys := l.copied()
			tc.do(fsys)
			err := CheckEdge(fsys, tlog.Tree{N: tc.size, Hash: l.roots[tc.size]})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
	if CheckEdge(fstest.MapFS{}, tlog.Tree{}) == nil {
		t.Error("an empty tree with any root was accepted")
	}
}

func TestLeftovers(t *testing.T) {
	l := grown(t, 300)
	want := map[string]bool{
		"tile/0/0011804289383": true, "tile/0/001.p/441804289383": true, "tile/entries/002.p/5": true, "tile/0/001.p/45": true,
		"checkpoint77": true, ".state/treeState1": true, "tile/1/000.p/2": true,
	}
	for path := range want {
		l.put(path, nil)
	}
	l.put("tile/0/readme", nil)
	l.put("tile/0/01", nil)
	l.put("1", nil)
	got, err := Leftovers(l.files, 300)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range got {
		if !want[path] {
			t.Errorf("%s is no leftover", path)
		}
		delete(want, path)
	}
	for path := range want {
		t.Errorf("%s is a leftover", path)
	}
}

// Whatever the bytes, a checkpoint that opens was signed with the key, and has
// one spelling.
func FuzzOpenCheckpoint(f *testing.F) {
	l := grown(f, 3)
	v, err := note.NewVerifier(l.vkey)
	if err != nil {
		f.Fatal(err)
	}
	signed := l.files[CheckpointFile].Data
	f.Add(signed)
	f.Add(append(signed[:len(signed):len(signed)], "— someone AAAAAAAA\n"...))
	f.Fuzz(func(t *testing.T, raw []byte) {
		cp, err := OpenCheckpoint(raw, v)
		if err != nil {
			return
		}
		again := sign(t, CheckpointText(testOrigin, cp.Tree), l.signer)
		if !strings.HasPrefix(string(raw), CheckpointText(testOrigin, cp.Tree)) || !strings.Contains(string(raw), string(again[len(CheckpointText(testOrigin, cp.Tree))+1:])) {
			t.Fatalf("opened %q", raw)
		}
	})
}

func FuzzParseTreeState(f *testing.F) {
	raw, err := TreeState(tlog.Tree{N: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"Size":5,"root":"AAAA"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tree, err := ParseTreeState(raw)
		if err != nil {
			return
		}
		if again, err := TreeState(tree); err != nil || string(again) != string(raw) {
			t.Fatalf("%q was read as %+v", raw, tree)
		}
	})
}
