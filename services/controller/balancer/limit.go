package balancer

import (
	"container/list"
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"levee/services/controller"
)

// maxClients bounds the addresses that a limit tracks one by one.
const maxClients = 8192

// limiter is one rate limit: a token bucket (golang.org/x/time/rate) for each
// client address. Addresses beyond its bound share one bucket: an attacker with
// many addresses may spoil it for strangers, but not escape the limit.
type limiter struct {
	perSecond rate.Limit
	burst     int
	most      int // clients

	mu      sync.Mutex
	clients map[netip.Addr]*list.Element
	recent  list.List // of *client, the latest used first
	rest    *rate.Limiter
}

type client struct {
	addr   netip.Addr
	bucket *rate.Limiter
}

func newLimiter(perSecond float64, burst, most int) *limiter {
	return &limiter{
		perSecond: rate.Limit(perSecond), burst: burst, most: most,
		clients: make(map[netip.Addr]*list.Element),
		rest:    rate.NewLimiter(rate.Limit(perSecond), burst),
	}
}

// allow takes a token of addr at now. Without one it returns how long the next
// takes.
func (l *limiter) allow(addr netip.Addr, now time.Time) (bool, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket := l.bucket(addr, now)
	if bucket.AllowN(now, 1) {
		return true, 0
	}
	missing := 1 - bucket.TokensAt(now)
	wait := missing / float64(l.perSecond) * float64(time.Second)
	return false, time.Duration(min(wait, float64(math.MaxInt64/2)))
}

// bucket returns the bucket of addr. The caller holds mu.
func (l *limiter) bucket(addr netip.Addr, now time.Time) *rate.Limiter {
	if e, ok := l.clients[addr]; ok {
		l.recent.MoveToFront(e)
		return e.Value.(*client).bucket
	}
	if len(l.clients) >= l.most {
		// A bucket that is full again is as good as a new one: forgetting it
		// gives nothing away. All refill at one rate, so if the one unused for
		// longest is not full, its place is not free yet.
		oldest := l.recent.Back()
		c := oldest.Value.(*client)
		if c.bucket.TokensAt(now) < float64(l.burst) {
			return l.rest
		}
		delete(l.clients, c.addr)
		l.recent.Remove(oldest)
	}
	c := &client{addr: addr, bucket: rate.NewLimiter(l.perSecond, l.burst)}
	l.clients[addr] = l.recent.PushFront(c)
	return c.bucket
}

// arming is a limiter in force for a time. Without one a pool has no limit.
type arming struct {
	*limiter
	end
}

// arm returns the arming that want asks for. It keeps the buckets of before if
// only the time differs: a renewal is not a fresh burst for everybody.
func arm(before *arming, want controller.RateLimit, now time.Time) *arming {
	a := &arming{end: endAt(want.Until, now)}
	if before != nil && before.perSecond == rate.Limit(want.PerSecond) && before.burst == want.Burst {
		a.limiter = before.limiter
	} else {
		a.limiter = newLimiter(want.PerSecond, want.Burst, maxClients)
	}
	return a
}

// end is a time by the wall clock and by the monotonic one. It has come when
// either says so: a clock that is set back must not prolong anything.
type end struct {
	until    time.Time
	deadline time.Time
}

func endAt(until, now time.Time) end {
	until = until.Round(0) // without a monotonic reading
	return end{until: until, deadline: now.Add(until.Sub(now.Round(0)))}
}

func (e end) over(now time.Time) bool {
	return !now.Before(e.deadline) || !now.Round(0).Before(e.until)
}

// retryAfter returns the seconds to name in Retry-After (RFC 9110, section
// 10.2.3): at least one, and no longer than the limit lasts.
func (a *arming) retryAfter(wait time.Duration, now time.Time) int64 {
	wait = min(wait, a.deadline.Sub(now))
	return max(1, int64((wait+time.Second-1)/time.Second))
}
