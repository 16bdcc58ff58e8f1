package detect

import (
	"fmt"
	"math"
	"time"
)

// Threshold says when a metric of a server is an incident. A zero member means
// the default.
type Threshold struct {
	// Above is exceeded by a greater value, not by an equal one.
	Above float64
	// Window is what a count is normalised to. Only SYN counts have one.
	Window time.Duration
	// K of the last N readings must be above; 1 ≤ K ≤ N ≤ 32.
	K, N int
}

// Config holds the thresholds and times. The zero value is the report's
// thresholds with the defaults below.
type Config struct {
	CPU         Threshold // 80 %, 2 of 3 readings
	RAM         Threshold // 80 %, 2 of 3 readings
	SYN         Threshold // 700 in 5 s, the first reading
	Connections Threshold // 400, the first reading

	// Hold is how long all readings stay below 0.8 of the threshold before the
	// incident ends: 15 s.
	Hold time.Duration
	// Silence is how long after the last reading the server counts as silent
	// for that metric: 60 s. It must be longer than the sensors' interval.
	Silence time.Duration
	// Forget is how long after its last reading a server without an open
	// incident is forgotten: 1 h.
	Forget time.Duration
	// Reorder is how far a late message can lag: 60 s, twice the default skew.
	// A timestamp that steps back further is a clock that was set back, and is
	// taken as new, so that a clock that ran ahead blinds nobody for longer.
	Reorder time.Duration
	// Servers bounds how many servers are remembered: 10,000.
	Servers int
}

// maxReadings is how many readings fit into a track's history.
const maxReadings = 32

func defaults() Config {
	return Config{
		CPU:         Threshold{Above: 80, K: 2, N: 3},
		RAM:         Threshold{Above: 80, K: 2, N: 3},
		SYN:         Threshold{Above: 700, Window: 5 * time.Second, K: 1, N: 1},
		Connections: Threshold{Above: 400, K: 1, N: 1},
		Hold:        15 * time.Second,
		Silence:     60 * time.Second,
		Forget:      time.Hour,
		Reorder:     60 * time.Second,
		Servers:     10_000,
	}
}

// complete fills what c leaves zero and checks the whole.
func (c Config) complete() (Config, [metrics]Threshold, error) {
	d := defaults()
	var limits [metrics]Threshold
	for _, t := range []struct {
		metric    Metric
		own       Threshold
		byDefault Threshold
	}{
		{CPU, c.CPU, d.CPU},
		{RAM, c.RAM, d.RAM},
		{SYN, c.SYN, d.SYN},
		{Connections, c.Connections, d.Connections},
	} {
		limit := t.own.or(t.byDefault)
		if err := limit.check(t.metric); err != nil {
			return Config{}, limits, fmt.Errorf("checking the threshold of %s: %w", t.metric, err)
		}
		limits[t.metric] = limit
	}
	for _, v := range []struct {
		name      string
		own       *time.Duration
		byDefault time.Duration
	}{
		{"hold", &c.Hold, d.Hold},
		{"silence", &c.Silence, d.Silence},
		{"forget", &c.Forget, d.Forget},
		{"reorder", &c.Reorder, d.Reorder},
	} {
		if *v.own == 0 {
			*v.own = v.byDefault
		}
		if *v.own < 0 {
			return Config{}, limits, fmt.Errorf("checking %s: %s is negative", v.name, *v.own)
		}
	}
	if c.Forget < c.Silence {
		return Config{}, limits, fmt.Errorf("checking forget: %s is shorter than silence, %s", c.Forget, c.Silence)
	}
	if c.Servers == 0 {
		c.Servers = d.Servers
	}
	if c.Servers < 0 {
		return Config{}, limits, fmt.Errorf("checking servers: %d is negative", c.Servers)
	}
	return c, limits, nil
}

func (t Threshold) or(d Threshold) Threshold {
	if t.Above == 0 {
		t.Above = d.Above
	}
	if t.Window == 0 {
		t.Window = d.Window
	}
	if t.K == 0 && t.N == 0 {
		t.K, t.N = d.K, d.N
	}
	return t
}

func (t Threshold) check(m Metric) error {
	switch {
	case math.IsNaN(t.Above) || t.Above <= 0 || t.Above >= kinds[m].max:
		return fmt.Errorf("%v can never be exceeded, or always is", t.Above)
	case m != SYN && t.Window != 0:
		return fmt.Errorf("it has a window, %s, but is no count", t.Window)
	case m == SYN && (t.Window < time.Second || t.Window > time.Hour):
		return fmt.Errorf("its window, %s, is not between 1 s and 1 h", t.Window)
	case t.K < 1 || t.K > t.N || t.N > maxReadings:
		return fmt.Errorf("%d of %d readings is not 1 ≤ K ≤ N ≤ %d", t.K, t.N, maxReadings)
	}
	return nil
}
