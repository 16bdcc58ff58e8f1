package metrics

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/clocks"
	"levee/internal/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// part is a Source.
type part struct {
	watch  *clocks.Watch
	kernel *clocks.Kernel
}

func newPart() *part {
	return &part{watch: clocks.NewWatch(30*time.Second, quiet()), kernel: clocks.NewKernel(quiet())}
}

func (p *part) Accepted() uint64 { return 5 }
func (p *part) Refusals() map[envelope.Reason]uint64 {
	return map[envelope.Reason]uint64{envelope.Stale: 3}
}
func (p *part) Windows() replay.Stats  { return replay.Stats{Senders: 2, Capacity: 4096} }
func (p *part) Clocks() *clocks.Watch  { return p.watch }
func (p *part) Kernel() *clocks.Kernel { return p.kernel }
func (p *part) Online() bool           { return true }
func (p *part) Certificates() (leaf, authority, root *x509.Certificate) {
	ends := func(at int64) *x509.Certificate { return &x509.Certificate{NotAfter: time.Unix(at, 0)} }
	return ends(1e9), ends(2e9), ends(3e9)
}
func (p *part) Losses() (uint64, uint64) { return 7, 8 }
func (p *part) Brokers() map[string]bool { return map[string]bool{"b1": true, "b2": false} }
func (p *part) Duplicates() uint64       { return 9 }
func (p *part) Outbox() (spool.Stats, bool) {
	return spool.Stats{Messages: 10, Bytes: 11, Oldest: 12 * time.Second, Acknowledgements: 14, Backfilled: 13, Failed: true}, true
}
func (p *part) heard(sender string, d time.Duration, accepted bool) {
	p.watch.Hear(clocks.Reading{Sender: []byte(sender), Boot: 1, Seq: 1, Offset: d, Accepted: accepted}, time.Now())
}

// serve runs a server on a free port until the test ends.
func serve(t *testing.T, p Source, more ...Family) *Server {
	t.Helper()
	s, err := Open(Config{Listen: "127.0.0.1:0", Source: p, More: more, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if s.server.ReadTimeout != readTimeout || s.server.ReadHeaderTimeout != readTimeout || s.server.WriteTimeout != writeTimeout {
		t.Error("a deadline is missing")
	}
	s.server.ReadTimeout, s.server.ReadHeaderTimeout, s.server.WriteTimeout = time.Second, time.Second, 2*time.Second // a test does not wait for long
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Around(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// ask sends one request over a socket of its own and returns the answer.
func ask(t *testing.T, s *Server, request string) (code int, header http.Header, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "HOST", s.Address())); err != nil {
		t.Fatal(err)
	}
	asked, _ := http.NewRequest(strings.SplitN(request, " ", 2)[0], "http://x/", nil)
	r, err := http.ReadResponse(bufio.NewReader(conn), asked)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header, string(b)
}

const get = "GET /metrics HTTP/1.1\r\nHost: HOST\r\n\r\n"

// parse reads the text with the library's own reader, and returns the values of
// counters and gauges by name and label.
func parse(t *testing.T, text string) map[string]float64 {
	t.Helper()
	reader := expfmt.NewTextParser(model.LegacyValidation)
	families, err := reader.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	values := make(map[string]float64)
	for name, family := range families {
		for _, m := range family.Metric {
			key := name
			for _, label := range m.Label {
				key += "{" + label.GetValue() + "}"
			}
			switch {
			case m.Counter != nil:
				if values[key] = m.Counter.GetValue(); !strings.HasSuffix(name, "_total") {
					t.Errorf("%s is a counter", name)
				}
			case m.Gauge != nil:
				values[key] = m.Gauge.GetValue()
			}
		}
	}
	return values
}

func TestFigures(t *testing.T) {
	p := newPart()
	p.heard("melb/sensor/web-1", 1500*time.Millisecond, true)
	p.heard("melb/sensor/web-2", -40*time.Second, false)
	code, header, body := ask(t, serve(t, p), get)
	if code != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), "text/plain; version=0.0.4; charset=utf-8") ||
		header.Get("Cache-Control") != "no-store" || header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d, %v", code, header)
	}
	values := parse(t, body)
	for key, want := range map[string]float64{
		"levee_messages_accepted_total":                         5,
		"levee_messages_refused_total{stale}":                   3,
		"levee_clock_offset_seconds{melb/sensor/web-1}":         1.5,
		"levee_clock_refused_offset_seconds{melb/sensor/web-2}": -40,
		"levee_clock_doubted":                                   0,
		"levee_clock_unlisted_total":                            0,
		"levee_replay_senders":                                  2,
		"levee_replay_capacity":                                 4096,
		"levee_connected":                                       1,
		"levee_certificate_not_after_seconds{own}":              1e9,
		"levee_certificate_not_after_seconds{authority}":        2e9,
		"levee_certificate_not_after_seconds{root}":             3e9,
		"levee_broker_connected{b1}":                            1,
		"levee_broker_connected{b2}":                            0,
		"levee_messages_duplicate_total":                        9,
		"levee_messages_overflowed_total":                       7,
		"levee_messages_given_up_total":                         8,
		"levee_outbox_messages":                                 10,
		"levee_outbox_bytes":                                    11,
		"levee_outbox_oldest_seconds":                           12,
		"levee_outbox_backfilled_total":                         13,
		"levee_outbox_acknowledgements_total":                   14,
		"levee_outbox_disk_failed":                              1,
	} {
		if got, ok := values[key]; !ok || got != want {
			t.Errorf("%s is %v, %v", key, got, ok)
		}
	}
	// Every reason stands there from the start, so that a rule can count on it.
	for _, r := range envelope.Reasons() {
		if _, ok := values["levee_messages_refused_total{"+r.String()+"}"]; !ok {
			t.Errorf("no %s", r)
		}
	}
	for _, key := range []string{"go_goroutines", "process_resident_memory_bytes", "process_open_fds"} {
		if values[key] <= 0 {
			t.Errorf("%s is %v", key, values[key])
		}
	}
	if !strings.Contains(body, `levee_build_info{version="`) {
		t.Error("no build")
	}
	// What is not known is absent, and not 0.
	for _, key := range []string{"levee_clock_synchronised", "levee_clock_max_error_seconds",
		"levee_clock_offset_seconds{melb/sensor/web-2}", "levee_clock_refused_offset_seconds{melb/sensor/web-1}"} {
		if _, ok := values[key]; ok {
			t.Errorf("%s has a value", key)
		}
	}
}

// text returns the figures without a connection.
func text(s *Server) string {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://"+s.Address()+"/metrics", nil))
	return w.Body.String()
}

// Nothing in a label or a help text can become another line.
func TestLabelsAreInert(t *testing.T) {
	odd := Family{Name: "odd", Help: "x\\y\nz", Type: Gauge, Label: "sender", Collect: func(add func(string, float64)) {
		add("a\"} 1\nb 2\\", 0.1)
		add("\xff\u2028", math.Inf(1))
		add("n", math.Inf(-1))
		add("m", math.NaN())
	}}
	s, err := Open(Config{Listen: "127.0.0.1:0", Source: newPart(), More: []Family{odd}, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var lines []string
	for line := range strings.Lines(text(s)) {
		if strings.Contains(line, "odd") || strings.HasPrefix(line, "b ") {
			lines = append(lines, line)
		}
	}
	want := []string{"# HELP odd x\\\\y\\nz\n", "# TYPE odd gauge\n", "odd{sender=\"a\\\"} 1\\nb 2\\\\\"} 0.1\n",
		"odd{sender=\"m\"} NaN\n", "odd{sender=\"n\"} -Inf\n", "odd{sender=\"\uFFFD\u2028\"} +Inf\n"}
	if !slices.Equal(lines, want) {
		t.Errorf("%q", lines)
	}
}

func TestOnlyReading(t *testing.T) {
	s := serve(t, newPart())
	_, port, _ := net.SplitHostPort(s.Address())
	for name, test := range map[string]struct {
		request string
		code    int
	}{
		"another path":          {"GET / HTTP/1.1\r\nHost: HOST\r\n\r\n", 404},
		"a path below":          {"GET /metrics/ HTTP/1.1\r\nHost: HOST\r\n\r\n", 404},
		"the profiler":          {"GET /debug/pprof/ HTTP/1.1\r\nHost: HOST\r\n\r\n", 404},
		"POST":                  {"POST /metrics HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n", 405},
		"OPTIONS":               {"OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n", 404},
		"a body":                {"GET /metrics HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\n\r\nx", 400},
		"a body without an end": {"GET /metrics HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		"another name, rebound": {"GET /metrics HTTP/1.1\r\nHost: evil.example:" + port + "\r\n\r\n", 421},
		"no port":               {"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 421},
		"no host":               {"GET /metrics HTTP/1.0\r\n\r\n", 421},
		"by address":            {get, 200},
		"by name":               {"GET /metrics HTTP/1.1\r\nHost: localhost:" + port + "\r\n\r\n", 200},
	} {
		code, _, body := ask(t, s, test.request)
		if code != test.code || code != 200 && strings.Contains(body, "levee_") {
			t.Errorf("%s: %d, %q", name, code, body)
		}
	}
	if code, _, body := ask(t, s, "HEAD /metrics HTTP/1.1\r\nHost: HOST\r\n\r\n"); code != 200 || body != "" {
		t.Errorf("HEAD: %d, %q", code, body)
	}
}

func TestOnlyLoopback(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:9100", "localhost:0", "127.0.0.1", "nonsense"} {
		if s, err := Open(Config{Listen: listen, Source: newPart(), Log: quiet()}); err == nil {
			t.Errorf("%q: it listens at %s", listen, s.Address())
			s.Close()
		} else if !strings.Contains(err.Error(), "metrics_listen") {
			t.Errorf("%q: %v", listen, err)
		}
	}
}

// Without an address nothing listens, and the part runs all the same.
func TestOff(t *testing.T) {
	s, err := Open(Config{Source: newPart(), Log: quiet()})
	if err != nil || s != nil {
		t.Fatalf("%v, %v", s, err)
	}
	ran := errors.New("ran")
	if err := s.Around(t.Context(), func(context.Context) error { return ran }); err != ran || s.Close() != nil || s.Address() != "" {
		t.Errorf("%v", err)
	}
}

func TestNamesAreUnique(t *testing.T) {
	again := Single("levee_replay_senders", "x", Gauge, func() float64 { return 0 })
	if s, err := Open(Config{Listen: "127.0.0.1:0", Source: newPart(), More: []Family{again}, Log: quiet()}); err == nil {
		s.Close()
		t.Error("a name that stands twice")
	}
	if s, err := Open(Config{Listen: "127.0.0.1:0", Log: quiet()}); err == nil {
		s.Close()
		t.Error("no source")
	}
}

// A failure of the listener never stops the part.
func TestLostListener(t *testing.T) {
	s, err := Open(Config{Listen: "127.0.0.1:0", Source: newPart(), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ran := false
	if err := s.Around(t.Context(), func(context.Context) error { ran = true; return nil }); err != nil || !ran {
		t.Errorf("%v, %v", ran, err)
	}
}

// Whoever opens connections and says nothing takes no more than the bound, and
// for no longer than the deadlines; whoever comes beyond it is closed at once.
func TestConnectionsAreBounded(t *testing.T) {
	s := serve(t, newPart())
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for range maxConnections {
		c, err := net.Dial("tcp", s.Address())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET /metrics HT")
		held = append(held, c)
	}
	for range 3 {
		c, err := net.Dial("tcp", s.Address())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		_, _ = fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: %s\r\n\r\n", s.Address())
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("one too many: %v", err)
		}
		c.Close()
	}
	empty(t, s)
	if code, _, _ := ask(t, s, get); code != 200 {
		t.Errorf("afterwards: %d", code)
	}
}

// Who asks and does not read is let go, and holds up nobody meanwhile: neither
// other readers nor what the figures are read from.
func TestSlowReader(t *testing.T) {
	p := newPart()
	large := Family{Name: "levee_test", Help: "More than sockets hold.", Type: Gauge, Label: "sender", Collect: func(add func(string, float64)) {
		for i := range 20_000 {
			add(fmt.Sprintf("%0600d", i), 1)
		}
	}}
	s := serve(t, p, large)
	slow, err := net.Dial("tcp", s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	_ = slow.(*net.TCPConn).SetReadBuffer(4 << 10)
	if _, err := fmt.Fprintf(slow, "GET /metrics HTTP/1.1\r\nHost: %s\r\n\r\n", s.Address()); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Read(make([]byte, 1)); err != nil { // it is being answered
		t.Fatal(err)
	}
	p.heard("melb/sensor/web-1", time.Second, true)
	other, err := net.Dial("tcp", s.Address())
	if err != nil {
		t.Fatal(err)
	}
	_ = other.SetDeadline(time.Now().Add(time.Minute))
	if _, err := fmt.Fprintf(other, "GET /metrics HTTP/1.1\r\nHost: %s\r\n\r\n", s.Address()); err != nil {
		t.Fatal(err)
	}
	answered := false
	for lines := bufio.NewScanner(other); !answered && lines.Scan(); {
		answered = strings.Contains(lines.Text(), `sender="melb/sensor/web-1"`)
	}
	if !answered {
		t.Error("another reader is held up")
	}
	other.Close()
	empty(t, s)
}

// empty waits until the server holds no connection. It is a bound on a hang.
func empty(t *testing.T, s *Server) {
	t.Helper()
	for range 1000 {
		s.listener.mu.Lock()
		open := s.listener.open
		s.listener.mu.Unlock()
		if open == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("connections are held without end")
}

// A request has a bound as well.
func TestLongHeader(t *testing.T) {
	s := serve(t, newPart())
	conn, err := net.Dial("tcp", s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = fmt.Fprintf(conn, "GET /metrics HTTP/1.1\r\nHost: %s\r\nX: %s\r\n\r\n", s.Address(), strings.Repeat("x", 64<<10))
	b, _ := io.ReadAll(conn) // an answer, or an end
	if strings.Contains(string(b), "200 OK") {
		t.Errorf("%q", b)
	}
}

// Readers at the same time as messages: the race detector looks on.
func TestReadersAtOnce(t *testing.T) {
	p := newPart()
	s := serve(t, p)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 50 {
				p.heard(fmt.Sprintf("melb/sensor/web-%d-%d", i, j), time.Second, true)
			}
			if len(text(s)) == 0 {
				t.Error("nothing")
			}
		})
	}
	all.Wait()
	if n := strings.Count(text(s), "levee_clock_offset_seconds{"); n != 400 {
		t.Errorf("%d senders", n)
	}
}
