package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"levee/envelope"
	"levee/envelope/keys"
	"levee/internal/config"
	"levee/internal/provision"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

const trustDomain = "bank.example"

// world is two provisioned sites, melb and syd, with the same names in each.
// It is made once for all tests, which change nothing in it.
var world struct {
	sync.Once
	layout provision.Layout
	made   time.Time
	err    error
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "session")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	world.layout = provision.Layout{Dir: dir}
	code := m.Run()
	os.RemoveAll(dir)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func worldLayout(t testing.TB) provision.Layout {
	t.Helper()
	world.Do(func() {
		inv := provision.Inventory{TrustDomain: trustDomain}
		for _, name := range []string{"melb", "syd"} {
			inv.Sites = append(inv.Sites, provision.Site{
				Name: name, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
				Brokers:  []provision.Broker{{Name: "b1", Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}},
				Sensors:  []provision.Sensor{{Name: "web-1"}, {Name: "web-2"}},
				Monitors: []provision.Monitor{{Name: "m1"}, {Name: "m2"}}, Controllers: []provision.Controller{{Name: "lb-1"}},
				Issuers:  []provision.Issuer{{Name: "i1", Listen: "127.0.0.1:2", Address: "127.0.0.1:2"}},
				Recorder: "rec-1", People: []provision.Person{{Role: pki.RoleOperator, Name: "ann"}},
			})
		}
		world.made = time.Now()
		_, world.err = provision.Apply(world.layout.Dir, inv, world.made)
	})
	if world.err != nil {
		t.Fatal(world.err)
	}
	return world.layout
}

func identity(site string, role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: site, Role: role, Name: name}
}

// openBundle opens an identity's bundle with a state directory of the test's
// own, as a component has it that has never run.
func openBundle(t testing.TB, id pki.Identity) *site.Bundle {
	t.Helper()
	state := filepath.Join(t.TempDir(), "state")
	if err := site.NewState(state); err != nil {
		t.Fatal(err)
	}
	bundle := worldLayout(t).Bundle(id)
	if err := os.Remove(filepath.Join(bundle, site.FileStarted)); err != nil && !errors.Is(err, fs.ErrNotExist) { // another test's
		t.Fatal(err)
	}
	b, err := site.Open(site.Settings{Bundle: config.Path(bundle), State: config.Path(state)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openSession opens a session of id with the filters that its policy grants.
func openSession(t testing.TB, id pki.Identity, change func(*Config)) *Session {
	t.Helper()
	b := openBundle(t, id)
	c := Config{Bundle: b, Filters: b.Policy.Rights(id).Subscriptions(), Handle: func(Delivery) {}, Log: quiet()}
	if id.Role.Class() == pki.ClassMachine {
		c.Ring = ringOf(t, b.KeyFile)
	}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// ringOf returns the envelope keys of a bundle.
func ringOf(t testing.TB, file string) *keys.Ring {
	t.Helper()
	ring, err := keys.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// machineCA is what a captured issuer holds.
func machineCA(t testing.TB, site string) ca.Issuer {
	t.Helper()
	path := filepath.Join(worldLayout(t).Authority(), site, "machine-ca")
	key, err := pki.ReadKey(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ReadCertificate(path + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	return ca.Issuer{Certificate: cert, Signer: key}
}

// mint issues a signer for id with a new key, from the site's real machine CA.
func mint(t testing.TB, id pki.Identity) *envelope.Signer {
	t.Helper()
	issuer := machineCA(t, id.Site)
	key, err := pki.NewKey(id.Role)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(issuer, id, key.Public(), ca.Names{}, 24*time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s, err := envelope.NewSigner(key, leaf, issuer.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sender makes messages as one identity, good ones and others.
type sender struct {
	t      testing.TB
	key    *envelope.Key
	secret []byte
	kid    envelope.KeyID
	signer *envelope.Signer
	boot   uint64
	seq    uint64
}

func newSender(t testing.TB, id pki.Identity) *sender {
	t.Helper()
	b := openBundle(t, id)
	s := &sender{t: t, boot: uint64(time.Now().UnixMilli())}
	s.key, s.kid = ringOf(t, b.KeyFile).Own()
	text, err := os.ReadFile(b.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text) // the sender's own key stands first
	s.secret = block.Bytes
	if s.signer, err = b.Signer(); err != nil {
		t.Fatal(err)
	}
	return s
}

// message returns the next message on topic, changed by the options.
func (s *sender) message(topic string, payload any, at time.Time, options ...func(*envelope.Header, **envelope.Signer)) []byte {
	s.t.Helper()
	s.seq++
	h := envelope.Header{KeyID: s.kid, Time: at.UnixMilli(), Nonce: envelope.Nonce{Boot: s.boot, Seq: s.seq}, Topic: topic}
	var signer *envelope.Signer
	for _, o := range options {
		o(&h, &signer)
	}
	b, err := wire.Encode(payload)
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := envelope.Append(nil, h, b, s.key, signer)
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

func (s *sender) signed(_ *envelope.Header, signer **envelope.Signer) { *signer = s.signer }

func signedBy(by *envelope.Signer) func(*envelope.Header, **envelope.Signer) {
	return func(_ *envelope.Header, signer **envelope.Signer) { *signer = by }
}

func numbered(seq uint64) func(*envelope.Header, **envelope.Signer) {
	return func(h *envelope.Header, _ **envelope.Signer) { h.Nonce.Seq = seq }
}

func booted(boot uint64) func(*envelope.Header, **envelope.Signer) {
	return func(h *envelope.Header, _ **envelope.Signer) { h.Nonce.Boot = boot }
}

// reseal returns raw with every old replaced by new, and a MAC that is right.
func (s *sender) reseal(raw []byte, old, new string) []byte {
	s.t.Helper()
	body := string(raw[:len(raw)-53])
	changed := strings.ReplaceAll(body, old, new)
	if changed == body {
		s.t.Fatalf("%q is not in %s", old, body)
	}
	mac := hmac.New(sha256.New, s.secret)
	mac.Write([]byte("levee/envelope/v1\x00" + changed))
	return []byte(changed + `,"mac":"` + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) + `"}`)
}

// recorder keeps what a session hands on.
type recorder struct {
	mu         sync.Mutex
	deliveries []Delivery
	refusals   []Refusal
}

func (r *recorder) handle(d Delivery) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deliveries = append(r.deliveries, d)
}

func (r *recorder) refused(x Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusals = append(r.refusals, x)
}

func (r *recorder) all() ([]Delivery, []Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.deliveries), slices.Clone(r.refusals)
}

// logBuffer is a log that tests read.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// lines returns the lines that contain part.
func (b *logBuffer) lines(part string) (found []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.text.String()) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return found
}
