// Package watch shows live messages to a person, each with what vouches for
// it.
//
// It guarantees that "verified" is written only beside what a signature
// proves, that a reading stays "unconfirmed" until its sender's digest covers
// it, and that no payload can steer the terminal: everything that did not come
// from this program is printed as inert text. It keeps nothing but the hashes
// of readings that wait for their digest.
package watch

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"sync"
	"time"
	"unicode/utf16"

	"levee/envelope"
	"levee/internal/confirm"
	"levee/internal/session"
	"levee/internal/wire"
)

// What vouches for a line.
const (
	Verified    = "verified"    // signed, checked from the root
	Unconfirmed = "unconfirmed" // a reading whose digest has not come
	Unverified  = "unverified"  // a public message: anybody's text
	Refused     = "refused"     // failed a check; shown for the operator's eyes
)

// Line is one line of `levee watch --json`. Members that do not apply are
// absent.
type Line struct {
	Received     int64           `json:"received"` // ms since the epoch
	Verification string          `json:"verification"`
	Kind         string          `json:"kind"` // the topic's fixed levels, or "confirmation"
	Topic        string          `json:"topic,omitempty"`
	Sender       string          `json:"sender,omitempty"` // site/role/name
	Time         int64           `json:"ts,omitempty"`     // the envelope's
	Boot         string          `json:"boot,omitempty"`
	Seq          uint64          `json:"seq,omitempty"`
	Payload      json.RawMessage `json:"payload,omitempty"`
	Text         string          `json:"text,omitempty"`   // of a public message
	Reason       string          `json:"reason,omitempty"` // of a refusal
	First        uint64          `json:"first,omitempty"`  // of a confirmation
	Last         uint64          `json:"last,omitempty"`
	Seen         int             `json:"seen,omitempty"`
	Missing      int             `json:"missing,omitempty"`
	Dropped      int             `json:"dropped,omitempty"`
	Unvouched    int             `json:"unvouched,omitempty"` // seen, and vouched for by nobody
}

// Viewer writes lines. It is safe for concurrent use.
type Viewer struct {
	mu      sync.Mutex
	out     io.Writer
	json    bool
	tracker *confirm.Tracker
	err     error
}

// New returns a viewer that writes to out, as text or as one JSON object a line.
func New(out io.Writer, asJSON bool) *Viewer {
	return &Viewer{out: out, json: asJSON, tracker: confirm.NewTracker()}
}

// Err returns the first error of writing.
func (v *Viewer) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Deliver shows a message that passed the session's checks.
func (v *Viewer) Deliver(d session.Delivery) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := Line{Received: d.Received.UnixMilli(), Kind: d.Topic.Kind.String(), Topic: d.Name}
	if !d.Topic.Protected() {
		l.Verification, l.Text = Unverified, string(d.Payload)
		v.write(l)
		return
	}
	l.Sender, l.Time, l.Payload = d.Topic.Sender(), d.Message.Time, d.Payload
	l.Boot, l.Seq = envelope.FormatBoot(d.Message.Nonce.Boot), d.Message.Nonce.Seq
	l.Verification = Unconfirmed
	if d.Proof == session.ProofSignature {
		l.Verification = Verified
	}
	var settled *confirm.Result
	if d.Topic.Kind == wire.KindDigest && d.Proof == session.ProofSignature {
		var (
			digest wire.Digest
			r      confirm.Result // malformed, unless it can be read
		)
		err := wire.DecodeExact(d.Payload, &digest)
		if err == nil && digest.Boot == l.Boot && digest.Last < l.Seq { // it speaks for what came before it
			r = v.tracker.Settle(l.Sender, digest)
		}
		settled = &r
	}
	v.tracker.Add(l.Sender, d.Message.Nonce, d.Message.Raw)
	if v.json || settled == nil { // people read what a digest settles, not the digest
		v.write(l)
	}
	if settled != nil {
		v.write(Line{Received: l.Received, Verification: settled.Outcome.String(), Kind: "confirmation", Sender: l.Sender,
			Boot: envelope.FormatBoot(settled.Boot), First: settled.First, Last: settled.Last,
			Seen: settled.Seen, Missing: settled.Missing, Dropped: settled.Dropped, Unvouched: settled.Unvouched})
	}
}

// Refuse shows a message that failed a check, without its content.
func (v *Viewer) Refuse(r session.Refusal) {
	if r.Reason == envelope.Redelivered {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.write(Line{Received: r.Received.UnixMilli(), Verification: Refused, Kind: "refusal", Topic: r.Name, Reason: r.Reason.String()})
}

func (v *Viewer) write(l Line) {
	if v.err != nil {
		return
	}
	if v.json {
		v.err = writeJSON(v.out, l)
		return
	}
	_, v.err = fmt.Fprintf(v.out, "%s  %-12s  %s\n", time.UnixMilli(l.Received).Format("15:04:05.000"), l.Verification, inert(describe(l)))
}

// writeJSON writes l in ASCII: what is beyond it stands in strings alone, and
// there every character has an escape.
func writeJSON(out io.Writer, l Line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	line := make([]byte, 0, len(b)+1)
	for _, r := range string(b) {
		switch {
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			line = fmt.Appendf(line, `\u%04x\u%04x`, high, low)
		case r > '~':
			line = fmt.Appendf(line, `\u%04x`, r)
		default:
			line = append(line, byte(r))
		}
	}
	_, err = out.Write(append(line, '\n'))
	return err
}

func number(f float64) string {
	return strconv.FormatFloat(math.Round(f*1000)/1000, 'f', -1, 64)
}
