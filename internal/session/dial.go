package session

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"levee/envelope"
)

const (
	dialTimeout  = 10 * time.Second
	writeTimeout = 5 * time.Second

	// maxPacket bounds what a captured broker can make the client library
	// allocate: it would believe any length up to 256 MiB.
	maxPacket = envelope.MaxBackfill + 1<<10
)

var errPacket = errors.New("the broker sent a packet that is too long, malformed or uncalled-for")

// dial connects to a broker and completes the handshake.
func dial(ctx context.Context, address string, config *tls.Config) (*guarded, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return guard(conn), nil
}

// guarded is a connection to a broker that may be captured. It gives every
// write a deadline, which the client library does for PUBLISH alone; it lets in
// only packets that the library survives; and it tells when it was closed,
// which the library does not notice when the closing was local.
type guarded struct {
	net.Conn
	closing sync.Once
	closed  chan struct{}
	cause   error // why the guard closed it, if it was the guard; read it after closed

	// The state of the reader, who is one goroutine.
	state  func(*guarded, byte) bool
	least  int // bounds of the remaining length of the packet being read
	most   int
	length int // remaining length read so far
	shift  int // of its next seven bits
	body   int // bytes of the packet still to come
	err    error
}

func guard(conn net.Conn) *guarded {
	return &guarded{Conn: conn, closed: make(chan struct{}), state: (*guarded).first}
}

// Close closes the connection.
func (g *guarded) Close() error { return g.fail(nil) }

// fail closes the connection because of cause.
func (g *guarded) fail(cause error) (err error) {
	g.closing.Do(func() {
		g.cause = cause
		close(g.closed)
		err = g.Conn.Close()
	})
	return err
}

// Write writes b whole within the deadline, or closes the connection.
func (g *guarded) Write(b []byte) (int, error) {
	if err := g.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := g.Conn.Write(b)
	if err != nil {
		g.fail(err)
	}
	return n, err
}

// SetWriteDeadline leaves the write side to Write.
func (g *guarded) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline sets the read deadline alone.
func (g *guarded) SetDeadline(t time.Time) error { return g.Conn.SetReadDeadline(t) }

// Read hands on what it read only while every packet in it is one that may come.
func (g *guarded) Read(b []byte) (int, error) {
	if g.err != nil {
		return 0, g.err
	}
	n, err := g.Conn.Read(b)
	if !g.follow(b[:n]) {
		g.err = errPacket
		g.fail(errPacket)
		return 0, g.err
	}
	return n, err
}

// follow walks fixed headers (MQTT 3.1.1, section 2.2) through b.
func (g *guarded) follow(b []byte) bool {
	for len(b) > 0 {
		if g.body > 0 {
			n := min(g.body, len(b))
			g.body, b = g.body-n, b[n:]
			continue
		}
		if !g.state(g, b[0]) {
			return false
		}
		b = b[1:]
	}
	return true
}

// first reads a packet's first byte. What we never ask for does not come: the
// library would keep every QoS 2 message until it is released.
func (g *guarded) first(c byte) bool {
	g.length, g.shift, g.state = 0, 0, (*guarded).remaining
	switch {
	case c == 0x20: // CONNACK
		g.least, g.most = 2, 2
	case c&0xf4 == 0x30: // PUBLISH, QoS 0 or 1
		g.least, g.most = 2, maxPacket
	case c == 0x40: // PUBACK
		g.least, g.most = 2, 2
	case c == 0x90: // SUBACK of one filter: the library panics at a code too many
		g.least, g.most = 3, 3
	case c == 0xd0: // PINGRESP
		g.least, g.most = 0, 0
	default:
		return false
	}
	return true
}

// remaining reads one byte of a packet's remaining length.
func (g *guarded) remaining(c byte) bool {
	g.length |= int(c&0x7f) << g.shift
	if g.length > g.most || g.shift == 21 && c&0x80 != 0 {
		return false
	}
	g.shift += 7
	if c&0x80 == 0 {
		g.body, g.state = g.length, (*guarded).first
		return g.length >= g.least
	}
	return true
}
