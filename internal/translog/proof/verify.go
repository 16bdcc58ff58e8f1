package proof

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Config says which log to verify.
type Config struct {
	// FS is the log's directory, for example os.DirFS.
	FS fs.FS
	// Origin is the log's name and VKey its public key, a C2SP note verifier key.
	Origin, VKey string
	// Grace is how long Verify waits for files that are ahead of the tree to
	// be covered by it or to vanish. Leave it 0 for a copy at rest; give a
	// log that is being written a few seconds, since its writer puts files
	// down before it says that they count.
	Grace time.Duration
}

// Verify checks the whole log: the checkpoint's signature; every entry against
// its tile; every byte of every tile and bundle, superseded ones included,
// against what the entries give; the checkpoint's and the writer's root; and
// that no other file lies about. It returns the checkpoint that it checked, or
// an *EntryError or a *FileError that names what is wrong.
//
// Entries that the checkpoint covers are handed to each, unless it is nil, in
// order, when they match their tile; the slice is valid until each returns. An
// error of each ends the verification and is returned, wrapped. Believe
// nothing that each was given until Verify has returned without error: only
// then has the root been compared.
//
// Entries after the checkpoint, up to the writer's own record of the tree, are
// checked as well and not handed out. Verify needs memory for one bundle and one tile
// of each level, however long the log.
func Verify(ctx context.Context, cfg Config, each func(index int64, entry []byte) error) (Checkpoint, error) {
	v, err := NewVerifier(cfg.Origin, cfg.VKey)
	if err != nil {
		return Checkpoint{}, err
	}
	// The checkpoint first: in a log that grows meanwhile all else is ahead of it.
	raw, err := readFile(cfg.FS, CheckpointFile, maxNote, nil)
	if err != nil {
		return Checkpoint{}, err
	}
	cp, err := OpenCheckpoint(raw, v)
	if err != nil {
		return Checkpoint{}, &FileError{Path: CheckpointFile, Reason: "checking it", Err: err}
	}
	state, err := readTreeState(cfg.FS)
	if err != nil {
		return Checkpoint{}, err
	}
	if state.N < cp.Tree.N {
		return Checkpoint{}, &FileError{Path: TreeStateFile, Reason: fmt.Sprintf("it has %d entries, the checkpoint %d", state.N, cp.Tree.N)}
	}
	if err := checkFixedFiles(cfg.FS); err != nil {
		return Checkpoint{}, err
	}
	r := &run{fsys: cfg.FS, cp: cp.Tree, state: state, each: each}
	if err := r.tree(ctx); err != nil {
		return Checkpoint{}, err
	}
	if err := checkStrays(ctx, cfg.FS, state, cfg.Grace); err != nil {
		return Checkpoint{}, err
	}
	return cp, nil
}

// run is the state of one verification: the tree so far, as its right edge.
type run struct {
	fsys      fs.FS
	cp, state tlog.Tree // where the roots are compared: cp.N ≤ state.N
	each      func(int64, []byte) error

	count   int64                // entries so far
	cpRoot  tlog.Hash            // of the first cp.N of them
	edge    [maxLevel + 2][]byte // edge[l]: the hashes of level l's unfinished tile
	number  [maxLevel + 2]int64  // number[l]: that tile's
	suspect *suspect             // a mismatch that only the root can decide
	bundle  []byte               // buffers
	tile    []byte               //
	hashes  [tileWidth * tlog.HashSize]byte
	ends    [tileWidth]int // ends[i]: offset after entry i of the bundle
}

// suspect is a tile that does not match the entries while nothing above it
// tells which of the two is right.
type suspect struct {
	file    *FileError  // if the entries give the signed root
	entries *EntryError // if they do not
}

func (r *run) tree(ctx context.Context) error {
	for l := range r.edge {
		r.edge[l] = make([]byte, 0, tileWidth*tlog.HashSize)
	}
	r.cpRoot = r.root()
	for n := int64(0); n<<tileHeight < r.state.N; n++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("verifying log: %w", err)
		}
		if err := r.bundleAt(n); err != nil {
			return err
		}
	}
	for l := 1; l < len(r.edge); l++ {
		if len(r.edge[l]) > 0 {
			if err := r.checkTile(l); err != nil {
				return err
			}
		}
	}
	return r.compareRoots()
}

// compareRoots decides, by the signed root, what the suspect was.
func (r *run) compareRoots() error {
	signed, kept := r.cpRoot == r.cp.Hash, r.root() == r.state.Hash
	switch {
	case r.suspect != nil && signed && kept:
		return r.suspect.file
	case r.suspect != nil:
		return r.suspect.entries
	case !signed:
		return &FileError{Path: CheckpointFile, Reason: fmt.Sprintf("its root is not that of the first %d entries, which agree with their tiles", r.cp.N)}
	case !kept:
		return &FileError{Path: TreeStateFile, Reason: fmt.Sprintf("its root is not that of the first %d entries, which agree with their tiles", r.state.N)}
	}
	return nil
}

// bundleAt checks bundle n and the tile of level 0 that belongs to it, and adds
// its entries to the tree.
func (r *run) bundleAt(n int64) error {
	width := widthIn(entryLevel, n, r.state.N)
	bundle := tlog.Tile{H: tileHeight, L: entryLevel, N: n, W: width}
	tile := tlog.Tile{H: tileHeight, L: 0, N: n, W: width}
	data, from, err := readWidest(r.fsys, bundle, false, maxBundle, r.bundle)
	if err != nil {
		return r.missing(bundle, err)
	}
	r.bundle = data
	want, _, err := readTile(r.fsys, tile, false, r.tile)
	if err != nil {
		return r.missing(tile, err)
	}
	r.tile = want[:0]
	first := n << tileHeight
	wrong := -1
	rest := data
	for i := range width {
		entry, after, ok := cutEntry(rest)
		if !ok {
			if wrong < 0 {
				wrong = i
			}
			return &EntryError{Index: first + int64(wrong), Path: TilePath(from), Reason: "the file does not hold it whole"}
		}
		h := tlog.RecordHash(entry)
		copy(r.hashes[i*tlog.HashSize:], h[:])
		if wrong < 0 && !bytes.Equal(h[:], want[i*tlog.HashSize:(i+1)*tlog.HashSize]) {
			wrong = i
		}
		rest = after
		r.ends[i] = len(data) - len(rest)
	}
	hashes := r.hashes[:width*tlog.HashSize]
	switch {
	case wrong >= 0:
		if err := r.blame(first+int64(wrong), hashes, TilePath(from), TilePath(tile)); err != nil {
			return err
		}
	case from.W == width && len(rest) > 0:
		return &FileError{Path: TilePath(from), Reason: fmt.Sprintf("%d bytes follow the last entry", len(rest))}
	default:
		if err := r.checkNarrower(tile, hashes); err != nil {
			return err
		}
		if err := r.checkNarrower(bundle, data); err != nil {
			return err
		}
		if err := r.handOut(first, data, width); err != nil {
			return err
		}
	}
	for i := range width {
		if err := r.push(0, tlog.Hash(hashes[i*tlog.HashSize:])); err != nil {
			return err
		}
		if r.count++; r.count == r.cp.N {
			r.cpRoot = r.root()
		}
	}
	return nil
}

// missing names the writer's record if a file is absent that only this record,
// and not the signed checkpoint, asks for.
func (r *run) missing(t tlog.Tile, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	signed := t
	signed.W = widthIn(t.L, t.N, r.cp.N)
	if signed.W == t.W {
		return err
	}
	if signed.W > 0 {
		if _, statErr := fs.Stat(r.fsys, TilePath(signed)); statErr != nil {
			return err
		}
	}
	return &FileError{Path: TreeStateFile, Reason: fmt.Sprintf("it has %d entries, the checkpoint %d", r.state.N, r.cp.N), Err: err}
}

// handOut passes the bundle's entries that the checkpoint covers to each.
func (r *run) handOut(first int64, data []byte, width int) error {
	if r.each == nil || r.suspect != nil {
		return nil
	}
	start := 0
	for i := range width {
		index := first + int64(i)
		if index >= r.cp.N {
			return nil
		}
		if err := r.each(index, data[start+2:r.ends[i]:r.ends[i]]); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		start = r.ends[i]
	}
	return nil
}

// blame decides whether entry index or the tile that contradicts it is wrong.
// The tiles above the two tell, if they lead up to the root: package tlog
// authenticates a tile that way. If they do not, the end will tell.
func (r *run) blame(index int64, hashes []byte, bundlePath, tilePath string) error {
	entry := &EntryError{Index: index, Path: bundlePath, Reason: "its hash is not the one in " + tilePath}
	file := &FileError{Path: tilePath, Reason: fmt.Sprintf("its hash of entry %d is not that of the entry, which the tiles above it confirm", index)}
	tree := r.cp
	if index >= tree.N {
		tree = r.state
	}
	at := []int64{tlog.StoredHashIndex(0, index)}
	if got, err := tlog.TileHashReader(tree, Tiles(r.fsys)).ReadHashes(at); err == nil {
		i := index % tileWidth * tlog.HashSize
		if bytes.Equal(got[0][:], hashes[i:i+tlog.HashSize]) {
			return file
		}
		return entry
	}
	assumed := tileReader{fsys: r.fsys, instead: hashes, insteadOf: index >> tileHeight}
	if _, err := tlog.TileHashReader(tree, assumed).ReadHashes(at); err == nil {
		return file
	}
	if r.suspect == nil {
		r.suspect = &suspect{file: file, entries: entry}
	}
	return nil
}

// push adds a hash to a level. Every 256th completes a tile, whose own hash
// goes one level up.
func (r *run) push(level int, h tlog.Hash) error {
	r.edge[level] = append(r.edge[level], h[:]...)
	if len(r.edge[level]) < tileWidth*tlog.HashSize {
		return nil
	}
	if level > 0 { // level 0 was compared entry by entry
		if err := r.checkTile(level); err != nil {
			return err
		}
	}
	up := subtree(r.edge[level])
	r.edge[level] = r.edge[level][:0]
	r.number[level]++
	return r.push(level+1, up)
}

// checkTile compares the unfinished tile of level with its file.
func (r *run) checkTile(level int) error {
	hashes := r.edge[level]
	t := tlog.Tile{H: tileHeight, L: level, N: r.number[level], W: len(hashes) / tlog.HashSize}
	got, from, err := readTile(r.fsys, t, false, r.tile)
	if err != nil {
		return err
	}
	r.tile = got[:0]
	if bytes.Equal(got, hashes) {
		return r.checkNarrower(t, hashes)
	}
	if r.suspect != nil {
		return nil
	}
	i := 0
	for got[i] == hashes[i] {
		i++
	}
	i /= tlog.HashSize
	span := int64(1) << uint(tileHeight*level)
	first := (t.N<<tileHeight + int64(i)) * span
	r.suspect = &suspect{
		file: &FileError{Path: TilePath(from), Reason: fmt.Sprintf("its hash %d is not the one that the entries give", i)},
		entries: &EntryError{
			Index: first, Last: first + span - 1,
			Path: TilePath(tlog.Tile{H: tileHeight, L: entryLevel, N: first >> tileHeight, W: tileWidth}),
			Reason: fmt.Sprintf("they agree with the tiles of level 0, but not with hash %d in %s nor with the signed root",
				i, TilePath(from)),
		},
	}
	return nil
}

// checkNarrower compares the files that t superseded: each must be how t began.
func (r *run) checkNarrower(t tlog.Tile, data []byte) error {
	if r.suspect != nil {
		return nil
	}
	wide := t
	wide.W = tileWidth
	dir := TilePath(wide) + ".p"
	files, err := fs.ReadDir(r.fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &FileError{Path: dir, Reason: "listing it", Err: err}
	}
	for _, f := range files {
		path := dir + "/" + f.Name()
		old, err := ParseTilePath(path)
		if err != nil || old.W >= t.W {
			continue // checkStrays judges it
		}
		end := old.W * tlog.HashSize
		if t.L == entryLevel {
			end = r.ends[old.W-1]
		}
		got, err := readFile(r.fsys, path, end, r.tile)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile: it was superseded
		}
		if err != nil {
			return err
		}
		r.tile = got[:0]
		if !bytes.Equal(got, data[:end]) {
			return &FileError{Path: path, Reason: "it is not how " + TilePath(t) + ", which superseded it, begins"}
		}
	}
	return nil
}

// root computes the root of the entries so far (RFC 6962, section 2.1): the
// perfect subtrees of every level's unfinished tile, folded from the right.
func (r *run) root() tlog.Hash {
	acc, some := emptyRoot(), false
	for _, hashes := range r.edge {
		for len(hashes) > 0 {
			// The rightmost perfect subtree has as many leaves as the lowest set bit of the width.
			width := len(hashes) / tlog.HashSize
			at := (width - width&-width) * tlog.HashSize
			peak := subtree(hashes[at:])
			if some {
				peak = tlog.NodeHash(peak, acc)
			}
			acc, some = peak, true
			hashes = hashes[:at]
		}
	}
	return acc
}

// emptyRoot is the root of no entries.
func emptyRoot() tlog.Hash { return sha256.Sum256(nil) }

// subtree hashes a power of two of hashes.
func subtree(hashes []byte) tlog.Hash {
	if len(hashes) == tlog.HashSize {
		return tlog.Hash(hashes)
	}
	half := len(hashes) / 2
	return tlog.NodeHash(subtree(hashes[:half]), subtree(hashes[half:]))
}
