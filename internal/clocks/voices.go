package clocks

import (
	"sync"
	"time"
)

// Period is how long a message counts at least; it counts for two at most.
const Period = time.Minute

// Side says where a sender's clock stands, seen from this machine's.
type Side uint8

// The sides. The zero value is no fault.
const (
	InTime Side = iota
	Behind      // the sender's ts is older than the limit allows
	Ahead       // the sender's ts is later than the limit allows
	sides
)

// String returns the side as a word for a log.
func (s Side) String() string {
	switch s {
	case Behind:
		return "behind"
	case Ahead:
		return "ahead"
	default:
		return "in time"
	}
}

// SideOf returns the side of a message that arrived at offset; an offset of
// just the limit is in time.
func SideOf(offset, limit time.Duration) Side {
	switch {
	case offset > limit:
		return Behind
	case offset < -limit:
		return Ahead
	default:
		return InTime
	}
}

// Voices are what senders say of this machine's clock. While more than half of
// three or more are off on the same side, it is more likely that this machine's
// clock is wrong than that theirs are.
//
// Each sender has one voice, its latest, for one to two periods. Only messages
// of verified identities may be given to it: whoever holds more than half of
// the identities that speak decides. The zero value is ready.
type Voices struct {
	mu      sync.Mutex
	turned  time.Time       // when recent began
	recent  map[string]Side // heard in this period
	former  map[string]Side // heard in the one before, not since
	count   [sides]int      // of both
	verdict Side
}

// Hear takes what one message says. It returns the side on which most senders
// are, InTime if there is no such majority, and whether that has just changed.
func (v *Voices) Hear(sender string, s Side, now time.Time) (verdict Side, changed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for now.Sub(v.turned) >= Period || v.recent == nil {
		v.turn(now)
	}
	if old, ok := v.recent[sender]; ok {
		v.count[old]--
	} else if old, ok := v.former[sender]; ok {
		v.count[old]--
		delete(v.former, sender)
	}
	v.recent[sender] = s
	v.count[s]++
	voices := v.count[InTime] + v.count[Behind] + v.count[Ahead]
	switch {
	case voices < 3:
	case 2*v.count[Behind] > voices:
		verdict = Behind
	case 2*v.count[Ahead] > voices:
		verdict = Ahead
	}
	changed = verdict != v.verdict
	v.verdict = verdict
	return verdict, changed
}

// turn begins a period. After a pause of two it forgets everything.
func (v *Voices) turn(now time.Time) {
	for _, s := range v.former {
		v.count[s]--
	}
	v.former = v.recent
	v.recent = make(map[string]Side, len(v.former))
	if now.Sub(v.turned) >= 2*Period {
		v.former, v.count = nil, [sides]int{}
	}
	v.turned = now
}
