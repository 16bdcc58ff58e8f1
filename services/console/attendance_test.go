package console

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"levee/internal/session"
	"levee/internal/wire"
)

// words is what a broker of melb says of machines' sessions: its next message.
func words(t testing.TB, broker string, seq uint64, state, reason string, machines ...string) session.Delivery {
	t.Helper()
	p := wire.Presence{Changes: []wire.PresenceChange{}}
	for i, m := range machines {
		p.Changes = append(p.Changes, wire.PresenceChange{Machine: m, State: state, Since: began.UnixMilli() + int64(seq*100) + int64(i), Reason: reason})
	}
	return delivery(t, "melb/bank_server/status/presence/"+broker, seq, session.ProofSignature, &p, began.Add(time.Duration(seq)*time.Second))
}

// pulse returns what the next beat says of who is absent.
func pulse(t testing.TB, h *hub) (absent []standing, more int) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	raw, err := json.Marshal(h.board.beat(began))
	if err != nil {
		t.Fatal(err)
	}
	b := decode[beat](t, string(raw))
	return b.Absent, b.MoreAbsent
}

// sensorOf returns where a server's sensor is, as a new reader is told.
func sensorOf(t testing.TB, h *hub, name string) *standing {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.board.snapshot(began).Servers {
		if s.Name == name {
			return s.Sensor
		}
	}
	t.Fatalf("no server %s", name)
	return nil
}

// A server shows where its sensor is connected, and since when it is nowhere. Who
// is gone from one broker and present at another is not gone.
func TestWhereSensorsAre(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	h.deliver(cpu(t, "web-1", 1, 10, began))
	if got := sensorOf(t, h, "web-1"); got != nil {
		t.Errorf("nobody said: %+v", got)
	}
	told(t, h, began)
	since := func(seq int) int64 { return began.UnixMilli() + int64(seq*100) }
	for i, step := range []struct {
		say  session.Delivery
		want standing
	}{
		{words(t, "b1", 1, wire.StatePresent, "", "sensor/web-1"), standing{State: wire.StatePresent, Brokers: []string{"b1"}, Since: since(1)}},
		{words(t, "b2", 2, wire.StatePresent, "", "sensor/web-1"), standing{State: wire.StatePresent, Brokers: []string{"b1", "b2"}, Since: since(1)}},
		{words(t, "b1", 3, wire.StateGone, wire.EndLost, "sensor/web-1"), standing{State: wire.StatePresent, Brokers: []string{"b2"}, Since: since(2)}},
		{words(t, "b2", 4, wire.StateGone, wire.EndSilent, "sensor/web-1"), standing{State: wire.StateGone, Since: since(4), Reason: wire.EndSilent}},
	} {
		if !h.deliver(step.say) {
			t.Fatalf("step %d: refused", i)
		}
		if got := sensorOf(t, h, "web-1"); got == nil || !reflect.DeepEqual(*got, step.want) {
			t.Errorf("step %d: %+v, want %+v", i, got, step.want)
		}
		if u := told(t, h, began); len(u.Servers) != 1 || u.Servers[0].Name != "web-1" {
			t.Errorf("step %d: readers are told of %+v", i, u.Servers)
		}
	}
	if !h.board.sweep(began) || h.board.sweep(began) {
		t.Error("that somebody went is not told at once, or twice")
	}
	if h.board.sweep(began.Add(10 * time.Minute)) {
		t.Error("whoever is gone is not gone anew when brokers fall silent")
	}
	h.deliver(words(t, "b2", 5, wire.StatePresent, "", "sensor/web-1"))
	if absent, more := pulse(t, h); len(absent) != 0 || more != 0 {
		t.Errorf("%+v", absent)
	}
	h.board.sweep(began.Add(10 * time.Minute))
	if got := sensorOf(t, h, "web-1"); got != nil {
		t.Errorf("every broker is silent, and it is %+v", got)
	}
}

// Machines that are connected nowhere are named, the rarer ones first, and so many
// at most.
func TestWhoIsAbsent(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	var sensors []string
	for i := range 40 {
		sensors = append(sensors, fmt.Sprintf("sensor/web-%02d", i))
	}
	h.deliver(words(t, "b1", 1, wire.StateGone, wire.EndLost, sensors...))
	h.deliver(words(t, "b1", 2, wire.StateGone, wire.EndRevoked, "controller/lb-1"))
	h.deliver(words(t, "b1", 3, wire.StatePresent, "", "sensor/web-39", "monitor/m1"))
	absent, more := pulse(t, h)
	if len(absent) != maxAbsent || more != 8 || absent[0].Machine != "controller/lb-1" || absent[0].Reason != wire.EndRevoked || absent[1].Machine != "sensor/web-38" {
		t.Errorf("%d and %d more: %+v", len(absent), more, absent[:2])
	}
	if s := everything(t, h, began); len(s.Servers) != 0 {
		t.Errorf("a broker's word made servers: %+v", s.Servers)
	}
}

// What is no presence is refused, and changes nothing.
func TestPresenceIsChecked(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	bad := words(t, "b1", 1, wire.StateGone, "", "sensor/web-1")
	person := words(t, "b1", 1, wire.StateGone, wire.EndLost, "operator/alice")
	if h.deliver(bad) || h.deliver(person) {
		t.Error("accepted")
	}
	if absent, _ := pulse(t, h); len(absent) != 0 {
		t.Errorf("%+v", absent)
	}
	h.deliver(words(t, "b1", 9, wire.StatePresent, "", "sensor/web-1"))
	h.deliver(words(t, "b1", 8, wire.StateGone, wire.EndLost, "sensor/web-1"))
	if absent, _ := pulse(t, h); len(absent) != 0 {
		t.Errorf("what came late counts: %+v", absent)
	}
}
