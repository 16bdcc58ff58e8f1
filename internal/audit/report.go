package audit

import (
	"fmt"
	"slices"
)

// Finding is one thing that is wrong. As an error it says that a file which
// the audit rests on is wrong.
type Finding struct {
	Where string `json:"where"` // "entry N" of the log, or a path
	What  string `json:"what"`
	Kind  string `json:"kind"`
}

// Error returns where and what.
func (f Finding) Error() string { return f.Where + ": " + f.What }

// The kinds of findings. docs/auditing.md says what each of them means.
const (
	KindTrust      = "trust"                     // a file that the audit rests on is wrong or missing
	KindTree       = "tree"                      // the log's files do not give the signed tree
	KindCheckpoint = "checkpoint"                // the checkpoint, or the watermark, is not signed with the log's key
	KindRollback   = "rollback"                  // the log had more entries before
	KindFork       = "fork"                      // the log had other entries before
	KindEntry      = "entry"                     // an entry, or a record, is nothing that a recorder may have kept
	KindSignature  = "signature"                 // a signature or a certificate is not good, or not the one pinned
	KindDigest     = "digest"                    // what was kept is not what its sender signed for
	KindRepeat     = "repeat"                    // one number of a sender was used twice
	KindSegment    = "segment"                   // a segment's file is damaged, or does not belong
	KindCopy       = "copy"                      // log and segments do not hold the same signed messages
	KindWitness    = "witness"                   // too few witnesses vouch for the checkpoint
	KindLate       = "late"                      // a message was received when it was not fresh
	KindJournal    = "journal"                   // a journal's lines contradict each other, or are missing
	KindNotIssued  = "certificate_not_issued"    // a certificate signed a message, and no journal has it
	KindRevoked    = "signed_after_revocation"   // a message was signed with a certificate that had been revoked
	KindExecution  = "execution_without_command" // a controller acted on a command that the log does not hold
)

// Severity says what kind of thing is wrong, for an exit code. The worst of a
// report counts.
type Severity int

// The severities, the worst last.
const (
	Sound        Severity = iota
	Late                  // something came late, and is whole
	Unauthorised          // something was done that nobody was entitled to
	Changed               // the record is not what it was
)

// severityOf tells a record that was changed from one that shows what should
// not have been done. What it does not know counts as the worst.
func severityOf(kind string) Severity {
	switch kind {
	case KindLate:
		return Late
	case KindNotIssued, KindRevoked, KindExecution:
		return Unauthorised
	default:
		return Changed
	}
}

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

// Silence is a time in which the recorder received from others, and nothing
// from one sender.
type Silence struct {
	Sender string `json:"sender"` // site/role/name
	From   int64  `json:"from"`   // ms since the epoch
	To     int64  `json:"to"`     // likewise
	Over   bool   `json:"over"`   // it was heard again
}

// Witness is who has cosigned a checkpoint, and when.
type Witness struct {
	Name string `json:"name"`
	Time int64  `json:"time"` // ms since the epoch
}

// Delay is what came late of one sender: by backfill, after it could not be
// received at once.
type Delay struct {
	Sender   string `json:"sender"`   // site/role/name
	Messages int    `json:"messages"` // in segments
	Longest  int64  `json:"longest"`  // ms between ts and receipt
	First    int64  `json:"first"`    // ts of the oldest, ms since the epoch
	Last     int64  `json:"last"`     // ts of the newest
}

// Report is what was checked and found.
type Report struct {
	Site         string `json:"site"`
	Root         string `json:"root"`          // SHA-256 of the root certificate
	Document     uint64 `json:"site_document"` // its number
	Origin       string `json:"origin"`
	Entries      int64  `json:"entries"`
	RootHash     string `json:"root_hash"`
	Since        int64  `json:"since"`        // entries that an earlier audit had verified
	From         int64  `json:"from"`         // when the first message was received, ms since the epoch
	To           int64  `json:"to"`           // when the last was
	Witnessed    int64  `json:"witnessed"`    // entries of the newest checkpoint that enough witnesses have cosigned
	Signatures   int    `json:"signatures"`   // verified
	MACs         int    `json:"macs"`         // verified; 0 without keys
	Segments     int    `json:"segments"`     // files
	Envelopes    int    `json:"envelopes"`    // in them
	Confirmed    int    `json:"confirmed"`    // digests that match everything they cover
	Vouched      int    `json:"vouched"`      // messages that they cover
	Incomplete   int    `json:"incomplete"`   // digests over messages that were not all kept
	Expired      int    `json:"expired"`      // digests over messages that may have been deleted
	Contradicted int    `json:"contradicted"` // digests that do not match what was kept
	Missing      uint64 `json:"missing"`      // messages that were sent and not kept
	Unvouched    uint64 `json:"unvouched"`    // readings that no digest will confirm
	Declared     int    `json:"declared"`     // messages that their senders declare undelivered
	Pending      int    `json:"pending"`      // readings that a digest may still confirm
	Unlogged     int    `json:"unlogged"`     // signed messages that came when the recorder crashed, or since the checkpoint: in a segment alone
	Late         int    `json:"late"`         // messages that came by backfill, as their record says
	Refused      int    `json:"refused"`      // messages that were refused, a sample; they say nothing about their sender
	Issued       int    `json:"issued"`       // certificates, by the journals in the log
	Revoked      int    `json:"revoked"`      // orders to revoke that were carried out, likewise
	Readmitted   int    `json:"readmitted"`   // orders to readmit, likewise
	Executions   int    `json:"executions"`   // statuses of commands that were carried out
	// Unexplained counts those of them whose command may be among the messages
	// that are missing, or that are still on their way: nobody vouched for them yet.
	Unexplained int `json:"unexplained"`
	// AwaitingIssuance counts certificates that began to sign so shortly before
	// the log's end that their journal may still be on its way.
	AwaitingIssuance int `json:"awaiting_issuance"`
	// WithoutJournal lists the authorities (hosts) of signers of which the log
	// holds no issuance at all: whether they issued those was not checked.
	WithoutJournal []string  `json:"without_journal"`
	Witnesses      []Witness `json:"witnesses"` // who cosigned that checkpoint
	Gaps           []Gap     `json:"gaps"`      // the first 1,000
	Silences       []Silence `json:"silences"`  // the first 1,000
	Silent         int       `json:"silent"`    // all of them
	Delays         []Delay   `json:"delays"`    // by sender
	Findings       []Finding `json:"findings"`  // the first 1,000
	Found          int       `json:"found"`     // all

	worst  [places]Severity
	places [places][]Finding // what Findings is made of
	counts [places]int
}

// OK reports whether nothing is wrong. A gap is shown, and is not wrong by
// itself: a recorder that was down has seen nothing.
func (r *Report) OK() bool { return r.Found == 0 }

// Whole reports whether nothing is missing either.
func (r *Report) Whole() bool {
	return r.OK() && r.Missing == 0 && r.Declared == 0 && r.Unexplained == 0 && r.Silent == 0
}

// Severity returns that of the worst finding.
func (r *Report) Severity() Severity { return slices.Max(r.worst[:]) }

// Fail returns the report of an audit that ended before it began.
func Fail(f Finding) *Report {
	r := newReport()
	r.find(inTrust, f.Kind, f.Where, "%s", f.What)
	r.finish(true)
	return r
}

func newReport() *Report {
	return &Report{WithoutJournal: []string{}, Gaps: []Gap{}, Silences: []Silence{}, Delays: []Delay{}, Witnesses: []Witness{}, Findings: []Finding{}}
}

// maxListed bounds the lists of a report.
const maxListed = 1000

// place is where something was found. Findings are listed by it: what is wrong
// with the log comes before what follows from that.
type place int

const (
	inTrust place = iota
	inLog
	inSegments
	between // log and segments; it counts only if the log is the one that was signed
	places
)

func (r *Report) find(in place, kind, where, format string, args ...any) {
	r.Found++
	if r.counts[in]++; len(r.places[in]) < maxListed {
		r.places[in] = append(r.places[in], Finding{Where: where, What: fmt.Sprintf(format, args...), Kind: kind})
	}
	r.worst[in] = max(r.worst[in], severityOf(kind))
}

// finish puts the findings in their order. What was found between log and
// segments is left out if the log is not the one that was signed.
func (r *Report) finish(signed bool) {
	for in, found := range r.places {
		if place(in) == between && !signed {
			r.Found -= r.counts[in]
			r.worst[in] = Sound
			continue
		}
		r.Findings = append(r.Findings, found[:min(len(found), maxListed-len(r.Findings))]...)
	}
}
