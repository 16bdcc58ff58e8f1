package journals

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/enrol"
	"levee/internal/issuance"
	"levee/internal/translog"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

const (
	trustDomain = "bank.example"
	origin      = "melb.bank.example/log"
)

func authority(site string, class pki.Class) pki.Authority {
	return pki.Authority{TrustDomain: trustDomain, Site: site, Class: class}
}

var (
	machines = authority("melb", pki.ClassMachine)
	people   = authority("melb", pki.ClassPerson)
)

func identity(site string, role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: site, Role: role, Name: name}
}

// world is a root with two sites' authorities.
type world struct {
	t        testing.TB
	now      time.Time
	root     *x509.Certificate
	verifier *pki.Verifier
	issuers  map[pki.Authority]ca.Issuer
	key      crypto.Signer // of every leaf: nothing here signs with it
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, now: time.Now(), issuers: make(map[pki.Authority]ca.Issuer)}
	key, err := ca.NewRootKey()
	w.must(err)
	root, err := ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 24 * time.Hour * 365}, w.now)
	w.must(err)
	w.root = root.Certificate
	w.verifier, err = pki.NewVerifier(pki.VerifierConfig{Root: w.root, TrustDomain: trustDomain})
	w.must(err)
	for _, a := range []pki.Authority{machines, people, authority("syd", pki.ClassMachine)} {
		key, err := ca.NewAuthorityKey()
		w.must(err)
		cert, err := ca.IssueAuthority(root, a, key.Public(), ca.Zones{}, 24*time.Hour*300, w.now)
		w.must(err)
		w.issuers[a] = ca.Issuer{Certificate: cert, Signer: key}
	}
	w.key, err = pki.NewKey(pki.RoleSensor)
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) leaf(id pki.Identity) *x509.Certificate {
	w.t.Helper()
	cert, err := ca.IssueLeaf(w.issuers[id.Authority()], id, w.key.Public(), ca.Names{}, 24*time.Hour, w.now)
	w.must(err)
	return cert
}

// writer writes a journal.
type writer struct {
	*world
	journal *issuance.Journal
	lines   [][]byte
}

func (w *world) write(a pki.Authority, name string) *writer {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "journal")
	w.must(issuance.Create(path))
	by := w.issuers[a]
	j, err := issuance.Open(issuance.Config{Path: path, Name: name, Key: by.Signer, Issuer: by.Certificate, Root: w.root, Verifier: w.verifier}, nil, w.now)
	w.must(err)
	w.t.Cleanup(func() { j.Close() })
	return &writer{w, j, nil}
}

func (j *writer) append(r issuance.Record) {
	j.t.Helper()
	e, err := j.journal.Append(r, j.now)
	j.must(err)
	j.lines = append(j.lines, e.Raw)
}

func (j *writer) issue(id pki.Identity) *writer {
	j.t.Helper()
	j.append(issuance.Record{Kind: issuance.Issuance, Certificate: j.leaf(id), Cause: issuance.CauseBundle})
	return j
}

// sensors issues n certificates.
func (j *writer) sensors(n int) *writer {
	j.t.Helper()
	for i := range n {
		j.issue(identity("melb", pki.RoleSensor, fmt.Sprintf("web-%d", i)))
	}
	return j
}

// orders writes a revocation and a readmission.
func (j *writer) orders() *writer {
	j.t.Helper()
	by := j.issuers[people]
	signer, err := envelope.NewSigner(by.Signer, by.Certificate, j.root)
	j.must(err)
	for kind, o := range map[issuance.OrderKind]issuance.Order{
		issuance.Revoke:  {Targets: []string{"melb/sensor/web-0"}},
		issuance.Readmit: {All: true},
	} {
		o.ID, o.Expires = wire.NewID(), j.now.Add(time.Minute).UnixMilli()
		raw, err := issuance.SignOrder(kind, o, "melb/ca/people", signer, j.now)
		j.must(err)
		record := issuance.Record{Kind: issuance.Readmission, Order: raw, Number: 1}
		if kind == issuance.Revoke {
			record.Kind = issuance.Revocation
		}
		j.append(record)
	}
	return j
}

func text(lines [][]byte) []byte { return append(bytes.Join(lines, []byte("\n")), '\n') }

// lines counts what is logged.
type logged struct {
	mu    sync.Mutex
	texts []string
}

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }
func (l *logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logged) WithGroup(string) slog.Handler            { return l }

func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := r.Level.String() + " " + r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	l.texts = append(l.texts, line)
	return nil
}

// take returns what was logged since.
func (l *logged) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.texts = nil }()
	return strings.Join(l.texts, "\n")
}

// place is where a recorder keeps things.
type place struct {
	*world
	root string
	said *logged
	// issuer answers, if it is set.
	issuer Issuer
}

func (w *world) place() *place {
	w.t.Helper()
	p := &place{world: w, root: w.t.TempDir(), said: new(logged)}
	_, err := translog.GenerateKey(filepath.Join(p.root, "log.key"), origin)
	w.must(err)
	for _, dir := range []string{"elsewhere", "bundle", "state"} {
		w.must(os.Mkdir(filepath.Join(p.root, dir), 0o700))
	}
	w.must(translog.Create(logConfig(w.t, p.root)))
	return p
}

func logConfig(t testing.TB, root string) translog.Config {
	key, err := translog.ReadKey(filepath.Join(root, "log.key"))
	if err != nil {
		t.Fatal(err)
	}
	return translog.Config{Dir: filepath.Join(root, "log"), Watermark: filepath.Join(root, "elsewhere", "mark"), Origin: origin, Key: key,
		Log: slog.New(slog.DiscardHandler), BatchAge: time.Millisecond, CheckpointInterval: time.Hour}
}

func (p *place) path(name string) string { return filepath.Join(p.root, name) }

func (p *place) config() Config {
	return Config{Site: "melb", Root: p.world.root, Verifier: p.verifier, Bundle: p.path("bundle"), Log: p.path("log"),
		State: p.path("state/imported"), Issuer: p.issuer, Logger: slog.New(p.said)}
}

func (p *place) put(name string, content []byte) {
	p.t.Helper()
	p.must(os.WriteFile(p.path("bundle/"+name), content, 0o600))
}

// working is an importer over the real log, whose rounds the test calls.
type working struct {
	*Importer
	*place
	log *translog.Log
}

// start is the start of a recorder.
func (p *place) start() *working {
	p.t.Helper()
	l, err := translog.Open(context.Background(), logConfig(p.t, p.root))
	p.must(err)
	i, err := New(p.config())
	p.must(err)
	i.log = l
	for _, s := range i.sources() {
		s.begin(time.Now(), s != &i.issuer || p.issuer != nil)
	}
	w := &working{i, p, l}
	p.t.Cleanup(w.stop)
	return w
}

func (w *working) stop() {
	if w.log != nil {
		w.must(w.log.Close(context.Background()))
	}
	w.log = nil
}

func (w *working) round() string {
	w.t.Helper()
	w.Importer.round(context.Background())
	return w.said.take()
}

// entries returns the data of the log's entries, after verifying it.
func (p *place) entries() (all [][]byte, kinds []leaf.Kind) {
	p.t.Helper()
	c := logConfig(p.t, p.root)
	_, err := proof.Verify(context.Background(), proof.Config{FS: os.DirFS(c.Dir), Origin: origin, VKey: c.Key.VKey()}, func(_ int64, raw []byte) error {
		l, err := leaf.Parse(raw)
		if err != nil {
			return err
		}
		if l.Verdict != "accepted" || l.Received < p.now.UnixMilli() {
			return fmt.Errorf("verdict %q, received at %d", l.Verdict, l.Received)
		}
		all, kinds = append(all, l.Data), append(kinds, l.Kind)
		return nil
	})
	p.must(err)
	return all, kinds
}

// want fails the test unless the log holds these lines, in their order.
func (w *working) want(journals ...[][]byte) {
	w.t.Helper()
	_, err := w.log.Checkpoint(context.Background())
	w.must(err)
	got, _ := w.entries()
	if want := slices.Concat(journals...); !slices.EqualFunc(got, want, bytes.Equal) {
		w.t.Errorf("the log holds %d entries, want %d, or other ones", len(got), len(want))
	}
}

// answers is an issuer that answers with pages of lines.
type answers struct {
	mu    sync.Mutex // guards err and asked, for tests with a running importer
	lines [][]byte
	page  int
	err   error
	asked []string
}

// fail has it answer with err from now on.
func (a *answers) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

func (a *answers) Journal(_ context.Context, name string, from uint64) ([][]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, fmt.Sprint(name, " ", from))
	switch n := uint64(len(a.lines)); {
	case a.err != nil:
		return nil, a.err
	case from > n:
		return nil, &enrol.Refused{Status: 416, Text: "shorter"}
	default:
		return a.lines[from:min(n, from+uint64(max(a.page, 1)))], nil
	}
}
