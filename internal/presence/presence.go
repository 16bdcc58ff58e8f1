// Package presence puts together what the brokers of a site say of machines'
// sessions (docs/topics.md, Presence).
//
// It guarantees that a machine counts as gone only where a broker said so and no
// broker has it; that what a broker said before it fell silent, or was started
// anew, is no longer believed until it says it again; and that it stays within its
// bounds whatever brokers say. It does not make what they say true: a captured
// broker can leave out and invent. Who acts on presence alone acts on its word.
package presence

import (
	"slices"
	"time"

	"levee/envelope"
	"levee/internal/wire"
)

const (
	// Silence is how long a broker must have said nothing before its word no
	// longer counts: two rosters and a half.
	Silence = 150 * time.Second
	// keep is how long what is no longer true is remembered.
	keep = 24 * time.Hour

	maxBrokers  = 16
	maxMachines = 1 << 17 // of all brokers: room for the 100,000 of a site, and about 100 bytes for each
)

// Standing is what is known of one machine.
type Standing struct {
	State   string   // wire.StatePresent, wire.StateGone, or "": not known
	Brokers []string // that have it, sorted
	Since   int64    // ms since the epoch: present since, or gone since
	Reason  string   // why it went, "" if nobody said
}

// Picture is the newest of what brokers say. It is not safe for concurrent use.
type Picture struct {
	brokers map[string]*broker
	room    int // for claims
	claims  int
	crowded uint64
	swept   time.Time // of what was over long ago
}

type broker struct {
	newest envelope.Nonce
	heard  time.Time
	silent bool
	claims map[string]claim
}

// claim is what one broker says of one machine.
type claim struct {
	state  string // as in Standing
	since  int64  // by the broker's clock; of a state that is not known: when it was known last, by ours
	reason string
	heard  int64 // when it was said last, by our clock, which is the one that all brokers' words have in common
}

// New returns a picture of nobody.
func New() *Picture { return &Picture{brokers: make(map[string]*broker), room: maxMachines} }

// Hear takes a message that passed every check, and returns the machines of which
// it says something new. One that a broker sent before another that was heard
// already says nothing.
func (p *Picture) Hear(name string, nonce envelope.Nonce, m *wire.Presence, received time.Time) (changed []string) {
	b := p.brokers[name]
	switch {
	case b == nil && len(p.brokers) >= maxBrokers:
		p.crowded++
		return nil
	case b == nil:
		b = &broker{claims: make(map[string]claim)}
		p.brokers[name] = b
	case nonce.Boot < b.newest.Boot, nonce.Boot == b.newest.Boot && nonce.Seq <= b.newest.Seq:
		return nil
	case nonce.Boot != b.newest.Boot: // every session of its start before has ended
		changed = b.doubt(changed)
	}
	b.newest, b.heard, b.silent = nonce, received, false
	if m.Roster != nil {
		changed = p.page(b, m.Roster, received, changed)
	}
	for _, c := range m.Changes {
		changed = p.claim(b, c.Machine, claim{c.State, c.Since, c.Reason, received.UnixMilli()}, changed)
	}
	return changed
}

// page takes everybody who is there of a part of the alphabet.
func (p *Picture) page(b *broker, r *wire.Roster, received time.Time, changed []string) []string {
	there := make(map[string]bool, len(r.Present))
	for _, a := range r.Present {
		there[a.Machine] = true
		changed = p.claim(b, a.Machine, claim{state: wire.StatePresent, since: a.Since, heard: received.UnixMilli()}, changed)
	}
	for machine, c := range b.claims {
		if c.state != wire.StateGone && r.Covers(machine) && !there[machine] {
			changed = p.claim(b, machine, claim{state: wire.StateGone, since: received.UnixMilli(), heard: received.UnixMilli()}, changed)
		}
	}
	return changed
}

func (p *Picture) claim(b *broker, machine string, c claim, changed []string) []string {
	before, known := b.claims[machine]
	switch {
	case !known && p.claims >= p.room:
		p.crowded++
		return changed
	case !known:
		p.claims++
	}
	b.claims[machine] = c
	if before.state == c.state && before.since == c.since {
		return changed
	}
	return append(changed, machine)
}

// doubt takes back what a broker said of those who were there.
func (b *broker) doubt(changed []string) []string {
	for machine, c := range b.claims {
		if c.state == wire.StatePresent {
			b.claims[machine] = claim{since: b.heard.UnixMilli(), heard: b.heard.UnixMilli()}
			changed = append(changed, machine)
		}
	}
	return changed
}

// Sweep stops believing brokers that have fallen silent by now, forgets what was
// over long ago, and returns the machines of which something else is known now.
func (p *Picture) Sweep(now time.Time) (changed []string) {
	for _, b := range p.brokers {
		if !b.silent && now.Sub(b.heard) > Silence {
			b.silent = true
			changed = b.doubt(changed)
		}
	}
	if now.Sub(p.swept) < time.Minute { // a site's machines are many
		return changed
	}
	p.swept = now
	for name, b := range p.brokers {
		for machine, c := range b.claims {
			if c.state != wire.StatePresent && now.UnixMilli()-c.heard > keep.Milliseconds() {
				delete(b.claims, machine)
				p.claims--
				changed = append(changed, machine)
			}
		}
		if b.silent && len(b.claims) == 0 {
			delete(p.brokers, name)
		}
	}
	return changed
}

// Of returns what is known of a machine, "role/name". Whoever is present anywhere
// is present. Else the newest word counts, and a broker's silence is one.
func (p *Picture) Of(machine string) (s Standing) {
	newest := int64(-1)
	for name, b := range p.brokers {
		c, known := b.claims[machine]
		switch {
		case !known:
		case c.state == wire.StatePresent:
			if len(s.Brokers) == 0 || c.since < s.Since {
				s.Since = c.since
			}
			s.State, s.Reason, s.Brokers = c.state, "", append(s.Brokers, name)
		case len(s.Brokers) == 0 && c.heard > newest:
			s.State, s.Since, s.Reason, newest = c.state, c.since, c.reason, c.heard
		}
	}
	slices.Sort(s.Brokers)
	return s
}

// Crowded returns how much was not taken for want of room.
func (p *Picture) Crowded() uint64 { return p.crowded }
