package balancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Bounds of what a client may make a server wait for or hold.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 30 * time.Second
	idleTimeout   = 60 * time.Second
	maxHeader     = 16 << 10
	maxBody       = 1 << 20
	drainTimeout  = 5 * time.Second
)

func newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // clients' faults, at their pace
	}
}

// stop lets the server's requests finish, within drainTimeout.
func stop(ctx context.Context, server *http.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		server.Close() // its error would be that of the listener, closed by now
	}
}

// backend is one demonstration server. It says which one answered.
type backend struct {
	name     string // "backend 3 of pool web-1"
	addr     string
	server   *http.Server
	listener net.Listener

	// Of the rotation, under its lock.
	active  int
	leaving bool
	idle    chan struct{} // closed when it is leaving and no request is active
}

func newBackend(pool string, number int, log *slog.Logger) (*backend, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting backend %d: %w", number, err)
	}
	b := &backend{
		name: fmt.Sprintf("backend %d of pool %s", number, pool), addr: listener.Addr().String(),
		listener: listener, idle: make(chan struct{}),
	}
	b.server = newServer(http.HandlerFunc(b.answer), log)
	return b, nil
}

func (b *backend) answer(w http.ResponseWriter, r *http.Request) {
	// The proxy has bounded the body. Read it, as a real server would.
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		http.Error(w, "the body could not be read", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "%s answered\n", b.name)
}

// serve blocks until the backend is stopped.
func (b *backend) serve(log *slog.Logger) {
	if err := b.server.Serve(b.listener); !errors.Is(err, http.ErrServerClosed) {
		log.Error("a backend stopped by itself", slog.String("backend", b.name), slog.Any("error", err))
	}
}

// drain waits until the requests that it was given are answered, then stops it.
func (b *backend) drain(ctx context.Context) {
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-b.idle:
	case <-timer.C:
	}
	stop(ctx, b.server)
}

// rotation gives requests to backends in turn.
type rotation struct {
	mu       sync.Mutex
	backends []*backend
	turn     int
}

// acquire returns the next backend that is not among tried, or nil. The caller
// releases it.
func (r *rotation) acquire(tried map[*backend]bool) *backend {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range r.backends {
		r.turn = (r.turn + 1) % len(r.backends)
		if b := r.backends[r.turn]; !tried[b] {
			b.active++
			return b
		}
	}
	return nil
}

func (r *rotation) release(b *backend) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.active--; b.active == 0 && b.leaving {
		close(b.idle)
	}
}

func (r *rotation) add(b *backend) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.backends = append(r.backends, b)
}

// remove takes the backend that was added last out of the rotation.
func (r *rotation) remove() *backend {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.backends) - 1
	b := r.backends[last]
	r.backends = r.backends[:last]
	if b.leaving = true; b.active == 0 {
		close(b.idle)
	}
	return b
}

func (r *rotation) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.backends)
}
