package broker

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/pki"
	"levee/pki/ca"
	"levee/pki/revocation"
	"levee/policies"
	"levee/test/rawmqtt"
)

// TestMain checks that nothing is left running: Run has waited for our own
// goroutines, and mochi's own end on their own.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const trustDomain = "bank.example"

// bank is a root with the authorities of its sites, and makes certificates.
type bank struct {
	t    *testing.T
	root ca.Issuer
	now  time.Time

	mu          sync.Mutex
	authorities map[pki.Authority]ca.Issuer
	credentials map[string]tls.Certificate // by URI
}

func newBank(t *testing.T) *bank {
	t.Helper()
	key, err := ca.NewRootKey()
	if err != nil {
		t.Fatal(err)
	}
	b := &bank{t: t, now: time.Now(), authorities: map[pki.Authority]ca.Issuer{}, credentials: map[string]tls.Certificate{}}
	if b.root, err = ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 24 * time.Hour, Evaluation: true}, b.now); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bank) authority(a pki.Authority) ca.Issuer {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if issuer, ok := b.authorities[a]; ok {
		return issuer
	}
	key, err := ca.NewAuthorityKey()
	if err != nil {
		b.t.Fatal(err)
	}
	cert, err := ca.IssueAuthority(b.root, a, key.Public(), ca.Zones{}, 12*time.Hour, b.now)
	if err != nil {
		b.t.Fatal(err)
	}
	b.authorities[a] = ca.Issuer{Certificate: cert, Signer: key}
	return b.authorities[a]
}

// issue makes a credential that ends after lifetime.
func (b *bank) issue(id pki.Identity, lifetime time.Duration) tls.Certificate {
	b.t.Helper()
	issuer := b.authority(id.Authority())
	key, err := pki.NewKey(id.Role)
	if err != nil {
		b.t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(issuer, id, key.Public(), ca.Names{}, lifetime, time.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, issuer.Certificate.Raw}, PrivateKey: key, Leaf: leaf}
}

// credential returns the credential of an identity, always the same one.
func (b *bank) credential(id pki.Identity) tls.Certificate {
	b.t.Helper()
	b.mu.Lock()
	cert, ok := b.credentials[id.URI()]
	b.mu.Unlock()
	if !ok {
		cert = b.issue(id, time.Hour)
		b.mu.Lock()
		b.credentials[id.URI()] = cert
		b.mu.Unlock()
	}
	return cert
}

func (b *bank) verifier() *pki.Verifier {
	b.t.Helper()
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: b.root.Certificate, TrustDomain: trustDomain, AllowEvaluation: true})
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// pinsAll is a site document that pins whatever key is asked about.
type pinsAll struct{}

func (pinsAll) Pinned(string, *x509.Certificate) (match, pinned bool) { return true, true }

// nothing is revoked.
type nothing struct{}

func (nothing) Apply([]byte, time.Time) (bool, error)        { return false, envelope.BadContent }
func (nothing) Revoked(pki.Identity, *x509.Certificate) bool { return false }
func (nothing) MinimumGeneration(string) uint32              { return 0 }

// revocations opens the revocations of the site melb.
func (b *bank) revocations(t *testing.T, file string, log *slog.Logger) *revocation.Set {
	t.Helper()
	set, err := revocation.Open(revocation.Config{Site: "melb", Verifier: b.verifier(), Document: pinsAll{}, File: file,
		Skew: 30 * time.Second, Log: log}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// serverTLS returns what pki.ServerConfig makes for a broker of the site.
func (b *bank) serverTLS(site string, v *pki.Verifier) *tls.Config {
	b.t.Helper()
	cert := b.credential(identity(site, pki.RoleBroker, "broker-1"))
	dir := b.t.TempDir()
	keyFile, chainFile := filepath.Join(dir, "key.pem"), filepath.Join(dir, "chain.pem")
	key, err := pki.MarshalKey(keyOf(cert))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(keyFile, key, 0o600); err != nil {
		b.t.Fatal(err)
	}
	issuer := b.authority(pki.Authority{TrustDomain: trustDomain, Site: site, Class: pki.ClassMachine})
	if err := os.WriteFile(chainFile, pki.MarshalCertificates(cert.Leaf, issuer.Certificate), 0o644); err != nil {
		b.t.Fatal(err)
	}
	store, err := pki.OpenStore(keyFile, chainFile, b.verifier())
	if err != nil {
		b.t.Fatal(err)
	}
	return pki.ServerConfig(store, v)
}

// clientTLS returns a client's configuration for the site's broker. It sends
// what it has, whatever the server says that it accepts.
func (b *bank) clientTLS(site string, certs ...tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(b.root.Certificate)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(certs) == 0 {
				return &tls.Certificate{}, nil
			}
			return &certs[0], nil
		},
		ServerName: hostOf(site),
	}
}

func hostOf(site string) string {
	return pki.Authority{TrustDomain: trustDomain, Site: site, Class: pki.ClassMachine}.Host()
}

// keyOf returns the private key of a credential.
func keyOf(cert tls.Certificate) crypto.Signer { return cert.PrivateKey.(crypto.Signer) }

func identity(site string, role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: site, Role: role, Name: name}
}

// The identities of most tests.
var (
	web1     = identity("melb", pki.RoleSensor, "web-1")
	web2     = identity("melb", pki.RoleSensor, "web-2")
	monitor  = identity("melb", pki.RoleMonitor, "monitor-1")
	operator = identity("melb", pki.RoleOperator, "alice")
	guest    = identity("melb", pki.RoleGuest, "guest-1")
)

const (
	cpuTopic  = "melb/bank_server/metrics/cpu/web-1"
	cpuFilter = "melb/bank_server/metrics/cpu/+"
)

// space is a running broker of the site melb and what belongs to it.
type space struct {
	t       *testing.T // of the subtest that runs
	whole   *testing.T // whose end closes everything
	bank    *bank
	broker  *Broker
	windows *windows
	revoked *revocation.Set
	file    string // of revoked
	log     *logBuffer
	stop    func()
	marker  *rawmqtt.Client // see silent
	marks   int
}

// windows are replay windows of which a test may replace the answer.
type windows struct {
	set *replay.Set
	mu  sync.Mutex
	by  func(replay.Message) replay.Verdict
}

func (w *windows) Check(m replay.Message) replay.Verdict {
	w.mu.Lock()
	by := w.by
	w.mu.Unlock()
	if by != nil {
		return by(m)
	}
	return w.set.Check(m)
}

func (w *windows) answer(by func(replay.Message) replay.Verdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.by = by
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rules sets the default policy, edited. The machine may be busy, and tests
// misbehave: without an edit nobody is hurried or banned.
func rules(t testing.TB, edits ...func(string) string) func(*Config) {
	t.Helper()
	edits = append([]func(string) string{bounded("handshake_timeout: 1m", "connect_timeout: 1m", "connects: 1000000", "failures: 1000000", "offences: 1000000")}, edits...)
	text := string(policies.Default())
	for _, edit := range edits {
		text = edit(text)
	}
	policy, err := policies.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) { c.Policy = policy }
}

// bounded replaces lines of the policy's section "broker".
func bounded(lines ...string) func(string) string {
	return func(text string) string {
		begin := strings.Index(text, "\nbroker:")
		for _, line := range lines {
			name, _, _ := strings.Cut(line, ":")
			found := regexp.MustCompile(`(?m)^  ` + name + `: .*$`).FindStringIndex(text[begin:])
			text = text[:begin+found[0]] + "  " + line + text[begin+found[1]:]
		}
		return text
	}
}

// open starts a broker; change may change its configuration.
func open(t *testing.T, change ...func(*Config)) *space {
	t.Helper()
	s := &space{t: t, whole: t, bank: newBank(t), windows: &windows{set: replay.New(1000)}, log: &logBuffer{}}
	log := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.file = filepath.Join(t.TempDir(), revocation.FileName)
	s.revoked = s.bank.revocations(t, s.file, log)
	verifier := s.bank.verifier().WithRevocations(s.revoked)
	cfg := Config{
		Site: "melb", Host: hostOf("melb"), Address: "127.0.0.1:0", TLS: s.bank.serverTLS("melb", verifier), Verifier: verifier,
		Windows: s.windows, Revocations: s.revoked, Log: log,
	}
	rules(t)(&cfg)
	for _, c := range change {
		c(&cfg)
	}
	s.run(cfg)
	return s
}

// run starts a broker that ends with the test.
func (s *space) run(cfg Config) {
	t := s.whole
	t.Helper()
	var err error
	if s.broker, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.broker.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(s.stop)
	select {
	case <-s.broker.Ready():
	case err := <-ended:
		t.Fatalf("Run: %v", err)
	}
}

// dial opens a connection of an identity, without CONNECT.
func (s *space) dial(id pki.Identity) *rawmqtt.Client {
	s.t.Helper()
	return s.dialAs(s.bank.credential(id))
}

func (s *space) dialAs(certs ...tls.Certificate) *rawmqtt.Client {
	s.t.Helper()
	c, err := rawmqtt.Dial(s.broker.Addr().String(), s.bank.clientTLS("melb", certs...))
	if err != nil {
		s.t.Fatal(err)
	}
	s.whole.Cleanup(func() { c.Close() })
	return c
}

// connect opens a session of an identity.
func (s *space) connect(id pki.Identity) *rawmqtt.Client {
	s.t.Helper()
	c := s.dial(id)
	code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: id.ClientID(), KeepAlive: 30})
	if err != nil || code != rawmqtt.Accepted {
		s.t.Fatalf("connecting %s: code %d, %v", id, code, err)
	}
	return c
}

// subscribe subscribes and demands that the filter is granted. For silent it
// subscribes to the marker as well.
func (s *space) subscribe(c *rawmqtt.Client, qos byte, filter string) {
	s.t.Helper()
	codes, err := c.Subscribe(1, qos, filter, "public/marker")
	if err != nil || !slices.Equal(codes, []byte{qos, qos}) {
		s.t.Fatalf("subscribing to %s: codes %x, %v", filter, codes, err)
	}
}

// ping makes sure that everything that c sent before has been processed.
func (s *space) ping(c *rawmqtt.Client) {
	s.t.Helper()
	if err := c.Ping(); err != nil {
		s.t.Fatalf("ping: %v", err)
	}
}

// silent makes sure that nothing was delivered to c of what was processed
// before: the next message that it gets is one published now.
func (s *space) silent(c *rawmqtt.Client) {
	s.t.Helper()
	if s.marker == nil {
		s.marker = s.connect(identity("melb", pki.RoleRecorder, "marker"))
	}
	s.marks++
	want := fmt.Sprint(s.marks)
	if err := s.marker.Send(pub("public/marker", []byte(want), 0)); err != nil {
		s.t.Fatal(err)
	}
	if got := s.message(c); got.Topic != "public/marker" || string(got.Payload) != want {
		s.t.Errorf("delivered: %s %s", got.Topic, got.Payload)
	}
}

// message returns the next message delivered to c.
func (s *space) message(c *rawmqtt.Client) rawmqtt.Message {
	s.t.Helper()
	p, err := c.Expect(rawmqtt.TypePublish)
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := p.Message()
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// closed demands that the broker closes c.
func (s *space) closed(c *rawmqtt.Client) {
	s.t.Helper()
	if err := c.Closed(time.Minute); err != nil {
		s.t.Fatalf("the broker kept the connection: %v", err)
	}
}

// counted waits until a counter has reached a value. The end of a session is
// counted when nothing of it is left, which may be after its client sees it.
func (s *space) counted(label string, want uint64) {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		got, known := s.broker.Counters()[label]
		if !known {
			s.t.Fatalf("no counter is called %q", label)
		}
		if got == want {
			return
		}
		if got > want || time.Now().After(deadline) {
			s.t.Fatalf("%s = %d, want %d", label, got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// sender seals messages of one identity.
type sender struct {
	t      *testing.T
	id     pki.Identity
	key    *envelope.Key
	signer *envelope.Signer
	boot   uint64
	seq    uint64
}

func (s *space) sender(id pki.Identity) *sender {
	s.t.Helper()
	key, err := envelope.NewKey(bytes.Repeat([]byte{7}, envelope.KeySize))
	if err != nil {
		s.t.Fatal(err)
	}
	issuer := s.bank.authority(id.Authority()).Certificate
	cert := s.bank.credential(id)
	signer, err := envelope.NewSigner(keyOf(cert), cert.Leaf, issuer)
	if err != nil {
		s.t.Fatal(err)
	}
	return &sender{t: s.t, id: id, key: key, signer: signer, boot: uint64(time.Now().UnixMilli())}
}

// header returns the header of the next message.
func (s *sender) header(topic string) envelope.Header {
	s.seq++
	return envelope.Header{
		KeyID: envelope.KeyID{Site: s.id.Site, Role: string(s.id.Role), Name: s.id.Name, Generation: 1},
		Time:  time.Now().UnixMilli(), Nonce: envelope.Nonce{Boot: s.boot, Seq: s.seq}, Topic: topic,
	}
}

// seal seals a reading.
func (s *sender) seal(h envelope.Header) []byte {
	return s.sealWith(h, []byte(`{"cpu_usage":12.5}`), nil)
}

func (s *sender) sealWith(h envelope.Header, payload []byte, signer *envelope.Signer) []byte {
	s.t.Helper()
	raw, err := envelope.Append(nil, h, payload, s.key, signer)
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// reading returns the next sealed reading for topic.
func (s *sender) reading(topic string) []byte { return s.seal(s.header(topic)) }

// pub encodes PUBLISH at QoS 0, or at QoS 1 with the identifier id.
func pub(topic string, payload []byte, id uint16) []byte {
	m := rawmqtt.Message{Topic: topic, Payload: payload, ID: id}
	if id != 0 {
		m.QoS = 1
	}
	return rawmqtt.Publish(m)
}
