package session

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"syscall"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"levee/internal/site"
	"levee/pki"
)

const (
	firstBackOff = 250 * time.Millisecond
	// crowdBackOff is the first one of sensors and of people, who are many: they
	// leave a broker that has just come back to those who judge what they say.
	crowdBackOff = time.Second
	lastBackOff  = 8 * time.Second // waits are 10 s at most, which is below replayAge: they alone lose no reading
	// unreachedBackOff is for those who hold a line to every broker, while nobody
	// listens at its address. They are few, and what passes a broker before they
	// are back nobody tells them again.
	unreachedBackOff = 2 * time.Second
	// busyBackOff is for the same when a broker hangs up before TLS is completed: it
	// has as many handshakes to do as it can, and whoever asks often gets the next
	// place.
	busyBackOff = time.Second
	// headStart is how long a broker may take to answer before the next one is
	// asked as well.
	headStart = time.Second
	// lostHeadStart is the same for the broker whose connection was lost. If it
	// is back at once, whoever judges may not be back there yet.
	lostHeadStart = 3 * time.Second
)

// backOff spaces attempts to connect.
type backOff struct {
	crowd bool // it is of those who are many
	bound time.Duration
}

func (b *backOff) first() time.Duration {
	if b.crowd {
		return crowdBackOff
	}
	return firstBackOff
}

// after returns how long to wait after a connection that was up for that long,
// or 0 if none came about. Full jitter: after an outage of the broker its clients
// must not come back all at once. A connection that outlasted the next wait
// begins anew: a broker that dies now and then costs less time than it served,
// while one that takes us in and drops us at once is not stormed. The bound
// grows up to most.
func (b *backOff) after(up, most time.Duration) time.Duration {
	if b.bound == 0 || up > b.bound {
		b.bound = b.first()
	}
	b.bound = min(b.bound, most)
	wait := b.bound/4 + rand.N(b.bound) // a quarter: it is no storm, whatever is drawn
	b.bound = min(2*b.bound, most)
	return wait
}

// race makes an attempt for each of heads, in order, and returns the first that
// succeeds, and which (the way of RFC 8305, section 5): an attempt begins when
// one before it has failed, or none has succeeded within its head start. The
// failures are those of who failed before; -1 says that all of them did. Attempts
// that come too late are called off; what they made all the same is discarded.
// running waits for them.
func race[T any](ctx context.Context, heads []time.Duration, running *sync.WaitGroup, attempt func(context.Context, int) (T, error), discard func(T)) (winner T, at int, failures []error) {
	type result struct {
		made T
		at   int
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n, results := len(heads), make(chan result)
	failures = make([]error, n)
	begin := func(i int) {
		running.Go(func() {
			made, err := attempt(ctx, i)
			select {
			case results <- result{made, i, err}:
			case <-ctx.Done():
				if err == nil {
					discard(made)
				}
			}
		})
	}
	for begun, failed := 0, 0; failed < n; {
		var head <-chan time.Time
		if begun < n {
			head = time.After(heads[begun])
		}
		select {
		case r := <-results:
			if r.err == nil {
				return r.made, r.at, failures
			}
			failures[r.at] = r.err
			failed++
		case <-head:
		case <-ctx.Done():
			return winner, -1, failures
		}
		if begun < n {
			begin(begun)
			begun++
		}
	}
	return winner, -1, failures
}

// establish dials, connects and subscribes. A fresh client each time: what the
// library would keep and resend by itself is the outbox's business.
func (l *line) establish(ctx context.Context, broker site.Broker, clientID string) (_ *link, err error) {
	s := l.session
	_, renewed := s.config.Bundle.Credentials.Watch()
	conn, err := dial(ctx, broker.Address, s.tlsConfig())
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		err = busy{err}
	}
	if err != nil {
		return nil, fmt.Errorf("dialling: %w", err)
	}
	lost := make(chan error, 1)
	to := &link{broker: broker, clientID: clientID, conn: conn, client: mqtt.NewClient(l.options(conn, lost, clientID)), lost: lost, renewed: renewed}
	defer func() {
		if err != nil {
			to.close()
		}
	}()
	if _, err := to.do(ctx, to.client.Connect); err != nil {
		return nil, fmt.Errorf("connecting: %w", turnedAway{err})
	}
	if err := to.subscribe(ctx, s.filters); err != nil {
		return nil, err
	}
	return to, nil
}

// busy says that a broker hung up before TLS was completed.
type busy struct{ error }

func (b busy) Unwrap() error { return b.error }

func (l *line) options(conn net.Conn, lost chan<- error, clientID string) *mqtt.ClientOptions {
	o := mqtt.NewClientOptions()
	o.AddBroker("tls://broker") // never dialled: the library wants to be told one
	o.SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return conn, nil })
	o.SetProtocolVersion(4).SetClientID(clientID).SetCleanSession(true).SetOrderMatters(true)
	o.SetKeepAlive(keepAlive).SetPingTimeout(keepAlive / 2).SetConnectTimeout(ackTimeout).SetWriteTimeout(writeTimeout)
	o.SetAutoReconnect(false).SetConnectRetry(false).SetStore(mqtt.NewOrderedMemoryStore())
	// The one handler: a route for each filter would hand on a message once
	// for each that matches.
	o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { l.enqueue(m.Topic(), m.Payload()) })
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
