package broker

import (
	"sync"
	"time"
)

// side says where a message's time lies, seen from the broker's clock.
type side uint8

const (
	inTime side = iota
	tooOld      // older than the skew allows
	tooNew      // later than the skew allows
	sides
)

// clock doubts the broker's own clock. While more than half of three or more
// senders miss on the same side, it is more likely to be the broker's clock
// than theirs that is wrong, and the broker must not silence a site over it.
//
// Each sender has one voice, its latest, for one to two periods. Only messages
// of verified identities may be given to it: whoever holds more than half of
// the site's active identities can make the broker pass on messages that the
// receivers will then refuse as stale. The zero value is ready.
type clock struct {
	mu       sync.Mutex
	turned   time.Time       // when recent began
	recent   map[string]side // heard in this period
	former   map[string]side // heard in the one before, not since
	count    [sides]int      // of both
	doubting bool
}

// voicePeriod is how long a sender's voice counts at least.
const voicePeriod = time.Minute

// hear takes what one message says of the clock. It returns whether the clock
// is in doubt, and whether that has just changed.
func (c *clock) hear(sender string, s side, now time.Time) (doubt, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for now.Sub(c.turned) >= voicePeriod || c.recent == nil {
		c.turn(now)
	}
	if old, ok := c.recent[sender]; ok {
		c.count[old]--
	} else if old, ok := c.former[sender]; ok {
		c.count[old]--
		delete(c.former, sender)
	}
	c.recent[sender] = s
	c.count[s]++
	voices := c.count[inTime] + c.count[tooOld] + c.count[tooNew]
	doubt = voices >= 3 && 2*max(c.count[tooOld], c.count[tooNew]) > voices
	changed = doubt != c.doubting
	c.doubting = doubt
	return doubt, changed
}

// turn begins a period. After a pause of two it forgets everything.
func (c *clock) turn(now time.Time) {
	for _, s := range c.former {
		c.count[s]--
	}
	c.former = c.recent
	c.recent = make(map[string]side, len(c.former))
	if now.Sub(c.turned) >= 2*voicePeriod {
		c.former, c.count = nil, [sides]int{}
	}
	c.turned = now
}
