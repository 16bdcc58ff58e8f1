package audit

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// DefaultSilence is how long a sender may not be heard: each signs a digest a
// minute, and an outage of a quarter of an hour is one.
const DefaultSilence = 15 * time.Minute

// hearing follows when each sender was heard. A time in which the recorder
// received nothing from anybody is not a sender's silence.
type hearing struct {
	longest int64 // ms
	last    int64 // when anything was received, ms since the epoch
	down    int64 // ms in all in which nothing was
	heard   map[string]heard
}

// heard is when a sender was heard last.
type heard struct {
	At   int64 `json:"at"`   // ms since the epoch
	Down int64 `json:"down"` // hearing.down at that time
}

// pause is how long nothing may come from a whole site before the recorder, or
// its way to the brokers, counts as down.
const pause = int64(2 * time.Minute / time.Millisecond)

func newHearing(longest time.Duration) *hearing {
	if longest == 0 {
		longest = DefaultSilence
	}
	return &hearing{longest: longest.Milliseconds(), heard: make(map[string]heard)}
}

// hear notes that something of a sender was received.
func (a *audit) hear(sender string, received int64) {
	h := a.hearing
	if h.last > 0 && received-h.last > pause {
		h.down += received - h.last
	}
	h.last = max(h.last, received)
	before, known := h.heard[sender]
	if known && received <= before.At {
		return
	}
	if known && received-before.At > h.longest {
		a.checkSilence(sender, before, received, true)
	}
	if !known {
		sender = strings.Clone(sender)
	}
	h.heard[sender] = heard{received, h.down}
}

func (a *audit) checkSilence(sender string, from heard, to int64, over bool) {
	if to-from.At-(a.hearing.down-from.Down) <= a.hearing.longest {
		return
	}
	if a.report.Silent++; len(a.report.Silences) < maxListed {
		a.report.Silences = append(a.report.Silences, Silence{Sender: sender, From: from.At, To: to, Over: over})
	}
}

// checkSilences names, at the end, who has not been heard since.
func (a *audit) checkSilences() {
	for _, sender := range slices.Sorted(maps.Keys(a.hearing.heard)) {
		a.checkSilence(sender, a.hearing.heard[sender], a.hearing.last, false)
	}
	slices.SortStableFunc(a.report.Silences, func(x, y Silence) int { return cmp.Compare(x.From, y.From) })
}

// delayed notes a message that came by backfill.
func (a *audit) delayed(it *item) {
	a.report.Late++
	d := a.delays[it.channel.sender]
	if d == nil {
		d = &Delay{Sender: it.channel.sender, First: it.time}
		a.delays[it.channel.sender] = d
	}
	d.Messages++
	d.Longest = max(d.Longest, it.received-it.time)
	d.First, d.Last = min(d.First, it.time), max(d.Last, it.time)
}

// checkDelays lists what came late.
func (a *audit) checkDelays() {
	for _, sender := range slices.Sorted(maps.Keys(a.delays)) {
		if len(a.report.Delays) < maxListed {
			a.report.Delays = append(a.report.Delays, *a.delays[sender])
		}
	}
}
