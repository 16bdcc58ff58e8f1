package translog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/durable"
	"levee/internal/translog/proof"
)

// Why a log is not opened. The error's text says what to do.
var (
	ErrNotCreated = errors.New("there is no log")
	ErrLostState  = errors.New("a part of the log is lost")
	ErrRollback   = errors.New("the log is older than it was")
	ErrFork       = errors.New("the log has another history than the one that was signed")
	ErrDamaged    = errors.New("the log is damaged")
)

// heads are the three records of how far a log has come.
type heads struct {
	state     tlog.Tree        // integrated
	published proof.Checkpoint // shown
	watermark proof.Checkpoint // signed
}

// readHeads reads all three: an absent one is never made up for.
func readHeads(cfg Config, v note.Verifier) (heads, error) {
	state, err := readHead(cfg.path(proof.TreeStateFile))
	if err != nil {
		return heads{}, err
	}
	checkpoint, err := readHead(cfg.path(proof.CheckpointFile))
	if err != nil {
		return heads{}, err
	}
	mark, err := readHead(cfg.Watermark)
	if err != nil {
		return heads{}, err
	}
	switch {
	case state == nil && checkpoint == nil && mark == nil:
		return heads{}, fmt.Errorf("%w in %s: create it, explicitly and once", ErrNotCreated, cfg.Dir)
	case state == nil && checkpoint == nil:
		return heads{}, fmt.Errorf("%w: %s is empty, but the watermark %s shows that there was a log: restore the directory",
			ErrLostState, cfg.Dir, cfg.Watermark)
	case state == nil:
		return heads{}, fmt.Errorf("%w: there is a checkpoint, but no %s: opening it would begin a second history: restore the whole directory",
			ErrLostState, cfg.path(proof.TreeStateFile))
	case checkpoint == nil && mark != nil:
		return heads{}, fmt.Errorf("%w: there is no %s: copy the watermark %s there, which is the newest one signed",
			ErrLostState, cfg.path(proof.CheckpointFile), cfg.Watermark)
	case mark == nil:
		return heads{}, fmt.Errorf("%w: there is no watermark %s: put the newest checkpoint that you trust there, from an auditor, a witness or a command's proof",
			ErrLostState, cfg.Watermark)
	}
	var h heads
	if h.state, err = proof.ParseTreeState(state); err != nil {
		return heads{}, fmt.Errorf("%w: %s: %w: restore the whole directory", ErrDamaged, cfg.path(proof.TreeStateFile), err)
	}
	if h.published, err = proof.OpenCheckpoint(checkpoint, v); err != nil {
		return heads{}, fmt.Errorf("%w: %s: %w: compare it with the watermark %s", ErrDamaged, cfg.path(proof.CheckpointFile), err, cfg.Watermark)
	}
	if h.watermark, err = proof.OpenCheckpoint(mark, v); err != nil {
		return heads{}, fmt.Errorf("%w: watermark %s: %w: put the newest checkpoint that you trust there", ErrDamaged, cfg.Watermark, err)
	}
	return h, nil
}

// maxHead bounds each of the three files in bytes.
const maxHead = 64 << 10

// readHead returns nil for a file that does not exist.
func readHead(path string) ([]byte, error) {
	content, err := durable.ReadFile(path, maxHead)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return content, err
}

// check compares the three with each other and with the tiles: the writer's
// record must be the tree that the tiles give, and must continue what was
// shown and what was signed.
func (h heads) check(cfg Config) error {
	if h.state.N < h.watermark.Tree.N || h.state.N < h.published.Tree.N {
		return fmt.Errorf("%w: %s has %d entries, but %d were signed: an older copy was put in its place: put the newer one back, and never continue this one",
			ErrRollback, cfg.Dir, h.state.N, max(h.watermark.Tree.N, h.published.Tree.N))
	}
	fsys := cfg.fsys()
	if err := proof.CheckEdge(fsys, h.state); err != nil {
		return fmt.Errorf("%w: %s: %w: verify it to find all of the damage, and restore the directory", ErrDamaged, cfg.Dir, err)
	}
	for _, older := range []struct {
		name string
		tree tlog.Tree
	}{{cfg.path(proof.CheckpointFile), h.published.Tree}, {"the watermark " + cfg.Watermark, h.watermark.Tree}} {
		err := proof.Consistent(fsys, older.tree, h.state)
		if errors.Is(err, proof.ErrInconsistent) {
			return fmt.Errorf("%w: %s does not continue %s: %w: keep both as evidence, and put the directory back that does", ErrFork, cfg.Dir, older.name, err)
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w: verify it to find all of the damage, and restore the directory", ErrDamaged, cfg.Dir, err)
		}
	}
	return nil
}

// removeLeftovers removes what a writer that was interrupted left behind. None
// of it was ever part of the tree or acknowledged. Without this a later
// verification would find files that contradict the tree.
func removeLeftovers(cfg Config, size int64) error {
	found, err := proof.Leftovers(cfg.fsys(), size)
	if err != nil {
		return err
	}
	for _, name := range found {
		path := cfg.path(name)
		if err := ignoreMissing(os.Remove(path)); err != nil {
			return err
		}
		if err := durable.SyncDir(filepath.Dir(path)); err != nil {
			return err
		}
		cfg.Log.Warn("removed what an interrupted write left behind", slog.String("file", path), slog.Int64("size", size))
	}
	return nil
}
