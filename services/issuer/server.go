package issuer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

// Bounds of requests and answers.
const (
	maxBody      = 16 << 10
	maxHeader    = 8 << 10
	maxPage      = 256     // journal lines of one answer
	maxPageBytes = 1 << 20 // of one answer
	headTimeout  = 5 * time.Second
	readTimeout  = 10 * time.Second // of a whole request
	writeTimeout = 20 * time.Second // of a whole answer, and of what it waits for
	stopTimeout  = 5 * time.Second
	// issueTimeout is until when an issue may begin: what is left of
	// writeTimeout is for the journal and the answer.
	issueTimeout = 15 * time.Second
)

// server is the issuer's HTTP side: one request for each connection.
type server struct {
	issuer   *Issuer
	listener net.Listener
	http     *http.Server

	renewals *limiter[caller]
	senders  *limiter[string]     // renewals, wherever they come from
	requests *limiter[string]     // by sender
	joins    *limiter[netip.Addr] // by address
	allJoins *limiter[struct{}]
}

// caller is who renews, and from where: a thief elsewhere who has the same
// certificate does not use up its owner's tokens.
type caller struct {
	sender  string
	address netip.Addr
}

// newServer answers on l, as the credential of store, once it is run.
func newServer(s *Issuer, l net.Listener, store *pki.Store) *server {
	// Ten at once, and then as often as a machine that renews each third of
	// life could ever want; between a tenth of a second and ten minutes.
	every := max(100*time.Millisecond, min(s.config.Lifetime/720, 10*time.Minute))
	h := &server{issuer: s,
		renewals: newLimiter[caller](every, 10), senders: newLimiter[string](every/10, 100), requests: newLimiter[string](time.Second, 20),
		joins: newLimiter[netip.Addr](2*time.Second, 5), allJoins: newLimiter[struct{}](100*time.Millisecond, 20)}
	config := s.tlsConfig(store)
	h.listener = tls.NewListener(newListener(l, func(a net.Addr) {
		s.refusals.refuse(ReasonRate, time.Now(), slog.String("from", a.String()), slog.String("detail", "too many connections"))
	}), config)
	mux := http.NewServeMux()
	mux.Handle("POST /.well-known/est/simplereenroll", h.handle(h.reenroll))
	mux.Handle("GET /.well-known/est/cacerts", h.handle(h.cacerts))
	mux.Handle("POST /v1/join", h.handle(h.join))
	mux.Handle("POST /v1/orders", h.handle(h.orders))
	mux.Handle("GET /v1/journal", h.handle(h.journal))
	mux.Handle("GET /v1/crl", h.handle(h.revocations))
	h.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(handshakes{s.refusals}, "", 0),

		DisableGeneralOptionsHandler: true,
	}
	h.http.SetKeepAlivesEnabled(false) // whoever is done makes room
	return h
}

// handshakes takes what net/http has to say: of connections that came to nothing.
type handshakes struct{ refusals *tally }

func (h handshakes) Write(b []byte) (int, error) {
	h.refusals.refuse(ReasonHandshake, time.Now(), slog.String("detail", strings.TrimSpace(string(b))))
	return len(b), nil
}

// run answers until ctx ends, and then finishes what was begun.
func (h *server) run(ctx context.Context) error {
	var serving sync.WaitGroup
	failed := make(chan error, 1)
	serving.Go(func() { failed <- h.http.Serve(h.listener) })
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	stopping, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	if h.http.Shutdown(stopping) != nil {
		h.http.Close() // whoever is still connected has had its time
	}
	serving.Wait()
	if err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	return nil
}

// handle judges the peer of each request anew, and answers what f returns.
func (h *server) handle(f func(w http.ResponseWriter, r *http.Request, p *peer, now time.Time) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		p, err := h.issuer.judge(*r.TLS, now)
		if err != nil {
			err = refuse(http.StatusForbidden, ReasonHandshake, "the certificate does not count any more").because(err)
		} else {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			err = f(w, r, p, now)
		}
		if err != nil {
			h.refuse(w, r, p, err, now)
		}
	})
}

// refuse answers an error. What went wrong within is for the log alone.
func (h *server) refuse(w http.ResponseWriter, r *http.Request, p *peer, err error, now time.Time) {
	why, ok := errors.AsType[*refusal](err)
	if !ok {
		why = refuse(http.StatusInternalServerError, ReasonRequest, "it did not work").because(err)
	}
	attrs := []any{slog.String("path", r.URL.Path), slog.String("from", r.RemoteAddr), slog.String("error", why.Error())}
	if p != nil {
		attrs = append(attrs, slog.String("sender", p.id.Sender()))
	}
	h.issuer.refusals.refuse(why.reason, now, attrs...)
	if why.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((why.retry+time.Second-1)/time.Second)))
	}
	http.Error(w, string(why.reason)+": "+why.text, why.status)
}

// known wants a peer whose certificate counts, whom may agrees to, and who does
// not ask too often.
func (h *server) known(p *peer, now time.Time, may func(pki.Identity) bool) error {
	switch {
	case p == nil:
		return refuse(http.StatusForbidden, ReasonIdentity, "without a certificate there is only /v1/join")
	case p.expired:
		return refuse(http.StatusForbidden, ReasonExpired, "with an expired certificate there is only renewal")
	case !may(p.id):
		return refuse(http.StatusForbidden, ReasonIdentity, "this is for another role")
	case !h.requests.take(p.id.Sender(), now):
		return refuse(http.StatusTooManyRequests, ReasonRate, "too many requests").after(time.Second)
	}
	return nil
}

// reenroll is simplereenroll of EST (RFC 7030, section 4.2.2): identity and
// names are those of the client's certificate, whatever the request says.
func (h *server) reenroll(w http.ResponseWriter, r *http.Request, p *peer, now time.Time) error {
	switch {
	case p == nil:
		return refuse(http.StatusForbidden, ReasonIdentity, "a renewal needs the certificate that it renews")
	case p.id.Authority() != h.issuer.authority:
		return refuse(http.StatusForbidden, ReasonIdentity, "people's certificates are the deployer's to renew")
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	request, err := parseRequest(string(body))
	if err != nil {
		return err
	}
	ctx, done := context.WithTimeout(r.Context(), issueTimeout)
	defer done()
	leaf, err := h.issuer.renew(ctx, p, request, func() bool { return h.mayRenew(p.id.Sender(), addressOf(r.RemoteAddr), now) }, now)
	if err != nil {
		return err
	}
	h.certificates(w, leaf, h.issuer.config.Authority.Certificate)
	return nil
}

// mayRenew counts a renewal. A bucket for an address is made only for a token of
// its sender's, so that nobody who has many addresses fills the journal, or the
// room for buckets; and an address that has none left costs the sender nothing.
func (h *server) mayRenew(sender string, from netip.Addr, now time.Time) bool {
	c := caller{sender, from}
	return !h.renewals.spent(c, now) && h.senders.take(sender, now) && h.renewals.take(c, now)
}

// enrolment is the body of a join.
type enrolment struct {
	CSR   string `json:"csr"`   // PKCS#10, DER, base64
	Token string `json:"token"` // an order to join, base64url
}

// join is for machines that have no certificate yet. What a token may do it says
// itself; a certificate beside it changes nothing.
func (h *server) join(w http.ResponseWriter, r *http.Request, _ *peer, now time.Time) error {
	if !h.joins.take(addressOf(r.RemoteAddr), now) || !h.allJoins.take(struct{}{}, now) {
		return refuse(http.StatusTooManyRequests, ReasonRate, "too many attempts").after(time.Minute)
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	var e enrolment
	if err := wire.DecodeExact(body, &e); err != nil {
		return refuse(http.StatusBadRequest, ReasonRequest, "not a csr and a token").because(err)
	}
	token, err := base64.RawURLEncoding.Strict().DecodeString(e.Token)
	if err != nil {
		return refuse(http.StatusBadRequest, ReasonRequest, "the token is not base64url")
	}
	request, err := parseRequest(e.CSR)
	if err != nil {
		return err
	}
	ctx, done := context.WithTimeout(r.Context(), issueTimeout)
	defer done()
	leaf, err := h.issuer.join(ctx, token, request, now)
	if err != nil {
		return err
	}
	h.certificates(w, leaf, h.issuer.config.Authority.Certificate)
	return nil
}

// cacerts is that of EST (RFC 7030, section 4.1): for whoever asks, because it
// is public and proves nothing without the root that one has.
func (h *server) cacerts(w http.ResponseWriter, r *http.Request, p *peer, now time.Time) error {
	if p == nil && !h.joins.take(addressOf(r.RemoteAddr), now) || p != nil && !h.requests.take(p.id.Sender(), now) {
		return refuse(http.StatusTooManyRequests, ReasonRate, "too many requests").after(time.Minute)
	}
	h.certificates(w, h.issuer.config.Authority.Certificate, h.issuer.config.Root)
	return nil
}

// certificates answers certificates as EST does (RFC 7030, section 4.1.3; RFC
// 8951, section 3.1).
func (h *server) certificates(w http.ResponseWriter, certs ...*x509.Certificate) {
	w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
	w.Header().Set("Content-Transfer-Encoding", "base64")
	io.WriteString(w, base64.StdEncoding.EncodeToString(pki.MarshalCertsOnly(certs...))) // to a client that may be gone
}

// orders takes what people order. The certificate of the connection is a
// person's; what counts is who signed the order.
func (h *server) orders(w http.ResponseWriter, r *http.Request, p *peer, now time.Time) error {
	if err := h.known(p, now, func(id pki.Identity) bool { return id.Role.Class() == pki.ClassPerson }); err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	e, err := h.issuer.carryOut(body, now)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(struct {
		Journal string `json:"journal"`
		Index   uint64 `json:"index"`
		Number  uint64 `json:"number"`
	}{e.Journal, e.Index, e.Number})
}

// journal answers the recorder with the lines from index on: a page, and an
// empty one at the end.
func (h *server) journal(w http.ResponseWriter, r *http.Request, p *peer, now time.Time) error {
	if err := h.known(p, now, func(id pki.Identity) bool { return id.Role == pki.RoleRecorder }); err != nil {
		return err
	}
	query := r.URL.Query()
	from, err := strconv.ParseUint(query.Get("from"), 10, 53)
	switch lines := h.issuer.journal.Position().Lines; {
	case err != nil:
		return refuse(http.StatusBadRequest, ReasonRequest, "from is not a number")
	case query.Get("name") != h.issuer.config.Identity.Name:
		return refuse(http.StatusNotFound, ReasonRequest, "this issuer keeps the journal of its own name alone")
	case from > lines:
		// Whoever has seen more has seen a journal that was put back, or lost.
		return refuse(http.StatusRequestedRangeNotSatisfiable, ReasonRequest, fmt.Sprintf("the journal has %d lines", lines))
	}
	page, err := h.issuer.journal.Read(from, maxPage, maxPageBytes)
	if err != nil {
		return refuse(http.StatusServiceUnavailable, ReasonJournal, "the journal cannot be read").because(err)
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	for _, line := range page {
		if _, err := w.Write(append(line, '\n')); err != nil {
			return nil // the client is gone
		}
	}
	return nil
}

// revocations answers the X.509 list.
func (h *server) revocations(w http.ResponseWriter, _ *http.Request, p *peer, now time.Time) error {
	if err := h.known(p, now, func(pki.Identity) bool { return true }); err != nil {
		return err
	}
	der, err := h.issuer.x509List(now)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/pkix-crl")
	w.Write(der) // to a client that may be gone
	return nil
}

func readBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
		return nil, refuse(http.StatusRequestEntityTooLarge, ReasonRequest, fmt.Sprintf("more than %d bytes", maxBody))
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, ReasonRequest, "the body did not come whole").because(err)
	}
	return b, nil
}

// parseRequest reads base64 of PKCS#10 in DER, with white space wherever
// clients put it.
func parseRequest(text string) (*x509.CertificateRequest, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, ReasonRequest, "the request is not base64")
	}
	request, err := ca.ParseRequest(der)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, ReasonRequest, "not a PKCS#10 request that its own key signed, Ed25519 or P-256").because(err)
	}
	return request, nil
}
