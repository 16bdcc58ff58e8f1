package notable

import (
	"fmt"
	"time"

	"levee/envelope"
	"levee/internal/siem"
	"levee/services/recorder/ledger"
)

// GapAfter is how long messages must be missing before it is an event: a sender's
// backfill brings what a broker or the recorder missed.
const GapAfter = time.Minute

// gap is messages of a sender that are missing.
type gap struct {
	ledger.Hole // as it is now
	first       ledger.Hole
	since       time.Time
	told        bool
}

// Holes takes what is missing now, one hole of each sender at most, and tells of
// what is missing for long, and of what became of it. fate says that of a hole
// which is not there any more.
func (e *Events) Holes(now time.Time, holes []ledger.Hole, fate func(ledger.Hole) ledger.Fate) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.turn(now)
	open := make(map[string]*gap, len(holes))
	for _, h := range holes {
		g := e.gaps[h.Sender]
		if g == nil || g.Boot != h.Boot || h.First > g.Last || h.Last < g.First { // another one
			g = &gap{first: h, since: now}
		} else {
			delete(e.gaps, h.Sender)
		}
		g.Hole = h
		open[h.Sender] = g
		if !g.told && now.Sub(g.since) >= GapAfter {
			g.told, g.first = true, h
			e.tell(g.event(siem.GapFound, "are missing", now), now)
		}
	}
	for _, g := range e.gaps { // these are closed
		if !g.told {
			continue
		}
		closed := g.event(siem.GapClosed, "", now)
		switch fate(g.Hole) {
		case ledger.Arrived:
			closed.Reason = "arrived"
		case ledger.GivenUp:
			closed.Reason = "given_up"
			closed.Severity = siem.Medium
		default:
			continue // its sender began anew: the digests say what is missing
		}
		closed.Message += closed.Reason
		e.tell(closed, now)
	}
	e.gaps = open
}

func (g *gap) event(id siem.ID, what string, now time.Time) siem.Event {
	h := g.first
	return siem.Event{ID: id, Time: now, Sender: h.Sender, Object: fmt.Sprintf("%s %s-%d", h.Sender, envelope.FormatBoot(h.Boot), h.First), Count: h.Last - h.First + 1,
		Message: fmt.Sprintf("messages %d to %d of %s: %s", h.First, h.Last, h.Sender, what)}
}
