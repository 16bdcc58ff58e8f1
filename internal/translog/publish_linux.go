package translog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/durable"
	"levee/internal/translog/proof"
)

// Checkpoint returns the newest checkpoint. If the tree has grown it signs and
// publishes a new one first, so that it covers every index that Append had
// returned before the call. The error is ErrFork or ErrRollback if the files
// were tampered with since the log was opened; the log has stopped then.
func (l *Log) Checkpoint(ctx context.Context) (proof.Checkpoint, error) {
	l.head.Lock()
	defer l.head.Unlock()
	if l.ended {
		return proof.Checkpoint{}, fmt.Errorf("publishing checkpoint: %w", ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return proof.Checkpoint{}, fmt.Errorf("publishing checkpoint: %w", err)
	}
	tree, err := l.readTree()
	if err == nil {
		err = l.checkContinues(tree)
	}
	if err != nil {
		return proof.Checkpoint{}, fmt.Errorf("publishing checkpoint: %w", err)
	}
	if tree.N > l.last.Tree.N {
		if err := l.sign(tree); err != nil {
			return proof.Checkpoint{}, fmt.Errorf("publishing checkpoint: %w", err)
		}
	}
	cp := l.last
	cp.Note = bytes.Clone(cp.Note)
	return cp, nil
}

// readTree reads how far the tree has come.
func (l *Log) readTree() (tlog.Tree, error) {
	raw, err := readHead(l.cfg.path(proof.TreeStateFile))
	if err != nil {
		return tlog.Tree{}, err
	}
	return proof.ParseTreeState(raw)
}

// checkContinues refuses a tree that does not begin with the one last shown.
// The tiles are read from the disk again: while the log is open somebody else
// may have put an older copy in its place.
func (l *Log) checkContinues(tree tlog.Tree) error {
	if tree.N < l.last.Tree.N {
		return l.stop(fmt.Errorf("%w: %s has %d entries, but %d were signed", ErrRollback, l.cfg.Dir, tree.N, l.last.Tree.N))
	}
	err := proof.Consistent(l.cfg.fsys(), l.last.Tree, tree)
	if errors.Is(err, proof.ErrInconsistent) {
		return l.stop(fmt.Errorf("%w: %w", ErrFork, err))
	}
	return err
}

// sign makes the checkpoint of tree, once the record of that tree is durable:
// Tessera's may still be on its way to the disk. The watermark is written before the
// checkpoint, so that nothing signed is ever seen that a later Open would not
// hold the log to.
func (l *Log) sign(tree tlog.Tree) error {
	if err := durable.SyncDir(l.cfg.path(proof.StateDir)); err != nil {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: proof.CheckpointText(l.cfg.Origin, tree)}, l.cfg.Key.signer)
	if err != nil {
		return err
	}
	cp, err := proof.OpenCheckpoint(signed, l.verifier)
	if err != nil {
		return err
	}
	if err := replace(l.cfg.Watermark, signed); err != nil {
		return fmt.Errorf("writing watermark: %w", err)
	}
	if err := replace(l.cfg.path(proof.CheckpointFile), signed); err != nil {
		return err
	}
	l.last = cp
	return nil
}

// publishEvery publishes and collects until ctx ends. It reports the first
// failure in a row, and its end.
func (l *Log) publishEvery(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		cp, err := l.Checkpoint(ctx)
		if err == nil {
			err = l.collect(cp.Tree.N)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			l.cfg.Log.Error("no checkpoint is published", slog.Any("error", err))
		case err == nil && failing:
			l.cfg.Log.Info("checkpoints are published again")
		}
		failing = err != nil
	}
}

// collect removes the partial tiles and bundles of which the published tree has
// the full one. There may be 255 of each.
func (l *Log) collect(published int64) error {
	for ; (l.collected+1)*tileWidth <= published; l.collected++ {
		n := l.collected
		stale := []tlog.Tile{{L: entryLevel, N: n}, {L: 0, N: n}}
		for level := 1; n%tileWidth == tileWidth-1; level++ {
			n /= tileWidth
			stale = append(stale, tlog.Tile{L: level, N: n})
		}
		// The upper ones first: firstUncollected goes by the lowest.
		for _, t := range slices.Backward(stale) {
			if err := os.RemoveAll(l.cfg.partials(t)); err != nil {
				return fmt.Errorf("removing superseded tiles: %w", err)
			}
		}
	}
	return nil
}

// firstUncollected goes back from the end of the tree as long as there are
// superseded tiles, which a writer that was killed had not come to.
func firstUncollected(cfg Config, size int64) int64 {
	n := size / tileWidth
	for ; n > 0; n-- {
		if !exists(cfg.partials(tlog.Tile{L: entryLevel, N: n - 1})) && !exists(cfg.partials(tlog.Tile{L: 0, N: n - 1})) {
			break
		}
	}
	return n
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// The tiles of C2SP tlog-tiles, as package tlog counts them.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	entryLevel = -1
)

// partials returns the directory of the partial versions of a tile.
func (cfg Config) partials(t tlog.Tile) string {
	t.H, t.W = tileHeight, tileWidth
	return cfg.path(proof.TilePath(t) + ".p")
}
