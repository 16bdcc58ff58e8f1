package recorder

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/services/recorder/ledger"
	"levee/services/recorder/segment"
)

// batch is what is kept together.
type batch struct {
	*Recorder
	entries [][]byte // of the log
	fills   int      // backfills, whose senders wait
}

// keep appends messages to the segment in the order in which they came, and
// the signed ones to the log.
func (r *Recorder) keep(ctx context.Context, deliveries []session.Delivery) error {
	r.figures.behind.Store(int64(max(0, time.Since(deliveries[0].Received))))
	b := batch{Recorder: r}
	for _, d := range deliveries {
		var err error
		if d.Topic.Kind == wire.KindBackfill {
			err = b.backfill(d)
		} else {
			r.held.ledger.Heard(d.Message.Sender(), d.Message.Nonce.Boot, d.Message.KeyID().Generation)
			err = b.message(d, segment.Accepted)
		}
		if err != nil {
			return err
		}
	}
	if len(b.entries) == 0 && b.fills == 0 {
		return nil // the next tick settles
	}
	// After a crash a segment may hold what the log does not, never the other
	// way round: an entry without its envelope means that a segment was cut.
	if err := r.sync(); err != nil {
		return err
	}
	if err := r.held.log(ctx, r.config.Transparency, b.entries); err != nil {
		return fmt.Errorf("keeping signed messages: %w", err)
	}
	r.figures.kept.Add(uint64(len(b.entries)))
	r.held.ledger.Commit()
	return nil
}

// message keeps one message that passed every check, unless it is held.
func (b *batch) message(d session.Delivery, verdict segment.Verdict) error {
	m := ledger.Message{Sender: d.Message.Sender(), Boot: d.Message.Nonce.Boot, Seq: d.Message.Nonce.Seq, Sum: sha256.Sum256(d.Message.Raw)}
	switch found := b.held.ledger.Take(m); {
	case found == ledger.Taken, found == ledger.Untracked && verdict == segment.Accepted:
	case found == ledger.Held:
		b.figures.duplicates.Add(1)
		return nil
	case found == ledger.Contradicts:
		return b.contradiction(d, m)
	default:
		b.figures.unkept.add(found)
		b.config.Log.Warn("a message was not kept: what is held of its sender is not known any more, or has too many gaps", slog.String("sender", string(m.Sender)),
			slog.String("boot", envelope.FormatBoot(m.Boot)), slog.Uint64("seq", m.Seq))
		return nil
	}
	received := d.Received.UnixMilli()
	if err := b.append(segment.Record{Received: received, Verdict: verdict, Peer: d.Via, Envelope: d.Message.Raw}); err != nil {
		return err
	}
	if verdict == segment.Late {
		b.figures.late.Add(1)
	}
	if d.Proof != session.ProofSignature {
		b.written++
		return nil
	}
	if d.Topic.Kind == wire.KindDigest {
		b.held.gaveUp(m, d.Message.Payload)
	}
	entry, err := leaf.Leaf{Received: received, Verdict: verdict.String(), Kind: leaf.KindMessage, Data: d.Message.Raw}.Marshal()
	if err != nil {
		return fmt.Errorf("keeping a signed message: %w", err)
	}
	b.entries = append(b.entries, entry)
	return nil
}

// contradiction keeps a message of a number that is held over other bytes, as
// evidence. Nothing from there on is acknowledged.
func (b *batch) contradiction(d session.Delivery, m ledger.Message) error {
	b.held.ledger.Dispute(m)
	b.figures.contradictions.Add(1)
	b.config.Log.Error("two messages of one number: one is kept, the other is evidence", slog.String("sender", string(m.Sender)),
		slog.String("boot", envelope.FormatBoot(m.Boot)), slog.Uint64("seq", m.Seq))
	b.tellRefused(session.Refusal{Name: d.Name, Raw: d.Message.Raw, Reason: envelope.NonceCollision, Received: d.Received, Via: d.Via})
	verdict, _ := segment.VerdictOf(envelope.NonceCollision.String())
	if !b.refused.admit(envelope.NonceCollision, len(d.Message.Raw), d.Received) {
		return nil
	}
	return b.append(segment.Record{Received: d.Received.UnixMilli(), Verdict: verdict, Peer: d.Via, Envelope: d.Message.Raw})
}

// backfill keeps the originals that a backfill brought, those that are not held.
// One that is refused holds up none of the others.
func (b *batch) backfill(d session.Delivery) error {
	f, err := wire.ParseBackfill(d.Payload)
	if err != nil {
		b.config.Session.RefuseContent(d)
		return nil
	}
	for _, raw := range f.Envelopes {
		original, err := b.config.Session.OpenOriginal(raw, d)
		if err != nil {
			reason := envelope.ReasonOf(err)
			b.figures.originals.add(reason)
			refusal := session.Refusal{Name: d.Name, Raw: raw, Reason: reason, Received: d.Received, Via: d.Via}
			b.tellRefused(refusal)
			if b.refused.admit(reason, len(raw), d.Received) {
				b.config.Log.Warn("original refused", slog.String("reason", reason.String()), slog.String("topic", d.Name), slog.Int("bytes", len(raw)))
				if err := b.keepRefused(refusal); err != nil {
					return err
				}
			}
			continue
		}
		if err := b.message(original, segment.Late); err != nil {
			return err
		}
	}
	sender := d.Message.Sender()
	b.held.ledger.Heard(sender, d.Message.Nonce.Boot, d.Message.KeyID().Generation)
	b.held.ledger.Backfill(sender, d.Message.Nonce.Boot, d.Message.Nonce.Seq, f.From)
	b.fills++
	return nil
}

// acknowledge sends the acknowledgements that are due.
func (r *Recorder) acknowledge(now time.Time) {
	for _, due := range r.held.ledger.Due(now, maxAcks) {
		peer := envelope.KeyID{Site: r.config.Site, Role: due.Role, Name: due.Name, Generation: due.Generation}
		err := r.config.Session.Acknowledge(peer, wire.Ack{Timestamp: float64(now.UnixMilli()) / 1000,
			Boot: envelope.FormatBoot(due.Boot), Seq: due.Seq, Backfill: due.Backfill})
		if err != nil {
			// It is due again with the next message of its sender.
			r.config.Log.Warn("not acknowledged", slog.String("sender", peer.Sender()), slog.Any("error", err))
			continue
		}
		r.figures.acks.Add(1)
	}
	r.figures.owed.Store(int64(r.held.ledger.Owed()))
}
