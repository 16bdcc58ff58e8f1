// Package feed turns what a session delivers and refuses into lines for
// people, each with what vouches for it.
//
// It guarantees that "verified" stands only beside what a signature proves,
// and that a reading stays "unconfirmed" until its sender's digest covers it.
// It keeps nothing but the hashes of readings that wait for their digest. It
// makes no text inert and bounds none: whoever shows a line does.
package feed

import (
	"encoding/json"

	"levee/envelope"
	"levee/internal/confirm"
	"levee/internal/session"
	"levee/internal/wire"
)

// What vouches for a line. A confirmation has the word of its
// confirm.Outcome instead.
const (
	Verified    = "verified"    // signed, checked from the root
	Unconfirmed = "unconfirmed" // a reading whose digest has not come
	Unverified  = "unverified"  // a public message: anybody's text
	Refused     = "refused"     // failed a check; shown for the operator's eyes
)

// The kinds of lines that are no message.
const (
	KindConfirmation  = "confirmation"  // what a digest settled
	KindContradiction = "contradiction" // two different messages came under one number, First: neither is confirmed
	KindRefusal       = "refusal"
)

// Line is one line of `levee watch --json`. Members that do not apply are
// absent.
type Line struct {
	Received     int64           `json:"received"` // ms since the epoch
	Verification string          `json:"verification"`
	Kind         string          `json:"kind"` // the topic's fixed levels, or one of the kinds above
	Topic        string          `json:"topic,omitempty"`
	Sender       string          `json:"sender,omitempty"` // site/role/name
	Time         int64           `json:"ts,omitempty"`     // the envelope's
	Boot         string          `json:"boot,omitempty"`
	Seq          uint64          `json:"seq,omitempty"`
	Payload      json.RawMessage `json:"payload,omitempty"`
	Text         string          `json:"text,omitempty"`   // of a public message
	Reason       string          `json:"reason,omitempty"` // of a refusal
	First        uint64          `json:"first,omitempty"`  // of a confirmation or contradiction
	Last         uint64          `json:"last,omitempty"`
	Seen         int             `json:"seen,omitempty"`
	Missing      int             `json:"missing,omitempty"`
	Dropped      int             `json:"dropped,omitempty"`
	Unvouched    int             `json:"unvouched,omitempty"` // seen, and vouched for by nobody
}

// Feed remembers what waits for its digest. It is not safe for concurrent use.
type Feed struct{ tracker *confirm.Tracker }

// New returns a feed that has seen nothing.
func New() *Feed { return &Feed{tracker: confirm.NewTracker()} }

// Deliver returns the line of a message that passed the session's checks. The
// line of a signed digest is followed by the confirmation that it is, and that of
// a message whose number another one has by the contradiction.
func (f *Feed) Deliver(d session.Delivery) []Line {
	l := Line{Received: d.Received.UnixMilli(), Kind: d.Topic.Kind.String(), Topic: d.Name}
	if !d.Topic.Protected() {
		l.Verification, l.Text = Unverified, string(d.Payload)
		return []Line{l}
	}
	l.Sender, l.Time, l.Payload = d.Topic.Sender(), d.Message.Time, d.Payload
	l.Boot, l.Seq = envelope.FormatBoot(d.Message.Nonce.Boot), d.Message.Nonce.Seq
	l.Verification = Unconfirmed
	if d.Proof == session.ProofSignature {
		l.Verification = Verified
	}
	lines := []Line{l}
	if d.Topic.Kind == wire.KindDigest && d.Proof == session.ProofSignature {
		lines = append(lines, f.settle(l))
	}
	if d.Topic.Kind == wire.KindBackfill { // it has numbers of its own, which no digest covers
		return lines
	}
	// Digests as well: the next one covers this one.
	if f.tracker.Add(l.Sender, d.Message.Nonce, d.Message.Raw, d.Proof == session.ProofSignature) {
		lines = append(lines, Line{Received: l.Received, Verification: confirm.Contradicted.String(), Kind: KindContradiction,
			Sender: l.Sender, Boot: l.Boot, First: l.Seq, Last: l.Seq, Seen: 2})
	}
	return lines
}

// settle returns the confirmation that the line of a digest is.
func (f *Feed) settle(l Line) Line {
	var (
		digest wire.Digest
		r      confirm.Result // malformed, unless it can be read
	)
	err := wire.DecodeExact(l.Payload, &digest)
	if err == nil && digest.Boot == l.Boot && digest.Last < l.Seq { // it speaks for what came before it
		r = f.tracker.Settle(l.Sender, digest)
	}
	return Line{Received: l.Received, Verification: r.Outcome.String(), Kind: KindConfirmation, Sender: l.Sender,
		Boot: envelope.FormatBoot(r.Boot), First: r.First, Last: r.Last,
		Seen: r.Seen, Missing: r.Missing, Dropped: r.Dropped, Unvouched: r.Unvouched}
}

// Refuse returns the line of a message that failed a check, without its
// content. A redelivery is harmless and has none.
func (f *Feed) Refuse(r session.Refusal) (l Line, ok bool) {
	if r.Reason == envelope.Redelivered {
		return Line{}, false
	}
	return Line{Received: r.Received.UnixMilli(), Verification: Refused, Kind: KindRefusal, Topic: r.Name, Reason: r.Reason.String()}, true
}
