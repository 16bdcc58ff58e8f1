package translog

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/durable"
	"levee/internal/translog/proof"
)

// ErrExists says that there is, or was, a log where one was to be created.
var ErrExists = errors.New("something exists already: a log is created once")

// Create lays down an empty log and its watermark. Both must be absent; Dir may
// be an empty directory. It is meant for one explicit command, never for a
// start.
func Create(cfg Config) error {
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	if _, err := os.Lstat(cfg.Watermark); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("creating log: at %s: %w", cfg.Watermark, errors.Join(ErrExists, err))
	}
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("creating log: %w", err)
	}
	locks, err := lock(cfg)
	if err != nil {
		return fmt.Errorf("creating log: %w", err)
	}
	defer locks.release()
	found, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return fmt.Errorf("creating log: %w", err)
	}
	if len(found) > 0 {
		return fmt.Errorf("creating log: in %s: %w", cfg.Dir, ErrExists)
	}
	empty := tlog.Tree{N: 0, Hash: sha256.Sum256(nil)}
	state, err := proof.TreeState(empty)
	if err != nil {
		return fmt.Errorf("creating log: %w", err)
	}
	signed, err := note.Sign(&note.Note{Text: proof.CheckpointText(cfg.Origin, empty)}, cfg.Key.signer)
	if err != nil {
		return fmt.Errorf("creating log: signing its first checkpoint: %w", err)
	}
	if err := os.Mkdir(cfg.path(proof.StateDir), 0o700); err != nil {
		return fmt.Errorf("creating log: %w", err)
	}
	for _, f := range []struct {
		path    string
		content []byte
	}{
		{cfg.path(proof.VersionFile), []byte(proof.Version)},
		{cfg.path(proof.TreeStateFile), state},
		{cfg.path(proof.CheckpointFile), signed},
		// Last: without it nothing opens the log, so nothing can be in it yet.
		{cfg.Watermark, signed},
	} {
		if err := durable.CreateFile(f.path, f.content, 0o644); err != nil {
			return fmt.Errorf("creating log: %w (remove %s and %s before you try again)", err, cfg.Dir, cfg.Watermark)
		}
	}
	if err := durable.SyncDir(filepath.Dir(cfg.Dir)); err != nil {
		return fmt.Errorf("creating log: %w", err)
	}
	return nil
}
