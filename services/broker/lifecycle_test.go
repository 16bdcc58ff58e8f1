package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"levee/pki"
	"levee/test/rawmqtt"
)

// P9, P10: one live session for each client identifier, the newest, with
// nothing of the one before.
func TestP9NewestWins(t *testing.T) {
	s := open(t)
	old := s.connect(web1)
	s.subscribe(old, 1, "public/#")
	young := s.connect(web1)
	s.closed(old)
	s.counted("refused_superseded", 1)
	if err := s.connect(guest).Send(pub("public/a", []byte("a"), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(young) // no subscription was inherited
	other := s.connect(identity("melb", pki.RoleGuest, "guest-2"))
	for range 3 {
		s.ping(young)
		s.ping(other)
	}
	if n := s.broker.server.Clients.Len(); n != 3 {
		t.Errorf("mochi knows %d clients, want 3", n)
	}
}

func TestP10ManyConnectsAtOnce(t *testing.T) {
	s := open(t)
	for round := range 10 {
		var wg sync.WaitGroup
		clients := make([]*rawmqtt.Client, 16)
		for i := range clients {
			clients[i] = s.dial(web1)
		}
		start := make(chan struct{})
		for _, c := range clients {
			wg.Go(func() {
				<-start
				_, _ = c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30})
			})
		}
		close(start)
		wg.Wait()
		var alive atomic.Int32
		for _, c := range clients {
			wg.Go(func() {
				if c.Ping() == nil {
					alive.Add(1)
				}
			})
		}
		wg.Wait()
		if alive.Load() != 1 {
			t.Fatalf("round %d: %d sessions are alive", round, alive.Load())
		}
		if cl, ok := s.broker.server.Clients.Get(web1.ClientID()); !ok || cl.Closed() {
			t.Fatalf("round %d: mochi does not know the one that is alive", round)
		}
		for _, c := range clients {
			c.Close()
		}
	}
}

// A session that ends and begins again at once keeps its subscriptions: mochi
// by itself may take the new session's away with the old one's.
func TestP10ReconnectKeepsTheNewSubscription(t *testing.T) {
	s := open(t)
	writer := s.connect(identity("melb", pki.RoleRecorder, "recorder-1"))
	for i := range 100 {
		c := s.connect(web1)
		s.subscribe(c, 0, "public/#")
		if err := writer.Send(pub("public/a", fmt.Append(nil, i), 0)); err != nil {
			t.Fatal(err)
		}
		if got := s.message(c); string(got.Payload) != fmt.Sprint(i) {
			t.Fatalf("round %d: got %s", i, got.Payload)
		}
	}
}

// P26: a session ends with its certificate.
func TestP26CertificateEndsWithinASession(t *testing.T) {
	t.Parallel()
	s := open(t)
	cert := s.bank.issue(web1, 3*time.Second)
	c := s.dialAs(cert)
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30}); err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	s.closed(c)
	if now := time.Now(); now.Before(cert.Leaf.NotAfter) {
		t.Errorf("closed %v before the certificate's end", cert.Leaf.NotAfter.Sub(now))
	}
	s.counted("refused_expired", 1)
}

func TestP19KeepAliveEndsASilentSession(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := s.dial(web1)
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 10}); err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	if err := c.Closed(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	s.counted("refused_timed_out", 1)
}

// fast makes the limits of every role so high that only the broker's own
// bounds count.
func fast(file string) string {
	for _, role := range strings.Split(file, "\n") {
		if _, after, ok := strings.Cut(role, "limits: {messages_per_second: "); ok {
			file = strings.ReplaceAll(file, after, "100000, burst: 100000, bytes_per_second: 268435456, max_message_bytes: 65536, subscriptions: 32}")
		}
	}
	return file
}

// P6: a subscriber that stops reading holds up nobody, and loses its session.
func TestP6SlowReaderHoldsUpNobody(t *testing.T) {
	s := open(t, rules(t, fast, bounded("queue_bytes: 262144", "write_timeout: 1m")))
	slow := s.connect(web2)
	s.subscribe(slow, 1, "public/#") // and never reads again
	honest := s.connect(monitor)
	s.subscribe(honest, 1, "public/#")
	last := make(chan error, 1)
	go func() {
		for {
			p, err := honest.Expect(rawmqtt.TypePublish)
			if err != nil {
				last <- err
				return
			}
			m, _ := p.Message()
			if m.Topic == "public/last" {
				last <- nil
				return
			}
			_ = honest.Send(rawmqtt.Ack(rawmqtt.TypePuback, m.ID))
		}
	}()
	writer := s.connect(guest)
	block := make([]byte, 4000)
	for i := range 8000 { // 32 MB, several times what the kernel holds
		if err := writer.Send(pub("public/a", block, uint16(i+1))); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Expect(rawmqtt.TypePuback); err != nil {
			t.Fatalf("message %d was held up: %v", i, err)
		}
	}
	if err := writer.Send(pub("public/last", nil, 0)); err != nil {
		t.Fatal(err)
	}
	if err := <-last; err != nil {
		t.Errorf("the honest reader: %v", err)
	}
	s.counted("refused_slow_reader", 1)
}

// P8: an error of accept is not the end.
func TestP8AcceptErrors(t *testing.T) {
	s := open(t)
	b, socket := s.broker, &flakySocket{errs: 4}
	var err error
	if socket.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	d, err := newDoor(socket, b)
	if err != nil {
		t.Fatal(err)
	}
	go d.accept()
	defer d.close()
	c, err := rawmqtt.Dial(socket.Addr().String(), s.bank.clientTLS("melb", s.bank.credential(web1)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30}); err != nil || code != 0 {
		t.Errorf("after errors of accept: code %d, %v", code, err)
	}
	s.counted("accept_errors", 4)
}

// A socket that was closed behind the broker's back is one, and Run says so.
func TestLostSocketEndsRun(t *testing.T) {
	s := open(t)
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Config{
		Site: "melb", Host: hostOf("melb"), TLS: s.bank.serverTLS("melb", s.bank.verifier()), Verifier: s.bank.verifier(),
		Policy: s.broker.policy(), Windows: s.windows, Revocations: s.revoked, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = socket.Close()
	if err := serve(t.Context(), socket, []*Broker{b}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve: %v", err)
	}
}

// flakySocket fails to accept so many times.
type flakySocket struct {
	net.Listener
	errs int
	wrap func(net.Conn) net.Conn
}

func (f *flakySocket) Accept() (net.Conn, error) {
	if f.errs > 0 {
		f.errs--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	conn, err := f.Listener.Accept()
	if err == nil && f.wrap != nil {
		conn = f.wrap(conn)
	}
	return conn, err
}

// trapConn panics at a read once it is armed: a defect in the midst of mochi's
// reading, where no hook recovers.
type trapConn struct {
	net.Conn
	armed *atomic.Bool
}

func (c trapConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.armed.Load() {
		panic("trap")
	}
	return n, err
}

// P3: a panic ends its own connection and leaves no session behind.
func TestP3PanicLeavesNoSessionBehind(t *testing.T) {
	s := open(t)
	b, armed := s.broker, new(atomic.Bool)
	socket := &flakySocket{wrap: func(c net.Conn) net.Conn { return trapConn{c, armed} }}
	var err error
	if socket.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	d, err := newDoor(socket, b)
	if err != nil {
		t.Fatal(err)
	}
	go d.accept()
	defer d.close()
	bystander := s.connect(monitor)
	c, err := rawmqtt.Dial(socket.Addr().String(), s.bank.clientTLS("melb", s.bank.credential(web1)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30}); err != nil || code != 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	s.subscribe(c, 0, "public/#")
	armed.Store(true)
	if err := c.Send(rawmqtt.Pingreq()); err != nil {
		t.Fatal(err)
	}
	s.closed(c)
	s.counted("refused_panicked", 1)
	if _, left := b.server.Clients.Get(web1.ClientID()); left {
		t.Error("mochi still knows the session")
	}
	if n := len(b.server.Topics.Subscribers("public/a").Subscriptions); n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
	s.ping(bystander)
	armed.Store(false)
	s.ping(s.connect(web1)) // the identifier is free again
	if log := s.log.String(); !strings.Contains(log, "contained a panic") || strings.Contains(log, "trap\"") {
		t.Error("the panic is not in the log, or its cause is")
	}
}

// panickyVerifier panics for one identity.
type panickyVerifier struct{ Verifier }

func (panickyVerifier) VerifyConnection(tls.ConnectionState, pki.Usage, time.Time) (pki.Identity, error) {
	panic("verifier")
}

func TestP3PanicOfTheVerifierRefuses(t *testing.T) {
	s := open(t, func(c *Config) { c.Verifier = panickyVerifier{} })
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(web1)))
	s.counted("refused_panicked", 1)
}

// P16: mochi keeps the identifiers of both directions in one table.
func TestP16SubscribeWithAnIdentifierInUse(t *testing.T) {
	s := open(t)
	reader, writer := s.connect(web2), s.connect(guest)
	s.subscribe(reader, 1, "public/#")
	if err := writer.Send(pub("public/a", []byte("a"), 0), pub("public/b", []byte("b"), 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Expect(rawmqtt.TypePuback); err != nil {
		t.Fatal(err)
	}
	s.message(reader)
	m := s.message(reader) // at QoS 1, not acknowledged
	codes, err := reader.Subscribe(m.ID, 1, "public/c")
	if err != nil || !slices.Equal(codes, []byte{1}) {
		t.Errorf("SUBSCRIBE: codes %x, %v", codes, err)
	}
	if err := reader.Send(rawmqtt.Ack(rawmqtt.TypePuback, m.ID)); err != nil {
		t.Fatal(err)
	}
	s.ping(reader)
}

// P23: no secret and no payload in the log, whatever a client does.
func TestP23LogsHoldNoSecrets(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	s := open(t)
	c := s.dial(web1)
	_, _ = c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30, Username: "u", Password: secret})
	s.closed(c)
	c = s.connect(web1)
	if err := c.Send(rawmqtt.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30, Username: "u", Password: secret})); err != nil {
		t.Fatal(err)
	}
	s.closed(c)
	c = s.connect(web1)
	if err := c.Send(pub(cpuTopic, []byte(secret), 0), pub("public/a", []byte(secret), 1), pub(monitor.Name, []byte(secret), 1)); err != nil {
		t.Fatal(err)
	}
	s.closed(c)
	c = s.dial(web1)
	_, _ = c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 30, WillTopic: "public/a", WillBody: secret})
	s.closed(c)
	s.counted("refused_will", 1)
	s.stop()
	log := s.log.String()
	if strings.Contains(log, secret) {
		t.Errorf("the log holds it:\n%s", log)
	}
	for _, want := range []string{"reason=credential", "reason=second_connect", "reason=size", "reason=not_publisher", "reason=will"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
}

// P23: what mochi logs itself.
func TestP23RedactedHandler(t *testing.T) {
	var buffer logBuffer
	log := slog.New(redacted{to: newReporter(slog.New(slog.NewTextHandler(&buffer, nil)))})
	log.Info("started", "client", "c")
	log.Warn("error processing packet", "error", errors.New("bad"), "client", "c", "pk", "secret", "packet", "secret", "will", "secret")
	log.With("pk", "secret").WithGroup("g").Error("other", "error", strings.Repeat("x", 1000), "payload", "secret")
	for range 100 {
		log.Warn("error processing packet", "client", "c")
	}
	got := buffer.String()
	if strings.Contains(got, "secret") || strings.Contains(got, "started") || strings.Count(got, "\n") != 2 ||
		!strings.Contains(got, `error=bad client=c`) || len(got) > 600 {
		t.Errorf("logged:\n%s", got)
	}
}

func TestReporterCountsWhatItLeavesOut(t *testing.T) {
	r := newReporter(slog.New(slog.DiscardHandler))
	now := time.Unix(1_700_000_000, 0)
	for i := range 5 {
		if _, due := r.due("a", now.Add(time.Duration(i)*100*time.Millisecond)); due != (i == 0) {
			t.Errorf("line %d: due = %v", i, due)
		}
	}
	if _, due := r.due("b", now); !due {
		t.Error("one key silences another")
	}
	if skipped, due := r.due("a", now.Add(time.Second)); !due || skipped != 4 {
		t.Errorf("after a second: skipped %d, due %v", skipped, due)
	}
	for i := range 2 * maxLines {
		r.due(fmt.Sprint(i), now)
	}
	if len(r.lines) > maxLines {
		t.Errorf("%d keys are remembered", len(r.lines))
	}
}

// Over its rate, a client is held back first, and ended when that lasts.
func TestRatesHoldBackAndThenEnd(t *testing.T) {
	t.Parallel()
	s := open(t)
	c := s.connect(guest) // 5 messages a second, 20 at once
	start := time.Now()
	for range 25 {
		if err := c.Send(pub("public/a", []byte("a"), 0)); err != nil {
			t.Fatal(err)
		}
	}
	s.ping(c)
	if took := time.Since(start); took < time.Second {
		t.Errorf("26 packets took %v, which is faster than the rate", took)
	}
	s.counted("messages_public", 25)

	impatient := open(t, rules(t, bounded("throttled: 1ms")))
	c = impatient.connect(guest)
	for range 25 {
		if c.Send(pub("public/a", []byte("a"), 0)) != nil {
			break
		}
	}
	impatient.closed(c)
	impatient.counted("refused_too_fast", 1)
	impatient.ping(impatient.connect(web1))
	c = impatient.connect(guest) // with the bucket as it was left
	for range 40 {
		if c.Send(rawmqtt.Pingreq()) != nil {
			break
		}
	}
	impatient.closed(c)
	impatient.counted("refused_too_fast", 2)
}

func TestBytesCountAsWell(t *testing.T) {
	s := open(t, rules(t, bounded("throttled: 1ms")))
	c := s.connect(guest) // 16 KiB a second
	for range 8 {
		if c.Send(pub("public/a", make([]byte, 4000), 0)) != nil {
			break
		}
	}
	s.closed(c)
	s.counted("refused_too_fast", 1)
}

// A session that is held back can still be ended.
func TestHeldBackSessionEnds(t *testing.T) {
	t.Parallel()
	s := open(t, rules(t, bounded("throttled: 1m")))
	c := s.connect(guest)
	for range 200 { // 36 s
		if err := c.Send(pub("public/a", []byte("a"), 0)); err != nil {
			t.Fatal(err)
		}
	}
	s.counted("messages_public", 20)
	young := s.dial(guest)
	if code, err := young.Connect(rawmqtt.ConnectOptions{ClientID: guest.ClientID(), KeepAlive: 30}); err != nil || code != 0 {
		t.Errorf("code %d, %v", code, err)
	}
	if _, err := io.Copy(io.Discard, c.Conn); err != nil {
		t.Logf("the old one: %v", err)
	}
	s.counted("refused_superseded", 1)
}

func TestRoleThatThePolicyDoesNotKnow(t *testing.T) {
	s := open(t, rules(t, withoutAuditors))
	s.refusedAt(s.bank.clientTLS("melb", s.bank.credential(identity("melb", pki.RoleAuditor, "eve"))))
	s.counted("refused_role", 1)
}

func withoutAuditors(file string) string {
	begin, end := strings.Index(file, "\n  auditor:"), strings.Index(file, "\n# What connections may cost")
	return file[:begin] + file[end:]
}

func TestConfigIsChecked(t *testing.T) {
	s := open(t)
	good := func() Config {
		return Config{
			Site: "melb", Host: hostOf("melb"), Address: "127.0.0.1:0", TLS: s.bank.serverTLS("melb", s.bank.verifier()), Verifier: s.bank.verifier(),
			Policy: s.broker.policy(), Windows: s.windows, Revocations: s.revoked, Log: slog.New(slog.DiscardHandler),
		}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no site":                   func(c *Config) { c.Site = "" },
		"the site public":           func(c *Config) { c.Site = "public" },
		"no host":                   func(c *Config) { c.Host = "" },
		"no TLS":                    func(c *Config) { c.TLS = nil },
		"no verifier":               func(c *Config) { c.Verifier = nil },
		"no policy":                 func(c *Config) { c.Policy = nil },
		"no windows":                func(c *Config) { c.Windows = nil },
		"no revocations":            func(c *Config) { c.Revocations = nil },
		"no log":                    func(c *Config) { c.Log = nil },
		"TLS 1.2":                   func(c *Config) { c.TLS.MinVersion = tls.VersionTLS12 },
		"any TLS":                   func(c *Config) { c.TLS.MinVersion = 0 },
		"certificates asked for":    func(c *Config) { c.TLS.ClientAuth = tls.VerifyClientCertIfGiven },
		"certificates not verified": func(c *Config) { c.TLS.ClientAuth = tls.RequireAnyClientCert },
		"the system's roots":        func(c *Config) { c.TLS.ClientCAs = nil },
		"no check of connections":   func(c *Config) { c.TLS.VerifyConnection = nil },
		"resumption":                func(c *Config) { c.TLS.SessionTicketsDisabled = false },
	} {
		cfg := good()
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	cfg := good()
	cfg.Address = s.broker.Addr().String()
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Run(t.Context()); err == nil {
		t.Error("an address in use was listened on")
	}
	if b.Addr() != nil {
		t.Error("an address without listening")
	}
}
