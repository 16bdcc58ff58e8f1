package detect

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"levee/internal/wire"
)

var start = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func stamp(seconds float64) float64 { return float64(start.Unix()) + seconds }

func detector(t *testing.T, c Config) *Detector {
	t.Helper()
	d, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// step is a reading of web-1, and what it must change.
type step struct {
	at, value, interval float64
	want                string
}

const (
	raised = wire.StateRaised
	ended  = wire.StateEnded
)

func TestIncidents(t *testing.T) {
	for _, test := range []struct {
		name   string
		config Config
		metric Metric
		steps  []step
	}{
		{"SYN exactly at the threshold", Config{}, SYN, []step{{0, 700, 5, ""}, {5, 700, 5, ""}, {10, 700, 5, ""}}},
		{"SYN above, at the first reading", Config{}, SYN, []step{{0, 701, 5, raised}}},
		{"connections exactly at", Config{}, Connections, []step{{0, 400, 5, ""}, {5, 401, 5, raised}}},
		{"CPU exactly at", Config{}, CPU, []step{{0, 80, 5, ""}, {5, 80, 5, ""}, {10, 80, 5, ""}}},
		{"RAM exactly at", Config{}, RAM, []step{{0, 80, 0, ""}, {5, 80, 0, ""}, {10, 80, 0, ""}}},

		{"CPU once is not enough", Config{}, CPU, []step{{0, 99, 5, ""}, {5, 10, 5, ""}, {10, 10, 5, ""}, {15, 99, 5, ""}}},
		{"CPU 2 in a row", Config{}, CPU, []step{{0, 99, 5, ""}, {5, 80.5, 5, raised}}},
		{"RAM 2 of 3", Config{}, RAM, []step{{0, 99, 0, ""}, {5, 10, 0, ""}, {10, 99, 0, raised}}},
		{"3 of 3", Config{CPU: Threshold{K: 3, N: 3}}, CPU, []step{
			{0, 99, 5, ""}, {5, 99, 5, ""}, {10, 79, 5, ""}, {15, 99, 5, ""}, {20, 99, 5, ""}, {25, 99, 5, raised}}},
		{"32 of 32", Config{CPU: Threshold{K: 1, N: 32}}, CPU, []step{{0, 99, 5, raised}}},

		{"ends after the hold time", Config{}, SYN, []step{
			{0, 9000, 5, raised}, {5, 10, 5, ""}, {10, 10, 5, ""}, {15, 10, 5, ""}, {19.9, 10, 5, ""}, {20, 10, 5, ended}}},
		{"at 0.8 it does not end", Config{}, SYN, []step{
			{0, 9000, 5, raised}, {5, 560, 5, ""}, {20, 560, 5, ""}, {40, 560, 5, ""}, {60, 559, 5, ""}, {75, 559, 5, ended}}},
		{"between 0.8 and 1 the hold starts again", Config{}, SYN, []step{
			{0, 9000, 5, raised}, {5, 10, 5, ""}, {10, 650, 5, ""}, {15, 10, 5, ""}, {20, 10, 5, ""}, {29, 10, 5, ""}, {30, 10, 5, ended}}},
		{"flapping is one incident", Config{}, SYN, []step{
			{0, 9000, 5, raised}, {5, 10, 5, ""}, {10, 9000, 5, ""}, {15, 10, 5, ""}, {20, 9000, 5, ""}, {25, 10, 5, ""}, {40, 10, 5, ended}}},
		{"another follows an end", Config{}, SYN, []step{
			{0, 9000, 5, raised}, {5, 10, 5, ""}, {20, 10, 5, ended}, {25, 9000, 5, raised}}},
		{"the readings before an end do not count again", Config{CPU: Threshold{K: 2, N: 32}}, CPU, []step{
			{0, 99, 5, ""}, {5, 99, 5, raised}, {10, 10, 5, ""}, {25, 10, 5, ended}, {30, 99, 5, ""}, {35, 99, 5, raised}}},
		{"hold is configurable", Config{Hold: time.Second}, SYN, []step{
			{0, 9000, 5, raised}, {5, 10, 5, ""}, {6, 10, 1, ended}}},
		{"threshold is configurable", Config{SYN: Threshold{Above: 10, Window: time.Second}}, SYN, []step{
			{0, 50, 5, ""}, {5, 51, 5, raised}}},

		{"SYN over 1 s is scaled", Config{}, SYN, []step{{0, 140, 1, ""}, {1, 141, 1, raised}}},
		{"SYN over 10 s is scaled", Config{}, SYN, []step{{0, 1400, 10, ""}, {10, 1402, 10, raised}}},
		{"SYN over less than 1 s is not scaled up", Config{}, SYN, []step{{0, 700, 0.999, ""}, {1, 701, 0.001, raised}}},
		{"SYN over no time is not scaled", Config{}, SYN, []step{{0, 700, 0, ""}, {1, 701, 0, raised}}},
		{"a level is never scaled", Config{}, Connections, []step{{0, 400, 1, ""}, {1, 401, 60, raised}}},

		{"after silence the calm must be held anew", Config{}, SYN, []step{
			{0, 9000, 5, raised}, {5, 10, 5, ""}, {66, 10, 5, ""}, {80, 10, 5, ""}, {81, 10, 5, ended}}},
		{"at the silence there is none yet", Config{}, SYN, []step{
			{0, 9000, 5, raised}, {5, 10, 5, ""}, {65, 10, 5, ended}}},
		{"readings before a silence are not in a row with those after", Config{}, CPU, []step{
			{0, 99, 5, ""}, {61, 99, 5, ""}, {66, 99, 5, raised}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := detector(t, test.config)
			var id wire.ID
			for _, s := range test.steps {
				c, err := d.Observe(at(s.at), Reading{"web-1", test.metric, s.value, s.interval, stamp(s.at)})
				if err != nil {
					t.Fatalf("at %v: %v", s.at, err)
				}
				if c.State != s.want {
					t.Fatalf("at %v: %q, want %q", s.at, c.State, s.want)
				}
				switch c.State {
				case raised:
					if c.Incident.ID == id || c.Incident.ID.IsZero() {
						t.Fatal("the incident's identifier is not new")
					}
					id = c.Incident.ID
				case ended:
					if c.Incident.ID != id {
						t.Fatal("the end is of another incident")
					}
				}
			}
		})
	}
}

// TestAtClearIsNotClear holds the lower bound at its exact value for every
// default: 0.8 in binary is not 0.8.
func TestAtClearIsNotClear(t *testing.T) {
	for metric, clear := range map[Metric]float64{CPU: 64, RAM: 64, SYN: 560, Connections: 320} {
		d := detector(t, Config{})
		now := 0.0
		observe := func(v float64) string {
			now += 20
			c, err := d.Observe(at(now), Reading{"web-1", metric, v, 5, stamp(now)})
			if err != nil {
				t.Fatal(err)
			}
			return c.State
		}
		high := kinds[metric].max
		first, second := observe(high), observe(high) // 2 of 3 for some
		if first != raised && second != raised {
			t.Fatalf("%s: not raised", metric)
		}
		for range 3 {
			if got := observe(clear); got != "" {
				t.Fatalf("%s: %q at exactly 0.8", metric, got)
			}
		}
		observe(math.Nextafter(clear, 0))
		if observe(math.Nextafter(clear, 0)) != ended {
			t.Fatalf("%s: not ended just below 0.8", metric)
		}
	}
}

func TestIncidentSaysWhatWasMeasured(t *testing.T) {
	d := detector(t, Config{})
	c, err := d.Observe(at(0), Reading{"web-1", SYN, 300, 2, stamp(0)})
	if err != nil {
		t.Fatal(err)
	}
	want := Incident{
		ID: c.Incident.ID, Server: "web-1", Metric: SYN, Value: 750, Threshold: 700,
		Window: 5 * time.Second, Raised: at(0),
	}
	if c.State != raised || c.Incident != want {
		t.Fatalf("%+v, want %+v", c, want)
	}
	if c, _ = d.Observe(at(5), Reading{"web-1", Connections, 401, 2, stamp(5)}); c.Incident.Window != 0 {
		t.Fatal("a level has a window")
	}
}

func TestRefusedReadingsChangeNothing(t *testing.T) {
	good := Reading{"web-1", SYN, 10, 5, stamp(10)}
	with := func(f func(*Reading)) Reading { r := good; f(&r); return r }
	for name, test := range map[string]struct {
		reading Reading
		want    error
	}{
		"no server":           {with(func(r *Reading) { r.Server = "" }), ErrReading},
		"no metric":           {with(func(r *Reading) { r.Metric = None }), ErrReading},
		"unknown metric":      {with(func(r *Reading) { r.Metric = metrics }), ErrReading},
		"value NaN":           {with(func(r *Reading) { r.Value = math.NaN() }), ErrReading},
		"value infinite":      {with(func(r *Reading) { r.Value = math.Inf(1) }), ErrReading},
		"value negative":      {with(func(r *Reading) { r.Value = -1 }), ErrReading},
		"value beyond exact":  {with(func(r *Reading) { r.Value = 1 << 54 }), ErrReading},
		"CPU above 100":       {with(func(r *Reading) { r.Metric, r.Value = CPU, 100.1 }), ErrReading},
		"RAM above 100":       {with(func(r *Reading) { r.Metric, r.Value = RAM, 101 }), ErrReading},
		"interval NaN":        {with(func(r *Reading) { r.Interval = math.NaN() }), ErrReading},
		"interval negative":   {with(func(r *Reading) { r.Interval = -5 }), ErrReading},
		"interval too long":   {with(func(r *Reading) { r.Interval = 3601 }), ErrReading},
		"timestamp NaN":       {with(func(r *Reading) { r.Timestamp = math.NaN() }), ErrReading},
		"timestamp infinite":  {with(func(r *Reading) { r.Timestamp = math.Inf(1) }), ErrReading},
		"timestamp negative":  {with(func(r *Reading) { r.Timestamp = -1 }), ErrReading},
		"timestamp too great": {with(func(r *Reading) { r.Timestamp = 2e11 }), ErrReading},
		"repeated":            {with(func(r *Reading) { r.Value = 9000 }), ErrLate},
		"older":               {with(func(r *Reading) { r.Value, r.Timestamp = 9000, stamp(9) }), ErrLate},
		"60 s older":          {with(func(r *Reading) { r.Value, r.Timestamp = 9000, stamp(-50) }), ErrLate},
		"too many servers":    {with(func(r *Reading) { r.Server = "web-2" }), ErrServers},
	} {
		t.Run(name, func(t *testing.T) {
			d := detector(t, Config{Servers: 1})
			if _, err := d.Observe(at(10), good); err != nil {
				t.Fatal(err)
			}
			before := *d.servers["web-1"]
			c, err := d.Observe(at(11), test.reading)
			if !errors.Is(err, test.want) || c.State != "" {
				t.Fatalf("%q, %v, want %v", c.State, err, test.want)
			}
			if *d.servers["web-1"] != before || len(d.servers) != 1 {
				t.Fatal("it changed the state")
			}
		})
	}
}

// TestClockSetBack: a clock that ran ahead must not blind us until the others
// catch up.
func TestClockSetBack(t *testing.T) {
	d := detector(t, Config{})
	if _, err := d.Observe(at(0), Reading{"web-1", SYN, 10, 5, stamp(3600)}); err != nil {
		t.Fatal(err)
	}
	c, err := d.Observe(at(5), Reading{"web-1", SYN, 9000, 5, stamp(5)})
	if err != nil || c.State != raised {
		t.Fatalf("%q, %v", c.State, err)
	}
}

func TestLateDeliveryKeepsTime(t *testing.T) {
	d := detector(t, Config{})
	d.Observe(at(0), Reading{"web-1", SYN, 9000, 5, stamp(0)})
	d.Observe(at(50), Reading{"web-1", SYN, 9000, 5, stamp(5)})
	d.Observe(at(49), Reading{"web-1", SYN, 9000, 5, stamp(10)}) // by another session
	if got := d.Sweep(at(110)); len(got) != 0 {
		t.Fatalf("silent after 60 s: %v", got)
	}
	if got := d.Sweep(at(110.1)); len(got) != 1 {
		t.Fatal("not silent")
	}
}

func TestServersAndMetricsAreApart(t *testing.T) {
	d := detector(t, Config{})
	ids := make(map[wire.ID]bool)
	for i, r := range []Reading{
		{"web-1", SYN, 9000, 5, stamp(0)}, {"web-2", SYN, 9000, 5, stamp(0)}, {"web-1", Connections, 9000, 5, stamp(0)},
	} {
		c, err := d.Observe(at(0), r)
		if err != nil || c.State != raised {
			t.Fatalf("%d: %q, %v", i, c.State, err)
		}
		ids[c.Incident.ID] = true
	}
	var open int
	for i := range d.Open() {
		if !ids[i.ID] {
			t.Fatal("an unknown incident is open")
		}
		open++
	}
	if len(ids) != 3 || open != 3 {
		t.Fatalf("%d identifiers, %d open", len(ids), open)
	}
	for range d.Open() {
		break // stopping early is allowed
	}
}

func TestSilence(t *testing.T) {
	d := detector(t, Config{})
	d.Observe(at(0), Reading{"web-1", SYN, 9000, 5, stamp(0)})
	if len(d.Sweep(at(60))) != 0 {
		t.Fatal("silent too early")
	}
	got := d.Sweep(at(61))
	if len(got) != 1 || !got[0].Silent || got[0].Server != "web-1" || got[0].Metric != SYN {
		t.Fatalf("%+v", got)
	}
	if len(d.Sweep(at(62))) != 0 {
		t.Fatal("the silence is reported twice")
	}
	for i := range d.Open() {
		if !i.Silent {
			t.Fatal("the open incident is not marked")
		}
	}
	// Another metric of the same server says nothing of this one.
	d.Observe(at(63), Reading{"web-1", CPU, 10, 5, stamp(63)})
	for i := range d.Open() {
		if !i.Silent {
			t.Fatal("a reading of CPU ended the silence of SYN")
		}
	}
	c, err := d.Observe(at(64), Reading{"web-1", SYN, 9000, 5, stamp(64)})
	if err != nil || c.State != "" {
		t.Fatalf("%q, %v: raised a second time", c.State, err)
	}
	for i := range d.Open() {
		if i.Silent {
			t.Fatal("a reading did not end the silence")
		}
	}
	if len(d.Sweep(at(200))) != 1 {
		t.Fatal("the second silence is not reported")
	}
}

func TestForget(t *testing.T) {
	d := detector(t, Config{Servers: 2})
	d.Observe(at(0), Reading{"calm", SYN, 1, 5, stamp(0)})
	d.Observe(at(0), Reading{"attacked", SYN, 9000, 5, stamp(0)})
	d.Sweep(at(3600))
	if _, err := d.Observe(at(3600), Reading{"new", SYN, 1, 5, stamp(3600)}); !errors.Is(err, ErrServers) {
		t.Fatalf("%v, want %v", err, ErrServers)
	}
	d.Sweep(at(3601))
	if _, err := d.Observe(at(3601), Reading{"new", SYN, 1, 5, stamp(3601)}); err != nil {
		t.Fatalf("the quiet server was not forgotten: %v", err)
	}
	if len(d.servers) != 2 || d.servers["attacked"] == nil {
		t.Fatal("the server with an open incident was forgotten")
	}
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]Config{
		"negative threshold":       {CPU: Threshold{Above: -1}},
		"threshold NaN":            {SYN: Threshold{Above: math.NaN()}},
		"threshold infinite":       {SYN: Threshold{Above: math.Inf(1)}},
		"CPU that cannot exceed":   {CPU: Threshold{Above: 100}},
		"K above N":                {RAM: Threshold{K: 4, N: 3}},
		"K without N":              {RAM: Threshold{K: 1}},
		"N without K":              {RAM: Threshold{N: 3}},
		"N too great":              {RAM: Threshold{K: 1, N: 33}},
		"negative K":               {RAM: Threshold{K: -1, N: 3}},
		"window of a level":        {Connections: Threshold{Window: time.Second}},
		"window too short":         {SYN: Threshold{Window: time.Millisecond}},
		"window negative":          {SYN: Threshold{Window: -time.Second}},
		"window too long":          {SYN: Threshold{Window: 2 * time.Hour}},
		"negative hold":            {Hold: -1},
		"negative silence":         {Silence: -1},
		"negative reorder":         {Reorder: -1},
		"forget less than silence": {Forget: time.Second},
		"negative servers":         {Servers: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(c); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestMetricNames(t *testing.T) {
	for m, want := range map[Metric][2]string{
		CPU: {"cpu_usage", wire.AlertCPU}, RAM: {"ram_usage", wire.AlertRAM},
		SYN: {"syn_packet_count", wire.AlertSYN}, Connections: {"active_tcp_connections", wire.AlertConnections},
	} {
		back, ok := ParseMetric(m.String())
		if got := [2]string{m.String(), m.Alert()}; got != want || !ok || back != m {
			t.Fatalf("%v, %v, %v", got, back, ok)
		}
	}
	for _, s := range []string{"", "none", "CPU_USAGE", "timestamp"} {
		if m, ok := ParseMetric(s); ok {
			t.Fatalf("%q is %s", s, m)
		}
	}
	if fmt.Sprint(None, metrics) != "none none" || metrics.Alert() != "" {
		t.Fatal("what is no metric has a name")
	}
}

func BenchmarkObserve(b *testing.B) {
	d, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if _, err := d.Observe(start, Reading{"web-1", SYN, 10, 5, float64(n)}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSweep10000(b *testing.B) {
	d, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	for n := range 10_000 {
		if _, err := d.Observe(start, Reading{fmt.Sprint("web-", n), SYN, 9000, 5, 1}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		d.Sweep(start)
	}
}
