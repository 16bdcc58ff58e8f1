package broker

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// outbox is a connection whose writes never wait: what the kernel does not take
// at once is queued and sent by a goroutine that lives as long as the queue.
// mochi writes while it holds a lock that every publisher to that client needs
// (P6), and ignores errors of writing (P28). So a full queue, a write that
// makes no progress, or an error closes the connection, which ends the reader
// and with it the session.
//
// It lies below TLS, which must not see a partial write. Deadlines of writing
// are its own; those of reading are the connection's.
type outbox struct {
	net.Conn
	raw     syscall.RawConn // nil: every write is queued
	bound   int             // of the queue in bytes
	timeout time.Duration   // for each chunk
	failed  func(error)     // called once, before the connection is closed for an error of writing
	wg      *sync.WaitGroup // of the sending goroutine

	mu      sync.Mutex
	queue   []byte
	sending int  // bytes that the goroutine has taken and not yet sent
	running bool // the goroutine lives
	closed  bool
	end     time.Time // once closed, of everything that is still queued
}

const (
	chunk  = 64 << 10    // sent under one deadline
	linger = time.Second // for what is queued when the connection is closed
)

var errQueueFull = errors.New("the peer does not read")

func newOutbox(conn net.Conn, bound int, timeout time.Duration, wg *sync.WaitGroup, failed func(error)) *outbox {
	o := &outbox{Conn: conn, bound: bound, timeout: timeout, wg: wg, failed: failed}
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			o.raw = raw
		}
	}
	return o
}

// limit replaces the bounds.
func (o *outbox) limit(bound int, timeout time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bound, o.timeout = bound, timeout
}

// queued returns how many bytes the peer has not taken.
func (o *outbox) queued() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue) + o.sending
}

// Write sends or queues all of p. It does not wait.
func (o *outbox) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return 0, net.ErrClosed
	}
	rest := p
	if !o.running && o.raw != nil {
		n, err := writeNow(o.raw, p)
		if err != nil {
			o.fail(err)
			return n, err
		}
		rest = p[n:]
	}
	if len(rest) == 0 {
		return len(p), nil
	}
	if len(o.queue)+o.sending+len(rest) > o.bound {
		o.fail(errQueueFull)
		return len(p) - len(rest), errQueueFull
	}
	o.queue = append(o.queue, rest...)
	if !o.running {
		o.running = true
		o.wg.Go(o.send)
	}
	return len(p), nil
}

// send empties the queue and ends.
func (o *outbox) send() {
	var batch []byte
	for {
		if batch = o.next(batch); len(batch) == 0 {
			return
		}
		n, err := o.Conn.Write(batch[:min(len(batch), chunk)])
		if err != nil {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.fail(err)
			_ = o.Conn.Close() // fail does not, if Close came first
			return
		}
		batch = batch[n:]
	}
}

// next returns what is to be sent after the rest of a batch, and sets its
// deadline. It returns nothing when nothing is left: direct writes go on then,
// or the connection is closed at last.
func (o *outbox) next(batch []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(batch) == 0 {
		batch, o.queue = o.queue, nil
	}
	o.sending = len(batch)
	switch {
	case len(batch) > 0 && o.closed:
		_ = o.Conn.SetWriteDeadline(o.end)
	case len(batch) > 0:
		_ = o.Conn.SetWriteDeadline(time.Now().Add(o.timeout))
	case o.closed:
		_ = o.Conn.Close()
	default:
		o.running = false
		_ = o.Conn.SetWriteDeadline(time.Time{}) // else the next direct write fails on it
	}
	return batch
}

// fail closes the connection for an error of writing. o.mu must be held.
func (o *outbox) fail(err error) {
	if o.closed {
		return
	}
	o.closed = true
	o.failed(err)
	_ = o.Conn.Close()
}

// Close ends reading at once, and writing as soon as what is queued has been
// sent, for which there is linger.
func (o *outbox) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	o.closed, o.end = true, time.Now().Add(linger)
	if !o.running {
		return o.Conn.Close()
	}
	_ = o.Conn.SetWriteDeadline(o.end)
	return o.Conn.SetReadDeadline(time.Unix(1, 0))
}

// SetDeadline sets the deadline of reading.
func (o *outbox) SetDeadline(t time.Time) error { return o.SetReadDeadline(t) }

// SetReadDeadline sets the deadline of reading, unless the connection is closed.
func (o *outbox) SetReadDeadline(t time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return net.ErrClosed
	}
	return o.Conn.SetReadDeadline(t)
}

// SetWriteDeadline does nothing: each write has a deadline of its own.
func (o *outbox) SetWriteDeadline(time.Time) error { return nil }
