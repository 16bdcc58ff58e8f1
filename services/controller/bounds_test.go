package controller

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/wire"
	"levee/services/controller/journal"
)

// TestJournalIsBounded floods with ids that policy permits, then lets another
// monitor speak.
func TestJournalIsBounded(t *testing.T) {
	bubble(t, func(r *rig) {
		const room, more = 50, 20
		r.restart(func() { r.room = room })
		full := 0
		for range room + more {
			r.sleep(time.Second / senderRate)
			r.send(enable(testMaxTTL))
			for _, s := range r.said() {
				if s.Reason == ReasonJournalFull {
					full++
				}
			}
		}
		entries, err := r.journal.Entries()
		if err != nil || len(entries) != room || full != more {
			t.Errorf("%d entries, %d refused, %v", len(entries), full, err)
		}
		mon2 := mon1
		mon2.Name = "mon-2"
		cmd := scaleUp(time.Minute)
		r.c.Handle(mon2, cmd, time.Now())
		r.expect("scale_up_servers active")
		// It empties by itself.
		r.sleep(testMaxTTL + 2*DefaultSkew)
		r.said()
		if entries, err := r.journal.Entries(); err != nil || len(entries) > 2 {
			t.Errorf("%d entries are left, %v: want the latest of each slot", len(entries), err)
		}
	})
}

func TestFloodOfOneSender(t *testing.T) {
	bubble(t, func(r *rig) {
		for range 10_000 {
			r.c.Handle(mon1, enable(time.Minute), time.Now())
		}
		synctest.Wait()
		s := r.c.Stats()
		if s.Throttled != 10_000-senderBurst || s.Accepted+s.Refused != senderBurst {
			t.Errorf("counted %+v", s)
		}
		if n := len(r.said()); n > senderBurst {
			t.Errorf("%d statuses", n)
		}
		mon2 := mon1
		mon2.Name = "mon-2"
		r.c.Handle(mon2, scaleUp(time.Minute), time.Now())
		r.expect("scale_up_servers active")
	})
}

func TestFloodOfSenders(t *testing.T) {
	var a admission
	admitted := 0
	now := time.Now()
	for n := range 10_000 {
		if a.admits(string(rune('a'+n%26))+time.Duration(n).String(), now) {
			admitted++
		}
	}
	if want := maxSenders + senderBurst; admitted != want || len(a.senders) > maxSenders+1 {
		t.Errorf("%d admitted, %d remembered, want %d and at most %d", admitted, len(a.senders), want, maxSenders+1)
	}
}

// TestHandleNeverBlocks hands commands to a controller whose load balancer
// hangs.
func TestHandleNeverBlocks(t *testing.T) {
	bubble(t, func(r *rig) {
		hang := make(chan struct{})
		r.lb.set(func(f *fakeBalancer) { f.before = func() { <-hang } })
		for n := range 10 {
			from := mon1
			from.Name = "mon-" + string(rune('a'+n))
			for range senderBurst {
				r.c.Handle(from, enable(time.Minute), time.Now())
			}
		}
		synctest.Wait()
		if s := r.c.Stats(); s.Overflowed != 10*senderBurst-queueLength-1 {
			t.Errorf("counted %+v", s)
		}
		r.lb.set(func(f *fakeBalancer) { f.before = nil })
		close(hang)
		r.said()
	})
}

func TestAnswersAreBounded(t *testing.T) {
	var a answers
	now := time.Now()
	key := func() journal.Key { return journal.Key{ID: wire.NewID()} }
	known := key()
	if !a.due(known, now) || a.due(known, now.Add(repeatEvery-1)) || !a.due(known, now.Add(repeatEvery)) {
		t.Error("not one answer a second")
	}
	now = now.Add(repeatEvery)
	for range 2 * maxAnswers {
		a.due(key(), now)
	}
	if len(a.last) > maxAnswers {
		t.Errorf("%d ids are remembered", len(a.last))
	}
	if !a.due(key(), now.Add(repeatEvery)) {
		t.Error("room is never made")
	}
}

func TestPendingIsBounded(t *testing.T) {
	bubble(t, func(r *rig) {
		r.halt() // what follows would race with Run
		for range maxPending + 300 {
			r.c.await(&mitigation{cmd: command(wire.DisableRateLimiting, time.Minute)}, wire.StateStopped)
		}
		if len(r.c.pending) != maxPending {
			t.Errorf("%d outcomes are pending", len(r.c.pending))
		}
		// The oldest have had their last word.
		r.expect(slices.Repeat([]string{"disable_rate_limiting failed actuator_failed"}, 300)...)
		r.start()
	})
}
