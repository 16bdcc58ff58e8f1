package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const web = "melb/sensor/web-1"

var now = time.UnixMilli(1_700_000_000_000)

func message(boot, seq uint64, text string) Message {
	return Message{Sender: []byte(web), Boot: boot, Seq: seq, Sum: sha256.Sum256([]byte(text))}
}

// take takes messages of boot 1 and expects that they are new.
func take(t *testing.T, l *Ledger, numbers ...uint64) {
	t.Helper()
	for _, n := range numbers {
		if got := l.Take(message(1, n, "x")); got != Taken {
			t.Fatalf("%d: %d", n, got)
		}
	}
	l.Heard([]byte(web), 1, 1)
}

// acked commits, and returns the one acknowledgement that is due an hour later.
func acked(t *testing.T, l *Ledger) (seq uint64) {
	t.Helper()
	l.Commit()
	now = now.Add(time.Hour)
	due := l.Due(now, 9)
	if len(due) != 1 {
		t.Fatalf("due: %+v", due)
	}
	return due[0].Seq
}

// Nothing is acknowledged beyond a gap, before it is durable, or beyond a dispute.
func TestWhatIsNotAcknowledged(t *testing.T) {
	l := New()
	take(t, l, 1, 2, 5, 6)
	if due := l.Due(now, 9); len(due) != 0 {
		t.Errorf("due before it is durable: %+v", due)
	}
	l.Commit()
	take(t, l, 3)
	if due := l.Due(now, 9); len(due) != 1 || due[0] != (Ack{Role: "sensor", Name: "web-1", Generation: 1, Boot: 1, Seq: 2}) {
		t.Errorf("due: %+v", due) // 3 is not durable yet
	}
	if seq := acked(t, l); seq != 3 {
		t.Errorf("%d is acknowledged beyond a gap", seq)
	}
	l.Dispute(message(1, 5, "y"))
	take(t, l, 4)
	if seq := acked(t, l); seq != 4 {
		t.Errorf("%d is acknowledged beyond a dispute", seq)
	}
	l.Backfill([]byte(web), 1, 1, 5)
	if seq := acked(t, l); seq != 4 {
		t.Errorf("%d is acknowledged: its sender still holds what is disputed", seq)
	}
	l.Backfill([]byte(web), 1, 2, 6)
	if seq := acked(t, l); seq != 6 {
		t.Errorf("%d is acknowledged", seq)
	}
}

func TestWhatWasGivenUp(t *testing.T) {
	l := New()
	take(t, l, 1, 4, 9)
	l.GiveUp([]byte(web), 1, 2, 3)
	if seq := acked(t, l); seq != 4 {
		t.Errorf("%d", seq)
	}
	l.GiveUp([]byte(web), 1, 0, 8)                 // no range
	l.GiveUp([]byte(web), 1, 8, 7)                 // none either
	l.GiveUp([]byte(web), 2, 5, 8)                 // of another boot
	l.GiveUp([]byte("melb/sensor/web-2"), 1, 5, 8) // of another sender
	l.GiveUp([]byte(web), 1, 3, 7)                 // overlaps
	l.Heard([]byte("melb/sensor/web-2"), 1, 1)
	if got := l.Take(message(1, 3, "x")); got != Taken {
		t.Errorf("what was given up and comes all the same is %d", got)
	}
	if got := l.Take(message(1, 3, "x")); got != Held {
		t.Errorf("and then %d", got)
	}
	b := l.senders[web].of(1)
	if b.prefix != 7 || !reflect.DeepEqual(b.above, []span{{9, 9}}) || !reflect.DeepEqual(b.missing, []span{{2, 2}, {5, 7}}) {
		t.Errorf("%+v", b)
	}
}

func TestRepetitionsAndContradictions(t *testing.T) {
	l := New()
	take(t, l, 1, 3)
	for _, n := range []uint64{1, 3} {
		if got := l.Take(message(1, n, "x")); got != Held {
			t.Errorf("the same again: %d", got)
		}
		if got := l.Take(message(1, n, "y")); got != Contradicts {
			t.Errorf("another one of number %d: %d", n, got)
		}
		if got := l.Take(message(1, n, "x")); got != Held {
			t.Errorf("the first one again: %d", got)
		}
	}
	clear(l.tags) // they are of the newest messages alone
	if got := l.Take(message(1, 1, "y")); got != Held {
		t.Errorf("without a tag: %d", got)
	}
	if got := l.Take(message(2, 1, "x")); got != Taken {
		t.Errorf("of another boot: %d", got)
	}
}

// An acknowledgement comes once in 5 seconds, and at once behind a backfill.
func TestWhenIsAcknowledged(t *testing.T) {
	l := New()
	at := now
	due := func(after time.Duration, want int) {
		t.Helper()
		if got := l.Due(at.Add(after), 9); len(got) != want {
			t.Errorf("after %s due: %+v", after, got)
		}
	}
	take(t, l, 1)
	l.Commit()
	due(0, 1)
	due(0, 0)
	take(t, l, 2)
	l.Commit()
	due(Interval-1, 0)
	due(Interval, 1)
	due(time.Hour, 0) // nothing new was kept
	take(t, l, 3)
	l.Backfill([]byte(web), 1, 7, 1)
	due(Interval, 0) // not durable
	l.Commit()
	if got := l.Due(at.Add(Interval), 9); len(got) != 1 || got[0].Backfill != 7 || got[0].Seq != 3 {
		t.Errorf("behind a backfill due: %+v", got)
	}
	// A clock that was set back does not keep anybody waiting.
	take(t, l, 4)
	l.Commit()
	due(-time.Hour, 1)
	// A sender that began anew waits for no backfill of before.
	l.Backfill([]byte(web), 1, 8, 1)
	if got := l.Take(message(2, 1, "x")); got != Taken {
		t.Fatal(got)
	}
	l.Heard([]byte(web), 2, 3)
	l.Heard([]byte(web), 1, 1) // late, and under the old key
	l.Backfill([]byte(web), 1, 9, 1)
	l.Commit()
	if got := l.Due(at.Add(2*time.Hour), 9); len(got) != 1 || got[0] != (Ack{Role: "sensor", Name: "web-1", Generation: 3, Boot: 2, Seq: 1}) {
		t.Errorf("of a new boot due: %+v", got)
	}
}

// The oldest are due first, and those that wait for a backfill before them.
func TestDueInTurns(t *testing.T) {
	l := New()
	for i := range 4 {
		name := fmt.Appendf(nil, "melb/sensor/web-%d", i)
		if l.Take(Message{Sender: name, Boot: 1, Seq: 1}) != Taken {
			t.Fatal(i)
		}
		l.Heard(name, 1, 1)
		if i == 3 {
			l.Backfill(name, 1, 1, 1)
		}
	}
	l.Commit()
	var got []string
	for range 4 {
		for _, a := range l.Due(now, 1) {
			got = append(got, a.Name)
		}
	}
	if !reflect.DeepEqual(got, []string{"web-3", "web-0", "web-1", "web-2"}) || l.Owed() != 0 {
		t.Errorf("%q, %d left", got, l.Owed())
	}
}

// Whatever senders claim, memory has an end, and nothing is taken twice or
// acknowledged that is not held.
func TestBounds(t *testing.T) {
	l := New()
	for i := range uint64(maxSpans) {
		take(t, l, 2*i+2)
	}
	if got := l.Take(message(1, 5000, "x")); got != Crowded {
		t.Errorf("one gap too many: %d", got)
	}
	l.GiveUp([]byte(web), 1, 9000, 9001)
	if n := len(l.senders[web].of(1).above); n != maxSpans {
		t.Errorf("%d ranges", n)
	}
	take(t, l, 1) // the lowest gap is filled all the same
	if seq := acked(t, l); seq != 2 {
		t.Errorf("%d", seq)
	}
	l.Backfill([]byte(web), 1, 1, 2*maxSpans+1)
	if seq := acked(t, l); seq != 2*maxSpans {
		t.Errorf("%d", seq)
	}
	if n := len(l.senders[web].of(1).missing); n > maxSpans {
		t.Errorf("%d ranges", n)
	}

	for boot := range uint64(2 * maxBoots) {
		if got := l.Take(message(boot+2, 1, "x")); got != Taken {
			t.Fatalf("boot %d: %d", boot, got)
		}
	}
	s := l.senders[web]
	if len(s.boots) != maxBoots || s.newest() != 2*maxBoots+1 {
		t.Errorf("%d boots up to %d", len(s.boots), s.newest())
	}
	if got := l.Take(message(1, 9999, "x")); got != Gone {
		t.Errorf("of a boot that was forgotten: %d", got)
	}

	l = New()
	for i := range uint64(2 * maxSpans) {
		l.GiveUp([]byte(web), 1, 2*i+1, 2*i+1)
		take(t, l, 2*i+2)
	}
	if n := len(l.senders[web].of(1).missing); n != maxSpans {
		t.Errorf("%d ranges were given up", n)
	}
	if got := l.Take(message(1, 1, "x")); got != Held {
		t.Errorf("the oldest that was given up: %d", got)
	}
	if got := l.Take(message(1, 4*maxSpans-1, "x")); got != Taken {
		t.Errorf("the newest that was given up: %d", got)
	}

	l = New()
	l.limit = 1
	take(t, l, 1)
	stranger := Message{Sender: []byte("melb/sensor/web-2"), Boot: 1, Seq: 1}
	if got := l.Take(stranger); got != Untracked {
		t.Errorf("one sender too many: %d", got)
	}
	l.Heard(stranger.Sender, 1, 1)
	l.Dispute(stranger)
	l.GiveUp(stranger.Sender, 1, 1, 1)
	l.Backfill(stranger.Sender, 1, 1, 1)
	if l.Senders() != 1 {
		t.Error("it is known all the same")
	}
}

func TestNumbersAtTheirEnds(t *testing.T) {
	l := New()
	take(t, l, math.MaxUint64, math.MaxUint64-1, 1)
	l.GiveUp([]byte(web), 1, 1, math.MaxUint64)
	if seq := acked(t, l); seq != math.MaxUint64 {
		t.Errorf("%d", seq)
	}
	if got := l.Take(message(1, math.MaxUint64, "x")); got != Held {
		t.Errorf("%d", got)
	}
}

// A ledger and a plain set agree, also after having been written down.
func TestAgainstAPlainSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, held, gone := New(), map[uint64]bool{}, map[uint64]bool{}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			seq := rapid.Uint64Range(1, 40).Draw(t, "seq")
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				if got := l.Take(message(1, seq, "x")); (got == Taken) == held[seq] || got != Taken && got != Held {
					t.Fatalf("%d held %v: %d", seq, held[seq], got)
				}
				held[seq] = true
			case 2:
				last := seq + rapid.Uint64Range(0, 9).Draw(t, "more")
				l.GiveUp([]byte(web), 1, seq, last)
				for ; seq <= last; seq++ {
					gone[seq] = true
				}
			case 3:
				b, err := json.Marshal(l.State())
				var states []SenderState
				if err == nil {
					err = json.Unmarshal(b, &states)
				}
				if err == nil {
					l, err = Restore(states)
				}
				if err != nil {
					t.Fatalf("%v: %s", err, b)
				}
			}
		}
		want := uint64(0)
		for held[want+1] || gone[want+1] {
			want++
		}
		if s := l.senders[web]; s != nil && s.of(1).whole() != want {
			t.Fatalf("up to %d instead of %d: %+v", s.of(1).whole(), want, s.of(1))
		}
	})
}

func TestRestoreRefuses(t *testing.T) {
	good := func() SenderState {
		return SenderState{Sender: web, Boots: []BootState{{Boot: "00000000001", Prefix: 3, Above: [][2]uint64{{5, 6}, {8, 8}}, Missing: [][2]uint64{{1, 2}, {5, 5}}}, {Boot: "00000000002"}}}
	}
	if _, err := Restore([]SenderState{good()}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*SenderState){
		"no sender":                     func(s *SenderState) { s.Sender = "web-1" },
		"boots out of order":            func(s *SenderState) { s.Boots[1].Boot = "00000000001" },
		"no boot":                       func(s *SenderState) { s.Boots[0].Boot = "1" },
		"too many boots":                func(s *SenderState) { s.Boots = make([]BootState, maxBoots+1) },
		"a range within the prefix":     func(s *SenderState) { s.Boots[0].Above[0][0] = 3 },
		"ranges out of order":           func(s *SenderState) { s.Boots[0].Above[1] = [2]uint64{5, 5} },
		"ranges that touch":             func(s *SenderState) { s.Boots[0].Above[1] = [2]uint64{7, 8} },
		"a range that is none":          func(s *SenderState) { s.Boots[0].Above[1] = [2]uint64{9, 8} },
		"a range after the last number": func(s *SenderState) { s.Boots[0].Above[0][1], s.Boots[0].Above[1] = math.MaxUint64, [2]uint64{0, 8} },
		"given up, and not counted":     func(s *SenderState) { s.Boots[0].Missing[1] = [2]uint64{6, 7} },
		"given up from number 0 on":     func(s *SenderState) { s.Boots[0].Missing[0][0] = 0 },
		"too many ranges":               func(s *SenderState) { s.Boots[0].Above = make([][2]uint64, maxSpans+1) },
	} {
		s := good()
		change(&s)
		if _, err := Restore([]SenderState{s}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := Restore([]SenderState{good(), good()}); err == nil {
		t.Error("the same sender twice: accepted")
	}
}

func BenchmarkTake(b *testing.B) {
	l := New()
	b.ReportAllocs()
	var m Message
	name := []byte(web)
	for i := uint64(1); b.Loop(); i++ {
		binary.BigEndian.PutUint64(m.Sum[:], i)
		m.Sender, m.Boot, m.Seq = name, 1, i
		if l.Take(m) != Taken {
			b.Fatal(i)
		}
		if i%512 == 0 {
			l.Commit()
		}
	}
}
