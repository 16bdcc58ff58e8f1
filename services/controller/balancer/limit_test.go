package balancer

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"levee/services/controller"
)

func addr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestFullLimiterNeverFailsOpen(t *testing.T) {
	const most, burst = 4, 3
	l := newLimiter(1, burst, most)
	for n := range most {
		for range burst { // each spends all it has
			if ok, _ := l.allow(addr(n), noon); !ok {
				t.Fatalf("address %d was refused within its burst", n)
			}
		}
	}
	// A thousand strangers together get what one address gets.
	allowed := 0
	for n := range 1000 {
		if ok, _ := l.allow(addr(1000+n), noon); ok {
			allowed++
		}
	}
	if allowed != burst {
		t.Errorf("%d requests of strangers passed a full limiter, want %d", allowed, burst)
	}
	if len(l.clients) != most || l.recent.Len() != most {
		t.Errorf("%d addresses are tracked, want %d", len(l.clients), most)
	}
	// The known ones keep their own buckets.
	if ok, _ := l.allow(addr(2), noon.Add(time.Second)); !ok {
		t.Error("a known address lost its bucket")
	}
}

func TestLimiterReclaimsOnlyFullBuckets(t *testing.T) {
	l := newLimiter(1, 2, 2)
	l.allow(addr(1), noon)
	l.allow(addr(1), noon)
	l.allow(addr(2), noon)
	// After one second the first, unused for longest, is not full yet.
	l.allow(addr(3), noon.Add(time.Second))
	if _, tracked := l.clients[addr(3)]; tracked || len(l.clients) != 2 {
		t.Error("a bucket was forgotten before it was full")
	}
	// After two it is, and its place is free.
	now := noon.Add(2 * time.Second)
	l.allow(addr(3), now)
	if _, tracked := l.clients[addr(3)]; !tracked || len(l.clients) != 2 {
		t.Error("an idle address was not reclaimed")
	}
	if _, tracked := l.clients[addr(1)]; tracked {
		t.Error("the wrong address was reclaimed")
	}
}

func TestRetryAfter(t *testing.T) {
	tests := []struct {
		name      string
		perSecond float64
		lasts     time.Duration
		want      int64
	}{
		{"less than a second is one", 1000, time.Hour, 1},
		{"a second is one", 1, time.Hour, 1},
		{"rounded up", 0.4, time.Hour, 3},
		{"no longer than the limit", 0.01, 10 * time.Second, 10},
		{"so slow that it overflows", 1e-300, time.Minute, 60},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := arm(nil, controller.RateLimit{PerSecond: test.perSecond, Burst: 1, Until: noon.Add(test.lasts)}, noon)
			if ok, _ := a.allow(addr(1), noon); !ok {
				t.Fatal("the first request was refused")
			}
			ok, wait := a.allow(addr(1), noon)
			if ok {
				t.Fatal("the second request was allowed")
			}
			if got := a.retryAfter(wait, noon); got != test.want {
				t.Errorf("Retry-After %d, want %d", got, test.want)
			}
		})
	}
}

// TestWaitingPays checks that whoever heeds Retry-After is served.
func TestWaitingPays(t *testing.T) {
	for _, perSecond := range []float64{0.1, 0.3, 1, 3, 7, 1000} {
		a := arm(nil, controller.RateLimit{PerSecond: perSecond, Burst: 1, Until: noon.Add(time.Hour)}, noon)
		a.allow(addr(1), noon)
		_, wait := a.allow(addr(1), noon)
		later := noon.Add(time.Duration(a.retryAfter(wait, noon)) * time.Second)
		if ok, _ := a.allow(addr(1), later); !ok {
			t.Errorf("%g a second: refused again after the time named", perSecond)
		}
	}
}

// TestEndNeedsOneClockOnly checks that a wall clock that is set back prolongs
// nothing, and that one set forward ends it.
func TestEndNeedsOneClockOnly(t *testing.T) {
	now := time.Now()
	e := endAt(now.Add(time.Minute), now)
	if e.over(now.Add(59 * time.Second)) {
		t.Error("over before its time")
	}
	if !e.over(now.Add(time.Minute)) {
		t.Error("not over at its time")
	}
	e = end{until: now.Add(time.Hour).Round(0), deadline: now.Add(time.Minute)}
	if !e.over(now.Add(time.Minute)) {
		t.Error("a wall clock that was set back prolonged it")
	}
	e = end{until: now.Add(time.Minute).Round(0), deadline: now.Add(time.Hour)}
	if !e.over(now.Add(time.Minute)) {
		t.Error("a wall clock that was set forward did not end it")
	}
}

// TestLimitEndsWithoutItsTimer asks a pool whose timer does not run, because the
// pool does not.
func TestLimitEndsWithoutItsTimer(t *testing.T) {
	p := newPool(Pool{Name: web, Servers: 1, MaxServers: 1}, nil, slog.New(slog.DiscardHandler))
	status := func() int {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		return w.Code
	}
	now := time.Now()
	a := arm(nil, controller.RateLimit{PerSecond: 0.001, Burst: 1, Until: now.Add(time.Hour)}, now)
	p.armed.Store(a)
	if first, second := status(), status(); first != http.StatusBadGateway || second != http.StatusTooManyRequests {
		t.Fatalf("status %d and %d, want 502, as there is no backend, and 429", first, second)
	}
	if !p.state().RateLimited {
		t.Error("not limited while it lasts")
	}
	p.armed.Store(&arming{limiter: a.limiter, end: end{until: now, deadline: now}})
	if got := status(); got != http.StatusBadGateway {
		t.Errorf("status %d after the end, want 502", got)
	}
	if p.state().RateLimited {
		t.Error("limited after the end")
	}
}

func BenchmarkAllow(b *testing.B) {
	l := newLimiter(1, 1, maxClients)
	for n := range maxClients {
		l.allow(addr(n), noon)
	}
	b.Run("known", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			l.allow(addr(i%maxClients), noon)
		}
	})
	b.Run("stranger to a full limiter", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			l.allow(addr(maxClients+i), noon)
		}
	})
}
