package detect

import (
	"time"

	"levee/internal/wire"
)

// Metric is one of the report's four. The zero value is none.
type Metric uint8

// The metrics.
const (
	None Metric = iota
	CPU
	RAM
	SYN
	Connections
	metrics // how many there are, None included
)

// exact is the largest count that every JSON parser reads as what was written.
const exact = 1 << 53

var kinds = [metrics]struct {
	name  string // the report's field name
	alert string // the report's text
	max   float64
}{
	CPU:         {"cpu_usage", wire.AlertCPU, 100},
	RAM:         {"ram_usage", wire.AlertRAM, 100},
	SYN:         {"syn_packet_count", wire.AlertSYN, exact},
	Connections: {"active_tcp_connections", wire.AlertConnections, exact},
}

func (m Metric) known() bool { return m > None && m < metrics }

// String returns the report's field name, for example "cpu_usage", and "none"
// for what is no metric.
func (m Metric) String() string {
	if !m.known() {
		return "none"
	}
	return kinds[m].name
}

// Alert returns the report's text, and "" for what is no metric.
func (m Metric) Alert() string {
	if !m.known() {
		return ""
	}
	return kinds[m].alert
}

// ParseMetric reads one of the report's field names.
func ParseMetric(s string) (Metric, bool) {
	for m := None + 1; m < metrics; m++ {
		if kinds[m].name == s {
			return m, true
		}
	}
	return None, false
}

const (
	maxInterval  = 3600 // seconds
	maxTimestamp = 1e11 // seconds since the epoch: the year 5138

	// shortest is the interval in seconds below which a count is not scaled up.
	shortest = 1
)

// Reading is one measurement. Times are in seconds, as on the wire.
type Reading struct {
	Server    string
	Metric    Metric
	Value     float64 // percent, or a count
	Interval  float64 // what a count was counted over
	Timestamp float64 // since the epoch, by the server's clock: it only orders
}

// Valid reports whether r can be judged at all: a known metric, and numbers
// that are finite and within what can be measured.
func (r Reading) Valid() bool {
	// Each comparison is false for NaN.
	return r.Server != "" && r.Metric.known() &&
		r.Value >= 0 && r.Value <= kinds[r.Metric].max &&
		r.Interval >= 0 && r.Interval <= maxInterval &&
		r.Timestamp >= 0 && r.Timestamp <= maxTimestamp
}

// over returns r's value as it would be over window; a window of 0 is a level,
// which has no interval. A count over less than a second stays as it is: a
// first reading of a few milliseconds must not become an alarm by
// extrapolation.
func (r Reading) over(window time.Duration) float64 {
	if window == 0 || r.Interval < shortest {
		return r.Value
	}
	return r.Value * (window.Seconds() / r.Interval)
}
