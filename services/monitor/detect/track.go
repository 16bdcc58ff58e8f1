package detect

import (
	"math/bits"
	"time"

	"levee/internal/wire"
)

// clearAt is the share of the threshold that readings must stay below before
// an incident ends.
const clearAt = 0.8

type state uint8

const (
	calm    state = iota
	attack        // above, or not yet well below
	cooling       // well below, waiting for the hold time
)

// track is the state of one metric of one server.
type track struct {
	state     state
	silent    bool
	history   uint32 // one bit for each reading, the newest lowest: was it above?
	incident  wire.ID
	value     float64
	timestamp float64   // of the newest reading, by the server's clock
	seen      time.Time // when it was received; zero before the first
	raised    time.Time
	below     time.Time // cooling: since when
}

// late reports whether a reading of that timestamp is no newer than the last.
func (t *track) late(timestamp float64, reorder time.Duration) bool {
	back := t.timestamp - timestamp
	return !t.seen.IsZero() && back >= 0 && back <= reorder.Seconds()
}

// observe takes the next value, received at now, and returns what it changes:
// wire.StateRaised, wire.StateEnded or "".
func (t *track) observe(now time.Time, value float64, limit Threshold, c Config) string {
	if !t.seen.IsZero() && now.Sub(t.seen) > c.Silence {
		// Nobody knows what happened meanwhile: readings from before are not in
		// a row with those after, and no calm was held.
		t.history = 0
		if t.state == cooling {
			t.state = attack
		}
	}
	if now.After(t.seen) { // several sessions may deliver out of turn
		t.seen = now
	}
	t.silent, t.value = false, value

	above, clear := value > limit.Above, value < clearAt*limit.Above
	t.history <<= 1
	if above {
		t.history |= 1
	}
	switch {
	case t.state == calm && bits.OnesCount32(t.history<<(maxReadings-limit.N)) >= limit.K:
		t.state, t.raised, t.incident = attack, now, wire.NewID()
		return wire.StateRaised
	case t.state == attack && clear:
		t.state, t.below = cooling, now
	case t.state == cooling && !clear:
		t.state = attack
	case t.state == cooling && now.Sub(t.below) >= c.Hold:
		t.state, t.history = calm, 0
		return wire.StateEnded
	}
	return ""
}
