package console

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/wire"
)

func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

const boot = 0x1929c0a7f3e

var began = time.Date(2026, 3, 4, 12, 30, 45, 0, time.UTC)

// delivery is what a session hands on: a message of the topic's sender.
func delivery(t testing.TB, topic string, seq uint64, proof session.Proof, payload any, at time.Time) session.Delivery {
	t.Helper()
	parsed, err := wire.ParseTopic(topic)
	if err != nil {
		t.Fatal(err)
	}
	b, err := wire.Encode(payload)
	if err != nil {
		t.Fatal(err)
	}
	raw := fmt.Appendf(nil, "%s %d %s", topic, seq, b)
	return session.Delivery{Topic: parsed, Name: topic, Payload: b, Proof: proof, Received: at,
		Message: envelope.Message{Raw: raw, Time: at.UnixMilli(), Nonce: envelope.Nonce{Boot: boot, Seq: seq}, Payload: b}}
}

func guestSays(t testing.TB, topic, text string, at time.Time) session.Delivery {
	t.Helper()
	parsed, err := wire.ParseTopic(topic)
	if err != nil {
		t.Fatal(err)
	}
	return session.Delivery{Topic: parsed, Name: topic, Payload: []byte(text), Received: at}
}

func cpu(t testing.TB, server string, seq uint64, usage float64, at time.Time) session.Delivery {
	t.Helper()
	return delivery(t, "melb/bank_server/metrics/cpu/"+server, seq, session.ProofNone, &wire.CPU{Server: server, Interval: 1, CPUUsage: usage}, at)
}

// digest signs for the deliveries of a server, from seq first on.
func digest(t testing.TB, server string, seq, first uint64, at time.Time, covered ...session.Delivery) session.Delivery {
	t.Helper()
	h := sha256.New()
	for _, d := range covered {
		sum := sha256.Sum256(d.Message.Raw)
		h.Write(sum[:])
	}
	return delivery(t, "melb/bank_server/digests/sensor/"+server, seq, session.ProofSignature, &wire.Digest{
		Boot: envelope.FormatBoot(boot), First: first, Last: first + uint64(len(covered)) - 1, Dropped: []wire.Drop{},
		Hash: base64.RawURLEncoding.EncodeToString(h.Sum(nil))}, at)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// linked is a session that is online or not.
type linked struct{ online atomic.Bool }

func (l *linked) Online() bool           { return l.online.Load() }
func (*linked) Losses() (uint64, uint64) { return 7, 0 }

// desk is a page that runs, with no session behind it.
type desk struct {
	hub     *hub
	page    *page
	address string
}

// serve runs a page until the test ends.
func serve(t *testing.T, l link) *desk {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &desk{hub: newHub("melb", "desk-1", time.Now(), quiet()), address: listener.Addr().String()}
	s.page = newPage(listener, s.hub, l, quiet())
	done := make(chan error, 1)
	ctx := t.Context() // ends before cleanups run
	go func() { done <- s.page.run(ctx) }()
	<-s.page.ready
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

// ask sends a request and returns its answer, the beginning of it if that is a
// stream which ought not to be there.
func (s *desk) ask(t *testing.T, method, path string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+s.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		return response, ""
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// event is one event of a stream.
type event struct{ id, name, data string }

// events is a stream that a browser reads.
type events struct {
	response *http.Response
	scan     *bufio.Scanner
}

func (s *desk) events(t *testing.T, lastID string) *events {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.address+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	e := &events{response: response, scan: bufio.NewScanner(response.Body)}
	e.scan.Buffer(nil, 8<<20)
	return e
}

// next returns the next event of a name, skipping others.
func (e *events) next(t *testing.T, name string) event {
	t.Helper()
	var v event
	for e.scan.Scan() {
		field, value, _ := strings.Cut(e.scan.Text(), ": ")
		switch field {
		case "id":
			v.id = value
		case "event":
			v.name = value
		case "data":
			v.data = value
		case "":
			if v.name == name {
				return v
			}
			v = event{}
		}
	}
	t.Fatalf("the stream ended before a %s: %v", name, e.scan.Err())
	return v
}

func decode[T any](t testing.TB, data string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return v
}

// sent is what a snapshot or an update says, as a browser reads it.
type sent struct {
	Site    string `json:"site"`
	Reset   bool   `json:"reset"`
	Servers []struct {
		Name    string                 `json:"name"`
		Outcome string                 `json:"outcome"`
		Proven  bool                   `json:"proven"`
		Seen    int64                  `json:"seen"`
		Points  map[string][][]float64 `json:"points"`
	} `json:"servers"`
	Gone     []string `json:"gone"`
	Readings []struct {
		Server, Kind string
		Point        []float64
	} `json:"readings"`
	Marks    []mark     `json:"marks"`
	Alerts   []incident `json:"alerts"`
	Commands []order    `json:"commands"`
	Public   []message  `json:"public"`
	Unshown  uint64     `json:"unshown"`

	GoneAlerts   []string `json:"gone_alerts"`
	GoneCommands []string `json:"gone_commands"`
}

// told returns what the hub's next event says.
func told(t testing.TB, h *hub, at time.Time) sent {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	u, _ := h.board.changes(at)
	b, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	return decode[sent](t, string(b))
}

// everything returns what a new reader is told.
func everything(t testing.TB, h *hub, at time.Time) sent {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	b, err := json.Marshal(h.board.snapshot(at))
	if err != nil {
		t.Fatal(err)
	}
	return decode[sent](t, string(b))
}
