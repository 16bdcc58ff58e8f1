package session

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/confirm"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

// What goes over the wire is what the broker's rules ask for, and it is sealed.
func TestConnectAndPublish(t *testing.T) {
	b := melbBroker(t)
	b.start()
	s := sensorTo(t, new(logBuffer), b)
	if err := s.Publish(ramOfWeb1, &ram); err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	eventually(t, "the reading is published", func() bool { return len(b.got()) == 1 })
	<-s.Ready()
	if !s.Online() {
		t.Error("it is not online")
	}
	c := b.seen()[0]
	if c.id != "melb_sensor_web-1" || c.level != 4 || c.flags != 2 || c.keepAlive != 20 || c.serverName != "melb.bank.example" || c.peer != "melb_sensor_web-1" {
		t.Errorf("%+v", c)
	}
	monitor := &openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil).receiver
	p := b.got()[0]
	if d, got := verdict(monitor, p.topic, p.raw, time.Now()); got != envelope.Accepted || d.Proof != ProofMAC || p.flags != 2 {
		t.Errorf("%s: %s, flags %x", p.topic, got.String(), p.flags)
	}
	stop()
	if s.Online() {
		t.Error("it is online after its end")
	}
	// At the end it signs for what it sent, and says goodbye.
	messages := b.got()
	last := messages[len(messages)-1]
	if len(messages) != 2 || last.topic != digestTopic {
		t.Fatalf("%d messages, the last on %s", len(messages), last.topic)
	}
	eventually(t, "it says goodbye", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.goodbyes == 1
	})
	recorder := &openSession(t, identity("melb", pki.RoleRecorder, "rec-1"), nil).receiver
	d, got := verdict(recorder, last.topic, last.raw, time.Now())
	if got != envelope.Accepted || d.Proof != ProofSignature {
		t.Fatalf("the digest: %s", got.String())
	}
	var digest wire.Digest
	if err := wire.DecodeExact(d.Payload, &digest); err != nil {
		t.Fatal(err)
	}
	tracker := confirm.NewTracker()
	m, err := envelope.Parse(p.raw, 4096)
	if err != nil {
		t.Fatal(err)
	}
	tracker.Add("melb/sensor/web-1", m.Nonce, p.raw, m.Signed())
	if r := tracker.Settle("melb/sensor/web-1", digest); r.Outcome != confirm.Confirmed || r.Seen != 1 {
		t.Errorf("the digest says %+v", r)
	}
}

// Digests come on their interval, however often the connection breaks in
// between.
func TestDigestsWithoutALongConnection(t *testing.T) {
	b := melbBroker(t)
	b.start()
	id := identity("melb", pki.RoleSensor, "web-1")
	s := openSession(t, id, func(c *Config) {
		toward(c, b)
		c.Filters, c.Handle, c.Digest = nil, nil, 2*time.Second
	})
	run(t, s)
	<-s.Ready()
	digests := func() (n int) {
		for _, p := range b.got() {
			if p.topic == digestTopic {
				n++
			}
		}
		return n
	}
	eventually(t, "a digest is sent over short connections", func() bool {
		if !s.Online() { // on a slow machine a handshake takes longer than a kick
			return digests() > 0
		}
		if err := s.Publish(ramOfWeb1, &ram); err != nil {
			t.Fatal(err)
		}
		time.Sleep(150 * time.Millisecond)
		b.kick()
		return digests() > 0
	})
	if len(b.seen()) < 2 {
		t.Error("the connection never broke")
	}
}

// A message that was not acknowledged, and those of the last 15 s that were, go
// out again on the next connection, byte for byte and in order.
func TestPaho2ReconnectLosesNothing(t *testing.T) {
	b := melbBroker(t)
	b.puback = func(conn int, p published) bool { return conn > 1 || len(b.got()) < 2 }
	b.start()
	log := new(logBuffer)
	s := sensorTo(t, log, b)
	for i := range 3 {
		if err := s.Publish(ramOfWeb1, &wire.RAM{Timestamp: float64(i), Server: "web-1"}); err != nil {
			t.Fatal(err)
		}
	}
	run(t, s)
	eventually(t, "the second message is sent", func() bool { return len(b.got()) == 2 })
	b.kick()
	eventually(t, "all are sent again", func() bool { return len(b.got()) >= 5 })
	got := b.got()
	if got[2].conn != 2 || !bytes.Equal(got[0].raw, got[2].raw) || !bytes.Equal(got[1].raw, got[3].raw) || got[2].flags&8 != 0 {
		t.Error("what was sent again is not what was sent")
	}
	monitor := &openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil).receiver
	var reasons []string
	for _, p := range got[:5] {
		_, reason := verdict(monitor, p.topic, p.raw, time.Now())
		reasons = append(reasons, reason.String())
	}
	if want := []string{"accepted", "accepted", "redelivered", "redelivered", "accepted"}; !slices.Equal(reasons, want) {
		t.Errorf("a receiver says %v", reasons)
	}
	if _, sent := s.Losses(); sent != 0 {
		t.Errorf("%d messages were given up", sent)
	}
	if len(log.lines("not connected")) == 0 {
		t.Error("the loss of the connection is not in the log")
	}
}

// The library calls a refused subscription a success.
func TestPaho3RefusedSubscription(t *testing.T) {
	for name, codes := range map[string][]byte{"refused": {0x80}, "an undefined code": {3}, "QoS 2": {2}} {
		t.Run(name, func(t *testing.T) {
			b := melbBroker(t)
			b.suback = func(conn int, filter string) []byte {
				if conn < 3 && filter == "melb/bank_server/metrics/ram/+" {
					return codes
				}
				return []byte{1}
			}
			b.start()
			log := new(logBuffer)
			s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), func(c *Config) {
				toward(c, b)
				c.Log = log.logger()
				c.Filters = []string{"melb/bank_server/metrics/cpu/+", "melb/bank_server/metrics/ram/+"}
			})
			run(t, s)
			eventually(t, "it tries again", func() bool { return len(b.seen()) == 2 })
			if s.Online() {
				t.Error("it is online without its readings")
			}
			select {
			case <-s.Ready():
				t.Error("it is ready without its readings")
			default:
			}
			<-s.Ready() // the third time all is granted
			if lines := log.lines("refused melb/bank_server/metrics/ram/+"); len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") {
				t.Errorf("in the log: %q", lines)
			}
		})
	}
}

// A captured broker may answer anything. Nothing of it stops the process, and
// the session comes back.
func TestHostileAnswers(t *testing.T) {
	answers := map[string]struct {
		change func(*fakeBroker)
		reason string
	}{
		"more codes than filters": {func(b *fakeBroker) {
			suback := b.suback
			b.suback = func(conn int, f string) []byte {
				if conn == 1 {
					return []byte{1, 1, 1}
				}
				return suback(conn, f)
			}
		}, "uncalled-for"},
		"no code": {func(b *fakeBroker) {
			b.suback = func(conn int, _ string) []byte { return []byte{1}[:min(conn-1, 1)] }
		}, "uncalled-for"},
		"a packet of 256 MiB": {func(b *fakeBroker) {
			b.connected = func(conn int, c *fakeConn) {
				if conn == 1 {
					c.send([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
				}
			}
		}, "uncalled-for"},
		"not authorised": {func(b *fakeBroker) {
			b.connack = func(conn int) byte { return 5 * byte(2/(conn+1)) }
		}, "not Authorized"},
		"a return code that does not exist": {func(b *fakeBroker) {
			b.connack = func(conn int) byte { return 77 * byte(2/(conn+1)) }
		}, ""},
	}
	for name, test := range answers {
		t.Run(name, func(t *testing.T) {
			b := melbBroker(t)
			test.change(b)
			b.start()
			log := new(logBuffer)
			s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), func(c *Config) {
				toward(c, b)
				c.Log = log.logger()
			})
			run(t, s)
			<-s.Ready()
			lines := log.lines("not connected")
			if len(b.seen()) != 2 || len(lines) != 1 || !strings.Contains(lines[0], test.reason) {
				t.Errorf("%d connections, %q", len(b.seen()), lines)
			}
		})
	}
}

// A broker that never acknowledges is left, and the message is not lost.
func TestPaho1NoAcknowledgement(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the acknowledgement's deadline")
	}
	b := melbBroker(t)
	b.puback = func(conn int, _ published) bool { return conn > 1 }
	b.start()
	s := sensorTo(t, new(logBuffer), b)
	if err := s.Publish(ramOfWeb1, &ram); err != nil {
		t.Fatal(err)
	}
	run(t, s)
	eventually(t, "it is sent again elsewhere", func() bool { return len(b.got()) == 2 })
	if got := b.got(); !bytes.Equal(got[0].raw, got[1].raw) || got[1].conn != 2 {
		t.Error("another message, or on the same connection")
	}
}

// Clients refuse every server but a broker of their own site.
func TestWrongServers(t *testing.T) {
	s := openSession(t, identity("melb", pki.RoleSensor, "web-1"), func(c *Config) { c.Filters, c.Handle = nil, nil })
	for name, peer := range map[string]pki.Identity{
		"another site's broker": identity("syd", pki.RoleBroker, "b1"),
		"another role":          identity("melb", pki.RoleRecorder, "rec-1"),
		"nobody":                {},
	} {
		if err := s.acceptBroker(peer); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := s.acceptBroker(identity("melb", pki.RoleBroker, "b1")); err != nil {
		t.Error(err)
	}
	syd := openBundle(t, identity("syd", pki.RoleBroker, "b1"))
	for name, test := range map[string]struct {
		store  *pki.Store
		reason string
	}{
		"another site's broker": {syd.Credentials, "not melb.bank.example"},
		"the site's recorder, under the brokers' name": {
			mintStore(t, s, identity("melb", pki.RoleRecorder, "rec-1"), ca.Names{DNS: []string{"melb.bank.example"}}), "dialled a broker of melb, reached"},
		"a sensor, whose certificate is no server": {mintStore(t, s, identity("melb", pki.RoleSensor, "web-2"), ca.Names{}), "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t, test.store, syd.Verifier)
			b.start()
			log := new(logBuffer)
			s := sensorTo(t, log, b)
			if err := s.Publish(ramOfWeb1, &ram); err != nil {
				t.Fatal(err)
			}
			run(t, s)
			eventually(t, "it is refused", func() bool { return len(log.lines("not connected")) > 1 })
			if s.Online() || len(b.seen()) > 0 {
				t.Error("it spoke to the wrong server")
			}
			if line := log.lines("not connected")[0]; !strings.Contains(line, test.reason) {
				t.Errorf("in the log: %s", line)
			}
		})
	}
}

// The next broker is tried when one does not answer.
func TestSeveralBrokers(t *testing.T) {
	dead, alive := melbBroker(t), melbBroker(t)
	dead.listener.Close()
	alive.start()
	s := sensorTo(t, new(logBuffer), dead, alive)
	run(t, s)
	<-s.Ready()
	if len(alive.seen()) != 1 {
		t.Error("connected to nobody")
	}
}

// The end does not wait for a broker that does not answer, and says what stays
// behind.
func TestEndWithoutABroker(t *testing.T) {
	b := melbBroker(t)
	b.listener.Close()
	log := new(logBuffer)
	s := sensorTo(t, log, b)
	if err := s.Publish(ramOfWeb1, &ram); err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	eventually(t, "it tries", func() bool { return len(log.lines("not connected")) > 0 })
	stop()
	if lines := log.lines("before everything was sent"); len(lines) != 1 || !strings.Contains(lines[0], "messages=2") {
		t.Errorf("in the log: %q", lines)
	}
}

// A handshake that hangs neither holds the end up nor outlives it: the library
// cannot be told to give it up, so its connection is taken away.
func TestEndDuringConnect(t *testing.T) {
	b := melbBroker(t)
	entered := make(chan struct{})
	release := make(chan struct{})
	b.connack = func(int) byte { close(entered); <-release; return 0 }
	b.start()
	s := sensorTo(t, new(logBuffer), b)
	stop := run(t, s)
	<-entered
	stop()
	stacks := make([]byte, 1<<20)
	for range 200 { // less than the handshake would take by itself
		if !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("paho.mqtt.golang")) {
			close(release)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	close(release)
	t.Error("the library is still at it")
}

// mintStore returns a credential from the site's real machine CA.
func mintStore(t testing.TB, s *Session, id pki.Identity, names ca.Names) *pki.Store {
	t.Helper()
	issuer := machineCA(t, id.Site)
	key, err := pki.NewKey(id.Role)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(issuer, id, key.Public(), names, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := pki.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/key", encoded, 0o600),
		os.WriteFile(dir+"/chain", pki.MarshalCertificates(leaf, issuer.Certificate), 0o600)); err != nil {
		t.Fatal(err)
	}
	store, err := pki.OpenStore(dir+"/key", dir+"/chain", s.config.Bundle.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	return store
}
