package detect

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"levee/internal/wire"
)

// TestChangesAlternate: for any sequence of readings, sweeps and times, the
// changes of each server and metric alternate and begin with "raised", a pair
// shares one identifier that is never used again, and each change is justified
// by the reading that made it.
func TestChangesAlternate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{
			Hold:    time.Duration(rapid.IntRange(0, 30).Draw(t, "hold")) * time.Second,
			CPU:     Threshold{K: 1, N: rapid.IntRange(1, maxReadings).Draw(t, "n")},
			Servers: rapid.IntRange(1, 3).Draw(t, "servers"),
		}
		d, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		open := make(map[place]wire.ID)
		used := make(map[wire.ID]bool)
		// lastHigh is when a reading that counted was last not well below.
		lastHigh := make(map[place]time.Time)
		now := start

		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(-1, 70_000).Draw(t, "ms")) * time.Millisecond)
			if rapid.IntRange(0, 9).Draw(t, "sweep") == 0 {
				d.Sweep(now)
			}
			r := Reading{
				Server:    rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "server"),
				Metric:    rapid.SampledFrom([]Metric{None, CPU, RAM, SYN, Connections, metrics}).Draw(t, "metric"),
				Value:     values.Draw(t, "value"),
				Interval:  rapid.SampledFrom([]float64{-1, 0, 0.5, 1, 5, 60, math.NaN()}).Draw(t, "interval"),
				Timestamp: float64(now.UnixMilli())/1000 + rapid.Float64Range(-100, 100).Draw(t, "lag"),
			}
			p := place{r.Server, r.Metric}
			change, err := d.Observe(now, r)
			if err != nil {
				if change.State != "" {
					t.Fatalf("%v changed something: %q", err, change.State)
				}
				continue
			}
			limit := d.limits[r.Metric]
			value := r.over(limit.Window)
			switch id := change.Incident.ID; change.State {
			case wire.StateRaised:
				if was := open[p]; !was.IsZero() {
					t.Fatal("raised while open")
				}
				if id.IsZero() || used[id] {
					t.Fatal("the identifier is not new")
				}
				if !(value > limit.Above) {
					t.Fatalf("raised by %v", value)
				}
				open[p], used[id] = id, true
			case wire.StateEnded:
				if open[p] != id || id.IsZero() {
					t.Fatal("ended what was not open")
				}
				if !(value < clearAt*limit.Above) {
					t.Fatalf("ended by %v", value)
				}
				if since := now.Sub(lastHigh[p]); since < d.config.Hold {
					t.Fatalf("ended %s after a high reading", since)
				}
				delete(open, p)
			}
			if value >= clearAt*limit.Above {
				lastHigh[p] = now
			}
			if change.State != "" && (change.Incident.Server != r.Server || change.Incident.Metric != r.Metric) {
				t.Fatal("the change is of another server or metric")
			}
		}
		n := 0
		for i := range d.Open() {
			if open[place{i.Server, i.Metric}] != i.ID {
				t.Fatal("open, but never raised")
			}
			n++
		}
		if n != len(open) {
			t.Fatalf("%d open, want %d", n, len(open))
		}
		if len(d.servers) > d.config.Servers {
			t.Fatalf("%d servers are remembered", len(d.servers))
		}
	})
}

var values = rapid.OneOf(
	rapid.SampledFrom([]float64{0, 64, 79, 80, 81, 100, 320, 400, 401, 560, 700, 701, 9000, math.NaN(), math.Inf(1), math.Inf(-1), -1}),
	rapid.Float64Range(0, 1000),
)

// FuzzObserve: no number raises that is not a finite value above the
// threshold, and none crashes or sticks.
func FuzzObserve(f *testing.F) {
	f.Add(uint8(CPU), math.NaN(), 5.0, 1.0)
	f.Add(uint8(RAM), math.Inf(1), 5.0, 1.0)
	f.Add(uint8(SYN), math.Inf(-1), 5.0, 1.0)
	f.Add(uint8(SYN), 701.0, math.SmallestNonzeroFloat64, 1.0)
	f.Add(uint8(SYN), 701.0, math.NaN(), 1.0)
	f.Add(uint8(SYN), 701.0, 5.0, math.Inf(1))
	f.Add(uint8(Connections), -401.0, 5.0, 1.0)
	f.Add(uint8(Connections), math.MaxFloat64, 0.0, 1.0)
	f.Add(uint8(200), 1.0, 1.0, 1.0)
	f.Fuzz(func(t *testing.T, metric uint8, value, interval, timestamp float64) {
		one := Threshold{K: 1, N: 1}
		d, err := New(Config{CPU: one, RAM: one})
		if err != nil {
			t.Fatal(err)
		}
		r := Reading{"web-1", Metric(metric), value, interval, timestamp}
		c, err := d.Observe(start, r)
		finite := !math.IsNaN(value) && !math.IsInf(value, 0)
		if err != nil {
			if c != (Change{}) || len(d.servers) != 0 {
				t.Fatal("a refused reading changed something")
			}
			return
		}
		if !finite || value < 0 || math.IsNaN(interval) || interval < 0 {
			t.Fatal("accepted")
		}
		if math.IsNaN(c.Incident.Value) || math.IsInf(c.Incident.Value, 0) {
			t.Fatal("the incident's value is no number")
		}
		over := r.over(d.limits[r.Metric].Window) > d.limits[r.Metric].Above
		if (c.State == wire.StateRaised) != over {
			t.Fatalf("%q for %v over %v", c.State, value, interval)
		}
		if interval < 1 && over && value <= d.limits[r.Metric].Above {
			t.Fatal("raised by extrapolation")
		}
	})
}
