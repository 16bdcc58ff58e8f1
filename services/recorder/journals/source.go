package journals

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"levee/internal/metrics"
	"levee/internal/records"
)

// source is one place that journals come from, and how it is doing.
type source struct {
	name     string
	expected bool // that there is a journal
	failing  string
	overdue  bool

	mu   sync.Mutex // guards what the metrics read
	last time.Time  // when everything that there was had been imported; the start before that; zero: nothing is expected
}

// begin says whether anything is expected of the source from now on.
func (s *source) begin(now time.Time, expected bool) {
	s.expected = expected
	if expected {
		s.succeed(now)
	}
}

func (s *source) succeed(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = now
}

// age is how long ago the source was imported; false if nothing is expected of it.
func (s *source) age(now time.Time) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Sub(s.last), !s.last.IsZero()
}

// settle says what has changed: each trouble once, and its end.
func (s *source) settle(now time.Time, err error, absent bool, log *slog.Logger) {
	name := slog.String("journal", s.name)
	if absent {
		s.expected, s.failing = false, ""
		s.succeed(time.Time{})
		log.Info("no such journal in the bundle: nothing is imported from it", name)
		return
	}
	if err == nil {
		s.expected = true
		if s.failing != "" || s.overdue {
			log.Info("the journal is imported again", name)
		}
		s.failing, s.overdue = "", false
		s.succeed(now)
		return
	}
	if !s.expected { // there is a journal now
		s.begin(now, true)
	}
	if text := err.Error(); text != s.failing {
		s.failing = text
		write := log.Warn
		if wrong := (defect{}); errors.As(err, &wrong) {
			write = log.Error
		}
		write("a journal is not imported", name, slog.Any("error", err))
	}
	if age, _ := s.age(now); age >= records.ImportOverdue && !s.overdue {
		s.overdue = true
		log.Error("what was issued is overdue in the log", name, slog.Duration("age", age.Round(time.Second)), slog.Any("error", err))
	}
}

// Metrics returns the importer's own families.
func (i *Importer) Metrics() []metrics.Family {
	return []metrics.Family{{
		Name:  "levee_issuance_import_age_seconds",
		Help:  "How long ago everything in a journal of what was issued had been imported into the log; over 900 is an alarm.",
		Type:  metrics.Gauge,
		Label: "journal",
		Collect: func(add func(string, float64)) {
			now := time.Now()
			for _, s := range i.sources() {
				if age, expected := s.age(now); expected {
					add(s.name, max(0, age.Seconds()))
				}
			}
		},
	}}
}
