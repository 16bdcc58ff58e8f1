package session

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"levee/internal/wire"
)

// take has the line of c send n messages and get an answer to each.
func (o *testOutbox) take(c *cursor, at time.Time, n int) (sent []outgoing) {
	for ; n != 0; n-- {
		out, ok := o.next(c, at)
		if !ok {
			break
		}
		o.acknowledged(c, at)
		sent = append(sent, out)
	}
	return sent
}

// Every line sends everything, in order and byte for byte the same; the first
// acknowledgement counts, and the others change nothing.
func TestLinesSendTheSame(t *testing.T) {
	o := newOutbox(t)
	other := o.join()
	for range 4 {
		o.say(t, start)
	}
	first := o.deliver(start, 3)
	second := o.take(other, start, -1)
	first = append(first, o.deliver(start, -1)...)
	if !slices.Equal(seqs(first), []uint64{1, 2, 3, 4}) || !slices.Equal(seqs(second), seqs(first)) {
		t.Fatalf("sent %v and %v", seqs(first), seqs(second))
	}
	for i := range first {
		if !bytes.Equal(first[i].raw, second[i].raw) {
			t.Errorf("message %d differs", i+1)
		}
	}
	o.signNow(t, start)
	d := digestOf(t, o.take(other, start, -1)[0])
	if d.First != 1 || d.Last != 4 || d.Hash != hashOf(first...) || len(d.Dropped) != 0 || o.waiting() != 0 || o.dropped != 0 {
		t.Errorf("%+v, %d wait, %d dropped", d, o.waiting(), o.dropped)
	}
}

// A line that hangs holds up nobody, and what the other delivered counts.
func TestHangingLine(t *testing.T) {
	o := newOutbox(t)
	hanging := o.join()
	o.say(t, start)
	if _, ok := o.next(hanging, start); !ok {
		t.Fatal("nothing to send")
	}
	for range 5 {
		o.say(t, start)
	}
	sent := o.deliver(start, -1)
	if !slices.Equal(seqs(sent), []uint64{1, 2, 3, 4, 5, 6}) || o.waiting() != 0 {
		t.Fatalf("sent %v, %d wait", seqs(sent), o.waiting())
	}
	o.signNow(t, start)
	if d := digestOf(t, o.deliver(start, 1)[0]); d.Last != 6 || d.Hash != hashOf(sent...) {
		t.Errorf("%+v", d)
	}
	o.acknowledged(hanging, start) // late, and no news
	if got := seqs(o.take(hanging, start, -1)); !slices.Equal(got, []uint64{2, 3, 4, 5, 6, 7}) {
		t.Errorf("it goes on with %v", got)
	}
	o.signNow(t, start)
	if d := digestOf(t, o.deliver(start, 1)[0]); d.First != 7 || d.Last != 7 {
		t.Errorf("counted twice: %+v", d)
	}
}

// What one line has in the air is not given up because another finds it stale:
// its broker may take it. When its connection ends nobody can say so any more.
func TestStaleInTheAirOfAnother(t *testing.T) {
	for _, answered := range []bool{true, false} {
		o := newOutbox(t)
		slow := o.join()
		o.say(t, start)
		flying, _ := o.next(slow, start)
		at := start.Add(replayAge + time.Second)
		o.say(t, at)
		sent := o.deliver(at, -1)
		if !slices.Equal(seqs(sent), []uint64{2}) || o.dropped != 0 || o.waiting() != 1 {
			t.Fatalf("sent %v, %d dropped, %d wait", seqs(sent), o.dropped, o.waiting())
		}
		o.signNow(t, at)
		if n := o.waiting(); n != 1 {
			t.Fatalf("a digest of what comes after a message whose fate is open: %d wait", n)
		}
		var want []wire.Drop
		if answered {
			o.acknowledged(slow, at)
			sent = append([]outgoing{flying}, sent...)
		} else {
			o.leave(slow)
			o.deliver(at, -1)
			want = []wire.Drop{drop(1, 1)}
		}
		if o.waiting() != 0 || len(o.kept) > 1 {
			t.Errorf("answered %v: %d wait, %d kept", answered, o.waiting(), len(o.kept))
		}
		o.signNow(t, at)
		d := digestOf(t, o.deliver(at, -1)[0])
		if d.First != 1 || d.Last != 2 || !slices.Equal(d.Dropped, want) || d.Hash != hashOf(sent...) {
			t.Errorf("answered %v: %+v", answered, d)
		}
	}
}

// A line that comes back begins with what is at most 15 s old, byte for byte,
// also with what only the other line had sent.
func TestReturningLine(t *testing.T) {
	o := newOutbox(t)
	var sent []outgoing
	for i := range 30 {
		at := start.Add(time.Duration(i) * time.Second)
		o.say(t, at)
		sent = append(sent, o.deliver(at, -1)...)
	}
	at := start.Add(29 * time.Second)
	back := o.take(o.join(), at, -1)
	if len(back) != 16 || back[0].seq != 15 || !bytes.Equal(back[0].raw, sent[14].raw) || !bytes.Equal(back[15].raw, sent[29].raw) {
		t.Errorf("it begins with %v", seqs(back))
	}
	if got := o.deliver(at, -1); len(got) != 0 {
		t.Errorf("the other line sends %v again", seqs(got))
	}
}

// An hour with one line dead, or at work on the same message for ever, costs no
// more memory than a minute of it.
func TestOutboxIsBoundedWithADeadLine(t *testing.T) {
	for name, dead := range map[string]func(o *testOutbox, c *cursor, at time.Time) *cursor{
		"gone": func(o *testOutbox, c *cursor, _ time.Time) *cursor {
			if c != nil {
				o.leave(c)
			}
			return nil
		},
		"hangs": func(o *testOutbox, c *cursor, at time.Time) *cursor {
			if c == nil || at.UnixMilli()/1000%5 == 0 { // as often as it would be left
				if c != nil {
					o.leave(c)
				}
				c = o.join()
				o.next(c, at)
			}
			return c
		},
		"hangs for ever": func(o *testOutbox, c *cursor, at time.Time) *cursor {
			if c == nil {
				c = o.join()
				o.next(c, at)
			}
			return c
		},
	} {
		o := newOutbox(t)
		var c *cursor
		for second := range 3600 {
			at := start.Add(time.Duration(second) * time.Second)
			for range 3 {
				o.say(t, at)
				c = dead(o, c, at)
				o.deliver(at, -1)
			}
			if len(o.kept) > 3*16 || cap(o.kept) > 8*maxQueue {
				t.Fatalf("%s: %d messages kept after %d s, room for %d", name, len(o.kept), second, cap(o.kept))
			}
		}
		if o.dropped != 0 || o.waiting() != 0 {
			t.Errorf("%s: %d dropped, %d wait", name, o.dropped, o.waiting())
		}
	}
	// And with both dead.
	o := newOutbox(t)
	c := o.join()
	o.say(t, start)
	o.next(c, start)
	for range 10 * maxQueue {
		o.say(t, start)
	}
	raw := 0
	for _, m := range o.kept {
		raw += len(m.raw)
	}
	if o.waiting() != maxQueue || raw > 1000*maxQueue {
		t.Errorf("%d wait, %d bytes", o.waiting(), raw)
	}
}
