package controller

import (
	"slices"
	"time"

	"levee/internal/wire"
	"levee/policies"
	"levee/services/controller/journal"
)

// mitigation is what one command began. All pools of a command for all servers
// share one.
type mitigation struct {
	key    journal.Key
	cmd    wire.Command
	origin origin
	row    int // renewals of automation that led to it
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
	row     row // the zero row: automation has not acted yet
}

// row is a command of automation and its renewals: those that came before
// policy's cool-down had passed since the end of the one before. It counts
// whoever commands, and for whatever cause: two causes, or two monitors, must
// not keep alive together what policy lets none of them keep alive alone.
type row struct {
	last     journal.Key
	renewals int
	issued   int64 // the last one was, ms since the epoch
	end      int64 // of the last one, ms since the epoch
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
		// No clock of a monitor may let automation's word stand above a person's.
		if credible(slot.latest.issued, now, skew) && slot.latest.origin >= from && cmd.Issued < slot.latest.issued {
			return ReasonSuperseded
		}
	}
	return ""
}

// credible reports whether a command that was accepted as issued then may count
// now. One that lies in the future was accepted under a clock that was wrong,
// and must not silence everybody until then.
func credible(issued int64, now time.Time, skew time.Duration) bool {
	return issued <= now.Add(skew).UnixMilli()
}

// checkRow judges whether automation may begin a row with cmd, or go on with
// one, and returns how many renewals then led to it. A command counts as issued
// now at the latest: a monitor's clock that runs ahead must not shorten the
// cool-down.
func (s *state) checkRow(cmd wire.Command, policy policies.Automatic, now time.Time, skew time.Duration) (int, string) {
	act := actions[cmd.Command]
	if act.ends {
		return 0, ""
	}
	length, verdict := 0, ""
	issued := min(cmd.Issued, now.UnixMilli())
	for _, p := range s.of(cmd.Server) {
		last := p.slots[act.kind].row
		if last.issued == 0 || !credible(last.issued, now, skew) || issued >= last.end+policy.CoolDown.Milliseconds() {
			continue
		}
		length = max(length, last.renewals+1)
		if length > policy.Renewals {
			verdict = ReasonCoolingDown
			if issued < last.end {
				verdict = ReasonRenewals
			}
		}
	}
	return length, verdict
}

// change is what a command did to the state, for undoing it.
type change struct {
	pools  []*pool
	before []slot // of each pool
}

// take makes m the latest of its kind in its pools: in force, or, for a command
// that ends, nothing in force from now on.
func (s *state) take(m *mitigation, now time.Time) change {
	act := actions[m.cmd.Command]
	ch := change{pools: s.of(m.cmd.Server)}
	for _, p := range ch.pools {
		slot := &p.slots[act.kind]
		ch.before = append(ch.before, *slot)
		slot.latest = stamp{key: m.key, issued: m.cmd.Issued, origin: m.origin}
		p.dirty, p.retry = true, time.Time{}
		if act.ends {
			slot.current = nil
			slot.row.end = min(slot.row.end, now.UnixMilli())
			continue
		}
		slot.current = m
		if m.origin == automatic {
			slot.row = row{last: m.key, renewals: m.row, issued: m.cmd.Issued, end: until(m.cmd)}
		}
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
func (s *state) end(m *mitigation) {
	for _, p := range s.of(m.cmd.Server) {
		p.slots[actions[m.cmd.Command].kind].current = nil
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
			slot.current = nil
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

// needs reports whether the journal must keep key. Without the latest of each
// slot, a restart would let an older command win; without the last of each row,
// it would begin a new one.
func (s *state) needs(key journal.Key) bool {
	for _, p := range s.pools {
		for _, slot := range p.slots {
			if slot.latest.key == key || slot.row.last == key || slot.current != nil && slot.current.key == key {
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
