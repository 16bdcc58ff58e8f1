package replay

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"
)

const maxSeq = math.MaxUint64

// tagOf is an honest tag: it depends on boot and seq alone, as the bytes of an
// honest message do.
func tagOf(boot, seq uint64) (tag [8]byte) {
	binary.BigEndian.PutUint64(tag[:], boot*0x9e3779b97f4a7c15+seq)
	return tag
}

// message is an honest message of web-1.
func message(boot, seq uint64, time int64) Message {
	return Message{Sender: []byte("melb/sensor/web-1"), Boot: boot, Seq: seq, Time: time, Tag: tagOf(boot, seq)}
}

// forged is message with other bytes under the same nonce.
func forged(boot, seq uint64, time int64) Message {
	m := message(boot, seq, time)
	m.Tag[7] ^= 1
	return m
}

func TestHostileSequences(t *testing.T) {
	type step struct {
		m    Message
		want Verdict
	}
	// seq is an honest message of boot 1.
	seq := func(n uint64, want Verdict) step { return step{message(1, n, 1000), want} }
	evil := func(n uint64, want Verdict) step { return step{forged(1, n, 1000), want} }

	tests := []struct {
		name  string
		steps []step
	}{
		{"1 the same twice", []step{seq(1, Fresh), seq(1, Redelivery), seq(1, Redelivery)}},
		{"2 the same nonce over other bytes", []step{seq(1, Fresh), evil(1, Collision), seq(1, Redelivery)}},
		{"3 zero is no number", []step{seq(0, Refused), seq(1, Fresh), seq(0, Refused)}},
		{"4 out of order", []step{seq(3, Fresh), seq(1, Fresh), seq(2, Fresh), seq(1, Redelivery), seq(2, Redelivery), seq(3, Redelivery)}},
		{"5 a tag is known up to 63 back", []step{seq(100, Fresh), seq(163, Fresh), seq(100, Redelivery), evil(100, Collision)}},
		{"6 and forgotten 64 back", []step{seq(100, Fresh), seq(164, Fresh), seq(100, Repeat), evil(100, Repeat)}},
		{"7 the slot of a forgotten tag is not taken for its successor's", []step{seq(100, Fresh), seq(165, Fresh), evil(164, Fresh), evil(164, Redelivery), seq(164, Collision)}},
		{"8 a message accepted 64 back leaves the newest tags alone", []step{seq(200, Fresh), evil(136, Fresh), seq(136, Repeat), seq(200, Redelivery)}},
		{"9 the lower edge of the window", []step{seq(2000, Fresh), seq(977, Fresh), seq(976, Late), seq(977, Repeat), seq(976, Late)}},
		{"10 the edge moves by one", []step{seq(2000, Fresh), seq(977, Fresh), seq(2001, Fresh), seq(977, Late), seq(978, Fresh), seq(978, Repeat)}},
		{"11 exactly one window ahead", []step{seq(1, Fresh), seq(1025, Fresh), seq(1, Late), seq(2, Fresh), seq(2, Repeat)}},
		{"12 one less than a window ahead", []step{seq(1, Fresh), seq(1024, Fresh), seq(1, Repeat), seq(2, Fresh)}},
		{"13 exactly one ring ahead leaves nothing marked", []step{seq(5, Fresh), seq(5+64*ringWords, Fresh), seq(6+64*ringWords-Window, Fresh), seq(4+64*ringWords, Fresh)}},
		{"14 old marks do not shine through after a jump", []step{seq(64, Fresh), seq(65, Fresh), seq(64+1088, Fresh), seq(65+1088, Fresh), seq(128, Late), seq(130, Fresh), seq(65+1023, Fresh)}},
		{"15 a word skipped over is cleared", []step{seq(70, Fresh), seq(70+1088-64, Fresh), seq(70+1088+64, Fresh), seq(70+1088, Fresh), seq(70+1088-64, Repeat)}},
		{"16 far ahead, then back", []step{seq(1, Fresh), seq(1<<40, Fresh), seq(2, Late), seq(1<<40-1023, Fresh), seq(1<<40-1024, Late), seq(1<<40, Redelivery)}},
		{"17 first message anywhere", []step{seq(1<<50, Fresh), seq(1<<50-1, Fresh), seq(1<<50-1024, Late)}},
		{"18 the last number there is", []step{seq(1, Fresh), seq(maxSeq, Fresh), seq(maxSeq, Redelivery), evil(maxSeq, Collision), seq(1, Late), seq(0, Refused)}},
		{"19 the window below the last number", []step{seq(maxSeq, Fresh), seq(maxSeq-1023, Fresh), seq(maxSeq-1023, Repeat), seq(maxSeq-1024, Late), seq(maxSeq-63, Fresh), seq(maxSeq-63, Redelivery), seq(maxSeq-64, Fresh), seq(maxSeq-64, Repeat)}},
		{"20 up to the last number one by one", []step{seq(maxSeq-2, Fresh), seq(maxSeq-1, Fresh), seq(maxSeq, Fresh), seq(maxSeq-2, Redelivery)}},
		{"21 across the last word", []step{seq(maxSeq-64, Fresh), seq(maxSeq, Fresh), seq(maxSeq-64, Repeat), seq(maxSeq-63, Fresh)}},
		{"22 small numbers do not wrap below the window", []step{seq(1, Fresh), seq(2, Fresh), seq(1, Redelivery), seq(maxSeq, Fresh), seq(2, Late)}},

		{"23 boot zero is none", []step{{message(0, 1, 1000), Refused}, {message(1, 1, 1000), Fresh}, {message(0, 2, 1000), Refused}}},
		{"24 a newer boot begins anew", []step{seq(5, Fresh), {message(2, 5, 2000), Fresh}, {message(2, 4, 2000), Fresh}, {message(2, 5, 2000), Redelivery}, {forged(2, 5, 2000), Collision}}},
		{"25 its first message may be any", []step{seq(5, Fresh), {message(2, 1<<60, 2000), Fresh}, {message(2, 1, 2000), Late}}},
		{"26 what an older boot sent before is late", []step{seq(5, Fresh), {message(2, 1, 2000), Fresh}, {message(1, 6, 1999), Late}, {message(1, 6, 2000), Late}}},
		{"27 what it sends afterwards is a clone's", []step{seq(5, Fresh), {message(2, 1, 2000), Fresh}, {message(1, 6, 2001), Clone}, {message(1, 6, 2001), Clone}}},
		{"28 a known message of an older boot never comes back", []step{seq(5, Fresh), {message(2, 1, 2000), Fresh}, seq(5, Late), evil(5, Late)}},
		{"29 the first message of a boot counts, not its last", []step{{message(2, 1, 2000), Fresh}, {message(2, 2, 9000), Fresh}, {message(1, 1, 5000), Clone}}},
		{"30 the newest of three boots counts", []step{{message(1, 1, 1000), Fresh}, {message(2, 1, 2000), Fresh}, {message(3, 1, 3000), Fresh}, {message(2, 2, 2500), Late}, {message(1, 2, 3001), Clone}, {message(2, 2, 3001), Clone}}},
		{"31 a refused clone changes nothing", []step{{message(2, 1, 2000), Fresh}, {message(1, maxSeq, 9000), Clone}, {message(2, 2, 2001), Fresh}, {message(2, 1, 2000), Redelivery}}},
		{"32 the last boot there is", []step{{message(maxSeq, 1, 1000), Fresh}, {message(maxSeq, 1, 1000), Redelivery}, {message(maxSeq-1, 1, 1000), Late}, {message(maxSeq-1, 1, 1001), Clone}, {message(0, 1, 1000), Refused}}},
		{"33 time must be positive", []step{{message(1, 1, 0), Refused}, {message(1, 1, -1), Refused}, {message(1, 1, math.MinInt64), Refused}, {message(1, 1, 1), Fresh}}},
		{"34 the end of time", []step{{message(1, 1, math.MaxInt64), Fresh}, {message(1, 2, 1), Fresh}, {message(2, 1, 1), Fresh}, {message(1, 3, math.MaxInt64), Clone}}},
		{"35 another time does not hide the nonce", []step{{message(1, 1, 1000), Fresh}, {message(1, 1, 5000), Redelivery}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := New(1)
			for i, step := range test.steps {
				if got := s.Check(step.m); got != step.want {
					t.Fatalf("step %d: boot %d seq %d time %d: %v, want %v", i+1, step.m.Boot, step.m.Seq, step.m.Time, got, step.want)
				}
			}
		})
	}
}

// A boot begins when its first message comes, or at that message's own time if
// it says earlier: who sends with a fast clock, and boots again and again, must
// not outrun the alarm.
func TestClonesWithAFastClock(t *testing.T) {
	type step struct {
		boot, seq     uint64
		time, arrival int64
		want          Verdict
	}
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"ahead of its arrival", []step{{2, 1, 31_000, 1000, Fresh}, {1, 1, 1000, 1000, Late}, {1, 1, 1001, 1001, Clone}}},
		{"behind its arrival", []step{{2, 1, 1000, 31_000, Fresh}, {1, 1, 1000, 31_000, Late}, {1, 1, 1001, 31_000, Clone}}},
		{"no arrival is known", []step{{2, 1, 31_000, 0, Fresh}, {1, 1, 31_000, 1000, Late}, {1, 1, 31_001, 1000, Clone}}},
		{"again and again", []step{{1, 1, 1000, 1000, Fresh}, {2, 1, 30_000, 1000, Fresh}, {1, 2, 3000, 3000, Clone},
			{3, 1, 55_000, 26_000, Fresh}, {1, 3, 26_001, 26_001, Clone}}},
		{"the first message alone counts", []step{{2, 1, 31_000, 1000, Fresh}, {2, 2, 500, 500, Fresh}, {1, 1, 900, 1001, Late}}},
	} {
		s := New(1)
		for i, step := range test.steps {
			m := message(step.boot, step.seq, step.time)
			m.Arrival = step.arrival
			if got := s.Check(m); got != step.want {
				t.Errorf("%s, step %d: %v, want %v", test.name, i+1, got, step.want)
			}
		}
	}
}

func TestSenderNames(t *testing.T) {
	s := New(10)
	for _, test := range []struct {
		sender string
		want   Verdict
	}{
		{"", Refused},
		{strings.Repeat("a", MaxSender+1), Refused},
		{strings.Repeat("a", MaxSender), Fresh},
		{strings.Repeat("a", MaxSender-1), Fresh}, // a prefix is another sender
		{"a", Fresh},
		{"a\x00", Fresh},
		{"a?", Refused}, // the name of an unproven one's window
		{"a", Redelivery},
	} {
		m := message(1, 1, 1000)
		m.Sender = []byte(test.sender)
		if got := s.Check(m); got != test.want {
			t.Errorf("sender %q: %v, want %v", test.sender, got, test.want)
		}
	}
}

func TestSenderBufferIsNotKept(t *testing.T) {
	s := New(2)
	m := message(1, 1, 1000)
	s.Check(m)
	copy(m.Sender, "XXXX")
	if got := s.Check(message(1, 1, 1000)); got != Redelivery {
		t.Errorf("after the caller reused its buffer: %v, want %v", got, Redelivery)
	}
}

func TestVerdicts(t *testing.T) {
	seen := map[string]bool{}
	for v := Refused; v <= Unavailable; v++ {
		if seen[v.String()] {
			t.Errorf("verdict %d shares the name %q", v, v)
		}
		seen[v.String()] = true
		if alarm := v == Collision || v == Clone; v.Alarm() != alarm {
			t.Errorf("%v: alarm %t, want %t", v, v.Alarm(), alarm)
		}
	}
	var zero Verdict
	if zero == Fresh || zero.String() != "refused" || Verdict(200).String() != "refused" {
		t.Error("an unset or unknown verdict must read as refused")
	}
}

func TestFullRefusesNewSenders(t *testing.T) {
	s := New(2)
	from := func(name string, seq uint64) Message {
		m := message(1, seq, 1000)
		m.Sender = []byte(name)
		return m
	}
	for _, step := range []struct {
		m    Message
		want Verdict
	}{
		{from("a", 1), Fresh}, {from("b", 1), Fresh},
		{from("c", 1), Full}, {from("c", 1), Full}, {from("d", 9), Full},
		{from("a", 1), Redelivery}, {from("b", 1), Redelivery}, {from("a", 2), Fresh},
	} {
		if got := s.Check(step.m); got != step.want {
			t.Errorf("%s seq %d: %v, want %v", step.m.Sender, step.m.Seq, got, step.want)
		}
	}
	if got := s.Stats(); got != (Stats{Senders: 2, Capacity: 2, Full: 3}) {
		t.Errorf("stats %+v", got)
	}
}

func TestCapacityIsBroughtInside(t *testing.T) {
	for _, capacity := range []int{0, -1, math.MinInt} {
		s := New(capacity)
		if got := s.Check(message(1, 1, 1000)); got != Full {
			t.Errorf("capacity %d: %v, want %v", capacity, got, Full)
		}
		if got := s.Forget(math.MaxInt64); got != 0 {
			t.Errorf("capacity %d: reclaimed %d", capacity, got)
		}
	}
	// By its arithmetic alone: a set of that size would fill a small machine.
	if got := bounded(math.MaxInt); got != MaxCapacity {
		t.Errorf("capacity %d, want %d", got, MaxCapacity)
	}
}

func TestForget(t *testing.T) {
	from := func(name string, time int64) Message {
		m := message(1, 1, time)
		m.Sender = []byte(name)
		return m
	}
	s := New(2)
	s.Check(from("a", 1000))
	s.Check(from("b", 2000))
	if got := s.Forget(1000); got != 0 {
		t.Fatalf("reclaimed %d whose newest time is the horizon itself", got)
	}
	if got := s.Forget(1001); got != 1 {
		t.Fatalf("reclaimed %d, want 1", got)
	}
	if got := s.Check(from("b", 2000)); got != Redelivery {
		t.Errorf("the other sender: %v, want %v", got, Redelivery)
	}
	// The place is free, but not for what may have been seen before.
	if got := s.Check(from("a", 1000)); got != Late {
		t.Errorf("replay for the reclaimed sender: %v, want %v", got, Late)
	}
	if got := s.Check(from("c", 1000)); got != Late {
		t.Errorf("a stranger no newer than what was reclaimed: %v, want %v", got, Late)
	}
	if got := s.Check(from("c", 1001)); got != Fresh {
		t.Errorf("a newer stranger: %v, want %v", got, Fresh)
	}
}

func TestForgetWithAWrongHorizonAdmitsNoReplay(t *testing.T) {
	s := New(1)
	for i := range int64(10) {
		m := message(1, 1, 1000+i)
		m.Sender = []byte{'a' + byte(i)}
		if got := s.Check(m); got != Fresh {
			t.Fatalf("sender %d: %v", i, got)
		}
		if got := s.Forget(math.MaxInt64); got != 1 {
			t.Fatalf("reclaimed %d, want 1", got)
		}
		for j := range i + 1 {
			m := message(1, 1, 1000+j)
			m.Sender = []byte{'a' + byte(j)}
			if got := s.Check(m); got != Late {
				t.Fatalf("replay of sender %d after %d: %v, want %v", j, i, got, Late)
			}
		}
	}
}

func TestForgetKeepsWhomThereIsRoomFor(t *testing.T) {
	const capacity = 80
	s := New(capacity)
	for i := range capacity {
		m := message(1, 1, 1000)
		m.Sender = []byte{byte(i), 'a'}
		s.Check(m)
	}
	if got := s.Forget(5000); got != capacity/8 {
		t.Errorf("reclaimed %d, want %d", got, capacity/8)
	}
	if got := s.Forget(5000); got != 0 {
		t.Errorf("reclaimed %d more, with an eighth free", got)
	}
}

func TestLookup(t *testing.T) {
	s := New(1)
	if _, ok := s.Lookup([]byte("melb/sensor/web-1")); ok {
		t.Error("an unknown sender was found")
	}
	s.Check(message(3, 7, 1000))
	s.Check(message(5, 2, 3000))
	s.Check(message(5, 9, 2000))
	s.Check(message(4, 1, 9000))
	got, ok := s.Lookup([]byte("melb/sensor/web-1"))
	if want := (Info{Boot: 5, Previous: 3, Top: 9, First: 3000, Newest: 3000}); !ok || got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestClosed(t *testing.T) {
	s := New(1)
	s.Check(message(1, 1, 1000))
	if err := s.Sync(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got := s.Check(message(1, 2, 1000)); got != Unavailable {
		t.Errorf("check: %v, want %v", got, Unavailable)
	}
	if s.Close() == nil || s.Sync() == nil {
		t.Error("closing or syncing a closed set is no error")
	}
	if _, ok := s.Lookup([]byte("melb/sensor/web-1")); ok || s.Forget(math.MaxInt64) != 0 {
		t.Error("a closed set still knows senders")
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	s := New(2)
	s.Check(message(1, 1, 1000))
	m := message(1, 1, 1000)
	for name, next := range map[string]func(){
		"in order":   func() { m.Seq++ },
		"redelivery": func() {},
		"jump":       func() { m.Seq += 5000 },
		"new boot":   func() { m.Boot++ },
		"clone":      func() { m.Boot, m.Time = 1, 9999 },
	} {
		if n := testing.AllocsPerRun(100, func() { next(); s.Check(m) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
