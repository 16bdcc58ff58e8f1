package session

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/clocks"
	"levee/internal/metrics"
	"levee/pki"
)

const (
	ramOfWeb2    = "melb/bank_server/metrics/ram/web-2"
	statusOfLB   = "melb/bank_server/status/rate_limiting/lb-1"
	alertOfM2    = "melb/bank_server/alerts/m2"
	clockIsWrong = "differ by more than half"
)

// figure returns a sample of a scrape.
func figure(t *testing.T, text, name string) (float64, bool) {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v, true
}

// A monitor of four senders, of which one is 20 s behind and one 40 s, over a
// real broker connection: what its log says, and what a scrape shows.
func TestWrongClocksAreVisible(t *testing.T) {
	b := melbBroker(t)
	b.start()
	log := new(logBuffer)
	s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), func(c *Config) {
		toward(c, b)
		c.Log = log.logger()
	})
	m, err := metrics.Open(metrics.Config{Listen: "127.0.0.1:0", Source: s, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	release := make(chan struct{})
	go func() {
		ended <- m.Around(t.Context(), func(context.Context) error { <-release; return nil })
	}()
	defer func() {
		close(release)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	run(t, s)
	<-s.Ready()
	web1, web2 := newSender(t, identity("melb", pki.RoleSensor, "web-1")), newSender(t, identity("melb", pki.RoleSensor, "web-2"))
	lb, m2 := newSender(t, identity("melb", pki.RoleController, "lb-1")), newSender(t, identity("melb", pki.RoleMonitor, "m2"))
	b.mu.Lock()
	c := b.conns[0]
	b.mu.Unlock()
	for range 3 {
		now := time.Now()
		c.send(
			publish("public/x", []byte("text")), // which is no protected message
			publish(statusOfLB, lb.message(statusOfLB, &ram, now, lb.signed)),
			publish(alertOfM2, m2.message(alertOfM2, &ram, now, m2.signed)),
			publish(ramTopic, web1.message(ramTopic, &ram, now.Add(-20*time.Second))),
			publish(ramOfWeb2, web2.message(ramOfWeb2, &ram, now.Add(-40*time.Second))))
	}
	eventually(t, "everything is judged", func() bool { return s.Accepted() == 9 && s.Refusals()[envelope.Stale] == 3 })

	refused := log.lines("message refused")
	if len(refused) == 0 {
		t.Fatal("no refusal is told of")
	}
	for _, want := range []string{"reason=stale", "sender=melb/sensor/web-2", "offset=40", "skew=30s", "either its clock or ours is wrong, or its messages are delayed or replayed"} {
		if !strings.Contains(refused[0], want) {
			t.Errorf("no %q in %s", want, refused[0])
		}
	}
	off := log.lines(clockIsWrong)
	if len(off) != 2 || !strings.Contains(off[0]+off[1], "sender=melb/sensor/web-1 offset=20") || !strings.Contains(off[0]+off[1], "sender=melb/sensor/web-2 offset=40") {
		t.Errorf("%q", off)
	}
	if lines := log.lines("most senders"); len(lines) > 0 {
		t.Errorf("two of four: %q", lines)
	}

	r, err := http.Get("http://" + m.Address() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b2, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b2)
	for name, from := range map[string]float64{
		`levee_clock_offset_seconds{sender="melb/sensor/web-1"}`:         20,
		`levee_clock_refused_offset_seconds{sender="melb/sensor/web-2"}`: 40,
		`levee_clock_offset_seconds{sender="melb/controller/lb-1"}`:      0,
		`levee_clock_offset_seconds{sender="melb/monitor/m2"}`:           0,
	} { // 10 s: what a slow machine may add
		if v, ok := figure(t, text, name); !ok || v < from || v > from+10 {
			t.Errorf("%s is %v, %v", name, v, ok)
		}
	}
	for name, want := range map[string]float64{
		`levee_messages_accepted_total`:                   9,
		`levee_messages_refused_total{reason="stale"}`:    3,
		`levee_messages_refused_total{reason="future"}`:   0,
		`levee_replay_senders`:                            3,
		`levee_connected`:                                 1,
		`levee_messages_refused_total{reason="replayed"}`: 0,
	} {
		if v, ok := figure(t, text, name); !ok || v != want {
			t.Errorf("%s is %v, %v", name, v, ok)
		}
	}
	for _, name := range []string{`levee_clock_offset_seconds{sender="melb/sensor/web-2"}`, `levee_clock_refused_offset_seconds{sender="melb/sensor/web-1"}`} {
		if v, ok := figure(t, text, name); ok {
			t.Errorf("%s is %v", name, v)
		}
	}
}

// A captured broker that keeps messages and brings them again later makes no
// honest sender's clock look wrong, not even to a receiver that has restarted.
func TestReplayerMovesNoFigure(t *testing.T) {
	log := new(logBuffer)
	s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), func(c *Config) { c.Log = log.logger() })
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	now := time.Now()
	var kept [][]byte
	for range 10 {
		raw := web.message(ramTopic, &ram, now)
		if _, got := verdict(&s.receiver, ramTopic, raw, now); got != envelope.Accepted {
			t.Fatal(got)
		}
		kept = append(kept, raw)
	}
	later := now.Add(47 * time.Second)
	replay := func() {
		t.Helper()
		for range 3 {
			for _, raw := range kept {
				_, err := s.receiver.open(ramTopic, raw, later)
				u, ok := errors.AsType[*Untimely](err)
				if !ok || envelope.ReasonOf(err) != envelope.Stale || u.Detail != clocks.OldNonce || u.Sender != "melb/sensor/web-1" || u.Offset/time.Second != 47 {
					t.Fatalf("%v: %+v", err, u)
				}
			}
		}
	}
	replay()
	if f := s.Clocks().Senders(later); len(f) != 1 || f[0].Missed || !f[0].Heard || f[0].Offset > time.Second {
		t.Errorf("%+v", f)
	}
	s.receiver.clocks = clocks.NewWatch(s.receiver.skew, log.logger())
	replay()
	for _, raw := range kept { // within the skew the windows refuse them
		if _, got := verdict(&s.receiver, ramTopic, raw, now.Add(20*time.Second)); got == envelope.Accepted {
			t.Fatal("accepted twice")
		}
	}
	if f := s.receiver.clocks.Senders(later); len(f) != 0 {
		t.Errorf("after a restart: %+v", f)
	}
	if lines := log.lines("level=WARN"); len(lines) > 0 {
		t.Errorf("%q", lines)
	}
}

// Who is not proven is not measured: invented senders, a wrong MAC, and readings
// that nothing vouches for.
func TestUnprovenSendersAreNotMeasured(t *testing.T) {
	now := time.Now()
	judge := openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil)
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	person := openSession(t, identity("melb", pki.RoleOperator, "ann"), nil)
	for i, offset := range []time.Duration{0, 20 * time.Second, 40 * time.Second, -40 * time.Second} {
		at := now.Add(-offset)
		spoilt := web.message(ramTopic, &ram, at)
		spoilt[len(spoilt)-10] ^= 1
		invented := "melb/bank_server/metrics/ram/web-" + strconv.Itoa(900+i)
		for _, s := range []*Session{judge, person} {
			for topic, raw := range map[string][]byte{ramTopic: spoilt, invented: forged(t, "melb/sensor/web-"+strconv.Itoa(900+i)+"/1", invented, at)} {
				_, err := s.receiver.open(topic, raw, now)
				if u, ok := errors.AsType[*Untimely](err); ok {
					t.Errorf("%s of %s: %+v", topic, offset, u)
				}
			}
			if f := s.Clocks().Senders(now); len(f) != 0 {
				t.Errorf("%+v", f)
			}
		}
	}
}

// A start that lies after a message says that the clock went back since.
func TestLateBootIsNamed(t *testing.T) {
	s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil)
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	now := time.Now()
	_, err := s.receiver.open(ramTopic, web.message(ramTopic, &ram, now, booted(uint64(now.Add(time.Hour).UnixMilli()))), now)
	if u, ok := errors.AsType[*Untimely](err); !ok || u.Reason != envelope.Future || u.Detail != clocks.LateBoot || u.Offset > time.Second {
		t.Errorf("%+v", err)
	}
	if f := s.Clocks().Senders(now); len(f) != 0 {
		t.Errorf("%+v", f)
	}
}

// A broker whose clock is months off refuses the sensor's certificate, which TLS
// 1.3 tells only after the handshake. The sensor says what that means, and what
// its own kernel says of its clock.
func TestRefusedCertificateNamesTheClocks(t *testing.T) {
	bundle := openBundle(t, identity("melb", pki.RoleBroker, "b1"))
	config := pki.ServerConfig(bundle.Credentials, bundle.Verifier)
	config.Time = func() time.Time { return time.Now().Add(300 * 24 * time.Hour) }
	b := newBroker(t, bundle.Credentials, bundle.Verifier)
	b.listener.Close()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	b.listener = handshaking{listener}
	b.start()
	log := new(logBuffer)
	s := sensorTo(t, log, b)
	run(t, s)
	eventually(t, "it is refused for its time", func() bool {
		return len(log.lines("the peer says that our certificate is not valid at this time")) > 0
	})
	line := log.lines("the peer says")[0]
	for _, want := range []string{"not connected", "by our clock it is valid, so the peer's clock or this machine's is wrong", "own_clock="} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
}

// handshaking completes TLS before it hands on a connection, and drops those
// that do not come that far.
type handshaking struct{ net.Listener }

func (l handshaking) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, ok := conn.(*tls.Conn); ok && c.Handshake() != nil {
			conn.Close()
			continue
		}
		return conn, nil
	}
}

func toText(attr any) string {
	a, _ := attr.(slog.Attr)
	return a.String()
}

// The other way round: a broker whose certificate is past.
func TestPastBrokerNamesTheClocks(t *testing.T) {
	b := melbBroker(t)
	b.start()
	log := new(logBuffer)
	s := sensorTo(t, log, b)
	config := s.tlsConfig()
	config.Time = func() time.Time { return time.Now().Add(300 * 24 * time.Hour) }
	_, err := dial(t.Context(), b.listener.Addr().String(), config)
	if err == nil {
		t.Fatal("connected")
	}
	attrs := s.lines[0].clockTrouble(err, 0)
	if len(attrs) != 2 || !strings.Contains(toText(attrs[0]), "a certificate that the peer showed is valid from") || !strings.Contains(toText(attrs[1]), "own_clock=") {
		t.Errorf("%v of %v", attrs, err)
	}
	if attrs := s.lines[0].clockTrouble(errors.New("connection refused"), 0); len(attrs) != 0 {
		t.Errorf("of another error: %v", attrs)
	}
}

// A connection that ends right after a message may have ended for it: nobody
// tells the sender, so it says what it knows and no more.
func TestEndRightAfterAMessage(t *testing.T) {
	b := melbBroker(t)
	b.puback = func(int, published) bool {
		go b.kick()
		return true
	}
	b.start()
	log := new(logBuffer)
	s := sensorTo(t, log, b)
	if err := s.Publish(ramOfWeb1, &ram); err != nil {
		t.Fatal(err)
	}
	run(t, s)
	eventually(t, "the connection is lost", func() bool { return len(log.lines("after_a_message=")) > 0 })
	if line := log.lines("after_a_message=")[0]; !strings.Contains(line, "own_clock=") || strings.Contains(line, "detail=") {
		t.Errorf("%s", line)
	}
}

// A sensor receives nothing that could tell it the time; it asks its kernel.
func TestSensorAsksItsKernel(t *testing.T) {
	b := melbBroker(t)
	b.start()
	log := new(logBuffer)
	s := sensorTo(t, log, b)
	run(t, s)
	eventually(t, "it has asked", func() bool {
		_, known := s.Kernel().State()
		return known || len(log.lines("is not known")) > 0
	})
}
