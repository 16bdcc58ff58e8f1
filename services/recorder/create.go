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

// ErrCreated says that the log, or something in its place, is there already.
var ErrCreated = translog.ErrExists

// Create creates the log that a recorder's configuration file names, once. It
// finishes a creation that was interrupted: before the watermark is whole
// nothing opens the log, so it never had an entry.
func Create(file string, log *slog.Logger) error {
	_, _, c, err := load(file, log)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.Watermark), 0o700); err != nil {
		return err
	}
	err = translog.Create(c)
	if !errors.Is(err, ErrCreated) {
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
	log.Warn("the creation of the log was interrupted and begins again", slog.String("log", c.Dir))
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
