package broker

import (
	"cmp"
	"log/slog"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/clocks"
	"levee/internal/wire"
	"levee/pki"
)

// OnPublish passes a message on, or swallows it. A refused message is
// acknowledged: an MQTT 3.1.1 publisher would send it again for ever
// otherwise, and it would be refused for ever.
//
// Every error that it returns is CodeSuccessIgnore itself: with any but that
// and ErrRejectPacket mochi delivers the message all the same (P1).
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (_ packets.Packet, err error) {
	s := sessionOf(cl)
	if s == nil || cl.Net.Inline {
		return pk, packets.CodeSuccessIgnore
	}
	defer h.contain(s, func() { err = packets.CodeSuccessIgnore })
	now := time.Now()
	reason, late := h.b.inspect(s, pk.TopicName, pk.Payload, now)
	if reason == envelope.Accepted {
		return pk, nil
	}
	h.b.refuseMessage(s, reason, late, pk.TopicName, now)
	return pk, packets.CodeSuccessIgnore
}

// inspect judges one message without any key: its size, its grammar, that it is
// of the identity that sends it and for the topic that it is sent on, that it
// is signed where its class must be, that it is fresh, and that it was not
// seen before. What is left, MAC and signature, receivers check; of lists of
// revocations the broker checks the signature as well, because it acts on them.
func (b *Broker) inspect(s *session, topic string, payload []byte, now time.Time) (envelope.Reason, *untimely) {
	t, err := wire.ParseTopic(topic)
	if err != nil {
		return envelope.BadTopic, nil
	}
	g := s.grant.Load()
	class := g.policy.Class(t.Kind)
	size := min(class.MaxBytes, g.limits.MaxMessageBytes)
	if len(payload) > size {
		return envelope.BadSize, nil
	}
	if t.Kind == wire.KindPublic && !class.Protected {
		b.counters.public.Add(1)
		return envelope.Accepted, nil
	}
	m, err := envelope.Parse(payload, size)
	if err != nil {
		return cmp.Or(envelope.ReasonOf(err), envelope.BadGrammar), nil
	}
	switch {
	case string(m.Topic) != topic:
		return envelope.BadTopic, nil
	case string(m.Sender()) != s.sender || t.Sender() != s.sender:
		return envelope.BadSender, nil
	case b.outdated(&m, s.sender):
		return envelope.UnknownKey, nil
	case class.Signed && !m.Signed():
		return envelope.Unsigned, nil
	case s.reason() == Revoked: // it ended; this was read before
		return envelope.Revoked, nil
	}
	reason, late := b.unseen(s, t.Kind, &m, g.policy.Skew(), now)
	if reason == envelope.Accepted && t.Kind == wire.KindRevocations {
		reason = b.revoke(s, payload, now)
	}
	if reason == envelope.Accepted {
		b.counters.accepted.Add(1)
	}
	return reason, late
}

// untimely says how a message missed the skew.
type untimely struct {
	offset time.Duration // time of receipt less ts
	detail string
}

// unseen judges time and nonce. While the broker's own clock is in doubt it
// leaves freshness to the receivers, whose clocks it cannot silence.
func (b *Broker) unseen(s *session, kind wire.Kind, m *envelope.Message, skew time.Duration, now time.Time) (envelope.Reason, *untimely) {
	offset, reason := clocks.Offset(m.Time, now), envelope.Accepted
	side := clocks.SideOf(offset, skew)
	switch side {
	case clocks.Behind:
		reason = envelope.Stale
	case clocks.Ahead:
		reason = envelope.Future
	}
	verdict := clocks.InTime
	if s.identity.Role != pki.RoleBroker { // it would agree with itself
		var changed bool
		if verdict, changed = b.voices.Hear(s.sender, side, now); changed {
			b.reportClock(verdict)
		}
	}
	doubt := verdict != clocks.InTime
	heard := clocks.Reading{Sender: m.Sender(), Boot: m.Nonce.Boot, Seq: m.Nonce.Seq, Offset: offset}
	if reason != envelope.Accepted && !doubt {
		detail := clocks.OldNonce
		if kind == wire.KindBackfill || b.clocks.Hear(heard, now) {
			detail = clocks.Detail(offset)
		}
		return reason, &untimely{offset: offset, detail: detail}
	}
	if m.Nonce.Boot > uint64(m.Time+skew.Milliseconds()) {
		return envelope.Future, &untimely{offset: offset, detail: clocks.LateBoot} // it would lock out the sender's honest starts
	}
	seen := b.windows.Check(replay.Message{
		Sender: wire.Window(kind, m.Sender()), Boot: m.Nonce.Boot, Seq: m.Nonce.Seq, Time: m.Time, Arrival: now.UnixMilli(), Tag: m.Tag(),
	})
	if seen == replay.Fresh && kind != wire.KindBackfill {
		heard.Accepted = reason == envelope.Accepted
		b.clocks.Hear(heard, now)
	}
	if seen == replay.Fresh && reason != envelope.Accepted || seen == replay.BeforeStart && doubt { // that start was read from the clock in doubt
		b.counters.unjudged.Add(1)
		return envelope.Accepted, nil
	}
	return reasonOf(seen), nil
}

func reasonOf(v replay.Verdict) envelope.Reason {
	switch v {
	case replay.Fresh:
		return envelope.Accepted
	case replay.Redelivery:
		return envelope.Redelivered
	case replay.Collision:
		return envelope.NonceCollision
	case replay.Clone:
		return envelope.Cloned
	case replay.Full:
		return envelope.WindowsFull
	case replay.Unavailable:
		return envelope.WindowsFailed
	case replay.BeforeStart:
		return envelope.BeforeStart
	default:
		return envelope.Replayed
	}
}

// refuseMessage counts and logs a refused message, never its payload. What an
// honest sender cannot cause is a strike, and too many of those end the
// session; a wrong clock, a redelivery or a fault of our windows is none.
func (b *Broker) refuseMessage(s *session, r envelope.Reason, late *untimely, topic string, now time.Time) {
	b.counters.refuseEnvelope(r)
	level := slog.LevelWarn
	switch r {
	case envelope.Redelivered:
		level = slog.LevelInfo // mostly the network's doing
	case envelope.NonceCollision, envelope.Cloned, envelope.WindowsFailed:
		level = slog.LevelError
	}
	attrs := []slog.Attr{slog.String("reason", r.String()), slog.String("identity", s.sender), slog.String("topic", topic), slog.String("remote", s.from)}
	if late != nil {
		attrs = append(attrs, slog.Duration("offset", late.offset), slog.Duration("skew", b.policy().Skew()), slog.String("detail", late.detail))
	}
	b.reporter.report(level, "message "+r.String(), "message refused", attrs...)
	switch r {
	case envelope.Cloned: // the honest one of two must not be cut off for the other's doing
		return
	case envelope.Redelivered, envelope.Stale, envelope.Future, envelope.Replayed, envelope.BeforeStart, envelope.WindowsFull, envelope.WindowsFailed:
		return
	}
	if s.account.strike(b.bounds().Strikes, now) {
		s.end(Misbehaved)
	}
}

func (b *Broker) reportClock(verdict clocks.Side) {
	if verdict == clocks.InTime {
		b.log.Warn("this broker's clock is no longer in doubt")
		return
	}
	b.log.Error("most senders disagree with this broker's clock: set it; freshness is left to the receivers", slog.String("senders", verdict.String()))
}
