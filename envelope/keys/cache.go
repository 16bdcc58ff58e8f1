package keys

import (
	"sync"
	"sync/atomic"

	"levee/envelope"
)

// maxDerived bounds the sender keys that a ring remembers, at about 1 KiB each.
// It fits the 100,000 senders that a site may have.
const maxDerived = 1 << 17

// cache remembers keys that have opened a message. A full one gives up a key
// that was not asked for since it last looked (the clock algorithm), so that
// keys which are in use outlast any number that are used once. It is safe for
// concurrent use.
type cache struct {
	limit int

	mu    sync.RWMutex
	byKID map[string]*cached
	clock []*cached
	hand  int
}

type cached struct {
	kid  string
	key  *envelope.Key
	used atomic.Bool // since the hand last passed
}

func newCache(limit int) *cache {
	return &cache{limit: limit, byKID: make(map[string]*cached)}
}

// find returns the key for kid, nil if it is not remembered.
func (c *cache) find(kid []byte) *envelope.Key {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.byKID[string(kid)]
	if e == nil {
		return nil
	}
	if !e.used.Load() { // a store would take the line from other cores
		e.used.Store(true)
	}
	return e.key
}

// remember keeps a key. The caller has opened a message with it: whoever can
// only invent names must not decide what is remembered.
func (c *cache) remember(kid string, key *envelope.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKID[kid] != nil {
		return
	}
	e := &cached{kid: kid, key: key}
	if len(c.clock) < c.limit {
		c.clock = append(c.clock, e)
	} else {
		for c.clock[c.hand].used.Swap(false) { // ends within one round and one step
			c.hand = (c.hand + 1) % c.limit
		}
		delete(c.byKID, c.clock[c.hand].kid)
		c.clock[c.hand] = e
		c.hand = (c.hand + 1) % c.limit
	}
	c.byKID[kid] = e
}
