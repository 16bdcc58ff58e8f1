package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// script is a console that says what the test has it say, to the real page.
type script struct {
	url     string
	mu      sync.Mutex
	refuse  bool
	streams []chan string // open or ended, the newest last
}

type object map[string]any

func newScript(t *testing.T) *script {
	t.Helper()
	s := new(script)
	files := http.FileServer(http.Dir("../../services/console/web"))
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if path.Ext(r.URL.Path) == ".js" { // the machine's own table may differ
			w.Header().Set("Content-Type", "text/javascript")
		}
		files.ServeHTTP(w, r)
	})
	mux.HandleFunc("/events", s.stream)
	server := httptest.NewServer(mux)
	s.url = server.URL + "/"
	t.Cleanup(func() {
		s.end()
		server.Close()
	})
	return s
}

func (s *script) stream(w http.ResponseWriter, r *http.Request) {
	events := make(chan string, 64)
	s.mu.Lock()
	if s.refuse {
		s.mu.Unlock()
		http.Error(w, "too many", http.StatusServiceUnavailable)
		return
	}
	s.streams = append(s.streams, events)
	s.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case e, open := <-events:
			if !open {
				return
			}
			w.Write([]byte(e))
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// say sends an event as of now on the newest stream.
func (s *script) say(t *testing.T, name string, data object) {
	t.Helper()
	if _, set := data["now"]; !set {
		data["now"] = ms(0)
	}
	b, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[len(s.streams)-1] <- fmt.Sprintf("event: %s\ndata: %s\n\n", name, b)
}

// end ends the newest stream.
func (s *script) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.streams); n > 0 && s.streams[n-1] != nil {
		close(s.streams[n-1])
		s.streams = append(s.streams[:n-1], nil)
	}
}

func (s *script) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

func (s *script) refuses(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = yes
}

// ms is a time as events have it.
func ms(ago time.Duration) int64 { return time.Now().Add(-ago).UnixMilli() }

func points(mark int) [][]any {
	return [][]any{{1, ms(3 * time.Second), 1, 10.0}, {2, ms(2 * time.Second), 1, 11.0}, {3, ms(time.Second), mark, 12.0}}
}

func scriptedAlert(monitor, id string, change object) object {
	a := object{"key": monitor + "/" + id, "id": id, "monitor": monitor, "verification": "verified", "alert": "CPU usage exceeded threshold", "server": "web-1",
		"metric": "cpu_usage", "value": 91.5, "threshold": 80, "window": 0, "raised": ms(5 * time.Minute)}
	for name, v := range change {
		a[name] = v
	}
	return a
}

func scriptedCommand(id string, status object, change object) object {
	c := object{"key": "lb-1/" + id, "id": id, "controller": "lb-1", "command": "enable_rate_limiting", "server": "web-1", "sender": "melb/monitor/m1",
		"parameters": object{"rate_per_second": 5, "burst": 10}, "verification": "verified", "received": ms(time.Minute), "issued": ms(time.Minute), "ends": ms(-time.Minute)}
	if status != nil {
		status["verification"], status["received"] = "verified", ms(time.Minute)
		c["status"] = status
	}
	for name, v := range change {
		c[name] = v
	}
	return c
}

func scriptedBeat(change object) object {
	b := object{"online": true, "since": ms(time.Hour), "refusals": object{}, "notices": []any{}, "unshown": 0, "lost": 0, "skipped": 0, "more_servers": 0,
		"monitors": []object{{"name": "m1", "heard": ms(0)}, {"name": "m2", "heard": ms(12 * time.Minute)}}}
	for name, v := range change {
		b[name] = v
	}
	return b
}

func scriptedSnapshot(change object) object {
	s := object{"site": "melb", "console": "desk-1", "started": ms(time.Hour), "reset": true, "unshown": 0, "servers": []object{
		{"name": "a-invented", "seen": ms(0), "points": object{"cpu": points(0)}},
		{"name": "web-1", "seen": ms(0), "proven": true, "outcome": "confirmed", "settled": ms(2 * time.Second), "points": object{"cpu": points(0)}},
		{"name": "web-2", "seen": ms(0), "proven": true, "outcome": "contradicted", "settled": ms(2 * time.Second), "points": object{"cpu": points(3)}},
		{"name": "web-3", "seen": ms(time.Minute), "proven": true, "outcome": "incomplete", "missing": 4, "settled": ms(time.Minute), "points": object{"cpu": points(2)}},
		{"name": "web-4", "seen": ms(-time.Hour), "proven": true, "outcome": "disowned", "unvouched": 2, "settled": ms(time.Minute), "points": object{"cpu": points(4)}},
	}}
	for name, v := range change {
		s[name] = v
	}
	return s
}

// The page says what it was told, and of what vouches for it no more than it
// was told.
func TestPage(t *testing.T) {
	page, s := openBrowser(t), newScript(t)
	page.view(t, 1440, 900, "light")
	page.do(t, request{"do": "goto", "url": s.url})
	await(t, "a stream is open", func() bool { return s.opened() == 1 })
	s.say(t, "snapshot", scriptedSnapshot(nil))
	s.say(t, "beat", scriptedBeat(nil))
	page.awaitText(t, 10*time.Second, "#fresh", "live")
	proofs(t, page)
	rows(t, page, s)
	senders(t, page, s)
	bounds(t, page, s)
	silences(t, page, s)
}

func server(name string) string { return `.server:has(h3[data-name="` + name + `"])` }

// proofs: each server's words for what vouches for it, and how its line is
// drawn.
func proofs(t *testing.T, page *browser) {
	t.Helper()
	for name, want := range map[string][]string{
		"web-1":      {"○ unconfirmed", "✓ confirmed by its digest"},
		"web-2":      {"✕ contradicted", "✕ contradicted by its own digest"},
		"web-3":      {"◐ incomplete", "4 of its messages not seen here", "silent for"},
		"web-4":      {"⊘ disowned", "2 of its messages taken back", "in the future"},
		"a-invented": {"no digest yet: nothing vouches for its readings"},
	} {
		page.awaitText(t, 10*time.Second, server(name), want...)
	}
	if names := strings.Fields(page.text(t, ".server h3")); !slices.Equal(names, []string{"web-1", "web-2", "web-3", "web-4", "a-invented"}) {
		t.Errorf("servers stand in the order %q: what nothing vouches for is not last", names)
	}
	page.awaitText(t, 10*time.Second, "#banner", "web-3, web-4 silent for more than")
	drawn := eval[[][]*float64](t, page, `import("/js/chart.js").then(({ Chart }) => {
		const c = Object.create(Chart.prototype);
		c.kind = { lines: [{ scale: "y" }] };
		const data = c.columns([[1, 1000, 1, 10], [2, 2000, 0, 11], [3, 3000, 3, 12], [4, 4000, 4, 13], [5, 60000, 1, 14]], 0);
		return [...data.slice(1), c.marks.map((m) => m[3])];
	})`)
	if got, want := spelt(drawn), "[10 - - - - 14] [10 11 12 13 - -] [3 4]"; got != want {
		t.Errorf("solid, dotted and marked are %s, not %s", got, want)
	}
	top := eval[[]float64](t, page, `import("/js/chart.js").then(({ Chart }) => [20, 1e9].map((limit) => {
		const c = Object.create(Chart.prototype);
		c.kind = { percent: false, lines: [{ scale: "y" }] };
		c.thresholds = { y: limit };
		return c.options(100, 100).scales.y.range(null, 0, 8)[1];
	}))`)
	if !slices.Equal(top, []float64{25, 10}) {
		t.Errorf("the scale reaches to %v", top)
	}
}

func spelt(lists [][]*float64) string {
	var all []string
	for _, list := range lists {
		var words []string
		for _, v := range list {
			if v == nil {
				words = append(words, "-")
			} else {
				words = append(words, fmt.Sprint(*v))
			}
		}
		all = append(all, "["+strings.Join(words, " ")+"]")
	}
	return strings.Join(all, " ")
}

func row(table, key string) string { return `#` + table + ` tr[data-key="` + key + `"]` }

// rows: what is in force is what a controller says is.
func rows(t *testing.T, page *browser, s *script) {
	t.Helper()
	active := object{"status": "success", "state": "active", "until": ms(-4 * time.Second)}
	s.say(t, "update", object{"unshown": 0, "commands": []object{
		scriptedCommand("1", active, nil),
		scriptedCommand("2", object{"status": "failure", "state": "active", "until": ms(-time.Hour)}, object{"server": "web-2"}),
		scriptedCommand("3", nil, object{"server": "web-3"}),
		scriptedCommand("4", nil, object{"server": "web-4", "ends": ms(time.Second)}),
		scriptedCommand("5", object{"status": "failure", "state": "refused", "reason": "role"}, object{"server": "web-5", "shared": true}),
	}})
	for id, want := range map[string]string{"1": "in force", "2": "failed", "3": "sent, no answer yet", "4": "no answer", "5": "refused"} {
		page.awaitText(t, 10*time.Second, row("commands", "lb-1/"+id), want)
	}
	page.awaitText(t, time.Second, row("commands", "lb-1/5"), "monitor m1; others used its id")
	if text := page.text(t, "#count-commands"); text != "1 in force" {
		t.Errorf("%q commands", text)
	}
	page.awaitText(t, 10*time.Second, row("commands", "lb-1/1"), "over") // its end has come, and nobody said so
	if text := page.text(t, "#count-commands"); text != "" {
		t.Errorf("%q after the end", text)
	}
}

// uncut requires that a usual screen shows tables whole.
func uncut(t *testing.T, page *browser) {
	t.Helper()
	if cut := page.cut(t); cut != "" {
		t.Errorf("%s is cut", cut)
	}
}

// senders: a monitor that is not heard, refusals without readings, notices.
func senders(t *testing.T, page *browser, s *script) {
	t.Helper()
	s.say(t, "update", object{"unshown": 0, "alerts": []object{scriptedAlert("m1", "a", nil)}})
	page.awaitText(t, 10*time.Second, row("alerts", "m1/a"), "open")
	if text := page.text(t, "#banner") + page.text(t, row("alerts", "m1/a")); strings.Contains(text, "heard") {
		t.Errorf("a monitor that lives is said to be silent: %q", text)
	}
	s.say(t, "update", object{"unshown": 0, "alerts": []object{scriptedAlert("m2", "b", nil), scriptedAlert("m1", "c", object{"left": ms(7 * time.Minute)})}})
	page.awaitText(t, 10*time.Second, "#banner", "Monitor m2 last heard 12 min ago: nothing may be judging.", "Monitor m1 has started anew")
	page.awaitText(t, 10*time.Second, row("alerts", "m2/b"), "open, not heard of for 12 min")
	page.awaitText(t, 10*time.Second, row("alerts", "m1/c"), "open, not heard of for 7 min")
	page.awaitText(t, 10*time.Second, "#announce", "monitor m2 is silent")
	uncut(t, page)
	page.shot(t, "scripted-silent-monitor", false)

	s.say(t, "update", object{"unshown": 0, "gone_alerts": []string{"m1/a", "m2/b", "m1/c"}, "gone": []string{"web-4", "a-invented"}})
	await(t, "the rows are gone", func() bool { return page.count(t, "#alerts tr") == 0 && page.count(t, ".server") == 3 })
	s.say(t, "snapshot", scriptedSnapshot(object{"servers": []object{{"name": "web-1", "seen": ms(time.Minute), "proven": true}}}))
	s.say(t, "beat", scriptedBeat(object{"refusals": object{"time": 7}, "crowded_alerts": 3, "crowded_commands": 1, "notices": []object{
		{"received": ms(0), "sender": "melb/sensor/web-1", "outcome": "incomplete", "first": 1, "last": 9, "count": 2},
		{"received": ms(0), "sender": "melb/sensor/web-2", "outcome": "contradicted", "first": 1, "last": 9, "count": 1}}}))
	page.awaitText(t, 10*time.Second, "#banner", "Messages of melb/sensor/web-2 disagree", "Messages of melb/sensor/web-1 do not come whole", "3 open incidents not shown", "Messages are refused (time 7) and no reading comes")
	page.awaitText(t, 10*time.Second, "#checks", "time 7", "3 open incidents gave up a place", "1 command gave up a place")
	page.shot(t, "scripted-warnings", false)

	s.say(t, "snapshot", scriptedSnapshot(object{"servers": []object{
		{"name": "web-1", "seen": ms(0), "proven": true, "sensor": object{"state": "present", "brokers": []string{"b1", "b2"}, "since": ms(time.Hour)}},
		{"name": "web-2", "seen": ms(time.Minute), "proven": true, "sensor": object{"state": "gone", "since": ms(time.Minute), "reason": "lost"}},
		{"name": "web-3", "seen": ms(time.Minute), "proven": true, "sensor": object{"state": "gone", "since": ms(time.Minute)}}}}))
	s.say(t, "beat", scriptedBeat(object{"more_absent": 7, "absent": []object{{"machine": "controller/lb-1", "state": "gone", "since": ms(time.Minute), "reason": "revoked"},
		{"machine": "sensor/web-2", "state": "gone", "since": ms(time.Minute), "reason": "lost"}, {"machine": "sensor/web-3", "state": "gone", "since": ms(time.Minute)}}}))
	page.awaitText(t, 10*time.Second, "#banner", "controller lb-1, sensor web-2, sensor web-3 and 7 more connected to no broker.")
	page.awaitText(t, 10*time.Second, "#servers", "connected at b1, b2 since ", "its sensor is connected nowhere since ", ": lost", ": unseen")
	page.awaitText(t, 10*time.Second, "#checks", "controller/lb-1 connected nowhere since ", ": revoked.", "sensor/web-3 connected nowhere since ", ": unseen.")
	uncut(t, page)
	page.shot(t, "scripted-absent", false)
}

// bounds: what holds no time is no event, and rows are as many as there may be.
func bounds(t *testing.T, page *browser, s *script) {
	t.Helper()
	s.say(t, "snapshot", scriptedSnapshot(nil))
	s.say(t, "beat", scriptedBeat(nil))
	var many []object
	for i := range 230 {
		many = append(many, scriptedAlert("m1", fmt.Sprint(i), nil))
	}
	s.say(t, "update", object{"unshown": 0, "alerts": many})
	await(t, "the newest 200 are left", func() bool { return page.count(t, "#alerts tr") == 200 })
	if page.count(t, row("alerts", "m1/229")) != 1 {
		t.Error("the newest is not among them")
	}
	s.say(t, "snapshot", object{"now": "soon", "site": "nowhere"})
	s.say(t, "update", object{"now": nil, "alerts": []object{}})
	s.say(t, "beat", scriptedBeat(nil))
	time.Sleep(600 * time.Millisecond)
	if text := page.text(t, "#site"); text != "melb" || page.count(t, "#alerts tr") != 200 {
		t.Errorf("an event without a time has an effect: site %q", text)
	}
	for _, problem := range page.problems(t) {
		t.Errorf("the browser says: %s", problem)
	}
}

// silences: what says nothing looks old, is given up, and is asked again.
func silences(t *testing.T, page *browser, s *script) {
	t.Helper()
	page.awaitText(t, 15*time.Second, "#fresh", "delayed")
	page.awaitText(t, 20*time.Second, "#banner", "Disconnected from the console: what you see is")
	await(t, "the dead stream is given up, and another is open", func() bool { return s.opened() == 2 })
	s.say(t, "beat", scriptedBeat(nil))
	page.awaitText(t, 10*time.Second, "#fresh", "live")
	s.refuses(true)
	s.end()
	page.awaitText(t, 10*time.Second, "#fresh", "disconnected")
	time.Sleep(4 * time.Second) // it is refused, and comes back by itself
	s.refuses(false)
	await(t, "it is back", func() bool { return s.opened() == 3 })
	s.say(t, "beat", scriptedBeat(nil))
	page.awaitText(t, 10*time.Second, "#fresh", "live")
}
