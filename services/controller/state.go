package controller

import (
	"slices"
	"time"

	"levee/internal/wire"
	"levee/services/controller/journal"
)

// mitigation is what one command began. All pools of a command for all servers
// share one.
type mitigation struct {
	key    journal.Key
	cmd    wire.Command
	origin origin
	row    int // renewals that led to it
	// It is over at until by the wall clock or at deadline by the monotonic one,
	// whichever comes first: a clock that is set back must not prolong it.
	until    time.Time
	deadline time.Time
}

func newMitigation(e journal.Entry, cmd wire.Command, from origin, now time.Time) *mitigation {
	end := time.UnixMilli(until(cmd))
	return &mitigation{key: e.Key, cmd: cmd, origin: from, row: e.Row, until: end, deadline: now.Add(end.Sub(now))}
}

func (m *mitigation) over(now time.Time) bool {
	return !now.Before(m.deadline) || now.UnixMilli() >= m.until.UnixMilli()
}

// stamp is the latest command that a slot has accepted.
type stamp struct {
	key    journal.Key
	issued int64
	origin origin
}

// slot is one kind of one pool.
type slot struct {
	current *mitigation // nil: none
	latest  stamp
	row     int       // renewals of automation's current or last row
	ended   time.Time // of automation's last row
}

// end leaves nothing in force.
func (s *slot) end(now time.Time) {
	if s.current != nil && s.current.origin == automatic {
		s.ended = now
	}
	s.current = nil
}

// pool is what is wanted of one pool, and whether the actuator has it.
type pool struct {
	name  string
	slots [kinds]slot
	dirty bool      // the actuator has not confirmed the state
	retry time.Time // when to try again, of a dirty pool
}

// wanted returns the pool's state for the actuator.
func (p *pool) wanted() Wanted {
	var w Wanted
	if m := p.slots[rateLimiting].current; m != nil {
		w.RateLimit = &RateLimit{PerSecond: m.cmd.Parameters.RatePerSecond, Burst: m.cmd.Parameters.Burst, Until: m.until}
	}
	if m := p.slots[scaling].current; m != nil {
		w.Scaling = &Scaling{Servers: m.cmd.Parameters.Servers, Until: m.until}
	}
	return w
}

// state is every pool. One goroutine owns it.
type state struct {
	pools []*pool
}

// of returns the pools that a command's server means, none for an unknown one.
func (s *state) of(server string) []*pool {
	if server == wire.AllServers {
		return s.pools
	}
	if i := slices.IndexFunc(s.pools, func(p *pool) bool { return p.name == server }); i >= 0 {
		return s.pools[i : i+1]
	}
	return nil
}

// check judges a command against what is in force and what came before it. A
// command for all pools takes effect on all of them or on none.
func (s *state) check(cmd wire.Command, from origin, now time.Time, skew time.Duration) string {
	k := actions[cmd.Command].kind
	for _, p := range s.of(cmd.Server) {
		slot := &p.slots[k]
		if slot.current != nil && slot.current.origin > from {
			return ReasonOutranked
		}
		// What lies in the future was accepted under a clock that was wrong,
		// and must not silence everybody until then. And no clock of a monitor
		// may let automation's word stand above a person's.
		credible := slot.latest.issued <= now.Add(skew).UnixMilli() && slot.latest.origin >= from
		if credible && cmd.Issued <= slot.latest.issued {
			return ReasonSuperseded
		}
	}
	return ""
}

// checkRow judges whether automation may begin cmd, or go on with it, and
// returns how many renewals then lead to it. A row is what automation keeps in
// force without a gap: it has a greatest length, and a pause follows it.
func (s *state) checkRow(cmd wire.Command, renewals int, coolDown time.Duration, now time.Time) (int, string) {
	act := actions[cmd.Command]
	if act.ends {
		return 0, ""
	}
	row := 0
	for _, p := range s.of(cmd.Server) {
		slot := &p.slots[act.kind]
		if slot.current != nil {
			row = max(row, slot.row+1)
			continue
		}
		// A tenth is for the monitor's clock, which counts the same pause.
		if now.Before(slot.ended.Add(coolDown - coolDown/10)) {
			return 0, ReasonCoolingDown
		}
	}
	if row > renewals {
		return 0, ReasonRenewals
	}
	return row, ""
}

// change is what a command did to the state, for undoing it.
type change struct {
	pools  []*pool
	before []slot // of each pool
}

// take makes m the latest of its kind in its pools: in force, or, for a command
// that ends, nothing in force.
func (s *state) take(m *mitigation, now time.Time) change {
	act := actions[m.cmd.Command]
	ch := change{pools: s.of(m.cmd.Server)}
	for _, p := range ch.pools {
		slot := &p.slots[act.kind]
		ch.before = append(ch.before, *slot)
		if act.ends {
			slot.end(now)
		} else {
			slot.current, slot.row = m, m.row
		}
		slot.latest = stamp{key: m.key, issued: m.cmd.Issued, origin: m.origin}
		p.dirty, p.retry = true, time.Time{}
	}
	return ch
}

// undo brings back what m displaced. m remains the latest: its sender was told
// that it failed, and repeats of older commands must not revive those.
func (s *state) undo(m *mitigation, ch change) {
	k := actions[m.cmd.Command].kind
	for i, p := range ch.pools {
		latest := p.slots[k].latest
		p.slots[k] = ch.before[i]
		p.slots[k].latest = latest
		p.dirty, p.retry = true, time.Time{}
	}
}

// end takes m, which take has brought into force, out of it.
func (s *state) end(m *mitigation, now time.Time) {
	for _, p := range s.of(m.cmd.Server) {
		p.slots[actions[m.cmd.Command].kind].end(now)
	}
}

// lapse takes out what is over and returns it.
func (s *state) lapse(now time.Time) []*mitigation {
	var ended []*mitigation
	for _, p := range s.pools {
		for k := range p.slots {
			slot := &p.slots[k]
			m := slot.current
			if m == nil || !m.over(now) {
				continue
			}
			slot.end(now)
			p.dirty, p.retry = true, time.Time{}
			if !slices.Contains(ended, m) {
				ended = append(ended, m)
			}
		}
	}
	return ended
}

// holds reports whether the command of key is in force anywhere.
func (s *state) holds(key journal.Key) bool {
	for _, p := range s.pools {
		for _, slot := range p.slots {
			if slot.current != nil && slot.current.key == key {
				return true
			}
		}
	}
	return false
}

// needs reports whether the journal must keep key: without the latest of each
// slot, a restart would let an older command win.
func (s *state) needs(key journal.Key) bool {
	for _, p := range s.pools {
		for _, slot := range p.slots {
			if slot.latest.key == key || slot.current != nil && slot.current.key == key {
				return true
			}
		}
	}
	return false
}

// next returns when the state has to be looked at again, at the latest at limit.
func (s *state) next(limit time.Time) time.Time {
	earliest := limit
	sooner := func(t time.Time) {
		if t.Before(earliest) {
			earliest = t
		}
	}
	for _, p := range s.pools {
		if p.dirty {
			sooner(p.retry)
		}
		for _, slot := range p.slots {
			if slot.current != nil {
				sooner(slot.current.deadline)
			}
		}
	}
	return earliest
}
