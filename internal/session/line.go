package session

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"levee/internal/clocks"
	"levee/internal/site"
	"levee/pki"
)

const drainTimeout = 3 * time.Second

// line holds one connection after another: always to the same broker, or to the
// first of several that answers. What is slow or gone on one line holds up no
// other.
type line struct {
	session *Session
	index   int // of the line, from 0
	brokers []site.Broker
	pause   backOff
	inbox   *inbox
	away    int                         // attempts in a row that a broker turned away; of run alone
	sent    time.Time                   // when the last message was handed to a connection; of Run alone
	up      atomic.Pointer[site.Broker] // connected and subscribed to; nil: to none
}

// everyBroker reports whether a part of this role connects to every broker of
// its site. Brokers exchange no messages: who judges must hear all of them, and
// be heard wherever somebody listens. A sensor needs only one of them, and
// people look.
func everyBroker(r pki.Role) bool {
	return r.Class() == pki.ClassMachine && r != pki.RoleSensor
}

// newLines returns the lines of a part.
func newLines(s *Session, role pki.Role, brokers []site.Broker) []*line {
	if !everyBroker(role) {
		return []*line{{session: s, brokers: brokers, pause: backOff{crowd: true}, inbox: newInbox()}}
	}
	var lines []*line
	for i := range brokers {
		lines = append(lines, &line{session: s, index: i, brokers: brokers[i : i+1], inbox: newInbox()})
	}
	return lines
}

// run stays connected until ctx ends. Which broker comes first is drawn, so that
// a site's sensors spread. The line stays with the one that answered, and when
// that one is gone it asks the others before it.
func (l *line) run(ctx context.Context, digest <-chan time.Time) {
	var attempts sync.WaitGroup
	defer attempts.Wait()
	lost := false // the last in order was
	for first := rand.N(len(l.brokers)); ctx.Err() == nil; first = (first + 1) % len(l.brokers) {
		order := slices.Concat(l.brokers[first:], l.brokers[:first])
		via, at, failures := race(ctx, headStarts(len(order), lost), &attempts, func(ctx context.Context, i int) (*link, error) {
			return l.establish(ctx, order[i], l.session.clientID)
		}, (*link).close)
		var up time.Duration
		if via != nil {
			for i, err := range failures {
				l.report(order[i], err, 0, 0)
			}
			clear(failures)
			up, failures[at] = l.serve(ctx, via, digest)
		}
		if ctx.Err() != nil {
			return
		}
		l.hurry(failures, up)
		wait := l.pause.after(up, l.mostAfter(failures))
		for i, err := range failures {
			l.report(order[i], err, up, wait)
		}
		lost = via != nil
		first += max(at, 0) // so that the one after it is next
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// turnedAway says that a broker completed TLS and then did not let us in.
type turnedAway struct{ error }

func (t turnedAway) Unwrap() error { return t.error }

// manyTurnedAway is how many attempts in a row must end so before a certificate is
// renewed for it. A broker does that to whoever has an older certificate than one
// that it knows, and MQTT 3.1.1 tells us nothing.
const manyTurnedAway = 3

// hurry renews the certificate early when brokers that answer keep this part out
// again and again: somebody else may have renewed it.
func (l *line) hurry(failures []error, up time.Duration) {
	if up > firstBackOff {
		l.away = 0
		return
	}
	if !slices.ContainsFunc(failures, func(err error) bool { _, away := errors.AsType[turnedAway](err); return away }) && up == 0 {
		return
	}
	if l.away++; l.away >= manyTurnedAway && l.session.renewal != nil {
		l.away = 0
		l.session.renewal.Hurry()
	}
}

// headStarts returns how long each of n brokers waits for those before it.
func headStarts(n int, lost bool) []time.Duration {
	heads := slices.Repeat([]time.Duration{headStart}, n)
	if lost {
		heads[n-1] = lostHeadStart
	}
	heads[0] = 0
	return heads
}

// mostAfter returns how long the next wait may be.
func (l *line) mostAfter(failures []error) time.Duration {
	if !everyBroker(l.session.config.Bundle.Identity.Role) {
		return lastBackOff
	}
	if _, ok := errors.AsType[busy](failures[0]); ok {
		return busyBackOff
	}
	if op, ok := errors.AsType[*net.OpError](failures[0]); ok && op.Op == "dial" {
		return unreachedBackOff
	}
	return lastBackOff
}

// report logs why there is no connection to a broker, if err says so: after one
// that was up for that long, or 0 if none came about, and before a wait, or 0 if
// another broker answered.
func (l *line) report(broker site.Broker, err error, up, wait time.Duration) {
	if err == nil {
		return
	}
	attrs := []any{slog.String("broker", broker.Name), slog.Any("error", err)}
	if wait > 0 {
		attrs = append(attrs, slog.Duration("retry_in", wait.Round(time.Millisecond)))
	}
	l.session.config.Log.Warn("not connected", append(attrs, l.clockTrouble(err, up)...)...)
}

// serve runs until the connection is lost, or until ctx ends and everything is
// sent, and returns how long it was up.
func (l *line) serve(ctx context.Context, via *link, digest <-chan time.Time) (up time.Duration, err error) {
	s, began := l.session, time.Now()
	defer func() { via.close() }()
	l.connected(via)
	defer l.disconnected()
	if s.outbox == nil {
		if err = via.ended(ctx); ctx.Err() != nil {
			via.client.Disconnect(quiesce)
		}
		return time.Since(began), err
	}
	place := s.outbox.join()
	defer s.outbox.leave(place)
	for {
		next, err := l.deliver(ctx, via, place, digest)
		if next == nil {
			return time.Since(began), err
		}
		// Whatever was published before the new connection had subscribed
		// has come by the old one, or is on its way.
		via.client.Disconnect(quiesce)
		via.close()
		via = next
	}
}

func (l *line) connected(via *link) {
	s := l.session
	if l.up.Swap(&via.broker) == nil {
		s.online.Add(1)
	}
	s.once.Do(func() { close(s.ready) })
	s.config.Log.Info("connected", slog.String("broker", via.broker.Address), slog.String("name", via.broker.Name),
		slog.String("client", via.clientID), slog.Int("filters", len(s.filters)))
}

// broker returns the name of the broker that what this line brings came by: the
// one it is connected to, or its only one.
func (l *line) broker() string {
	if to := l.up.Load(); to != nil {
		return to.Name
	}
	if len(l.brokers) == 1 {
		return l.brokers[0].Name
	}
	return ""
}

func (l *line) disconnected() {
	l.up.Store(nil)
	l.session.online.Add(-1)
}

// handoverRetry is how long to wait before another attempt to change
// connections.
const handoverRetry = 5 * time.Second

// handOver makes the connection that takes the place of via, with the credential
// that was renewed. Both are open for a moment, and what comes by both the
// replay windows take once. For that the two have different client identifiers:
// the broker lets a machine have both only while one has a newer certificate.
func (l *line) handOver(ctx context.Context, via *link) (*link, error) {
	other := l.session.clientID
	if via.clientID == other {
		other += handoverSuffix
	}
	next, err := l.establish(ctx, via.broker, other)
	if err == nil {
		l.connected(next)
	}
	return next, err
}

// handoverSuffix ends the client identifier of every second connection of a
// machine that renews its certificate.
const handoverSuffix = "_1"

// deliver sends what the outbox holds until the connection ends, or ctx does,
// or another connection takes its place: that is next then. Lines share the
// digests' ticker: whichever is connected signs.
func (l *line) deliver(ctx context.Context, via *link, place *cursor, digest <-chan time.Time) (next *link, err error) {
	s, sending := l.session, context.WithoutCancel(ctx)
	renewed := via.renewed
	var again <-chan time.Time
	listed := s.listed()
	if err := s.checkBroker(via); err != nil { // a list may have come since the handshake
		return nil, err
	}
	for {
		sent, err := l.send(sending, via, place)
		if err != nil {
			return nil, err
		}
		if sent {
			// There may be more, but neither the end nor a digest waits for it.
			place.nudge()
		}
		if s.outbox.owes() {
			s.digest(time.Now())
		}
		select {
		case <-place.wake:
		case <-listed:
			listed = s.listed()
			if err := s.checkBroker(via); err != nil {
				return nil, err
			}
		case now := <-digest:
			s.digest(now)
		case <-renewed:
			if next, err := l.handOver(ctx, via); err == nil {
				return next, nil
			} else if ctx.Err() == nil {
				s.config.Log.Warn("no connection with the renewed certificate yet", slog.String("broker", via.broker.Name),
					slog.Any("error", err), slog.Duration("retry_in", handoverRetry))
			}
			renewed, again = nil, time.After(handoverRetry)
		case <-again:
			renewed, again = via.renewed, nil
		case err := <-via.lost:
			return nil, cmp.Or(via.cause(), err)
		case <-via.conn.closed:
			return nil, via.reason(errClosed)
		case <-ctx.Done():
			return nil, l.drain(sending, via, place)
		}
	}
}

// drain sends what waits, signs for it, and says goodbye. The first line that
// has sent everything signs, and all send that.
func (l *line) drain(ctx context.Context, via *link, place *cursor) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := l.flush(ctx, via, place); err != nil {
		return err
	}
	l.session.last.Do(func() { l.session.digest(time.Now()) })
	if err := l.flush(ctx, via, place); err != nil {
		return err
	}
	via.client.Disconnect(quiesce)
	return nil
}

func (l *line) flush(ctx context.Context, via *link, place *cursor) error {
	for {
		if sent, err := l.send(ctx, via, place); err != nil || !sent {
			return err
		}
	}
}

// send sends the oldest message that this line has not sent, if there is one,
// and waits until it is acknowledged.
func (l *line) send(ctx context.Context, via *link, place *cursor) (sent bool, err error) {
	out, ok := l.session.outbox.next(place, time.Now())
	if !ok {
		return false, nil
	}
	l.sent = time.Now()
	if _, err := via.do(ctx, func() mqtt.Token { return via.client.Publish(out.name, 1, false, out.raw) }); err != nil {
		return false, fmt.Errorf("publishing on %s: %w", out.name, err)
	}
	l.session.outbox.acknowledged(place, time.Now())
	return true, nil
}

// soon is how short after a message the end of a connection may have to do with
// it.
const soon = 2 * time.Second

// clockTrouble returns what the end of a connection may have to do with clocks.
// MQTT 3.1.1 has no word for it: a broker that refuses a message for its time
// acknowledges it or closes, and says why in its own log alone.
func (l *line) clockTrouble(err error, up time.Duration) (attrs []any) {
	s, now := l.session, time.Now()
	own := func() []*x509.Certificate {
		c := s.config.Bundle.Credentials.Current()
		return []*x509.Certificate{c.Leaf(), c.Issuer(), s.config.Bundle.Root}
	}
	if text := clocks.CertificateTrouble(err, own, now); text != "" {
		attrs = append(attrs, slog.String("detail", text))
	}
	if after := now.Sub(l.sent); len(attrs) > 0 || up > 0 && after < soon {
		if len(attrs) == 0 {
			attrs = append(attrs, slog.Duration("after_a_message", after.Round(time.Millisecond)))
		}
		attrs = append(attrs, slog.String("own_clock", s.kernel.String()))
	}
	return attrs
}
