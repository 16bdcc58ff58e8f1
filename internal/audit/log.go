package audit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"levee/envelope"
	"levee/internal/durable"
	"levee/internal/site"
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

// checkLog checks the tree and every entry. It returns nil if the tree is wrong:
// then nothing that the log says can be held against anything.
func (a *audit) checkLog(ctx context.Context) *proof.Checkpoint {
	key := a.Document.LogKey
	a.report.Origin, _, _ = strings.Cut(key, "+") // C2SP signed-note: name+hash+key
	if _, err := proof.NewVerifier(a.report.Origin, key); err != nil {
		a.report.find(filepath.Join(string(a.Files.Bundle), site.FileDocument), "%v", err)
		return nil
	}
	head, err := proof.Verify(ctx, proof.Config{FS: os.DirFS(a.Files.Log()), Origin: a.report.Origin, VKey: key, Grace: grace}, a.checkEntry)
	var entry *proof.EntryError
	var file *proof.FileError
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil:
		a.report.Entries, a.report.RootHash = head.Tree.N, head.Tree.Hash.String()
		return &head
	case errors.As(err, &entry):
		a.report.find(fmt.Sprintf("entry %d", entry.Index), "%v", entry)
	case errors.As(err, &file) && file.Path == proof.CheckpointFile && errors.Is(err, fs.ErrNotExist):
		a.report.find(a.logFile(file.Path), "is not there; %s names the directory", a.Source)
	case errors.As(err, &file):
		a.report.find(a.logFile(file.Path), "%v", err)
	default:
		a.report.find(a.Files.Log(), "%v", err)
	}
	return nil
}

func (a *audit) logFile(name string) string {
	return filepath.Join(a.Files.Log(), filepath.FromSlash(name))
}

// checkEntry checks one leaf. What is wrong with it is a finding, not an error:
// the tree is checked to its end in any case.
func (a *audit) checkEntry(index int64, raw []byte) error {
	err := a.checkLeaf(index, raw)
	if wrong := (journalError{}); errors.As(err, &wrong) {
		a.report.findKind(KindJournal, entryName(index), "%v", err)
	} else if err != nil {
		a.report.find(entryName(index), "%v", err)
	}
	return nil
}

func entryName(index int64) string { return fmt.Sprintf("entry %d", index) }

func (a *audit) checkLeaf(index int64, raw []byte) error {
	l, err := leaf.Parse(raw)
	if err != nil {
		return err
	}
	if l.Kind == leaf.KindGrant || l.Verdict != envelope.Accepted.String() {
		return fmt.Errorf("a %s with the verdict %q is nothing that this version keeps", l.Kind, l.Verdict)
	}
	a.latest = max(a.latest, l.Received)
	if l.Kind != leaf.KindMessage {
		return a.checkLine(index, l)
	}
	a.newest = max(a.newest, l.Received)
	m, topic, err := a.open(l.Data, l.Received)
	if err != nil {
		return err
	}
	if err := a.checkMessage(index, l.Received, &m, topic); err != nil {
		return fmt.Errorf("of %s: %w", topic.Sender(), err)
	}
	return nil
}

// checkMessage checks what an entry's envelope says beyond its form.
func (a *audit) checkMessage(index, received int64, m *envelope.Message, topic wire.Topic) error {
	signer, err := a.checkSignature(m, func() string { return entryName(index) }, received)
	if err != nil {
		return err
	}
	b := a.ledger.of(topic.Sender(), m.Nonce.Boot)
	again, err := b.log(m.Nonce.Seq, logged{sum: sha256.Sum256(m.Raw), index: index, received: received, time: m.Time, signer: signer})
	if err != nil || again || topic.Kind != wire.KindDigest {
		return err
	}
	var d wire.Digest
	if err := wire.DecodeExact(m.Payload, &d); err != nil {
		return err
	}
	if d.Boot != envelope.FormatBoot(m.Nonce.Boot) || d.Last >= m.Nonce.Seq {
		return errors.New("the digest is over messages that its sender had not sent yet, or in another life")
	}
	return a.ledger.pledge(b, d, index, m.Time)
}

// checkWatermark holds the recorder's note of its newest checkpoint, which it
// writes before it shows that checkpoint, against the log.
func (a *audit) checkWatermark(ctx context.Context, log proof.Checkpoint) {
	path := string(a.Files.Watermark)
	mark, err := a.readHead(path)
	if errors.Is(err, fs.ErrNotExist) {
		a.report.find(path, "is not there; %s names it", a.Source)
		return
	}
	if err != nil {
		a.report.find(path, "%v", err)
		return
	}
	if mark.Tree.N < log.Tree.N {
		a.report.find(path, "it notes %d entries, and %d were shown: an older one was put in its place", mark.Tree.N, log.Tree.N)
		return
	}
	// From the tiles that are there the tree that was noted, or the log is not
	// what it was.
	if err := proof.Consistent(os.DirFS(a.Files.Log()), log.Tree, mark.Tree); err != nil {
		a.report.find(a.Files.Log(), "the log had %d entries when the watermark %s was written, and is not that log, or was rolled back: %v", mark.Tree.N, path, err)
		return
	}
	if shown := a.awaitLog(ctx, mark.Tree.N); shown < mark.Tree.N {
		a.report.find(a.logFile(proof.CheckpointFile), "it is of %d entries, and %d were signed: an older one was put in its place, or the recorder crashed: start it, and verify again",
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
