package proof

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"testing"
	"testing/fstest"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const testOrigin = "melb.bank.example/log"

// testLog is a log laid down by package tlog's own storage functions: the
// reference that the verifier, which uses none of them, is compared with.
type testLog struct {
	files  fstest.MapFS
	vkey   string
	signer note.Signer
	stored []tlog.Hash
	roots  map[int64]tlog.Hash // after each size that was written
}

func testEntry(i int64) []byte {
	return fmt.Appendf(nil, "entry %d %0*d", i, int(i*7%61), i)
}

func newTestLog(t testing.TB) *testLog {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	l := &testLog{files: fstest.MapFS{}, vkey: vkey, signer: signer, roots: map[int64]tlog.Hash{}}
	l.put(VersionFile, []byte(Version))
	l.put(".state/treeState.lock", nil)
	return l
}

func (l *testLog) put(path string, content []byte) {
	l.files[path] = &fstest.MapFile{Data: content, Mode: 0o644}
}

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		hashes[i] = l.stored[x]
	}
	return hashes, nil
}

// grow extends the log from one size to the next, with every file that a
// writer leaves behind.
func (l *testLog) grow(t testing.TB, from, to int64) {
	t.Helper()
	for i := from; i < to; i++ {
		hashes, err := tlog.StoredHashes(i, testEntry(i), l)
		if err != nil {
			t.Fatal(err)
		}
		l.stored = append(l.stored, hashes...)
	}
	for _, tile := range tlog.NewTiles(tileHeight, from, to) {
		data, err := tlog.ReadTileData(tile, l)
		if err != nil {
			t.Fatal(err)
		}
		l.put(TilePath(tile), data)
		if tile.L == 0 {
			var bundle []byte
			for i := tile.N * tileWidth; i < tile.N*tileWidth+int64(tile.W); i++ {
				bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(testEntry(i))))
				bundle = append(bundle, testEntry(i)...)
			}
			tile.L = entryLevel
			l.put(TilePath(tile), bundle)
		}
	}
	root, err := tlog.TreeHash(to, l)
	if err != nil {
		t.Fatal(err)
	}
	l.roots[to] = root
	l.integrated(t, to)
}

func (l *testLog) integrated(t testing.TB, size int64) {
	t.Helper()
	state, err := TreeState(tlog.Tree{N: size, Hash: l.roots[size]})
	if err != nil {
		t.Fatal(err)
	}
	l.put(TreeStateFile, state)
}

func (l *testLog) publish(t testing.TB, size int64) {
	t.Helper()
	l.put(CheckpointFile, sign(t, CheckpointText(testOrigin, tlog.Tree{N: size, Hash: l.roots[size]}), l.signer))
}

func sign(t testing.TB, text string, signers ...note.Signer) []byte {
	t.Helper()
	signed, err := note.Sign(&note.Note{Text: text}, signers...)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// grown returns a log that was published at each of sizes.
func grown(t testing.TB, sizes ...int64) *testLog {
	t.Helper()
	l := newTestLog(t)
	from := int64(0)
	for _, size := range sizes {
		l.grow(t, from, size)
		l.publish(t, size)
		from = size
	}
	return l
}

// copied returns the files, to be changed.
func (l *testLog) copied() fstest.MapFS { return maps.Clone(l.files) }

func (l *testLog) config(fsys fs.FS) Config {
	return Config{FS: fsys, Origin: testOrigin, VKey: l.vkey}
}

// changed returns the content of path with one byte changed.
func changed(fsys fstest.MapFS, path string, at int, flip byte) {
	content := append([]byte(nil), fsys[path].Data...)
	content[at] ^= flip
	fsys[path] = &fstest.MapFile{Data: content, Mode: 0o644}
}
