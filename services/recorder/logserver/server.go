// Package logserver is a recorder's HTTP side: auditors of the site read the log
// (C2SP tlog-tiles), and the recorders of other sites have theirs cosigned.
//
// It guarantees that it hands out nothing but tiles that the newest checkpoint
// covers and that checkpoint, to auditors of this site alone; that whoever else
// connects is refused in the handshake, but for the recorders whose logs are
// witnessed; that no request changes a file of the log; and that what a
// connection can cost is bounded, whoever makes it. Certificates are judged anew
// at each request.
//
// It does not know which certificates another site has revoked.
package logserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"levee/internal/translog/witness"
	"levee/pki"
)

// Bounds of requests and answers.
const (
	maxHeader      = 8 << 10
	maxConnections = 64
	headTimeout    = 5 * time.Second
	readTimeout    = 10 * time.Second // of a whole request
	writeTimeout   = 30 * time.Second // of a whole answer
	stopTimeout    = 2 * time.Second
	perSecond      = 20 // requests of each identity: a whole log is read with a few thousand
	atOnce         = 200
	maxIdentities  = 1024 // with a limit of their own
)

// Config is what the server needs.
type Config struct {
	Listen   string
	Store    *pki.Store
	Verifier *pki.Verifier // of this site's certificates and others'
	Site     string
	// Log is the log's directory.
	Log string
	// Checkpoint returns the checkpoint to show, nil if there is none yet.
	Checkpoint func() (Checkpoint, error)
	// Witness cosigns the logs of Recorders; nil if there are none.
	Witness *witness.Witness
	// Recorders are those whose logs are witnessed, with the origins of these.
	Recorders map[pki.Identity]string
	Logger    *slog.Logger
}

// Server answers while Run runs.
type Server struct {
	config   Config
	tiles    tiles
	listener net.Listener
	http     *http.Server
	tally    tally

	mu      sync.Mutex
	limits  map[pki.Identity]*rate.Limiter
	cleared time.Time
}

// Open listens. It answers nobody before Run.
func Open(c Config) (*Server, error) {
	if c.Listen == "" || c.Store == nil || c.Verifier == nil || !pki.ValidSite(c.Site) || c.Log == "" || c.Checkpoint == nil || c.Logger == nil ||
		(c.Witness == nil) != (len(c.Recorders) == 0) {
		return nil, errors.New("opening the log's server: address, credential, verifier, site, log, checkpoint, witness or logger is missing")
	}
	socket, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("opening the log's server: %w", err)
	}
	s := &Server{config: c, tiles: tiles{dir: c.Log, newest: c.Checkpoint}, limits: make(map[pki.Identity]*rate.Limiter)}
	s.tally.log = c.Logger
	s.listener = tls.NewListener(&listener{Listener: socket, refused: func(from net.Addr) {
		s.tally.refuse(Connections, slog.String("from", from.String()))
	}}, s.tlsConfig())
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(handshakes{&s.tally}, "", 0),

		DisableGeneralOptionsHandler: true,
	}
	s.http.SetKeepAlivesEnabled(false) // whoever is done makes room
	return s, nil
}

// tlsConfig is pki.ServerConfig's, but that only those get in who may do something.
func (s *Server) tlsConfig() *tls.Config {
	c := pki.ServerConfig(s.config.Store, s.config.Verifier)
	c.NextProtos = []string{"http/1.1"}
	check := c.VerifyConnection
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := check(cs); err != nil {
			return err
		}
		_, err := s.judge(cs, time.Now())
		return err
	}
	return c
}

// peer is who asks.
type peer struct {
	id      pki.Identity
	auditor bool
	origin  string // of the log that it may have cosigned, "" for auditors
}

// judge returns the peer of a connection as of now.
func (s *Server) judge(cs tls.ConnectionState, now time.Time) (peer, error) {
	id, err := s.config.Verifier.VerifyConnection(cs, pki.UsageClient, now)
	if err != nil {
		return peer{}, err
	}
	p := peer{id: id, auditor: id.Role == pki.RoleAuditor && id.Site == s.config.Site, origin: s.config.Recorders[id]}
	if !p.auditor && p.origin == "" {
		return peer{}, fmt.Errorf("%s has no business here", id)
	}
	return p, nil
}

// handshakes takes what net/http has to say: of connections that came to nothing.
type handshakes struct{ tally *tally }

func (h handshakes) Write(b []byte) (int, error) {
	h.tally.refuse(Handshake, slog.String("detail", strings.TrimSpace(string(b))))
	return len(b), nil
}

// Address returns where the server listens.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Count returns how many requests and connections ended so.
func (s *Server) Count(o Outcome) uint64 { return s.tally.count(o) }

// Close releases what Open opened, for a part that will not run.
func (s *Server) Close() error { return s.listener.Close() }

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	var serving sync.WaitGroup
	serving.Go(func() { failed <- s.http.Serve(s.listener) })
	var err error
	select {
	case err = <-failed:
		err = fmt.Errorf("serving the log: %w", err)
	case <-ctx.Done():
	}
	stopping, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	if s.http.Shutdown(stopping) != nil {
		s.http.Close() // whoever is still connected has had its time
	}
	serving.Wait()
	return err
}

// ServeHTTP answers one request. It has no other routes than these: net/http's
// own router would clean paths, and redirect.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	p, err := s.judge(*r.TLS, time.Now())
	held, isHeld := strings.CutPrefix(r.URL.Path, witness.PathHeld)
	switch {
	case err != nil: // revoked or expired since the handshake
		s.refuse(w, r, Handshake, http.StatusForbidden, "the certificate does not count any more", slog.Any("error", err))
	case !s.take(p.id, time.Now()):
		s.refuse(w, r, Rate, http.StatusTooManyRequests, "too many requests", slog.String("sender", p.id.Sender()))
	case r.URL.RawQuery != "" || r.URL.ForceQuery || r.URL.RawPath != "" || r.Host == "":
		s.refuse(w, r, Path, http.StatusBadRequest, "a path alone", slog.String("sender", p.id.Sender()))
	case r.URL.Path == witness.PathAdd && p.origin != "":
		if r.Method != http.MethodPost {
			h.Set("Allow", "POST")
			s.refuse(w, r, Path, http.StatusMethodNotAllowed, "a checkpoint is posted", slog.String("sender", p.id.Sender()))
			return
		}
		s.tally.served(Cosigning)
		s.config.Witness.HandleAdd(w, r, func(origin string) bool { return origin == p.origin })
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		s.refuse(w, r, Path, http.StatusMethodNotAllowed, "the log is read, nothing else", slog.String("sender", p.id.Sender()))
	case r.ContentLength != 0:
		s.refuse(w, r, Path, http.StatusBadRequest, "a request has no body", slog.String("sender", p.id.Sender()))
	case isHeld && held == p.origin && p.origin != "":
		s.tally.served(Cosigning)
		s.config.Witness.HandleHeld(w, held)
	case p.auditor:
		s.read(w, r, p)
	default:
		s.refuse(w, r, Path, http.StatusForbidden, "the log is for its auditors", slog.String("sender", p.id.Sender()))
	}
}

// read serves the checkpoint or a tile.
func (s *Server) read(w http.ResponseWriter, r *http.Request, p peer) {
	status, err := s.tiles.serve(w, r)
	if err != nil {
		s.refuse(w, r, Path, status, http.StatusText(status), slog.String("sender", p.id.Sender()), slog.Any("error", err))
		return
	}
	s.tally.served(Read)
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, o Outcome, status int, text string, attrs ...any) {
	s.tally.refuse(o, append([]any{slog.String("path", r.URL.Path), slog.String("from", r.RemoteAddr)}, attrs...)...)
	http.Error(w, text, status)
}

// take reports whether an identity may ask once more now.
func (s *Server) take(id pki.Identity, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limits[id]
	if l == nil {
		if len(s.limits) >= maxIdentities { // a captured authority mints auditors without end
			if now.Sub(s.cleared) < time.Minute {
				return false
			}
			clear(s.limits)
			s.cleared = now
		}
		l = rate.NewLimiter(perSecond, atOnce)
		s.limits[id] = l
	}
	return l.AllowN(now, 1)
}
