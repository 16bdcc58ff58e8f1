package session

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"levee/envelope"
	"levee/internal/confirm"
	"levee/internal/spool"
	"levee/internal/wire"
	"levee/pki"
	"levee/policies"
)

const (
	fillTopic = "melb/bank_server/backfill/sensor/web-1"
	acksOfRec = "melb/bank_server/acks/rec-1/sensor/web-1"
)

// keeping returns an outbox that keeps its messages in dir, of a start with that
// boot.
func keeping(t failer, box *testOutbox, dir string, boot uint64, most int64) *testOutbox {
	t.Helper()
	o := openOutbox(box.key, box.sign)
	o.boot, o.ledger = boot, newLedger(boot)
	var err error
	o.spool, err = spool.Open(spool.Config{Dir: dir, Sender: "melb/sensor/web-1", Boot: boot, Max: most, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	o.fill = newFiller(class{fillTopic, 64 << 10})
	return o
}

func newKeeping(t testing.TB) *testOutbox {
	t.Helper()
	return keeping(t, newOutbox(t), t.TempDir(), testBoot, spool.MinMax)
}

// flush brings to disk what a running session would have there by now.
func (o *testOutbox) flush() {
	done := make(chan struct{})
	close(done)
	o.spool.Run(done)
}

// refillNow has the outbox make a backfill if one is due, and returns what a line
// sends then, nil if nothing.
func (o *testOutbox) refillNow(t failer, now time.Time) *envelope.Message {
	t.Helper()
	if err := o.refill(now); err != nil {
		t.Fatal(err)
	}
	for {
		out, ok := o.next(o.line, now)
		if !ok {
			return nil
		}
		o.acknowledged(o.line, now)
		if out.name == fillTopic {
			m, err := envelope.Open(out.raw, 64<<10, func([]byte) *envelope.Key { return o.key })
			if err != nil || string(m.Topic) != fillTopic {
				t.Fatalf("%s: %v", out.raw, err)
			}
			return &m
		}
	}
}

// originals returns the numbers of what a backfill holds.
func originals(t failer, m *envelope.Message) (seqs []uint64) {
	t.Helper()
	if m == nil {
		return nil
	}
	f, err := wire.ParseBackfill(m.Payload)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range f.Envelopes {
		o, err := envelope.Parse(raw, envelope.MaxMessage)
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, o.Nonce.Seq)
	}
	return seqs
}

func ackOf(boot, seq, backfill uint64) wire.Ack {
	return wire.Ack{Boot: envelope.FormatBoot(boot), Seq: seq, Backfill: backfill}
}

func (o *testOutbox) held() int { return o.spool.Stats().Messages }

// An acknowledgement of what was never sent is refused, whole; a captured
// recorder cannot have a sender forget what it is still to say.
func TestAcknowledgementsOfWhatWasNeverSent(t *testing.T) {
	o := newKeeping(t)
	for range 3 {
		o.say(t, start)
	}
	o.deliver(start, -1)
	o.refillNow(t, start.Add(patience))
	for name, a := range map[string]wire.Ack{
		"a later number":         ackOf(testBoot, 4, 0),
		"the last number":        ackOf(testBoot, 1<<64-1, 0),
		"a later boot":           ackOf(testBoot+1, 1, 0),
		"a later backfill":       ackOf(testBoot, 0, 2),
		"a good number, and not": ackOf(testBoot, 3, 2),
		"no boot":                {Boot: "x", Seq: 1},
	} {
		if _, err := o.believe(a, start); !errors.Is(err, errAck) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if o.held() != 3 || o.fill.last == (envelope.Nonce{}) || o.fill.heard {
		t.Errorf("%d held, %+v", o.held(), o.fill)
	}
}

// Acknowledgements come late, twice and in any order: what was acknowledged stays
// so, and nothing else is.
func TestAcknowledgementsNeverMoveBack(t *testing.T) {
	o := newKeeping(t)
	for range 10 {
		o.say(t, start)
	}
	for _, step := range []struct {
		a    wire.Ack
		held int
	}{
		{ackOf(testBoot, 0, 0), 10}, {ackOf(testBoot, 4, 0), 6}, {ackOf(testBoot, 2, 0), 6}, {ackOf(testBoot, 4, 0), 6},
		{ackOf(testBoot-7, 9, 9), 6}, {ackOf(testBoot, 0, 0), 6}, {ackOf(testBoot, 10, 0), 0}, {ackOf(testBoot, 3, 0), 0},
	} {
		if _, err := o.believe(step.a, start); err != nil || o.held() != step.held {
			t.Errorf("%+v: %d held, %v", step.a, o.held(), err)
		}
	}
}

// What is not acknowledged in time is sent again as it was, in backfills of which
// one is in flight; an answer makes room for a larger one, and the want of answers
// for longer waits.
func TestBackfillTakesItsTime(t *testing.T) {
	o := newKeeping(t)
	for range 200 {
		o.say(t, start)
	}
	o.deliver(start, -1)
	if m := o.refillNow(t, start.Add(patience-time.Millisecond)); m != nil {
		t.Fatalf("sent %v at once", originals(t, m))
	}
	at := start.Add(patience)
	first := o.refillNow(t, at)
	seqs := originals(t, first)
	if len(seqs) < 10 || len(first.Payload) > leastFill+200 || seqs[0] != 1 || first.Nonce != (envelope.Nonce{Boot: testBoot, Seq: 1}) {
		t.Fatalf("%v in %d bytes, %v", seqs, len(first.Payload), first.Nonce)
	}
	for _, gap := range []time.Duration{patience, 2 * patience, 4 * patience, 8 * patience, 16 * patience, lastPatience, lastPatience} {
		if m := o.refillNow(t, at.Add(gap-time.Millisecond)); m != nil {
			t.Errorf("after %s another is in flight", gap-time.Millisecond)
		}
		at = at.Add(gap)
		m := o.refillNow(t, at)
		if m == nil || !slices.Equal(originals(t, m), seqs) || m.Nonce.Seq != o.fill.number {
			t.Errorf("after %s: %v", gap, originals(t, m))
		}
	}
	number := o.fill.number
	if number != 8 {
		t.Errorf("%d backfills", number)
	}
	// The recorder is back: it acknowledges, though not this.
	if _, err := o.believe(ackOf(testBoot, 0, 0), at.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if m := o.refillNow(t, at.Add(patience-time.Second)); m != nil {
		t.Error("two are in flight")
	}
	at = at.Add(patience + spread)
	if m := o.refillNow(t, at); m == nil || !slices.Equal(originals(t, m), seqs) {
		t.Errorf("after its return: %v", originals(t, m))
	}
	// And answers. Each next one is twice as large, until everything went.
	last := len(seqs)
	for next := seqs[len(seqs)-1] + 1; next <= 200; next = seqs[len(seqs)-1] + 1 {
		if r, err := o.believe(ackOf(testBoot, 0, o.fill.number), at); err != nil || r.byFill != last {
			t.Fatalf("%+v, %v", r, err)
		}
		seqs = originals(t, o.refillNow(t, at))
		if len(seqs) == 0 || seqs[0] != next || seqs[len(seqs)-1] != 200 && len(seqs) < 2*last-3 || o.fill.room > 64<<10-fillOverhead {
			t.Fatalf("%d after %d, from %d", len(seqs), last, next)
		}
		last = len(seqs)
	}
	if _, err := o.believe(ackOf(testBoot, 0, o.fill.number), at); err != nil || o.held() != 0 || o.fill.room != 64<<10-fillOverhead {
		t.Errorf("%d held, room for %d, %v", o.held(), o.fill.room, err)
	}
	if m := o.refillNow(t, at.Add(time.Hour)); m != nil {
		t.Errorf("afterwards: %v", originals(t, m))
	}
}

// An answer to an earlier backfill is no answer to the one in flight.
func TestLateAnswer(t *testing.T) {
	o := newKeeping(t)
	o.say(t, start)
	o.refillNow(t, start.Add(patience))
	o.refillNow(t, start.Add(2*patience))
	if r, err := o.believe(ackOf(testBoot, 0, 1), start.Add(2*patience)); err != nil || r.byFill != 0 || o.held() != 1 {
		t.Errorf("%+v, %v, %d held", r, err, o.held())
	}
	if m := o.refillNow(t, start.Add(2*patience)); m != nil {
		t.Error("two are in flight")
	}
}

// Each line sends a backfill once, after everything that waits, and not when it
// would arrive stale.
func TestBackfillComesLast(t *testing.T) {
	o := newKeeping(t)
	other := o.join()
	o.say(t, start)
	at := start.Add(patience)
	if err := o.refill(at); err != nil {
		t.Fatal(err)
	}
	o.say(t, at)
	o.say(t, at)
	for name, c := range map[string]*cursor{"one": o.line, "the other": other, "one that joins": o.join()} {
		var names []string
		for range 9 {
			out, ok := o.next(c, at)
			if !ok {
				break
			}
			o.acknowledged(c, at)
			names = append(names, out.name)
		}
		if !slices.Equal(names[len(names)-3:], []string{ramTopic, ramTopic, fillTopic}) || slices.Index(names, fillTopic) != len(names)-1 || len(names) > 4 {
			t.Errorf("%s: %v", name, names)
		}
	}
	if out, ok := o.next(o.join(), at.Add(replayAge+time.Millisecond)); ok {
		t.Errorf("a stale one was sent: %s", out.name)
	}
}

// With a spool nothing is declared for being late: it will be there.
func TestNothingIsDroppedForBeingLate(t *testing.T) {
	o := newKeeping(t)
	for i := range maxQueue + 20 {
		o.say(t, start.Add(time.Duration(i)*time.Second))
	}
	at := start.Add(time.Hour)
	o.signNow(t, at)
	d := digestOf(t, o.deliver(at, -1)[0])
	if d.First != 1 || d.Last != maxQueue+20 || len(d.Dropped) != 0 || o.dropped != 0 {
		t.Errorf("%d to %d, declares %v, %d dropped", d.First, d.Last, d.Dropped, o.dropped)
	}
	keeper := newKeeper(t)
	keeper.live(o.mustOldest(t)...)
	if got := confirm.Check(d, keeper.seen(testBoot)); got.Outcome != confirm.Confirmed {
		t.Errorf("%v", got)
	}
}

// mustOldest returns everything that is held, in its order.
func (o *testOutbox) mustOldest(t failer) (raws [][]byte) {
	t.Helper()
	b, err := o.spool.Oldest(1<<30, 1<<20, 1<<60, func(n int) int { return n })
	if err != nil {
		t.Fatal(err)
	}
	return b.Envelopes
}

// A range ends before it is too large to be given up whole.
func TestRangesAreBoundedInBytes(t *testing.T) {
	o := newKeeping(t)
	payload := []byte(`{"a":"` + strings.Repeat("x", 30000) + `"}`)
	for range 100 {
		if err := o.put(ramTopic, payload, false, envelope.MaxMessage, start); err != nil {
			t.Fatal(err)
		}
	}
	if len(o.ledger.owed) != 2 || !o.owes() {
		t.Errorf("%d digests are owed", len(o.ledger.owed))
	}
}

// Over its bound the outbox gives up the oldest ranges and says so at once: with
// what it says and what it still holds, a recorder that comes back accounts for
// every number.
func TestWhatIsGivenUpIsDeclared(t *testing.T) {
	o := newKeeping(t)
	payload := []byte(`{"a":"` + strings.Repeat("x", 30000) + `"}`)
	for i := range 600 {
		if err := o.put(ramTopic, payload, false, envelope.MaxMessage, start); err != nil {
			t.Fatal(err)
		}
		if i%97 == 0 {
			o.signNow(t, start)
		}
		o.flush()
		if st := o.spool.Stats(); st.Bytes > spool.MinMax+2<<20 {
			t.Fatalf("%d bytes", st.Bytes)
		}
	}
	if o.dropped == 0 {
		t.Fatal("nothing was given up")
	}
	k := newKeeper(t)
	k.live(o.all(t)...)
	o.signNow(t, start)
	k.live(o.all(t)...)
	k.accounts(testBoot, o.seq)
}

// all returns what is held and forgets it.
func (o *testOutbox) all(t failer) (raws [][]byte) {
	t.Helper()
	for {
		b, err := o.spool.Oldest(1<<30, 1<<20, 1<<60, func(n int) int { return n })
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Envelopes) == 0 {
			return raws
		}
		raws = append(raws, b.Envelopes...)
		o.spool.ReleaseTo(b.Last)
	}
}

// What a digest vouches for and cannot be had is declared, even of the range that
// is still open, and of earlier starts.
func TestDamageIsDeclared(t *testing.T) {
	dir := t.TempDir()
	box := newOutbox(t)
	old := keeping(t, box, dir, testBoot-10, spool.MinMax)
	for range 5 {
		old.say(t, start)
	}
	old.flush()
	o := keeping(t, box, dir, testBoot, spool.MinMax)
	for range 5 {
		o.say(t, start)
	}
	o.flush()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 2 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		if err := os.Truncate(name, 20); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := o.refill(start.Add(patience)); !errors.Is(err, spool.ErrDamaged) {
			t.Errorf("%v", err)
		}
	}
	o.say(t, start)
	o.signNow(t, start)
	k := newKeeper(t)
	k.live(o.all(t)...)
	k.accounts(testBoot-10, 5)
	k.accounts(testBoot, o.seq)
	if o.dropped != 11 { // and a digest
		t.Errorf("%d dropped", o.dropped)
	}
}

// A message that is too large for the class of backfills is given up, and holds up
// nobody.
func TestOriginalThatNeverFits(t *testing.T) {
	o := newKeeping(t)
	if err := o.put(ramTopic, []byte(`{"a":"`+strings.Repeat("x", 3000)+`"}`), false, envelope.MaxMessage, start); err != nil {
		t.Fatal(err)
	}
	o.say(t, start)
	o.fill.maxBytes = 4 << 10
	o.fill.room = 1
	if err := o.refill(start.Add(patience)); err == nil {
		t.Error("it fits")
	}
	if got := originals(t, o.refillNow(t, start.Add(patience))); !slices.Equal(got, []uint64{2}) || o.dropped != 1 {
		t.Errorf("%v, %d dropped", got, o.dropped)
	}
}

// keeper is a recorder's memory of one sender.
type keeper struct {
	t        failer
	boots    map[uint64]map[uint64][]byte
	declared []wire.Drop
	digests  []wire.Digest
	floor    map[uint64]uint64 // below it a backfill said that nothing will come
	newest   uint64
	answered uint64 // backfill of the newest boot
}

func newKeeper(t failer) *keeper {
	return &keeper{t: t, boots: make(map[uint64]map[uint64][]byte), floor: make(map[uint64]uint64)}
}

func (k *keeper) meet(boot uint64) {
	if boot > k.newest {
		k.newest, k.answered = boot, 0
	}
	if k.boots[boot] == nil {
		k.boots[boot] = make(map[uint64][]byte)
	}
}

// live takes messages as they were sent.
func (k *keeper) live(raws ...[]byte) {
	k.t.Helper()
	for _, raw := range raws {
		m, err := envelope.Parse(raw, envelope.MaxMessage)
		if err != nil {
			k.t.Fatal(err)
		}
		k.meet(m.Nonce.Boot)
		of := k.boots[m.Nonce.Boot]
		if before := of[m.Nonce.Seq]; before != nil {
			if !bytes.Equal(before, raw) {
				k.t.Fatalf("two messages are number %d", m.Nonce.Seq)
			}
			continue
		}
		of[m.Nonce.Seq] = slices.Clone(raw)
		if string(m.Topic) == digestTopic {
			var d wire.Digest
			if err := wire.DecodeExact(m.Payload, &d); err != nil {
				k.t.Fatal(err)
			}
			if none := confirm.Check(d, func(uint64) (sum [sha256.Size]byte, ok bool) { return sum, false }); none.Outcome == confirm.Malformed {
				k.t.Fatalf("malformed: %+v", d)
			}
			k.digests, k.declared = append(k.digests, d), append(k.declared, d.Dropped...)
		}
	}
}

// backfill takes one, as it arrives.
func (k *keeper) backfill(m *envelope.Message) {
	k.t.Helper()
	f, err := wire.ParseBackfill(m.Payload)
	if err != nil {
		k.t.Fatal(err)
	}
	k.meet(m.Nonce.Boot)
	for _, raw := range f.Envelopes {
		k.live(raw)
	}
	if m.Nonce.Boot == k.newest {
		k.answered = max(k.answered, m.Nonce.Seq)
		k.floor[k.newest] = max(k.floor[k.newest], f.From)
	}
}

func (k *keeper) seen(boot uint64) func(uint64) ([sha256.Size]byte, bool) {
	return func(seq uint64) (sum [sha256.Size]byte, ok bool) {
		raw, ok := k.boots[boot][seq]
		return sha256.Sum256(raw), ok
	}
}

func (k *keeper) isDeclared(boot, seq uint64) bool {
	return slices.ContainsFunc(k.declared, func(d wire.Drop) bool {
		return d.Boot == envelope.FormatBoot(boot) && d.First <= seq && seq <= d.Last
	})
}

func (k *keeper) ack() wire.Ack {
	seq := uint64(0)
	for k.boots[k.newest][seq+1] != nil || k.isDeclared(k.newest, seq+1) || seq+1 < k.floor[k.newest] {
		seq++
	}
	return ackOf(k.newest, seq, k.answered)
}

// accounts wants every number of a boot up to last to be here or declared, and
// what is here to be what its digest says.
func (k *keeper) accounts(boot, last uint64) {
	k.t.Helper()
	for seq := uint64(1); seq <= last; seq++ {
		if k.boots[boot][seq] == nil && !k.isDeclared(boot, seq) {
			k.t.Fatalf("%s-%d is missing, and nobody says why", envelope.FormatBoot(boot), seq)
		}
	}
	for _, d := range k.digests {
		if d.Boot != envelope.FormatBoot(boot) {
			continue
		}
		r := confirm.Check(d, k.seen(boot))
		if r.Outcome == confirm.Confirmed {
			continue
		}
		for seq := d.First; seq <= d.Last; seq++ {
			if !k.isDeclared(boot, seq) {
				k.t.Fatalf("the digest of %d to %d is %v, and %d is not declared", d.First, d.Last, r.Outcome, seq)
			}
		}
	}
}

// Whatever is lost on the way, messages, backfills and acknowledgements, and
// however often the sender starts anew: when the recorder is there again, every
// number of every start is recorded as it was sent.
func TestEverythingIsRecordedInTheEnd(t *testing.T) {
	box := newOutbox(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "outbox")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		boot := uint64(testBoot)
		o := keeping(t, box, dir, boot, spool.MinMax)
		k := newKeeper(t)
		sealed := make(map[uint64]uint64) // last seq, by boot
		now := start
		deliver := func(arrives bool) {
			for _, out := range o.deliver(now, -1) {
				switch {
				case !arrives:
				case out.name == fillTopic:
					m, err := envelope.Parse(out.raw, 64<<10)
					if err != nil {
						t.Fatal(err)
					}
					k.backfill(&m)
				default:
					k.live(out.raw)
				}
			}
		}
		answer := func() {
			if k.newest != 0 && k.newest <= o.boot {
				if _, err := o.believe(k.ack(), now); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1, 2:
				if err := o.put(ramTopic, fmt.Appendf(nil, `{"a":%d}`, o.seq), false, 4096, now); err != nil {
					t.Fatal(err)
				}
			case 3:
				deliver(rapid.Bool().Draw(t, "arrives"))
			case 4:
				if err := o.putDigest(now); err != nil {
					t.Fatal(err)
				}
			case 5:
				now = now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
			case 6:
				if err := o.refill(now); err != nil {
					t.Fatal(err)
				}
			case 7:
				answer()
			case 8:
				o.again()
			case 9: // killed, and started again
				o.flush()
				sealed[boot] = o.seq
				boot += uint64(rapid.IntRange(1, 9).Draw(t, "later"))
				o = keeping(t, box, dir, boot, spool.MinMax)
			}
		}
		sealed[boot] = o.seq
		for i := range 200 { // now everything arrives
			if i == 0 || i == 1 {
				if err := o.putDigest(now); err != nil {
					t.Fatal(err)
				}
				sealed[boot] = o.seq
			}
			now = now.Add(patience + spread)
			if err := o.refill(now); err != nil {
				t.Fatal(err)
			}
			deliver(true)
			answer()
		}
		if o.held() != 0 {
			t.Errorf("%d are still held", o.held())
		}
		for boot, last := range sealed {
			for seq := uint64(1); seq <= last; seq++ {
				if k.boots[boot][seq] == nil {
					t.Fatalf("%d of boot %d is not recorded", seq, boot-testBoot)
				}
			}
			k.accounts(boot, last)
		}
	})
}

// acker acknowledges to melb's sensor web-1 as its recorder.
type acker struct {
	*sender
	key *envelope.Key
}

func newAcker(t testing.TB) *acker {
	t.Helper()
	a := &acker{sender: newSender(t, identity("melb", pki.RoleRecorder, "rec-1"))}
	var err error
	ring := ringOf(t, openBundle(t, identity("melb", pki.RoleRecorder, "rec-1")).KeyFile)
	if a.key, err = ring.Ack(envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1}); err != nil {
		t.Fatal(err)
	}
	a.sender.key = a.key
	return a
}

// A session believes acknowledgements that pass every check, and no other; what it
// is told of what was never sent is an alarm.
func TestAcknowledgementsReachAPart(t *testing.T) {
	b := melbBroker(t)
	b.start()
	log := new(logBuffer)
	s := sensorTo(t, log, b)
	run(t, s)
	<-s.Ready()
	for range 3 {
		if err := s.Publish(ramOfWeb1, &ram); err != nil {
			t.Fatal(err)
		}
	}
	held := func() int { st, _ := s.Outbox(); return st.Messages }
	eventually(t, "they are sent", func() bool { return s.outbox.waiting() == 0 })
	rec := newAcker(t)
	refused := func(reason envelope.Reason) func() bool { return func() bool { return s.Refusals()[reason] == 1 } }
	now := time.Now()

	own := newSender(t, identity("melb", pki.RoleRecorder, "rec-1"))
	b.send(acksOfRec, own.message(acksOfRec, ackOf(s.outbox.boot, 3, 0), now))
	eventually(t, "under the recorder's own key: refused", refused(envelope.BadMAC))
	b.send(acksOfRec, rec.message(acksOfRec, ackOf(s.outbox.boot, 4, 0), now))
	eventually(t, "of what was never sent: refused", refused(envelope.BadContent))
	if lines := log.lines("acknowledgement refused"); len(lines) != 1 || !strings.Contains(lines[0], "level=ERROR") {
		t.Errorf("in the log: %q", lines)
	}
	b.send(acksOfRec, rec.message(acksOfRec, &wire.RAM{Server: "web-1"}, now))
	eventually(t, "no acknowledgement: refused", func() bool { return s.Refusals()[envelope.BadContent] == 2 })
	if held() != 3 {
		t.Errorf("%d held", held())
	}
	good := rec.message(acksOfRec, ackOf(s.outbox.boot, 2, 0), now)
	b.send(acksOfRec, good)
	eventually(t, "a good one", func() bool { return held() == 1 })
	b.send(acksOfRec, good)
	eventually(t, "once more: refused", refused(envelope.Redelivered))
	b.send(acksOfRec, rec.message(acksOfRec, ackOf(s.outbox.boot, 3, 0), now.Add(-time.Minute)))
	eventually(t, "stale: refused", refused(envelope.Stale))
	if held() != 1 || len(log.lines("the recorder acknowledges")) != 1 {
		t.Errorf("%d held, %q", held(), log.lines("the recorder acknowledges"))
	}
}

// What an earlier start sent and nobody acknowledged goes out as soon as the next
// one is connected, and counts once it is answered.
func TestBackfillOfAnEarlierStart(t *testing.T) {
	id := identity("melb", pki.RoleSensor, "web-1")
	b := melbBroker(t)
	b.start()
	bundle := openBundle(t, id)
	open := func(log *logBuffer) *Session {
		c := Config{Bundle: bundle, Ring: ringOf(t, bundle.KeyFile), Log: log.logger()}
		toward(&c, b)
		s, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	first := open(new(logBuffer))
	stop := run(t, first)
	<-first.Ready()
	for range 3 {
		if err := first.Publish(ramOfWeb1, &ram); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	sent := b.got()
	log := new(logBuffer)
	second := open(log)
	if st, _ := second.Outbox(); st.Messages != 4 || len(log.lines("messages of earlier starts")) != 1 {
		t.Fatalf("%+v", st)
	}
	run(t, second)
	var m envelope.Message
	eventually(t, "a backfill comes", func() bool {
		got := b.got()
		last := got[len(got)-1]
		var err error
		m, err = envelope.Parse(last.raw, 64<<10)
		return err == nil && last.topic == fillTopic
	})
	f, err := wire.ParseBackfill(m.Payload)
	if err != nil || len(f.Envelopes) != 4 || f.From != 1 || m.Nonce != (envelope.Nonce{Boot: second.outbox.boot, Seq: 1}) {
		t.Fatalf("%d originals from %d, %v, %v", len(f.Envelopes), f.From, m.Nonce, err)
	}
	for i, raw := range f.Envelopes {
		if !bytes.Equal(raw, sent[i].raw) {
			t.Errorf("original %d is another message", i)
		}
	}
	rec := newAcker(t)
	b.send(acksOfRec, rec.message(acksOfRec, ackOf(second.outbox.boot, 0, 1), time.Now()))
	eventually(t, "it is answered", func() bool { st, _ := second.Outbox(); return st.Messages == 0 && st.Backfilled == 4 })
}

// People and recorders keep nothing, and ask for nothing.
func TestWhoKeeps(t *testing.T) {
	for _, test := range []struct {
		role  pki.Role
		name  string
		keeps bool
	}{{pki.RoleSensor, "web-1", true}, {pki.RoleMonitor, "m1", true}, {pki.RoleController, "lb-1", true}, {pki.RoleIssuer, "i1", true},
		{pki.RoleRecorder, "rec-1", false}, {pki.RoleOperator, "ann", false}} {
		s := openSession(t, identity("melb", test.role, test.name), func(c *Config) { c.Filters = nil })
		asks := slices.ContainsFunc(s.filters, func(f string) bool { return strings.Contains(f, "/acks/") })
		if _, ok := s.Outbox(); ok != test.keeps || asks != test.keeps {
			t.Errorf("%s: keeps %v, asks %v", test.role, ok, asks)
		}
		if _, err := os.Stat(filepath.Join(s.config.Bundle.State, DirOutbox)); err == nil {
			t.Errorf("%s: made its directory before it had anything to keep", test.role)
		}
	}
}

// Where policy grants no backfill nothing is kept, and digests declare what was
// late, as they did: a site without a recorder.
func TestWithoutBackfill(t *testing.T) {
	var text []byte
	for line := range bytes.Lines(policies.Default()) {
		if !bytes.Contains(line, []byte("/backfill/")) {
			text = append(text, line...)
		}
	}
	policy, err := policies.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	s := openSession(t, identity("melb", pki.RoleSensor, "web-1"), func(c *Config) {
		bundle := *c.Bundle
		bundle.Policy = policy
		c.Bundle, c.Filters = &bundle, nil
	})
	if _, ok := s.Outbox(); ok || slices.Contains(s.filters, "melb/bank_server/acks/+/sensor/web-1") || !s.outbox.vouches {
		t.Errorf("keeps %v, asks for %q", ok, s.filters)
	}
}

// The configuration bounds the outbox; without it the role does.
func TestRoomOfTheOutbox(t *testing.T) {
	for _, test := range []struct {
		role       pki.Role
		name       string
		configured int64
		fits       int64 // bytes
		most       int64 // at which something is given up
	}{
		{pki.RoleSensor, "web-1", 0, 31 << 20, 34 << 20},
		{pki.RoleSensor, "web-1", 5 << 20, 4 << 20, 7 << 20},
		{pki.RoleMonitor, "m1", 0, 40 << 20, 0},
	} {
		s := openSession(t, identity("melb", test.role, test.name), func(c *Config) {
			bundle := *c.Bundle
			bundle.OutboxBytes = test.configured
			c.Bundle, c.Filters = &bundle, nil
		})
		raw, seq, at := make([]byte, 1<<20), uint64(0), time.Now().UnixMilli()
		grow := func(to int64) (excess bool) {
			for s.outbox.spool.Stats().Bytes < to {
				seq++
				s.outbox.spool.Add(spool.Message{Seq: seq, Time: at, Raw: raw, Begins: true})
				done := make(chan struct{})
				close(done)
				s.outbox.spool.Run(done) // memory has a bound of its own
			}
			_, excess = s.outbox.spool.Excess()
			return excess
		}
		if grow(test.fits) {
			t.Errorf("%s, %d: over its bound at %d", test.role, test.configured, test.fits)
		}
		if test.most > 0 && !grow(test.most) {
			t.Errorf("%s, %d: no bound at %d", test.role, test.configured, test.most)
		}
	}
}

// A backfill says from where on this start's messages are held, whatever it
// carries: the recorder waits for none below that.
func TestBackfillSaysWhatIsHeld(t *testing.T) {
	for _, test := range []struct{ acked, from uint64 }{{0, 1}, {2, 3}, {5, 6}} {
		dir, box := t.TempDir(), newOutbox(t)
		old := keeping(t, box, dir, testBoot-10, spool.MinMax)
		old.say(t, start)
		old.flush()
		o := keeping(t, box, dir, testBoot, spool.MinMax)
		for range 5 {
			o.say(t, start)
		}
		if _, err := o.believe(ackOf(testBoot, test.acked, 0), start); err != nil {
			t.Fatal(err)
		}
		m := o.refillNow(t, start)
		if m == nil {
			t.Fatal("no backfill")
		}
		if f, err := wire.ParseBackfill(m.Payload); err != nil || f.From != test.from {
			t.Errorf("acknowledged up to %d: from %d, %v", test.acked, f.From, err)
		}
	}
}
