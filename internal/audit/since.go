package audit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/translog/proof"
)

// verifySince checks that the log continues the one that an earlier audit
// verified, and hands out the entries that came since. The tiles give the root
// that was signed, or nothing of them is believed; what the earlier audit read
// is not read again.
func verifySince(ctx context.Context, log fs.FS, origin, key string, old proof.Checkpoint, each func(int64, []byte) error) (proof.Checkpoint, error) {
	head, err := readHead(log, origin, key)
	if err != nil {
		return head, err
	}
	if err := proof.Consistent(log, old.Tree, head.Tree); err != nil {
		return head, fmt.Errorf("an earlier audit verified %d entries: %w", old.Tree.N, asRewritten(err, old.Tree, head.Tree))
	}
	hashes := tlog.TileHashReader(head.Tree, proof.Tiles(log))
	for n := old.Tree.N; n < head.Tree.N; {
		if err := ctx.Err(); err != nil {
			return head, err
		}
		next, err := entriesOf(log, hashes, head.Tree.N, n, each)
		if err != nil {
			return head, err
		}
		n = next
	}
	return head, nil
}

// asRewritten gives what Consistent says its kind.
func asRewritten(err error, old, head tlog.Tree) error {
	switch {
	case head.N < old.N:
		return asKind(KindRollback, err)
	case errors.Is(err, proof.ErrInconsistent):
		return asKind(KindFork, err)
	default:
		return err
	}
}

// IsWrong reports whether err says that a log is not what was signed, rather than
// that it could not be read.
func IsWrong(err error) bool {
	var (
		entry *proof.EntryError
		file  *proof.FileError
		kind  kindError
	)
	return errors.As(err, &entry) || errors.As(err, &kind) || errors.As(err, &file) && !errors.Is(err, fs.ErrPermission)
}

// readHead reads the checkpoint of a log.
func readHead(log fs.FS, origin, key string) (proof.Checkpoint, error) {
	v, err := proof.NewVerifier(origin, key)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	raw, err := readAtMost(log, proof.CheckpointFile, maxHead)
	if err != nil {
		return proof.Checkpoint{}, &proof.FileError{Path: proof.CheckpointFile, Reason: "opening it", Err: err}
	}
	head, err := openHead(raw, v)
	if err != nil {
		return head, &proof.FileError{Path: proof.CheckpointFile, Reason: "checking it", Err: err}
	}
	return head, nil
}

func openHead(raw []byte, v note.Verifier) (proof.Checkpoint, error) {
	return proof.OpenCheckpoint(raw, v)
}

// readAtMost reads a file of at most limit bytes.
func readAtMost(log fs.FS, name string, limit int64) ([]byte, error) {
	f, err := log.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("it is longer than %d bytes", limit)
	}
	return raw, err
}

const (
	bundleWidth = 256 // entries (C2SP tlog-tiles)
	maxBundle   = bundleWidth * (2 + proof.MaxEntry)
)

// bundleAt reads the bundle that holds entry n of a tree of size entries.
func bundleAt(log fs.FS, size, n int64) (raw []byte, path string, err error) {
	t := tlog.Tile{H: 8, L: -1, N: n / bundleWidth, W: int(min(bundleWidth, size-n/bundleWidth*bundleWidth))}
	path = proof.TilePath(t)
	raw, err = readAtMost(log, path, maxBundle)
	if errors.Is(err, fs.ErrNotExist) && t.W < bundleWidth { // superseded meanwhile
		t.W = bundleWidth
		if wide, err := readAtMost(log, proof.TilePath(t), maxBundle); err == nil {
			return wide, proof.TilePath(t), nil
		}
	}
	if err != nil {
		return nil, path, &proof.FileError{Path: path, Reason: "opening it", Err: err}
	}
	return raw, path, nil
}

// entriesOf hands out the entries of one bundle from entry `from` on, each
// held against the tree, and returns the number of the next.
func entriesOf(log fs.FS, hashes tlog.HashReader, size, from int64, each func(int64, []byte) error) (next int64, err error) {
	raw, path, err := bundleAt(log, size, from)
	if err != nil {
		return 0, err
	}
	first := from / bundleWidth * bundleWidth
	next = min(size, first+bundleWidth)
	indexes := make([]int64, 0, bundleWidth)
	for n := from; n < next; n++ {
		indexes = append(indexes, tlog.StoredHashIndex(0, n))
	}
	want, err := hashes.ReadHashes(indexes)
	if err != nil {
		return 0, err
	}
	for n := first; n < next; n++ {
		var entry []byte
		if entry, raw, err = cutEntry(raw); err != nil {
			return 0, &proof.EntryError{Index: n, Path: path, Reason: err.Error()}
		}
		if n < from {
			continue
		}
		if tlog.RecordHash(entry) != want[n-from] {
			return 0, &proof.EntryError{Index: n, Path: path, Reason: "its hash is not the one that the tree holds"}
		}
		if err := each(n, entry); err != nil {
			return 0, err
		}
	}
	return next, nil
}

// cutEntry splits the first entry off a bundle: its length in two bytes, big
// endian, then the entry.
func cutEntry(bundle []byte) (entry, rest []byte, err error) {
	if len(bundle) < 2 {
		return nil, nil, errors.New("the file ends before it")
	}
	n := int(binary.BigEndian.Uint16(bundle))
	if bundle = bundle[2:]; len(bundle) < n {
		return nil, nil, errors.New("the file ends inside it")
	}
	return bundle[:n], bundle[n:], nil
}
