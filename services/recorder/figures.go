package recorder

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"levee/envelope"
	"levee/internal/metrics"
	"levee/services/recorder/ledger"
)

// becauseFull labels what found no room in the queue.
type full struct{}

var becauseFull = full{}

// String returns the label.
func (full) String() string { return "queue" }

// counters count by label.
type counters struct {
	mu     sync.Mutex
	counts map[string]uint64
}

func (c *counters) add(label fmt.Stringer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = make(map[string]uint64)
	}
	c.counts[label.String()]++
}

func (c *counters) of(label fmt.Stringer) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[label.String()]
}

// Figures are what a recorder counts. They may be read before there is one.
type Figures struct {
	kept, late, duplicates, contradictions, acks atomic.Uint64

	unkept    counters     // by ledger.Finding or becauseFull
	originals counters     // that were refused, by reason
	behind    atomic.Int64 // ns, between receiving and keeping the oldest message of the newest batch
	owed      atomic.Int64 // senders that wait for an acknowledgement
	said      atomic.Int64 // ms since the epoch: when the recorder last said that it is behind
}

// Metrics returns the figures as metrics.
func (f *Figures) Metrics() []metrics.Family {
	counter := func(name, help string, v *atomic.Uint64) metrics.Family {
		return metrics.Single(name, help, metrics.Counter, func() float64 { return float64(v.Load()) })
	}
	return []metrics.Family{
		counter("levee_recorder_kept_total", "Messages that are durable, and part of the log where they are signed.", &f.kept),
		counter("levee_recorder_late_total", "Messages that came by backfill and were kept.", &f.late),
		counter("levee_recorder_duplicates_total", "Messages that came although they were held.", &f.duplicates),
		counter("levee_recorder_contradictions_total", "Messages of a number that is held over other bytes: an alarm.", &f.contradictions),
		counter("levee_recorder_acks_total", "Acknowledgements that were sent.", &f.acks),
		metrics.Single("levee_recorder_acks_owed", "Senders that wait for an acknowledgement.", metrics.Gauge, func() float64 { return float64(f.owed.Load()) }),
		metrics.Single("levee_recorder_lag_seconds", "How long the oldest message of the newest batch waited to be kept.", metrics.Gauge,
			func() float64 { return time.Duration(f.behind.Load()).Seconds() }),
		{Name: "levee_recorder_unkept_total", Help: "Messages that were not kept, and not acknowledged, by why.", Type: metrics.Counter, Label: "why",
			Collect: func(add func(string, float64)) {
				for _, why := range []fmt.Stringer{becauseFull, ledger.Crowded, ledger.Gone, ledger.Untracked} {
					add(why.String(), float64(f.unkept.of(why)))
				}
			}},
		{Name: "levee_recorder_originals_refused_total", Help: "Messages of backfills that were refused, by reason.", Type: metrics.Counter, Label: "reason",
			Collect: func(add func(string, float64)) {
				for _, reason := range envelope.Reasons() {
					add(reason.String(), float64(f.originals.of(reason)))
				}
			}},
	}
}
