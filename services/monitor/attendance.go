package monitor

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"levee/envelope"
	"levee/internal/presence"
	"levee/internal/wire"
)

const (
	// absentAfter is how long a machine must be connected nowhere before people
	// are told: one that lost its broker is back at another within this time.
	absentAfter = 5 * time.Second
	// maxWords is how many messages of brokers wait for Run at most: a whole
	// roster, and what comes while it is read.
	maxWords = 512
	// maxNamed is how many machines one line of the log names.
	maxNamed = 5
)

// word is what a broker says on its way to Run.
type word struct {
	broker   string
	nonce    envelope.Nonce
	presence wire.Presence
	received time.Time
}

// ObservePresence takes a verified message of status/presence. It does not block.
// Nothing is judged by it: a broker says it, who may be captured. It tells people
// which machines are connected nowhere, and how they went.
func (m *Monitor) ObservePresence(from wire.Topic, nonce envelope.Nonce, p wire.Presence, received time.Time) {
	if from.Kind != wire.KindPresence || from.Site != m.config.Site || from.Role != "broker" || from.Name == "" {
		m.count(RefusedTopic)
		return
	}
	if m.words.push(word{from.Name, nonce, p, received}) {
		m.count(LostPresence) // the next roster says the same
	}
	m.wakeUp()
}

// attendance knows which machines are connected nowhere.
type attendance struct {
	picture *presence.Picture
	missed  map[string]time.Time // gone, and since when we know: not told yet
	absent  map[string]bool      // told
	back    []string             // and returned since
}

func newAttendance() *attendance {
	return &attendance{picture: presence.New(), missed: make(map[string]time.Time), absent: make(map[string]bool)}
}

// look asks where machines are of which something new is known.
func (a *attendance) look(machines []string, now time.Time) {
	for _, machine := range machines {
		switch a.picture.Of(machine).State {
		case wire.StatePresent:
			delete(a.missed, machine)
			if a.absent[machine] {
				delete(a.absent, machine)
				a.back = append(a.back, machine)
			}
		case wire.StateGone:
			if _, missed := a.missed[machine]; !missed && !a.absent[machine] {
				a.missed[machine] = now
			}
		default: // nobody knows
			delete(a.missed, machine)
			delete(a.absent, machine)
		}
	}
}

// due returns the machines that have been missed for long enough, and those that
// are back, each once.
func (a *attendance) due(now time.Time) (absent, back []string) {
	for machine, since := range a.missed {
		if now.Sub(since) >= absentAfter {
			delete(a.missed, machine)
			a.absent[machine] = true
			absent = append(absent, machine)
		}
	}
	back, a.back = a.back, nil
	slices.Sort(absent)
	slices.Sort(back)
	return absent, back
}

// how says where a machine is, in a few words.
func (a *attendance) how(machine string) string {
	switch s := a.picture.Of(machine); s.State {
	case wire.StatePresent:
		return "connected at " + strings.Join(s.Brokers, ", ")
	case wire.StateGone:
		if s.Reason == "" {
			s.Reason = "unseen"
		}
		return fmt.Sprintf("connected nowhere since %s: %s", time.UnixMilli(s.Since).UTC().Format(time.RFC3339), s.Reason)
	default:
		return "not known"
	}
}

func (m *Monitor) takeWords() {
	for range maxWords {
		w, ok := m.words.pop()
		if !ok {
			return
		}
		m.attendance.look(m.attendance.picture.Hear(w.broker, w.nonce, &w.presence, w.received), time.Now())
	}
	m.wakeUp() // there may be more
}

// attend tells people who has been missed for long enough, and who is back, in a
// line each, however many they are.
func (m *Monitor) attend(now time.Time) {
	m.attendance.look(m.attendance.picture.Sweep(now), now)
	absent, back := m.attendance.due(now)
	m.counters[Absent].Add(uint64(len(absent)))
	m.counters[Back].Add(uint64(len(back)))
	if len(absent) > 0 {
		m.config.Log.Warn("machines are connected to no broker", m.named(absent)...)
	}
	if len(back) > 0 {
		m.config.Log.Info("machines are connected again", m.named(back)...)
	}
}

func (m *Monitor) named(machines []string) []any {
	some := make([]string, 0, maxNamed)
	for _, machine := range machines[:min(len(machines), maxNamed)] {
		some = append(some, machine+" ("+m.attendance.how(machine)+")")
	}
	return []any{slog.Int("machines", len(machines)), slog.String("among_them", strings.Join(some, "; "))}
}
