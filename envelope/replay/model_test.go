package replay

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model is the specification by maps without bounds: it remembers every
// message it ever accepted and derives each verdict from that.
type model struct {
	capacity  int
	floor     int64
	forgotten int64
	senders   map[string]*modelSender
	ever      map[identity]bool // every message that was ever fresh
}

type identity struct {
	sender    string
	boot, seq uint64
	time      int64
}

type modelSender struct {
	boot   uint64
	first  int64
	newest int64
	seen   map[uint64][8]byte // of boot: tag by sequence number
}

func newModel(capacity int) *model {
	return &model{capacity: capacity, senders: map[string]*modelSender{}, ever: map[identity]bool{}}
}

func (d *modelSender) top() (top uint64) {
	for seq := range d.seen {
		top = max(top, seq)
	}
	return top
}

// nameOf keeps the unproven apart.
func nameOf(m Message) string {
	if m.Unproven {
		return string(m.Sender) + "?"
	}
	return string(m.Sender)
}

// room returns how many senders of a kind there is room for.
func (d *model) room(unproven bool) int {
	if unproven {
		return (d.capacity + 1) / 2
	}
	return d.capacity
}

// left returns how much of the room is free.
func (d *model) left(unproven bool) int {
	n := d.room(unproven)
	for name := range d.senders {
		if strings.HasSuffix(name, "?") == unproven {
			n--
		}
	}
	return n
}

func (d *model) check(m Message) Verdict {
	if len(m.Sender) == 0 || len(m.Sender) > MaxSender || m.Boot == 0 || m.Seq == 0 || m.Time <= 0 {
		return Refused
	}
	if m.Time < d.floor {
		return BeforeStart
	}
	p := d.senders[nameOf(m)]
	if p == nil {
		if m.Time <= d.forgotten {
			return Late
		}
		if d.left(m.Unproven) == 0 {
			return Full
		}
		p = &modelSender{}
		d.senders[nameOf(m)] = p
	}
	if m.Boot < p.boot {
		if m.Time > p.first {
			return Clone
		}
		return Late
	}
	if m.Boot > p.boot {
		p.boot, p.first, p.seen = m.Boot, m.Time, map[uint64][8]byte{}
	}
	if top := p.top(); m.Seq <= top {
		tag, seen := p.seen[m.Seq]
		switch behind := top - m.Seq; {
		case behind >= 1024:
			return Late
		case seen && behind >= 64:
			return Repeat
		case seen && tag == m.Tag:
			return Redelivery
		case seen:
			return Collision
		}
	}
	p.seen[m.Seq] = m.Tag
	p.newest = max(p.newest, m.Time)
	return Fresh
}

// compare gives m to both, and holds the one rule above all: fresh once.
func (d *model) compare(t rapid.TB, s *Set, m Message) {
	t.Helper()
	got, want := s.Check(m), d.check(m)
	if got != want {
		t.Fatalf("%s boot %d seq %d time %d: %v, want %v", m.Sender, m.Boot, m.Seq, m.Time, got, want)
	}
	if got == Fresh {
		n := identity{nameOf(m), m.Boot, m.Seq, m.Time}
		if d.ever[n] {
			t.Fatalf("%+v was fresh twice", n)
		}
		d.ever[n] = true
	}
}

// forget has the set reclaim, and follows it if what it did was allowed.
func (d *model) forget(t rapid.TB, s *Set, before int64) {
	t.Helper()
	short := map[bool]bool{false: d.left(false) < max(1, d.room(false)/8), true: d.left(true) < max(1, d.room(true)/8)}
	n := s.Forget(before)
	for name, p := range d.senders {
		if _, ok := s.Lookup([]byte(name)); ok {
			continue
		}
		if p.newest >= before || !short[strings.HasSuffix(name, "?")] {
			t.Fatalf("%s was reclaimed: newest %d, horizon %d", name, p.newest, before)
		}
		d.forgotten = max(d.forgotten, p.newest)
		delete(d.senders, name)
		n--
	}
	if n != 0 {
		t.Fatalf("reclaimed count is off by %d", n)
	}
	for name, p := range d.senders {
		unproven := strings.HasSuffix(name, "?")
		if d.left(unproven) < max(1, d.room(unproven)/8) && p.newest < before {
			t.Fatalf("%s was not reclaimed: newest %d, horizon %d", name, p.newest, before)
		}
	}
}

// next draws a message near what could break a window.
func (d *model) next(t *rapid.T) Message {
	name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "sender")
	var boot, top uint64 = 1, 1
	unproven := rapid.SampledFrom([]bool{false, false, false, true}).Draw(t, "unproven")
	if p := d.senders[nameOf(Message{Sender: []byte(name), Unproven: unproven})]; p != nil {
		boot, top = p.boot, p.top()
	}
	m := Message{
		Sender: []byte(name), Unproven: unproven,
		Boot: rapid.OneOf(
			rapid.Just(boot), rapid.Just(boot), rapid.Just(boot), rapid.Just(boot),
			rapid.SampledFrom([]uint64{0, 1, 2, 3, 1 << 43, maxSeq - 1, maxSeq, boot - 1, boot + 1}),
		).Draw(t, "boot"),
		Seq: rapid.OneOf(
			rapid.Map(rapid.Uint64Range(0, 70), func(n uint64) uint64 { return top - n }),
			rapid.Map(rapid.Uint64Range(1000, 1100), func(n uint64) uint64 { return top - n }),
			rapid.Map(rapid.Uint64Range(0, 1100), func(n uint64) uint64 { return top + n }),
			rapid.Map(rapid.Uint64Range(0, 1100), func(n uint64) uint64 { return maxSeq - n }),
			rapid.Uint64Range(0, 2200),
		).Draw(t, "seq"),
		Time: rapid.Int64Range(0, 5000).Draw(t, "time"),
	}
	m.Tag = tagOf(m.Boot, m.Seq)
	m.Tag[7] ^= rapid.SampledFrom([]byte{0, 0, 0, 1}).Draw(t, "other bytes")
	return m
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.IntRange(0, 5).Draw(t, "capacity")
		s, d := New(capacity), newModel(capacity)
		t.Repeat(map[string]func(*rapid.T){
			"check": func(t *rapid.T) {
				for range rapid.IntRange(1, 50).Draw(t, "messages") {
					d.compare(t, s, d.next(t))
				}
			},
			"forget": func(t *rapid.T) { d.forget(t, s, rapid.Int64Range(0, 6000).Draw(t, "before")) },
		})
	})
}

// TestAgainstModelLongRun walks single windows much further than rapid does.
func TestAgainstModelLongRun(t *testing.T) {
	for _, start := range []uint64{1, 1 << 32, maxSeq - 20_000} {
		t.Run(fmt.Sprint(start), func(t *testing.T) {
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 0))
			t.Logf("seed %d", seed)
			s := New(1)
			// The long run has its own model: one boot, top kept by hand.
			seen, top := map[uint64]bool{}, start
			s.Check(message(1, start, 1000))
			seen[start] = true
			for range 200_000 {
				var seq uint64
				switch r.IntN(10) {
				case 0, 1, 2, 3:
					seq = top + 1
				case 4, 5:
					seq = top - r.Uint64N(80)
				case 6, 7:
					seq = top - r.Uint64N(1200)
				case 8:
					seq = top + r.Uint64N(40)
				default:
					seq = top - 1024 + r.Uint64N(3)
				}
				if seq == 0 || seq < top && top-seq > 1<<20 || seq > top && seq-top > 1<<20 {
					continue // wrapped around: the table tests those
				}
				want := Fresh
				switch {
				case seq > top:
				case top-seq >= Window:
					want = Late
				case seen[seq] && top-seq >= Tags:
					want = Repeat
				case seen[seq]:
					want = Redelivery
				}
				if got := s.Check(message(1, seq, 1000)); got != want {
					t.Fatalf("seq %d, top %d: %v, want %v", seq, top, got, want)
				}
				seen[seq] = true
				top = max(top, seq)
			}
		})
	}
}

// TestModelIsNotVacuous guards the model: a comparison in which some verdict
// never occurs would prove nothing about it.
func TestModelIsNotVacuous(t *testing.T) {
	counts := map[Verdict]int{}
	rapid.Check(t, func(t *rapid.T) {
		d := newModel(2)
		for range 200 {
			counts[d.check(d.next(t))]++
		}
		d.forgotten, d.senders = math.MaxInt64, map[string]*modelSender{}
		counts[d.check(d.next(t))]++
	})
	for _, v := range []Verdict{Refused, Fresh, Redelivery, Repeat, Collision, Clone, Late, Full} {
		if counts[v] == 0 {
			t.Errorf("%v never occurred among %v", v, slices.Sorted(maps.Keys(counts)))
		}
	}
}
