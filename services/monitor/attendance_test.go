package monitor

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee/envelope"
	"levee/internal/wire"
)

// journal keeps what was logged.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

// lines returns the lines that contain part.
func (j *journal) lines(part string) (found []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.text.String()) {
		if strings.Contains(line, part) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

const (
	nowhere = "machines are connected to no broker"
	again   = "machines are connected again"
)

// say has a broker tell of machines' sessions, each in its newest state.
func (s *branch) say(broker string, seq uint64, state, reason string, machines ...string) {
	s.t.Helper()
	p := wire.Presence{Changes: []wire.PresenceChange{}}
	for _, m := range machines {
		p.Changes = append(p.Changes, wire.PresenceChange{Machine: m, State: state, Since: time.Now().UnixMilli(), Reason: reason})
	}
	s.m.ObservePresence(wire.Topic{Kind: wire.KindPresence, Site: "melb", Role: "broker", Name: broker}, envelope.Nonce{Boot: 1, Seq: seq}, p, time.Now())
	synctest.Wait()
}

// attended runs body with a monitor whose log is kept.
func attended(t *testing.T, body func(*branch, *journal)) {
	t.Helper()
	log := &journal{}
	inBubble(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) }, func(s *branch) { body(s, log) })
}

// Who is connected nowhere is named, with how it went, and so is who comes back.
// Nothing else follows from it.
func TestAbsence(t *testing.T) {
	attended(t, func(s *branch, log *journal) {
		s.say("b1", 1, wire.StatePresent, "", "sensor/web-1", "controller/lb-1")
		s.sleepUntil(2.25)
		s.say("b1", 2, wire.StateGone, wire.EndLost, "sensor/web-1")
		s.sleepUntil(6.75)
		equal(t, "told too early", len(log.lines(nowhere)), 0)
		s.sleepUntil(30)
		if l := log.lines(nowhere); len(l) != 1 || !strings.Contains(l[0], "level=WARN") || !strings.Contains(l[0], "machines=1") ||
			!strings.Contains(l[0], "sensor/web-1 (connected nowhere since 2000-01-01T00:00:02Z: lost)") {
			t.Errorf("%q", l)
		}
		s.say("b1", 3, wire.StatePresent, "", "sensor/web-1")
		s.sleepUntil(32)
		if l := log.lines(again); len(l) != 1 || !strings.Contains(l[0], "sensor/web-1 (connected at b1)") {
			t.Errorf("%q", l)
		}
		s.counted(map[Counter]uint64{Absent: 1, Back: 1, RefusedTopic: 0})
		if len(s.alerted()) != 0 || len(s.sent()) != 0 {
			t.Error("a broker's word alone raised an alert or a command")
		}
	})
}

// One that changes brokers, or is back at once, is not absent.
func TestWhoIsElsewhereIsNotAbsent(t *testing.T) {
	attended(t, func(s *branch, log *journal) {
		s.say("b1", 1, wire.StatePresent, "", "sensor/web-1", "sensor/web-2", "sensor/web-3")
		s.say("b2", 1, wire.StatePresent, "", "sensor/web-1")
		s.say("b1", 2, wire.StateGone, wire.EndLost, "sensor/web-1", "sensor/web-2", "sensor/web-3")
		s.sleepUntil(3)
		s.say("b2", 2, wire.StatePresent, "", "sensor/web-2")
		s.say("b1", 3, wire.StatePresent, wire.EndLost, "sensor/web-3")
		s.sleepUntil(60)
		if l := append(log.lines(nowhere), log.lines(again)...); len(l) > 0 {
			t.Errorf("%q", l)
		}
		s.sleepUntil(170) // neither broker was heard of for long: nobody knows
		s.say("b1", 4, wire.StateGone, wire.EndLost, "sensor/web-2")
		s.sleepUntil(180)
		if l := log.lines(nowhere); len(l) != 1 {
			t.Errorf("%q", l)
		}
	})
}

// However many are gone, it is one line.
func TestManyAreAbsent(t *testing.T) {
	attended(t, func(s *branch, log *journal) {
		for i := range 50 {
			var some []string
			for j := range wire.MaxPresenceChanges {
				some = append(some, fmt.Sprintf("sensor/web-%02d-%03d", i, j))
			}
			s.say("b1", uint64(i+1), wire.StateGone, wire.EndSilent, some...)
		}
		s.sleepUntil(60)
		l := log.lines(nowhere)
		if len(l) != 1 || !strings.Contains(l[0], "machines=10000") || len(l[0]) > 1000 {
			t.Errorf("%.2000q", l)
		}
	})
}

// During an incident it is told why its server is silent.
func TestSilenceSaysWhereTheSensorIs(t *testing.T) {
	attended(t, func(s *branch, log *journal) {
		s.syn("web-1", 1500)
		s.say("b1", 1, wire.StateGone, wire.EndLost, "sensor/web-1")
		s.syn("web-2", 1500)
		s.say("b1", 2, wire.StatePresent, "", "sensor/web-2")
		s.sleepUntil(70)
		l := log.lines("fell silent")
		if len(l) != 2 || !strings.Contains(strings.Join(l, ""), "connected nowhere since 2000-01-01T00:00:00Z: lost") || !strings.Contains(strings.Join(l, ""), "connected at b1") {
			t.Errorf("%q", l)
		}
	})
}

func TestPresenceOfOthersIsRefused(t *testing.T) {
	attended(t, func(s *branch, log *journal) {
		gone := wire.Presence{Changes: []wire.PresenceChange{{Machine: "sensor/web-1", State: wire.StateGone, Since: 1, Reason: wire.EndLost}}}
		for _, from := range []wire.Topic{
			{Kind: wire.KindPresence, Site: "syd", Role: "broker", Name: "b1"}, {Kind: wire.KindPresence, Site: "melb", Role: "sensor", Name: "b1"},
			{Kind: wire.KindScaling, Site: "melb", Role: "broker", Name: "b1"}, {Kind: wire.KindPresence, Site: "melb", Role: "broker"}, {},
		} {
			s.m.ObservePresence(from, envelope.Nonce{Boot: 1, Seq: 1}, gone, time.Now())
		}
		s.sleepUntil(30)
		s.counted(map[Counter]uint64{RefusedTopic: 5, Absent: 0})
		equal(t, "lines", len(log.lines(nowhere)), 0)
	})
}

// Whoever says too much pushes out its own oldest words, counted.
func TestTooManyWords(t *testing.T) {
	m := stopped(t, nil)
	for i := range maxWords + 7 {
		m.ObservePresence(wire.Topic{Kind: wire.KindPresence, Site: "melb", Role: "broker", Name: "b1"}, envelope.Nonce{Boot: 1, Seq: uint64(i + 1)}, wire.Presence{}, time.Now())
	}
	if got := m.Count(LostPresence); got != 7 {
		t.Errorf("%d lost", got)
	}
}
