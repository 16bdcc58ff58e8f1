// Package enrol asks a site's issuer for certificates, over HTTPS.
//
// It guarantees that the server is an issuer of this very site, in every
// connection, and that no answer is larger than it may be. What the issuer
// answers is for the caller to judge: a certificate for pki.Store.Replace, an
// entry of the journal for package issuance. docs/issuing.md has the interface.
package enrol

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"levee/pki"
)

// The issuer's resources.
const (
	PathReenroll = "/.well-known/est/simplereenroll" // RFC 7030, section 4.2.2
	PathJoin     = "/v1/join"
	PathOrders   = "/v1/orders"
	PathJournal  = "/v1/journal"
	PathCRL      = "/v1/crl"
)

// Bounds of an answer in bytes, and of a whole exchange.
const (
	maxAnswer  = 64 << 10
	maxJournal = 4 << 20
	maxCRL     = 1 << 20
	patience   = 15 * time.Second
)

// Refused is the issuer's own answer that it gives nothing.
type Refused struct {
	Status     int    // HTTP
	Text       string // what it says, one line of printable ASCII
	RetryAfter time.Duration
}

func (r *Refused) Error() string { return fmt.Sprintf("the issuer refuses (%d): %s", r.Status, r.Text) }

// Config says whom to ask.
type Config struct {
	Address  string // host:port
	Verifier *pki.Verifier
	// Host is that of the site, {site}.{trust-domain}: every server of the site
	// carries it.
	Host string
	// Store is the caller's credential. Without one it can only join.
	Store *pki.Store
}

// Client asks one issuer. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// New returns a client. It connects for each question: seldom enough that a new
// handshake, with whatever certificate is current, is the better way.
func New(c Config) (*Client, error) {
	if c.Verifier == nil || c.Address == "" || c.Host == "" {
		return nil, errors.New("asking an issuer: address, host or verifier is missing")
	}
	trustDomain := c.Verifier.TrustDomain()
	site, ok := strings.CutSuffix(c.Host, "."+trustDomain)
	if !ok || !pki.ValidSite(site) {
		return nil, fmt.Errorf("asking an issuer: %q is no host of a site of %s", c.Host, trustDomain)
	}
	config := pki.ClientConfig(c.Store, c.Verifier, c.Host, func(id pki.Identity) error {
		if id.Role != pki.RoleIssuer || id.Site != site {
			return fmt.Errorf("it is no issuer of %s", site)
		}
		return nil
	})
	if c.Store == nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	}
	transport := &http.Transport{
		TLSClientConfig: config, TLSHandshakeTimeout: patience, ResponseHeaderTimeout: patience,
		DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
	}
	return &Client{
		base: "https://" + c.Address,
		http: &http.Client{Transport: transport, Timeout: patience,
			CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("the issuer does not redirect") }},
	}, nil
}

// Reenroll asks for the caller's next certificate, for the key of request (the
// DER of a PKCS#10), and returns leaf and issuer.
func (c *Client) Reenroll(ctx context.Context, request []byte) (leaf, issuer *x509.Certificate, err error) {
	body := base64.StdEncoding.AppendEncode(nil, request)
	answer, err := c.ask(ctx, http.MethodPost, PathReenroll, "application/pkcs10", body, maxAnswer)
	if err != nil {
		return nil, nil, fmt.Errorf("renewing: %w", err)
	}
	leaf, issuer, err = parseIssued(answer)
	if err != nil {
		return nil, nil, fmt.Errorf("renewing: %w", err)
	}
	return leaf, issuer, nil
}

// enrolment is the body of a request to join (docs/issuing.md, section 3).
type enrolment struct {
	CSR   string `json:"csr"`   // base64
	Token string `json:"token"` // base64url without padding
}

// Join asks for a first certificate for the key of request (the DER of a
// PKCS#10), with token, the order that a person signed for that key, and returns
// leaf and issuer. Asking again with the same two gets the same certificate.
func (c *Client) Join(ctx context.Context, request, token []byte) (leaf, issuer *x509.Certificate, err error) {
	body, err := json.Marshal(enrolment{base64.StdEncoding.EncodeToString(request), base64.RawURLEncoding.EncodeToString(token)})
	if err != nil {
		return nil, nil, fmt.Errorf("joining: %w", err)
	}
	answer, err := c.ask(ctx, http.MethodPost, PathJoin, "application/json", body, maxAnswer)
	if err != nil {
		return nil, nil, fmt.Errorf("joining: %w", err)
	}
	leaf, issuer, err = parseIssued(answer)
	if err != nil {
		return nil, nil, fmt.Errorf("joining: %w", err)
	}
	return leaf, issuer, nil
}

// Order hands over a person's signed order, and returns what the issuer says of
// it: JSON.
func (c *Client) Order(ctx context.Context, statement []byte) ([]byte, error) {
	answer, err := c.ask(ctx, http.MethodPost, PathOrders, "application/json", statement, maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("ordering: %w", err)
	}
	return answer, nil
}

// Journal returns entries of the journal called name, from the one with that
// index on: as many as the issuer gives at once, none if there are no more.
func (c *Client) Journal(ctx context.Context, name string, from uint64) ([][]byte, error) {
	query := url.Values{"name": {name}, "from": {strconv.FormatUint(from, 10)}}
	answer, err := c.ask(ctx, http.MethodGet, PathJournal+"?"+query.Encode(), "", nil, maxJournal)
	if err != nil {
		return nil, fmt.Errorf("reading the issuer's journal: %w", err)
	}
	var lines [][]byte
	for line := range bytes.Lines(answer) {
		whole, ok := bytes.CutSuffix(line, []byte("\n"))
		if !ok {
			return nil, errors.New("reading the issuer's journal: the last line has no end")
		}
		lines = append(lines, whole)
	}
	return lines, nil
}

// CRL returns the machine authority's X.509 revocation list (RFC 5280), DER.
func (c *Client) CRL(ctx context.Context) ([]byte, error) {
	answer, err := c.ask(ctx, http.MethodGet, PathCRL, "", nil, maxCRL)
	if err != nil {
		return nil, fmt.Errorf("reading the revocation list: %w", err)
	}
	return answer, nil
}

func (c *Client) ask(ctx context.Context, method, path, contentType string, body []byte, limit int64) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading its answer: %w", err)
	case int64(len(answer)) > limit:
		return nil, fmt.Errorf("its answer is over %d bytes long", limit)
	case response.StatusCode != http.StatusOK:
		refused := &Refused{Status: response.StatusCode, Text: oneLine(answer)}
		if seconds, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 32); err == nil {
			refused.RetryAfter = time.Duration(seconds) * time.Second
		}
		return nil, refused
	}
	return answer, nil
}

// oneLine makes what a server said fit for a log.
func oneLine(b []byte) string {
	const longest = 200
	line, _, _ := bytes.Cut(b[:min(len(b), longest)], []byte("\n"))
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}, string(line))
}

// parseIssued reads base64 of a certs-only message (RFC 7030, section 4.1.3):
// a leaf and its issuer.
func parseIssued(answer []byte) (leaf, issuer *x509.Certificate, err error) {
	text := strings.NewReplacer("\r", "", "\n", "").Replace(string(answer)) // RFC 2045 allows lines
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, nil, errors.New("the issuer's answer is not base64")
	}
	certs, err := pki.ParseCertsOnly(der)
	if err != nil {
		return nil, nil, err
	}
	if len(certs) != 2 {
		return nil, nil, fmt.Errorf("the issuer's answer has %d certificates instead of leaf and issuer", len(certs))
	}
	if certs[0].IsCA { // a set has no order
		return certs[1], certs[0], nil
	}
	return certs[0], certs[1], nil
}
