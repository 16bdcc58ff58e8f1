package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"

	"levee/internal/clocks"
	"levee/pki"
)

// listener accepts connections, completes TLS, says whose they are, and hands
// them to mochi. It contains a panic of anything below to its connection, and
// leaves nothing of a connection behind. mochi's own listener has no deadline
// before CONNECT, and ends for good at the first error of accept (P7, P8).
type listener struct {
	b         *Broker
	socket    net.Listener
	admission *admission
	accepting chan struct{} // closed when Serve has ended
	closing   chan struct{} // closed when Close has begun
	wg        sync.WaitGroup

	mu   sync.Mutex // held to close closing, and to change live
	live map[*session]struct{}
}

const listenerID = "mtls"

// The longest pause after an error of accept, which is most often a lack of
// file descriptors.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

func newListener(b *Broker, socket net.Listener) *listener {
	return &listener{
		b: b, socket: socket, admission: newAdmission(b.limits),
		accepting: make(chan struct{}), closing: make(chan struct{}), live: make(map[*session]struct{}),
	}
}

// Init does nothing: the socket is open.
func (l *listener) Init(*slog.Logger) error { return nil }

// ID returns the listener's name within mochi.
func (l *listener) ID() string { return listenerID }

// Address returns the address listened on.
func (l *listener) Address() string { return l.socket.Addr().String() }

// Protocol returns the listener's protocol.
func (l *listener) Protocol() string { return listenerID }

// Serve accepts connections until Close.
func (l *listener) Serve(establish listeners.EstablishFn) {
	defer close(l.accepting)
	pause := time.Duration(0)
	for {
		conn, err := l.socket.Accept()
		if err != nil {
			if l.isClosing() {
				return
			}
			if errors.Is(err, net.ErrClosed) {
				l.b.fail(fmt.Errorf("accepting connections: %w", err))
				return
			}
			l.b.counters.acceptErrs.Add(1)
			l.b.reporter.report(slog.LevelError, "accept", "cannot accept connections", slog.Any("error", err))
			pause = min(max(minBackoff, 2*pause), maxBackoff)
			select {
			case <-time.After(pause):
			case <-l.closing:
			}
			continue
		}
		pause = 0
		t, refusal := l.admission.enter(origin(conn.RemoteAddr()))
		if refusal != None {
			l.b.refuse(slog.LevelWarn, refusal, slog.String("remote", conn.RemoteAddr().String()))
			_ = conn.Close()
			continue
		}
		l.wg.Go(func() { l.serve(conn, t, establish) })
	}
}

// serve runs one connection to its end.
func (l *listener) serve(conn net.Conn, t *ticket, establish listeners.EstablishFn) {
	defer t.leave()
	s := &session{
		from: conn.RemoteAddr().String(), ticket: t, opened: time.Now(), patience: l.b.limits.ThrottledPerMinute,
		ended: make(chan struct{}), done: make(chan struct{}),
	}
	s.out = newOutbox(conn, l.b.limits.QueueBytes, l.b.limits.WriteTimeout, &l.wg, func(err error) {
		if errors.Is(err, errQueueFull) || errors.Is(err, os.ErrDeadlineExceeded) {
			s.blame(SlowReader)
		}
		s.blame(None) // else the peer is gone
	})
	s.tls = tls.Server(s.out, l.b.tls)
	if !l.add(s) {
		_ = conn.Close()
		return
	}
	defer l.retire(s)
	defer func() {
		if cause := recover(); cause != nil {
			s.crashed = true
			l.b.panicked(s, cause)
		}
	}()
	if err := l.identify(s); err != nil {
		r := BadHandshake
		if !errors.As(err, &r) && (errors.Is(err, pki.ErrChain) || errors.Is(err, pki.ErrProfile) ||
			errors.Is(err, pki.ErrSite) || errors.Is(err, pki.ErrConnection) || asVerification(err)) {
			r = BadCertificate
		}
		if errors.Is(err, pki.ErrRevoked) {
			r = Revoked
		}
		s.end(r)
		attrs := []slog.Attr{slog.String("reason", r.String()), slog.String("remote", s.from), slog.Any("error", err)}
		if text := clocks.CertificateTrouble(err, nil, time.Now()); text != "" {
			attrs = append(attrs, slog.String("detail", text))
		}
		l.b.reporter.report(slog.LevelInfo, r.String(), "connection refused", attrs...)
		return
	}
	expiry := time.AfterFunc(time.Until(s.notAfter()), func() { s.end(Expired) })
	defer expiry.Stop()
	_ = s.out.SetReadDeadline(time.Now().Add(l.b.limits.ConnectTimeout))
	_ = establish(listenerID, s) // how it ended, the session knows better
}

func asVerification(err error) bool {
	var v *tls.CertificateVerificationError
	return errors.As(err, &v)
}

// identify completes TLS and finds out whose connection it is. The
// configuration's VerifyConnection has judged the certificate already; it is
// judged here again, for the identity, and so that nothing depends on how that
// configuration came about.
func (l *listener) identify(s *session) error {
	_ = s.out.SetReadDeadline(time.Now().Add(l.b.limits.HandshakeTimeout))
	if err := s.tls.Handshake(); err != nil {
		return fmt.Errorf("completing TLS: %w", err)
	}
	now := time.Now()
	id, err := l.b.verifier.VerifyConnection(s.tls.ConnectionState(), pki.UsageClient, now)
	if err != nil {
		return err
	}
	if id.Site != l.b.site {
		return fmt.Errorf("checking identity %s: %w", id, BadCertificate)
	}
	s.rights = l.b.policy.Rights(id)
	s.limits = s.rights.Limits()
	if s.limits.MessagesPerSecond <= 0 {
		return fmt.Errorf("checking identity %s: %w", id, NoRole)
	}
	s.identity, s.sender = id, id.Sender()
	s.account = l.b.registry.open(s.sender, s.limits, now)
	s.leaf = s.tls.ConnectionState().PeerCertificates[0]
	s.known.Store(true)
	// A list that came since was not asked, and its sweep did not see s.
	if l.b.revocations.Revoked(id, s.leaf) {
		return fmt.Errorf("checking identity %s: %w", id, Revoked)
	}
	return nil
}

// retire removes what is left of a session, also after a panic or a failed
// CONNACK, after which mochi keeps the client and its subscriptions.
func (l *listener) retire(s *session) {
	_ = s.Close()
	if cl := s.client.Load(); cl != nil {
		cl.Stop(nil)
		if known, ok := l.b.server.Clients.Get(cl.ID); ok && known == cl {
			l.b.server.UnsubscribeClient(cl)
			cl.ClearInflights()
			l.b.server.Clients.Delete(cl.ID)
		}
	}
	l.b.registry.release(s)
	if s.account != nil {
		l.b.registry.leave(s.account, time.Now())
	}
	l.mu.Lock()
	delete(l.live, s)
	l.mu.Unlock()
	close(s.done)
	l.b.closed(s)
}

func (l *listener) add(s *session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosing() {
		return false
	}
	l.live[s] = struct{}{}
	return true
}

func (l *listener) isClosing() bool {
	select {
	case <-l.closing:
		return true
	default:
		return false
	}
}

// Close stops accepting, ends every session and waits for all of them. mochi's
// own way to close clients writes to each first, and waits (P6).
func (l *listener) Close(listeners.CloseFn) {
	l.mu.Lock()
	close(l.closing)
	sessions := make([]*session, 0, len(l.live))
	for s := range l.live {
		sessions = append(sessions, s)
	}
	l.mu.Unlock()
	_ = l.socket.Close()
	for _, s := range sessions {
		s.end(Draining)
	}
	<-l.accepting
	l.wg.Wait()
}

var _ listeners.Listener = (*listener)(nil)
