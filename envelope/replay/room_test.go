package replay

import (
	"errors"
	"fmt"
	"testing"
)

// unproven is an honest message that nothing vouches for.
func unproven(name string, boot, seq uint64, time int64) Message {
	m := message(boot, seq, time)
	m.Sender, m.Unproven = []byte(name), true
	return m
}

func proven(name string, boot, seq uint64, time int64) Message {
	m := unproven(name, boot, seq, time)
	m.Unproven = false
	return m
}

// flood invents n unproven senders, and returns how many found room.
func flood(s *Set, n int, time int64) (kept int) {
	for i := range n {
		if s.Check(unproven(fmt.Sprintf("melb/sensor/x%d-%d", time, i), 1, 1, time)) == Fresh {
			kept++
		}
	}
	return kept
}

// What nothing vouches for can neither use up nor poison the windows of what
// something vouches for.
func TestUnprovenIsApart(t *testing.T) {
	s := New(2)
	for i, step := range []struct {
		m    Message
		want Verdict
	}{
		{proven("a", 5, 1, 1000), Fresh},
		{unproven("a", 5, 1, 1000), Fresh}, // the same bytes, seen with other eyes
		{unproven("a", 5, 1, 1000), Redelivery},
		{proven("a", 5, 1, 1000), Redelivery},
		{unproven("a", 9, maxSeq, 1000), Fresh}, // invented
		{unproven("a", 5, 2, 1001), Clone},
		{proven("a", 5, 2, 1001), Fresh},
		{unproven("b", 1, 1, 1000), Full},
		{proven("b", 1, 1, 1000), Fresh},
		{proven("c", 1, 1, 1000), Full},
	} {
		if got := s.Check(step.m); got != step.want {
			t.Fatalf("step %d: %v, want %v", i+1, got, step.want)
		}
	}
	if got := s.Stats(); got != (Stats{Senders: 2, Unproven: 1, Capacity: 2, Full: 1, FullUnproven: 1}) {
		t.Errorf("stats %+v", got)
	}
}

// Who invents senders without end finds half the room of honest ones, and all
// of those are still let in.
func TestInventedSendersTakeNoRoom(t *testing.T) {
	const capacity = 3000
	s := New(capacity)
	if kept := flood(s, 4*capacity, 1000); kept != capacity/2 {
		t.Errorf("%d invented senders found room, want %d", kept, capacity/2)
	}
	for i := range capacity {
		if got := s.Check(proven(fmt.Sprint("s", i), 1, 1, 1000)); got != Fresh {
			t.Fatalf("honest sender %d: %v", i, got)
		}
		flood(s, 1, int64(1001+i))
	}
}

// Who invents senders without end makes the set forget invented ones alone: a
// quiet sender's clone is noticed however long the flood lasts.
func TestInventedSendersEvictNobody(t *testing.T) {
	s := New(16)
	wantFresh := func(m Message) {
		t.Helper()
		if got := s.Check(m); got != Fresh {
			t.Fatal(got)
		}
	}
	wantFresh(proven("quiet", 7, 1, 1000))
	for now := int64(2000); now < 20_000; now += 1000 {
		flood(s, 100, now)
		if s.Forget(now-500) == 0 && now > 2000 {
			t.Fatal("no invented sender was reclaimed: the flood is none")
		}
	}
	if got := s.Check(proven("quiet", 6, 5, 19_000)); got != Clone {
		t.Errorf("a clone of the quiet sender: %v, want %v", got, Clone)
	}
	if got := s.Check(proven("quiet", 7, 1, 1000)); got != Redelivery {
		t.Errorf("its message again: %v, want %v", got, Redelivery)
	}
	// And the other way round: a room that is short of proven senders takes
	// nothing from the unproven.
	s = New(16)
	wantFresh(unproven("quiet", 7, 1, 1000))
	for i := range 16 {
		wantFresh(proven(fmt.Sprint(i), 1, 1, 1000))
	}
	if got := s.Forget(5000); got != 2 {
		t.Errorf("reclaimed %d, want 2", got)
	}
	if got := s.Check(unproven("quiet", 7, 1, 1000)); got != Redelivery {
		t.Errorf("the unproven sender: %v, want %v", got, Redelivery)
	}
}

func TestUnprovenNames(t *testing.T) {
	s := New(4)
	for length, want := range map[int]Verdict{1: Fresh, MaxSender - 1: Fresh, MaxSender: Refused, MaxSender + 1: Refused, 1000: Refused} {
		if got := s.Check(unproven(string(make([]byte, length)), 1, 1, 1000)); got != want {
			t.Errorf("%d bytes: %v, want %v", length, got, want)
		}
	}
	if got := s.Check(unproven("", 1, 1, 1000)); got != Refused {
		t.Errorf("no name: %v", got)
	}
	m := unproven("a", 1, 1, 1000)
	s.Check(m)
	if n := testing.AllocsPerRun(100, func() { m.Seq++; s.Check(m) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A set in memory holds as many senders as it says, and loses none by growing.
func TestGrowthInMemory(t *testing.T) {
	const capacity = 5*growth + 3
	s := New(capacity)
	for i := range capacity {
		if got := s.Check(proven(fmt.Sprint(i), 1, 1, 1000)); got != Fresh {
			t.Fatalf("sender %d: %v", i, got)
		}
	}
	if got := s.Check(proven("one more", 1, 1, 1000)); got != Full {
		t.Errorf("one more: %v", got)
	}
	for i := range capacity {
		if got := s.Check(proven(fmt.Sprint(i), 1, 1, 1000)); got != Redelivery {
			t.Fatalf("sender %d again: %v", i, got)
		}
	}
	if most := bothRooms(capacity); len(s.records) > most {
		t.Errorf("%d records, more than %d", len(s.records), most)
	}
}

// A disk that is full keeps new senders out and nobody else, is reported once a
// Sync, and is asked again after that alone.
func TestFullDisk(t *testing.T) {
	s := New(5 * growth)
	more, tries, full := s.grow, 0, errors.New("no space left")
	s.grow = func() ([]record, error) {
		tries++
		if full != nil {
			return nil, full
		}
		return more()
	}
	s.flush, s.release = func(int) error { return nil }, func() error { return nil }
	for i := range growth {
		if got := s.Check(proven(fmt.Sprint(i), 1, 1, 1000)); got != Fresh {
			t.Fatalf("sender %d: %v", i, got)
		}
	}
	for range 10 {
		if got := s.Check(proven("new", 1, 1, 1000)); got != Full {
			t.Fatalf("a new sender: %v", got)
		}
		if got := s.Check(proven("0", 1, 1, 1000)); got != Redelivery {
			t.Fatalf("a known one's message again: %v", got)
		}
	}
	if got := s.Check(proven("0", 1, 2, 1000)); got != Fresh {
		t.Errorf("a known sender: %v", got)
	}
	if tries != 1 {
		t.Errorf("the disk was asked %d times", tries)
	}
	if err := s.Sync(); !errors.Is(err, full) {
		t.Errorf("sync: %v", err)
	}
	if err := s.Sync(); err != nil {
		t.Errorf("sync again: %v", err)
	}
	full = nil
	if got := s.Check(proven("new", 1, 1, 1000)); got != Fresh {
		t.Errorf("once there is room: %v", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
