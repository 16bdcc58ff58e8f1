package balancer

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	dialTimeout     = 2 * time.Second
	responseTimeout = 10 * time.Second
	idlePerBackend  = 64
)

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // never by way of the environment's
		DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
		ResponseHeaderTimeout:  responseTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    idlePerBackend,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true,
	}
}

func (p *pool) newProxy() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			// Where it goes is decided by spread alone. What a client says of
			// where it came from was removed before this was called.
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = p.name
			r.SetXForwarded()
		},
		Transport: spread{rotation: &p.rotation, transport: p.transport},
		ErrorLog:  slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			status := http.StatusBadGateway
			if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
				status = http.StatusRequestEntityTooLarge
			} else if r.Context().Err() == nil { // otherwise it was the client who left
				p.failed.Do(func() { p.log.Warn("a request failed", slog.Any("error", err)) })
			}
			http.Error(w, http.StatusText(status), status)
		},
	}
}

// ServeHTTP limits, then forwards.
func (p *pool) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	if a := p.armed.Load(); a != nil && !a.over(now) {
		if ok, wait := a.allow(clientAddr(r), now); !ok {
			p.refused.Add(1)
			w.Header().Set("Retry-After", strconv.FormatInt(a.retryAfter(wait, now), 10))
			http.Error(w, http.StatusText(http.StatusTooManyRequests), http.StatusTooManyRequests)
			return
		}
	}
	if r.Method == http.MethodConnect {
		http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
		return
	}
	// A connection that changes its protocol would outlive limits and draining.
	r.Header.Del("Upgrade")
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	p.proxy.ServeHTTP(w, r)
}

// clientAddr returns the address of the client's socket. Headers can be made up.
func clientAddr(r *http.Request) netip.Addr {
	address, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // one client, so that none goes without a limit
	}
	return address.Addr().Unmap()
}

var errNoBackend = errors.New("no backend can be reached")

// spread sends each request to the next backend, and on to the one after it if
// a connection could not be made: then the request was not sent. Any other
// failure is the client's to repeat, because the backend may have acted.
type spread struct {
	rotation  *rotation
	transport http.RoundTripper
}

func (s spread) RoundTrip(r *http.Request) (*http.Response, error) {
	var tried map[*backend]bool
	for {
		b := s.rotation.acquire(tried)
		if b == nil {
			return nil, errNoBackend
		}
		out := r.Clone(r.Context())
		out.URL.Host = b.addr
		if r.Body != nil {
			out.Body = io.NopCloser(r.Body) // a transport closes it even if it did not read it
		}
		response, err := s.transport.RoundTrip(out)
		if err == nil {
			response.Body = &released{ReadCloser: response.Body, release: func() { s.rotation.release(b) }}
			return response, nil
		}
		s.rotation.release(b)
		if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "dial" || r.Context().Err() != nil {
			return nil, err
		}
		if tried == nil {
			tried = make(map[*backend]bool)
		}
		tried[b] = true
	}
}

// released is a response's body that gives its backend back when it is closed.
type released struct {
	io.ReadCloser
	release func()
	once    sync.Once
}

func (r *released) Close() error {
	err := r.ReadCloser.Close()
	r.once.Do(r.release)
	return err
}
