// Package audit checks what a recorder keeps, from its files and the root.
//
// It guarantees that a report without findings means: the log is the tree that
// its key signed, as far as the watermark says; every message in it was signed
// by its sender, below the root, valid then, pinned where the site document
// pins, and received while it was fresh; every message is in a segment as well,
// so that no segment is gone that held a signed message; every
// envelope in the segments follows the format and, with the recorder's keys,
// carries its sender's MAC; no message is there twice; no sender's signed
// digest contradicts what was kept; and, where the log holds the journals of
// what was issued, they are whole, and every certificate that signed a message
// stands in them and was not revoked before. It shares no code with what wrote
// the log, but for the check of a journal's line.
//
// It does not tell a reading that was taken out of a segment, by somebody who
// wrote the file anew, from one that the recorder never received: both are
// gaps, which a report lists. Without the recorder's keys a reading is vouched
// for by its digest alone. It judges the past by the site document and policy
// of today. A signer whose clock is wrong by less than the skew, or who says so,
// is not caught signing after the revocation. Memory grows with the number of
// entries and of messages that no digest confirms.
package audit

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"levee/envelope/keys"
	"levee/internal/records"
	"levee/internal/site"
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
}

// Finding is one thing that is wrong. As an error it says that a file which
// the audit rests on is wrong.
type Finding struct {
	Where string `json:"where"` // "entry N" of the log, or a path
	What  string `json:"what"`
	Kind  string `json:"kind,omitempty"` // for those that have a name
}

// The kinds of findings about what was issued and revoked.
const (
	KindJournal   = "journal"                 // a journal's lines contradict each other, or are missing
	KindNotIssued = "certificate_not_issued"  // a certificate signed a message, and no journal has it
	KindRevoked   = "signed_after_revocation" // a message was signed with a certificate that had been revoked
)

// Error returns where and what.
func (f Finding) Error() string { return f.Where + ": " + f.What }

// What a gap is.
const (
	// GapMissing: messages that were sent, as later numbers or a digest show,
	// and that were not kept.
	GapMissing = "missing"
	// GapUnvouched: readings that were kept and that no digest will confirm
	// any more.
	GapUnvouched = "unvouched"
)

// Gap is a range of one sender's messages.
type Gap struct {
	What   string `json:"what"`
	Sender string `json:"sender"` // site/role/name
	Boot   string `json:"boot"`   // 11 hexadecimal digits
	First  uint64 `json:"first"`
	Last   uint64 `json:"last"`
	After  int64  `json:"after,omitempty"`  // ms since the epoch; 0: not known
	Before int64  `json:"before,omitempty"` // likewise
}

// Report is what was checked and found.
type Report struct {
	Root         string `json:"root"`          // SHA-256 of the root certificate
	Document     uint64 `json:"site_document"` // its number
	Origin       string `json:"origin"`
	Entries      int64  `json:"entries"`
	RootHash     string `json:"root_hash"`
	Signatures   int    `json:"signatures"` // verified
	MACs         int    `json:"macs"`       // verified; 0 without keys
	Segments     int    `json:"segments"`   // files
	Envelopes    int    `json:"envelopes"`  // in them
	Confirmed    int    `json:"confirmed"`  // digests that match everything they cover
	Vouched      int    `json:"vouched"`    // messages that they cover
	Incomplete   int    `json:"incomplete"` // digests over messages that were not all kept
	Contradicted int    `json:"contradicted"`
	Missing      uint64 `json:"missing"`    // messages that were sent and not kept
	Unvouched    uint64 `json:"unvouched"`  // readings that no digest will confirm
	Declared     int    `json:"declared"`   // messages that their senders declare undelivered
	Pending      int    `json:"pending"`    // readings that a digest may still confirm
	Unlogged     int    `json:"unlogged"`   // signed messages that came when the recorder crashed, or since the checkpoint: in a segment alone
	Issued       int    `json:"issued"`     // certificates, by the journals in the log
	Revoked      int    `json:"revoked"`    // orders to revoke that were carried out, likewise
	Readmitted   int    `json:"readmitted"` // orders to readmit, likewise
	// AwaitingIssuance counts certificates that began to sign so shortly before
	// the log's end that their journal may still be on its way.
	AwaitingIssuance int `json:"awaiting_issuance"`
	// WithoutJournal lists the authorities (hosts) of signers of which the log
	// holds no issuance at all: whether they issued those was not checked.
	WithoutJournal []string  `json:"without_journal"`
	Gaps           []Gap     `json:"gaps"`     // the first 1,000
	Findings       []Finding `json:"findings"` // the first 1,000
	Found          int       `json:"found"`    // all
}

// OK reports whether nothing is wrong. A gap is shown, and is not wrong by
// itself: a recorder that was down has seen nothing.
func (r *Report) OK() bool { return r.Found == 0 }

// Fail returns the report of an audit that ended before it began.
func Fail(f Finding) *Report {
	return &Report{WithoutJournal: []string{}, Gaps: []Gap{}, Findings: []Finding{f}, Found: 1}
}

// maxListed bounds the lists of a report.
const maxListed = 1000

func (r *Report) find(where, format string, args ...any) { r.findKind("", where, format, args...) }

func (r *Report) findKind(kind, where, format string, args ...any) {
	if r.Found++; len(r.Findings) < maxListed {
		r.Findings = append(r.Findings, Finding{Where: where, What: fmt.Sprintf(format, args...), Kind: kind})
	}
}

// audit is one verification under way.
type audit struct {
	Config
	report   Report
	chains   *chains
	ledger   *ledger
	registry *registry
	newest   int64 // the latest time of receipt of a message in the log
	latest   int64 // the latest time of receipt of anything
	unread   bool  // some segment could not be read to its end
	denied   error // a file may not be read: nothing can be said
	strays   []stray
}

// Verify checks everything. An error means that the check could not be made;
// what is wrong is in the report.
func Verify(ctx context.Context, c Config) (*Report, error) {
	if c.Root == nil || c.Verifier == nil || c.Document == nil || c.Policy == nil {
		return nil, errors.New("verifying: no root, verifier, site document or policy")
	}
	root := sha256.Sum256(c.Root.Raw)
	a := &audit{Config: c, chains: newChains(c.Verifier, c.Root), ledger: newLedger(), registry: newRegistry(), report: Report{
		Root: hex.EncodeToString(root[:]), Document: c.Document.Number, WithoutJournal: []string{}, Gaps: []Gap{}, Findings: []Finding{}}}
	// The log first: a recorder puts every message into a segment before it
	// logs it, so that what is logged by now is in a segment by then.
	head := a.checkLog(ctx)
	if head != nil {
		a.finishJournals()
		for _, p := range a.ledger.prepare() {
			a.report.find(entryName(p.index), "the digest is over messages that another digest of its sender covers")
		}
	}
	a.checkSegments(ctx)
	if head != nil && a.denied == nil {
		a.checkWatermark(ctx, *head)
		a.checkStrays(ctx, *head)
		a.checkCopies()
		a.checkDigests()
		a.checkIssued()
		a.checkRevoked()
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("verifying: %w", err)
	}
	if a.denied != nil {
		return nil, fmt.Errorf("verifying: %w", a.denied)
	}
	return &a.report, nil
}
