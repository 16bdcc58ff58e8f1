package proof

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/mod/sumdb/tlog"
)

// Tiles returns a reader of the hash tiles below fsys for tlog.TileHashReader,
// which authenticates what it reads. A partial tile that was superseded and
// removed is read from the full one.
func Tiles(fsys fs.FS) tlog.TileReader { return tileReader{fsys: fsys} }

// tileReader reads tiles from files. The zero values of its options are Tiles.
type tileReader struct {
	fsys fs.FS
	// exact turns the full tile in place of a partial one off.
	exact bool
	// instead replaces the hashes of tile insteadOf of level 0, if not nil.
	instead   []byte
	insteadOf int64
}

// Height returns 8 (C2SP tlog-tiles).
func (r tileReader) Height() int { return tileHeight }

// SaveTiles does nothing: the files are what they are.
func (r tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

// ReadTiles returns the hashes of each tile, exactly as wide as asked for.
func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		if r.instead != nil && t.L == 0 && t.N == r.insteadOf && len(r.instead) >= t.W*tlog.HashSize {
			data[i] = r.instead[:t.W*tlog.HashSize]
			continue
		}
		hashes, _, err := readTile(r.fsys, t, r.exact, nil)
		if err != nil {
			return nil, err
		}
		data[i] = hashes
	}
	return data, nil
}

// readTile returns the t.W hashes of a hash tile and the tile that it read them
// from: t, or the full one. It reuses buf.
func readTile(fsys fs.FS, t tlog.Tile, exact bool, buf []byte) ([]byte, tlog.Tile, error) {
	data, from, err := readWidest(fsys, t, exact, tileWidth*tlog.HashSize, buf)
	if err != nil {
		return nil, from, err
	}
	if len(data) != from.W*tlog.HashSize {
		return nil, from, &FileError{
			Path:   TilePath(from),
			Reason: fmt.Sprintf("it has %d bytes instead of %d", len(data), from.W*tlog.HashSize),
		}
	}
	return data[:t.W*tlog.HashSize], from, nil
}

// readWidest reads t or, unless exact, the full tile that superseded it.
func readWidest(fsys fs.FS, t tlog.Tile, exact bool, limit int, buf []byte) ([]byte, tlog.Tile, error) {
	data, err := readFile(fsys, TilePath(t), limit, buf)
	if exact || t.W == tileWidth || !errors.Is(err, fs.ErrNotExist) {
		return data, t, err
	}
	full := t
	full.W = tileWidth
	data, err = readFile(fsys, TilePath(full), limit, buf)
	if errors.Is(err, fs.ErrNotExist) {
		// The one that was asked for is the one to name.
		return nil, t, &FileError{Path: TilePath(t), Reason: "opening it", Err: fs.ErrNotExist}
	}
	return data, full, err
}

// readFile reads a file of at most limit bytes. It reuses buf; its errors name
// the file.
func readFile(fsys fs.FS, name string, limit int, buf []byte) ([]byte, error) {
	// Opening a pipe would wait for its writer.
	if info, err := fs.Stat(fsys, name); err == nil && !info.Mode().IsRegular() {
		return nil, &FileError{Path: name, Reason: "it is not a regular file"}
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, &FileError{Path: name, Reason: "opening it", Err: err}
	}
	defer f.Close()
	b := bytes.NewBuffer(buf[:0])
	n, err := b.ReadFrom(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, &FileError{Path: name, Reason: "reading it", Err: err}
	}
	if n > int64(limit) {
		return nil, &FileError{Path: name, Reason: fmt.Sprintf("it is longer than %d bytes", limit)}
	}
	return b.Bytes(), nil
}

// cutEntry splits the first entry off a bundle: two bytes of length, big
// endian, then the entry (C2SP tlog-tiles, "Log Entries").
func cutEntry(bundle []byte) (entry, rest []byte, ok bool) {
	if len(bundle) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(bundle))
	if bundle = bundle[2:]; len(bundle) < n {
		return nil, nil, false
	}
	return bundle[:n], bundle[n:], true
}

// ErrInconsistent says that one tree is not a prefix of another: there were two
// histories.
var ErrInconsistent = errors.New("the log is not a continuation of the older tree")

// Consistent checks by a consistency proof (RFC 6962, section 2.1.2) from the
// tiles below fsys that the tree newer begins with all of the tree older. The
// error is ErrInconsistent if it does not, and a FileError or another one if
// the tiles do not give newer's root.
func Consistent(fsys fs.FS, older, newer tlog.Tree) error {
	switch {
	case older.N > newer.N:
		return fmt.Errorf("a tree of %d entries cannot follow one of %d: %w", newer.N, older.N, ErrInconsistent)
	case older.N == newer.N:
		if older.Hash != newer.Hash {
			return fmt.Errorf("two trees of %d entries with different roots: %w", newer.N, ErrInconsistent)
		}
		return nil
	case older.N == 0:
		return nil
	}
	p, err := tlog.ProveTree(newer.N, older.N, tlog.TileHashReader(newer, Tiles(fsys)))
	if err != nil {
		return fmt.Errorf("proving that a tree of %d entries continues one of %d: %w", newer.N, older.N, err)
	}
	if err := tlog.CheckTree(p, newer.N, newer.Hash, older.N, older.Hash); err != nil {
		return fmt.Errorf("the tree of %d entries at hand had another root at %d: %w", newer.N, older.N, ErrInconsistent)
	}
	return nil
}

// CheckEdge checks what the next append builds on: the tiles at the right edge
// against the root of tree, and the newest bundle against the tiles. It reads a
// number of files that grows with the logarithm of the tree's size.
func CheckEdge(fsys fs.FS, tree tlog.Tree) error {
	if tree.N == 0 {
		if tree.Hash != emptyRoot() {
			return errors.New("checking the newest tiles: the root is not that of an empty tree")
		}
		return nil
	}
	n := (tree.N - 1) >> tileHeight
	width := widthIn(entryLevel, n, tree.N)
	indexes := make([]int64, width)
	for i := range indexes {
		indexes[i] = tlog.StoredHashIndex(0, n<<tileHeight+int64(i))
	}
	// The writer reads exactly these widths; a wider file in place would mislead it.
	hashes, err := tlog.TileHashReader(tree, tileReader{fsys: fsys, exact: true}).ReadHashes(indexes)
	if err != nil {
		return fmt.Errorf("checking the newest tiles against the root: %w", err)
	}
	bundle := tlog.Tile{H: tileHeight, L: entryLevel, N: n, W: width}
	path := TilePath(bundle)
	rest, err := readFile(fsys, path, maxBundle, nil)
	if err != nil {
		return fmt.Errorf("checking the newest entries: %w", err)
	}
	for i, want := range hashes {
		index := n<<tileHeight + int64(i)
		entry, after, ok := cutEntry(rest)
		if !ok {
			return &EntryError{Index: index, Path: path, Reason: "the file ends before or inside it"}
		}
		if tlog.RecordHash(entry) != want {
			return &EntryError{Index: index, Path: path, Reason: "its hash is not the one that the tree holds"}
		}
		rest = after
	}
	if len(rest) > 0 {
		return &FileError{Path: path, Reason: fmt.Sprintf("%d bytes follow the last entry", len(rest))}
	}
	return nil
}
