package session

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

const testBoot = 1_700_000_000_000

var start = time.UnixMilli(testBoot)

// testOutbox is an outbox with one line, always connected.
type testOutbox struct {
	*outbox
	line    *cursor
	dropped int
}

func newOutbox(t testing.TB) *testOutbox {
	t.Helper()
	key, err := envelope.NewKey(make([]byte, envelope.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	signer := newSender(t, identity("melb", pki.RoleSensor, "web-1")).signer
	return openOutbox(key, func() (*envelope.Signer, error) { return signer, nil })
}

func openOutbox(key *envelope.Key, sign func() (*envelope.Signer, error)) *testOutbox {
	o := new(testOutbox)
	o.outbox = &outbox{key: key, kid: envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1}, boot: testBoot,
		skew: testSkew, sign: sign, vouches: true, drops: func(n int) { o.dropped += n }, ledger: newLedger(testBoot), digests: class{digestTopic, 32768}}
	o.line = o.join()
	return o
}

// again has the line lose its connection and make another.
func (o *testOutbox) again() {
	o.leave(o.line)
	o.line = o.join()
}

// say queues one reading.
func (o *testOutbox) say(t testing.TB, at time.Time) {
	t.Helper()
	if err := o.put(ramTopic, []byte(`{"a":1}`), false, 4096, at); err != nil {
		t.Fatal(err)
	}
}

func (o *testOutbox) signNow(t testing.TB, at time.Time) {
	t.Helper()
	if err := o.putDigest(at); err != nil {
		t.Fatal(err)
	}
}

// deliver sends n messages, all of them if n is negative, and returns them.
func (o *testOutbox) deliver(at time.Time, n int) (sent []outgoing) {
	for ; n != 0; n-- {
		out, ok := o.next(o.line, at)
		if !ok {
			break
		}
		o.acknowledged(o.line, at)
		sent = append(sent, out)
	}
	return sent
}

func seqs(list []outgoing) (all []uint64) {
	for _, out := range list {
		all = append(all, out.seq)
	}
	return all
}

func TestOutboxKeepsOrderAndCounts(t *testing.T) {
	o := newOutbox(t)
	for range 5 {
		o.say(t, start)
	}
	sent := o.deliver(start, -1)
	if got := seqs(sent); !slices.Equal(got, []uint64{1, 2, 3, 4, 5}) {
		t.Errorf("sent %v", got)
	}
	for _, out := range sent {
		m, err := envelope.Parse(out.raw, 4096)
		if err != nil || m.Nonce != (envelope.Nonce{Boot: testBoot, Seq: out.seq}) || m.Time != testBoot || string(m.Topic) != ramTopic {
			t.Errorf("message %d: %+v, %v", out.seq, m, err)
		}
	}
}

// A message that cannot be made takes no number: a gap would look like a loss.
func TestOutboxRefusesWithoutAGap(t *testing.T) {
	o := newOutbox(t)
	for name, err := range map[string]error{
		"a payload that is no object": o.put(ramTopic, []byte(`[]`), false, 4096, start),
		"a payload with a null":       o.put(ramTopic, []byte(`{"a":null}`), false, 4096, start),
		"over the class":              o.put(ramTopic, []byte(`{"a":"`+strings.Repeat("x", 100)+`"}`), false, 200, start),
		"no topic":                    o.put("", []byte(`{}`), false, 4096, start),
		"a clock behind the start":    o.put(ramTopic, []byte(`{}`), false, 4096, start.Add(-testSkew-time.Millisecond)),
	} {
		if err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
	o.sign = func() (*envelope.Signer, error) { return nil, errors.New("no key") }
	if err := o.put(ramTopic, []byte(`{}`), true, 4096, start); err == nil {
		t.Error("without a key to sign: sealed")
	}
	o.say(t, start.Add(-testSkew))
	if got := seqs(o.deliver(start.Add(-testSkew), -1)); !slices.Equal(got, []uint64{1}) {
		t.Errorf("sent %v", got)
	}
}

// What would arrive stale is not sent, by the clock that it was stamped with,
// and is declared.
func TestOutboxDropsWhatIsStale(t *testing.T) {
	for name, now := range map[string]time.Time{
		"late":             start.Add(replayAge + time.Millisecond),
		"clock steps back": start.Add(-replayAge - time.Millisecond),
	} {
		o := newOutbox(t)
		o.say(t, start)
		o.say(t, start)
		o.boot -= uint64(time.Minute.Milliseconds()) // so that the clock may step
		o.say(t, now)
		if got := seqs(o.deliver(now, -1)); !slices.Equal(got, []uint64{3}) || o.dropped != 2 {
			t.Errorf("%s: sent %v, dropped %d", name, got, o.dropped)
		}
		o.signNow(t, now)
		d := digestOf(t, o.deliver(now, 1)[0])
		if d.First != 1 || d.Last != 3 || !slices.Equal(d.Dropped, []wire.Drop{drop(1, 2)}) {
			t.Errorf("%s: %+v", name, d)
		}
	}
	o := newOutbox(t)
	o.say(t, start)
	if got := seqs(o.deliver(start.Add(replayAge), -1)); len(got) != 1 {
		t.Errorf("at the bound: sent %v", got)
	}
}

func TestOutboxIsBounded(t *testing.T) {
	o := newOutbox(t)
	for range maxQueue + 10 {
		o.say(t, start)
	}
	if o.waiting() != maxQueue || o.dropped != 10 {
		t.Errorf("%d wait, %d dropped", o.waiting(), o.dropped)
	}
	sent := o.deliver(start, -1)
	if len(sent) != maxQueue || sent[0].seq != 11 {
		t.Errorf("%d sent, from %d", len(sent), sent[0].seq)
	}
	o.signNow(t, start)
	out := o.deliver(start, 1)[0]
	d := digestOf(t, out)
	if d.First != 1 || d.Last != maxQueue+10 || !slices.Equal(d.Dropped, []wire.Drop{drop(1, 10)}) || d.Hash != hashOf(sent...) {
		t.Errorf("%+v", d)
	}
	if len(o.kept) > maxQueue {
		t.Errorf("%d kept to be sent again", len(o.kept))
	}
}

// A message that is in the air has no known fate: the ones behind it are given
// up in its place.
func TestOutboxDoesNotDropWhatIsInTheAir(t *testing.T) {
	o := newOutbox(t)
	o.say(t, start)
	flying, ok := o.next(o.line, start)
	if !ok {
		t.Fatal("nothing to send")
	}
	for range maxQueue + 2 {
		o.say(t, start)
	}
	if o.waiting() != maxQueue || o.dropped != 3 {
		t.Errorf("%d wait, %d dropped", o.waiting(), o.dropped)
	}
	o.acknowledged(o.line, start)
	sent := append([]outgoing{flying}, o.deliver(start, -1)...)
	o.signNow(t, start)
	d := digestOf(t, o.deliver(start, 1)[0])
	if !slices.Equal(d.Dropped, []wire.Drop{drop(2, 4)}) || d.Hash != hashOf(sent...) || d.First != 1 || d.Last != maxQueue+3 {
		t.Errorf("%+v", d)
	}
}

// After a reconnect the last 15 s go out again, byte for byte and before
// anything newer; it is no loss when they do not arrive a second time.
func TestRepublishing(t *testing.T) {
	o := newOutbox(t)
	o.say(t, start)
	o.say(t, start.Add(10*time.Second))
	o.say(t, start.Add(12*time.Second))
	at := start.Add(14 * time.Second)
	before := o.deliver(at, 3)
	o.say(t, at)
	at = start.Add(16 * time.Second) // the first is too old by now
	o.again()
	again := o.deliver(at, -1)
	if got := seqs(again); !slices.Equal(got, []uint64{2, 3, 4}) {
		t.Fatalf("sent %v", got)
	}
	for i := range 2 {
		if !bytes.Equal(again[i].raw, before[i+1].raw) {
			t.Errorf("message %d is another the second time", again[i].seq)
		}
	}
	o.again() // lost again in the middle of it
	o.deliver(at, 1)
	o.again()
	if got := seqs(o.deliver(at, -1)); !slices.Equal(got, []uint64{2, 3, 4}) {
		t.Errorf("sent %v the third time", got)
	}
	o.again()
	if sent := o.deliver(at.Add(time.Hour), -1); len(sent) != 0 || o.dropped != 0 {
		t.Errorf("an hour later: sent %v, %d declared dropped although they were acknowledged", seqs(sent), o.dropped)
	}
	o.signNow(t, at)
	d := digestOf(t, o.deliver(at, 1)[0])
	if d.First != 1 || d.Last != 4 || len(d.Dropped) != 0 || d.Hash != hashOf(before[0], again[0], again[1], again[2]) {
		t.Errorf("%+v", d)
	}
	// A digest that was acknowledged is not lost by being sent again in vain.
	o.again()
	o.next(o.line, at.Add(time.Hour))
	o.say(t, at)
	o.deliver(at, -1)
	o.signNow(t, at)
	if d := digestOf(t, o.deliver(at, 1)[0]); len(d.Dropped) != 0 {
		t.Errorf("declared %v", d.Dropped)
	}
}

// A message whose acknowledgement did not come is sent again too, and counts
// once.
func TestUnacknowledged(t *testing.T) {
	o := newOutbox(t)
	o.say(t, start)
	first, _ := o.next(o.line, start)
	o.again()
	second, ok := o.next(o.line, start)
	if !ok || !bytes.Equal(first.raw, second.raw) {
		t.Fatal("it is not sent again as it was")
	}
	o.acknowledged(o.line, start)
	o.signNow(t, start)
	if d := digestOf(t, o.deliver(start, 1)[0]); d.Last != 1 || d.Hash != hashOf(first) {
		t.Errorf("%+v", d)
	}
}
