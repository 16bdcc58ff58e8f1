package recorder

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/wire"
	"levee/services/recorder/ledger"
	"levee/services/recorder/segment"
)

const webOne = "melb/sensor/web-1/1"

// bootOne spells boot 1.
const bootOne = "00000000001"

// text spells an envelope that web-1 could have sent in boot 1, but for MAC,
// chain and signature, which a recorder's restart does not check.
func text(seq uint64, topic, payload string, isSigned bool) string {
	chain, sig := "", ""
	if isSigned {
		chain, sig = `"chain":"AAAA",`, `,"sig":"`+strings.Repeat("A", 86)+`"`
	}
	return fmt.Sprintf(`{"v":1,"kid":"%s","ts":1700000000000,"nonce":"%s-%d","topic":"%s",%s"payload":%s%s,"mac":"%s"}`,
		webOne, bootOne, seq, topic, chain, payload, sig, strings.Repeat("A", 43))
}

const ramTopic, digestTopic = "melb/bank_server/metrics/ram/web-1", "melb/bank_server/digests/sensor/web-1"

// original is the delivery of such an envelope.
func original(raw []byte, by session.Delivery) (session.Delivery, error) {
	m, err := envelope.Parse(raw, envelope.MaxMessage)
	if err != nil {
		return session.Delivery{}, err
	}
	d := session.Delivery{Message: m, Payload: m.Payload, Proof: session.ProofMAC, Received: by.Received, Via: by.Via}
	d.Topic, err = wire.ParseTopic(string(m.Topic))
	if m.Signed() {
		d.Proof = session.ProofSignature
	}
	return d, err
}

// sent is the delivery of an envelope that came while it was fresh.
func sent(raw string) session.Delivery {
	d, err := original([]byte(raw), session.Delivery{Received: received, Via: "b1"})
	if err != nil {
		panic(err)
	}
	return d
}

func ram(seq uint64) string { return text(seq, ramTopic, `{"n":1}`, false) }

func alert(seq uint64) string { return text(seq, ramTopic, `{"n":1}`, true) }

func digest(seq, first, last uint64, dropped string) string {
	return text(seq, digestTopic, fmt.Sprintf(`{"timestamp":1,"boot":"%s","first":%d,"last":%d,"dropped":[%s],"hash":"x"}`, bootOne, first, last, dropped), true)
}

// backfill is the delivery of a backfill.
func backfill(seq, from uint64, originals ...string) session.Delivery {
	var list []string
	for _, o := range originals {
		list = append(list, `"`+base64.RawURLEncoding.EncodeToString([]byte(o))+`"`)
	}
	d := numbered(wire.KindBackfill, session.ProofMAC, fmt.Sprintf(`{"timestamp":1,"from":%d,"envelopes":[%s]}`, from, strings.Join(list, ",")), seq)
	return d
}

func at(seq, backfill uint64) ack {
	return ack{webOne, wire.Ack{Boot: bootOne, Seq: seq, Backfill: backfill}}
}

// A message is acknowledged once it is durable, up to the first gap, and no more
// often than each 5 seconds.
func TestAcknowledges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{opened: original}
		r, _ := newRecorder(t, d)
		expect := func(after time.Duration, want ...ack) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := d.acked(); !slices.Equal(got, want) {
				t.Errorf("acknowledged %v instead of %v", got, want)
			}
		}
		err := run(t, r, func() {
			r.Deliver(sent(ram(1)))
			r.Deliver(sent(ram(3)))
			expect(syncEvery - time.Millisecond) // not synced yet
			expect(syncEvery, at(1, 0))
			r.Deliver(sent(alert(2)))
			expect(3 * time.Second) // not so soon
			expect(3*time.Second, at(3, 0))
			expect(time.Minute)
			// What was given up is passed, once the digest that says so is logged.
			r.Deliver(sent(ram(6)))
			r.Deliver(sent(digest(7, 1, 6, `["00000000001",4,5],["00000000000",1,9],["00000000001",8,9]`)))
			expect(6*time.Second, at(7, 0))
			// What another start gave up is no number of this one.
			r.Deliver(sent(digest(9, 1, 7, `["00000000000",8,8]`)))
			expect(6*time.Second, at(7, 0))
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// What the log or the disk does not have is not acknowledged, nor is anything
// after it.
func TestDoesNotAcknowledgeWhatItCannotKeep(t *testing.T) {
	for name, d := range map[string]*disk{"the log": {logErr: errDisk}, "a segment": {appendErr: errDisk}, "a sync": {syncErr: errDisk}} {
		synctest.Test(t, func(t *testing.T) {
			d.opened = original
			r, _ := newRecorder(t, d)
			r.Deliver(sent(ram(1)))
			r.Deliver(sent(alert(2)))
			r.Deliver(backfill(1, 1, ram(3)))
			if err := r.Run(t.Context()); !errors.Is(err, errDisk) {
				t.Errorf("%s: %v", name, err)
			}
			r.acknowledge(time.Now().Add(time.Hour))
			for _, a := range d.acked() {
				t.Errorf("%s fails, and %v is acknowledged", name, a)
			}
		})
	}
	// Of readings alone the next tick finds out.
	synctest.Test(t, func(t *testing.T) {
		d := &disk{opened: original, syncErr: errDisk}
		r, _ := newRecorder(t, d)
		r.Deliver(sent(ram(1)))
		if err := r.Run(t.Context()); !errors.Is(err, errDisk) {
			t.Error(err)
		}
		r.acknowledge(time.Now().Add(time.Hour))
		if got := d.acked(); len(got) != 0 {
			t.Errorf("not synced, and acknowledged: %v", got)
		}
	})
}

// What came too late for the queue is a gap, until a backfill brings it.
func TestBackfill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{opened: func(raw []byte, by session.Delivery) (session.Delivery, error) {
			if strings.Contains(string(raw), "forged") {
				return session.Delivery{}, envelope.BadMAC
			}
			return original(raw, by)
		}}
		r, _ := newRecorder(t, d)
		err := run(t, r, func() {
			r.Deliver(sent(ram(1)))
			r.Deliver(sent(ram(4)))
			time.Sleep(2 * time.Second)
			d.acked()
			// One is held, one refused, one signed: they hold up none of the others.
			r.Deliver(backfill(7, 1, ram(1), text(2, ramTopic, `{"forged":1}`, false), ram(3), alert(2)))
			time.Sleep(200 * time.Millisecond)
			if got := d.acked(); !slices.Equal(got, []ack{at(4, 7)}) {
				t.Errorf("at once acknowledged: %v", got)
			}
			// The same again, because the answer was lost, in a backfill of its own.
			r.Deliver(backfill(8, 1, ram(3), alert(2)))
			time.Sleep(200 * time.Millisecond)
			if got := d.acked(); !slices.Equal(got, []ack{at(4, 8)}) {
				t.Errorf("again acknowledged: %v", got)
			}
			// What a sender holds no longer is passed.
			r.Deliver(backfill(9, 10, ram(11)))
			time.Sleep(200 * time.Millisecond)
			if got := d.acked(); !slices.Equal(got, []ack{at(9, 9)}) {
				t.Errorf("acknowledged: %v", got)
			}
			// One that is none is not dealt with.
			bad := backfill(10, 1, ram(5))
			bad.Payload = []byte(`{"timestamp":1,"from":0,"envelopes":["AAAA"]}`)
			r.Deliver(bad)
			time.Sleep(time.Minute)
			if got := d.acked(); len(got) != 0 || d.content != 1 {
				t.Errorf("acknowledged: %v, refused %d", got, d.content)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, rec := range d.written {
			got = append(got, fmt.Sprint(rec.Verdict, " ", string(rec.Envelope)))
		}
		want := []string{"accepted " + ram(1), "accepted " + ram(4), "mac " + text(2, ramTopic, `{"forged":1}`, false), "late " + ram(3), "late " + alert(2), "late " + ram(11)}
		if !slices.Equal(got, want) {
			t.Errorf("kept\n%s\ninstead of\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if len(d.batches) != 1 || d.batches[0][0].Verdict != "late" || string(d.batches[0][0].Data) != alert(2) {
			t.Errorf("the log has %v", d.batches)
		}
		f := r.figures
		if f.late.Load() != 3 || f.duplicates.Load() != 3 || f.originals.of(envelope.BadMAC) != 1 {
			t.Errorf("%d late, %d duplicates, %d refused", f.late.Load(), f.duplicates.Load(), f.originals.of(envelope.BadMAC))
		}
	})
}

// Of two messages of one number the second is evidence, and nothing from there
// on is acknowledged.
func TestContradiction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{opened: original}
		r, l := newRecorder(t, d)
		other := text(2, ramTopic, `{"n":2}`, false)
		err := run(t, r, func() {
			for seq := range uint64(3) {
				r.Deliver(sent(ram(seq + 1)))
			}
			r.Deliver(backfill(1, 1, other))
			time.Sleep(200 * time.Millisecond)
			r.Deliver(sent(ram(4)))
			time.Sleep(time.Minute)
			if got := d.acked(); !slices.Equal(got, []ack{at(1, 1), at(1, 1)}) {
				t.Errorf("acknowledged: %v", got)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if rec := d.written[3]; rec.Verdict.String() != "nonce_collision" || string(rec.Envelope) != other {
			t.Errorf("the evidence: %s %s", rec.Verdict, rec.Envelope)
		}
		if !slices.Contains(l.texts, "two messages of one number: one is kept, the other is evidence") || r.figures.contradictions.Load() != 1 {
			t.Errorf("no alarm: %q", l.texts)
		}
	})
}

// A message of whose sender nobody knows what is held is not kept twice, but one
// that is fresh is kept.
func TestWhatIsNotTracked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{opened: original}
		r, _ := newRecorder(t, d)
		for seq := range uint64(2050) {
			r.Deliver(sent(ram(2*seq + 2))) // each has a gap before it
		}
		if err := run(t, r, func() { time.Sleep(2 * time.Second) }); err != nil {
			t.Fatal(err)
		}
		if n := r.figures.unkept.of(ledger.Crowded); n != 2050-1024 || len(d.written) != 1024 {
			t.Errorf("%d were crowded out, %d are kept", n, len(d.written))
		}
	})
}

// An acknowledgement that cannot be sent stops nothing.
func TestAcknowledgementsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{opened: original, ackErr: errors.New("no key")}
		r, l := newRecorder(t, d)
		err := run(t, r, func() {
			r.Deliver(sent(ram(1)))
			time.Sleep(2 * time.Second)
		})
		if err != nil || !slices.Contains(l.texts, "not acknowledged") {
			t.Errorf("%v, %q", err, l.texts)
		}
	})
}

// Every reason has a number in segments, and is what it says.
func TestEveryReasonHasAVerdict(t *testing.T) {
	for _, reason := range envelope.Reasons() {
		if v, ok := segment.VerdictOf(reason.String()); !ok || v.Kept() {
			t.Errorf("%s is %d, %v", reason, v, ok)
		}
	}
}

// Of a flood of refused messages the first are kept, and no redelivery.
func TestRefusalsAreSampled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		r, _ := newRecorder(t, d)
		refuse := func(reason envelope.Reason, size int) {
			r.Refuse(session.Refusal{Name: ramTopic, Raw: []byte(strings.Repeat("x", size)), Reason: reason, Received: time.Now(), Via: "b2"})
		}
		count := func() map[string]int {
			synctest.Wait()
			d.mu.Lock()
			defer d.mu.Unlock()
			n := make(map[string]int)
			for _, rec := range d.written {
				if rec.Peer != "b2" {
					t.Errorf("by %q", rec.Peer)
				}
				n[rec.Verdict.String()]++
			}
			return n
		}
		err := run(t, r, func() {
			for range 1000 {
				refuse(envelope.BadMAC, 100)
				refuse(envelope.Redelivered, 100)
				refuse(envelope.BadSize, 0)
				refuse(envelope.BadSize, segment.MaxEnvelope+1)
			}
			refuse(envelope.Stale, 100)
			if n := count(); len(n) != 2 || n["mac"] != maxSamples || n["stale"] != 1 {
				t.Errorf("kept %v", n)
			}
			time.Sleep(sampleEvery)
			for _, reason := range envelope.Reasons() {
				refuse(reason, 60<<10)
			}
			if n := len(count()); n > 2+maxSampleBytes/(60<<10) {
				t.Errorf("kept of %d reasons", n)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// Who reads metrics sees how far behind the recorder is, and its log says it.
func TestSaysHowFarBehindItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{slow: time.Minute}
		r, l := newRecorder(t, d)
		err := run(t, r, func() {
			first := signed("x")
			first.Received = time.Now()
			r.Deliver(first)
			synctest.Wait() // the log takes a minute
			second := reading("y")
			second.Received = time.Now()
			r.Deliver(second)
			time.Sleep(61 * time.Second)
			if behind := time.Duration(r.figures.behind.Load()); behind != time.Minute {
				t.Errorf("behind by %s", behind)
			}
			var lag float64
			for _, f := range r.figures.Metrics() {
				if f.Name == "levee_recorder_lag_seconds" {
					f.Collect(func(_ string, v float64) { lag = v })
				}
			}
			if lag != 60 {
				t.Errorf("the metric says %v", lag)
			}
			r.Deliver(signed("x"))
			synctest.Wait()
			for range 3 {
				for range maxQueue + 1 {
					late := reading("z")
					late.Received = time.Now()
					r.Deliver(late)
				}
				time.Sleep(6 * time.Second)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		said := 0
		for _, text := range l.texts {
			if strings.HasPrefix(text, "messages arrive faster") {
				said++
			}
		}
		if said != 2 {
			t.Errorf("said %d times: %q", said, l.texts)
		}
	})
}
