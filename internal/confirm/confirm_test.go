package confirm_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"levee/envelope"
	"levee/internal/confirm"
	"levee/internal/wire"
)

const (
	sender = "melb/sensor/web-1"
	boot   = 0x1929c0a7f3e
	older  = boot - 1
)

// raw stands for the whole envelope of a seq.
func raw(seq uint64) []byte { return fmt.Appendf(nil, "envelope %d", seq) }

// digest is what an honest sender signs over [first, last] but for dropped,
// whose ranges may lie outside as well.
func digest(first, last uint64, dropped ...wire.Drop) wire.Digest {
	h := sha256.New()
	for seq := first; seq <= last; seq++ {
		if slices.ContainsFunc(dropped, func(d wire.Drop) bool {
			return d.Boot == envelope.FormatBoot(boot) && d.First <= seq && seq <= d.Last
		}) {
			continue
		}
		sum := sha256.Sum256(raw(seq))
		h.Write(sum[:])
	}
	return wire.Digest{Boot: envelope.FormatBoot(boot), First: first, Last: last, Dropped: dropped,
		Hash: base64.RawURLEncoding.EncodeToString(h.Sum(nil))}
}

func drop(b, first, last uint64) wire.Drop {
	return wire.Drop{Boot: envelope.FormatBoot(b), First: first, Last: last}
}

// seen returns a tracker that saw the messages of boot from first to last.
func seen(first, last uint64, but ...uint64) *confirm.Tracker {
	t := confirm.NewTracker()
	for seq := first; seq <= last; seq++ {
		if !slices.Contains(but, seq) {
			t.Add(sender, envelope.Nonce{Boot: boot, Seq: seq}, raw(seq), false)
		}
	}
	return t
}

func TestOutcomes(t *testing.T) {
	forged := seen(1, 5, 3)
	forged.Add(sender, envelope.Nonce{Boot: boot, Seq: 3}, []byte("something else"), false)
	disowned := seen(1, 5)
	swapped := seen(1, 5, 2, 3)
	swapped.Add(sender, envelope.Nonce{Boot: boot, Seq: 2}, raw(3), false)
	swapped.Add(sender, envelope.Nonce{Boot: boot, Seq: 3}, raw(2), false)
	otherHash := digest(1, 5)
	otherHash.Hash = digest(1, 4).Hash
	longHash := digest(1, 5)
	longHash.Hash += "="
	for _, test := range []struct {
		name    string
		tracker *confirm.Tracker
		sender  string
		digest  wire.Digest
		want    confirm.Result
	}{
		{"everything seen", seen(1, 5), sender, digest(1, 5), confirm.Result{Outcome: confirm.Confirmed, Seen: 5}},
		{"and more, which waits", seen(1, 9), sender, digest(1, 5), confirm.Result{Outcome: confirm.Confirmed, Seen: 5}},
		{"one message", seen(7, 7), sender, digest(7, 7), confirm.Result{Outcome: confirm.Confirmed, Seen: 1}},
		{"joined in the middle", seen(3, 5), sender, digest(1, 5), confirm.Result{Outcome: confirm.Incomplete, Seen: 3, Missing: 2}},
		{"the last one missing", seen(1, 4), sender, digest(1, 5), confirm.Result{Outcome: confirm.Incomplete, Seen: 4, Missing: 1}},
		{"nothing seen", confirm.NewTracker(), sender, digest(1, 5), confirm.Result{Outcome: confirm.Incomplete, Missing: 5}},
		{"another sender's messages", seen(1, 5), "melb/sensor/web-2", digest(1, 5), confirm.Result{Outcome: confirm.Incomplete, Missing: 5}},
		{"another message", forged, sender, digest(1, 5), confirm.Result{Outcome: confirm.Contradicted, Seen: 5}},
		{"another order", swapped, sender, digest(1, 5), confirm.Result{Outcome: confirm.Contradicted, Seen: 5}},
		{"another hash", seen(1, 5), sender, otherHash, confirm.Result{Outcome: confirm.Contradicted, Seen: 5}},
		{"another spelling of the hash", seen(1, 5), sender, longHash, confirm.Result{Outcome: confirm.Contradicted, Seen: 5}},
		{"dropped and not seen", seen(1, 5, 2, 3), sender, digest(1, 5, drop(boot, 2, 3)), confirm.Result{Outcome: confirm.Confirmed, Seen: 3, Dropped: 2}},
		{"dropped, and one more missing", seen(1, 5, 2, 3, 4), sender, digest(1, 5, drop(boot, 2, 3)),
			confirm.Result{Outcome: confirm.Incomplete, Seen: 2, Missing: 1, Dropped: 2}},
		{"dropped, and seen all the same", disowned, sender, digest(1, 5, drop(boot, 2, 3)),
			confirm.Result{Outcome: confirm.Disowned, Seen: 3, Dropped: 2, Unvouched: 2}},
		{"everything dropped", confirm.NewTracker(), sender, digest(1, 5, drop(boot, 1, 5)), confirm.Result{Outcome: confirm.Confirmed, Dropped: 5}},
		{"declarations in any order", seen(1, 5, 2, 4), sender, digest(1, 5, drop(boot, 4, 4), drop(boot, 2, 2)),
			confirm.Result{Outcome: confirm.Confirmed, Seen: 3, Dropped: 2}},
		{"an earlier range lost", seen(6, 9), sender, digest(6, 9, drop(boot, 1, 5)), confirm.Result{Outcome: confirm.Confirmed, Seen: 4, Dropped: 5}},
		{"an earlier range lost, and seen", seen(4, 9), sender, digest(6, 9, drop(boot, 1, 5)),
			confirm.Result{Outcome: confirm.Confirmed, Seen: 4, Dropped: 5, Unvouched: 2}},
		{"an earlier range that no digest mentions", seen(4, 9), sender, digest(6, 9), confirm.Result{Outcome: confirm.Confirmed, Seen: 4, Unvouched: 2}},
		{"an earlier boot lost", seen(1, 5), sender, digest(1, 5, drop(older, 90, 93)), confirm.Result{Outcome: confirm.Confirmed, Seen: 5, Dropped: 4}},
		{"an outage in one range", seen(90_001, 90_003), sender, digest(90_001, 90_003, drop(boot, 1, 90_000)),
			confirm.Result{Outcome: confirm.Confirmed, Seen: 3, Dropped: 90_000}},
	} {
		test.want.Boot, test.want.First, test.want.Last = boot, test.digest.First, test.digest.Last
		if got := test.tracker.Settle(test.sender, test.digest); got != test.want {
			t.Errorf("%s: %v %+v", test.name, got.Outcome, got)
		}
	}
}

// A digest that contradicts itself settles nothing: what it would cover still
// waits for one that does not.
func TestMalformed(t *testing.T) {
	with := func(change func(*wire.Digest)) wire.Digest {
		d := digest(1, 5)
		change(&d)
		return d
	}
	for name, d := range map[string]wire.Digest{
		"no range":                      {},
		"a boot that is none":           with(func(d *wire.Digest) { d.Boot = "x" }),
		"a boot in capitals":            with(func(d *wire.Digest) { d.Boot = "1929C0A7F3E" }),
		"boot zero":                     with(func(d *wire.Digest) { d.Boot = "00000000000" }),
		"from zero":                     with(func(d *wire.Digest) { d.First = 0 }),
		"backwards":                     with(func(d *wire.Digest) { d.First, d.Last = 5, 1 }),
		"too long":                      with(func(d *wire.Digest) { d.Last = d.First + confirm.MaxPending }),
		"to the end of all numbers":     with(func(d *wire.Digest) { d.First, d.Last = math.MaxUint64-4, math.MaxUint64 }),
		"a dropped range backwards":     with(func(d *wire.Digest) { d.Dropped = []wire.Drop{drop(boot, 3, 2)} }),
		"a dropped range from zero":     with(func(d *wire.Digest) { d.Dropped = []wire.Drop{drop(boot, 0, 2)} }),
		"a dropped boot that is none":   with(func(d *wire.Digest) { d.Dropped = []wire.Drop{{Boot: "x", First: 1, Last: 1}} }),
		"a dropped range twice":         with(func(d *wire.Digest) { d.Dropped = []wire.Drop{drop(boot, 2, 3), drop(boot, 2, 3)} }),
		"dropped ranges that overlap":   with(func(d *wire.Digest) { d.Dropped = []wire.Drop{drop(boot, 2, 4), drop(boot, 1, 2)} }),
		"overlap in an earlier boot":    with(func(d *wire.Digest) { d.Dropped = []wire.Drop{drop(older, 2, 4), drop(older, 4, 9)} }),
		"a dropped range of the future": with(func(d *wire.Digest) { d.Dropped = []wire.Drop{drop(boot, 6, 6)} }),
		"a dropped range across the end": with(func(d *wire.Digest) {
			d.Dropped = []wire.Drop{drop(boot, 5, 6)}
		}),
		"a dropped range across the beginning": with(func(d *wire.Digest) {
			d.First, d.Dropped = 2, []wire.Drop{drop(boot, 1, 2)}
		}),
		"a dropped range of a later boot": with(func(d *wire.Digest) { d.Dropped = []wire.Drop{drop(boot+1, 1, 1)} }),
	} {
		tracker := seen(1, 5)
		if got := tracker.Settle(sender, d); got.Outcome != confirm.Malformed || got.Seen != 0 {
			t.Errorf("%s: %v %+v", name, got.Outcome, got)
		}
		if got := tracker.Settle(sender, digest(1, 5)); got.Outcome != confirm.Confirmed {
			t.Errorf("%s: and the good one after it: %v", name, got.Outcome)
		}
	}
	if (confirm.Result{}).Outcome != confirm.Malformed {
		t.Error("a result that nobody filled in says something")
	}
}

// Sums of what is declared do not overflow, however much is.
func TestEnormousDeclarations(t *testing.T) {
	d := digest(math.MaxUint64-1, math.MaxUint64-1)
	d.Dropped = []wire.Drop{drop(older-1, 1, math.MaxUint64), drop(older, 1, math.MaxUint64), drop(boot, 1, math.MaxUint64-2)}
	tracker := confirm.NewTracker()
	tracker.Add(sender, envelope.Nonce{Boot: boot, Seq: math.MaxUint64 - 1}, raw(math.MaxUint64-1), false)
	if got := tracker.Settle(sender, d); got.Outcome != confirm.Confirmed || got.Dropped <= 0 {
		t.Errorf("%v %+v", got.Outcome, got)
	}
}

func TestRangesFollowEachOther(t *testing.T) {
	tracker := seen(1, 9)
	for _, d := range []wire.Digest{digest(1, 3), digest(4, 8)} {
		if got := tracker.Settle(sender, d); got.Outcome != confirm.Confirmed {
			t.Errorf("%d to %d: %v", d.First, d.Last, got.Outcome)
		}
	}
	if got := tracker.Settle(sender, digest(1, 3)); got.Outcome != confirm.Incomplete || got.Missing != 3 {
		t.Errorf("settled twice: %v %+v", got.Outcome, got)
	}
	tracker.Add(sender, envelope.Nonce{Boot: boot, Seq: 2}, raw(2), false) // late: its digest was here
	if got := tracker.Settle(sender, digest(9, 9)); got.Outcome != confirm.Confirmed || got.Unvouched != 0 {
		t.Errorf("after a late one: %v %+v", got.Outcome, got)
	}
}

func TestBoots(t *testing.T) {
	tracker := seen(1, 5)
	tracker.Add(sender, envelope.Nonce{Boot: older, Seq: 3}, []byte("another"), false) // late, of the boot before
	if got := tracker.Settle(sender, digest(1, 4)); got.Outcome != confirm.Confirmed {
		t.Errorf("after a late one of the boot before: %v", got.Outcome)
	}
	next := digest(1, 1)
	next.Boot = envelope.FormatBoot(boot + 1)
	if got := tracker.Settle(sender, next); got.Outcome != confirm.Incomplete {
		t.Errorf("another boot's digest: %v", got.Outcome)
	}
	tracker.Add(sender, envelope.Nonce{Boot: boot + 1, Seq: 1}, raw(1), false)
	if got := tracker.Settle(sender, next); got.Outcome != confirm.Confirmed {
		t.Errorf("the new boot's digest: %v", got.Outcome)
	}
	if got := tracker.Settle(sender, digest(1, 5)); got.Outcome != confirm.Incomplete {
		t.Errorf("the old boot's digest: %v", got.Outcome)
	}
	// A boot begins with its own seq 1, whatever was settled in the one before.
	tracker = seen(1, 5)
	tracker.Settle(sender, digest(1, 5))
	tracker.Add(sender, envelope.Nonce{Boot: boot + 1, Seq: 1}, raw(1), false)
	if got := tracker.Settle(sender, next); got.Outcome != confirm.Confirmed {
		t.Errorf("the new boot's digest after one of the old boot: %v", got.Outcome)
	}
}

// Confirmed means: each message of the range was seen as it was sent, or
// declared. Nothing else is confirmed, whatever was seen, changed and declared.
func TestConfirmedMeansSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Uint64Range(1, 20).Draw(t, "first")
		last := first + rapid.Uint64Range(0, 20).Draw(t, "length")
		declared := make(map[uint64]bool)
		var dropped []wire.Drop
		for seq := first; seq <= last; seq++ {
			if rapid.IntRange(0, 4).Draw(t, "declared") == 0 {
				declared[seq] = true
				dropped = append(dropped, drop(boot, seq, seq))
			}
		}
		tracker := confirm.NewTracker()
		want, disowned := confirm.Confirmed, false
		for seq := uint64(1); seq <= last+3; seq++ {
			counts := seq >= first && seq <= last && !declared[seq]
			switch rapid.IntRange(0, 30).Draw(t, "fate") {
			case 0:
				if counts {
					want = confirm.Incomplete
				}
			case 1:
				tracker.Add(sender, envelope.Nonce{Boot: boot, Seq: seq}, []byte("another"), false)
				disowned = disowned || seq >= first && seq <= last && declared[seq]
				if counts && want == confirm.Confirmed {
					want = confirm.Contradicted
				}
			default:
				tracker.Add(sender, envelope.Nonce{Boot: boot, Seq: seq}, raw(seq), false)
				disowned = disowned || seq >= first && seq <= last && declared[seq]
			}
		}
		if want == confirm.Confirmed && disowned {
			want = confirm.Disowned
		}
		if got := tracker.Settle(sender, digest(first, last, dropped...)); got.Outcome != want {
			t.Fatalf("%v instead of %v: %+v of %v", got.Outcome, want, got, slices.Sorted(maps.Keys(declared)))
		}
	})
}

func FuzzCheck(f *testing.F) {
	f.Add(uint64(1), uint64(5), uint64(2), uint64(3), "1929c0a7f3e")
	f.Add(uint64(math.MaxUint64-1), uint64(math.MaxUint64), uint64(1), uint64(math.MaxUint64), "1929c0a7f3d")
	f.Fuzz(func(t *testing.T, first, last, a, b uint64, dropBoot string) {
		d := wire.Digest{Boot: envelope.FormatBoot(boot), First: first, Last: last, Dropped: []wire.Drop{{Boot: dropBoot, First: a, Last: b}}}
		r := confirm.Check(d, func(seq uint64) ([sha256.Size]byte, bool) { return sha256.Sum256(raw(seq)), seq%3 == 0 })
		if r.Seen < 0 || r.Missing < 0 || r.Dropped < 0 || r.Outcome == confirm.Confirmed && r.Missing > 0 {
			t.Fatalf("%+v says %+v", d, r)
		}
	})
}
