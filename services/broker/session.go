package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"golang.org/x/time/rate"

	"levee/pki"
)

// session is one connection, from accept on, and what is known of it. It is the
// net.Conn that mochi reads and writes, and the only place where the hook looks
// for whose connection it is: never by client identifier.
type session struct {
	out     *outbox
	shaking *shaking
	tls     *tls.Conn
	ticket  *ticket
	from    string // remote address, for the log
	opened  time.Time

	// Set before mochi sees the connection.
	b        *Broker // of the site that the client named; that of the door until then
	identity pki.Identity
	sender   string // identity.Sender()
	leaf     *x509.Certificate
	grant    atomic.Pointer[grant]
	account  *account
	known    atomic.Bool // all of the above is set

	// Owned by the reading goroutine.
	frame    framer
	refusal  Reason // of the packet after what was passed on
	crashed  bool   // by a panic that passed through mochi, which closed s on the way
	goodbye  bool   // it sent DISCONNECT
	clientID string // once CONNECT was accepted
	// condemned: it published the list that revokes itself.
	condemned bool
	held      allowance
	deadline  time.Time   // of reading, as mochi set it last
	lapse     *time.Timer // at the end of its second credential

	until atomic.Pointer[time.Time] // that end

	client atomic.Pointer[mqtt.Client] // once CONNECT was read
	unsent atomic.Int32                // deliveries since nothing waited

	// What administrators see of it.
	named    atomic.Pointer[string] // clientID, once the session was established
	messages atomic.Uint64          // published
	bytes    atomic.Uint64          // received
	waited   atomic.Int64           // it was held back, in nanoseconds

	once  sync.Once
	cause Reason        // why it ended; read after ended
	ended chan struct{} // closed at the end, whoever ends it
	done  chan struct{} // closed when nothing of it is left
}

// end ends the session for a reason. Only the first reason counts. It does not
// wait.
func (s *session) end(r Reason) {
	s.blame(r)
	if cl := s.client.Load(); cl != nil {
		cl.Stop(r) // closes s; DisconnectClient would first wait for a write (P6)
		return
	}
	_ = s.Close()
}

// blame notes the reason of an end that is under way.
func (s *session) blame(r Reason) {
	s.once.Do(func() {
		s.cause = r
		close(s.ended)
	})
}

// reason returns why the session ended, None while it lives and for an end
// that the client chose.
func (s *session) reason() Reason {
	select {
	case <-s.ended:
		return s.cause
	default:
		return None
	}
}

// Read passes on what the framer lets through. The refusal of a packet takes
// effect when everything before it has been read.
func (s *session) Read(p []byte) (int, error) {
	if s.refusal != None {
		s.end(s.refusal)
		return 0, s.refusal
	}
	n, err := s.tls.Read(p)
	s.bytes.Add(uint64(n))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if s.clientID == "" {
			s.end(Silent)
		}
		s.end(TimedOut)
	}
	if n > 0 && !s.admit(s.account.bytes, n) {
		return 0, net.ErrClosed
	}
	passed, refusal := s.frame.feed(p[:n])
	if refusal == None {
		return n, err
	}
	s.refusal = refusal
	if passed == 0 {
		s.end(refusal)
		return 0, refusal
	}
	return passed, nil
}

// admit takes n tokens and holds the reader back until they are due: what is
// not read fills the client's own buffers, and nobody else waits. It reports
// false, and ends the session, when the client has been held back for too much
// of a minute.
func (s *session) admit(bucket *rate.Limiter, n int) bool {
	now := time.Now()
	r := bucket.ReserveN(now, n)
	if !r.OK() {
		s.end(TooFast)
		return false
	}
	wait := r.DelayFrom(now)
	if wait == 0 {
		return true
	}
	if !s.held.spend(wait, s.b.bounds().Throttled, now) {
		s.end(TooFast)
		return false
	}
	s.waited.Add(int64(wait))
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ended:
		return false
	}
}

// Write sends or queues p; see outbox. mochi writes less than writeBuffer only
// when nothing else waits for the client.
func (s *session) Write(p []byte) (int, error) {
	if len(p) < writeBuffer {
		s.unsent.Store(0)
	}
	return s.tls.Write(p)
}

// makeWay counts a delivery and, when many wait, lets the goroutine run that
// writes them: the scheduler may leave it out while publishers are busy, for
// longer than mochi's queue has room. It never waits for the client: writing does
// not.
func (s *session) makeWay() {
	if s.unsent.Add(1) < maxPending/2 {
		return
	}
	for range mostYields {
		runtime.Gosched()
		if s.unsent.Load() < maxPending/2 {
			return
		}
	}
}

const (
	maxPending = 512 // deliveries in mochi's queue for one client
	// writeBuffer is how much mochi gathers of what waits before it writes.
	writeBuffer = 16 << 10
	mostYields  = 8 // of one publisher for one delivery
)

// Close ends the session.
func (s *session) Close() error {
	s.blame(None)
	return s.tls.Close()
}

// LocalAddr returns the address connected to.
func (s *session) LocalAddr() net.Addr { return s.out.LocalAddr() }

// RemoteAddr returns the client's address.
func (s *session) RemoteAddr() net.Addr { return s.out.RemoteAddr() }

// SetDeadline sets the deadline of reading: mochi means the keep-alive by it,
// and writes have their own. mochi sets it anew for each packet; what would move
// it by less than deadlineStep is left out, so that it may come that much early.
func (s *session) SetDeadline(t time.Time) error {
	if step := t.Sub(s.deadline); !t.IsZero() && step >= 0 && step < deadlineStep {
		return nil
	}
	s.deadline = t
	return s.out.SetReadDeadline(t)
}

// deadlineStep is small beside the half keep-alive that MQTT adds.
const deadlineStep = 100 * time.Millisecond

// SetReadDeadline sets the deadline of reading.
func (s *session) SetReadDeadline(t time.Time) error { return s.out.SetReadDeadline(t) }

// SetWriteDeadline does nothing; see outbox.
func (s *session) SetWriteDeadline(time.Time) error { return nil }

// notAfter returns when the first of the client's credentials ends.
func (s *session) notAfter() time.Time {
	var first time.Time
	for _, cert := range s.tls.ConnectionState().PeerCertificates {
		if first.IsZero() || cert.NotAfter.Before(first) {
			first = cert.NotAfter
		}
	}
	if until := s.until.Load(); until != nil && until.Before(first) {
		return *until
	}
	return first
}

// mayUse reports whether the client identifier is one of the session's
// identity: its own, for people three more, so that one person may have four
// sessions, and for machines one more, for the moment in which a connection with
// a renewed certificate takes the place of the one before (registry.handOver).
func (s *session) mayUse(clientID string) bool {
	own := s.identity.ClientID()
	if s.identity.Role.Class() == pki.ClassPerson {
		return slices.Contains([]string{own, own + "_1", own + "_2", own + "_3"}, clientID)
	}
	return clientID == own || clientID == own+handoverSuffix
}

// allowance is how long a client may be held back within a minute. The zero
// value is ready.
type allowance struct {
	since time.Time
	spent time.Duration
}

func (a *allowance) spend(d, patience time.Duration, now time.Time) bool {
	if now.Sub(a.since) >= time.Minute {
		a.since, a.spent = now, 0
	}
	a.spent += d
	return a.spent <= patience
}

var _ net.Conn = (*session)(nil)
