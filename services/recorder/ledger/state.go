package ledger

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"levee/envelope"
)

// SenderState is what a ledger holds of one sender, as it is written down
// (docs/records.md, section 2.3). Tags are not: they are of the newest messages
// alone.
type SenderState struct {
	Sender     string      `json:"sender"`
	Generation uint32      `json:"generation"`
	Boots      []BootState `json:"boots"`
}

// BootState is what is held of one boot. Ranges are [first, last].
type BootState struct {
	Boot     string      `json:"boot"`
	Prefix   uint64      `json:"prefix"`
	Above    [][2]uint64 `json:"above"`
	Missing  [][2]uint64 `json:"missing"`
	Disputed uint64      `json:"disputed"`
}

// State returns what the ledger holds, by sender.
func (l *Ledger) State() []SenderState {
	states := make([]SenderState, 0, len(l.senders))
	for _, name := range slices.Sorted(maps.Keys(l.senders)) {
		s := l.senders[name]
		state := SenderState{Sender: name, Generation: s.generation, Boots: make([]BootState, 0, len(s.boots))}
		for _, b := range s.boots {
			state.Boots = append(state.Boots, BootState{Boot: envelope.FormatBoot(b.number), Prefix: b.prefix, Above: pairs(b.above), Missing: pairs(b.missing), Disputed: b.disputed})
		}
		states = append(states, state)
	}
	return states
}

func pairs(spans []span) [][2]uint64 {
	all := make([][2]uint64, len(spans))
	for i, s := range spans {
		all[i] = [2]uint64{s.first, s.last}
	}
	return all
}

// Restore returns a ledger that holds what states say. It refuses what no ledger
// writes.
func Restore(states []SenderState) (*Ledger, error) {
	l := New()
	if len(states) > l.limit {
		return nil, errors.New("restoring what is held: too many senders")
	}
	for _, state := range states {
		if err := l.restore(state); err != nil {
			return nil, fmt.Errorf("restoring what is held of %q: %w", state.Sender, err)
		}
	}
	return l, nil
}

func (l *Ledger) restore(state SenderState) error {
	if _, err := envelope.ParseKeyID([]byte(state.Sender + "/1")); err != nil || l.senders[state.Sender] != nil || len(state.Boots) > maxBoots {
		return errors.New("it is no sender, stands twice, or has too many boots")
	}
	s := &sender{name: state.Sender, generation: state.Generation}
	var last uint64
	for _, from := range state.Boots {
		number, ok := envelope.ParseBoot(from.Boot)
		b := boot{number: number, prefix: from.Prefix, disputed: from.Disputed}
		var above, missing bool
		b.above, above = spans(from.Above, from.Prefix)
		b.missing, missing = spans(from.Missing, 0)
		for _, m := range b.missing {
			i := find(b.above, m.first)
			missing = missing && (m.last <= b.prefix || i < len(b.above) && b.above[i].first <= m.first && m.last <= b.above[i].last)
		}
		if !ok || number <= last || !above || !missing {
			return errors.New("its boots or their ranges are not in order, or too many")
		}
		last = number
		s.boots = append(s.boots, b)
	}
	l.senders[s.name] = s
	return nil
}

// spans reads ranges above a number, in order and not touching.
func spans(from [][2]uint64, above uint64) (all []span, ok bool) {
	if len(from) > maxSpans {
		return nil, false
	}
	for i, pair := range from {
		first, last := pair[0], pair[1]
		if first <= above || first > last || i > 0 && first-1 <= all[i-1].last {
			return nil, false
		}
		all = append(all, span{first, last})
	}
	return all, true
}
