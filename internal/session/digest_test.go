package session

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"levee/envelope"
	"levee/internal/confirm"
	"levee/internal/wire"
)

// failer is a testing.T or a rapid.T.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// digestOf reads a digest as a receiver does.
func digestOf(t failer, out outgoing) wire.Digest {
	t.Helper()
	m, err := envelope.Parse(out.raw, 32768)
	if err != nil || !m.Signed() {
		t.Fatalf("%s: %v", out.raw, err)
	}
	var d wire.Digest
	if err := wire.DecodeExact(m.Payload, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func hashOf(list ...outgoing) string {
	h := sha256.New()
	for _, out := range list {
		sum := sha256.Sum256(out.raw)
		h.Write(sum[:])
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func drop(first, last uint64) wire.Drop {
	return wire.Drop{Boot: envelope.FormatBoot(testBoot), First: first, Last: last}
}

// A digest covers what is known, and nothing that may still be lost.
func TestDigestLeavesOutWhatWaits(t *testing.T) {
	o := newOutbox(t)
	o.signNow(t, start)
	if o.waiting() != 0 {
		t.Error("a digest of nothing")
	}
	for range 3 {
		o.say(t, start)
	}
	sent := o.deliver(start, 2)
	o.signNow(t, start)
	rest := o.deliver(start, -1) // the third, and the digest
	d := digestOf(t, rest[1])
	if d.First != 1 || d.Last != 2 || d.Hash != hashOf(sent...) || len(d.Dropped) != 0 || d.Timestamp != float64(testBoot)/1000 {
		t.Errorf("%+v", d)
	}
	o.signNow(t, start)
	next := digestOf(t, o.deliver(start, 1)[0])
	if next.First != 3 || next.Last != 4 || next.Hash != hashOf(rest...) {
		t.Errorf("the next: %+v", next)
	}
}

// A digest that is given up takes its range with it, and so does everything
// that it declared itself.
func TestLostDigests(t *testing.T) {
	o := newOutbox(t)
	at := start
	for i := range 3 { // three digests in a row are lost
		o.say(t, at)
		o.deliver(at, -1)
		o.signNow(t, at)
		at = at.Add(replayAge + time.Second)
		if sent := o.deliver(at, -1); len(sent) != 0 {
			t.Fatalf("round %d: sent %v", i, seqs(sent))
		}
	}
	o.say(t, at)
	sent := o.deliver(at, -1)
	o.signNow(t, at)
	d := digestOf(t, o.deliver(at, 1)[0])
	// 1, 3 and 5 were messages, 2, 4 and 6 their digests, 7 is the message now.
	// Digest 6 vouched for 4 (lost) and 5, digest 4 for 2 and 3, digest 2 for 1.
	if !slices.Equal(d.Dropped, []wire.Drop{drop(1, 5), drop(6, 6)}) || d.First != 6 || d.Last != 7 || d.Hash != hashOf(sent...) {
		t.Errorf("%+v", d)
	}
	o.say(t, at)
	o.deliver(at, -1)
	o.signNow(t, at)
	if d := digestOf(t, o.deliver(at, 1)[0]); len(d.Dropped) != 0 || d.First != 8 {
		t.Errorf("the one after it: %+v", d)
	}
}

// A digest that cannot be signed is owed until it can.
func TestDigestThatCannotBeSigned(t *testing.T) {
	o := newOutbox(t)
	sign := o.sign
	o.sign = func() (*envelope.Signer, error) { return nil, errors.New("no key") }
	var ranges [][]outgoing
	for i := range maxOwed + 3 {
		o.say(t, start)
		ranges = append(ranges, o.deliver(start, -1))
		if err := o.putDigest(start); err == nil {
			t.Fatalf("digest %d was signed without a key", i)
		}
	}
	if o.owes() || len(o.ledger.owed) != maxOwed {
		t.Errorf("owes %d digests, to be tried at once %v", len(o.ledger.owed), o.owes())
	}
	o.sign = sign
	o.signNow(t, start)
	if len(o.ledger.owed) != 0 {
		t.Error("still owes digests")
	}
	sent := o.deliver(start, -1)
	if len(sent) != maxOwed {
		t.Fatalf("%d digests", len(sent))
	}
	var declared []wire.Drop
	for i, out := range sent {
		d := digestOf(t, out)
		declared = append(declared, d.Dropped...)
		if want := uint64(i + 4); d.First != want || d.Last != want || d.Hash != hashOf(ranges[i+3]...) {
			t.Errorf("digest %d: %+v", i, d)
		}
	}
	// What there was no room to owe is declared.
	o.say(t, start)
	o.deliver(start, -1)
	o.signNow(t, start)
	declared = append(declared, digestOf(t, o.deliver(start, 1)[0]).Dropped...)
	if !slices.Equal(declared, []wire.Drop{drop(1, 1), drop(2, 2), drop(3, 3)}) {
		t.Errorf("declared %v", declared)
	}
}

// However long a sender was cut off, its digests stay within what receivers
// take.
func TestDigestsStayBounded(t *testing.T) {
	o := newOutbox(t)
	at := start
	o.say(t, at)
	o.deliver(at, -1)
	for range 3*maxCovered + 7 { // an outage
		at = at.Add(time.Second)
		o.say(t, at)
		o.next(o.line, at)
	}
	o.next(o.line, at.Add(time.Hour))
	at = at.Add(time.Hour)
	for range 600 { // and every second message is lost
		o.say(t, at)
		o.next(o.line, at.Add(time.Hour))
		at = at.Add(time.Hour)
		o.say(t, at)
		o.deliver(at, -1)
	}
	if !o.owes() {
		t.Error("no digest is due before its time")
	}
	o.signNow(t, at)
	var last uint64
	for _, out := range o.deliver(at, -1) {
		d := digestOf(t, out)
		if d.Last-d.First >= maxCovered || len(d.Dropped) > maxRanges+1 || len(out.raw) > 32768 {
			t.Errorf("digest %d to %d with %d ranges, %d bytes", d.First, d.Last, len(d.Dropped), len(out.raw))
		}
		from := d.First
		if len(d.Dropped) > 0 && d.Dropped[0].Last < d.First {
			from = d.Dropped[0].First
		}
		if from != last+1 {
			t.Errorf("a gap: %d after %d", from, last)
		}
		last = d.Last
	}
	if last != 1+3*maxCovered+7+1200 {
		t.Errorf("the last digest ends at %d", last)
	}
	if o.waiting() != 0 || len(o.ledger.owed) != 0 {
		t.Error("something is left")
	}
}

// Where policy gives a sender no digests there is nothing to keep for them.
func TestWithoutDigests(t *testing.T) {
	o := newOutbox(t)
	o.vouches = false
	for range 2 * maxQueue {
		o.say(t, start)
	}
	o.deliver(start, -1)
	if o.owes() || o.ledger.next != 1 {
		t.Errorf("a ledger of %d messages", o.ledger.next-1)
	}
}

func TestInsert(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ranges []wire.Drop
		set := make(map[uint64]bool)
		for range rapid.IntRange(0, 30).Draw(t, "ranges") {
			first := rapid.Uint64Range(1, 60).Draw(t, "first")
			last := first + rapid.Uint64Range(0, 5).Draw(t, "length")
			ranges = insert(ranges, drop(first, last))
			for seq := first; seq <= last; seq++ {
				set[seq] = true
			}
		}
		before := uint64(0)
		for _, r := range ranges {
			if r.First > r.Last || before > 0 && r.First <= before+1 {
				t.Fatalf("not in order, or touching: %v", ranges)
			}
			before = r.Last
			for seq := r.First; seq <= r.Last; seq++ {
				if !set[seq] {
					t.Fatalf("%d was never inserted: %v", seq, ranges)
				}
				delete(set, seq)
			}
		}
		if len(set) > 0 {
			t.Fatalf("missing: %v from %v", set, ranges)
		}
	})
}

// What a sender signs and what a receiver holds against it agree, whatever is
// sent, lost, declared and repeated: every digest that arrives is confirmed by
// who saw everything, and together they account for every number.
func TestDigestsAgreeWithReceivers(t *testing.T) {
	box := newOutbox(t)
	rapid.Check(t, func(t *rapid.T) {
		o := openOutbox(box.key, box.sign)
		other := o.join()
		r := newAuditor(t)
		now := start
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 8).Draw(t, "step") {
			case 7: // another line sends what it has not sent
				for range rapid.IntRange(1, 3).Draw(t, "sent elsewhere") {
					if out, ok := o.next(other, now); ok {
						r.receive(out)
						o.acknowledged(other, now)
					}
				}
			case 8: // it hands on a message, of which nothing more is heard for now
				if rapid.Bool().Draw(t, "lost elsewhere") {
					o.leave(other)
					other = o.join()
				} else if out, ok := o.next(other, now); ok && rapid.Bool().Draw(t, "arrived elsewhere") {
					r.receive(out)
				}
			case 0, 1:
				if err := o.put(ramTopic, fmt.Appendf(nil, `{"a":%d}`, o.seq), false, 4096, now); err != nil {
					t.Fatal(err)
				}
			case 2:
				for _, out := range o.deliver(now, rapid.IntRange(-1, 3).Draw(t, "sent")) {
					r.receive(out)
				}
			case 3:
				if err := o.putDigest(now); err != nil {
					t.Fatal(err)
				}
			case 4: // a connection is lost: what was in the air may have arrived
				if out, ok := o.next(o.line, now); ok && rapid.Bool().Draw(t, "arrived") {
					r.receive(out)
				}
				o.again()
			case 5:
				now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
			case 6:
				if out, ok := o.next(o.line, now); ok { // in the air while others come and go
					for range rapid.IntRange(0, 2).Draw(t, "meanwhile") {
						o.mu.Lock()
						o.loseOldest()
						o.mu.Unlock()
					}
					o.acknowledged(o.line, now)
					r.receive(out)
				}
			}
		}
		o.leave(other)
		for range 2 { // the second digest covers the first
			for _, out := range o.deliver(now, -1) {
				r.receive(out)
			}
			if err := o.putDigest(now); err != nil {
				t.Fatal(err)
			}
		}
		for _, out := range o.deliver(now, -1) {
			r.receive(out)
		}
		r.check(o.seq)
	})
}

// auditor is what a recorder knows of one sender.
type auditor struct {
	t     *rapid.T
	seen  map[uint64][sha256.Size]byte
	spent map[uint64]string // covered or declared, and by what
	next  uint64            // the seq that the next range begins with
}

func newAuditor(t *rapid.T) *auditor {
	return &auditor{t: t, seen: make(map[uint64][sha256.Size]byte), spent: make(map[uint64]string), next: 1}
}

func (a *auditor) receive(out outgoing) {
	sum := sha256.Sum256(out.raw)
	if before, again := a.seen[out.seq]; again {
		if before != sum {
			a.t.Fatalf("two messages are number %d", out.seq)
		}
		return
	}
	if out.digest != nil {
		a.settle(digestOf(a.t, out))
	}
	a.seen[out.seq] = sum
}

// settle checks one digest on its arrival.
func (a *auditor) settle(d wire.Digest) {
	r := confirm.Check(d, func(seq uint64) ([sha256.Size]byte, bool) {
		sum, ok := a.seen[seq]
		return sum, ok
	})
	// An honest sender disowns only what arrived although it never heard so.
	want := confirm.Confirmed
	if r.Unvouched > 0 {
		want = confirm.Disowned
	}
	if r.Outcome != want {
		a.t.Fatalf("%v: %+v says of what was seen: %+v", r.Outcome, d, r)
	}
	if d.First < a.next {
		a.t.Fatalf("%d to %d was signed for before %d", d.First, d.Last, a.next)
	}
	for _, declared := range d.Dropped {
		for seq := declared.First; seq <= declared.Last; seq++ {
			a.spent[seq] = "declared"
		}
	}
	for seq := d.First; seq <= d.Last; seq++ {
		if a.spent[seq] == "" {
			a.spent[seq] = "covered"
		}
	}
	a.next = d.Last + 1
}

// check reports numbers that nobody vouches for, up to the last digest of all.
func (a *auditor) check(last uint64) {
	for seq := uint64(1); seq < last; seq++ {
		if a.spent[seq] == "" {
			a.t.Fatalf("number %d of %d is neither covered nor declared", seq, last)
		}
	}
}
