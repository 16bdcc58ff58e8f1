package broker

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"levee/internal/wire"
	"levee/pki"
)

// presence keeps which machines have a session, and what of it was not told yet.
// It is told of sessions by whatever ends or opens them, and never waits: a storm
// of them leaves the newest state of each machine, and nothing else. It is safe
// for concurrent use.
type presence struct {
	mu       sync.Mutex
	machines map[string]*attendance // by role/name
	untold   map[string]struct{}    // of machines
	departed int                    // of them that are gone
	missed   uint64                 // departures that found no room
}

// attendance is one machine's.
type attendance struct {
	sessions int
	since    int64  // ms since the epoch: when it came, or went
	reason   string // why the session before ended, until it is told
}

// maxDeparted bounds the machines that are gone and not told of yet, while nothing
// can be told. Each was let in with a certificate of the site; the next roster
// says that those without room are not there.
const maxDeparted = 1 << 14

func newPresence() *presence {
	return &presence{machines: make(map[string]*attendance), untold: make(map[string]struct{})}
}

// machineOf returns how a session's machine is told of, "" if it is not.
func machineOf(s *session) string {
	if !wire.TellsPresence(string(s.identity.Role)) {
		return ""
	}
	return string(s.identity.Role) + "/" + s.identity.Name
}

// arrive notes that a session was opened.
func (p *presence) arrive(s *session, now time.Time) {
	machine := machineOf(s)
	if machine == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.machines[machine]
	switch {
	case a == nil:
		a = &attendance{}
		p.machines[machine] = a
	case a.sessions == 0:
		p.departed--
	}
	if a.sessions++; a.sessions > 1 { // the old one goes on while a certificate is renewed
		return
	}
	a.since = now.UnixMilli()
	p.untold[machine] = struct{}{}
}

// depart notes that a session which had arrived is no more.
func (p *presence) depart(s *session, reason string, now time.Time) {
	machine := machineOf(s)
	if machine == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.machines[machine]
	if a == nil {
		return
	}
	if a.sessions--; a.sessions > 0 {
		return
	}
	a.since, a.reason = now.UnixMilli(), reason
	if p.departed >= maxDeparted {
		p.missed++
		p.forget(machine)
		return
	}
	p.departed++
	p.untold[machine] = struct{}{}
}

func (p *presence) forget(machine string) {
	delete(p.machines, machine)
	delete(p.untold, machine)
}

// changes returns at most limit messages with what was not told yet, departures
// first, and forgets it: what they say is told from now on.
func (p *presence) changes(limit int) []wire.Presence {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.untold) == 0 {
		return nil
	}
	all := make([]wire.PresenceChange, 0, len(p.untold))
	for machine := range p.untold {
		a := p.machines[machine]
		c := wire.PresenceChange{Machine: machine, State: wire.StatePresent, Since: a.since, Reason: a.reason}
		if a.sessions == 0 {
			c.State = wire.StateGone
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b wire.PresenceChange) int {
		return cmp.Or(strings.Compare(a.State, b.State), cmp.Compare(a.Since, b.Since), strings.Compare(a.Machine, b.Machine)) // "gone" sorts first
	})
	all = all[:min(len(all), limit*wire.MaxPresenceChanges)]
	for _, c := range all {
		delete(p.untold, c.Machine)
		p.machines[c.Machine].reason = ""
		if c.State == wire.StateGone {
			p.departed--
			delete(p.machines, c.Machine)
		}
	}
	present := p.present()
	var messages []wire.Presence
	for chunk := range slices.Chunk(all, wire.MaxPresenceChanges) {
		messages = append(messages, wire.Presence{Machines: present, Changes: chunk})
	}
	return messages
}

// present returns how many machines have a session. p.mu must be held.
func (p *presence) present() int { return len(p.machines) - p.departed }

// count is present for everybody else.
func (p *presence) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.present()
}

// recorded reports whether a recorder has been there for long enough to have
// subscribed.
func (p *presence) recorded(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for machine, a := range p.machines {
		if strings.HasPrefix(machine, string(pki.RoleRecorder)+"/") && a.sessions > 0 && now.UnixMilli()-a.since >= settled.Milliseconds() {
			return true
		}
	}
	return false
}

// roster returns everybody who is there, in pages. What waits to be told it
// leaves so: reasons stand in changes alone.
func (p *presence) roster() []wire.Presence {
	p.mu.Lock()
	defer p.mu.Unlock()
	present := make([]wire.Attendee, 0, len(p.machines))
	for machine, a := range p.machines {
		if a.sessions > 0 {
			present = append(present, wire.Attendee{Machine: machine, Since: a.since})
		}
	}
	slices.SortFunc(present, func(a, b wire.Attendee) int { return strings.Compare(a.Machine, b.Machine) })
	pages := []wire.Presence{}
	for after := ""; ; {
		page := present[:min(len(present), wire.MaxRosterPage)]
		present = present[len(page):]
		roster := &wire.Roster{After: after, Present: page}
		if len(present) > 0 {
			roster.Through = page[len(page)-1].Machine
		}
		pages = append(pages, wire.Presence{Machines: p.present(), Changes: []wire.PresenceChange{}, Roster: roster})
		if len(present) == 0 {
			return pages
		}
		after = roster.Through
	}
}

// endedBy says in the words of wire why a session ended.
func (s *session) endedBy(r Reason) string {
	switch {
	case s.crashed:
		return wire.EndFault
	case r == None && s.goodbye:
		return wire.EndLeft
	case r == None, r == Draining:
		return wire.EndLost
	case r.misconduct():
		return wire.EndMisconduct
	}
	if word, ok := endings[r]; ok {
		return word
	}
	return wire.EndFault
}

// endings are the ends of sessions that are no misconduct.
var endings = map[Reason]string{
	TimedOut: wire.EndSilent, Superseded: wire.EndReplaced, SlowReader: wire.EndSlow, Expired: wire.EndExpired, Revoked: wire.EndRevoked,
	Kicked: wire.EndRemoved, Banned: wire.EndRemoved, NoRole: wire.EndPolicy, Rejudged: wire.EndPolicy,
}
