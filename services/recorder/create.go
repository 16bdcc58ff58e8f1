package recorder

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"levee/internal/durable"
	"levee/internal/translog"
	"levee/internal/translog/proof"
)

// createOnce creates the log if the file note says that it was never made, and
// removes the note. A log that is there all the same was made by a start that
// was interrupted, or the note came back with a copy of the bundle: what is
// there is opened, and judged, like any other.
func createOnce(note string, c translog.Config) error {
	if _, err := os.Lstat(note); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	switch err := create(c); {
	case err == nil:
		c.Log.Info("a new log was made: its auditors begin anew", slog.String("log", c.Dir))
	case !errors.Is(err, translog.ErrExists):
		return err
	}
	if err := durable.Remove(note); err != nil {
		return fmt.Errorf("noting that the log was made: %w", err)
	}
	return nil
}

// create creates a log. It finishes a creation that was interrupted: before the
// watermark is whole nothing opens the log, so it never had an entry.
func create(c translog.Config) error {
	if err := os.MkdirAll(filepath.Dir(c.Watermark), 0o700); err != nil {
		return err
	}
	err := translog.Create(c)
	if !errors.Is(err, translog.ErrExists) {
		return err
	}
	torn, unfinished := interrupted(c)
	if !unfinished {
		return err
	}
	for _, path := range torn {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing what an interrupted creation left behind: %w", err)
		}
	}
	c.Log.Warn("the creation of the log was interrupted and begins again", slog.String("log", c.Dir))
	return translog.Create(c)
}

// maxHead bounds a checkpoint in bytes.
const maxHead = 64 << 10

// interrupted reports whether what is there is the beginning of a creation and
// nothing else, and what to remove to begin again. Anything that only a log
// with entries has, or that is not known, means no.
func interrupted(c translog.Config) (torn []string, unfinished bool) {
	first, err := durable.ReadFile(filepath.Join(c.Dir, proof.CheckpointFile), maxHead)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	// The watermark is written last, with the bytes of the checkpoint.
	mark, err := durable.ReadFile(c.Watermark, maxHead)
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent || !absent && (len(mark) >= len(first) || !bytes.HasPrefix(first, mark)) {
		return nil, false
	}
	torn = []string{c.Watermark}
	for _, name := range []string{proof.CheckpointFile, proof.TreeStateFile, proof.VersionFile, proof.StateDir} {
		torn = append(torn, filepath.Join(c.Dir, filepath.FromSlash(name)))
	}
	known := map[string]bool{c.Dir: true}
	for _, path := range torn {
		known[path] = true
	}
	err = filepath.WalkDir(c.Dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && !known[path] {
			err = fs.ErrExist
		}
		return err
	})
	return torn, err == nil
}
