package console

import (
	"fmt"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/wire"
)

// What a monitor signs shows that it lives, and whether it has started anew
// since it raised what is open.
func TestMonitorsAreHeard(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	digests := "melb/bank_server/digests/monitor/m1"
	heard := func() (at int64) {
		for _, m := range h.board.beat(began).Monitors {
			if m.Name == "m1" {
				at = m.Heard
			}
		}
		return at
	}
	if heard() != 0 {
		t.Error("heard before it has said anything")
	}
	a := raised("web-1")
	h.deliver(delivery(t, "melb/bank_server/alerts/m1", 1, session.ProofSignature, &a, began))
	if heard() != began.UnixMilli() {
		t.Error("its alert is not heard")
	}
	late := delivery(t, digests, 2, session.ProofSignature, &wire.Digest{Dropped: []wire.Drop{}}, began.Add(time.Minute))
	late.Received = late.Received.Add(20 * time.Second)
	h.deliver(late)
	if heard() != began.Add(time.Minute).UnixMilli() {
		t.Error("what was held back gives life")
	}
	unsigned := delivery(t, digests, 3, session.ProofNone, &wire.Digest{Dropped: []wire.Drop{}}, began.Add(2*time.Minute))
	h.deliver(unsigned)
	ahead := delivery(t, digests, 4, session.ProofSignature, &wire.Digest{Dropped: []wire.Drop{}}, began.Add(time.Minute))
	ahead.Message.Time += 25_000
	h.deliver(ahead)
	if heard() != began.Add(time.Minute).UnixMilli() {
		t.Error("what nobody signed gives life, or what is signed for the future")
	}
	told(t, h, began)
	anew := delivery(t, digests, 1, session.ProofSignature, &wire.Digest{Dropped: []wire.Drop{}}, began.Add(9*time.Minute))
	anew.Message.Nonce.Boot++
	h.deliver(anew)
	if got := told(t, h, began).Alerts; len(got) != 1 || got[0].Left != began.Add(time.Minute).UnixMilli() || got[0].Ended != 0 {
		t.Errorf("after its monitor has started anew: %+v", got)
	}
	b := raised("web-1")
	again := delivery(t, "melb/bank_server/alerts/m1", 2, session.ProofSignature, &b, began.Add(10*time.Minute))
	again.Message.Nonce.Boot++
	h.deliver(again)
	if got := told(t, h, began).Alerts; len(got) != 1 || got[0].Left != 0 {
		t.Errorf("raised by the new run: %+v", got)
	}
}

// Digests that no honest sender signs are kept in sight: one of each sender and
// outcome, the newest of it, so that none crowds out another's.
func TestNotices(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	bad := func(name string, seq uint64) {
		h.deliver(delivery(t, "melb/bank_server/digests/monitor/"+name, seq, session.ProofSignature, &wire.Digest{Boot: envelope.FormatBoot(boot), First: 3, Last: 1, Dropped: []wire.Drop{}}, began))
	}
	bad("m1", 1)
	for i := range uint64(100) {
		bad("m2", i+1)
	}
	b := h.board.beat(began)
	if len(b.Notices) != 2 || b.Notices[0].Sender != "melb/monitor/m1" || b.Notices[0].Outcome != "malformed" || b.Notices[1].Count != 100 {
		t.Errorf("%d notices: %+v", len(b.Notices), b.Notices)
	}
	for i := range 100 {
		bad(fmt.Sprintf("x-%d", i), 1)
	}
	if n := len(h.board.notices); n != maxNotices {
		t.Errorf("%d notices", n)
	}
}

// A malformed digest speaks for no range.
func TestMalformedDigestMarksNothing(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	one := cpu(t, "web-1", 1, 10, began)
	h.deliver(one)
	bad := delivery(t, "melb/bank_server/digests/sensor/web-1", 2, session.ProofSignature, &wire.Digest{Boot: envelope.FormatBoot(boot), First: 1, Last: 1,
		Dropped: []wire.Drop{{Boot: envelope.FormatBoot(boot), First: 9, Last: 3}}, Hash: "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}, began)
	h.deliver(bad)
	s := everything(t, h, began).Servers[0]
	if got := marksOf(s.Points["cpu"]); got[0] != 0 || s.Outcome != "malformed" {
		t.Errorf("marks %v, %q", got, s.Outcome)
	}
	h.deliver(digest(t, "web-1", 3, 1, began, one, bad)) // which the next one vouches for
	if got := marksOf(everything(t, h, began).Servers[0].Points["cpu"]); got[0] != 1 {
		t.Errorf("marks %v after the next digest", got)
	}
}

// Once may be an outage, or a late start. Twice in a row, somebody holds back
// what a sender vouches for.
func TestIncompleteTwiceIsNoticed(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	seq := uint64(0)
	step := func(whole bool) {
		d := cpu(t, "web-1", seq+1, 1, began)
		if whole {
			h.deliver(d)
		}
		h.deliver(digest(t, "web-1", seq+2, seq+1, began, d))
		seq += 2
	}
	for i, test := range []struct {
		whole bool
		want  int
	}{{false, 0}, {true, 0}, {false, 0}, {false, 1}, {true, 1}} {
		step(test.whole)
		if n := len(h.board.notices); n != test.want {
			t.Fatalf("step %d: %d notices: %+v", i, n, h.board.notices)
		}
	}
	if n := h.board.notices[0]; n.Outcome != "incomplete" || n.Sender != "melb/sensor/web-1" {
		t.Errorf("%+v", n)
	}
	// An approver says things that a console does not read.
	for i := range uint64(3) {
		h.deliver(delivery(t, "melb/bank_server/digests/approver/a1", 10*i+9, session.ProofSignature,
			&wire.Digest{Boot: envelope.FormatBoot(boot), First: 10*i + 1, Last: 10*i + 8, Dropped: []wire.Drop{}, Hash: "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"}, began))
	}
	if n := len(h.board.notices); n != 1 {
		t.Errorf("%d notices", n)
	}
}

// A server that was vouched for once stays proven, whatever comes after.
func TestProvenStays(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	one, two := cpu(t, "web-1", 1, 10, began), cpu(t, "web-1", 3, 10, began)
	h.deliver(one)
	h.deliver(digest(t, "web-1", 2, 1, began, one))
	h.deliver(digest(t, "web-1", 4, 3, began, two)) // which nobody has seen
	if s := everything(t, h, began).Servers[0]; s.Outcome != "incomplete" || !s.Proven {
		t.Errorf("%+v", s)
	}
}

// A clock that was set back leaves nothing behind in the future.
func TestSeenFollowsTheClock(t *testing.T) {
	h := newHub("melb", "desk-1", began, quiet())
	h.deliver(cpu(t, "web-1", 1, 10, began.Add(time.Hour)))
	h.deliver(cpu(t, "web-1", 2, 10, began))
	if s := everything(t, h, began).Servers[0]; s.Seen != began.UnixMilli() {
		t.Errorf("seen at %d, not %d", s.Seen, began.UnixMilli())
	}
	for i := range maxServers {
		h.deliver(cpu(t, fmt.Sprintf("x-%d", i), 1, 10, began.Add(time.Hour)))
	}
	h.deliver(cpu(t, "web-2", 1, 10, began))
	if h.board.readings.servers["web-2"] == nil {
		t.Error("servers of the future keep their places")
	}
}
