package broker

import (
	"cmp"
	"log/slog"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/wire"
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
	reason := h.b.inspect(s, pk.TopicName, pk.Payload, now)
	if reason == envelope.Accepted {
		return pk, nil
	}
	h.b.refuseMessage(s, reason, pk.TopicName, now)
	return pk, packets.CodeSuccessIgnore
}

// inspect judges one message without any key: its size, its grammar, that it is
// of the identity that sends it and for the topic that it is sent on, that it
// is signed where its class must be, that it is fresh, and that it was not
// seen before. What is left, MAC and signature, receivers check.
func (b *Broker) inspect(s *session, topic string, payload []byte, now time.Time) envelope.Reason {
	t, err := wire.ParseTopic(topic)
	if err != nil {
		return envelope.BadTopic
	}
	class := b.policy.Class(t.Kind)
	size := min(class.MaxBytes, s.limits.MaxMessageBytes)
	if len(payload) > size {
		return envelope.BadSize
	}
	if t.Kind == wire.KindPublic && !class.Protected {
		b.counters.public.Add(1)
		return envelope.Accepted
	}
	m, err := envelope.Parse(payload, size)
	if err != nil {
		return cmp.Or(envelope.ReasonOf(err), envelope.BadGrammar)
	}
	switch {
	case string(m.Topic) != topic:
		return envelope.BadTopic
	case string(m.Sender()) != s.sender || t.Sender() != s.sender:
		return envelope.BadSender
	case class.Signed && !m.Signed():
		return envelope.Unsigned
	}
	reason := b.unseen(s, t.Kind, &m, now)
	if reason == envelope.Accepted {
		b.counters.accepted.Add(1)
	}
	return reason
}

// unseen judges time and nonce. While the broker's own clock is in doubt it
// leaves freshness to the receivers, whose clocks it cannot silence.
func (b *Broker) unseen(s *session, kind wire.Kind, m *envelope.Message, now time.Time) envelope.Reason {
	skew := b.policy.Skew().Milliseconds()
	where, reason := inTime, envelope.Accepted
	switch offset := m.Time - now.UnixMilli(); {
	case offset < -skew:
		where, reason = tooOld, envelope.Stale
	case offset > skew:
		where, reason = tooNew, envelope.Future
	}
	doubt, changed := b.clock.hear(s.sender, where, now)
	if changed {
		b.reportClock(doubt)
	}
	if reason != envelope.Accepted && !doubt {
		return reason
	}
	if m.Nonce.Boot > uint64(m.Time+skew) {
		return envelope.Future // it would lock out the sender's honest starts
	}
	switch verdict := b.windows.Check(replay.Message{
		Sender: window(kind, m.Sender()), Boot: m.Nonce.Boot, Seq: m.Nonce.Seq, Time: m.Time, Tag: m.Tag(),
	}); {
	case verdict == replay.Fresh && reason != envelope.Accepted,
		verdict == replay.BeforeStart && doubt: // that start was read from the clock in doubt
		b.counters.unjudged.Add(1)
		return envelope.Accepted
	default:
		return reasonOf(verdict)
	}
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

// window returns the name of the window for one of a sender's two counters.
func window(kind wire.Kind, sender []byte) []byte {
	if kind == wire.KindBackfill {
		return append(sender[:len(sender):len(sender)], "/backfill"...)
	}
	return sender
}

// refuseMessage counts and logs a refused message, never its payload. What an
// honest sender cannot cause is a strike, and too many of those end the
// session; a wrong clock, a redelivery or a fault of our windows is none.
func (b *Broker) refuseMessage(s *session, r envelope.Reason, topic string, now time.Time) {
	b.counters.refuseEnvelope(r)
	level := slog.LevelWarn
	switch r {
	case envelope.Redelivered:
		level = slog.LevelInfo // mostly the network's doing
	case envelope.NonceCollision, envelope.Cloned, envelope.WindowsFailed:
		level = slog.LevelError
	}
	b.reporter.report(level, "message "+r.String(), "message refused", slog.String("reason", r.String()),
		slog.String("identity", s.sender), slog.String("topic", topic), slog.String("remote", s.from))
	switch r {
	case envelope.Cloned: // the honest one of two must not be cut off for the other's doing
		return
	case envelope.Redelivered, envelope.Stale, envelope.Future, envelope.Replayed, envelope.BeforeStart, envelope.WindowsFull, envelope.WindowsFailed:
		return
	}
	if s.account.strike(b.limits.Strikes, now) {
		s.end(Misbehaved)
	}
}

func (b *Broker) reportClock(doubt bool) {
	if doubt {
		b.log.Error("most senders disagree with this broker's clock: set it; freshness is left to the receivers")
		return
	}
	b.log.Warn("this broker's clock is no longer in doubt")
}
