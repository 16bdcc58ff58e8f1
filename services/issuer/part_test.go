package issuer

import (
	"context"
	"crypto"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/envelope/keys"
	"levee/internal/issuance"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
	"levee/pki/seal"
	"levee/policies"
	"levee/services/broker"
)

// town is a site in bundles, as provisioning makes them.
type town struct {
	*world
	dir    string
	key    keys.SiteKey
	broker string        // address
	issuer crypto.Signer // nil: a new one for each bundle, and not pinned
}

func newTown(t testing.TB) *town {
	t.Helper()
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	defer l.Close()
	key, err := keys.NewSiteKey("melb")
	w.must(err)
	return &town{world: w, dir: t.TempDir(), key: key, broker: l.Addr().String()}
}

// bundle writes the bundle of a holder and returns its configuration file.
func (c *town) bundle(h holder, extra string) string {
	c.t.Helper()
	dir := filepath.Join(c.dir, string(h.id.Role)+"-"+h.id.Name)
	c.must(os.MkdirAll(dir, 0o700))
	put := func(name string, b []byte) { c.must(os.WriteFile(filepath.Join(dir, name), b, 0o600)) }
	key, chain, err := pki.MarshalCredential(h.key, h.leaf, h.issuer)
	c.must(err)
	policy, err := policies.Parse(policies.Default())
	c.must(err)
	people := c.issuers[people("melb")]
	document, err := site.Sign(site.Document{ID: wire.NewID(), TrustDomain: trustDomain, Site: "melb", Number: 1,
		Brokers: []site.Broker{{Name: "b1", Address: c.broker}}, Pins: c.pins(), Generations: []site.Generation{},
		PolicyHash: site.HashText(policy.Hash())}, people.Signer, people.Certificate, c.root.Certificate, time.Now())
	c.must(err)
	put(site.FileKey, key)
	put(site.FileChain, chain)
	put(site.FileRoot, pki.MarshalCertificates(c.root.Certificate))
	put(site.FileDocument, document)
	put(site.FilePolicy, policies.Default())
	put(site.FileFirstStart, site.FirstStart(time.Now()))
	role, err := c.key.Role(h.id.Role)
	c.must(err)
	own, err := role.Sender(h.id.Name, 1)
	c.must(err)
	var granted []keys.RoleKey
	for _, r := range policy.KeyRoles(h.id.Role) {
		k, err := c.key.Role(r)
		c.must(err)
		granted = append(granted, k)
	}
	put(site.FileKeys, keys.EncodeBundle(own, granted...))
	put("config.yaml", []byte("bundle: .\nstate: state\n"+extra))
	return filepath.Join(dir, "config.yaml")
}

// pins are those of the site document: the issuer's key, if all bundles have one.
func (c *town) pins() []site.Pin {
	if c.issuer == nil {
		return []site.Pin{}
	}
	return []site.Pin{{Sender: iss1.Sender(), SPKI: spkiOf(c.world, c.issuer)}}
}

const issuerYAML = "listen: 127.0.0.1:0\nlifetime: 24h\nwatermark: mark/newest\n"

// issuerBundle is the bundle of an issuer whose own certificate began at begin.
func (c *town) issuerBundle(begin time.Time, extra string) string {
	c.t.Helper()
	a, key := c.issuers[machines("melb")], c.issuer
	if key == nil {
		key = c.world.key(pki.RoleIssuer)
	}
	file := c.bundle(c.holderOf(iss1, key, a, begin), issuerYAML+extra)
	path := filepath.Join(filepath.Dir(file), "machines")
	if err := os.Remove(path + ".key"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.t.Fatal(err)
	}
	text, err := pki.MarshalKey(a.Signer)
	c.must(err)
	c.must(os.WriteFile(path+".key", text, 0o600))
	c.must(os.WriteFile(path+".pem", pki.MarshalCertificates(a.Certificate), 0o644))
	return file
}

type runner interface {
	Run(context.Context) error
}

// run runs a part until stop, which waits and wants a good end.
func (c *town) run(p runner) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("%T: %v", p, err)
		}
	})
	c.t.Cleanup(stop)
	return stop
}

// A part from its files: it renews its expired certificate at its start,
// connects to a real broker, publishes the list, publishes it again on change,
// and a second start goes on where the first was.
func TestPart(t *testing.T) {
	c := newTown(t)
	c.issuer = c.world.key(pki.RoleIssuer)
	log := new(logBuffer)
	b, err := broker.Open(c.bundle(c.holder(b1, time.Now()), "listen: "+c.broker+"\n"), log.logger())
	c.must(err)
	c.run(b)
	<-b.Ready()
	var mu sync.Mutex
	var lists []wire.Revocations
	recFile := c.bundle(c.holder(rec1, time.Now()), "")
	recorder, err := site.Open(site.Settings{Bundle: pathOf(recFile), State: pathOf(recFile) + "/state"}, time.Now())
	c.must(err)
	ring, err := keys.Load(recorder.KeyFile)
	c.must(err)
	listener, err := session.New(session.Config{Bundle: recorder, Ring: ring, Log: log.logger(), Filters: []string{wire.Filter(wire.KindRevocations, "melb")},
		Handle: func(d session.Delivery) {
			var l wire.Revocations
			if err := wire.DecodeExact(d.Payload, &l); err != nil || d.Proof != session.ProofSignature {
				t.Errorf("a list with %v, %v", d.Proof, err)
			}
			mu.Lock()
			defer mu.Unlock()
			lists = append(lists, l)
		}})
	c.must(err)
	c.run(listener)
	heard := func(what string, wanted func(wire.Revocations) bool) {
		t.Helper()
		for range 400 {
			mu.Lock()
			ok := slices.ContainsFunc(lists, wanted)
			mu.Unlock()
			if ok {
				return
			}
			time.Sleep(25 * time.Millisecond)
		}
		t.Fatalf("not heard: %s\n%s", what, log.tail())
	}
	<-listener.Ready()
	file := c.issuerBundle(time.Now().Add(-9*time.Hour), "")
	p, err := Open(file, log.logger())
	c.must(err)
	stop := c.run(p)
	heard("the first list", func(l wire.Revocations) bool { return l.Number == 1 && len(l.Revoked) == 0 })
	r := &rig{world: c.world, address: p.Address(), log: log, journal: p.journal, issuer: p.issuer}
	key := c.world.key(pki.RoleSensor)
	h := r.issued(r.renew(c.holder(web1, time.Now()), key), web1, key)
	r.carriedOut(c.order(issuance.Revoke, orderOf(web1), c.holder(ann, time.Now()), time.Now()))
	heard("the revocation", func(l wire.Revocations) bool {
		return l.Number > 1 && len(l.Revoked) == 1 && l.Revoked[0].Sender == web1.Sender()
	})
	entries := r.entries()
	if len(entries) != 3 || entries[0].Certificate.Subject.CommonName != iss1.ClientID() {
		t.Errorf("%d entries, and the first is not of the issuer's own certificate", len(entries))
	}
	if _, err := Open(file, log.logger()); err == nil {
		t.Error("a second issuer opened the same state")
	}
	stop()
	if !log.contains("certificate issued") || !log.contains("order carried out") {
		t.Error("the log does not say what was done")
	}
	mu.Lock()
	number := lists[len(lists)-1].Number
	lists = nil
	mu.Unlock()
	p, err = Open(file, log.logger())
	c.must(err)
	r.address = p.Address()
	c.run(p)
	heard("the same list after a restart", func(l wire.Revocations) bool { return l.Number == number && len(l.Revoked) == 1 })
	r.refused("the revoked machine after a restart", r.renew(h, c.world.key(pki.RoleSensor)), 0, "")
}

func TestOpenRefuses(t *testing.T) {
	c := newTown(t)
	log := new(logBuffer)
	file := c.issuerBundle(time.Now(), "")
	dir := filepath.Dir(file)
	at := func(name string) string { return filepath.Join(dir, name) }
	opened := func() error {
		p, err := Open(file, log.logger())
		if err == nil {
			return p.Close()
		}
		return err
	}
	c.must(opened())
	original := func(name string) []byte { b, err := os.ReadFile(at(name)); c.must(err); return b }
	other := c.authority(machines("melb"), 24*time.Hour, time.Now())
	otherKey, err := pki.MarshalKey(other.Signer)
	c.must(err)
	peopleKey, err := pki.MarshalKey(c.issuers[people("melb")].Signer)
	c.must(err)
	sydKey, err := pki.MarshalKey(c.issuers[machines("syd")].Signer)
	c.must(err)
	passphrase, err := seal.NewPassphrase([]byte("correct horse battery"))
	c.must(err)
	sealed, err := ca.SealKey(c.issuers[machines("melb")].Signer, passphrase)
	c.must(err)
	config := string(original("config.yaml"))
	type content map[string][]byte
	for name, files := range map[string]content{
		"another key":                  {"machines.key": otherKey},
		"the people's authority":       {"machines.key": peopleKey, "machines.pem": pki.MarshalCertificates(c.issuers[people("melb")].Certificate)},
		"another site's authority":     {"machines.key": sydKey, "machines.pem": pki.MarshalCertificates(c.issuers[machines("syd")].Certificate)},
		"no authority":                 {"machines.pem": pki.MarshalCertificates(c.root.Certificate)},
		"a sealed key, no passphrase":  {"machines.key": sealed},
		"half a key":                   {"machines.key": otherKey[:60]},
		"a lifetime that is too long":  {"config.yaml": []byte(strings.Replace(config, "24h", "721h", 1))},
		"a lifetime below zero":        {"config.yaml": []byte(strings.Replace(config, "24h", "-1h", 1))},
		"no watermark":                 {"config.yaml": []byte(strings.Replace(config, "watermark: mark/newest\n", "", 1))},
		"nothing to listen on":         {"config.yaml": []byte(strings.Replace(config, "listen: 127.0.0.1:0\n", "", 1))},
		"an unknown setting":           {"config.yaml": []byte(config + "trust: everybody\n")},
		"a key of another name":        {"config.yaml": []byte(config + "key: machines.pem\n")},
		"a watermark of another":       {"mark/newest": []byte(`{"journal":"iss-2","lines":0,"last":""}`)},
		"half a watermark":             {"mark/newest": []byte(`{"journal":"iss-1"`)},
		"a watermark that is ahead":    {"mark/newest": []byte(`{"journal":"iss-1","lines":1,"last":"` + strings.Repeat("A", 43) + `"}`)},
		"a journal of something else":  {"state/journal": []byte("hello\n")},
		"a credential that is missing": {"machines.key": sealed, "config.yaml": []byte(config + "passphrase_credential: ca\n")},
	} {
		before := make(content)
		for f, b := range files {
			before[f] = original(f)
			c.must(os.WriteFile(at(f), b, 0o600))
		}
		if err := opened(); err == nil {
			t.Errorf("%s: opened", name)
		}
		for f, b := range before {
			c.must(os.WriteFile(at(f), b, 0o600))
		}
	}
	if err := os.Chmod(at("machines.key"), 0o644); err == nil && opened() == nil {
		t.Error("a key that everybody can read: opened")
	}
	c.must(os.Chmod(at("machines.key"), 0o600))
	c.must(opened())
	// Sealed, with its passphrase as a credential of the unit.
	c.must(os.WriteFile(at("machines.key"), sealed, 0o600))
	c.must(os.WriteFile(at("config.yaml"), []byte(config+"passphrase_credential: ca\n"), 0o600))
	credentials := t.TempDir()
	c.must(os.WriteFile(filepath.Join(credentials, "ca"), []byte("correct horse battery\n"), 0o400))
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	c.must(opened())
	sensor := c.bundle(c.holder(web1, time.Now()), issuerYAML)
	if _, err := Open(sensor, log.logger()); err == nil {
		t.Error("a sensor's bundle: opened")
	}
}

// A state directory that is lost, or put back from an older copy, is noticed
// by the watermark.
func TestRolledBack(t *testing.T) {
	c := newTown(t)
	log := new(logBuffer)
	file := c.issuerBundle(time.Now().Add(-9*time.Hour), "")
	journal := filepath.Join(filepath.Dir(file), "state", FileJournal)
	p, err := Open(file, log.logger())
	c.must(err)
	p.issuer.tendOwn(time.Now()) // one entry
	c.must(p.Close())
	older, err := os.ReadFile(journal)
	c.must(err)
	p, err = Open(file, log.logger())
	c.must(err)
	if _, err := p.issuer.carryOut(c.order(issuance.Revoke, orderOf(web1), c.people("melb"), time.Now()), time.Now()); err != nil {
		t.Fatal(err)
	}
	c.must(p.Close())
	newest, err := os.ReadFile(journal)
	c.must(err)
	if len(older) == 0 || len(newest) <= len(older) {
		t.Fatalf("journals of %d and %d bytes", len(older), len(newest))
	}
	c.must(os.WriteFile(journal, older, 0o600))
	if _, err := Open(file, log.logger()); !errors.Is(err, issuance.ErrRolledBack) {
		t.Errorf("an older journal: %v", err)
	}
	c.must(os.Remove(journal))
	if _, err := Open(file, log.logger()); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("no journal: %v", err)
	}
	c.must(os.WriteFile(journal, newest, 0o600))
	p, err = Open(file, log.logger())
	c.must(err)
	c.must(p.Close())
	// Whoever takes away both begins anew, and says so with that.
	c.must(errors.Join(os.Remove(journal), os.Remove(filepath.Join(filepath.Dir(file), "mark", "newest"))))
	p, err = Open(file, log.logger())
	c.must(err)
	c.must(p.Close())
}

// A watermark that is lost beside its journal stops nobody, and is no secret; an
// issuer that never had either says nothing.
func TestTheWatermarkIsGone(t *testing.T) {
	c := newTown(t)
	file := c.issuerBundle(time.Now().Add(-9*time.Hour), "")
	mark := filepath.Join(filepath.Dir(file), "mark", "newest")
	const gone = "the watermark is gone"
	quiet := new(logBuffer)
	p, err := Open(file, quiet.logger())
	c.must(err)
	c.must(p.Close())
	c.must(os.Remove(mark)) // of a journal without entries, which is worth nothing
	p, err = Open(file, quiet.logger())
	c.must(err)
	p.issuer.tendOwn(time.Now()) // one entry
	c.must(p.Close())
	p, err = Open(file, quiet.logger())
	c.must(err)
	c.must(p.Close())
	if quiet.contains(gone) {
		t.Errorf("it says so for nothing:\n%s", quiet.tail())
	}
	before, err := os.ReadFile(mark)
	c.must(err)
	c.must(os.Remove(mark))
	loud := new(logBuffer)
	p, err = Open(file, loud.logger())
	c.must(err)
	c.must(p.Close())
	if !loud.contains("level=ERROR msg=\"" + gone + ": the journal cannot be held against it; it begins again at entry 1\"") {
		t.Errorf("the log:\n%s", loud.tail())
	}
	if after, err := os.ReadFile(mark); err != nil || string(after) != string(before) {
		t.Errorf("the watermark is %q, was %q, %v", after, before, err)
	}
}

func TestWatermarkNeverFalls(t *testing.T) {
	w := &watermark{path: filepath.Join(t.TempDir(), "deep", "newest"), journal: "iss-1"}
	last := strings.Repeat("A", 43)
	for _, lines := range []uint64{0, 3, 2, 5, 5} {
		if err := w.write(issuance.Position{Lines: lines, Last: last}); err != nil {
			t.Fatal(err)
		}
	}
	again := &watermark{path: w.path, journal: "iss-1"}
	if p, ok, err := again.read(); p != (issuance.Position{Lines: 5, Last: last}) || !ok || err != nil {
		t.Errorf("%+v %v %v", p, ok, err)
	}
}
