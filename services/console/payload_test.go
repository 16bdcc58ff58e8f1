package console

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"levee/internal/session"
	"levee/internal/wire"
)

// Nothing that came over the network ends an event, or leaves its string.
func TestPayloadsStayStrings(t *testing.T) {
	for text, want := range map[string]string{
		"a\n\ndata: {}\n\n":                       "a  data: {}  ",
		"\r\revent: snapshot\rdata: {}":           "  event: snapshot data: {}",
		`"}</script><img src=x onerror=alert(1)>`: `"}</script><img src=x onerror=alert(1)>`,
		"a\u2028\u2029b":                          "a  b",
		"\xff\xfe":                                "\uFFFD",
		"\x00\x1b[2J\u009b":                       "  [2J ",
		"\u202eno\u2066pe\u200b\ufeff":            "nope",
		"&<>":                                     "&<>",
	} {
		h := newHub("melb", "desk-1", began, quiet())
		if !h.deliver(guestSays(t, "public/lobby", text, began)) {
			t.Fatal("refused")
		}
		r, _ := h.join(eventID{}, began)
		b := string(<-r.events)
		if strings.Count(b, "\n\n") != 1 || strings.ContainsAny(b, "\r<>&\u2028\u2029") || strings.Count(b, "\ndata: ") != 1 {
			t.Errorf("%q is sent as %q", text, b)
		}
		_, data, _ := strings.Cut(b, "data: ")
		got := decode[sent](t, data)
		if len(got.Public) != 1 || got.Public[0].Text != want {
			t.Errorf("%q came as %+v", text, got.Public)
		}
	}
}

// Whatever payload is taken, readers are told of it in events that parse, and
// every number in them is one.
func FuzzPayload(f *testing.F) {
	topics := []string{"melb/bank_server/metrics/cpu/web-1", "melb/bank_server/metrics/ram/web-1", "melb/bank_server/metrics/network/web-1",
		"melb/bank_server/alerts/m1", "melb/bank_server/control/command/monitor/m1", "melb/bank_server/status/scaling/lb-1",
		"melb/bank_server/status/rate_limiting/lb-1", "melb/bank_server/digests/sensor/web-1", "public/lobby"}
	id, alert := wire.NewID(), raised("web-1")
	for i, payload := range []any{
		&wire.CPU{Server: "web-1", CPUUsage: 1e-300}, &wire.RAM{Server: "web-1", RAMUsage: 100},
		&wire.Network{Server: "web-1", Interval: 5e-324, SYNPacketCount: 1, SYNMethod: "\u202e"}, &alert,
		&wire.Command{ID: id, Command: "x", Controller: "lb-1", Server: "*", Issued: math.MaxInt64, TTL: math.MinInt64, Parameters: wire.Parameters{RatePerSecond: 1e308}},
		&wire.Status{ID: id, Controller: "lb-1", Status: wire.StatusSuccess, State: wire.StateActive, Until: math.MinInt64},
		&wire.Status{ID: id, Controller: "lb-1", Status: wire.StatusFailure, State: wire.StateRefused, Reason: "\u2028"},
		&wire.Digest{Boot: "00000000000", First: 1, Last: math.MaxUint64, Dropped: []wire.Drop{}}, map[string]string{"a": "<b>"},
	} {
		b, err := wire.Encode(payload)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), b)
	}
	f.Add(byte(2), []byte(`{"timestamp":0,"server":"web-1","interval_seconds":0.05,"active_tcp_connections":9007199254740991,"syn_packet_count":450359962737049,"syn_method":"","listen_drops":0,"listen_overflows":0,"syncookies_sent":0,"half_open":0}`))
	f.Fuzz(func(t *testing.T, which byte, payload []byte) {
		topic := topics[int(which)%len(topics)]
		d := guestSays(t, topic, string(payload), began)
		if d.Topic.Protected() {
			d = delivery(t, topic, 1, session.ProofSignature, map[string]string{}, began)
			d.Payload = payload
		}
		var logged bytes.Buffer
		h := newHub("melb", "desk-1", began, slog.New(slog.NewTextHandler(&logged, nil)))
		before, ok := h.join(eventID{}, began)
		if !ok {
			t.Fatal("nobody can read")
		}
		h.deliver(d)
		after, ok := h.join(eventID{}, began)
		if !ok || logged.Len() > 0 {
			t.Fatalf("nobody can read any more: %s", logged.String())
		}
		for _, r := range []*reader{before, after} {
			h.leave(r)
			for event := range r.events {
				checkEvent(t, event)
			}
		}
	})
}

// checkEvent requires one line of data, an object of a time and finite numbers.
func checkEvent(t *testing.T, event []byte) {
	t.Helper()
	_, data, _ := strings.Cut(string(event), "data: ")
	var v map[string]any
	if err := json.Unmarshal([]byte(data), &v); err != nil || strings.Count(strings.TrimSuffix(data, "\n\n"), "\n") != 0 {
		t.Fatalf("%q: %v", event, err)
	}
	if _, ok := v["now"].(float64); !ok {
		t.Fatalf("%q has no time", event)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, m := range v {
				walk(m)
			}
		case []any:
			for _, m := range v {
				walk(m)
			}
		case float64:
			if math.IsInf(v, 0) || math.IsNaN(v) {
				t.Fatalf("%q holds what is no number", event)
			}
		}
	}
	walk(v)
}

// What cannot be said is not said as nothing: streams end, and it is logged and
// counted.
func TestWhatCannotBeSaidEndsTheStream(t *testing.T) {
	var logged bytes.Buffer
	h := newHub("melb", "desk-1", began, slog.New(slog.NewTextHandler(&logged, nil)))
	r, _ := h.join(eventID{}, began)
	h.deliver(cpu(t, "web-1", 1, 10, began))
	h.mu.Lock()
	h.board.readings.fresh[0].Point.values = []float64{math.Inf(1)}
	h.flush(began)
	h.mu.Unlock()
	events := 0
	for event := range r.events {
		events++
		checkEvent(t, event)
	}
	if events != 2 || !strings.Contains(logged.String(), "an event could not be sent") || h.board.beat(began).Unsaid != 1 {
		t.Errorf("%d events, %d are counted, logged %q", events, h.board.unsaid, logged.String())
	}
	// What went wrong with one event is no reason to refuse all that come.
	again, ok := h.join(h.id, began)
	if !ok {
		t.Fatal("nobody can read any more")
	}
	checkEvent(t, <-again.events)
	h.board.readings.servers["web-1"].Points["cpu"][0].values[0] = math.NaN()
	h.snapshot = nil
	if _, ok := h.join(eventID{}, began); ok {
		t.Error("a stream began with nothing")
	}
}

// What a reader does not take is given up after a time.
func TestStreamHasAWriteDeadline(t *testing.T) {
	h := newHub("melb", "desk-1", time.Now(), quiet())
	w := &deadlines{header: make(http.Header), stop: h.stop}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	(&page{hub: h}).stream(w, r)
	if w.writes < 2 || len(w.set) != w.writes {
		t.Fatalf("%d writes, %d deadlines", w.writes, len(w.set))
	}
	for _, at := range w.set {
		if left := time.Until(at); left <= 0 || left > writeTimeout {
			t.Errorf("a deadline is %s away", left)
		}
	}
}

// deadlines is a connection that notes the deadlines of its writes.
type deadlines struct {
	header http.Header
	set    []time.Time
	writes int
	stop   func()
}

func (w *deadlines) Header() http.Header                 { return w.header }
func (w *deadlines) WriteHeader(int)                     {}
func (w *deadlines) SetWriteDeadline(at time.Time) error { w.set = append(w.set, at); return nil }
func (w *deadlines) FlushError() error                   { return nil }
func (w *deadlines) Write(b []byte) (int, error) {
	if w.writes++; w.writes == 2 {
		w.stop()
	}
	return len(b), nil
}
