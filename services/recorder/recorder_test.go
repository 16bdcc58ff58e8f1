package recorder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/services/recorder/segment"
)

// disk stands for log and segments, and for the order of what reaches them.
type disk struct {
	mu      sync.Mutex
	written []segment.Record
	synced  int // of written
	batches [][]leaf.Leaf
	order   []string // "sync" and "log", as they came
	logged  uint64

	appendErr, syncErr, logErr error
	slow                       time.Duration // that the log takes
	ctx                        context.Context
	pruned                     []time.Time

	// What stands for the session.
	acks    []ack
	opened  func(raw []byte, by session.Delivery) (session.Delivery, error)
	content int // deliveries that were refused for what they carry
	ackErr  error
}

// ack is an acknowledgement that was sent.
type ack struct {
	Peer string
	wire.Ack
}

func (d *disk) Acknowledge(peer envelope.KeyID, a wire.Ack) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ackErr == nil {
		a.Timestamp = 0
		d.acks = append(d.acks, ack{peer.String(), a})
	}
	return d.ackErr
}

func (d *disk) OpenOriginal(raw []byte, by session.Delivery) (session.Delivery, error) {
	return d.opened(raw, by)
}

func (d *disk) RefuseContent(session.Delivery) { d.content++ }

func (d *disk) Position() segment.Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	return segment.Position{Start: 1, Records: int64(len(d.written))}
}

func (d *disk) Prune(before time.Time, _ segment.Position, _ func(segment.File, int64) error) error {
	d.pruned = append(d.pruned, before)
	return nil
}

// acked returns what was acknowledged since it was asked last.
func (d *disk) acked() []ack {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() { d.acks = nil }()
	return d.acks
}

func (d *disk) Append(r segment.Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.appendErr == nil {
		d.written = append(d.written, r)
	}
	return d.appendErr
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.syncErr == nil {
		d.synced = len(d.written)
		d.order = append(d.order, "sync")
	}
	return d.syncErr
}

func (d *disk) AppendAll(ctx context.Context, entries [][]byte) ([]uint64, error) {
	time.Sleep(d.slow)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = ctx
	if d.logErr != nil {
		return nil, d.logErr
	}
	var batch []leaf.Leaf
	for _, e := range entries {
		l, err := leaf.Parse(e)
		if err != nil {
			return nil, err
		}
		batch = append(batch, l)
	}
	d.batches = append(d.batches, batch)
	d.order = append(d.order, "log")
	indices := make([]uint64, len(entries))
	for i := range indices {
		indices[i] = d.logged
		d.logged++
	}
	return indices, ctx.Err()
}

// envelopes returns what the segment has on disk.
func (d *disk) envelopes() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, r := range d.written[:d.synced] {
		all = append(all, string(r.Envelope))
	}
	return all
}

// entries returns what the log has.
func (d *disk) entries() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, batch := range d.batches {
		for _, l := range batch {
			all = append(all, string(l.Data))
		}
	}
	return all
}

var errDisk = errors.New("no space left on device")

// lines counts log lines.
type lines struct {
	slog.Handler
	mu    sync.Mutex
	texts []string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.texts = append(l.texts, r.Message)
	return nil
}

func newRecorder(t *testing.T, d *disk) (*Recorder, *lines) {
	t.Helper()
	l := new(lines)
	r, err := New(Config{Site: "melb", Transparency: d, Segments: d, Session: d, Log: slog.New(l)})
	if err != nil {
		t.Fatal(err)
	}
	return r, l
}

var received = time.UnixMilli(1_700_000_000_123)

// number counts messages, so that no two have one number.
var number atomic.Uint64

func delivery(kind wire.Kind, proof session.Proof, raw string) session.Delivery {
	return numbered(kind, proof, raw, number.Add(1))
}

// numbered is a delivery of boot 1 of the sender web-1.
func numbered(kind wire.Kind, proof session.Proof, raw string, seq uint64) session.Delivery {
	return session.Delivery{Topic: wire.Topic{Kind: kind, Site: "melb", Role: "sensor", Name: "web-1"}, Proof: proof, Payload: []byte(raw), Received: received, Via: "b1",
		Message: envelope.Message{Raw: []byte(raw), KID: []byte("melb/sensor/web-1/1"), Nonce: envelope.Nonce{Boot: 1, Seq: seq}, Payload: []byte(raw)}}
}

func reading(raw string) session.Delivery { return delivery(wire.KindCPU, session.ProofMAC, raw) }

func signed(raw string) session.Delivery {
	return delivery(wire.KindAlert, session.ProofSignature, raw)
}

// run runs the recorder in a bubble until inner has returned, and returns its
// error.
func run(t *testing.T, r *Recorder, inner func()) (err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	synctest.Wait()
	inner()
	cancel()
	return <-done
}

func TestKeepsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		r, _ := newRecorder(t, d)
		var want, logged []string
		for i := range 20 {
			raw := fmt.Sprint("message ", i)
			want = append(want, raw)
			if i%3 == 0 {
				logged = append(logged, raw)
				r.Deliver(signed(raw))
				continue
			}
			r.Deliver(reading(raw))
		}
		if err := run(t, r, func() {}); err != nil {
			t.Fatal(err)
		}
		if got := d.envelopes(); !slices.Equal(got, want) {
			t.Errorf("the segment has %q", got)
		}
		if got := d.entries(); !slices.Equal(got, logged) {
			t.Errorf("the log has %q", got)
		}
		for _, l := range d.batches[0] {
			if l.Kind != leaf.KindMessage || l.Verdict != "accepted" || l.Received != received.UnixMilli() {
				t.Errorf("entry %+v", l)
			}
		}
		for _, rec := range d.written {
			if rec.Received != received.UnixMilli() || rec.Verdict != segment.Accepted || rec.Peer != "b1" {
				t.Errorf("record %+v", rec)
			}
		}
		if kept, lost := r.Counts(); kept != 20 || lost != 0 {
			t.Errorf("kept %d, lost %d", kept, lost)
		}
	})
}

// Whatever the log has, a segment has on disk before it.
func TestSegmentFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		r, _ := newRecorder(t, d)
		err := run(t, r, func() {
			for range 3 {
				r.Deliver(signed("alert"))
				synctest.Wait()
			}
		})
		if err != nil || !slices.Equal(d.order, []string{"sync", "log", "sync", "log", "sync", "log", "sync"}) {
			t.Errorf("%v, %v", d.order, err)
		}
		d.syncErr, d.order, d.batches = errDisk, nil, nil
		r, _ = newRecorder(t, d)
		r.Deliver(signed("alert"))
		if err := run(t, r, synctest.Wait); !errors.Is(err, errDisk) || len(d.batches) != 0 {
			t.Errorf("logged %v, and no segment has it: %v", d.batches, err)
		}
	})
}

// What waits shares one write of the log, up to a bound.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{slow: time.Minute}
		r, _ := newRecorder(t, d)
		err := run(t, r, func() {
			r.Deliver(signed("first"))
			synctest.Wait() // the log is busy with it
			for range maxBatch + 1 {
				r.Deliver(signed("more"))
			}
			time.Sleep(10 * time.Minute)
		})
		if err != nil {
			t.Fatal(err)
		}
		var sizes []int
		for _, b := range d.batches {
			sizes = append(sizes, len(b))
		}
		if !slices.Equal(sizes, []int{1, maxBatch, 1}) {
			t.Errorf("batches of %v", sizes)
		}
	})
}

// A reading counts as kept once it is synced, within a second; a signed message
// once the log has it.
func TestKeptMeansDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{slow: time.Minute}
		r, _ := newRecorder(t, d)
		counted := func(want uint64) {
			t.Helper()
			if kept, _ := r.Counts(); kept != want {
				t.Errorf("%d count as kept instead of %d", kept, want)
			}
		}
		err := run(t, r, func() {
			r.Deliver(reading("one"))
			synctest.Wait()
			counted(0)
			time.Sleep(syncEvery)
			synctest.Wait()
			counted(1)
			if got := d.envelopes(); len(got) != 1 {
				t.Errorf("synced %q", got)
			}
			r.Deliver(signed("two"))
			synctest.Wait()
			counted(1)
			time.Sleep(time.Minute)
			synctest.Wait()
			counted(2)
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// What cannot be kept ends the recorder: it does not run without a record.
func TestStopsWhenItCannotKeep(t *testing.T) {
	for _, test := range []struct {
		name    string
		disk    *disk
		deliver session.Delivery
		kept    uint64 // of the reading before it and of itself
	}{
		{"the log", &disk{logErr: errDisk}, signed("alert"), 1},
		{"a segment", &disk{appendErr: errDisk}, reading("cpu"), 0},
		{"a segment's sync", &disk{syncErr: errDisk}, reading("cpu"), 0},
		{"an entry that no leaf holds", &disk{}, signed(strings.Repeat("x", leaf.MaxSize)), 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _ := newRecorder(t, test.disk)
				done := make(chan error, 1)
				go func() { done <- r.Run(t.Context()) }()
				if test.disk.appendErr == nil {
					r.Deliver(reading("before"))
					synctest.Wait()
				}
				r.Deliver(test.deliver)
				err := <-done // a sync that fails is found out at the next tick
				if err == nil || test.disk.logErr != nil && !errors.Is(err, errDisk) {
					t.Errorf("%v", err)
				}
				if kept, _ := r.Counts(); kept != test.kept {
					t.Errorf("%d count as kept", kept)
				}
				if got := len(test.disk.entries()); got != 0 {
					t.Errorf("%d entries", got)
				}
			})
		})
	}
}

// The end of ctx ends nothing halfway: what was delivered is kept, with a
// context that still lives.
func TestDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{slow: time.Second}
		r, _ := newRecorder(t, d)
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 3*maxBatch + 7 {
			r.Deliver(signed(fmt.Sprint(i)))
		}
		r.Deliver(reading("last"))
		cancel()
		if err := r.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if kept, _ := r.Counts(); kept != 3*maxBatch+8 || len(d.entries()) != 3*maxBatch+7 || len(d.envelopes()) != 3*maxBatch+8 {
			t.Errorf("%d kept, %d entries, %d envelopes", kept, len(d.entries()), len(d.envelopes()))
		}
		if d.ctx.Err() != nil {
			t.Error("the log was given a context that has ended")
		}
		// Of a drain that fails the error is returned, and no more is tried.
		d = &disk{logErr: errDisk}
		r, _ = newRecorder(t, d)
		for range 2 * maxBatch {
			r.Deliver(signed("x"))
		}
		if err := r.Run(ctx); !errors.Is(err, errDisk) || len(d.written) > maxBatch {
			t.Errorf("%v after %d", err, len(d.written))
		}
	})
}

// More than fits is lost, counted, and logged ever more rarely.
func TestOverflow(t *testing.T) {
	d := new(disk)
	r, l := newRecorder(t, d)
	for range maxQueue + 100 {
		r.Deliver(reading("x"))
	}
	if kept, lost := r.Counts(); kept != 0 || lost != 100 {
		t.Errorf("kept %d, lost %d", kept, lost)
	}
	if n := len(l.texts); n != 1 {
		t.Errorf("%d lines: %q", n, l.texts)
	}
}

// Few large messages fill the room as well.
func TestOverflowOfBytes(t *testing.T) {
	d := new(disk)
	r, _ := newRecorder(t, d)
	large := strings.Repeat("x", 32<<10)
	for range maxQueueBytes/len(large) + 3 {
		r.Deliver(reading(large))
	}
	if _, lost := r.Counts(); lost != 3 {
		t.Errorf("lost %d", lost)
	}
}

func TestPublicMessagesAreNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(disk)
		r, _ := newRecorder(t, d)
		r.Deliver(delivery(wire.KindPublic, session.ProofNone, "anybody's"))
		r.Deliver(delivery(wire.KindNone, session.ProofSignature, "nobody's"))
		if err := run(t, r, synctest.Wait); err != nil || len(d.envelopes()) != 0 || len(d.entries()) != 0 {
			t.Errorf("%q %q %v", d.envelopes(), d.entries(), err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	d, log := new(disk), slog.New(slog.DiscardHandler)
	good := func() Config {
		return Config{Site: "melb", Transparency: d, Segments: d, Session: d, Log: log, Retention: time.Hour, Note: "note", Deletions: "deleted"}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no site":                func(c *Config) { c.Site = "" },
		"no log":                 func(c *Config) { c.Transparency = nil },
		"no segments":            func(c *Config) { c.Segments = nil },
		"no session":             func(c *Config) { c.Session = nil },
		"no logger":              func(c *Config) { c.Log = nil },
		"a negative retention":   func(c *Config) { c.Retention = -1 },
		"deletes without a note": func(c *Config) { c.Note = "" },
		"deletes without saying": func(c *Config) { c.Deletions = "" },
	} {
		c := good()
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
