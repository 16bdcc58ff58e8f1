package metrics

import (
	"crypto/x509"
	"runtime/debug"
	"time"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/clocks"
	"levee/internal/spool"
	"levee/pki/revocation"
)

// Source is what every part that receives messages can tell;
// *session.Session and the broker's part are some.
type Source interface {
	Accepted() uint64
	Refusals() map[envelope.Reason]uint64
	Windows() replay.Stats
	Clocks() *clocks.Watch
	Kernel() *clocks.Kernel
}

// families returns what every part shows.
func families(s Source) []Family {
	all := []Family{
		{Name: "levee_build_info", Help: "Always 1; the label is the version that the program was built with.", Type: Gauge, Label: "version",
			Collect: func(add func(string, float64)) { add(version(), 1) }},
		Single("levee_messages_accepted_total", "Protected messages that passed every check.", Counter,
			func() float64 { return float64(s.Accepted()) }),
		{Name: "levee_messages_refused_total", Help: "Messages that were refused, by reason (docs/envelope.md).", Type: Counter, Label: "reason",
			Collect: func(add func(string, float64)) {
				counts := s.Refusals()
				for _, r := range envelope.Reasons() {
					add(r.String(), float64(counts[r]))
				}
			}},
		{Name: "levee_clock_offset_seconds", Help: "Time of receipt less ts, the least of one to two minutes, of a sender's accepted messages. Above 0 the sender is behind, or its messages arrive late.",
			Type: Gauge, Label: "sender", Collect: func(add func(string, float64)) {
				for _, f := range s.Clocks().Senders(time.Now()) {
					if f.Heard {
						add(f.Sender, f.Offset.Seconds())
					}
				}
			}},
		{Name: "levee_clock_refused_offset_seconds", Help: "The same of a verified sender's messages that were refused as stale or future. Above 0 they may also have been delayed or replayed.",
			Type: Gauge, Label: "sender", Collect: func(add func(string, float64)) {
				for _, f := range s.Clocks().Senders(time.Now()) {
					if f.Missed {
						add(f.Sender, f.Refused.Seconds())
					}
				}
			}},
		Single("levee_clock_unlisted_total", "Messages whose sender found no room among those whose offset is kept.", Counter,
			func() float64 { return float64(s.Clocks().Unlisted()) }),
		Single("levee_clock_doubted", "1 while most of three or more senders are off on the same side, so that this machine's clock is probably wrong.", Gauge,
			func() float64 { return is(s.Clocks().Verdict() != clocks.InTime) }),
		{Name: "levee_clock_synchronised", Help: "1 if the kernel says that this machine's clock is synchronised, 0 if not; absent if it does not say.", Type: Gauge,
			Collect: func(add func(string, float64)) {
				if state, known := s.Kernel().State(); known {
					add("", is(state.Synchronised))
				}
			}},
		{Name: "levee_clock_max_error_seconds", Help: "The kernel's bound of this machine's clock error.", Type: Gauge,
			Collect: func(add func(string, float64)) {
				if state, known := s.Kernel().State(); known {
					add("", state.MaxError.Seconds())
				}
			}},
		Single("levee_replay_senders", "Senders in the replay windows.", Gauge, func() float64 { return float64(s.Windows().Senders) }),
		Single("levee_replay_capacity", "Senders that the replay windows hold.", Gauge, func() float64 { return float64(s.Windows().Capacity) }),
	}
	if l, ok := s.(linked); ok {
		all = append(all,
			Single("levee_connected", "1 while connected to a broker, and subscribed.", Gauge, func() float64 { return is(l.Online()) }),
			Single("levee_messages_overflowed_total", "Received messages that found no room to be checked.", Counter,
				func() float64 { received, _ := l.Losses(); return float64(received) }),
			Single("levee_messages_given_up_total", "Messages of our own that were given up: before a broker took them, or before the recorder had them.", Counter,
				func() float64 { _, sent := l.Losses(); return float64(sent) }))
	}
	if k, ok := s.(keeping); ok {
		if _, keeps := k.Outbox(); keeps {
			all = append(all, outbox(func() spool.Stats { st, _ := k.Outbox(); return st })...)
		}
	}
	if r, ok := s.(redundant); ok {
		all = append(all,
			Family{Name: "levee_broker_connected", Help: "1 while connected to that broker, and subscribed.", Type: Gauge, Label: "broker",
				Collect: func(add func(string, float64)) {
					for name, connected := range r.Brokers() {
						add(name, is(connected))
					}
				}},
			Single("levee_messages_duplicate_total", "Accepted messages that came once more by another broker: neither accepted again nor refused.", Counter,
				func() float64 { return float64(r.Duplicates()) }))
	}
	if i, ok := s.(informed); ok && i.Revocations() != nil {
		all = append(all, Family{Name: "levee_revocations_age_seconds", Help: "Age of the newest list of revocations; absent if none ever came. Issuers publish each minute; over 300 it is stale.",
			Type: Gauge, Collect: func(add func(string, float64)) {
				if age, _ := i.Revocations().Stale(time.Now()); i.Revocations().Number() > 0 {
					add("", age.Seconds())
				}
			}})
	}
	if c, ok := s.(certified); ok {
		all = append(all, Family{Name: "levee_certificate_not_after_seconds", Help: "When this part's certificate, its authority's and the root's end, in seconds since the Unix epoch.",
			Type: Gauge, Label: "certificate", Collect: func(add func(string, float64)) {
				leaf, authority, root := c.Certificates()
				add("own", float64(leaf.NotAfter.Unix()))
				add("authority", float64(authority.NotAfter.Unix()))
				add("root", float64(root.NotAfter.Unix()))
			}})
	}
	return all
}

// outbox returns what a part shows that keeps its messages until the recorder has
// acknowledged them.
func outbox(stats func() spool.Stats) []Family {
	return []Family{
		Single("levee_outbox_messages", "Messages of our own that the recorder has not acknowledged.", Gauge, func() float64 { return float64(stats().Messages) }),
		Single("levee_outbox_bytes", "What the outbox takes on disk and in memory.", Gauge, func() float64 { return float64(stats().Bytes) }),
		Single("levee_outbox_oldest_seconds", "Age of the oldest message that the recorder has not acknowledged; 0 if there is none.", Gauge,
			func() float64 { return stats().Oldest.Seconds() }),
		Single("levee_outbox_acknowledgements_total", "Acknowledgements by the recorder, each up to some message.", Counter,
			func() float64 { return float64(stats().Acknowledgements) }),
		Single("levee_outbox_backfilled_total", "Messages that the recorder has only from a backfill.", Counter, func() float64 { return float64(stats().Backfilled) }),
		Single("levee_outbox_disk_failed", "1 while the disk does not take messages, so that they are in memory alone.", Gauge, func() float64 { return is(stats().Failed) }),
	}
}

// keeping is a Source that may keep its messages until they are acknowledged.
type keeping interface {
	Outbox() (st spool.Stats, ok bool)
}

// certified is a Source that shows certificates to others.
type certified interface {
	Certificates() (leaf, authority, root *x509.Certificate)
}

// informed is a Source that is told what is revoked.
type informed interface {
	Revocations() *revocation.Set // nil: it is not told
}

// linked is a Source with a connection to a broker.
type linked interface {
	Online() bool
	Losses() (received, sent uint64)
}

// redundant is a Source that may be connected to several brokers.
type redundant interface {
	Brokers() map[string]bool // by name, and whether connected
	Duplicates() uint64
}

func is(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}
