package revocation

import (
	"log/slog"
	"time"
)

const (
	// patience is how long after Open a stale list is no news yet: a part that
	// was off for a while has only what it kept.
	patience = 2 * time.Minute
	// reminder is how often a stale list is reported again.
	reminder = 10 * time.Minute
	check    = 15 * time.Second
)

// Run keeps each list that comes into force on disk, and reports a stale one,
// until done is closed.
func (s *Set) Run(done <-chan struct{}) {
	tick := time.NewTicker(check)
	defer tick.Stop()
	var a alarm
	for {
		changed := s.Changed()
		s.keep()
		select {
		case <-changed:
		case now := <-tick.C:
			s.report(&a, now)
		case <-done:
			s.keep()
			return
		}
	}
}

func (s *Set) keep() {
	if err := s.Sync(); err != nil {
		s.config.Log.Error("revocations are in force, and not kept: a restart would forget them", slog.Any("error", err))
	}
}

// alarm is what was reported last.
type alarm struct {
	raised bool
	at     time.Time
}

// report logs the beginning, the going on and the end of staleness. A site
// without an issuer has no lists, which one line says.
func (s *Set) report(a *alarm, now time.Time) {
	age, stale := s.Stale(now)
	number := s.Number()
	switch {
	case !stale && a.raised:
		*a = alarm{}
		s.config.Log.Warn("revocations are fresh again", slog.Uint64("number", number))
	case !stale || now.Sub(s.opened) < patience:
	case number == 0 && !a.raised:
		*a = alarm{raised: true, at: now}
		s.config.Log.Warn("no list of revocations has ever come: nothing is known to be revoked")
	case number != 0 && (!a.raised || now.Sub(a.at) >= reminder):
		*a = alarm{raised: true, at: now}
		s.config.Log.Error("revocations are stale: the issuer is down, its lists are withheld, or a clock is wrong; everything goes on",
			slog.Duration("age", age.Round(time.Second)), slog.Uint64("number", number))
	}
}
