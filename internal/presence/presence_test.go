package presence

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
)

var start = time.UnixMilli(1729697327000)

func at(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }

func ms(s int) int64 { return at(s).UnixMilli() }

func nonce(boot, seq int) envelope.Nonce { return envelope.Nonce{Boot: uint64(boot), Seq: uint64(seq)} }

func came(machine string, s int) *wire.Presence {
	return &wire.Presence{Changes: []wire.PresenceChange{{Machine: machine, State: wire.StatePresent, Since: ms(s)}}}
}

func went(machine string, s int, reason string) *wire.Presence {
	return &wire.Presence{Changes: []wire.PresenceChange{{Machine: machine, State: wire.StateGone, Since: ms(s), Reason: reason}}}
}

func page(after, through string, machines ...string) *wire.Presence {
	r := &wire.Roster{After: after, Through: through}
	for _, m := range machines {
		r.Present = append(r.Present, wire.Attendee{Machine: m, Since: ms(0)})
	}
	return &wire.Presence{Roster: r}
}

func TestStanding(t *testing.T) {
	const web = "sensor/web-1"
	type word struct {
		broker  string
		nonce   envelope.Nonce
		message *wire.Presence
		at      int
	}
	for name, test := range map[string]struct {
		words []word
		sweep int
		want  Standing
	}{
		"nothing was said": {},
		"present": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}},
			want: Standing{State: wire.StatePresent, Brokers: []string{"a"}, Since: ms(1)}},
		"gone": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}, {"a", nonce(1, 2), went(web, 5, wire.EndLost), 5}},
			want: Standing{State: wire.StateGone, Since: ms(5), Reason: wire.EndLost}},
		"gone from one, present at the other": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}, {"b", nonce(1, 1), came(web, 4), 4}, {"a", nonce(1, 2), went(web, 5, wire.EndLost), 5}},
			want: Standing{State: wire.StatePresent, Brokers: []string{"b"}, Since: ms(4)}},
		"present at both": {words: []word{{"b", nonce(1, 1), came(web, 4), 4}, {"a", nonce(1, 1), came(web, 1), 1}},
			want: Standing{State: wire.StatePresent, Brokers: []string{"a", "b"}, Since: ms(1)}},
		"gone from both, the newest counts": {words: []word{{"a", nonce(1, 1), went(web, 9, wire.EndLost), 9}, {"b", nonce(1, 1), went(web, 5, wire.EndLeft), 5}},
			want: Standing{State: wire.StateGone, Since: ms(9), Reason: wire.EndLost}},
		"what comes late says nothing": {words: []word{{"a", nonce(1, 2), went(web, 5, wire.EndLost), 5}, {"a", nonce(1, 1), came(web, 1), 6}},
			want: Standing{State: wire.StateGone, Since: ms(5), Reason: wire.EndLost}},
		"nor what a start before said": {words: []word{{"a", nonce(2, 1), went(web, 5, wire.EndLost), 5}, {"a", nonce(1, 9), came(web, 1), 6}},
			want: Standing{State: wire.StateGone, Since: ms(5), Reason: wire.EndLost}},
		"a broker started anew": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}, {"a", nonce(2, 1), came("sensor/web-2", 9), 9}},
			want: Standing{Since: ms(1)}},
		"and its first roster has it": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}, {"a", nonce(2, 1), page("", "", web), 9}},
			want: Standing{State: wire.StatePresent, Brokers: []string{"a"}, Since: ms(0)}},
		"or has it not": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}, {"a", nonce(2, 1), page("", "", "sensor/web-2"), 9}},
			want: Standing{State: wire.StateGone, Since: ms(9)}},
		"a page of others": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}, {"a", nonce(1, 2), page("", "sensor/web-0", "sensor/web-0"), 9}, {"a", nonce(1, 3), page(web, "", "sensor/web-2"), 9}},
			want: Standing{State: wire.StatePresent, Brokers: []string{"a"}, Since: ms(1)}},
		"a departure that was missed": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}, {"a", nonce(1, 3), page("", web), 60}},
			want: Standing{State: wire.StateGone, Since: ms(60)}},
		"a roster keeps how it went": {words: []word{{"a", nonce(1, 1), went(web, 1, wire.EndRevoked), 1}, {"a", nonce(1, 2), page("", ""), 60}},
			want: Standing{State: wire.StateGone, Since: ms(1), Reason: wire.EndRevoked}},
		"a broker that fell silent": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}}, sweep: 152,
			want: Standing{Since: ms(1)}},
		"not yet": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}}, sweep: 151,
			want: Standing{State: wire.StatePresent, Brokers: []string{"a"}, Since: ms(1)}},
		"silent there, present here": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}, {"b", nonce(1, 1), came(web, 100), 100}}, sweep: 152,
			want: Standing{State: wire.StatePresent, Brokers: []string{"b"}, Since: ms(100)}},
		"silent there, gone from here since": {words: []word{{"a", nonce(1, 1), came(web, 1), 1}, {"b", nonce(1, 1), went(web, 100, wire.EndLost), 100}}, sweep: 152,
			want: Standing{State: wire.StateGone, Since: ms(100), Reason: wire.EndLost}},
		"gone from here, silent there since": {words: []word{{"b", nonce(1, 1), went(web, 1, wire.EndLost), 1}, {"a", nonce(1, 1), came(web, 50), 50}}, sweep: 201,
			want: Standing{Since: ms(50)}},
		"long ago": {words: []word{{"a", nonce(1, 1), went(web, 1, wire.EndLost), 1}}, sweep: 24*60*60 + 2},
	} {
		p := New()
		for _, w := range test.words {
			p.Hear(w.broker, w.nonce, w.message, at(w.at))
		}
		if test.sweep > 0 {
			p.Sweep(at(test.sweep))
		}
		if got := p.Of(web); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

// What changed is told, and what did not is not.
func TestChanges(t *testing.T) {
	p := New()
	for i, step := range []struct {
		message *wire.Presence
		want    []string
	}{
		{came("sensor/web-1", 0), []string{"sensor/web-1"}},
		{came("sensor/web-1", 0), nil},
		{page("", "", "sensor/web-1", "sensor/web-2"), []string{"sensor/web-2"}},
		{page("", "", "sensor/web-2"), []string{"sensor/web-1"}},
		{went("sensor/web-2", 3, wire.EndSilent), []string{"sensor/web-2"}},
	} {
		if got := p.Hear("a", nonce(1, i+1), step.message, at(i)); !slices.Equal(got, step.want) {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	if got := p.Hear("a", nonce(2, 1), came("sensor/web-3", 9), at(9)); !slices.Equal(got, []string{"sensor/web-3"}) {
		t.Errorf("nobody was present before the start: %v", got)
	}
	if got := p.Hear("a", nonce(3, 1), page("sensor/x", ""), at(9)); !slices.Equal(got, []string{"sensor/web-3"}) {
		t.Errorf("web-3 was: %v", got)
	}
	p.Hear("a", nonce(3, 2), came("sensor/web-3", 10), at(10))
	if got := p.Sweep(at(1000)); !slices.Equal(got, []string{"sensor/web-3"}) {
		t.Errorf("silence: %v", got)
	}
	if got := p.Sweep(at(1001)); got != nil {
		t.Errorf("silence is told twice: %v", got)
	}
}

// Brokers that invent machines, and whoever invents brokers, find no room, and
// those who are there keep theirs.
func TestPictureIsBounded(t *testing.T) {
	const room = 1000
	p := New()
	if p.room != maxMachines {
		t.Errorf("room for %d", p.room)
	}
	p.room = room
	p.Hear("a", nonce(1, 1), came("sensor/web-1", 1), at(1))
	for i := range maxBrokers + 3 {
		p.Hear(fmt.Sprint("b", i), nonce(1, 1), came("sensor/web-2", 1), at(1))
	}
	if len(p.brokers) != maxBrokers || p.Crowded() != 4 {
		t.Errorf("%d brokers, %d crowded out", len(p.brokers), p.Crowded())
	}
	for i := range room / wire.MaxPresenceChanges * 2 {
		var m wire.Presence
		for j := range wire.MaxPresenceChanges {
			m.Changes = append(m.Changes, wire.PresenceChange{Machine: fmt.Sprintf("sensor/x%d-%d", i, j), State: wire.StateGone, Since: ms(2), Reason: wire.EndLost})
		}
		p.Hear("b0", nonce(1, i+2), &m, at(2))
	}
	n := 0
	for _, b := range p.brokers {
		n += len(b.claims)
	}
	if n != room || p.claims != n || p.Crowded() <= 4 {
		t.Errorf("%d claims, counted as %d, %d crowded out", n, p.claims, p.Crowded())
	}
	p.Hear("a", nonce(1, 2), went("sensor/web-1", 3, wire.EndLost), at(3))
	if got := p.Of("sensor/web-1"); got.State != wire.StateGone {
		t.Errorf("%+v", got)
	}
	p.Sweep(at(25 * 60 * 60))
	if len(p.brokers) != 0 || p.claims != 0 {
		t.Errorf("%d brokers with %d claims a day later", len(p.brokers), p.claims)
	}
}

// Whatever was missed: after a whole roster the picture is that of the broker.
func TestRosterHealsWhatWasMissed(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		p, there, boot, seq := New(), make(map[string]bool), 1, 0
		say := func(m *wire.Presence) {
			seq++
			if random.IntN(3) > 0 { // the others are lost on the way
				p.Hear("a", nonce(boot, seq), m, at(seq))
			}
		}
		for range 200 {
			machine := fmt.Sprint("sensor/web-", random.IntN(40))
			switch {
			case random.IntN(50) == 0:
				boot, seq = boot+1, 0
				clear(there)
			case random.IntN(2) == 0:
				there[machine] = true
				say(came(machine, 1))
			default:
				delete(there, machine)
				say(went(machine, 1, wire.EndLost))
			}
		}
		all := slices.Sorted(func(yield func(string) bool) {
			for m := range there {
				if !yield(m) {
					return
				}
			}
		})
		for after := ""; ; {
			size := min(len(all), 7)
			through := ""
			if size < len(all) {
				through = all[size-1]
			}
			seq++
			p.Hear("a", nonce(boot, seq), page(after, through, all[:size]...), at(seq))
			if all, after = all[size:], through; through == "" {
				break
			}
		}
		for i := range 40 {
			machine := fmt.Sprint("sensor/web-", i)
			if got := p.Of(machine).State == wire.StatePresent; got != there[machine] {
				t.Fatalf("seed %d: %s present: %v, want %v", seed, machine, got, there[machine])
			}
		}
	}
}
