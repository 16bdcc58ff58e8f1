package broker

import (
	"net/netip"
	"sync"
	"time"

	"levee/policies"
)

// bans keep identities and addresses away for a time. They refuse new sessions
// alone: a ban of an address, which many may share behind a translator, must not
// end what works.
//
// They live as long as the process: what must outlast it is a revocation.
type bans struct {
	mu         sync.Mutex
	identities map[string]*conduct // by sender, who has a certificate of ours
	addresses  map[netip.Prefix]*conduct
}

// conduct is what somebody did lately.
type conduct struct {
	connects tally // identities: sessions begun; addresses: failures to begin one
	offences tally
	until    time.Time     // of the ban
	length   time.Duration // of the last one
	why      string        // it is banned, for people
	last     time.Time     // anything was noted
}

// maxAddresses bounds the addresses that are watched, of which an attacker may
// have any number.
const maxAddresses = 1 << 16

func newBans() *bans {
	return &bans{identities: make(map[string]*conduct), addresses: make(map[netip.Prefix]*conduct)}
}

// tally counts events within a period that begins with the first.
type tally struct {
	since time.Time
	n     int
}

// over counts one event and reports whether there were more than most within
// period.
func (t *tally) over(most int, period time.Duration, now time.Time) bool {
	if now.Sub(t.since) >= period {
		*t = tally{since: now}
	}
	t.n++
	return t.n > most
}

// ban begins a ban or makes one longer.
func (c *conduct) ban(why string, p policies.Broker, now time.Time) {
	if now.Before(c.until) {
		return
	}
	if c.length > 0 && now.Sub(c.until) < p.LongestBan {
		c.length = min(2*c.length, p.LongestBan)
	} else {
		c.length = p.FirstBan
	}
	c.until, c.why = now.Add(c.length), why
	c.connects, c.offences = tally{}, tally{}
}

// The reasons of bans that need no more than a count.
const (
	tooOften  = "it connects too often"
	nothingOf = "too many connections came to nothing"
)

// arrive counts a session of sender that begins. It returns until when sender is
// banned, zero if it is not, and whether the ban begins with this.
func (b *bans) arrive(sender string, p policies.Broker, now time.Time) (until time.Time, began bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.identities[sender]
	if c == nil {
		c = &conduct{}
		b.identities[sender] = c
	}
	c.last = now
	if now.Before(c.until) {
		return c.until, false
	}
	if !c.connects.over(p.Connects, time.Minute, now) {
		return time.Time{}, false
	}
	c.ban(tooOften, p, now)
	return c.until, true
}

// offend counts a session of sender that its misconduct ended, and returns the
// end of the ban that this begins, zero if none does.
func (b *bans) offend(sender, why string, p policies.Broker, now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.identities[sender]
	if c == nil {
		c = &conduct{}
		b.identities[sender] = c
	}
	c.last = now
	if now.Before(c.until) || !c.offences.over(p.Offences-1, p.OffencesWithin, now) {
		return time.Time{}
	}
	c.ban(why, p, now)
	return c.until
}

// fail counts a connection that did not become a session, and returns the end of
// the ban that this begins, zero if none does.
func (b *bans) fail(from netip.Prefix, p policies.Broker, now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.addresses[from]
	if c == nil {
		if len(b.addresses) >= maxAddresses {
			return time.Time{} // the caps of connections still hold
		}
		c = &conduct{}
		b.addresses[from] = c
	}
	c.last = now
	if now.Before(c.until) || !c.connects.over(p.Failures, time.Minute, now) {
		return time.Time{}
	}
	c.ban(nothingOf, p, now)
	return c.until
}

// address reports whether connections from there are refused.
func (b *bans) address(from netip.Prefix, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.addresses[from]
	return c != nil && now.Before(c.until)
}

// until returns when the ban of sender ends, zero if there is none.
func (b *bans) until(sender string, now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.identities[sender]; c != nil && now.Before(c.until) {
		return c.until
	}
	return time.Time{}
}

// sweep forgets what no longer counts.
func (b *bans) sweep(p policies.Broker, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for sender, c := range b.identities {
		if c.over(max(p.OffencesWithin, time.Minute), p, now) {
			delete(b.identities, sender)
		}
	}
	for from, c := range b.addresses {
		if c.over(time.Minute, p, now) {
			delete(b.addresses, from)
		}
	}
}

// over reports whether nothing of c counts any longer: its deeds after a period,
// its bans for the length of the next one.
func (c *conduct) over(period time.Duration, p policies.Broker, now time.Time) bool {
	return now.Sub(c.last) >= period && now.Sub(c.until) >= p.LongestBan
}
