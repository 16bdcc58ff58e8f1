package audit

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/envelope"
	"levee/envelope/keys"
	"levee/internal/config"
	"levee/internal/provision"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/translog"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
	"levee/services/recorder"
	"levee/services/recorder/segment"
)

const trustDomain = "bank.example"

func identity(role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: role, Name: name}
}

var recorderID = identity(pki.RoleRecorder, "rec-1")

// world is what all tests copy: a provisioned site, and the record of a few
// minutes of it.
var world struct {
	sync.Once
	dir  string
	made time.Time
	err  error
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	world.dir, written.dir = filepath.Join(dir, "site"), filepath.Join(dir, "record")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// bank is a copy of the provisioned site, with a recorder that has not kept
// anything yet or has kept the record.
type bank struct {
	provision.Layout
	made time.Time // when it was provisioned
}

// newBank returns a site whose recorder has an empty log.
func newBank(t testing.TB) *bank {
	t.Helper()
	world.Do(func() {
		world.made = time.Now().Truncate(time.Millisecond)
		_, world.err = provision.Apply(world.dir, provision.Inventory{TrustDomain: trustDomain, Evaluation: true, Sites: []provision.Site{{
			Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Brokers:     []provision.Broker{{Name: "b1", Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}},
			Sensors:     []provision.Sensor{{Name: "web-1"}, {Name: "web-2"}},
			Monitors:    []provision.Monitor{{Name: "mon-1"}},
			Controllers: []provision.Controller{{Name: "lb-1", Pools: []provision.Pool{{Server: "web-1", Listen: "127.0.0.1:2"}}}},
			Recorder:    "rec-1", People: []provision.Person{{Role: pki.RoleOperator, Name: "ann"}},
		}}}, world.made)
		if world.err == nil {
			var first *recorder.Part // its first start makes the log
			if first, world.err = recorder.Open(provision.Layout{Dir: world.dir}.Config(recorderID), quiet()); world.err == nil {
				world.err = first.Close()
			}
		}
	})
	if world.err != nil {
		t.Fatal(world.err)
	}
	b := &bank{provision.Layout{Dir: filepath.Join(t.TempDir(), "bank")}, world.made}
	if err := os.CopyFS(b.Dir, os.DirFS(world.dir)); err != nil {
		t.Fatal(err)
	}
	b.closeSecrets(t)
	return b
}

// closeSecrets gives secrets back the mode that CopyFS does not keep.
func (b *bank) closeSecrets(t testing.TB) {
	t.Helper()
	err := filepath.WalkDir(b.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && (filepath.Ext(path) == ".key" || filepath.Ext(path) == ".keys" || filepath.Base(path) == "windows") {
			err = os.Chmod(path, 0o600)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bank) copy(t testing.TB) *bank {
	t.Helper()
	c := &bank{provision.Layout{Dir: filepath.Join(t.TempDir(), "bank")}, b.made}
	if err := os.CopyFS(c.Dir, os.DirFS(b.Dir)); err != nil {
		t.Fatal(err)
	}
	c.closeSecrets(t)
	return c
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (b *bank) segments() string   { return filepath.Join(b.State(recorderID), "segments") }
func (b *bank) log() string        { return filepath.Join(b.State(recorderID), "log") }
func (b *bank) configFile() string { return b.Config(recorderID) }
func (b *bank) watermark() string  { return b.Watermark(recorderID) }

// open opens the audit and fails the test where a file is wrong.
func (b *bank) open(t testing.TB) Config {
	t.Helper()
	c, err := Open(Options{Config: b.configFile()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// verify audits the record.
func (b *bank) verify(t testing.TB) *Report {
	t.Helper()
	return verifyWith(t, b.open(t))
}

func verifyWith(t testing.TB, c Config) *Report {
	t.Helper()
	r, err := Verify(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sound fails the test if anything is wrong or missing.
func (b *bank) sound(t testing.TB) *Report {
	t.Helper()
	r := b.verify(t)
	if !r.OK() || r.Missing > 0 || r.Incomplete > 0 {
		t.Fatalf("an intact record: %+v", r)
	}
	return r
}

// want fails the test unless some finding holds all the parts.
func (r *Report) want(t testing.TB, parts ...string) {
	t.Helper()
	for _, f := range r.Findings {
		all := true
		for _, part := range parts {
			all = all && strings.Contains(f.Error(), part)
		}
		if all {
			return
		}
	}
	t.Errorf("no finding with %q: %+v", parts, r)
}

// alone is the session of a recorder that nobody listens to.
type alone struct{ recorder.Session }

func (alone) Acknowledge(envelope.KeyID, wire.Ack) error { return nil }

// running is a recorder at work.
type running struct {
	t        testing.TB
	recorder *recorder.Recorder
	stop     func()
}

// record starts a recorder with small segments.
func (b *bank) record(t testing.TB) *running {
	t.Helper()
	key, err := translog.ReadKey(filepath.Join(b.Bundle(recorderID), "log.key"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := translog.Open(t.Context(), translog.Config{Dir: b.log(), Watermark: b.watermark(), Origin: key.Origin(), Key: key,
		Log: quiet(), BatchAge: time.Millisecond, CheckpointInterval: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(b.segments(), 0o700); err != nil {
		t.Fatal(err)
	}
	segments, err := segment.OpenWriter(segment.Config{Dir: b.segments(), Log: quiet(), MaxSize: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	r, err := recorder.New(recorder.Config{Site: "melb", Transparency: log, Segments: segments, Session: alone{}, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := segments.Close(); err != nil {
			t.Error(err)
		}
		if err := log.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return &running{t, r, stop}
}

// craft writes a segment and log entries as whoever owns the recorder can.
func (b *bank) craft(t testing.TB, records []segment.Record, leaves ...[]byte) {
	t.Helper()
	key, err := translog.ReadKey(filepath.Join(b.Bundle(recorderID), "log.key"))
	if err != nil {
		t.Fatal(err)
	}
	if len(leaves) > 0 {
		log, err := translog.Open(t.Context(), translog.Config{Dir: b.log(), Watermark: b.watermark(), Origin: key.Origin(), Key: key,
			Log: quiet(), BatchAge: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		for len(leaves) > 0 {
			n := 1 // they keep their order
			if len(leaves) > 100 {
				n = 100 // where nobody asks
			}
			if _, err := log.AppendAll(t.Context(), leaves[:n]); err != nil {
				t.Fatal(err)
			}
			leaves = leaves[n:]
		}
		if err := log.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(b.segments(), 0o700); err != nil {
		t.Fatal(err)
	}
	w, err := segment.OpenWriter(segment.Config{Dir: b.segments(), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if err := w.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// craftMessages keeps messages as a recorder does: in one segment, and the
// signed ones in the log.
func (b *bank) craftMessages(t testing.TB, messages ...message) {
	t.Helper()
	var leaves [][]byte
	for _, m := range messages {
		if m.delivery(t).Proof == session.ProofSignature {
			leaves = append(leaves, m.leaf(t))
		}
	}
	b.craft(t, recordsOf(messages...), leaves...)
}

func recordsOf(messages ...message) []segment.Record {
	var all []segment.Record
	for _, m := range messages {
		all = append(all, segment.Record{Received: m.received.UnixMilli(), Envelope: m.raw})
	}
	return all
}

// keep hands messages over and waits until they are kept.
func (r *running) keep(messages ...message) {
	r.t.Helper()
	before, _ := r.recorder.Counts()
	for _, m := range messages {
		r.recorder.Deliver(m.delivery(r.t))
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if kept, _ := r.recorder.Counts(); kept == before+uint64(len(messages)) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatal("the messages are not kept")
		}
	}
}

// message is a sealed message and when it was received.
type message struct {
	raw      []byte
	received time.Time
}

func (m message) delivery(t testing.TB) session.Delivery {
	t.Helper()
	parsed, err := envelope.Parse(m.raw, envelope.MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	topic, err := wire.ParseTopic(string(parsed.Topic))
	if err != nil {
		t.Fatal(err)
	}
	d := session.Delivery{Topic: topic, Name: string(parsed.Topic), Message: parsed, Payload: parsed.Payload, Proof: session.ProofMAC, Received: m.received}
	if parsed.Signed() {
		d.Proof = session.ProofSignature
	}
	return d
}

func (m message) leaf(t testing.TB) []byte {
	t.Helper()
	b, err := leaf.Leaf{Received: m.received.UnixMilli(), Verdict: "accepted", Kind: leaf.KindMessage, Data: m.raw}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sender seals as one identity, and sums up what it must vouch for.
type sender struct {
	t       testing.TB
	id      pki.Identity
	key     *envelope.Key
	kid     envelope.KeyID
	signer  *envelope.Signer
	boot    uint64
	seq     uint64
	now     time.Time
	first   uint64
	sums    []byte // of the open range
	dropped []wire.Drop
}

// sender returns the part of that identity, which starts after at.
func (b *bank) sender(t testing.TB, role pki.Role, name string, at time.Duration) *sender {
	t.Helper()
	id := identity(role, name)
	dir := b.Bundle(id)
	_ = os.Remove(filepath.Join(dir, site.FileStarted)) // it has run, elsewhere
	bundle, err := site.Open(site.Settings{Bundle: config.Path(dir), State: config.Path(t.TempDir()), Evaluation: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keys.Load(bundle.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	s := &sender{t: t, id: id, now: b.made.Add(at), first: 1}
	s.boot = uint64(s.now.UnixMilli())
	s.key, s.kid = ring.Own()
	if s.signer, err = bundle.Signer(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sender) topic(k wire.Kind) string {
	return wire.Topic{Kind: k, Site: s.id.Site, Role: string(s.id.Role), Name: s.id.Name}.String()
}

// seal returns the next message, signed if by is not nil.
func (s *sender) seal(topic string, payload any, by *envelope.Signer) message {
	s.t.Helper()
	s.seq++
	m := s.sealAs(envelope.Nonce{Boot: s.boot, Seq: s.seq}, topic, payload, by)
	sum := sha256.Sum256(m.raw)
	s.sums = append(s.sums, sum[:]...)
	return m
}

func (s *sender) sealAs(nonce envelope.Nonce, topic string, payload any, by *envelope.Signer) message {
	s.t.Helper()
	b, err := wire.Encode(payload)
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := envelope.Append(nil, envelope.Header{KeyID: s.kid, Time: s.now.UnixMilli(), Nonce: nonce, Topic: topic}, b, s.key, by)
	if err != nil {
		s.t.Fatal(err)
	}
	return message{raw, s.now.Add(20 * time.Millisecond)}
}

func (s *sender) cpu(usage float64) message {
	return s.seal(s.topic(wire.KindCPU), &wire.CPU{Timestamp: 1, Server: s.id.Name, Interval: 5, CPUUsage: usage}, nil)
}

// readings returns n rounds of readings, 5 s apart.
func (s *sender) readings(n int) []message {
	var all []message
	for range n {
		all = append(all, s.cpu(7),
			s.seal(s.topic(wire.KindRAM), &wire.RAM{Timestamp: 1, Server: s.id.Name, RAMUsage: 41.5}, nil))
		s.now = s.now.Add(5 * time.Second)
	}
	return all
}

// drop uses the next number for nothing, and declares it.
func (s *sender) drop() {
	s.seq++
	s.dropped = append(s.dropped, wire.Drop{Boot: envelope.FormatBoot(s.boot), First: s.seq, Last: s.seq})
}

// digest signs what was sealed since the last digest.
func (s *sender) digest() message {
	d := wire.Digest{Timestamp: 1, Boot: envelope.FormatBoot(s.boot), First: s.first, Last: s.seq, Dropped: append([]wire.Drop{}, s.dropped...)}
	sum := sha256.Sum256(s.sums)
	d.Hash = base64.RawURLEncoding.EncodeToString(sum[:])
	s.first, s.sums, s.dropped = s.seq+1, nil, nil
	return s.seal(s.topic(wire.KindDigest), &d, s.signer)
}

func (s *sender) alert(value float64) message {
	return s.seal(s.topic(wire.KindAlert), &wire.Alert{Timestamp: 1, Alert: wire.AlertCPU, State: wire.StateRaised, Incident: wire.NewID(),
		Server: "web-1", Metric: "cpu_usage", Value: value, Threshold: 80}, s.signer)
}

// status says that nothing was done.
func (s *sender) status() message { return s.answer(wire.NewID(), wire.StateRefused) }

// answer is a status of a command to limit rates.
func (s *sender) answer(id wire.ID, state string) message {
	status := wire.StatusSuccess
	if state == wire.StateRefused {
		status = wire.StatusFailure
	}
	return s.seal(s.topic(wire.KindRateLimiting), &wire.Status{Timestamp: 1, ID: id, Command: wire.EnableRateLimiting,
		Status: status, State: state, Controller: s.id.Name, Server: "web-1"}, s.signer)
}

// mint is what the holder of the site's machine authority can do.
func (b *bank) mint(t testing.TB, id pki.Identity, lifetime time.Duration, at time.Time) *envelope.Signer {
	t.Helper()
	path := filepath.Join(b.Authority(), id.Site, "machine-ca")
	signer, err := pki.ReadKey(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := pki.ReadCertificate(path + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey(id.Role)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.IssueLeaf(ca.Issuer{Certificate: issuer, Signer: signer}, id, key.Public(), ca.Names{}, lifetime, at)
	if err != nil {
		t.Fatal(err)
	}
	s, err := envelope.NewSigner(key, cert, issuer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// written is the record of a few minutes, made once: two sensors, a monitor, a
// controller, and a recorder that was started again in between.
var written struct {
	sync.Once
	dir  string
	bank *bank
}

func newRecord(t testing.TB) *bank {
	t.Helper()
	b := newBank(t)
	written.Do(func() {
		made := &bank{provision.Layout{Dir: written.dir}, world.made}
		if err := os.CopyFS(made.Dir, os.DirFS(b.Dir)); err != nil {
			t.Fatal(err)
		}
		made.closeSecrets(t)
		made.write(t)
		written.bank = made
	})
	if written.bank == nil {
		t.Fatal("there is no record")
	}
	return written.bank.copy(t)
}

func (b *bank) write(t testing.TB) {
	t.Helper()
	web1, web2 := b.sender(t, pki.RoleSensor, "web-1", time.Second), b.sender(t, pki.RoleSensor, "web-2", 2*time.Second)
	monitor, controller := b.sender(t, pki.RoleMonitor, "mon-1", 3*time.Second), b.sender(t, pki.RoleController, "lb-1", 4*time.Second)
	for range 2 {
		r := b.record(t)
		for range 2 {
			batch := append(web1.readings(6), web2.readings(6)...)
			r.keep(append(batch, web1.digest(), web2.digest(), monitor.alert(90))...)
			monitor.now, controller.now = web1.now, web1.now
			r.keep(monitor.alert(91), controller.status(), controller.status(), monitor.digest(), controller.digest())
		}
		r.stop()
	}
}
