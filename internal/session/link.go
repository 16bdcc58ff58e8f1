package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"levee/internal/site"
)

const (
	keepAlive  = 20 * time.Second
	ackTimeout = 5 * time.Second
	grace      = 250 * time.Millisecond // that the library is given to stop, or to say why it did
	quiesce    = uint(grace / time.Millisecond)
)

var errClosed = errors.New("the connection was closed")

// link is one connection and its client.
type link struct {
	broker   site.Broker
	clientID string
	conn     *guarded
	client   mqtt.Client
	lost     <-chan error    // told once, by the library
	renewed  <-chan struct{} // closed when there is a newer credential than this connection's
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
