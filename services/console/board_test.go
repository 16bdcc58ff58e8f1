package console

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"levee/internal/session"
	"levee/internal/wire"
)

// A reading is confirmed by its sender's digest, and by nothing else.
func TestMarks(t *testing.T) {
	one, two, three := cpu(t, "web-1", 1, 10, began), cpu(t, "web-1", 2, 20, began.Add(time.Second)), cpu(t, "web-1", 3, 30, began.Add(2*time.Second))
	forged := cpu(t, "web-1", 2, 99, began.Add(time.Second))
	at := began.Add(3 * time.Second)
	first, four := digest(t, "web-1", 3, 1, at, one, two), cpu(t, "web-1", 4, 40, at)
	unsigned := digest(t, "web-1", 4, 1, at, one, two, three)
	unsigned.Proof = session.ProofNone
	// A captured broker brings a reading of its own under the number of a digest
	// that it holds back.
	withheld := digest(t, "web-1", 2, 1, at, one)
	over := digest(t, "web-1", 3, 2, at, withheld)
	restarted := cpu(t, "web-1", 1, 55, at)
	restarted.Message.Nonce.Boot++
	before := cpu(t, "web-1", 1, 5, began)
	before.Message.Nonce.Boot--
	for _, test := range []struct {
		name string
		in   []session.Delivery
		want []int // of the points
		said string
	}{
		{"no digest", []session.Delivery{one, two, three}, []int{0, 0, 0}, ""},
		{"a digest of all", []session.Delivery{one, two, three, digest(t, "web-1", 4, 1, at, one, two, three)}, []int{1, 1, 1}, "confirmed"},
		{"one invented", []session.Delivery{one, forged, three, digest(t, "web-1", 4, 1, at, one, two, three)}, []int{3, 3, 3}, "contradicted"},
		{"one not seen", []session.Delivery{one, three, digest(t, "web-1", 4, 1, at, one, two, three)}, []int{2, 2}, "incomplete"},
		{"a digest of the first two", []session.Delivery{one, two, three, digest(t, "web-1", 4, 1, at, one, two)}, []int{1, 1, 0}, "confirmed"},
		{"two digests, one after the other", []session.Delivery{one, two, first, four, digest(t, "web-1", 5, 3, at, first, four)}, []int{1, 1, 1}, "confirmed"},
		{"a digest that begins later", []session.Delivery{one, two, three, digest(t, "web-1", 4, 3, at, three)}, []int{4, 4, 1}, "confirmed"},
		{"an unsigned digest", []session.Delivery{one, two, three, unsigned}, []int{0, 0, 0}, ""},
		{"one invented under a digest's number", []session.Delivery{one, forged, withheld, over}, []int{1, 3}, "contradicted"},
		{"and the digest is all that comes", []session.Delivery{one, forged, withheld}, []int{1, 3}, "confirmed"},
		{"and a start is invented as well", []session.Delivery{forged, restarted, withheld, over}, []int{3, 0}, "contradicted"},
		{"and so many that the first hash is forgotten", []session.Delivery{before, forged, restarted, withheld, over}, []int{0, 3, 0}, "confirmed"},
		{"one invented behind the digest", []session.Delivery{one, withheld, forged, over}, []int{1, 3}, "contradicted"},
		{"two readings of one number", []session.Delivery{one, two, forged}, []int{0, 3, 3}, ""},
		{"another's digest", []session.Delivery{one, two, three, digest(t, "web-2", 4, 1, at, one, two, three)}, []int{0, 0, 0}, ""},
	} {
		h := newHub("melb", "desk-1", began, quiet())
		for _, d := range test.in {
			if !h.deliver(d) {
				t.Fatalf("%s: refused", test.name)
			}
		}
		for _, s := range everything(t, h, at).Servers {
			if s.Name != "web-1" {
				continue
			}
			if got := marksOf(s.Points["cpu"]); fmt.Sprint(got) != fmt.Sprint(test.want) || s.Outcome != test.said {
				t.Errorf("%s: marks %v, %q; not %v, %q", test.name, got, s.Outcome, test.want, test.said)
			}
		}
		// What a reader is told on the way comes to the same.
		u := told(t, h, at)
		got := make(map[uint64]int)
		for _, r := range u.Readings {
			if r.Server == "web-1" {
				got[uint64(r.Point[0])] = int(r.Point[2])
			}
		}
		for _, m := range u.Marks {
			for n := m.From; n <= m.To; n++ {
				got[n] = m.Mark
			}
		}
		for i, want := range test.want {
			if got[uint64(i+1)] != want {
				t.Errorf("%s: told %v of the points, not %v", test.name, got, test.want)
			}
		}
	}
}

func marksOf(points [][]float64) (marks []int) {
	for _, p := range points {
		marks = append(marks, int(p[2]))
	}
	return marks
}

// A digest of an earlier run of the sensor says nothing of this one.
func TestDigestOfAnotherBoot(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	one := cpu(t, "web-1", 1, 10, began)
	h.deliver(one)
	late := cpu(t, "web-1", 1, 11, began)
	late.Message.Nonce.Boot++
	h.deliver(late)
	h.deliver(digest(t, "web-1", 2, 1, began, one))
	for _, s := range everything(t, h, began).Servers {
		if got := marksOf(s.Points["cpu"]); got[1] != 0 {
			t.Errorf("marks %v", got)
		}
	}
}

// What no sensor measures is refused, and shows nowhere.
func TestContentIsChecked(t *testing.T) {
	id := wire.NewID()
	alert := func(change func(*wire.Alert)) session.Delivery {
		a := raised("web-1")
		change(&a)
		return delivery(t, "melb/bank_server/alerts/m1", 1, session.ProofSignature, &a, began)
	}
	status := func(change func(*wire.Status)) session.Delivery {
		s := wire.Status{ID: id, Command: wire.EnableRateLimiting, Status: wire.StatusSuccess, State: wire.StateActive, Controller: "lb-1", Server: "web-1"}
		change(&s)
		return delivery(t, "melb/bank_server/status/rate_limiting/lb-1", 1, session.ProofSignature, &s, began)
	}
	for name, d := range map[string]session.Delivery{
		"an alert of no state":    alert(func(a *wire.Alert) { a.State = "perhaps" }),
		"an alert in other words": alert(func(a *wire.Alert) { a.Alert += "." }),
		"a threshold below zero":  alert(func(a *wire.Alert) { a.Threshold = -1 }),
		"a threshold beyond all":  alert(func(a *wire.Alert) { a.Threshold = 1e300 }),
		"a value beyond all":      alert(func(a *wire.Alert) { a.Value = maxCount }),
		"a value below zero":      alert(func(a *wire.Alert) { a.Value = -0.5 }),
		"a window of days":        alert(func(a *wire.Alert) { a.Window = 3601 }),
		"a window below zero":     alert(func(a *wire.Alert) { a.Window = -1 }),
		"a success that failed":   status(func(s *wire.Status) { s.State = wire.StateFailed }),
		"a failure in force":      status(func(s *wire.Status) { s.Status = wire.StatusFailure }),
		"a state of its own":      status(func(s *wire.Status) { s.State = "in force" }),
		"no state":                status(func(s *wire.Status) { s.State, s.Status = "none", "" }),
		"a command to nobody":     delivery(t, "melb/bank_server/control/command/monitor/m1", 1, session.ProofSignature, &wire.Command{ID: id, Controller: "a/b"}, began),

		"above all":             cpu(t, "web-1", 1, 100.5, began),
		"below nothing":         cpu(t, "web-1", 1, -1, began),
		"another's name":        delivery(t, "melb/bank_server/metrics/cpu/web-1", 1, session.ProofNone, &wire.CPU{Server: "web-2", CPUUsage: 1}, began),
		"no reading":            delivery(t, "melb/bank_server/metrics/ram/web-1", 1, session.ProofNone, map[string]string{"a": "b"}, began),
		"next to no interval":   delivery(t, "melb/bank_server/metrics/network/web-1", 1, session.ProofNone, &wire.Network{Server: "web-1", Interval: 5e-324, SYNPacketCount: 1}, began),
		"a short interval":      delivery(t, "melb/bank_server/metrics/network/web-1", 1, session.ProofNone, &wire.Network{Server: "web-1", Interval: 0.049, SYNPacketCount: 1}, began),
		"beyond all rates":      delivery(t, "melb/bank_server/metrics/network/web-1", 1, session.ProofNone, &wire.Network{Server: "web-1", Interval: 0.05, SYNPacketCount: maxCount - 1}, began),
		"no interval":           delivery(t, "melb/bank_server/metrics/network/web-1", 1, session.ProofNone, &wire.Network{Server: "web-1"}, began),
		"more than can be":      delivery(t, "melb/bank_server/metrics/network/web-1", 1, session.ProofNone, &wire.Network{Server: "web-1", Interval: 1, SYNPacketCount: 1 << 60}, began),
		"a command and more":    delivery(t, "melb/bank_server/control/command/monitor/m1", 1, session.ProofSignature, map[string]any{"id": id, "more": 1}, began),
		"another's status":      delivery(t, "melb/bank_server/status/scaling/lb-1", 1, session.ProofSignature, &wire.Status{ID: id, Status: "success", State: "active", Controller: "lb-2"}, began),
		"a status that is none": delivery(t, "melb/bank_server/status/scaling/lb-1", 1, session.ProofSignature, map[string]string{"id": "x"}, began),
	} {
		h := newHub("melb", "desk-1", began, quiet())
		if h.deliver(d) {
			t.Errorf("%s is taken", name)
		}
		if got := everything(t, h, began); len(got.Servers)+len(got.Alerts)+len(got.Commands) != 0 {
			t.Errorf("%s shows: %+v", name, got)
		}
	}
}

// Whatever a captured broker invents, what the board holds is bounded, and
// what stands on a signature is not crowded out.
func TestFloodOfServers(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	real := cpu(t, "web-1", 1, 10, began)
	h.deliver(real)
	h.deliver(digest(t, "web-1", 2, 1, began, real))
	for i := range 2000 {
		at := began.Add(time.Duration(i) * 100 * time.Millisecond)
		if !h.deliver(cpu(t, fmt.Sprintf("x-%d", i), 1, 10, at)) {
			t.Fatal("refused")
		}
		if i%100 == 0 {
			told(t, h, at)
		}
	}
	servers := everything(t, h, began).Servers
	if len(servers) != maxServers {
		t.Errorf("%d servers", len(servers))
	}
	if h.board.readings.servers["web-1"] == nil {
		t.Error("the one that a digest vouches for has lost its place")
	}
	// One that comes late finds none, until a digest vouches for it.
	at := began.Add(200 * time.Second)
	late := cpu(t, "web-9", 1, 10, at)
	h.deliver(late)
	if h.board.readings.homeless < 1000 {
		t.Error("nobody counts who finds no place")
	}
	h.deliver(digest(t, "web-8", 2, 1, at, late))
	if h.board.readings.servers["web-8"] != nil {
		t.Error("a digest over messages that nobody saw made room")
	}
	h.deliver(digest(t, "web-9", 2, 1, at, late))
	if h.board.readings.servers["web-9"] == nil {
		t.Error("a server that a digest vouches for finds no place")
	}
}

func TestFloodOfReadings(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	for i := range uint64(20_000) {
		h.deliver(cpu(t, "web-1", i+1, 1, began.Add(time.Duration(i)*time.Millisecond)))
	}
	if n := len(everything(t, h, began).Servers[0].Points["cpu"]); n > maxPoints {
		t.Errorf("%d points", n)
	}
	if h.board.readings.skipped < 19_000 {
		t.Errorf("%d readings were left out", h.board.readings.skipped)
	}
	if n := len(told(t, h, began).Readings); n > readingBurst+20*readingRate {
		t.Errorf("an event of %d readings", n)
	}
}

// Points stand in the order of their times, in whichever they came: a sender
// repeats its last ones after an outage.
func TestPointsInOrder(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	for i, second := range []int{1, 2, 5, 3, 4, 4} {
		d := cpu(t, "web-1", uint64(i+1), 1, began.Add(time.Duration(second)*time.Second))
		d.Received = began.Add(6 * time.Second)
		h.deliver(d)
	}
	last := -1.0
	for _, p := range everything(t, h, began).Servers[0].Points["cpu"] {
		if p[1] < last {
			t.Errorf("%v after %v", p[1], last)
		}
		last = p[1]
	}
	// A sensor whose clock is ahead has no points in the future.
	ahead := cpu(t, "web-2", 1, 1, began)
	ahead.Message.Time += 25_000
	h.deliver(ahead)
	for _, s := range everything(t, h, began).Servers {
		if s.Name == "web-2" && s.Points["cpu"][0][1] > float64(began.UnixMilli()) {
			t.Error("a point in the future")
		}
	}
}

// Public messages are few in any second, and the rest is counted.
func TestFloodOfPublicMessages(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	long := strings.Repeat("€", 1300)
	for i := range 10_000 {
		h.deliver(guestSays(t, "public/noise", long, began.Add(time.Duration(i)*time.Millisecond)))
	}
	got := told(t, h, began)
	if n := len(got.Public); n > publicBurst+10*publicRate || n < publicBurst {
		t.Errorf("%d messages in 10 s", n)
	}
	if got.Unshown+uint64(len(got.Public)) != 10_000 {
		t.Errorf("%d shown, %d counted", len(got.Public), got.Unshown)
	}
	if m := got.Public[0]; len(m.Text) > maxText+3 || m.Bytes != 3900 || !strings.HasSuffix(m.Text, "€…") {
		t.Errorf("%d bytes of %d: %q", len(m.Text), m.Bytes, m.Text)
	}
	for i := range 10_000 {
		h.deliver(guestSays(t, "public/noise", "x", began.Add(time.Duration(i)*time.Second)))
	}
	if n := len(everything(t, h, began).Public); n != maxPublic {
		t.Errorf("%d messages are held", n)
	}
}
