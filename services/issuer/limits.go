package issuer

import (
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Reason says why somebody got nothing. The set is closed.
type Reason string

// The reasons, in the order of docs/issuing.md.
const (
	ReasonHandshake Reason = "handshake" // no certificate of ours, or none that counts
	ReasonRequest   Reason = "request"   // not a request of the form asked for
	ReasonIdentity  Reason = "identity"  // not for this identity
	ReasonRevoked   Reason = "revoked"   // its certificate, the signer's, or whom an order would readmit
	ReasonExpired   Reason = "expired"   // its certificate has expired
	ReasonKey       Reason = "key"       // not with this key
	ReasonProfile   Reason = "profile"   // no certificate of ours could say it
	ReasonOrder     Reason = "order"     // an order that is not to be followed
	ReasonUsed      Reason = "used"      // an order that was carried out before
	ReasonFull      Reason = "full"      // no room on the list
	ReasonRate      Reason = "rate"      // too often
	ReasonJournal   Reason = "journal"   // the journal cannot be written
)

// Reasons returns all of them.
func Reasons() []Reason {
	return []Reason{ReasonHandshake, ReasonRequest, ReasonIdentity, ReasonRevoked, ReasonExpired, ReasonKey, ReasonProfile,
		ReasonOrder, ReasonUsed, ReasonFull, ReasonRate, ReasonJournal}
}

// tally counts refusals by reason and logs them, at most one line a second for
// each reason, so that a flood of refusals is no flood of lines.
type tally struct {
	log *slog.Logger

	mu     sync.Mutex
	counts map[Reason]uint64
	logged map[Reason]time.Time
}

func newTally(log *slog.Logger) *tally {
	return &tally{log: log, counts: make(map[Reason]uint64), logged: make(map[Reason]time.Time)}
}

func (t *tally) refuse(reason Reason, now time.Time, attrs ...any) {
	t.mu.Lock()
	t.counts[reason]++
	count := t.counts[reason]
	due := now.Sub(t.logged[reason]) >= time.Second
	if due {
		t.logged[reason] = now
	}
	t.mu.Unlock()
	if due {
		t.log.Warn("refused", append([]any{slog.String("reason", string(reason)), slog.Uint64("count", count)}, attrs...)...)
	}
}

func (t *tally) count(reason Reason) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[reason]
}

// maxBuckets bounds a limiter. Verified senders are bounded by their site;
// addresses are not.
const maxBuckets = 1 << 16

// Bounds of orders of one signer that are carried out: each leaves a line of
// some KiB in the journal, for good.
const (
	ordersAtOnce = 20
	ordersEach   = 30 * time.Second
)

// limiter is a token bucket for each key.
type limiter[K comparable] struct {
	every rate.Limit
	burst int

	mu      sync.Mutex
	buckets map[K]*rate.Limiter
	swept   time.Time
}

func newLimiter[K comparable](every time.Duration, burst int) *limiter[K] {
	return &limiter[K]{every: rate.Every(every), burst: burst, buckets: make(map[K]*rate.Limiter)}
}

// take reports whether key has a token left, and takes it.
func (l *limiter[K]) take(key K, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket := l.buckets[key]
	if bucket == nil {
		if len(l.buckets) >= maxBuckets && now.Sub(l.swept) >= time.Second {
			// A full bucket is as good as none. Looking for them takes longer
			// than a flood of invented keys may cost each time.
			maps.DeleteFunc(l.buckets, func(_ K, b *rate.Limiter) bool { return b.TokensAt(now) >= float64(l.burst) })
			l.swept = now
		}
		if len(l.buckets) >= maxBuckets {
			return false
		}
		bucket = rate.NewLimiter(l.every, l.burst)
		l.buckets[key] = bucket
	}
	return bucket.AllowN(now, 1)
}

// spent reports whether a key has no token left; one without a bucket has.
func (l *limiter[K]) spent(key K, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	bucket, ok := l.buckets[key]
	return ok && bucket.TokensAt(now) < 1
}

// Bounds of connections, before anything is known of who makes them.
const (
	maxConnections = 256
	maxPerAddress  = 32
)

// listener closes at once what comes while too many connections are open. To let
// them wait instead would let them hold descriptors without any deadline.
type listener struct {
	net.Listener
	refused func(net.Addr)

	mu   sync.Mutex
	open map[netip.Addr]int
	all  int
}

func newListener(l net.Listener, refused func(net.Addr)) *listener {
	return &listener{Listener: l, refused: refused, open: make(map[netip.Addr]int)}
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := addressOf(conn.RemoteAddr().String())
		if l.enter(from) {
			return &counted{Conn: conn, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		l.refused(conn.RemoteAddr())
		conn.Close()
	}
}

func (l *listener) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxConnections || l.open[from] >= maxPerAddress {
		return false
	}
	l.all++
	l.open[from]++
	return true
}

func (l *listener) leave(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}

// addressOf returns the address of host:port, IPv6 by its /64 network: whoever
// has one address of it has all.
func addressOf(hostport string) netip.Addr {
	a, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	address := a.Addr().Unmap().WithZone("")
	if address.Is6() {
		if network, err := address.Prefix(64); err == nil {
			return network.Addr()
		}
	}
	return address
}

var _ net.Listener = (*listener)(nil)
