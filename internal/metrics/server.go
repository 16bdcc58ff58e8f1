package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"levee/internal/config"
)

// Bounds of the listener. A monitoring system holds one connection.
const (
	maxConnections = 16
	maxHeader      = 8 << 10
	readTimeout    = 5 * time.Second
	writeTimeout   = 10 * time.Second // of a whole answer
	stopTimeout    = time.Second
)

// Config says what to show.
type Config struct {
	// Listen is a loopback address and port; with "" nothing listens.
	Listen string
	Source Source
	// More are the part's own families. Their names differ from all others.
	More []Family
	Log  *slog.Logger
}

// Server answers GET /metrics. A nil Server, which Open returns where nothing
// is to listen, does nothing.
type Server struct {
	listener *listener
	figures  http.Handler
	server   *http.Server
	log      *slog.Logger
}

// Open listens. It answers nobody before Around.
func Open(c Config) (*Server, error) {
	if c.Listen == "" {
		return nil, nil
	}
	address, err := config.Loopback(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("opening metrics: metrics_listen: %w", err)
	}
	if c.Source == nil || c.Log == nil {
		return nil, errors.New("opening metrics: no source or no logger")
	}
	all := append(families(c.Source), c.More...)
	names := make(map[string]bool)
	for _, f := range all {
		if names[f.Name] {
			return nil, fmt.Errorf("opening metrics: %s stands twice", f.Name)
		}
		names[f.Name] = true
	}
	registry := prometheus.NewRegistry()
	for _, part := range []prometheus.Collector{collector(all), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := registry.Register(part); err != nil {
			return nil, fmt.Errorf("opening metrics: %w", err)
		}
	}
	s := &Server{log: c.Log, figures: promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError, DisableCompression: true,
	})}
	socket, err := net.Listen("tcp", address.String())
	if err != nil {
		return nil, fmt.Errorf("opening metrics: %w", err)
	}
	s.listener = &listener{Listener: socket}
	s.server = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelWarn),
		// OPTIONS * is a request like any other, and refused like it.
		DisableGeneralOptionsHandler: true,
	}
	s.server.SetKeepAlivesEnabled(false) // an idle connection would keep others out
	return s, nil
}

// Address returns where the figures are, "" for a nil Server.
func (s *Server) Address() string {
	if s == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Close releases what Open opened, for a part that will not run.
func (s *Server) Close() error {
	if s == nil {
		return nil
	}
	return s.listener.Close()
}

// Around answers from before inner begins until it has returned. Figures are
// never a reason to stop a part: if the listener fails, the log is told, and
// inner goes on.
func (s *Server) Around(ctx context.Context, inner func(context.Context) error) error {
	if s == nil {
		return inner(ctx)
	}
	s.log.Info("metrics are up", slog.String("url", "http://"+s.Address()+"/metrics"))
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("metrics have stopped", slog.Any("error", err))
		}
	})
	err := inner(ctx)
	stopping, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	if s.server.Shutdown(stopping) != nil {
		s.server.Close() // whoever is still connected has had its time
	}
	running.Wait()
	return err
}

// ServeHTTP answers one request. Its Host must be our address: a hostile page in
// a browser on this machine may have bound its own name to it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	switch {
	case !s.ours(r.Host):
		http.Error(w, "these metrics answer to their own address alone", http.StatusMisdirectedRequest)
	case r.URL.Path != "/metrics":
		http.Error(w, "there is only /metrics", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "metrics are read, nothing else", http.StatusMethodNotAllowed)
	case r.ContentLength != 0:
		http.Error(w, "a request has no body", http.StatusBadRequest)
	default:
		s.figures.ServeHTTP(w, r)
	}
}

// ours reports whether a Host is the address listened on, or localhost with its
// port.
func (s *Server) ours(host string) bool {
	if host == s.Address() {
		return true
	}
	address, err := netip.ParseAddrPort(s.Address())
	return err == nil && host == fmt.Sprintf("localhost:%d", address.Port())
}

// listener closes at once what comes while maxConnections are open. To let it
// wait instead would let it hold a descriptor without any deadline.
type listener struct {
	net.Listener
	mu   sync.Mutex
	open int
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.enter() {
			return &counted{Conn: conn, leave: sync.OnceFunc(l.leave)}, nil
		}
		conn.Close()
	}
}

func (l *listener) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= maxConnections {
		return false
	}
	l.open++
	return true
}

func (l *listener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}
