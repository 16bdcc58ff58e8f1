package balancer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"

	"levee/services/controller"
)

// maxConnections bounds a pool's open connections: a flood of them must not
// take the file descriptors of the rest of the process.
const maxConnections = 2048

// State is what is in force in a pool.
type State struct {
	RateLimited bool
	Servers     int
	Refused     uint64 // requests that a rate limit refused, ever
}

var errStopped = errors.New("the balancer has stopped")

// pool is one listener and its backends. Its run method owns what is not
// guarded otherwise.
type pool struct {
	name      string
	own, most int // servers: without scaling, and at most
	log       *slog.Logger
	listener  net.Listener
	transport *http.Transport
	proxy     *httputil.ReverseProxy
	rotation  rotation
	armed     atomic.Pointer[arming]
	refused   atomic.Uint64
	failed    rate.Sometimes // logging of requests that failed

	changes chan change
	stopped chan struct{} // closed when run has ended

	backends sync.WaitGroup
	scaled   *end // nil: the pool's own number
}

type change struct {
	want controller.Wanted
	done chan error // with room for one
}

func newPool(cfg Pool, listener net.Listener, log *slog.Logger) *pool {
	p := &pool{
		name: cfg.Name, own: cfg.Servers, most: cfg.MaxServers,
		log: log.With(slog.String("pool", cfg.Name)), listener: listener, transport: newTransport(),
		failed:  rate.Sometimes{Interval: time.Second},
		changes: make(chan change), stopped: make(chan struct{}),
	}
	p.proxy = p.newProxy()
	return p
}

func (p *pool) state() State {
	a := p.armed.Load()
	return State{
		RateLimited: a != nil && !a.over(time.Now()),
		Servers:     p.rotation.size(),
		Refused:     p.refused.Load(),
	}
}

func (p *pool) apply(ctx context.Context, want controller.Wanted) error {
	if l := want.RateLimit; l != nil && (!(l.PerSecond > 0) || math.IsInf(l.PerSecond, 0) || l.Burst < 1) {
		return fmt.Errorf("a limit of %g a second and a burst of %d is none", l.PerSecond, l.Burst)
	}
	if s := want.Scaling; s != nil && (s.Servers < 1 || s.Servers > p.most) {
		return fmt.Errorf("%d servers are not 1 to %d", s.Servers, p.most)
	}
	ch := change{want: want, done: make(chan error, 1)}
	select {
	case p.changes <- ch:
	case <-p.stopped:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	return <-ch.done // run answers every change that it takes
}

// run serves the pool until ctx ends. It alone starts goroutines, and waits for
// all of them.
func (p *pool) run(ctx context.Context) error {
	defer close(p.stopped)
	defer p.backends.Wait()
	defer p.transport.CloseIdleConnections()
	server := newServer(p, p.log)
	defer p.scale(ctx, 0)
	if err := p.scale(ctx, p.own); err != nil {
		return errors.Join(err, p.listener.Close())
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(netutil.LimitListener(p.listener, maxConnections)) }()
	p.log.Info("the embedded load balancer listens", slog.String("address", p.listener.Addr().String()))

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			stop(ctx, server)
			<-served
			return nil
		case err := <-served:
			return err
		case ch := <-p.changes:
			ch.done <- p.change(ctx, ch.want, time.Now())
		case <-timer.C:
		}
		timer.Reset(p.expire(ctx, time.Now()))
	}
}

// change brings the pool into the state want.
func (p *pool) change(ctx context.Context, want controller.Wanted, now time.Time) error {
	if l := want.RateLimit; l == nil {
		p.armed.Store(nil)
	} else {
		p.armed.Store(arm(p.armed.Load(), *l, now))
	}
	if want.Scaling == nil {
		p.scaled = nil
		return p.scale(ctx, p.own)
	}
	e := endAt(want.Scaling.Until, now)
	p.scaled = &e
	return p.scale(ctx, max(p.own, want.Scaling.Servers))
}

// expire ends what is over, and returns how long nothing else will be.
func (p *pool) expire(ctx context.Context, now time.Time) time.Duration {
	next := time.Minute // to look at the wall clock in any case
	if a := p.armed.Load(); a != nil {
		if a.over(now) {
			p.armed.Store(nil)
			p.log.Info("the rate limit ended")
		} else {
			next = min(next, a.deadline.Sub(now))
		}
	}
	if p.scaled != nil {
		if p.scaled.over(now) {
			p.scaled = nil
			p.scale(ctx, p.own) // fewer: cannot fail
			p.log.Info("the scaling ended")
		} else {
			next = min(next, p.scaled.deadline.Sub(now))
		}
	}
	return next
}

// scale starts or stops backends until there are n. Those that it stops take no
// new requests from now on, and drain by themselves.
func (p *pool) scale(ctx context.Context, n int) error {
	for size := p.rotation.size(); size < n; size++ {
		b, err := newBackend(p.name, size+1, p.log)
		if err != nil {
			return err
		}
		p.backends.Go(func() { b.serve(p.log) })
		p.rotation.add(b)
		p.log.Info("a backend started", slog.String("backend", b.name), slog.String("address", b.addr))
	}
	for size := p.rotation.size(); size > n; size-- {
		b := p.rotation.remove()
		p.backends.Go(func() {
			b.drain(ctx)
			p.log.Info("a backend stopped", slog.String("backend", b.name))
		})
	}
	return nil
}
