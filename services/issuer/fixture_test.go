package issuer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"levee/envelope"
	"levee/internal/config"
	"levee/internal/issuance"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childOf); dir != "" {
		os.Exit(serveForEver(dir))
	}
	goleak.VerifyTestMain(m)
}

const trustDomain = "bank.example"

// world is a root with two sites' authorities.
type world struct {
	t        testing.TB
	root     ca.Issuer
	verifier *pki.Verifier
	issuers  map[pki.Authority]ca.Issuer
}

func machines(site string) pki.Authority {
	return pki.Authority{TrustDomain: trustDomain, Site: site, Class: pki.ClassMachine}
}

func people(site string) pki.Authority {
	return pki.Authority{TrustDomain: trustDomain, Site: site, Class: pki.ClassPerson}
}

func identity(site string, role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: site, Role: role, Name: name}
}

var (
	iss1 = identity("melb", pki.RoleIssuer, "iss-1")
	web1 = identity("melb", pki.RoleSensor, "web-1")
	web2 = identity("melb", pki.RoleSensor, "web-2")
	mon1 = identity("melb", pki.RoleMonitor, "m1")
	rec1 = identity("melb", pki.RoleRecorder, "rec-1")
	b1   = identity("melb", pki.RoleBroker, "b1")
	ann  = identity("melb", pki.RoleOperator, "ann")
	vera = identity("melb", pki.RoleViewer, "vera")
	eve  = identity("syd", pki.RoleOperator, "eve")
	syd1 = identity("syd", pki.RoleSensor, "web-1")
)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, issuers: make(map[pki.Authority]ca.Issuer)}
	key, err := ca.NewRootKey()
	w.must(err)
	begin := time.Now().Add(-30 * 24 * time.Hour)
	w.root, err = ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 24 * time.Hour * 365}, begin)
	w.must(err)
	w.verifier, err = pki.NewVerifier(pki.VerifierConfig{Root: w.root.Certificate, TrustDomain: trustDomain})
	w.must(err)
	for _, a := range []pki.Authority{machines("melb"), people("melb"), machines("syd"), people("syd")} {
		w.issuers[a] = w.authority(a, 24*time.Hour*300, begin)
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) authority(a pki.Authority, life time.Duration, begin time.Time) ca.Issuer {
	w.t.Helper()
	key, err := ca.NewAuthorityKey()
	w.must(err)
	zones := ca.Zones{}
	if a.Class == pki.ClassMachine {
		zones = ca.Zones{DNS: []string{"servers.example"}, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	}
	cert, err := ca.IssueAuthority(w.root, a, key.Public(), zones, life, begin)
	w.must(err)
	return ca.Issuer{Certificate: cert, Signer: key}
}

// holder is somebody with a certificate.
type holder struct {
	id     pki.Identity
	key    crypto.Signer
	leaf   *x509.Certificate
	issuer *x509.Certificate
}

func (w *world) key(role pki.Role) crypto.Signer {
	w.t.Helper()
	key, err := pki.NewKey(role)
	w.must(err)
	return key
}

// holder issues a certificate of a day that begins at begin.
func (w *world) holder(id pki.Identity, begin time.Time) holder {
	w.t.Helper()
	return w.holderOf(id, w.key(id.Role), w.issuers[id.Authority()], begin)
}

func (w *world) holderOf(id pki.Identity, key crypto.Signer, by ca.Issuer, begin time.Time) holder {
	w.t.Helper()
	names := ca.Names{}
	if id.Role.Server() {
		names = ca.Names{DNS: []string{id.Host(), "a.servers.example"}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	}
	leaf, err := ca.IssueLeaf(by, id, key.Public(), names, 24*time.Hour, begin)
	w.must(err)
	return holder{id: id, key: key, leaf: leaf, issuer: by.Certificate}
}

func (h holder) tls() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{h.leaf.Raw, h.issuer.Raw}, PrivateKey: h.key, Leaf: h.leaf}
}

// order returns an order of one of the holders, or of the people's authority.
func (w *world) order(kind issuance.OrderKind, o issuance.Order, by holder, at time.Time) []byte {
	w.t.Helper()
	if o.ID.IsZero() {
		o.ID = wire.NewID()
	}
	if o.Expires == 0 {
		o.Expires = at.Add(10 * time.Minute).UnixMilli()
	}
	signer, err := envelope.NewSigner(by.key, by.leaf, by.issuer)
	w.must(err)
	raw, err := issuance.SignOrder(kind, o, by.id.Sender(), signer, at)
	w.must(err)
	return raw
}

// people returns the people's authority of a site as somebody who signs.
func (w *world) people(site string) holder {
	a := w.issuers[people(site)]
	return holder{id: pki.Identity{Site: site, Role: "ca", Name: "people"}, key: a.Signer, leaf: a.Certificate, issuer: w.root.Certificate}
}

// pins is a site document's list of pins.
type pins map[string]string

func (p pins) Pinned(sender string, leaf *x509.Certificate) (match, pinned bool) {
	spki, ok := p[sender]
	return ok && spki == issuance.SPKIText(leaf.RawSubjectPublicKeyInfo), ok
}

// rig is an issuer that answers on a socket.
type rig struct {
	*world
	issuer  *Issuer
	server  *server
	address string
	journal *issuance.Journal
	store   *pki.Store
	dir     string
	log     *logBuffer
	stop    func() // and waits
}

type options struct {
	lifetime time.Duration
	pins     pins
	wrap     func(Journal) Journal
	more     func() ([]*x509.Certificate, error)
	own      holder
	dir      string
}

// serve starts an issuer of melb with a new journal, or with that of o.dir.
func (w *world) serve(o options) *rig {
	w.t.Helper()
	r := &rig{world: w, dir: o.dir, log: new(logBuffer)}
	if r.dir == "" {
		r.dir = w.t.TempDir()
		w.must(issuance.Create(filepath.Join(r.dir, FileJournal)))
	}
	if o.lifetime == 0 {
		o.lifetime = 24 * time.Hour
	}
	if o.own.leaf == nil {
		o.own = w.holder(iss1, time.Now())
	}
	r.store = w.storeOf(o.own, r.dir)
	if o.more == nil {
		o.more = w.bundles(web1, web2)
	}
	a := w.issuers[machines("melb")]
	var err error
	r.issuer, err = New(Config{Identity: iss1, Authority: a, Root: w.root.Certificate, Verifier: w.verifier, Pins: o.pins,
		Credentials: r.store, Key: func() (crypto.Signer, error) { return pki.ReadKey(filepath.Join(r.dir, "tls.key")) },
		Lifetime: o.lifetime, More: o.more, Log: r.log.logger()})
	w.must(err)
	r.journal, err = issuance.Open(issuance.Config{Path: filepath.Join(r.dir, FileJournal), Name: "iss-1", Key: a.Signer, Issuer: a.Certificate,
		Root: w.root.Certificate, Verifier: w.verifier}, r.issuer.Restore, time.Now())
	w.must(err)
	var j Journal = r.journal
	if o.wrap != nil {
		j = o.wrap(j)
	}
	r.issuer.Continue(j)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	r.address = l.Addr().String()
	r.server = newServer(r.issuer, l, r.store)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.server.run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("the server: %v", err)
		}
		w.must(r.journal.Close())
	})
	w.t.Cleanup(r.stop)
	return r
}

// bundles are what provisioning issued long ago: the issuer knows of these.
func (w *world) bundles(ids ...pki.Identity) func() ([]*x509.Certificate, error) {
	w.t.Helper()
	var certs []*x509.Certificate
	for _, id := range ids {
		certs = append(certs, w.holder(id, w.issuers[id.Authority()].Certificate.NotBefore.Add(2*time.Hour)).leaf)
	}
	return func() ([]*x509.Certificate, error) { return certs, nil }
}

// storeOf writes a holder's credential into dir and opens it.
func (w *world) storeOf(h holder, dir string) *pki.Store {
	w.t.Helper()
	key, chain, err := pki.MarshalCredential(h.key, h.leaf, h.issuer)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600))
	w.must(os.WriteFile(filepath.Join(dir, "tls.pem"), chain, 0o600))
	store, err := pki.OpenRenewable(filepath.Join(dir, "tls.key"), filepath.Join(dir, "tls.pem"), filepath.Join(dir, "renewed.pem"), w.verifier)
	w.must(err)
	return store
}

// client returns a client with a holder's certificate, or with none.
func (r *rig) client(h *holder) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} // who the server is, other tests ask
	if h != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return h.tls(), nil }
	}
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

type answer struct {
	status int
	body   string
	header http.Header
	err    error
}

func (r *rig) do(h *holder, method, path string, body []byte) answer {
	request, err := http.NewRequest(method, "https://"+r.address+path, bytes.NewReader(body))
	r.must(err)
	response, err := r.client(h).Do(request)
	if err != nil {
		return answer{err: err}
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	return answer{status: response.StatusCode, body: string(b), header: response.Header, err: err}
}

// request returns a PKCS#10 for the key, as it travels.
func (w *world) request(key crypto.Signer, template *x509.CertificateRequest) []byte {
	w.t.Helper()
	if template == nil {
		template = new(x509.CertificateRequest)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	w.must(err)
	return []byte(base64.StdEncoding.EncodeToString(der))
}

const pathRenew = "/.well-known/est/simplereenroll"

// renew renews h for the key.
func (r *rig) renew(h holder, key crypto.Signer) answer {
	r.t.Helper()
	return r.do(&h, "POST", pathRenew, r.request(key, nil))
}

func (r *rig) join(key crypto.Signer, token []byte) answer {
	r.t.Helper()
	return r.do(nil, "POST", "/v1/join", fmt.Appendf(nil, `{"csr":"%s","token":"%s"}`, r.request(key, nil), base64.RawURLEncoding.EncodeToString(token)))
}

// issued returns the holder that an answer makes of id and key; the test ends
// if it is none.
func (r *rig) issued(a answer, id pki.Identity, key crypto.Signer) holder {
	r.t.Helper()
	if a.err != nil || a.status != 200 {
		r.t.Fatalf("%s got %d %q, %v\n%s", id.Sender(), a.status, a.body, a.err, r.log.tail())
	}
	certs := r.certificates(a)
	if len(certs) != 2 || !certs[1].Equal(r.issuers[id.Authority()].Certificate) {
		r.t.Fatalf("%d certificates, or not leaf and issuer", len(certs))
	}
	got, err := r.verifier.Verify(certs[0], certs[1], pki.UsageClient, time.Now())
	r.must(err)
	public, ok := certs[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if got != id || !ok || !public.Equal(key.Public()) {
		r.t.Fatalf("a certificate of %s, or for another key", got)
	}
	return holder{id: id, key: key, leaf: certs[0], issuer: certs[1]}
}

// refused wants a refusal for a reason: with a status, or in the handshake (0).
func (r *rig) refused(name string, a answer, status int, reason Reason) {
	r.t.Helper()
	if status == 0 {
		if a.err == nil {
			r.t.Errorf("%s: got %d %q, want no handshake", name, a.status, a.body)
		}
		return
	}
	if a.err != nil || a.status != status || !strings.HasPrefix(a.body, string(reason)+": ") {
		r.t.Errorf("%s: got %d %q %v, want %d %s", name, a.status, a.body, a.err, status, reason)
	}
}

// entries returns everything in the journal, verified from the root alone.
func (r *rig) entries() []issuance.Entry {
	r.t.Helper()
	lines, err := r.journal.Read(0, 1<<20, 1<<30)
	r.must(err)
	entries, _, err := issuance.Verify(lines, r.root.Certificate, r.verifier, machines("melb"), "iss-1", issuance.Position{})
	r.must(err)
	return entries
}

// carriedOut sends an order with ann's certificate, which must do.
func (r *rig) carriedOut(raw []byte) {
	r.t.Helper()
	h := r.holder(ann, time.Now())
	if a := r.do(&h, "POST", "/v1/orders", raw); a.status != 200 {
		r.t.Fatalf("the order: %d %q %v\n%s", a.status, a.body, a.err, r.log.tail())
	}
}

type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func (b *logBuffer) tail() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.text.String()
	return s[max(0, len(s)-2000):]
}

func (b *logBuffer) contains(s string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.text.String(), s)
}

// certificates reads an answer of EST.
func (r *rig) certificates(a answer) []*x509.Certificate {
	r.t.Helper()
	if a.header.Get("Content-Type") != "application/pkcs7-mime; smime-type=certs-only" {
		r.t.Errorf("the answer is %q", a.header.Get("Content-Type"))
	}
	der, err := base64.StdEncoding.DecodeString(a.body)
	r.must(err)
	certs, err := pki.ParseCertsOnly(der)
	r.must(err)
	return certs
}

type addr = netip.Addr

func pathOf(file string) config.Path { return config.Path(filepath.Dir(file)) }
