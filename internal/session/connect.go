package session

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"levee/internal/clocks"
	"levee/internal/wire"
	"levee/pki"
)

const (
	keepAlive    = 20 * time.Second
	firstBackOff = 250 * time.Millisecond
	lastBackOff  = 8 * time.Second // waits are 10 s at most, which is below replayAge: they alone lose no reading
	ackTimeout   = 5 * time.Second
	drainTimeout = 3 * time.Second
	grace        = 250 * time.Millisecond // that the library is given to stop, or to say why it did
	quiesce      = uint(grace / time.Millisecond)
)

var errClosed = errors.New("the connection was closed")

// backOff spaces attempts to connect.
type backOff struct{ bound time.Duration }

// after returns how long to wait after a connection that was up for that long,
// or 0 if none came about. Full jitter: after an outage of the broker its clients
// must not come back all at once. A connection that outlasted the next wait
// begins anew: a broker that dies now and then costs less time than it served,
// while one that takes us in and drops us at once is not stormed.
func (b *backOff) after(up time.Duration) time.Duration {
	if b.bound == 0 || up > b.bound {
		b.bound = firstBackOff
	}
	wait := b.bound/4 + rand.N(b.bound) // a quarter: it is no storm, whatever is drawn
	b.bound = min(2*b.bound, lastBackOff)
	return wait
}

// stayConnected holds one connection after another until ctx ends, each to the
// next of the site's brokers.
func (s *Session) stayConnected(ctx context.Context) {
	// One ticker for all connections: however short each of them is, digests
	// come.
	digest := time.NewTicker(s.config.Digest)
	defer digest.Stop()
	var pause backOff
	brokers := s.config.Bundle.Document.Brokers
	for attempt := 0; ctx.Err() == nil; attempt++ {
		broker := brokers[attempt%len(brokers)]
		var up time.Duration
		l, err := s.establish(ctx, broker.Address, s.clientID)
		if err == nil {
			up, err = s.serve(ctx, l, digest.C)
		}
		s.online.Store(false)
		if ctx.Err() != nil {
			return
		}
		wait := pause.after(up)
		attrs := []any{slog.String("broker", broker.Name), slog.Any("error", err), slog.Duration("retry_in", wait.Round(time.Millisecond))}
		s.config.Log.Warn("not connected", append(attrs, s.clockTrouble(err, up)...)...)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// soon is how short after a message the end of a connection may have to do with
// it.
const soon = 2 * time.Second

// clockTrouble returns what the end of a connection may have to do with clocks.
// MQTT 3.1.1 has no word for it: a broker that refuses a message for its time
// acknowledges it or closes, and says why in its own log alone.
func (s *Session) clockTrouble(err error, up time.Duration) (attrs []any) {
	now := time.Now()
	own := func() []*x509.Certificate {
		c := s.config.Bundle.Credentials.Current()
		return []*x509.Certificate{c.Leaf(), c.Issuer(), s.config.Bundle.Root}
	}
	if text := clocks.CertificateTrouble(err, own, now); text != "" {
		attrs = append(attrs, slog.String("detail", text))
	}
	if after := now.Sub(s.sent); len(attrs) > 0 || up > 0 && after < soon {
		if len(attrs) == 0 {
			attrs = append(attrs, slog.Duration("after_a_message", after.Round(time.Millisecond)))
		}
		attrs = append(attrs, slog.String("own_clock", s.kernel.String()))
	}
	return attrs
}

// establish dials, connects and subscribes. A fresh client each time: what the
// library would keep and resend by itself is the outbox's business.
func (s *Session) establish(ctx context.Context, address, clientID string) (_ *link, err error) {
	_, renewed := s.config.Bundle.Credentials.Watch()
	conn, err := dial(ctx, address, s.tlsConfig())
	if err != nil {
		return nil, fmt.Errorf("dialling: %w", err)
	}
	lost := make(chan error, 1)
	l := &link{address: address, clientID: clientID, conn: conn, client: mqtt.NewClient(s.options(conn, lost, clientID)), lost: lost, renewed: renewed}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if _, err := l.do(ctx, l.client.Connect); err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	if err := l.subscribe(ctx, s.filters); err != nil {
		return nil, err
	}
	s.online.Store(true)
	s.once.Do(func() { close(s.ready) })
	s.config.Log.Info("connected", slog.String("broker", address), slog.String("client", clientID),
		slog.Int("filters", len(s.filters)))
	return l, nil
}

// serve runs until the connection is lost, or until ctx ends and everything is
// sent, and returns how long it was up.
func (s *Session) serve(ctx context.Context, l *link, digest <-chan time.Time) (up time.Duration, err error) {
	began := time.Now()
	defer func() { l.close() }()
	if s.outbox == nil {
		if err = l.ended(ctx); ctx.Err() != nil {
			l.client.Disconnect(quiesce)
		}
		return time.Since(began), err
	}
	s.outbox.again()
	for {
		next, err := s.deliver(ctx, l, digest)
		if next == nil {
			return time.Since(began), err
		}
		// Whatever was published before the new connection had subscribed
		// has come by the old one, or is on its way.
		l.client.Disconnect(quiesce)
		l.close()
		l = next
	}
}

// handoverRetry is how long to wait before another attempt to change
// connections.
const handoverRetry = 5 * time.Second

// handOver makes the connection that takes the place of l, with the credential
// that was renewed. Both are open for a moment, and what comes by both the
// replay windows take once. For that the two have different client identifiers:
// the broker lets a machine have both only while one has a newer certificate.
func (s *Session) handOver(ctx context.Context, l *link) (*link, error) {
	other := s.clientID
	if l.clientID == other {
		other += handoverSuffix
	}
	return s.establish(ctx, l.address, other)
}

// handoverSuffix ends the client identifier of every second connection of a
// machine that renews its certificate.
const handoverSuffix = "_1"

// deliver sends what the outbox holds until the connection ends, or ctx does,
// or another connection takes its place: that is next then.
func (s *Session) deliver(ctx context.Context, l *link, digest <-chan time.Time) (next *link, err error) {
	sending := context.WithoutCancel(ctx)
	renewed := l.renewed
	var again <-chan time.Time
	listed := s.listed()
	if err := s.checkBroker(l); err != nil { // a list may have come since the handshake
		return nil, err
	}
	for {
		sent, err := s.send(sending, l)
		if err != nil {
			return nil, err
		}
		if sent {
			// There may be more, but neither the end nor a digest waits for it.
			s.outbox.nudge()
		}
		if s.outbox.owes() {
			s.digest(time.Now())
		}
		select {
		case <-s.outbox.wake:
		case <-listed:
			listed = s.listed()
			if err := s.checkBroker(l); err != nil {
				return nil, err
			}
		case now := <-digest:
			s.digest(now)
		case <-renewed:
			if next, err := s.handOver(ctx, l); err == nil {
				return next, nil
			} else if ctx.Err() == nil {
				s.config.Log.Warn("no connection with the renewed certificate yet", slog.Any("error", err), slog.Duration("retry_in", handoverRetry))
			}
			renewed, again = nil, time.After(handoverRetry)
		case <-again:
			renewed, again = l.renewed, nil
		case err := <-l.lost:
			return nil, cmp.Or(l.cause(), err)
		case <-l.conn.closed:
			return nil, l.reason(errClosed)
		case <-ctx.Done():
			return nil, s.drain(sending, l)
		}
	}
}

// drain sends what waits, signs for it, and says goodbye.
func (s *Session) drain(ctx context.Context, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := s.flush(ctx, l); err != nil {
		return err
	}
	s.digest(time.Now())
	if err := s.flush(ctx, l); err != nil {
		return err
	}
	l.client.Disconnect(quiesce)
	return nil
}

func (s *Session) flush(ctx context.Context, l *link) error {
	for {
		if sent, err := s.send(ctx, l); err != nil || !sent {
			return err
		}
	}
}

// send sends the oldest message that waits, if there is one, and waits until it
// is acknowledged.
func (s *Session) send(ctx context.Context, l *link) (sent bool, err error) {
	out, ok := s.outbox.next(time.Now())
	if !ok {
		return false, nil
	}
	s.sent = time.Now()
	if _, err := l.do(ctx, func() mqtt.Token { return l.client.Publish(out.name, 1, false, out.raw) }); err != nil {
		return false, fmt.Errorf("publishing on %s: %w", out.name, err)
	}
	s.outbox.acknowledged(out, time.Now())
	return true, nil
}

// digest queues a digest, if there is anything to vouch for.
func (s *Session) digest(now time.Time) {
	if err := s.outbox.putDigest(s.digestTopic(), s.receiver.policy.Class(wire.KindDigest).MaxBytes, now); err != nil {
		s.config.Log.Error("no digest", slog.Any("error", err))
	}
}

func (s *Session) digestTopic() string {
	id := s.config.Bundle.Identity
	return wire.Topic{Kind: wire.KindDigest, Site: id.Site, Role: string(id.Role), Name: id.Name}.String()
}

func (s *Session) options(conn net.Conn, lost chan<- error, clientID string) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions()
	o.AddBroker("tls://broker") // never dialled: the library wants to be told one
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return conn, nil })
	o.SetProtocolVersion(4).SetClientID(clientID).SetCleanSession(true).SetOrderMatters(true)
	o.SetKeepAlive(keepAlive).SetPingTimeout(keepAlive / 2).SetConnectTimeout(ackTimeout).SetWriteTimeout(writeTimeout)
	o.SetAutoReconnect(false).SetConnectRetry(false).SetStore(mqtt.NewOrderedMemoryStore())
	// The one handler: a route for each filter would hand on a message once
	// for each that matches.
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { s.enqueue(m.Topic(), m.Payload()) })
	o.SetConnectionLostHandler(func(_ mqtt.Client, err error) {
		select {
		case lost <- fmt.Errorf("connection lost: %w", err):
		default:
		}
	})
	return o
}

// tlsConfig is made for each connection, so that a renewed certificate counts
// from the next one on. People reach the broker by their site's machine host
// too: that is the name every broker carries.
func (s *Session) tlsConfig() *tls.Config {
	b := s.config.Bundle
	host := pki.Authority{TrustDomain: b.Identity.TrustDomain, Site: b.Identity.Site, Class: pki.ClassMachine}.Host()
	return pki.ClientConfig(b.Credentials, s.verifier, host, s.acceptBroker)
}

// acceptBroker refuses every server that is not a broker of our own site.
func (s *Session) acceptBroker(peer pki.Identity) error {
	if peer.Role != pki.RoleBroker || peer.Site != s.receiver.site {
		return fmt.Errorf("dialled a broker of %s, reached %s", s.receiver.site, peer)
	}
	return nil
}

// link is one connection and its client.
type link struct {
	address, clientID string
	conn              *guarded
	client            mqtt.Client
	lost              <-chan error    // told once, by the library
	renewed           <-chan struct{} // closed when there is a newer credential than this connection's
}

// close ends the connection and gives the library time to stop its goroutines.
// It never returns an error that matters any more.
func (l *link) close() {
	l.conn.Close()
	l.client.Disconnect(quiesce)
}

// subscribe asks for each filter in a packet of its own, so that the answer has
// one form and the guard can tell.
func (l *link) subscribe(ctx context.Context, filters []string) error {
	for _, filter := range filters {
		token, err := l.do(ctx, func() mqtt.Token { return l.client.Subscribe(filter, 1, nil) })
		if err != nil {
			return fmt.Errorf("subscribing: %w", err)
		}
		// The library reports a refused filter as success.
		result, ok := token.(*mqtt.SubscribeToken)
		if !ok {
			return errors.New("subscribing: the library returned no result")
		}
		if code, ok := result.Result()[filter]; !ok || code > 1 {
			return fmt.Errorf("subscribing: the broker refused %s (code %#x)", filter, code)
		}
	}
	return nil
}

// do has the library do something and waits until it is acknowledged. On a
// connection that is closed the library would block for its write timeout.
func (l *link) do(ctx context.Context, action func() mqtt.Token) (mqtt.Token, error) {
	select {
	case <-l.conn.closed:
		return nil, l.reason(errClosed)
	default:
	}
	token := action()
	timer := time.NewTimer(ackTimeout)
	defer timer.Stop()
	select {
	case <-token.Done():
		if err := token.Error(); err != nil {
			return nil, l.reason(err)
		}
		return token, nil
	case <-l.conn.closed:
		err := l.reason(errClosed)
		if failed := token.Error(); failed != nil && errors.Is(err, errClosed) {
			err = failed
		}
		return nil, err
	case <-timer.C:
		return nil, errors.New("no answer in time")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ended waits for the end of the connection, or of ctx.
func (l *link) ended(ctx context.Context) error {
	select {
	case err := <-l.lost:
		return cmp.Or(l.cause(), err)
	case <-l.conn.closed:
		return l.reason(errClosed)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reason returns why the connection ended: what the guard says, else what the
// library says in time (it closes first, fails what waits, and tells
// afterwards), else err.
func (l *link) reason(err error) error {
	if cause := l.cause(); cause != nil {
		return cause
	}
	select {
	case lost := <-l.lost:
		return lost
	case <-time.After(grace):
		return err
	}
}

func (l *link) cause() error {
	select {
	case <-l.conn.closed:
		return l.conn.cause
	default:
		return nil
	}
}
