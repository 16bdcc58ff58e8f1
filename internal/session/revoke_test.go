package session

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
	"levee/pki/revocation"
)

const revocationsTopic = "melb/bank_server/revocations/i1"

// issuer signs lists of revocations as melb's issuer i1, and knows the leaves of
// others.
type issuer struct {
	*sender
	number uint64
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	ring := ringOf(t, openBundle(t, identity("melb", pki.RoleRecorder, "rec-1")).KeyFile) // holds the issuers' role key
	c := openBundle(t, identity("melb", pki.RoleIssuer, "i1")).Credentials.Current()
	signer, err := envelope.NewSigner(c.Signer(), c.Leaf(), c.Issuer())
	if err != nil {
		t.Fatal(err)
	}
	kid := envelope.KeyID{Site: "melb", Role: "issuer", Name: "i1", Generation: 1}
	return &issuer{sender: &sender{t: t, key: ring.Find([]byte(kid.String())), kid: kid, signer: signer,
		boot: uint64(time.Now().UnixMilli())}}
}

// list returns the message of the next list.
func (i *issuer) list(revoked ...wire.Revoked) []byte {
	i.t.Helper()
	i.number++
	now := time.Now()
	return i.message(revocationsTopic, &wire.Revocations{Number: i.number, Issued: now.UnixMilli(), Revoked: append([]wire.Revoked{}, revoked...)}, now, i.signed)
}

func serial(leaf *x509.Certificate) wire.Revoked {
	var id wire.ID
	leaf.SerialNumber.FillBytes(id[:])
	return wire.Revoked{Serial: id, Until: leaf.NotAfter.UnixMilli()}
}

// send delivers a message to the broker's newest connection.
func (b *fakeBroker) send(topic string, raw []byte) {
	b.mu.Lock()
	c := b.conns[len(b.conns)-1]
	b.mu.Unlock()
	c.send(publish(topic, raw))
}

// A part subscribes to the lists by itself, has them in force, and keeps them.
// It is not handed what it did not ask for.
func TestRevocationsReachAPart(t *testing.T) {
	b := melbBroker(t)
	b.start()
	log := new(logBuffer)
	var r recorder
	s := openSession(t, identity("melb", pki.RoleSensor, "web-1"), func(c *Config) {
		toward(c, b)
		c.Filters, c.Handle, c.Log = nil, r.handle, log.logger()
	})
	state := s.config.Bundle.State
	stop := run(t, s)
	<-s.Ready()
	b.mu.Lock()
	filters := strings.Join(b.filters, " ")
	b.mu.Unlock()
	if filters != "melb/bank_server/revocations/+ melb/bank_server/acks/+/sensor/web-1" {
		t.Errorf("it subscribed to %q", filters)
	}
	i := newIssuer(t)
	monitor := openBundle(t, identity("melb", pki.RoleMonitor, "m1"))
	raw := i.list(serial(monitor.Credentials.Current().Leaf()))
	b.send(revocationsTopic, raw)
	eventually(t, "the list is in force", func() bool { return s.Revocations().Number() == 1 })
	if !s.Revocations().Revoked(monitor.Identity, monitor.Credentials.Current().Leaf()) || s.Accepted() != 1 {
		t.Errorf("not revoked, or %d messages accepted", s.Accepted())
	}
	if len(log.lines("revocations changed")) != 1 {
		t.Error("the log says nothing")
	}
	i.number--
	b.send(revocationsTopic, i.list())
	eventually(t, "another list of the same number is refused", func() bool { return s.Refusals()[envelope.BadContent] == 1 })
	if len(log.lines("with other entries")) != 1 {
		t.Error("the log does not say why")
	}
	stop()
	if deliveries, _ := r.all(); len(deliveries) != 0 {
		t.Error("it was handed a list that it did not ask for")
	}
	if kept, err := os.ReadFile(filepath.Join(state, revocation.FileName)); err != nil || !bytes.Equal(kept, raw) {
		t.Errorf("kept %d bytes, %v", len(kept), err)
	}
	again, err := New(s.config)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Revocations().Number() != 1 {
		t.Error("a restart forgot the list")
	}
}

// Who asks for the lists gets them as well, once they are in force.
func TestRevocationsAreHandedOn(t *testing.T) {
	b := melbBroker(t)
	b.start()
	var r recorder
	s := openSession(t, identity("melb", pki.RoleRecorder, "rec-1"), func(c *Config) {
		toward(c, b)
		c.Handle, c.Refused = r.handle, r.refused
	})
	run(t, s)
	<-s.Ready()
	i := newIssuer(t)
	first := i.list()
	i.number = 0
	b.send(revocationsTopic, first)
	b.send(revocationsTopic, i.list(wire.Revoked{Sender: "melb/sensor/web-1", Before: 1}))
	eventually(t, "one is refused", func() bool { _, refused := r.all(); return len(refused) == 1 })
	deliveries, refused := r.all()
	if len(deliveries) != 1 || !bytes.Equal(deliveries[0].Message.Raw, first) || deliveries[0].Proof != ProofSignature || refused[0].Reason != envelope.BadContent {
		t.Errorf("%d deliveries, %v", len(deliveries), refused[0].Reason.String())
	}
}

// Every machine is told; people are not.
func TestWhoIsTold(t *testing.T) {
	for _, id := range []pki.Identity{
		identity("melb", pki.RoleSensor, "web-1"), identity("melb", pki.RoleMonitor, "m1"),
		identity("melb", pki.RoleController, "lb-1"), identity("melb", pki.RoleRecorder, "rec-1"),
	} {
		s := openSession(t, id, func(c *Config) { c.Filters = nil })
		if s.Revocations() == nil || !slices.Contains(s.filters, "melb/bank_server/revocations/+") {
			t.Errorf("%s is not told: %q", id, s.filters)
		}
		asked := openSession(t, id, nil)
		if n := len(asked.filters); n != len(asked.config.Filters) {
			t.Errorf("%s asks twice: %q", id, asked.filters)
		}
	}
	if s := openSession(t, identity("melb", pki.RoleOperator, "ann"), nil); s.Revocations() != nil || s.listed() != nil {
		t.Error("a person is told")
	}
}

// What is signed with a revoked certificate is refused, also if it was signed
// before: between the signature and the pin.
func TestRevokedSignature(t *testing.T) {
	now := time.Now()
	s := openSession(t, identity("melb", pki.RoleController, "lb-1"), nil)
	r := &s.receiver
	m1 := newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	leaf := openBundle(t, identity("melb", pki.RoleMonitor, "m1")).Credentials.Current().Leaf()
	before, after := m1.message(commandTopic, &ram, now, m1.signed), m1.message(commandTopic, &ram, now, m1.signed)
	if _, got := verdict(r, commandTopic, before, now); got != envelope.Accepted {
		t.Fatal(got.String())
	}
	i := newIssuer(t)
	if _, err := s.Revocations().Apply(i.list(serial(leaf)), now); err != nil {
		t.Fatal(err)
	}
	if _, got := verdict(r, commandTopic, after, now); got != envelope.Revoked {
		t.Errorf("signed with a revoked certificate: %s", got.String())
	}
	unpinned := *r
	unpinned.document = &site.Document{Site: "melb"}
	if _, got := verdict(&unpinned, commandTopic, after, now); got != envelope.Revoked {
		t.Errorf("and not pinned either: %s", got.String())
	}
	spoilt := m1.reseal(after, `"ram_usage":41.5`, `"ram_usage":11.5`)
	if _, got := verdict(r, commandTopic, spoilt, now); got != envelope.BadSignature {
		t.Errorf("and not signed: %s", got.String())
	}
	if _, err := s.Revocations().Apply(i.list(), now); err != nil {
		t.Fatal(err)
	}
	if _, got := verdict(r, commandTopic, after, now); got != envelope.Accepted {
		t.Errorf("no longer revoked: %s", got.String())
	}
}

// The list and the site document each name lowest generations; the higher one
// counts.
func TestGenerationsOfListAndDocument(t *testing.T) {
	now := time.Now()
	s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil)
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	raw := web.message(ramTopic, &ram, now)
	i := newIssuer(t)
	for _, test := range []struct {
		list, document uint32
		want           envelope.Reason
	}{{0, 2, envelope.UnknownKey}, {2, 0, envelope.UnknownKey}, {2, 1, envelope.UnknownKey}, {1, 2, envelope.UnknownKey}, {1, 0, envelope.Accepted}} {
		r := s.receiver
		document := *r.document
		document.Generations = nil
		if test.document > 0 {
			document.Generations = []site.Generation{{Sender: "melb/sensor/web-1", Minimum: test.document}}
		}
		r.document = &document
		if _, err := s.Revocations().Apply(i.list(wire.Revoked{Sender: "melb/sensor/web-1", Before: 1, Generation: test.list}), now); err != nil {
			t.Fatal(err)
		}
		if _, got := verdict(&r, ramTopic, raw, now); got != test.want {
			t.Errorf("list %d, document %d: %s", test.list, test.document, got.String())
		}
	}
}

// melbBroker2 is a broker with a certificate of its own, b2.
func melbBroker2(t testing.TB) *fakeBroker {
	t.Helper()
	machines := machineCA(t, "melb")
	other := openBundle(t, identity("melb", pki.RoleBroker, "b1"))
	key, err := pki.NewKey(pki.RoleBroker)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(machines, identity("melb", pki.RoleBroker, "b2"), key.Public(), ca.Names{}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keyPEM, err := pki.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key"), keyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "chain"), pki.MarshalCertificates(leaf, machines.Certificate), 0o600); err != nil {
		t.Fatal(err)
	}
	store, err := pki.OpenStore(filepath.Join(dir, "key"), filepath.Join(dir, "chain"), other.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	return newBroker(t, store, other.Verifier)
}

// A part leaves a broker that is revoked, does not come back, and goes to the
// next.
func TestRevokedBroker(t *testing.T) {
	first, second := melbBroker2(t), melbBroker(t)
	first.start()
	log := new(logBuffer)
	s := sensorTo(t, log, first, second)
	run(t, s)
	<-s.Ready()
	second.start() // not before: it would be drawn half of the time
	first.send(revocationsTopic, newIssuer(t).list(wire.Revoked{Sender: "melb/broker/b2", Before: time.Now().UnixMilli()}))
	eventually(t, "it is connected to the other broker", func() bool { return len(second.seen()) == 1 })
	if len(log.lines("certificate revoked")) != 1 {
		t.Error("the log does not say why it left")
	}
	second.kick()
	eventually(t, "it is connected to the other broker again", func() bool { return len(second.seen()) == 2 })
	if n := len(first.seen()); n != 1 {
		t.Errorf("%d sessions with a broker that is revoked", n)
	}
	eventually(t, "it says that it tried the revoked broker again: else nothing is shown here", func() bool { return len(log.lines("certificate revoked")) > 1 })
}

// The list that revokes the broker may come while the part still subscribes.
func TestRevokedBrokerDuringConnect(t *testing.T) {
	b := melbBroker(t)
	log := new(logBuffer)
	s := sensorTo(t, log, b)
	raw := newIssuer(t).list(wire.Revoked{Sender: "melb/broker/b1", Before: time.Now().UnixMilli()})
	b.suback = func(int, string) []byte {
		b.send(revocationsTopic, raw)
		eventually(t, "the list is in force", func() bool { return s.Revocations().Number() == 1 })
		return []byte{1}
	}
	b.start()
	run(t, s)
	eventually(t, "it leaves", func() bool { return len(log.lines("certificate revoked")) > 0 })
	if n := len(b.seen()); n != 1 {
		t.Errorf("%d sessions with a broker that is revoked", n)
	}
}
