package replay

// Verdict is what Check says of a message. Only Fresh means that the message
// may be acted on; the zero value refuses.
type Verdict uint8

// The verdicts.
const (
	// Refused: not a message that the set can judge. The sender is empty or
	// longer than MaxSender, Boot or Seq is 0, or Time is not positive.
	Refused Verdict = iota
	// Fresh: never seen before, and marked as seen now.
	Fresh
	// Redelivery: the same nonce with the same tag, so the same message
	// again, as QoS 1 and a second broker produce it. To be counted and dropped.
	Redelivery
	// Repeat: the same nonce again, too far behind the newest for its tag to
	// be known still. To be dropped without alarm.
	Repeat
	// Collision: the same nonce over other bytes. An alarm: the sender's key
	// is used by somebody else, or its counter was set back.
	Collision
	// Clone: an older boot that still sends after a newer one began. An alarm:
	// two processes use one identity. A sender whose clock was set back
	// between two starts may cause one as well.
	Clone
	// Late: too old to be told from a repeat. It is below the window, of an
	// older boot, or of a sender whose entry was reclaimed since.
	Late
	// Full: a new sender for whom there is no room. Counted in Stats.
	Full
	// BeforeStart: earlier than start + skew of an Open that could not rely
	// on the file to remember.
	BeforeStart
	// Unavailable: the set is closed, or its file failed (see Sync).
	Unavailable
)

// String returns the verdict in lower case, fit for a metric's label.
func (v Verdict) String() string {
	switch v {
	case Fresh:
		return "fresh"
	case Redelivery:
		return "redelivery"
	case Repeat:
		return "repeat"
	case Collision:
		return "collision"
	case Clone:
		return "clone"
	case Late:
		return "late"
	case Full:
		return "full"
	case BeforeStart:
		return "before_start"
	case Unavailable:
		return "unavailable"
	default:
		return "refused"
	}
}

// Alarm reports whether the verdict is evidence of an attack or of a broken
// sender, rather than something that an honest network does.
func (v Verdict) Alarm() bool { return v == Collision || v == Clone }

// Message is what the set needs to know of a message.
type Message struct {
	// Sender is "site/role/name", 1 to MaxSender bytes, the last of which is
	// no '?'. Generations share one window. A second counter of the same sender
	// (backfill) needs a set or a name of its own.
	Sender []byte
	// Unproven: neither MAC nor signature nor connection vouches that Sender
	// sent it. It is judged by a window of its own, in a room of its own, and
	// its sender's name is one byte shorter at most.
	Unproven bool
	// Boot and Seq are the two numbers of the nonce, both at least 1.
	Boot, Seq uint64
	// Time is the message's own time in Unix milliseconds.
	Time int64
	// Arrival is when it came, by the caller's clock, in Unix milliseconds; 0:
	// unknown. A sender chooses Time, and not Arrival.
	Arrival int64
	// Tag is a part of the message's MAC. It tells a redelivery from another
	// message under the same nonce.
	Tag [8]byte
}
