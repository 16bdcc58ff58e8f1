package broker

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/revocation"
	"levee/test/rawmqtt"
)

var issuer1 = identity("melb", pki.RoleIssuer, "issuer-1")

const (
	revocationsTopic  = "melb/bank_server/revocations/issuer-1"
	revocationsFilter = "melb/bank_server/revocations/+"
)

// list returns the payload of a list.
func (s *sender) list(number uint64, revoked ...wire.Revoked) []byte {
	s.t.Helper()
	b, err := wire.Encode(&wire.Revocations{Number: number, Issued: time.Now().UnixMilli(), Revoked: append([]wire.Revoked{}, revoked...)})
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// signed returns the next signed message of a payload.
func (s *sender) signed(topic string, payload []byte) []byte {
	return s.sealWith(s.header(topic), payload, s.signer)
}

// everything revokes an identity with all certificates that it has by now.
func everything(id pki.Identity) wire.Revoked {
	return wire.Revoked{Sender: id.Sender(), Before: time.Now().UnixMilli()}
}

func serialOf(cert tls.Certificate) (id wire.ID) {
	cert.Leaf.SerialNumber.FillBytes(id[:])
	return id
}

// alive demands that c still has its session.
func (s *space) alive(clients ...*rawmqtt.Client) {
	s.t.Helper()
	for _, c := range clients {
		s.ping(c)
	}
}

func TestRevokedSensorLosesItsSession(t *testing.T) {
	s := open(t)
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	reader, other := s.connect(monitor), s.connect(web2)
	s.subscribe(reader, 1, revocationsFilter)
	sensor := s.connect(web1)
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, from.list(1)), 0)); err != nil {
		t.Fatal(err)
	}
	s.message(reader)
	s.alive(sensor, other)

	raw := from.signed(revocationsTopic, from.list(2, everything(web1)))
	began := time.Now()
	if err := issuer.Send(pub(revocationsTopic, raw, 0)); err != nil {
		t.Fatal(err)
	}
	s.closed(sensor)
	if took := time.Since(began); took > time.Second {
		t.Errorf("the session ended %s after the list was published", took)
	} else {
		t.Logf("the session ended %s after the list was published", took)
	}
	if got := s.message(reader); !bytes.Equal(got.Payload, raw) {
		t.Error("the list did not arrive as it was published")
	}
	s.counted("refused_revoked", 1)
	s.alive(other, reader, issuer)

	// It cannot come back: not with this certificate, not with another that was
	// issued before.
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	s.refusedAt(s.bank.clientTLS("melb", s.bank.issue(web1, time.Hour)))
	s.counted("refused_revoked", 3)
	if !strings.Contains(s.log.String(), "sessions_ended=1") {
		t.Errorf("the log does not say how many sessions ended:\n%s", s.log)
	}
	// The next list repeats the last, and then takes it back.
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, from.list(3)), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(issuer)
	s.alive(s.connect(web1))
}

func TestRevokedSerialNumber(t *testing.T) {
	s := open(t)
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	stolen := s.bank.credential(web1)
	sensor, person := s.connect(web1), s.connect(operator)
	payload := from.list(1, wire.Revoked{Serial: serialOf(stolen), Until: stolen.Leaf.NotAfter.UnixMilli()})
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, payload), 0)); err != nil {
		t.Fatal(err)
	}
	s.closed(sensor)
	s.refusedAt(s.bank.clientTLS("melb", stolen))
	s.counted("refused_revoked", 2)
	c := s.dialAs(s.bank.issue(web1, time.Hour))
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30}); err != nil || code != 0 {
		t.Errorf("another certificate of the identity: code %d, %v", code, err)
	}
	s.alive(person)
}

// Certificates that an identity is given after its revocation count.
func TestReissuedAfterRevocation(t *testing.T) {
	s := open(t)
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	sensor := s.connect(web1)
	taken := s.bank.credential(web1).Leaf.NotBefore
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(1100 * time.Millisecond))) // X.509 counts seconds
	given := s.bank.issue(web1, time.Hour)
	payload := from.list(1, wire.Revoked{Sender: web1.Sender(), Before: taken.UnixMilli() + 1})
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, payload), 0)); err != nil {
		t.Fatal(err)
	}
	s.closed(sensor)
	c := s.dialAs(given)
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30}); err != nil || code != 0 {
		t.Errorf("a certificate of afterwards: code %d, %v", code, err)
	}
}

// A ticket of another server with the broker's certificate and keys is offered
// to the broker, which wants certificates all the same.
func TestRevokedResumption(t *testing.T) {
	s := open(t)
	careless := s.broker.tls.Clone()
	careless.SessionTicketsDisabled = false
	careless.SetSessionTicketKeys([][32]byte{{1}})
	s.broker.tls.SetSessionTicketKeys([][32]byte{{1}})
	config := s.bank.clientTLS("melb", s.bank.credential(web1))
	cache := &tickets{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	config.ClientSessionCache = cache
	take(t, careless, config)

	s.dial(web1) // nobody is refused yet
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, from.list(1, everything(web1))), 0)); err != nil {
		t.Fatal(err)
	}
	s.counted("refused_revoked", 1)
	for n := range uint64(3) {
		before := cache.offered.Load()
		s.refusedAt(config)
		s.counted("refused_revoked", 2+n)
		if cache.offered.Load() == before {
			t.Error("the client offered no ticket")
		}
	}
}

// take lets a client connect to a server once, and demands that it gets a
// ticket.
func take(t *testing.T, server, client *tls.Config) {
	t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() {
		conn, err := socket.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = tls.Server(conn, server).Write([]byte{1})
	})
	conn, err := tls.Dial("tcp", socket.Addr().String(), client)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if client.ClientSessionCache.(*tickets).held.Load() == 0 {
		t.Fatal("the client got no ticket: nothing is tried here")
	}
}

// tickets counts what a client's cache takes in and hands out.
type tickets struct {
	tls.ClientSessionCache
	held, offered atomic.Int32
}

func (c *tickets) Get(key string) (*tls.ClientSessionState, bool) {
	state, ok := c.ClientSessionCache.Get(key)
	if ok && state != nil {
		c.offered.Add(1)
	}
	return state, ok
}

func (c *tickets) Put(key string, state *tls.ClientSessionState) {
	if state != nil {
		c.held.Add(1)
	}
	c.ClientSessionCache.Put(key, state)
}

// slow is a verifier that has judged, and then waits.
type slow struct {
	Verifier
	judged, goOn chan struct{}
}

func (v *slow) VerifyConnection(cs tls.ConnectionState, usage pki.Usage, at time.Time) (pki.Identity, error) {
	id, err := v.Verifier.VerifyConnection(cs, usage, at)
	if id == web1 {
		v.judged <- struct{}{}
		<-v.goOn
	}
	return id, err
}

// A list that comes while a connection is being let in reaches that as well.
func TestRevokedWhileConnecting(t *testing.T) {
	v := &slow{judged: make(chan struct{}), goOn: make(chan struct{})}
	s := open(t, func(c *Config) { v.Verifier, c.Verifier = c.Verifier, v })
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	}()
	<-v.judged
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, from.list(1, everything(web1))), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(issuer)
	close(v.goOn)
	<-refused
	s.counted("refused_revoked", 1)
	s.counted("sessions_opened", 1)
}

// slowSet has answered about web-1 once, and then waits.
type slowSet struct {
	Revocations
	asked        atomic.Bool
	judged, goOn chan struct{}
}

func (r *slowSet) Revoked(id pki.Identity, leaf *x509.Certificate) bool {
	revoked := r.Revocations.Revoked(id, leaf)
	if id == web1 && r.asked.CompareAndSwap(false, true) {
		r.judged <- struct{}{}
		<-r.goOn
	}
	return revoked
}

// The last moment: a list that comes after a connection was found not to be
// revoked sweeps that already.
func TestRevokedAfterTheLastCheck(t *testing.T) {
	r := &slowSet{judged: make(chan struct{}), goOn: make(chan struct{})}
	s := open(t, func(c *Config) { r.Revocations, c.Revocations = c.Revocations, r })
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	}()
	<-r.judged
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, from.list(1, everything(web1))), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(issuer)
	close(r.goOn)
	<-refused
	s.counted("refused_revoked", 1)
	s.counted("sessions_opened", 1)
}

// The configuration's verifier need not know of revocations.
func TestRevokedWithoutTheConfiguration(t *testing.T) {
	s := open(t, func(c *Config) {
		c.TLS.VerifyConnection = func(tls.ConnectionState) error { return nil }
	})
	s.broker.verifier = s.bank.verifier()
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, from.list(1, everything(web1))), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(issuer)
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	s.counted("refused_revoked", 1)
}

// Lists that do not hold reach nobody and end nothing, whoever publishes them.
func TestListsThatDoNotHold(t *testing.T) {
	s := open(t)
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	reader, sensor := s.connect(monitor), s.connect(web1)
	s.subscribe(reader, 1, revocationsFilter)
	first := from.signed(revocationsTopic, from.list(5))
	if err := issuer.Send(pub(revocationsTopic, first, 0)); err != nil {
		t.Fatal(err)
	}
	s.message(reader)
	many := make([]wire.Revoked, wire.MaxRevoked+1)
	for i := range many {
		many[i] = wire.Revoked{Sender: fmt.Sprintf("melb/sensor/s%d", i), Before: 1}
	}
	web1s := everything(web1)
	// A captured issuer, or one whose MQTT identity somebody else uses.
	as := func(id pki.Identity) []byte {
		return from.sealWith(from.header(revocationsTopic), from.list(6, web1s), s.sender(id).signer)
	}
	tests := []struct {
		name   string
		raw    []byte
		reason string
	}{
		{"unsigned", from.sealWith(from.header(revocationsTopic), from.list(6, web1s), nil), "unsigned"},
		{"signed by a monitor", as(monitor), "sender"},
		{"signed by another site's issuer", as(identity("perth", pki.RoleIssuer, "issuer-1")), "sender"},
		{"signed by another issuer", as(identity("melb", pki.RoleIssuer, "issuer-2")), "sender"},
		{"a broken signature", bytes.Replace(from.signed(revocationsTopic, from.list(6, web1s)), []byte(`"number":6`), []byte(`"number":7`), 1), "signature"},
		{"a lower number", from.signed(revocationsTopic, from.list(4, web1s)), "content"},
		{"the same number over other entries", from.signed(revocationsTopic, from.list(5, web1s)), "content"},
		{"number 2^53", from.signed(revocationsTopic, from.list(1<<53, web1s)), "content"},
		{"257 entries", from.signed(revocationsTopic, from.list(6, many...)), "content"},
		{"an entry twice", from.signed(revocationsTopic, from.list(6, web1s, web1s)), "content"},
		{"no list", from.signed(revocationsTopic, []byte(`{"revoked":[]}`)), "content"},
		{"replayed", first, "redelivered"},
	}
	counts := map[string]uint64{}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.t = t
			if err := issuer.Send(pub(revocationsTopic, test.raw, 0)); err != nil {
				t.Fatal(err)
			}
			s.ping(issuer)
			counts[test.reason]++
			s.counted("envelope_"+test.reason, counts[test.reason])
			s.silent(reader)
			s.alive(sensor)
		})
	}
	s.t = t
	if s.revoked.Number() != 5 {
		t.Errorf("number %d is in force", s.revoked.Number())
	}
	// Nobody else may publish there, and no other site's issuer comes in.
	m := s.connect(identity("melb", pki.RoleMonitor, "monitor-2"))
	if err := m.Send(pub(revocationsTopic, from.signed(revocationsTopic, from.list(6, web1s)), 0)); err != nil {
		t.Fatal(err)
	}
	s.closed(m)
	s.counted("refused_not_publisher", 1)
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(identity("perth", pki.RoleIssuer, "issuer-1"))))
	s.alive(sensor)
	s.counted("refused_revoked", 0)
}

// An issuer's list about itself ends its own session, after everybody got it.
func TestIssuerRevokesItself(t *testing.T) {
	s := open(t)
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	reader := s.connect(monitor)
	s.subscribe(reader, 1, revocationsFilter)
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, from.list(1, everything(issuer1))), 1)); err != nil {
		t.Fatal(err)
	}
	s.message(reader)
	s.closed(issuer)
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(issuer1)))
	s.counted("refused_revoked", 2)
	s.alive(reader)
}

// A list that names the broker ends nothing here: whoever dials a broker judges
// it.
func TestListThatRevokesTheBroker(t *testing.T) {
	s := open(t)
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	reader := s.connect(monitor)
	s.subscribe(reader, 1, revocationsFilter)
	payload := from.list(1, everything(identity("melb", pki.RoleBroker, "broker-1")))
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, payload), 0)); err != nil {
		t.Fatal(err)
	}
	s.message(reader)
	s.alive(reader, issuer, s.connect(web1))
}

// A broker starts with the list that it kept. While the issuer is down that gets
// stale, and telemetry goes on.
func TestOldListAndNoIssuer(t *testing.T) {
	s := open(t)
	from := s.sender(issuer1)
	issuer := s.connect(issuer1)
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, from.list(1, everything(web1))), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(issuer)
	if err := s.revoked.Sync(); err != nil {
		t.Fatal(err)
	}
	s.stop()
	set := s.bank.revocations(t, s.file, s.broker.log)
	if age, stale := set.Stale(time.Now().Add(revocation.MaxAge + time.Minute)); !stale {
		t.Errorf("%s old, and fresh", age)
	}
	verifier := s.bank.verifier().WithRevocations(set)
	s.run(Config{Site: "melb", Host: hostOf("melb"), Address: "127.0.0.1:0", TLS: s.bank.serverTLS("melb", verifier), Verifier: verifier, Policy: s.broker.policy(),
		Windows: s.windows, Revocations: set, Log: s.broker.log})
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	s.counted("refused_revoked", 1)
	reader, sensor := s.connect(monitor), s.connect(web2)
	const topic = "melb/bank_server/metrics/cpu/web-2"
	s.subscribe(reader, 0, cpuFilter)
	if err := sensor.Send(pub(topic, s.sender(web2).reading(topic), 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); got.Topic != topic {
		t.Errorf("got %s", got.Topic)
	}
}

// What a session had sent before it ended as revoked is not passed on after it.
func TestRevokedPublisher(t *testing.T) {
	b, s := offline(t)
	from := (&space{t: t, bank: newBank(t)}).sender(web1)
	if r, _ := b.inspect(s, cpuTopic, from.reading(cpuTopic), time.Now()); r != envelope.Accepted {
		t.Fatal(r)
	}
	s.blame(Revoked)
	if r, _ := b.inspect(s, cpuTopic, from.reading(cpuTopic), time.Now()); r != envelope.Revoked {
		t.Errorf("reason %s", r.String())
	}
}

// A list may ask for a higher generation of a sender's key.
func TestMinimumGeneration(t *testing.T) {
	s := open(t)
	issuer, from := s.connect(issuer1), s.sender(issuer1)
	reader := s.connect(monitor)
	s.subscribe(reader, 0, cpuFilter)
	payload := from.list(1, wire.Revoked{Sender: web1.Sender(), Before: 1, Generation: 2})
	if err := issuer.Send(pub(revocationsTopic, from.signed(revocationsTopic, payload), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(issuer)
	sensor, reading := s.connect(web1), s.sender(web1)
	old, young := reading.header(cpuTopic), reading.header(cpuTopic)
	young.KeyID.Generation = 2
	if err := sensor.Send(pub(cpuTopic, reading.seal(old), 0), pub(cpuTopic, reading.seal(young), 0)); err != nil {
		t.Fatal(err)
	}
	if m, err := envelope.Parse(s.message(reader).Payload, envelope.MaxMessage); err != nil || m.KeyID().Generation != 2 {
		t.Errorf("%s, %v", m.KID, err)
	}
	s.counted("envelope_unknown_key", 1)
}

// lists are revocations that only say what became of a list.
type lists struct {
	nothing
	err error
}

func (l *lists) Apply([]byte, time.Time) (bool, error) { return false, l.err }

// While the broker's own clock is in doubt it passes on lists that it cannot
// apply: receivers judge freshness by theirs.
func TestListInDoubt(t *testing.T) {
	b, s := offline(t)
	for err, want := range map[error]envelope.Reason{
		nil: envelope.Accepted, envelope.Stale: envelope.Accepted, envelope.Future: envelope.Accepted,
		envelope.BadSignature: envelope.BadSignature, envelope.Revoked: envelope.Revoked, errors.New("x"): envelope.BadContent,
	} {
		b.revocations = &lists{err: err}
		if got := b.revoke(s, nil, time.Now()); got != want {
			t.Errorf("%v: %s", err, got.String())
		}
	}
}

// A session ends with its certificate by the wall clock, wherever its timer
// stands: a clock that was behind is set, a machine wakes up.
func TestExpiryByTheWallClock(t *testing.T) {
	s := open(t)
	sensor, other := s.connect(web1), s.dialAs(s.bank.issue(web2, 4*time.Hour))
	if code, err := other.Connect(rawmqtt.ConnectOptions{ClientID: web2.ClientID(), KeepAlive: 30}); err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	s.broker.sweepSessions(time.Now().Add(50*time.Minute), nil)
	s.alive(sensor, other)
	s.broker.sweepSessions(time.Now().Add(2*time.Hour), nil)
	s.closed(sensor)
	s.counted("refused_expired", 1)
	s.alive(other)
}
