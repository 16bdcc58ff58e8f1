package controller

import (
	"testing"
	"time"

	"levee/internal/wire"
	"levee/services/controller/journal"
)

func TestSuperseded(t *testing.T) {
	bubble(t, func(r *rig) {
		older, same, newer := enable(time.Minute), enable(time.Minute), enable(time.Minute)
		newer.Issued += 5
		same.Issued = newer.Issued
		older.Parameters.Burst, same.Parameters.Burst = 50, 60
		r.send(newer)
		r.expect("enable_rate_limiting active")
		r.send(older)
		r.expectRefused(older, ReasonSuperseded)
		r.send(same) // of one moment: the last one heard
		r.expect("enable_rate_limiting active")
		r.expectState("web-1", "limit 5/60")

		// Each kind and each pool has its own order.
		up := scaleUp(time.Minute)
		other := enable(time.Minute)
		other.Server = "web-2"
		r.send(up)
		r.send(other)
		r.expect("scale_up_servers active", "enable_rate_limiting active")

		// All of a command's pools, or none: web-1 has heard a later word.
		all := enable(time.Minute)
		all.Server, all.Issued = wire.AllServers, newer.Issued-1
		r.send(all)
		r.expectRefused(all, ReasonSuperseded)
		r.expectState("web-2", "limit 5/10")

		// The verdict is the last one on that id, although the reason has gone.
		r.sleep(2 * time.Minute)
		r.expect("scale_up_servers lapsed", "enable_rate_limiting lapsed", "enable_rate_limiting lapsed")
		if e, found := r.entry(older.ID); found && e.Status == nil {
			t.Error("a verdict that depends on the moment was not journalled")
		}
	})
}

// TestSupersededOutlivesForgetting delivers, when everything else is forgotten,
// an older command that lives longer.
func TestSupersededOutlivesForgetting(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for _, later := range []func() wire.Command{
			func() wire.Command { return enable(5 * time.Second) },
			func() wire.Command { return command(wire.DisableRateLimiting, 5*time.Second) },
		} {
			bubble(t, func(r *rig) {
				older := enable(testMaxTTL)
				r.sleep(time.Second)
				r.send(later())
				r.sleep(5 * time.Minute)
				r.said()
				if restart {
					r.restart(nil)
				}
				r.send(older)
				r.expectRefused(older, ReasonSuperseded)
				r.expectState("web-1", "nothing")
			})
		}
	}
}

// TestOvertakenInEveryPool repeats a command for all pools that later ones have
// replaced one by one: it is in force no longer when one of those has ended.
func TestOvertakenInEveryPool(t *testing.T) {
	bubble(t, func(r *rig) {
		all, one, other := enable(5*time.Minute), enable(4*time.Minute), enable(3*time.Minute)
		all.Server, other.Server = wire.AllServers, "web-2"
		for _, cmd := range []wire.Command{all, one, other} {
			r.send(cmd)
		}
		r.said()
		r.send(all)
		if said := r.expect("enable_rate_limiting active superseded"); said[0].Until != until(other) {
			t.Errorf("until %d, want the first end, %d", said[0].Until, until(other))
		}
		r.sleep(3 * time.Minute)
		r.expect("enable_rate_limiting lapsed")
		r.send(all)
		r.expect("enable_rate_limiting stopped superseded")
	})
}

// TestWrongClockDoesNotSilence accepts a command under a clock that is an hour
// ahead, and another after the clock was put right: neither its order nor its
// cool-down may count until then.
func TestWrongClockDoesNotSilence(t *testing.T) {
	s := &state{pools: []*pool{{name: "web-1"}}}
	ahead := enable(time.Minute)
	now := time.UnixMilli(ahead.Issued)
	s.take(newMitigation(journal.Entry{}, ahead, automatic, now), now)
	back := now.Add(-time.Hour)
	cmd := enable(time.Minute)
	cmd.Issued = back.UnixMilli()
	if reason := s.check(cmd, automatic, back, DefaultSkew); reason != "" {
		t.Errorf("refused: %s", reason)
	}
	policy, _ := testPolicy(cmd.Command)
	policy.Renewals = 0
	if _, reason := s.checkRow(cmd, policy, back, DefaultSkew); reason != "" {
		t.Errorf("refused: %s", reason)
	}
	if _, reason := s.checkRow(cmd, policy, now, DefaultSkew); reason != ReasonRenewals {
		t.Errorf("with the clock unchanged: %q, want renewals_exhausted", reason)
	}
	if reason := s.check(cmd, automatic, now, DefaultSkew); reason != ReasonSuperseded {
		t.Errorf("with the clock unchanged: %q, want superseded", reason)
	}
}

// TestEndAndNextAtOnce looks at a command before it looks at its timer, which
// has fired as well: the end of the one before is told all the same.
func TestEndAndNextAtOnce(t *testing.T) {
	bubble(t, func(r *rig) {
		r.send(enable(time.Second))
		r.expect("enable_rate_limiting active")
		r.stop() // so that the test does what Run would
		r.sleep(time.Second)
		r.c.process(r.t.Context(), message{from: mon1, cmd: enable(time.Second), received: time.Now()})
		r.expect("enable_rate_limiting lapsed", "enable_rate_limiting active")
		r.journal.Close()
		r.start()
	})
}

// TestEndNeedsOneClockOnly checks that a wall clock that is set back prolongs
// nothing, and that one set forward ends it.
func TestEndNeedsOneClockOnly(t *testing.T) {
	now := time.Now()
	cmd := enable(time.Minute)
	m := newMitigation(journal.Entry{}, cmd, automatic, now)
	if m.over(now.Add(59*time.Second)) || !m.over(now.Add(time.Minute)) {
		t.Error("not over just at its time")
	}
	m.until = now.Add(time.Hour)
	if !m.over(now.Add(time.Minute)) {
		t.Error("a wall clock that was set back prolonged it")
	}
	m.until, m.deadline = now.Add(time.Minute), now.Add(time.Hour)
	if !m.over(now.Add(time.Minute)) {
		t.Error("a wall clock that was set forward did not end it")
	}
}

// TestPrecedence checks the order of words that grants will rely on.
func TestPrecedence(t *testing.T) {
	now := time.Now()
	later := func(name string) wire.Command {
		cmd := command(name, time.Minute)
		cmd.Issued = now.Add(time.Second).UnixMilli()
		return cmd
	}
	begin := func(from origin, ahead time.Duration) *state {
		s := &state{pools: []*pool{{name: "web-1"}}}
		cmd := enable(time.Minute)
		cmd.Issued = now.Add(ahead).UnixMilli()
		s.take(newMitigation(journal.Entry{}, cmd, from, now), now)
		return s
	}
	for _, name := range []string{wire.EnableRateLimiting, wire.DisableRateLimiting} {
		if got := begin(person, 0).check(later(name), automatic, now, DefaultSkew); got != ReasonOutranked {
			t.Errorf("automation's %s over a person's word: %q, want outranked", name, got)
		}
		if got := begin(automatic, 0).check(later(name), person, now, DefaultSkew); got != "" {
			t.Errorf("a person's %s over automation's: %q", name, got)
		}
		// A monitor whose clock is ahead cannot stand above a person.
		if got := begin(automatic, 20*time.Second).check(later(name), person, now, DefaultSkew); got != "" {
			t.Errorf("a person's %s over automation's from the future: %q", name, got)
		}
		if got := begin(automatic, 0).check(later(name), automatic, now, DefaultSkew); got != "" {
			t.Errorf("automation's %s over its own: %q", name, got)
		}
	}
	if originOf("monitor") != automatic || originOf("approver") != person {
		t.Error("origins are mixed up")
	}
}
