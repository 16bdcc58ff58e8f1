package detect

import (
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"levee/internal/wire"
)

// Why a reading changes nothing.
var (
	ErrReading = errors.New("the reading is out of range")
	ErrLate    = errors.New("the reading is not newer than the last")
	ErrServers = errors.New("too many servers")
)

// Incident is one metric of one server above its threshold.
type Incident struct {
	ID        wire.ID
	Server    string
	Metric    Metric
	Value     float64 // of the newest reading, over Window
	Threshold float64
	Window    time.Duration // 0 for a level
	Raised    time.Time
	// Silent is set by Sweep when the server has stopped speaking, and ends
	// with its next reading.
	Silent bool
}

// Change is the beginning or the end of an incident. The zero value is none.
type Change struct {
	State    string // wire.StateRaised, wire.StateEnded, or ""
	Incident Incident
}

// Detector holds the state of every server. It is not safe for concurrent use.
type Detector struct {
	config  Config
	limits  [metrics]Threshold
	servers map[string]*server
	open    map[place]*track
}

type place struct {
	server string
	metric Metric
}

type server [metrics]track

// New returns a detector that knows no server.
func New(c Config) (*Detector, error) {
	c, limits, err := c.complete()
	if err != nil {
		return nil, fmt.Errorf("configuring the detector: %w", err)
	}
	return &Detector{
		config:  c,
		limits:  limits,
		servers: make(map[string]*server),
		open:    make(map[place]*track),
	}, nil
}

// Observe judges one reading that was received at now. The error is ErrReading,
// ErrLate or ErrServers; the reading then changes nothing.
func (d *Detector) Observe(now time.Time, r Reading) (Change, error) {
	if !r.Valid() {
		return Change{}, ErrReading
	}
	s := d.servers[r.Server]
	if s == nil {
		if len(d.servers) >= d.config.Servers {
			return Change{}, ErrServers
		}
		s = new(server)
		// The name may be part of a larger buffer, which need not live on.
		d.servers[strings.Clone(r.Server)] = s
	}
	t := &s[r.Metric]
	if t.late(r.Timestamp, d.config.Reorder) {
		return Change{}, ErrLate
	}
	p := place{r.Server, r.Metric}
	limit := d.limits[r.Metric]
	state := t.observe(now, r.over(limit.Window), limit, d.config)
	t.timestamp = r.Timestamp

	switch state {
	case wire.StateRaised:
		p.server = strings.Clone(p.server)
		d.open[p] = t
	case wire.StateEnded:
		delete(d.open, p)
	default:
		return Change{}, nil
	}
	return Change{State: state, Incident: d.incident(p, t)}, nil
}

// Open yields every open incident, in no particular order. The detector must
// not be used until it returns.
func (d *Detector) Open() iter.Seq[Incident] {
	return func(yield func(Incident) bool) {
		for p, t := range d.open {
			if !yield(d.incident(p, t)) {
				return
			}
		}
	}
}

// Sweep marks the incidents whose server has fallen silent by now and returns
// them, each once for every silence. It forgets servers that were quiet for
// long and have no open incident. Call it each second or so.
func (d *Detector) Sweep(now time.Time) []Incident {
	var silent []Incident
	for p, t := range d.open {
		if !t.silent && now.Sub(t.seen) > d.config.Silence {
			t.silent = true
			silent = append(silent, d.incident(p, t))
		}
	}
	for name, s := range d.servers {
		if s.quiet(now, d.config.Forget) {
			delete(d.servers, name)
		}
	}
	return silent
}

func (d *Detector) incident(p place, t *track) Incident {
	limit := d.limits[p.metric]
	return Incident{
		ID:        t.incident,
		Server:    p.server,
		Metric:    p.metric,
		Value:     t.value,
		Threshold: limit.Above,
		Window:    limit.Window,
		Raised:    t.raised,
		Silent:    t.silent,
	}
}

func (s *server) quiet(now time.Time, forget time.Duration) bool {
	for i := range s {
		t := &s[i]
		if t.state != calm || !t.seen.IsZero() && now.Sub(t.seen) <= forget {
			return false
		}
	}
	return true
}
