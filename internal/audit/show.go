package audit

import (
	"context"
	"fmt"
	"time"

	"levee/envelope"
	"levee/internal/issuance"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/services/recorder/segment"
)

// Filter says what Show shows. Its zero value is every entry of the log.
type Filter struct {
	First, End int64 // entries from First on, before End; 0 means to the end
	Sender     string
	Kind       string // a topic's fixed levels, as "metrics/cpu", or "issuance", "revocation"
	From, To   time.Time
	// Readings is what is in the segments, in place of the log's entries.
	Readings bool
}

// Shown is an entry of the log, or a record of a segment.
type Shown struct {
	Where    string `json:"where"`    // "entry N", or a path and the record's number
	Received int64  `json:"received"` // ms since the epoch
	Verdict  string `json:"verdict"`
	Kind     string `json:"kind"`
	Sender   string `json:"sender"`
	Topic    string `json:"topic,omitempty"`
	Time     int64  `json:"ts"` // ms since the epoch
	Nonce    string `json:"nonce,omitempty"`
	Signed   bool   `json:"signed"`
	Payload  string `json:"payload"`
	// Peer is the broker that a record came by, "" where that is not known.
	Peer string `json:"peer,omitempty"`
}

// Show hands out what the filter lets through, in the order of the record, until
// each returns an error. Entries are held against the signed tree; whether they
// are right otherwise is for Verify.
func Show(ctx context.Context, c Config, f Filter, each func(Shown) error) error {
	p, err := newProver(c)
	if err != nil {
		return err
	}
	if f.Readings {
		numbers := make(map[string]int64)
		return p.records(ctx, func(path string, r segment.Record) error {
			number := numbers[path]
			numbers[path]++
			return f.pass(shownRecord(path, number, r), each)
		})
	}
	return p.entries(f.First, func(index int64, raw []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.End > 0 && index >= f.End {
			return errFound
		}
		return f.pass(shownEntry(index, raw), each)
	})
}

func (f Filter) pass(s Shown, each func(Shown) error) error {
	switch {
	case f.Sender != "" && s.Sender != f.Sender, f.Kind != "" && s.Kind != f.Kind,
		!f.From.IsZero() && s.Received < f.From.UnixMilli(), !f.To.IsZero() && s.Received >= f.To.UnixMilli():
		return nil
	}
	return each(s)
}

func shownEntry(index int64, raw []byte) Shown {
	s := Shown{Where: entryName(index)}
	l, err := leaf.Parse(raw)
	if err != nil {
		s.Kind = "unreadable"
		return s
	}
	s.Received, s.Verdict, s.Kind = l.Received, l.Verdict, string(l.Kind)
	if l.Kind == leaf.KindMessage {
		s.message(l.Data)
		return s
	}
	s.Payload = string(l.Data)
	if e, err := issuance.ReadEntry(l.Data); err == nil {
		s.Time, s.Signed, s.Sender = e.Time, true, fmt.Sprintf("%s/%s", e.Authority.Host(), e.Journal)
	}
	return s
}

func shownRecord(path string, number int64, r segment.Record) Shown {
	s := Shown{Where: fmt.Sprintf("%s record %d", path, number), Received: r.Received, Verdict: r.Verdict.String(), Kind: "unreadable", Peer: r.Peer}
	s.message(r.Envelope)
	return s
}

func (s *Shown) message(raw []byte) {
	m, err := envelope.Parse(raw, envelope.MaxBackfill)
	if err != nil {
		s.Payload = string(raw)
		return
	}
	s.Sender, s.Topic, s.Time, s.Signed, s.Payload = string(m.Sender()), string(m.Topic), m.Time, m.Signed(), string(m.Payload)
	s.Nonce = fmt.Sprintf("%s-%d", envelope.FormatBoot(m.Nonce.Boot), m.Nonce.Seq)
	if topic, err := wire.ParseTopic(s.Topic); err == nil {
		s.Kind = topic.Kind.String()
	}
}
