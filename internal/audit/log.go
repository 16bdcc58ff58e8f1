package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"levee/internal/durable"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/internal/wire"
)

const (
	// grace is how long a log that is being written may have files that its
	// tree does not cover yet, or a watermark ahead of its checkpoint.
	grace = 3 * time.Second
	// lookAgain is how often the checkpoint is read in that time.
	lookAgain = 50 * time.Millisecond
	// maxHead bounds a checkpoint in bytes.
	maxHead = 64 << 10
)

// readLog reads the whole log, or what came since the auditor's last state, into
// src, and checks the tree. It ends src.
func (a *audit) readLog(ctx context.Context, src *source) {
	defer close(src.ready)
	began := sync.OnceFunc(func() { close(a.began) })
	defer began() // an empty log
	key := a.Document.LogKey
	var (
		b   *batch
		err error
	)
	each := func(index int64, raw []byte) error {
		began() // the checkpoint was read
		if b != nil && (b.full() || len(b.ends) >= entryItems) {
			src.send(b)
			b = nil
		}
		if b == nil {
			var err error
			if b, err = src.batch(ctx, index); err != nil {
				return err
			}
		}
		b.add(raw, 0, 0)
		return nil
	}
	log := os.DirFS(a.Files.Log())
	var head proof.Checkpoint
	if a.since == nil {
		head, err = proof.Verify(ctx, proof.Config{FS: log, Origin: a.report.Origin, VKey: key, Grace: grace}, each)
	} else {
		head, err = verifySince(ctx, log, a.report.Origin, key, a.since.head, each)
	}
	if b != nil {
		src.send(b)
	}
	a.read = readLog{head, err}
}

// entryItems bounds a batch of entries: each takes a signature's check.
const entryItems = 64

// readLog is how reading the log ended.
type readLog struct {
	head proof.Checkpoint
	err  error
}

// checkHead says what is wrong with the tree. It returns nil if anything is:
// then nothing that the log says can be held against anything.
func (a *audit) checkHead(ctx context.Context) *proof.Checkpoint {
	head, err := a.read.head, a.read.err
	var entry *proof.EntryError
	var file *proof.FileError
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		a.report.Entries, a.report.RootHash = head.Tree.N, head.Tree.Hash.String()
		return &head
	case errors.Is(err, fs.ErrPermission):
		a.denied = err
	case errors.As(err, &entry):
		a.report.find(inLog, KindTree, entryName(entry.Index), "%v", entry)
	case errors.As(err, &file) && file.Path == proof.CheckpointFile && errors.Is(err, fs.ErrNotExist):
		a.report.find(inLog, KindCheckpoint, a.logFile(file.Path), "is not there; %s names the directory", a.Source)
	case errors.As(err, &file) && file.Path == proof.CheckpointFile:
		a.report.find(inLog, KindCheckpoint, a.logFile(file.Path), "%v", err)
	case errors.As(err, &file):
		a.report.find(inLog, KindTree, a.logFile(file.Path), "%v", err)
	default:
		a.report.find(inLog, kindOr(err, KindTree), a.Files.Log(), "%v", err)
	}
	return nil
}

func (a *audit) logFile(name string) string {
	return filepath.Join(a.Files.Log(), filepath.FromSlash(name))
}

func entryName(index int64) string { return fmt.Sprintf("entry %d", index) }

// takeEntry holds an entry against the others. What is wrong with it is a
// finding, not an error: the tree is checked to its end in any case.
func (a *audit) takeEntry(it *item) {
	a.logged, a.latest = max(a.logged, it.received), max(a.latest, it.received)
	if a.first == 0 {
		a.first = it.received
	}
	err := it.err
	if err == nil && it.kind != leaf.KindMessage {
		err = a.checkLine(it.n, it.line)
	} else if it.kind == leaf.KindMessage {
		a.newest = max(a.newest, it.received)
		if err == nil {
			err = a.checkMessage(it)
		}
	}
	var against segmentError
	if errors.As(err, &against) {
		a.report.find(inSegments, kindOf(err), against.path, "%v", against.error)
	} else if err != nil {
		a.report.find(inLog, kindOf(err), entryName(it.n), "%v", err)
	}
}

// checkMessage checks what an entry's envelope says beyond itself.
func (a *audit) checkMessage(it *item) error {
	a.report.Signatures++
	if a.Keys != nil {
		a.report.MACs++
	}
	sender := it.channel.sender
	by := a.registry.signed(it.signer, it.certificate, func() string { return entryName(it.n) }, it.received)
	b := a.ledger.of(sender, it.nonce.Boot)
	again, err := a.ledger.log(b, it.nonce.Seq, signed{sum: it.sum, index: it.n, received: it.received, time: it.time})
	if against := (segmentError{}); errors.As(err, &against) {
		return err
	} else if err != nil {
		return fmt.Errorf("of %s: %w", sender, err)
	}
	if again {
		return nil
	}
	by.see(sighting{it.time, it.n})
	_, digest := it.payload.(*wire.Digest)
	a.executions.hear(sender, it.nonce.Boot, it.time, digest)
	switch p := it.payload.(type) {
	case *wire.Digest:
		err = a.ledger.pledge(b, *p, it.n, it.time, it.received)
	case *wire.Command:
		a.executions.order(p)
	case *wire.Status:
		a.checkStatus(it.n, it.time, sender, p)
	}
	if err != nil {
		return fmt.Errorf("of %s: %w", sender, err)
	}
	return nil
}

// checkWatermark holds the recorder's note of its newest checkpoint, which it
// writes before it shows that checkpoint, against the log.
func (a *audit) checkWatermark(ctx context.Context, log proof.Checkpoint) {
	path := string(a.Files.Watermark)
	if path == "" {
		return // an export has none
	}
	mark, err := a.readHead(path)
	if errors.Is(err, fs.ErrNotExist) {
		a.report.find(between, KindTrust, path, "is not there; %s names it", a.Source)
		return
	}
	if err != nil {
		a.report.find(between, KindCheckpoint, path, "%v", err)
		return
	}
	if mark.Tree.N < log.Tree.N {
		a.report.find(between, KindRollback, path, "it notes %d entries, and %d were shown: an older one was put in its place", mark.Tree.N, log.Tree.N)
		return
	}
	// From the tiles that are there the tree that was noted, or the log is not
	// what it was.
	if err := proof.Consistent(os.DirFS(a.Files.Log()), log.Tree, mark.Tree); err != nil {
		kind := KindRollback
		if errors.Is(err, proof.ErrInconsistent) {
			kind = KindFork
		}
		a.report.find(between, kind, a.Files.Log(), "the log had %d entries when the watermark %s was written, and is not that log, or was rolled back: %v", mark.Tree.N, path, err)
		return
	}
	if shown := a.awaitLog(ctx, mark.Tree.N); shown < mark.Tree.N {
		a.report.find(between, KindRollback, a.logFile(proof.CheckpointFile), "it is of %d entries, and %d were signed: an older one was put in its place, or the recorder crashed: start it, and verify again",
			shown, mark.Tree.N)
	}
}

// readHead reads a checkpoint.
func (a *audit) readHead(path string) (proof.Checkpoint, error) {
	raw, err := durable.ReadFile(path, maxHead)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	v, err := proof.NewVerifier(a.report.Origin, a.Document.LogKey)
	if err != nil {
		return proof.Checkpoint{}, err
	}
	return proof.OpenCheckpoint(raw, v)
}

// awaitLog returns how many entries the checkpoint shows, once it shows as many
// as asked for, or after the grace that a recorder at work is given.
func (a *audit) awaitLog(ctx context.Context, entries int64) (shown int64) {
	deadline := time.Now().Add(grace)
	for {
		if head, err := a.readHead(a.logFile(proof.CheckpointFile)); err == nil {
			shown = head.Tree.N
		}
		if shown >= entries || !time.Now().Before(deadline) {
			return shown
		}
		select {
		case <-ctx.Done():
			return shown
		case <-time.After(lookAgain):
		}
	}
}
