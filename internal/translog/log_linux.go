package translog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"levee/internal/translog/proof"
)

// MaxEntry bounds an entry in bytes.
const MaxEntry = proof.MaxEntry

// Errors of an open log.
var (
	ErrClosed = errors.New("the log is closed")
	// ErrStopped says that writing failed. What a disk holds after a failed
	// write is not known, so nothing more is appended: close the log, and
	// open it again, which checks it.
	ErrStopped = errors.New("the log has stopped after an error")
)

// Log is a log that is open for writing. Its methods may be called at the same
// time.
type Log struct {
	cfg      Config
	verifier note.Verifier
	add      tessera.AddFn
	shutdown func(context.Context) error
	cancel   context.CancelFunc // ends Tessera and the publisher
	held     locks
	publish  sync.WaitGroup // the publisher
	// collected is the first tile of level 0 whose superseded versions may still
	// be there. It belongs to the publisher, afterwards to Close.
	collected int64

	mu      sync.Mutex // guards closed, stopped and Add of pending
	closed  bool
	stopped error
	pending sync.WaitGroup // appends that Tessera has not answered

	head sync.Mutex // guards last and ended; held while a checkpoint is made
	last proof.Checkpoint
	// ended says that the locks are about to go: nothing is signed any more.
	ended bool
}

// Open opens a log that Create made, after checking that its files agree with
// each other and continue the watermark; ctx bounds that alone. The error is,
// by errors.Is, ErrNotCreated, ErrLostState, ErrRollback, ErrFork, ErrDamaged or
// ErrLocked, or another one where reading failed; its text says what to do. The
// caller must Close the log.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	v, err := cfg.verifier()
	if err != nil {
		return nil, err
	}
	// Before the lock file is touched: there may be no log at all.
	if _, err := readHeads(cfg, v); err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	held, err := lock(cfg)
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	l := &Log{cfg: cfg, verifier: v, held: held}
	// Again, now that nobody else writes.
	h, err := readHeads(cfg, v)
	if err == nil {
		err = h.check(cfg)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = removeLeftovers(cfg, h.state.N)
	}
	if err != nil {
		held.release()
		return nil, fmt.Errorf("opening log: %w", err)
	}
	l.last, l.collected = h.published, firstUncollected(cfg, h.state.N)
	if err := l.start(context.WithoutCancel(ctx)); err != nil {
		held.release()
		return nil, fmt.Errorf("opening log: %w", err)
	}
	cfg.Log.Info("log opened", slog.String("origin", cfg.Origin), slog.Int64("entries", h.state.N),
		slog.Int64("published", h.published.Tree.N), slog.Int64("watermark", h.watermark.Tree.N))
	return l, nil
}

// never is longer than any checkpoint is old: Tessera must not publish.
const never = time.Duration(math.MaxInt64)

// start begins the two things that run until Close: Tessera, and the publisher.
func (l *Log) start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	driver, err := posix.New(ctx, posix.Config{Path: l.cfg.Dir})
	if err != nil {
		cancel()
		return err
	}
	opts := tessera.NewAppendOptions().
		WithCheckpointSigner(noSigner{l.cfg.Key.signer}).
		WithCheckpointInterval(never).
		WithCheckpointRepublishInterval(0).
		WithBatching(uint(l.cfg.BatchSize), l.cfg.BatchAge).
		WithGarbageCollectionInterval(0) // Close could not wait for it: collect does that
	appender, shutdown, _, err := tessera.NewAppender(ctx, driver, opts)
	if err != nil {
		cancel()
		return err
	}
	l.add, l.shutdown, l.cancel = appender.Add, shutdown, cancel
	l.publish.Go(func() { l.publishEvery(ctx, l.cfg.CheckpointInterval) })
	return nil
}

// noSigner stands in for the key where Tessera asks for one. Tessera signs
// whatever its state file says; this package compares first.
type noSigner struct{ of note.Signer }

func (s noSigner) Name() string              { return s.of.Name() }
func (s noSigner) KeyHash() uint32           { return s.of.KeyHash() }
func (noSigner) Sign([]byte) ([]byte, error) { return nil, errors.New("tessera is not given the key") }

// Append appends one entry and returns its index when the entry is durable and
// part of the tree. If ctx ends first, or the process does, the entry may have
// been appended or not. After any other error it may have been, and the log
// has stopped.
func (l *Log) Append(ctx context.Context, entry []byte) (uint64, error) {
	indexes, err := l.AppendAll(ctx, [][]byte{entry})
	if err != nil {
		return 0, err
	}
	return indexes[0], nil
}

// AppendAll appends several entries, which share batches, and returns their
// indexes in the order of entries. The indexes themselves may be in another
// order, and other callers' entries may lie between them. Of an error, what
// Append says is true of each entry.
func (l *Log) AppendAll(ctx context.Context, entries [][]byte) ([]uint64, error) {
	for _, entry := range entries {
		if len(entry) == 0 || len(entry) > MaxEntry {
			return nil, fmt.Errorf("appending to log: an entry of %d bytes is not one of 1 to %d", len(entry), MaxEntry)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("appending to log: %w", err)
	}
	l.mu.Lock()
	switch {
	case l.closed:
		l.mu.Unlock()
		return nil, fmt.Errorf("appending to log: %w", ErrClosed)
	case l.stopped != nil:
		defer l.mu.Unlock()
		return nil, fmt.Errorf("appending to log: %w", l.stopped)
	}
	l.pending.Add(1)
	l.mu.Unlock()

	// Tessera keeps the bytes, and its calls wait without a context.
	kept := make([]*tessera.Entry, len(entries))
	for i, entry := range entries {
		kept[i] = tessera.NewEntry(bytes.Clone(entry))
	}
	type answer struct {
		indexes []uint64
		err     error
	}
	answered := make(chan answer, 1)
	go func() {
		defer l.pending.Done()
		indexes, err := l.addAll(context.WithoutCancel(ctx), kept)
		answered <- answer{indexes, err}
	}()
	select {
	case a := <-answered:
		return a.indexes, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("appending to log: %w", ctx.Err())
	}
}

// addAll hands entries to Tessera and waits for all of them.
func (l *Log) addAll(ctx context.Context, entries []*tessera.Entry) ([]uint64, error) {
	futures := make([]tessera.IndexFuture, len(entries))
	for i, entry := range entries {
		futures[i] = l.add(ctx, entry)
	}
	indexes := make([]uint64, len(entries))
	var failure error
	for i, future := range futures {
		at, err := future()
		if err != nil {
			failure = err
			continue
		}
		indexes[i] = at.Index
	}
	if failure != nil {
		return nil, fmt.Errorf("appending to log: %w", l.stop(failure))
	}
	return indexes, nil
}

// stop ends appending for good and returns the error that says so.
func (l *Log) stop(cause error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped == nil {
		l.stopped = fmt.Errorf("%w: %w", ErrStopped, cause)
		l.cfg.Log.Error("log stopped: nothing more is appended until it is opened again", slog.Any("error", cause))
	}
	return l.stopped
}

// Close waits for the appends under way, publishes the tree, and lets the log
// go. If ctx ends first, Tessera may still be writing: then the log stays locked
// for as long as the process lives. Everything that Append has acknowledged is
// durable, whatever Close returns.
func (l *Log) Close(ctx context.Context) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("closing log: %w", ErrClosed)
	}
	l.closed = true
	l.mu.Unlock()

	drained := make(chan struct{})
	go func() {
		defer close(drained)
		l.pending.Wait()
	}()
	idle := true
	var err error
	select {
	case <-drained:
	case <-ctx.Done():
		idle, err = false, ctx.Err()
	}
	if _, publishErr := l.Checkpoint(context.WithoutCancel(ctx)); publishErr != nil {
		err = errors.Join(err, publishErr)
	}
	if err == nil {
		err = l.shutdown(ctx)
	}
	l.cancel()
	l.publish.Wait()
	l.head.Lock()
	defer l.head.Unlock()
	l.ended = true
	err = errors.Join(err, l.collect(l.last.Tree.N))
	if idle {
		l.held.release()
	}
	if err != nil {
		return fmt.Errorf("closing log: %w", err)
	}
	return nil
}
