// Package audit checks what a recorder keeps, from its files and the root.
//
// It guarantees that a report without findings means: the log is the tree that
// its key signed, as far as the watermark, and the auditor's last state, say;
// every message in it was signed by its sender, below the root, valid then,
// pinned where the site document pins, and received while it was fresh; every
// message is in a segment as well, so that no segment is gone that held a signed
// message; every envelope in the segments follows the format and, with the
// recorder's keys, carries its sender's MAC; no message is there twice; no
// sender's signed digest contradicts what was kept; what controllers did, they
// were told; and, where the log holds the journals of what was issued, they are
// whole, and every certificate that signed a message stands in them and was not
// revoked before. It shares no code with what wrote the log, but for the check
// of a journal's line.
//
// It does not tell a reading that was taken out of a segment, by somebody who
// wrote the file anew, from one that the recorder never received: both are
// gaps, which a report lists. Without the recorder's keys a reading is vouched
// for by its digest alone. It judges the past by the site document and policy
// of today. A signer whose clock is wrong by less than the skew, or who says so,
// is not caught signing after the revocation.
//
// Log and segments are read side by side. Memory does not grow with their
// length, but with the number of senders and of their starts, certificates and
// commands, and with what no digest confirms.
package audit

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"levee/envelope/keys"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/translog/proof"
	"levee/pki"
	"levee/policies"
)

// Config says what to check. Open makes it.
type Config struct {
	Files    records.Settings
	Source   string // the configuration file that names Files
	Root     *x509.Certificate
	Verifier *pki.Verifier
	Document *site.Document
	Policy   *policies.Policy
	Keys     *keys.Ring // of the recorder; nil: MACs are not checked
	// KeptSince is the age of the oldest segment that must be there: entries
	// received before it need no segment. The zero time means all of them.
	KeptSince time.Time
	// Silence is how long a sender may not be heard while others are; 0 means
	// DefaultSilence.
	Silence time.Duration
	// Progress is told now and then how far reading has come, nil if nobody
	// watches.
	Progress func(Progress)
}

// audit is one verification under way. What its sources' goroutines set is read
// when they have ended.
type audit struct {
	*Config
	report     *Report
	checker    *checker
	ledger     *ledger
	registry   *registry
	executions *executions
	hearing    *hearing
	delays     map[string]*Delay // by sender
	since      *State            // of the audit before, if any
	began      chan struct{}     // closed when the checkpoint was read
	read       readLog           // how reading the log ended
	strangers  []Finding         // in the segments' directory
	unreadable error             // a segment that may not be read
	logged     int64             // the latest time of receipt of anything in the log
	newest     int64             // the latest time of receipt of a message in the log
	first      int64             // when anything was received first
	latest     int64             // the latest time of receipt of anything
	blind      bool              // the log is wrong: nothing can be held against it
	unread     bool              // some segment could not be read to its end
	denied     error             // a file may not be read: nothing can be said
}

// Verify checks everything. An error means that the check could not be made;
// what is wrong is in the report.
func Verify(ctx context.Context, c Config) (*Report, error) {
	r, _, err := VerifySince(ctx, c, nil)
	return r, err
}

// VerifySince checks what came since an earlier audit, or everything if that is
// nil: the log continues what was verified then, and segments are read from where
// they ended. It returns the state from which the next audit goes on, nil if
// anything shows that the record was changed.
func VerifySince(ctx context.Context, c Config, earlier *State) (*Report, *State, error) {
	if c.Root == nil || c.Verifier == nil || c.Document == nil || c.Policy == nil {
		return nil, nil, errors.New("verifying: no root, verifier, site document or policy")
	}
	a := newAudit(c)
	if earlier != nil {
		if err := a.resume(earlier); err != nil {
			return nil, nil, err
		}
	}
	if _, err := proof.NewVerifier(a.report.Origin, c.Document.LogKey); err != nil {
		a.report.find(inLog, KindTrust, filepath.Join(string(c.Files.Bundle), site.FileDocument), "%v", err)
		a.report.finish(true)
		return a.report, nil, nil
	}
	a.stream(ctx)
	head := a.checkHead(ctx)
	a.finish(ctx, head)
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("verifying: %w", err)
	}
	if a.denied != nil {
		return nil, nil, fmt.Errorf("verifying: %w", a.denied)
	}
	a.report.finish(head != nil)
	if head == nil || a.report.Severity() == Changed {
		return a.report, nil, nil
	}
	return a.report, a.state(*head), nil
}

func newAudit(c Config) *audit {
	a := &audit{Config: &c, report: newReport(), registry: newRegistry(), executions: newExecutions(), hearing: newHearing(c.Silence), delays: make(map[string]*Delay),
		began: make(chan struct{}), checker: newChecker(&c)}
	a.ledger = newLedger(a.settle)
	if !c.KeptSince.IsZero() {
		a.ledger.keptSince = c.KeptSince.UnixMilli()
	}
	root := sha256.Sum256(c.Root.Raw)
	a.report.Site, a.report.Root, a.report.Document = c.Document.Site, hex.EncodeToString(root[:]), c.Document.Number
	a.report.Origin, _, _ = strings.Cut(c.Document.LogKey, "+") // C2SP signed-note: name+hash+key
	return a
}

// stream reads log and segments, in the order in which they were received.
func (a *audit) stream(ctx context.Context) {
	s := newStream(a.Config)
	entries, records := s.source(), s.source()
	var reading sync.WaitGroup
	reading.Go(func() { a.readLog(ctx, entries) })
	reading.Go(func() { a.readSegments(ctx, records) })
	progress := a.newProgress()
	e, r := entries.next(), records.next()
	for e != nil || r != nil {
		if e == nil && a.read.err != nil {
			a.blind = true
		}
		if r == nil || e != nil && e.received() <= r.received() {
			for i := range e.items {
				a.takeEntry(&e.items[i])
			}
			progress.entries(len(e.items))
			entries.reuse(e)
			e = entries.next()
			continue
		}
		a.takeRecords(r)
		progress.records(r)
		records.reuse(r)
		r = records.next()
	}
	reading.Wait()
	s.close()
}

// finish draws the conclusions.
func (a *audit) finish(ctx context.Context, head *proof.Checkpoint) {
	for _, f := range a.strangers {
		a.report.find(inSegments, f.Kind, f.Where, "%s", f.What)
	}
	if a.unreadable != nil {
		a.denied = a.unreadable
	}
	a.report.To = a.latest
	if a.denied != nil || ctx.Err() != nil {
		return
	}
	lost, strays := a.ledger.halves()
	if head == nil {
		for _, s := range strays {
			if err := a.checkStray(s); err != nil {
				a.report.find(inSegments, kindOf(err), a.ledger.files[s.file].path, "record %d: %v", s.record, err)
			}
		}
		return
	}
	a.finishJournals()
	a.checkWatermark(ctx, *head)
	a.checkWitnesses(*head)
	a.checkStrays(ctx, *head, strays)
	a.checkCopies(lost)
	a.checkGaps()
	a.checkExecutions()
	a.checkSilences()
	a.checkDelays()
	a.checkIssued()
	a.checkRevoked()
}
