package broker

import (
	"cmp"
	"log/slog"
	"time"

	"levee/envelope"
)

// revoke applies a list of revocations that passes through, before anybody gets
// it, and ends the sessions that it concerns. One that does not hold is refused:
// receivers would refuse it as well.
func (b *Broker) revoke(from *session, raw []byte, now time.Time) envelope.Reason {
	changed, err := b.revocations.Apply(raw, now)
	reason := envelope.ReasonOf(err)
	switch {
	case reason == envelope.Stale || reason == envelope.Future:
		return envelope.Accepted // our own clock is in doubt, else it would not have come here: receivers judge
	case err != nil:
		b.reporter.report(slog.LevelError, "revocations", "list of revocations refused", slog.Any("error", err))
		return cmp.Or(reason, envelope.BadContent)
	}
	if changed {
		b.log.Warn("revocations changed", slog.Int("sessions_ended", b.sweepSessions(now, from)))
	}
	return envelope.Accepted
}

// outdated reports whether a message is of a generation of its sender's key that
// was taken back.
func (b *Broker) outdated(m *envelope.Message, sender string) bool {
	minimum := b.revocations.MinimumGeneration(sender)
	return minimum > 1 && m.KeyID().Generation < minimum
}

// sweepSessions ends the sessions of certificates that are revoked, and of those
// that have expired by the wall clock, which the timer of a session does not see
// jump. It returns how many were revoked. That of publisher, which may be nil,
// ends when its message is delivered.
func (b *Broker) sweepSessions(now time.Time, publisher *session) (revoked int) {
	for _, s := range b.door.sessions(b) {
		switch {
		case b.revocations.Revoked(s.identity, s.leaf):
			revoked++
			if s == publisher {
				s.condemned = true
			} else {
				s.end(Revoked)
			}
		case now.Round(0).After(s.notAfter()):
			s.end(Expired)
		}
	}
	return revoked
}
