package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
)

// entrance is what mochi takes for its listener: it learns there how a
// connection is established, and listens to nothing by itself.
type entrance struct {
	b      *Broker
	closed chan struct{}
	once   sync.Once
}

const entranceID = "mtls"

// Init does nothing: the socket is the door's.
func (e *entrance) Init(*slog.Logger) error { return nil }

// ID returns the listener's name within mochi.
func (e *entrance) ID() string { return entranceID }

// Address returns the site.
func (e *entrance) Address() string { return e.b.site }

// Protocol returns the listener's protocol.
func (e *entrance) Protocol() string { return entranceID }

// Serve hands mochi's way to establish a connection to the door.
func (e *entrance) Serve(establish listeners.EstablishFn) {
	e.b.establish = establish
	close(e.b.open)
	<-e.closed
}

// Close ends Serve. The door has ended every session.
func (e *entrance) Close(listeners.CloseFn) { e.once.Do(func() { close(e.closed) }) }

var _ listeners.Listener = (*entrance)(nil)

// Serve listens on address for all of sites, one broker each, until ctx is done;
// then it ends every session and waits for its goroutines. The bounds of all
// connections, and of those that name no site, are the first broker's. A broker
// may be served once.
func Serve(ctx context.Context, address string, sites ...*Broker) error {
	if len(sites) == 0 {
		return errors.New("running broker: no site")
	}
	for _, b := range sites {
		if !b.started.CompareAndSwap(false, true) {
			return errors.New("running broker: it has run before")
		}
	}
	var config net.ListenConfig
	socket, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("running broker: %w", err)
	}
	if err := serve(ctx, socket, sites); err != nil {
		return fmt.Errorf("running broker: %w", err)
	}
	return nil
}

func serve(ctx context.Context, socket net.Listener, sites []*Broker) error {
	d, err := newDoor(socket, sites...)
	if err != nil {
		_ = socket.Close()
		return err
	}
	for _, b := range sites {
		b.door = d
		defer b.server.Close() // always nil
		err := b.server.AddListener(&entrance{b: b, closed: make(chan struct{})})
		if err == nil {
			err = b.server.Serve()
		}
		if err != nil {
			_ = socket.Close()
			return err
		}
		<-b.open
	}
	go d.accept()
	defer d.close()
	for _, b := range sites {
		b.addr = socket.Addr()
		close(b.ready)
		b.log.Info("broker listens", slog.String("site", b.site), slog.String("address", b.addr.String()))
	}
	sweep := time.NewTicker(time.Minute)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.accepting:
			return d.failed
		case now := <-sweep.C:
			for _, b := range sites {
				b.sweep(now)
			}
		}
	}
}
