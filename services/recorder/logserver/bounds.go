package logserver

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Outcome says how a request or a connection ended. The set is closed.
type Outcome string

// The outcomes.
const (
	Read        Outcome = "read"        // an auditor got a file
	Cosigning   Outcome = "cosigning"   // a recorder was answered by the witness
	Connections Outcome = "connections" // too many at once
	Handshake   Outcome = "handshake"   // no certificate that has business here
	Rate        Outcome = "rate"        // too often
	Path        Outcome = "path"        // not a file of the log, or not for whoever asks
)

// Outcomes returns all of them.
func Outcomes() []Outcome { return []Outcome{Read, Cosigning, Connections, Handshake, Rate, Path} }

// tally counts, and logs refusals: at most one line a second for each kind.
type tally struct {
	log *slog.Logger

	mu     sync.Mutex
	counts map[Outcome]uint64
	logged map[Outcome]time.Time
}

func (t *tally) served(o Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(o)
}

func (t *tally) add(o Outcome) uint64 {
	if t.counts == nil {
		t.counts, t.logged = make(map[Outcome]uint64), make(map[Outcome]time.Time)
	}
	t.counts[o]++
	return t.counts[o]
}

func (t *tally) refuse(o Outcome, attrs ...any) {
	now := time.Now()
	t.mu.Lock()
	count := t.add(o)
	due := now.Sub(t.logged[o]) >= time.Second
	if due {
		t.logged[o] = now
	}
	t.mu.Unlock()
	if due {
		t.log.Warn("the log's server refuses", append([]any{slog.String("reason", string(o)), slog.Uint64("count", count)}, attrs...)...)
	}
}

func (t *tally) count(o Outcome) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[o]
}

// maxPerAddress bounds the connections of one address, IPv6 by its /64 network.
const maxPerAddress = 16

// listener closes at once what comes while too many connections are open. To let
// it wait would let it hold a descriptor without any deadline.
type listener struct {
	net.Listener
	refused func(net.Addr)

	mu   sync.Mutex
	open map[netip.Addr]int
	all  int
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := network(conn.RemoteAddr())
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
	if l.open == nil {
		l.open = make(map[netip.Addr]int)
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

// network returns the address of a connection, IPv6 as its /64: whoever has one
// address of it has all.
func network(a net.Addr) netip.Addr {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	address := p.Addr().Unmap().WithZone("")
	if address.Is6() {
		if prefix, err := address.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return address
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
