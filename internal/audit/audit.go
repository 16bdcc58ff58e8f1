// Package audit checks what a recorder keeps, from its files and the root.
//
// It guarantees that a report without findings means: the log is the tree that
// its key signed; every entry is a message signed by its sender, below the
// root, valid then, pinned where the site document pins; every envelope in the
// segments follows the format and, with the recorder's keys, carries its
// sender's MAC; and no sender's signed digest contradicts what was kept. It
// shares no code with what wrote the log.
//
// Without the recorder's keys a reading is vouched for by its digest alone.
// Memory grows with the number of messages that are kept.
package audit

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"levee/envelope"
	"levee/envelope/keys"
	"levee/internal/confirm"
	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/internal/wire"
	"levee/pki"
	"levee/policies"
)

// grace is how long a log that is being written may have files that its tree
// does not cover yet.
const grace = 3 * time.Second

// Config says what to check.
type Config struct {
	Files    records.Settings
	Root     *x509.Certificate
	Verifier *pki.Verifier
	Document *site.Document
	Policy   *policies.Policy
	Keys     *keys.Ring // of the recorder; nil: MACs are not checked
}

// Finding is one thing that is wrong.
type Finding struct {
	Where string `json:"where"` // "entry N" of the log, or a file's path
	What  string `json:"what"`
}

// Report is what was checked and found.
type Report struct {
	Origin       string    `json:"origin"`
	Entries      int64     `json:"entries"`
	RootHash     string    `json:"root_hash"`
	Signatures   int       `json:"signatures"` // verified
	MACs         int       `json:"macs"`       // verified; 0 without keys
	Segments     int       `json:"segments"`   // files
	Envelopes    int       `json:"envelopes"`  // in them
	Confirmed    int       `json:"confirmed"`  // digests that match everything they cover
	Incomplete   int       `json:"incomplete"` // digests over messages that were not all kept
	Contradicted int       `json:"contradicted"`
	Missing      int       `json:"missing"` // messages of incomplete digests that were not kept
	Pending      int       `json:"pending"` // messages that no digest covers yet
	Findings     []Finding `json:"findings"`
}

// OK reports whether nothing is wrong. What is missing is shown, and is not
// wrong by itself: a recorder that was down has seen nothing.
func (r *Report) OK() bool { return len(r.Findings) == 0 }

// maxFindings bounds a report.
const maxFindings = 1000

func (r *Report) find(where, what string) {
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, Finding{Where: where, What: what})
	}
}

// audit is one verification under way.
type audit struct {
	Config
	report  Report
	tracker *ledger
}

// Verify checks everything. An error means that the check could not be made;
// what is wrong is in the report.
func Verify(ctx context.Context, c Config) (*Report, error) {
	if c.Root == nil || c.Verifier == nil || c.Document == nil || c.Policy == nil {
		return nil, errors.New("verifying: no root, verifier, site document or policy")
	}
	if c.Document.LogKey == "" {
		return nil, errors.New("verifying: the site document names no log key")
	}
	a := &audit{Config: c, tracker: newLedger()}
	a.report.Findings = []Finding{}
	checkpoint, ok := a.checkLog(ctx)
	if ok {
		a.checkWatermark(checkpoint)
	}
	if err := a.checkSegments(ctx); err != nil {
		return nil, fmt.Errorf("verifying: %w", err)
	}
	a.checkDigests()
	return &a.report, ctx.Err()
}

// checkLog checks the tree and every entry. ok is false if the tree is wrong.
func (a *audit) checkLog(ctx context.Context) (checkpoint proof.Checkpoint, ok bool) {
	origin, err := originOf(a.Document.LogKey)
	if err != nil {
		a.report.find(site.FileDocument, err.Error())
		return checkpoint, false
	}
	a.report.Origin = origin
	checkpoint, err = proof.Verify(ctx, proof.Config{FS: os.DirFS(a.Files.Log()), Origin: origin, VKey: a.Document.LogKey, Grace: grace}, a.checkEntry)
	var entry *proof.EntryError
	var file *proof.FileError
	switch {
	case err == nil:
		a.report.Entries, a.report.RootHash = checkpoint.Tree.N, checkpoint.Tree.Hash.String()
		return checkpoint, true
	case errors.As(err, &entry):
		a.report.find(fmt.Sprintf("entry %d", entry.Index), entry.Error())
	case errors.As(err, &file):
		a.report.find(a.Files.Log()+"/"+file.Path, file.Reason)
	default:
		a.report.find(a.Files.Log(), err.Error())
	}
	return checkpoint, false
}

// checkEntry checks one leaf. What is wrong with it is a finding, not an error:
// the tree is checked to its end in any case.
func (a *audit) checkEntry(index int64, raw []byte) error {
	if err := a.checkLeaf(index, raw); err != nil {
		a.report.find(fmt.Sprintf("entry %d", index), err.Error())
	}
	return nil
}

func (a *audit) checkLeaf(index int64, raw []byte) error {
	l, err := leaf.Parse(raw)
	if err != nil {
		return err
	}
	if l.Kind != leaf.KindMessage {
		return fmt.Errorf("it is of kind %q, which this version does not keep", l.Kind)
	}
	m, topic, err := a.open(l.Data)
	if err != nil {
		return err
	}
	id, certificate, err := m.VerifySignature(a.Verifier, time.UnixMilli(m.Time))
	if err != nil {
		return fmt.Errorf("its signature is not good (%v)", envelope.ReasonOf(err))
	}
	match, pinned := a.Document.Pinned(id.Sender(), certificate)
	if (pinned || id.Role == pki.RoleMonitor || id.Role == pki.RoleApprover) && !match {
		return errors.New("it is signed with a key that the site document does not pin")
	}
	a.report.Signatures++
	if topic.Kind == wire.KindDigest {
		var d wire.Digest
		if err := wire.DecodeExact(m.Payload, &d); err != nil {
			return err
		}
		a.tracker.digest(topic.Sender(), d, index)
	}
	a.tracker.add(topic.Sender(), m.Nonce, m.Raw)
	return nil
}

// open checks what every kept envelope must satisfy.
func (a *audit) open(raw []byte) (m envelope.Message, topic wire.Topic, err error) {
	if a.Keys != nil {
		m, err = envelope.Open(raw, envelope.MaxBackfill, a.Keys.Find)
	} else {
		m, err = envelope.Parse(raw, envelope.MaxBackfill)
	}
	if err != nil {
		return m, topic, fmt.Errorf("it is not a message of its sender (%v)", envelope.ReasonOf(err))
	}
	if a.Keys != nil {
		a.report.MACs++
	}
	topic, err = wire.ParseTopic(string(m.Topic))
	if err != nil {
		return m, topic, err
	}
	if topic.Site != a.Document.Site || topic.Sender() != string(m.Sender()) {
		return m, topic, fmt.Errorf("its sender %s may not speak on %s", m.Sender(), m.Topic)
	}
	if class := a.Policy.Class(topic.Kind); !class.Protected || class.Signed && !m.Signed() {
		return m, topic, errors.New("its class must be signed")
	}
	return m, topic, nil
}

// checkWatermark holds the recorder's note of its last checkpoint against the
// log: a log that does not continue it was rolled back or forked.
func (a *audit) checkWatermark(log proof.Checkpoint) {
	path := string(a.Files.Watermark)
	raw, err := durable.ReadFile(path, 64<<10)
	if err != nil {
		a.report.find(path, err.Error())
		return
	}
	v, err := proof.NewVerifier(a.report.Origin, a.Document.LogKey)
	if err != nil {
		a.report.find(path, err.Error())
		return
	}
	mark, err := proof.OpenCheckpoint(raw, v)
	if err != nil {
		a.report.find(path, err.Error())
		return
	}
	if mark.Tree.N > log.Tree.N {
		// The watermark is written before the checkpoint is published.
		if raw, err := durable.ReadFile(a.Files.Log()+"/"+proof.CheckpointFile, 64<<10); err == nil {
			if newer, err := proof.OpenCheckpoint(raw, v); err == nil {
				log = newer
			}
		}
	}
	if mark.Tree.N > log.Tree.N {
		a.report.find(path, fmt.Sprintf("the log was signed at %d entries and has %d now: it was rolled back", mark.Tree.N, log.Tree.N))
		return
	}
	if err := proof.Consistent(os.DirFS(a.Files.Log()), mark.Tree, log.Tree); err != nil {
		a.report.find(path, err.Error())
	}
}

// checkDigests holds what was kept against what senders signed for.
func (a *audit) checkDigests() {
	for _, s := range a.tracker.settle() {
		switch s.Outcome {
		case confirm.Confirmed:
			a.report.Confirmed++
		case confirm.Incomplete:
			a.report.Incomplete++
			a.report.Missing += s.Missing
		case confirm.Contradicted:
			a.report.Contradicted++
			a.report.find(fmt.Sprintf("entry %d", s.index), fmt.Sprintf(
				"the digest of %s over messages %d to %d of %s does not match what was kept", s.sender, s.First, s.Last, envelope.FormatBoot(s.Boot)))
		default:
			a.report.find(fmt.Sprintf("entry %d", s.index), fmt.Sprintf("the digest of %s contradicts itself", s.sender))
		}
	}
	a.report.Pending = a.tracker.pending()
}
