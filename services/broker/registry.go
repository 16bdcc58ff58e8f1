package broker

import (
	"cmp"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"levee/pki"
	"levee/policies"
)

// registry holds which session owns which client identifier, and what an
// identity has spent of its limits, which outlives its sessions.
//
// mochi keys sessions by client identifier alone, and two that connect at once
// may both live, one of them out of every sweep's reach (P9, P10). So a
// session first claims its identifier, and the claim is granted only when
// nothing is left of the owner before: mochi never sees two.
type registry struct {
	mu       sync.Mutex
	slots    map[string]*slot    // by client identifier
	accounts map[string]*account // by sender
}

// slot is one client identifier. owner is whom mochi knows; newest is the last
// who asked, and waits for owner to be gone.
type slot struct {
	owner, newest *session
}

func newRegistry() *registry {
	return &registry{slots: make(map[string]*slot), accounts: make(map[string]*account)}
}

// claim waits until s owns its client identifier. Whoever claimed it before is
// ended, unless it has the newer certificate of the same machine. A reason other
// than None refuses s.
func (r *registry) claim(s *session, timeout time.Duration) Reason {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	r.mu.Lock()
	sl := r.slots[s.clientID]
	if sl == nil {
		sl = &slot{}
		r.slots[s.clientID] = sl
	}
	if now := time.Now(); s.outdated(sl.owner, now) || s.outdated(sl.newest, now) {
		r.mu.Unlock()
		return Outdated
	}
	before := sl.newest
	sl.newest = s
	for {
		owner := sl.owner
		switch {
		case sl.newest != s:
			r.mu.Unlock()
			return Superseded
		case owner == nil:
			sl.owner = s
			r.mu.Unlock()
			return None
		}
		r.mu.Unlock()
		if before != nil {
			before.end(Superseded)
		}
		owner.end(Superseded)
		select {
		case <-owner.done:
		case <-s.ended:
			return cmp.Or(s.reason(), Superseded)
		case <-timer.C:
			return TakeoverTimeout
		}
		r.mu.Lock()
	}
}

// outdated reports whether s came with an older certificate of its machine than
// other. Whoever stole one that was renewed since must not put its owner out.
// What is not valid yet is not newer: it is of a clock that was ahead. People are
// exempt: they have several sessions and bundles.
func (s *session) outdated(other *session, now time.Time) bool {
	return other != nil && s.leaf != nil && other.leaf != nil && s.identity.Role.Class() == pki.ClassMachine &&
		s.leaf.NotBefore.Before(other.leaf.NotBefore) && !now.Before(other.leaf.NotBefore)
}

// handoverSuffix ends the second client identifier of a machine.
const handoverSuffix = "_1"

// handover is how long the session before may go on when the same machine has
// come with a newer certificate.
const handover = 3 * time.Second

// handOver leaves the machine of s, which has claimed its client identifier, one
// session. The one before goes on for a moment if s has the newer certificate,
// so that nothing published meanwhile is missed by both; with an older one s
// itself is refused.
func (r *registry) handOver(s *session) Reason {
	if s.identity.Role.Class() == pki.ClassPerson {
		return None
	}
	own := s.identity.ClientID()
	other := own + handoverSuffix
	if s.clientID == other {
		other = own
	}
	r.mu.Lock()
	var before *session
	if sl := r.slots[other]; sl != nil {
		before = cmp.Or(sl.newest, sl.owner)
	}
	r.mu.Unlock()
	switch {
	case before == nil:
	case s.leaf.NotBefore.After(before.leaf.NotBefore):
		time.AfterFunc(handover, func() { before.end(Superseded) })
	case s.outdated(before, time.Now()):
		return Outdated
	default:
		before.end(Superseded)
	}
	return None
}

// release gives up what s claimed. Nothing of s may be left with mochi.
func (r *registry) release(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sl := r.slots[s.clientID]
	if sl == nil {
		return
	}
	if sl.owner == s {
		sl.owner = nil
	}
	if sl.newest == s {
		sl.newest = nil
	}
	if sl.owner == nil && sl.newest == nil {
		delete(r.slots, s.clientID)
	}
}

// account is what one identity has spent. Its sessions share it.
type account struct {
	messages, bytes *rate.Limiter

	mu       sync.Mutex
	sessions int       // that refer to it; held with registry.mu
	idle     time.Time // since when there are none
	strikes  int
	since    time.Time // of the first strike that counts
}

// keepAccount is how long an account outlives its last session: longer than any
// bucket takes to fill.
const keepAccount = 10 * time.Minute

// open returns the account of sender for one more session. Limits of an account
// that exists are replaced.
func (r *registry) open(sender string, l policies.Limits, now time.Time) *account {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.accounts[sender]
	if a == nil {
		a = &account{
			messages: rate.NewLimiter(rate.Limit(l.MessagesPerSecond), l.Burst),
			bytes:    rate.NewLimiter(rate.Limit(l.BytesPerSecond), max(l.BytesPerSecond, maxRead)),
		}
		r.accounts[sender] = a
	}
	a.limit(l, now)
	a.sessions++
	return a
}

// limit replaces the limits of an account.
func (r *registry) limit(a *account, l policies.Limits, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a.limit(l, now)
}

func (a *account) limit(l policies.Limits, now time.Time) {
	a.messages.SetLimitAt(now, rate.Limit(l.MessagesPerSecond))
	a.messages.SetBurstAt(now, l.Burst)
	a.bytes.SetLimitAt(now, rate.Limit(l.BytesPerSecond))
	a.bytes.SetBurstAt(now, max(l.BytesPerSecond, maxRead))
}

// maxRead is the most that one read of a TLS connection returns (RFC 8446,
// section 5.1), which a bucket must be able to hold.
const maxRead = 16 << 10

// leave undoes one open.
func (r *registry) leave(a *account, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a.sessions--
	a.idle = now
}

// sweep forgets accounts that have been idle for long.
func (r *registry) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for sender, a := range r.accounts {
		if a.sessions == 0 && now.Sub(a.idle) >= keepAccount {
			delete(r.accounts, sender)
		}
	}
}

// strike counts one offence and reports whether there were too many within a
// minute.
func (a *account) strike(limit int, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.since) >= time.Minute {
		a.since, a.strikes = now, 0
	}
	a.strikes++
	return a.strikes >= limit
}
