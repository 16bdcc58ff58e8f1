package console

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
)

// Bounds of the listener. A browser keeps six connections to one address, the
// stream included.
const (
	maxConnections = 64  // answered; what is over is told so
	maxSockets     = 128 // accepted at all
	maxHeader      = 8 << 10
	headerTimeout  = 5 * time.Second
	idleTimeout    = 30 * time.Second
	writeTimeout   = 10 * time.Second // of each file, and of each event
	stopTimeout    = 3 * time.Second
)

//go:embed web
var web embed.FS

// types are the files' media types: the machine's own table may differ, and
// browsers take modules and styles by no other.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// page serves the files and the stream.
type page struct {
	listener    net.Listener
	hub         *hub
	link        link
	log         *slog.Logger
	ready       chan struct{}
	connections atomic.Int64
	server      *http.Server
}

func newPage(listener net.Listener, hub *hub, l link, log *slog.Logger) *page {
	p := &page{listener: listener, hub: hub, link: l, log: log, ready: make(chan struct{})}
	mux := http.NewServeMux()
	for name, file := range files() {
		mux.Handle("GET "+name, file)
	}
	mux.HandleFunc("GET /events", p.stream)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusNotFound, "there is no such page") })
	// A listener's address is always one; the zero one answers to nobody.
	address, _ := netip.ParseAddrPort(listener.Addr().String())
	p.server = &http.Server{
		Handler:           newGuard(address, p.unlessFull(mux)),
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      writeTimeout, // the stream sets its own, for each event
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ConnState:         p.count,
		// OPTIONS * is a request like any other, and refused like it.
		DisableGeneralOptionsHandler: true,
	}
	return p
}

// files returns the page's files by their paths: an exact list, so that no
// path is ever looked up. What does not stand in it does not exist.
func files() map[string]http.Handler {
	all := make(map[string]http.Handler)
	// The tree is part of the program: walking it cannot fail.
	_ = fs.WalkDir(web, "web", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		kind, known := types[path.Ext(name)]
		if !known {
			return nil // a licence beside the files
		}
		content, err := web.ReadFile(name)
		if err != nil {
			return err
		}
		served := name[len("web"):]
		if served == "/index.html" {
			served = "/{$}"
		}
		all[served] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Write(content) // to a client that may be gone
		})
		return nil
	})
	return all
}

func (p *page) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		p.connections.Add(1)
	case http.StateClosed, http.StateHijacked:
		p.connections.Add(-1)
	}
}

func (p *page) unlessFull(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.connections.Load() > maxConnections {
			refuse(w, http.StatusServiceUnavailable, "this console has too many connections; close some of its pages")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// run answers until ctx ends, and returns when every stream has ended.
func (p *page) run(ctx context.Context) error {
	var (
		running sync.WaitGroup
		failure error
	)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running.Go(func() {
		defer cancel()
		if err := p.server.Serve(netutil.LimitListener(p.listener, maxSockets)); !errors.Is(err, http.ErrServerClosed) {
			failure = fmt.Errorf("serving the page: %w", err)
		}
	})
	p.log.Info("the page is up", slog.String("url", "http://"+p.listener.Addr().String()+"/"))
	close(p.ready)
	p.hub.run(ctx, p.link)
	stopping, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	if p.server.Shutdown(stopping) != nil {
		p.server.Close() // whoever is still connected has had its time
	}
	running.Wait()
	return failure
}
