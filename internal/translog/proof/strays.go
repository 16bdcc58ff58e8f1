package proof

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// maxPending bounds how many files may be ahead of the tree at a time. A batch
// of the writer has a few.
const maxPending = 4096

// settleEvery is how often files ahead of the tree are looked at again.
const settleEvery = 50 * time.Millisecond

// checkFixedFiles checks the writer's files that never change.
func checkFixedFiles(fsys fs.FS) error {
	version, err := readFile(fsys, VersionFile, maxState, nil)
	if err != nil {
		return err
	}
	if string(version) != Version {
		return &FileError{Path: VersionFile, Reason: "it is not version " + Version}
	}
	for _, name := range lockFiles {
		content, err := readFile(fsys, name, maxState, nil)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(content) > 0 {
			return &FileError{Path: name, Reason: "it is not empty"}
		}
	}
	return nil
}

func readTreeState(fsys fs.FS) (tlog.Tree, error) {
	raw, err := readFile(fsys, TreeStateFile, maxState, nil)
	if err != nil {
		return tlog.Tree{}, err
	}
	tree, err := ParseTreeState(raw)
	if err != nil {
		return tlog.Tree{}, &FileError{Path: TreeStateFile, Reason: "checking it", Err: err}
	}
	return tree, nil
}

// checkStrays looks for files that do not belong to the log. Files that a
// writer at work may have are given grace to be covered by the tree or to go.
func checkStrays(ctx context.Context, fsys fs.FS, state tlog.Tree, grace time.Duration) error {
	var pending []string
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed meanwhile
		case err != nil:
			return &FileError{Path: name, Reason: "listing it", Err: err}
		case ctx.Err() != nil:
			return fmt.Errorf("verifying log: %w", ctx.Err())
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return &FileError{Path: name, Reason: "it is not a regular file"}
		case isFixed(name) || isCovered(name, state.N):
			return nil
		case len(pending) == maxPending:
			return stray(name, state.N)
		}
		pending = append(pending, name)
		return nil
	})
	if err != nil {
		return err
	}
	deadline := time.Now().Add(grace)
	for {
		if pending = slices.DeleteFunc(pending, func(path string) bool {
			_, err := fs.Stat(fsys, path)
			return errors.Is(err, fs.ErrNotExist) || isCovered(path, state.N)
		}); len(pending) == 0 {
			return nil
		}
		if !time.Now().Before(deadline) {
			return stray(pending[0], state.N)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("verifying log: %w", ctx.Err())
		case <-time.After(settleEvery):
		}
		if state, err = readTreeState(fsys); err != nil {
			return err
		}
	}
}

func stray(path string, size int64) error {
	reason := fmt.Sprintf("it does not belong to a log of %d entries", size)
	if isLeftover(path, size) {
		reason += " (or is the rest of an interrupted write: opening the log for writing removes that)"
	}
	return &FileError{Path: path, Reason: reason}
}

// isFixed reports whether path is one of the files beside the tiles.
func isFixed(path string) bool {
	switch path {
	case CheckpointFile, TreeStateFile, VersionFile:
		return true
	}
	return slices.Contains(lockFiles[:], path)
}

func isCovered(path string, size int64) bool {
	t, err := ParseTilePath(path)
	return err == nil && Covers(size, t)
}

// isLeftover reports whether a writer that was interrupted may have left path
// behind in a log of size entries: a tile or bundle that is ahead of the tree,
// or a temporary file, whose name is the final one with a number after it.
func isLeftover(path string, size int64) bool {
	if t, err := ParseTilePath(path); err == nil {
		return !Covers(size, t)
	}
	name := strings.TrimRight(path, "0123456789")
	if isFixed(name) {
		return name != path
	}
	// A tile's own name ends in digits too: try each place where it may end.
	for i := len(path) - 1; i > len(name); i-- {
		if _, err := ParseTilePath(path[:i]); err == nil {
			return true
		}
	}
	return false
}

// MaxAhead bounds how many entries a writer may put down before its record of
// the tree covers them: its batches are no larger.
const MaxAhead = 1 << 16

// Leftovers returns the files that an interrupted writer left behind in a log
// of size entries, which nobody writes at the moment: none of them was ever part
// of a tree. It looks where such files can be and returns no other stray file.
func Leftovers(fsys fs.FS, size int64) ([]string, error) {
	dirs := []string{".", StateDir}
	for level := entryLevel; level <= maxLevel; level++ {
		shift := uint(tileHeight * (max(level, 0) + 1))
		for n := size >> shift; n <= (size+MaxAhead)>>shift; n++ {
			tile := TilePath(tlog.Tile{H: tileHeight, L: level, N: n, W: tileWidth})
			dirs = append(dirs, path.Dir(tile), tile+".p")
		}
	}
	slices.Sort(dirs)
	var found []string
	for _, dir := range slices.Compact(dirs) {
		files, err := fs.ReadDir(fsys, dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("listing %s: %w", dir, err)
		}
		for _, f := range files {
			name := path.Join(dir, f.Name())
			if f.Type().IsRegular() && !isFixed(name) && isLeftover(name, size) {
				found = append(found, name)
			}
		}
	}
	return found, nil
}
