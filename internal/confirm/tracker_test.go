package confirm_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"levee/envelope"
	"levee/internal/confirm"
)

// say adds the messages of a sender's boot from first to last.
func say(t *confirm.Tracker, sender string, first, last uint64) {
	for seq := first; seq <= last; seq++ {
		t.Add(sender, envelope.Nonce{Boot: boot, Seq: seq}, raw(seq), false)
	}
}

// expect settles a sender's digest of [first, last].
func expect(t *testing.T, tracker *confirm.Tracker, what, sender string, first, last uint64, want confirm.Outcome) {
	t.Helper()
	if got := tracker.Settle(sender, digest(first, last)); got.Outcome != want {
		t.Errorf("%s: %v %+v", what, got.Outcome, got)
	}
}

// invent has senders that do not exist say n messages each.
func invent(t *confirm.Tracker, senders int, n uint64) {
	for i := range senders {
		say(t, fmt.Sprint("melb/sensor/ghost-", i), 1, n)
	}
}

func TestOneSendersBound(t *testing.T) {
	tracker := confirm.NewTracker()
	last := uint64(confirm.MaxPending + 2)
	say(tracker, sender, 1, last)
	if got := tracker.Settle(sender, digest(last-9, last)); got.Outcome != confirm.Incomplete || got.Seen != 2 {
		t.Errorf("%v %+v", got.Outcome, got)
	}
}

// Invented senders take the place of each other, never of one that has signed.
func TestManySenders(t *testing.T) {
	tracker := confirm.NewTracker()
	say(tracker, sender, 1, 3)
	expect(t, tracker, "before the flood", sender, 1, 3, confirm.Confirmed)
	say(tracker, sender, 4, 5)
	invent(tracker, 2*confirm.MaxSenders, 1)
	say(tracker, sender, 6, 9)
	expect(t, tracker, "one that had signed before the flood", sender, 4, 9, confirm.Confirmed)

	const late = "melb/sensor/late"
	say(tracker, late, 1, 2)
	expect(t, tracker, "one that speaks after the flood", late, 1, 2, confirm.Confirmed)

	// One that speaks during the flood is followed from its first digest on.
	const during = "melb/sensor/during"
	say(tracker, during, 1, 2)
	invent(tracker, 2*confirm.MaxSenders, 1)
	expect(t, tracker, "one that speaks during the flood", during, 1, 2, confirm.Incomplete)
	say(tracker, during, 3, 4)
	invent(tracker, 2*confirm.MaxSenders, 1)
	expect(t, tracker, "and its second digest", during, 3, 4, confirm.Confirmed)
}

// Of those that have not signed, the one that was silent for longest goes.
func TestWhoIsReplaced(t *testing.T) {
	tracker := confirm.NewTracker()
	invent(tracker, confirm.MaxSenders, 1)
	say(tracker, "melb/sensor/ghost-0", 2, 2)
	say(tracker, sender, 1, 1)
	expect(t, tracker, "the one that spoke again", "melb/sensor/ghost-0", 1, 2, confirm.Confirmed)
	expect(t, tracker, "the one that was silent for longest", "melb/sensor/ghost-1", 1, 1, confirm.Incomplete)
	expect(t, tracker, "the next", "melb/sensor/ghost-3", 1, 1, confirm.Confirmed) // the digest has taken the place of ghost-2
	expect(t, tracker, "the new one", sender, 1, 1, confirm.Confirmed)
}

// Where all have signed, only one that signs takes a place: that of the one
// whose last digest is oldest, however much is said in its name.
func TestAllHaveSigned(t *testing.T) {
	tracker := confirm.NewTracker()
	invent(tracker, confirm.MaxSenders, 1)
	for i := range confirm.MaxSenders {
		expect(t, tracker, "a digest", fmt.Sprint("melb/sensor/ghost-", i), 1, 1, confirm.Confirmed)
	}
	say(tracker, "melb/sensor/ghost-0", 2, 2)
	expect(t, tracker, "the first one again", "melb/sensor/ghost-0", 2, 2, confirm.Confirmed)
	for _, name := range []string{"melb/sensor/ghost-0", "melb/sensor/ghost-1", "melb/sensor/ghost-2"} {
		say(tracker, name, 3, 3)
	}
	say(tracker, sender, 1, 1)
	expect(t, tracker, "a new one's first digest", sender, 1, 1, confirm.Incomplete)
	say(tracker, sender, 2, 2)
	expect(t, tracker, "the new one's second digest", sender, 2, 2, confirm.Confirmed)
	expect(t, tracker, "the one that signed again", "melb/sensor/ghost-0", 3, 3, confirm.Confirmed)
	expect(t, tracker, "the second-oldest", "melb/sensor/ghost-2", 3, 3, confirm.Confirmed)
	expect(t, tracker, "the oldest", "melb/sensor/ghost-1", 3, 3, confirm.Incomplete)
}

// When all hold too much together, the invented sender that holds most loses
// it, and not the one that speaks.
func TestAllSendersBound(t *testing.T) {
	tracker := confirm.NewTracker()
	const other = "melb/sensor/other"
	say(tracker, sender, 1, 3)
	expect(t, tracker, "before the flood", sender, 1, 3, confirm.Confirmed)
	say(tracker, sender, 4, confirm.MaxPending) // most of all
	say(tracker, other, 1, 63)                  // less than a share, and it has not signed
	say(tracker, "melb/sensor/more", 1, 65)     // more than a share
	invent(tracker, 100, confirm.MaxPending/2)
	say(tracker, "melb/sensor/new", 1, 2)
	expect(t, tracker, "a new one", "melb/sensor/new", 1, 2, confirm.Confirmed)
	expect(t, tracker, "one that has signed", sender, 4, confirm.MaxPending, confirm.Confirmed)
	expect(t, tracker, "one that holds less than a share", other, 1, 63, confirm.Confirmed)
	expect(t, tracker, "one that holds more than a share, and others hold most", "melb/sensor/more", 1, 65, confirm.Confirmed)
	expect(t, tracker, "the invented one that spoke last", "melb/sensor/ghost-99", 1, confirm.MaxPending/2, confirm.Confirmed)
	expect(t, tracker, "the first invented one", "melb/sensor/ghost-0", 1, confirm.MaxPending/2, confirm.Incomplete)
}

// What is said in the names of senders that have signed gives way as well, when
// nothing else can.
func TestFloodInSignersNames(t *testing.T) {
	tracker := confirm.NewTracker()
	const signers = 2 * confirm.MaxHeld / confirm.MaxPending
	for i := range signers {
		name := fmt.Sprint("melb/sensor/web-", i)
		say(tracker, name, 1, 1)
		expect(t, tracker, "a digest", name, 1, 1, confirm.Confirmed)
		say(tracker, name, 1_000_000, 1_000_000+confirm.MaxPending-1)
	}
	say(tracker, "melb/sensor/new", 1, 12)
	expect(t, tracker, "a new one", "melb/sensor/new", 1, 12, confirm.Confirmed)
	held := 0
	for i := range signers {
		held += tracker.Settle(fmt.Sprint("melb/sensor/web-", i), digest(1_000_000, 1_000_000+confirm.MaxPending-1)).Seen
	}
	if held > confirm.MaxHeld || held < confirm.MaxHeld-2*confirm.MaxPending {
		t.Errorf("it holds %d", held)
	}
}

// A boot that somebody made up in a sender's name takes nothing from the one that
// a signature spoke of, and an old digest brings no old boot back.
func TestAnInventedBoot(t *testing.T) {
	tracker := seen(1, 3)
	expect(t, tracker, "before", sender, 1, 3, confirm.Confirmed)
	tracker.Add(sender, envelope.Nonce{Boot: boot + 1000, Seq: 1}, raw(1), false)
	say(tracker, sender, 4, 5)
	expect(t, tracker, "a digest while another boot is spoken of", sender, 4, 5, confirm.Confirmed)
	say(tracker, sender, 6, 7)
	expect(t, tracker, "the next one", sender, 6, 7, confirm.Confirmed)
	say(tracker, sender, 8, 9)
	old := digest(1, 3)
	old.Boot = envelope.FormatBoot(older)
	if got := tracker.Settle(sender, old); got.Outcome != confirm.Incomplete {
		t.Errorf("a digest of the boot before: %v", got.Outcome)
	}
	expect(t, tracker, "after an old digest", sender, 8, 9, confirm.Confirmed)
}

// Two different messages under one number: nothing is confirmed, whichever was
// first, and whatever somebody made up between the two.
func TestTwoUnderOneNumber(t *testing.T) {
	at := func(boot, seq uint64) envelope.Nonce { return envelope.Nonce{Boot: boot, Seq: seq} }
	forged := []byte("invented")
	type add struct {
		nonce  envelope.Nonce
		raw    []byte
		proven bool
		second bool
	}
	for name, adds := range map[string][]add{
		"the invented one first":       {{at(boot, 2), forged, false, false}, {at(boot, 2), raw(2), true, true}},
		"the invented one last":        {{at(boot, 2), raw(2), true, false}, {at(boot, 2), forged, false, true}},
		"neither is signed":            {{at(boot, 2), forged, false, false}, {at(boot, 2), raw(2), false, true}},
		"and the true one once more":   {{at(boot, 2), forged, false, false}, {at(boot, 2), raw(2), true, true}, {at(boot, 2), raw(2), true, false}},
		"a newer boot in between":      {{at(boot, 2), forged, false, false}, {at(boot+1, 1), forged, false, false}, {at(boot, 2), raw(2), true, true}},
		"two newer boots in between":   {{at(boot, 2), forged, false, false}, {at(boot+1, 1), forged, false, false}, {at(boot+2, 1), forged, false, false}, {at(boot, 2), raw(2), true, true}},
		"a newer boot behind":          {{at(boot, 2), forged, false, false}, {at(boot, 2), raw(2), true, true}, {at(boot+1, 1), forged, false, false}},
		"an older boot is made up too": {{at(older, 1), forged, false, false}, {at(boot, 2), forged, false, false}, {at(boot, 2), raw(2), true, true}},
	} {
		tracker := confirm.NewTracker()
		for i, a := range adds {
			if got := tracker.Add(sender, a.nonce, a.raw, a.proven); got != a.second {
				t.Errorf("%s: message %d is the second one: %v", name, i, got)
			}
		}
		if got := tracker.Settle(sender, digest(2, 8, drop(boot, 3, 8))); got.Outcome != confirm.Contradicted {
			t.Errorf("%s: %v %+v", name, got.Outcome, got)
		}
	}
	tracker := seen(1, 2)
	if tracker.Add(sender, at(boot, 2), raw(2), true) {
		t.Error("the same message again is taken for another")
	}
	expect(t, tracker, "the same message again", sender, 1, 2, confirm.Confirmed)
}

// What nothing vouches for makes nobody forget what waits of a boot that a
// signature spoke of, however much of it comes.
func TestInventedBootsCostNothingProven(t *testing.T) {
	tracker := seen(1, 3)
	tracker.Add(sender, envelope.Nonce{Boot: boot, Seq: 4}, raw(4), true)
	for i := range uint64(10) {
		for seq := range uint64(confirm.MaxPending/8 + 1) {
			tracker.Add(sender, envelope.Nonce{Boot: boot + 1 + i/9, Seq: seq + 1 + i<<20}, raw(0), false)
		}
	}
	say(tracker, sender, 5, 6)
	expect(t, tracker, "after invented boots", sender, 1, 6, confirm.Confirmed)
	// A start is not forgotten for them either.
	tracker.Add(sender, envelope.Nonce{Boot: boot + 9, Seq: 1}, raw(1), true)
	next := digest(1, 1)
	next.Boot = envelope.FormatBoot(boot + 9)
	if got := tracker.Settle(sender, next); got.Outcome != confirm.Confirmed {
		t.Errorf("the next boot: %v", got.Outcome)
	}
	tracker.Add(sender, envelope.Nonce{Boot: boot, Seq: 7}, raw(7), true)
	expect(t, tracker, "a signed message of the boot before", sender, 7, 7, confirm.Incomplete)
}

// After a restart readings come before the first digest: they are kept, and the
// boot before can still be settled.
func TestBothBootsWait(t *testing.T) {
	tracker := seen(1, 3)
	expect(t, tracker, "the first digest", sender, 1, 3, confirm.Confirmed)
	say(tracker, sender, 4, 5)
	tracker.Add(sender, envelope.Nonce{Boot: boot + 1, Seq: 1}, raw(1), false)
	expect(t, tracker, "the boot before", sender, 4, 5, confirm.Confirmed)
	next := digest(1, 1)
	next.Boot = envelope.FormatBoot(boot + 1)
	if got := tracker.Settle(sender, next); got.Outcome != confirm.Confirmed {
		t.Errorf("the new boot: %v", got.Outcome)
	}
}

// Whatever was said in however many names, and whoever has signed of them: once
// it has ended, a sender that was never heard of, and one that was, is confirmed
// from its next range on.
func TestAfterAnyFlood(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 0))
		tracker := confirm.NewTracker()
		next := uint64(1)
		if seed%2 == 0 {
			say(tracker, sender, 1, 2)
			tracker.Settle(sender, digest(1, 2))
			next = 3
		}
		for wave := range 1 + rng.IntN(3) {
			names := []int{1, 17, 1000, confirm.MaxSenders - 1, confirm.MaxSenders + 1}[rng.IntN(5)]
			each := min([]uint64{1, 63, 64, 65, confirm.MaxPending}[rng.IntN(5)], uint64(confirm.MaxHeld/names)+1)
			start := []uint64{1, 1 << 40}[rng.IntN(2)]
			signs := rng.IntN(20) // stolen from so many parts
			for i := range names {
				name := fmt.Sprint("melb/sensor/ghost-", wave, "-", i)
				say(tracker, name, start, start+each-1)
				if i < signs {
					tracker.Settle(name, digest(start, start))
				}
			}
		}
		for range 3 {
			say(tracker, sender, next, next+11)
			if got := tracker.Settle(sender, digest(next, next+11)); got.Outcome != confirm.Confirmed {
				t.Fatalf("seed %d: after the flood: %v %+v", seed, got.Outcome, got)
			}
			next += 12
		}
	}
}

// BenchmarkAddWhenFull is a flood of the kind that costs most: every sender
// holds about its share, so that room is made for as few messages as can be.
func BenchmarkAddWhenFull(b *testing.B) {
	for name, names := range map[string]int{"known senders": confirm.MaxSenders, "new senders": 4 * confirm.MaxSenders} {
		b.Run(name, func(b *testing.B) {
			tracker := confirm.NewTracker()
			senders := make([]string, names)
			for i := range senders {
				senders[i] = fmt.Sprint("melb/sensor/ghost-", i)
			}
			message, i := raw(1), 0
			add := func() {
				tracker.Add(senders[i%names], envelope.Nonce{Boot: boot, Seq: uint64(1 + i/names)}, message, false)
				i++
			}
			for range confirm.MaxHeld {
				add()
			}
			b.ReportAllocs()
			for b.Loop() {
				add()
			}
		})
	}
}
