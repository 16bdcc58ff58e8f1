package broker

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"levee/envelope/replay"
	"levee/internal/clocks"
	"levee/internal/metrics"
	"levee/pki"
)

// A client whose clock is off is told of with its offset, whether its messages
// pass or not, and a scrape shows it. Two of four do not put the broker's own
// clock in doubt.
func TestWrongClocksAreVisible(t *testing.T) {
	s := open(t)
	leaf := s.bank.credential(web1).Leaf
	part := &tenant{windows: s.windows.set, kernel: clocks.NewKernel(s.broker.log),
		certified: func() (_, _, _ *x509.Certificate) { return leaf, leaf, leaf }}
	m, err := metrics.Open(metrics.Config{Listen: "127.0.0.1:0", Source: source{s.broker, part}, More: s.broker.families(), Log: s.broker.log})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i, offset := range []time.Duration{0, 0, 20 * time.Second, 47 * time.Second} {
		id := identity("melb", pki.RoleSensor, fmt.Sprintf("web-%d", i))
		c, from, topic := s.connect(id), s.sender(id), "melb/bank_server/metrics/cpu/"+id.Name
		for range 3 {
			h := from.header(topic)
			h.Time -= offset.Milliseconds()
			raw := from.seal(h)
			if err := c.Send(pub(topic, raw, 0), pub(topic, raw, 0)); err != nil {
				t.Fatal(err)
			}
		}
		s.ping(c)
	}
	log := s.log.String()
	for _, want := range []string{
		"reason=stale identity=melb/sensor/web-3", "offset=47", "skew=30s", "either its clock or ours is wrong, or its messages are delayed or replayed",
		"by more than half of what is allowed\" sender=melb/sensor/web-2 offset=20", "by more than half of what is allowed\" sender=melb/sensor/web-3 offset=47",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log:\n%s", want, log)
		}
	}
	if strings.Contains(log, "most senders") {
		t.Error("two of four put our clock in doubt")
	}
	recorder := newAnswer()
	request, err := http.NewRequest(http.MethodGet, "http://"+m.Address()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	m.ServeHTTP(recorder, request)
	text := recorder.text.String()
	for _, want := range []string{
		`levee_clock_offset_seconds{sender="melb/sensor/web-2"} 2`, `levee_clock_refused_offset_seconds{sender="melb/sensor/web-3"} 4`,
		`levee_messages_accepted_total 9`, `levee_messages_refused_total{reason="stale"} 6`, `levee_messages_refused_total{reason="redelivered"} 9`,
		`levee_broker_sessions_opened_total 4`, `levee_broker_refused_total{reason="panicked"} 0`, `levee_replay_senders 3`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no %q in the figures:\n%s", want, text)
		}
	}
}

type answer struct {
	header http.Header
	text   strings.Builder
}

func newAnswer() *answer                      { return &answer{header: make(http.Header)} }
func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(int)             {}
func (a *answer) Write(b []byte) (int, error) { return a.text.Write(b) }

// A client whose certificate is past by the broker's clock: the log holds both
// times, and blames neither side alone.
func TestRefusedCertificateNamesTheClocks(t *testing.T) {
	s := open(t, func(cfg *Config) {
		verifier := cfg.Verifier
		cfg.TLS.VerifyConnection = func(cs tls.ConnectionState) error {
			_, err := verifier.VerifyConnection(cs, pki.UsageClient, time.Now().Add(300*24*time.Hour))
			return err
		}
	})
	c := s.dial(web1)
	s.closed(c)
	s.stop()
	if log := s.log.String(); !strings.Contains(log, "a certificate that the peer showed is valid from") || !strings.Contains(log, "its time has ended, or this machine's clock is wrong") {
		t.Errorf("%s", log)
	}
}

// One client that sends its old messages again and again, in another's name, or
// as backfill, moves no figure but its own, and that once.
func TestReplayingClientMovesNoFigure(t *testing.T) {
	s := open(t)
	c, from := s.connect(web1), s.sender(web1)
	h := from.header(cpuTopic)
	h.Time -= 40_000
	old := from.seal(h)
	other := s.sender(identity("melb", pki.RoleSensor, "web-2"))
	foreign := other.header(cpuTopic)
	foreign.Time -= 40_000
	const topic = "melb/bank_server/backfill/sensor/web-1"
	behind := from.header(topic)
	behind.Time -= 35_000
	for range 5 {
		if err := c.Send(pub(cpuTopic, old, 0), pub(cpuTopic, other.seal(foreign), 0), pub(topic, from.seal(behind), 0)); err != nil {
			t.Fatal(err)
		}
	}
	s.ping(c)
	s.counted("envelope_stale", 10)
	s.counted("envelope_sender", 5)
	f := s.broker.Clocks().Senders(time.Now())
	if len(f) != 1 || f[0].Sender != "melb/sensor/web-1" || f[0].Heard || !f[0].Missed || f[0].Refused < 39*time.Second {
		t.Errorf("%+v", f)
	}
	if log := s.log.String(); strings.Contains(log, "more than half") {
		t.Errorf("one message seen five times is a clock:\n%s", log)
	}
	s.windows.answer(func(replay.Message) replay.Verdict { return replay.Late })
	if err := c.Send(pub(cpuTopic, from.reading(cpuTopic), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(c)
	if f := s.broker.Clocks().Senders(time.Now()); len(f) != 1 || f[0].Heard {
		t.Errorf("what the windows refuse is a reading: %+v", f)
	}
	late := from.header(cpuTopic) // a start that lies after it
	late.Nonce.Boot = uint64(late.Time + 3_600_000)
	if err := c.Send(pub(cpuTopic, from.seal(late), 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(c)
	if log := s.log.String(); !strings.Contains(log, "its sender's clock went back since that start") {
		t.Errorf("%s", log)
	}
}
