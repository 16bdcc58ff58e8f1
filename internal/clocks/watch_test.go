package clocks

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

const skew = 30 * time.Second

var noon = time.Unix(1_700_000_000, 0)

// logBuffer is a log that tests read.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func (b *logBuffer) lines(part string) (found []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.text.String()) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return found
}

// bench is a watch and its senders, each with its own counter.
type bench struct {
	*Watch
	log logBuffer
	seq map[string]uint64
}

func newBench() *bench {
	b := &bench{seq: make(map[string]uint64)}
	b.Watch = NewWatch(skew, b.log.logger())
	return b
}

// hear gives the watch the next message of a sender.
func (b *bench) hear(sender string, offset time.Duration, now time.Time) bool {
	b.seq[sender]++
	return b.Hear(Reading{Sender: []byte(sender), Boot: 1, Seq: b.seq[sender], Offset: offset, Accepted: SideOf(offset, skew) == InTime}, now)
}

func (b *bench) figures(t *testing.T, sender string, now time.Time) Figures {
	t.Helper()
	for _, f := range b.Senders(now) {
		if f.Sender == sender {
			return f
		}
	}
	return Figures{}
}

func TestOffset(t *testing.T) {
	if d := Offset(noon.UnixMilli()-1500, noon); d != 1500*time.Millisecond {
		t.Errorf("behind: %s", d)
	}
	if d := Offset(noon.UnixMilli()+1500, noon); d != -1500*time.Millisecond {
		t.Errorf("ahead: %s", d)
	}
	const most = 1 << 42 * time.Millisecond // over a century
	if d := Offset(1<<53-1, noon); d != -most {
		t.Errorf("far ahead: %s", d)
	}
	if d := Offset(0, time.UnixMilli(1<<53)); d != most {
		t.Errorf("far behind: %s", d)
	}
	for offset, want := range map[time.Duration]Side{skew: InTime, -skew: InTime, skew + 1: Behind, -skew - 1: Ahead} {
		if got := SideOf(offset, skew); got != want {
			t.Errorf("%s is %s", offset, got)
		}
	}
}

// The network can only make a message late: one that was held back, or many,
// among others that were not, is no wrong clock.
func TestDelayedMessagesDoNotMoveTheFigure(t *testing.T) {
	b := newBench()
	now := noon
	for i := range 60 {
		offset := 30 * time.Millisecond
		if i%10 != 0 {
			offset = 20 * time.Second
		}
		b.hear("melb/sensor/web-1", offset, now)
		now = now.Add(time.Second)
	}
	if f := b.figures(t, "melb/sensor/web-1", now); !f.Heard || f.Offset != 30*time.Millisecond || f.Missed {
		t.Errorf("%+v", f)
	}
	// Nor is one that was held back for longer than the skew.
	b.hear("melb/sensor/web-1", 50*time.Second, now)
	b.hear("melb/sensor/web-1", 51*time.Second, now)
	if f := b.figures(t, "melb/sensor/web-1", now); f.Offset != 30*time.Millisecond || !f.Missed || f.Refused != 50*time.Second {
		t.Errorf("%+v", f)
	}
	if lines := b.log.lines(""); len(lines) > 0 {
		t.Errorf("logged: %s", lines)
	}
}

// What carries messages may bring an old one again, as often as it likes.
func TestReplayedMessagesAreNoReading(t *testing.T) {
	b := newBench()
	for range 10 {
		b.hear("melb/sensor/web-1", 0, noon)
	}
	now := noon.Add(40 * time.Second)
	for seq := range uint64(10) {
		for range 5 {
			if b.Hear(Reading{Sender: []byte("melb/sensor/web-1"), Boot: 1, Seq: seq + 1, Offset: 40 * time.Second}, now) {
				t.Fatalf("number %d counts", seq+1)
			}
		}
	}
	if b.Hear(Reading{Sender: []byte("melb/sensor/web-1"), Boot: 0, Seq: 99, Offset: 40 * time.Second}, now) {
		t.Error("an older boot counts")
	}
	// Of a message that was withheld, the first copy counts, and no other.
	for i := range 10 {
		if got := b.Hear(Reading{Sender: []byte("melb/sensor/web-1"), Boot: 1, Seq: 11, Offset: 40 * time.Second}, now); got != (i == 0) {
			t.Errorf("copy %d: %v", i, got)
		}
	}
	if f := b.figures(t, "melb/sensor/web-1", now); f.Offset != 0 || !f.Heard {
		t.Errorf("%+v", f)
	}
	if lines := b.log.lines(""); len(lines) > 0 {
		t.Errorf("logged: %s", lines)
	}
}

// A clock is told of once when it passes half the skew and once when it is back,
// whether or not its messages are refused.
func TestWrongClockIsToldOfOnce(t *testing.T) {
	for _, test := range []struct {
		offset time.Duration
		detail string
	}{
		{20 * time.Second, "delayed or replayed"},
		{47 * time.Second, "delayed or replayed"},
		{-20 * time.Second, "either its clock or ours is wrong"},
		{-500 * time.Second, "either its clock or ours is wrong"},
	} {
		t.Run(test.offset.String(), func(t *testing.T) {
			b := newBench()
			now := noon
			say := func(offset time.Duration, d time.Duration) {
				for end := now.Add(d); now.Before(end); now = now.Add(5 * time.Second) {
					b.hear("melb/sensor/web-1", offset, now)
				}
			}
			say(test.offset, 5*time.Minute)
			off := b.log.lines("differ by more than half")
			if len(off) != 1 || !strings.Contains(off[0], "level=WARN") || !strings.Contains(off[0], "sender=melb/sensor/web-1") ||
				!strings.Contains(off[0], "offset="+test.offset.String()) || !strings.Contains(off[0], "skew=30s") || !strings.Contains(off[0], test.detail) {
				t.Fatalf("%q", off)
			}
			if test.offset < 0 && strings.Contains(off[0], "delayed") {
				t.Errorf("no delay puts a message ahead: %s", off[0])
			}
			say(time.Second, 5*time.Minute)
			if back := b.log.lines("agrees with ours again"); len(back) != 1 || !strings.Contains(back[0], "level=INFO") || !strings.Contains(back[0], "offset=1s") {
				t.Errorf("%q", back)
			}
			if n := len(b.log.lines("")); n != 2 {
				t.Errorf("%d lines", n)
			}
		})
	}
}

// At the edge an offset does not come and go, and however it jumps there is one
// line a minute.
func TestAnUnsteadyClockIsNoFloodOfLines(t *testing.T) {
	b := newBench()
	for i := range 600 {
		b.hear("melb/sensor/web-1", 15*time.Second+time.Duration(i/130%2*2-1)*time.Second, noon.Add(time.Duration(i)*time.Second))
	}
	if lines := b.log.lines(""); len(lines) != 1 {
		t.Errorf("at the edge: %q", lines)
	}
	b = newBench()
	for i := range 600 {
		offset := 40 * time.Second // refused, thrice and more, then accepted
		if i%6 == 0 {
			offset = 0
		}
		b.hear("melb/sensor/web-1", offset, noon.Add(time.Duration(i)*time.Second))
	}
	if n := len(b.log.lines("")); n == 0 || n > 10 {
		t.Errorf("%d lines in ten minutes", n)
	}
}

func TestFiguresEnd(t *testing.T) {
	b := newBench()
	b.hear("melb/sensor/web-1", 10*time.Second, noon)
	b.hear("melb/sensor/web-1", 40*time.Second, noon)
	if f := b.figures(t, "melb/sensor/web-1", noon.Add(2*Period-1)); !f.Heard || !f.Missed {
		t.Errorf("gone early: %+v", f)
	}
	if all := b.Senders(noon.Add(2 * Period)); len(all) != 0 {
		t.Errorf("still there: %+v", all)
	}
	// A value of the period before gives way to a greater one in time.
	b.hear("melb/sensor/web-1", 12*time.Second, noon.Add(5*Period/2))
	b.hear("melb/sensor/web-1", 14*time.Second, noon.Add(7*Period/2))
	if f := b.figures(t, "melb/sensor/web-1", noon.Add(7*Period/2)); f.Offset != 12*time.Second {
		t.Errorf("%+v", f)
	}
	if f := b.figures(t, "melb/sensor/web-1", noon.Add(9*Period/2)); f.Offset != 14*time.Second {
		t.Errorf("%+v", f)
	}
}

// When most are off on one side, this machine's clock is named, once, and who
// says so is not listed at length.
func TestOwnClockIsNamed(t *testing.T) {
	for _, test := range []struct {
		name   string
		offset time.Duration
		text   string
		side   Side
	}{
		{"fast", 20 * time.Second, "most senders are behind this machine's clock: it is probably fast, or messages arrive late", Behind},
		{"very fast", 3 * time.Hour, "most senders are behind this machine's clock", Behind},
		{"slow", -20 * time.Second, "most senders are ahead of this machine's clock: it is probably slow\"", Ahead},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench()
			now := noon
			say := func(offset time.Duration) {
				for range 30 {
					for i := range 100 {
						b.hear(fmt.Sprintf("melb/sensor/web-%d", i), offset, now)
					}
					now = now.Add(5 * time.Second)
				}
			}
			say(test.offset)
			if lines := b.log.lines("level=ERROR"); len(lines) != 1 || !strings.Contains(lines[0], test.text) || b.Verdict() != test.side {
				t.Errorf("%q, %s", lines, b.Verdict())
			}
			if n := len(b.log.lines("differ by")); n == 0 || n > maxLines {
				t.Errorf("%d lines about senders", n)
			}
			say(0)
			if lines := b.log.lines("agree with this machine's clock again"); len(lines) != 1 || b.Verdict() != InTime {
				t.Errorf("%q, %s", lines, b.Verdict())
			}
			if lines := b.log.lines("skipped=84"); len(lines) != 1 {
				t.Errorf("what was left out is not told: %q", lines)
			}
		})
	}
}

// Fewer than three, or senders that disagree, name nobody.
func TestFewSendersDoNotNameUs(t *testing.T) {
	b := newBench()
	for i := range 20 { // those who are heard first are not most
		now := noon.Add(time.Duration(i) * 5 * time.Second)
		b.hear("a", 20*time.Second, now)
		b.hear("b", 20*time.Second, now)
		b.hear("c", -20*time.Second, now)
		b.hear("d", 0, now)
	}
	if b.Verdict() != InTime || len(b.log.lines("level=ERROR")) > 0 {
		t.Errorf("%s: %s", b.Verdict(), b.log.text.String())
	}
}

// However many verified senders there are, memory and labels are bounded, and
// those that have fallen silent make room.
func TestSendersAreBounded(t *testing.T) {
	w := NewWatch(skew, slog.New(slog.NewTextHandler(io.Discard, nil)))
	name := func(i int) []byte { return fmt.Appendf(nil, "melb/sensor/web-%d", i) }
	for i := range MaxSenders + 100 {
		w.Hear(Reading{Sender: name(i), Boot: 1, Seq: 1, Accepted: true}, noon)
	}
	if n, lost := len(w.Senders(noon)), w.Unlisted(); n != MaxSenders || lost != 100 {
		t.Errorf("%d senders, %d unlisted", n, lost)
	}
	later := noon.Add(3 * Period)
	w.Hear(Reading{Sender: name(MaxSenders), Boot: 1, Seq: 1, Accepted: true}, later)
	if all := w.Senders(later); len(all) != 1 || all[0].Sender != string(name(MaxSenders)) {
		t.Errorf("%d senders after silence", len(all))
	}
}

func TestNilWatch(t *testing.T) {
	var w *Watch
	if w.Hear(Reading{Sender: []byte("a"), Accepted: true}, noon) {
		t.Error("it counts")
	}
}

func TestHearAllocatesNothing(t *testing.T) {
	b := newBench()
	r := Reading{Sender: []byte("melb/sensor/web-1"), Boot: 1, Offset: time.Second, Accepted: true}
	b.Hear(r, noon)
	if n := testing.AllocsPerRun(1000, func() {
		r.Seq++
		b.Hear(r, noon)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHear(b *testing.B) {
	w := NewWatch(skew, slog.New(slog.NewTextHandler(io.Discard, nil)))
	readings := make([]Reading, 1000)
	for i := range readings {
		readings[i] = Reading{Sender: fmt.Appendf(nil, "melb/sensor/web-%d", i), Boot: 1, Offset: time.Second, Accepted: true}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r := &readings[i%1000]
		r.Seq++
		w.Hear(*r, noon)
	}
}
