package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"levee/internal/clocks"
	"levee/pki"
)

// door accepts connections, completes TLS with the certificate of the site that
// a client names (SNI, RFC 6066, section 3), says whose they are, and hands them
// to that site's broker: from then on a connection belongs to that site alone.
// It contains a panic of anything below to its connection, and leaves nothing of
// a connection behind. mochi's own listener has no deadline before CONNECT, and
// ends for good at the first error of accept (P7, P8).
type door struct {
	first     *Broker            // counts and bounds what has no site yet
	sites     map[string]*Broker // by host
	socket    net.Listener
	admission *admission
	turns     *turns
	failed    error         // why accepting ended by itself; read after accepting
	accepting chan struct{} // closed when accept has ended
	closing   chan struct{} // closed when close has begun
	wg        sync.WaitGroup

	mu   sync.Mutex // held to close closing, and to change live
	live map[*session]struct{}
}

// The longest pause after an error of accept, which is most often a lack of
// file descriptors.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = time.Second
)

func newDoor(socket net.Listener, sites ...*Broker) (*door, error) {
	d := &door{
		first: sites[0], sites: make(map[string]*Broker), socket: socket, admission: newAdmission(sites[0].bounds), turns: newTurns(runtime.GOMAXPROCS(0)),
		accepting: make(chan struct{}), closing: make(chan struct{}), live: make(map[*session]struct{}),
	}
	for _, b := range sites {
		if d.sites[b.host] != nil {
			return nil, fmt.Errorf("serving sites: %s stands twice", b.host)
		}
		d.sites[b.host] = b
	}
	return d, nil
}

// site returns the broker of the site that a client names. Where there is one
// site alone nobody needs to name it.
func (d *door) site(name string) *Broker {
	if len(d.sites) == 1 {
		return d.first
	}
	return d.sites[name]
}

// accept serves connections until close.
func (d *door) accept() {
	defer close(d.accepting)
	pause := time.Duration(0)
	for {
		conn, err := d.socket.Accept()
		if err != nil {
			if d.isClosing() {
				return
			}
			if errors.Is(err, net.ErrClosed) {
				d.failed = fmt.Errorf("accepting connections: %w", err)
				return
			}
			d.first.counters.acceptErrs.Add(1)
			d.first.reporter.report(slog.LevelError, "accept", "cannot accept connections", slog.Any("error", err))
			pause = min(max(minBackoff, 2*pause), maxBackoff)
			select {
			case <-time.After(pause):
			case <-d.closing:
			}
			continue
		}
		pause = 0
		from := origin(conn.RemoteAddr())
		t, refusal := d.admission.enter(from)
		if refusal == None && d.first.bans.address(from, time.Now()) {
			t.leave()
			refusal = Banned
		}
		if refusal != None {
			d.first.refuse(slog.LevelWarn, refusal, slog.String("remote", conn.RemoteAddr().String()))
			_ = conn.Close()
			continue
		}
		d.wg.Go(func() { d.serve(conn, t) })
	}
}

// serve runs one connection to its end.
func (d *door) serve(conn net.Conn, t *ticket) {
	defer t.leave()
	s := &session{b: d.first, from: conn.RemoteAddr().String(), ticket: t, opened: time.Now(), ended: make(chan struct{}), done: make(chan struct{})}
	bounds := d.first.bounds()
	s.out = newOutbox(conn, bounds.QueueBytes, bounds.WriteTimeout, &d.wg, func(err error) {
		if errors.Is(err, errQueueFull) || errors.Is(err, os.ErrDeadlineExceeded) {
			s.blame(SlowReader)
		}
		s.blame(None) // else the peer is gone
	})
	s.shaking = &shaking{outbox: s.out, turns: d.turns, ended: s.ended}
	s.tls = tls.Server(s.shaking, d.config(s))
	if !d.add(s) {
		_ = conn.Close()
		return
	}
	defer d.retire(s)
	defer func() {
		if cause := recover(); cause != nil {
			s.crashed = true
			s.b.panicked(s, cause)
		}
	}()
	if err := s.identify(bounds.HandshakeTimeout); err != nil {
		d.refused(s, err)
		return
	}
	expiry := time.AfterFunc(time.Until(s.notAfter()), func() { s.end(Expired) })
	defer expiry.Stop()
	_ = s.out.SetReadDeadline(time.Now().Add(s.b.bounds().ConnectTimeout))
	_ = s.b.establish(entranceID, s) // how it ended, the session knows better
}

// config is the TLS configuration for one connection: that of the site which the
// client names.
func (d *door) config(s *session) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, ClientAuth: tls.RequireAndVerifyClientCert,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			b := d.site(hello.ServerName)
			if b == nil {
				return nil, errNoSite
			}
			s.b = b
			s.out.limit(b.bounds().QueueBytes, b.bounds().WriteTimeout)
			return b.tls, nil
		},
	}
}

// errNoSite says that a client named no site that is served here. TLS tells it
// nothing but that.
var errNoSite = errors.New("the client named no site of this broker")

// refused counts and logs a connection that did not become anybody's.
func (d *door) refused(s *session, err error) {
	r := BadHandshake
	if !errors.As(err, &r) && (errors.Is(err, pki.ErrChain) || errors.Is(err, pki.ErrProfile) ||
		errors.Is(err, pki.ErrSite) || errors.Is(err, pki.ErrConnection) || asVerification(err)) {
		r = BadCertificate
	}
	switch {
	case errors.Is(err, pki.ErrRevoked):
		r = Revoked
	case errors.Is(err, errNoSite):
		r = NoSite
	case errors.Is(err, errNoTurn): // which is no fault of its own
		r = TooManyPending
	}
	s.end(r)
	if s.reason() == None { // it left before it was told
		s.b.counters.refuse(r)
	}
	attrs := []slog.Attr{slog.String("reason", r.String()), slog.String("remote", s.from), slog.Any("error", err)}
	if text := clocks.CertificateTrouble(err, nil, time.Now()); text != "" {
		attrs = append(attrs, slog.String("detail", text))
	}
	s.b.reporter.report(slog.LevelInfo, r.String(), "connection refused", attrs...)
	// A site's machines may share an address, and their certificates a fate: only
	// those whom we never knew are counted against it.
	if expired, ok := errors.AsType[x509.CertificateInvalidError](err); r == BadHandshake || r == NoSite || r == BadCertificate && !(ok && expired.Reason == x509.Expired) {
		d.strange(s)
	}
}

// strange counts a connection that came to nothing against its address.
func (d *door) strange(s *session) {
	from := s.ticket.from
	if until := d.first.bans.fail(from, d.first.bounds(), time.Now()); !until.IsZero() {
		d.first.log.Warn("address banned: "+nothingOf, slog.String("address", from.String()), slog.Time("until", until))
	}
}

func asVerification(err error) bool {
	var v *tls.CertificateVerificationError
	return errors.As(err, &v)
}

// retire removes what is left of a session, also after a panic or a failed
// CONNACK, after which mochi keeps the client and its subscriptions.
func (d *door) retire(s *session) {
	_ = s.Close()
	if s.lapse != nil {
		s.lapse.Stop()
	}
	if cl := s.client.Load(); cl != nil {
		cl.Stop(nil)
		if known, ok := s.b.server.Clients.Get(cl.ID); ok && known == cl {
			s.b.server.UnsubscribeClient(cl)
			cl.ClearInflights()
			s.b.server.Clients.Delete(cl.ID)
		}
	}
	if s.named.Load() != nil { // before its successor can arrive
		s.b.presence.depart(s, s.endedBy(s.reason()), time.Now())
	}
	s.b.registry.release(s)
	if s.account != nil {
		s.b.registry.leave(s.account, time.Now())
	}
	d.mu.Lock()
	delete(d.live, s)
	d.mu.Unlock()
	close(s.done)
	s.b.closed(s)
}

func (d *door) add(s *session) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isClosing() {
		return false
	}
	d.live[s] = struct{}{}
	return true
}

// sessions returns the sessions of a site whose identity is known.
func (d *door) sessions(b *Broker) []*session {
	d.mu.Lock()
	defer d.mu.Unlock()
	var known []*session
	for s := range d.live {
		if s.known.Load() && s.b == b {
			known = append(known, s)
		}
	}
	return known
}

func (d *door) isClosing() bool {
	select {
	case <-d.closing:
		return true
	default:
		return false
	}
}

// close stops accepting, ends every session and waits for all of them. mochi's
// own way to close clients writes to each first, and waits (P6).
func (d *door) close() {
	d.mu.Lock()
	close(d.closing)
	sessions := make([]*session, 0, len(d.live))
	for s := range d.live {
		sessions = append(sessions, s)
	}
	d.mu.Unlock()
	_ = d.socket.Close()
	for _, s := range sessions {
		s.end(Draining)
	}
	<-d.accepting
	d.wg.Wait()
}
