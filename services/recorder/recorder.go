// Package recorder keeps what a site says: every envelope in segments, and
// every signed message in the site's transparency log as well. Package journals
// brings what was issued and revoked into the same log, package ledger knows what
// is held of whom.
//
// It guarantees that it keeps messages byte for byte as they came, each once, and
// that a message counts as kept, and is acknowledged to its sender, only when it
// is durable: synced in a segment and, if it is signed, integrated in the log. A
// segment has a signed message before the log has it, so that the log shows when a
// segment is gone. What it could not take in time it does not acknowledge, and
// takes it from the sender's backfill, marked as late. When it cannot keep on it
// stops, loudly, rather than run without a record.
//
// It does not make a sender say what it withholds: gaps that nobody fills are in
// the senders' digests, and auditors find them. Of refused messages it keeps a
// sample.
package recorder

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/wire"
	"levee/services/recorder/ledger"
	"levee/services/recorder/segment"
)

const (
	maxQueue      = 32768                  // messages that wait to be kept
	maxQueueBytes = 64 << 20               // of them
	maxBatch      = 8192                   // messages that share one write of the log
	syncEvery     = time.Second            // how often segments are made durable
	ackEvery      = 100 * time.Millisecond // how often acknowledgements go out,
	maxAcks       = 200                    // and how many at once: the broker holds back whoever sends more
	noteEvery     = time.Minute            // how often what is held is written down
)

// Log is the transparency log.
type Log interface {
	// AppendAll returns when the entries are durable and part of the tree.
	AppendAll(ctx context.Context, entries [][]byte) (indices []uint64, err error)
}

// Segments keep raw envelopes.
type Segments interface {
	Append(segment.Record) error
	// Sync returns when everything appended is on disk.
	Sync() error
	// Position is where the next record will be.
	Position() segment.Position
	// Prune deletes files that ended before a time, and are safe to delete.
	Prune(before time.Time, safe segment.Position, declare func(segment.File, int64) error) error
}

// Session is the conversation with the site: *session.Session.
type Session interface {
	Acknowledge(peer envelope.KeyID, ack wire.Ack) error
	OpenOriginal(raw []byte, by session.Delivery) (session.Delivery, error)
	RefuseContent(session.Delivery)
}

// Config is what a recorder needs.
type Config struct {
	Site         string
	Transparency Log
	Segments     Segments
	Session      Session
	// Held is what it holds already; see Restore. Nil: nothing.
	Held *Held
	// Note is the file where what is held is written down, so that the next start
	// is short; "" means nowhere, and then nothing is ever deleted.
	Note string
	// Retention is how long segments are kept; 0 means for ever. Deletions is the
	// file that declares what was deleted.
	Retention time.Duration
	Deletions string
	Figures   *Figures // nil: nobody reads them
	Evidence  Evidence // nil: nobody is told
	Log       *slog.Logger
}

// Recorder keeps what Deliver is given while Run runs.
type Recorder struct {
	config  Config
	queue   queue
	refused sampler
	figures *Figures

	// Run's alone.
	held    *Held
	written uint64    // unsigned messages that the next sync makes durable
	dirty   bool      // something was appended since the last note
	noted   time.Time // when it was
	looked  time.Time // when what is missing was told
}

// New checks the configuration.
func New(c Config) (*Recorder, error) {
	switch {
	case c.Transparency == nil || c.Segments == nil || c.Session == nil || c.Log == nil:
		return nil, errors.New("configuring the recorder: it has no log, no segments, no session or no logger")
	case c.Site == "":
		return nil, errors.New("configuring the recorder: it is of no site")
	case c.Retention < 0 || c.Retention > 0 && (c.Note == "" || c.Deletions == ""):
		return nil, errors.New("configuring the recorder: a retention below 0, or without the files that it needs")
	}
	r := &Recorder{config: c, held: c.Held, figures: c.Figures, queue: newQueue(), refused: newSampler(), dirty: true}
	if r.figures == nil {
		r.figures = new(Figures)
	}
	if r.held == nil {
		r.held = &Held{ledger: ledger.New()}
	}
	return r, nil
}

// Deliver takes a checked message. It does not wait: what finds no room is
// counted, logged, not acknowledged, and sent again by its sender.
func (r *Recorder) Deliver(d session.Delivery) {
	if !d.Topic.Protected() {
		return // anybody's text: never kept
	}
	if r.queue.put(d) {
		return
	}
	r.figures.unkept.add(becauseFull)
	r.sayBehind(d.Received)
}

// Counts returns how many messages were kept, and how many found no room.
func (r *Recorder) Counts() (kept, lost uint64) {
	return r.figures.kept.Load(), r.figures.unkept.of(becauseFull)
}

// Run keeps messages until ctx ends and everything delivered before is kept,
// or until something cannot be kept. It is called once.
func (r *Recorder) Run(ctx context.Context) error {
	err := r.run(ctx)
	if err == nil {
		err = r.settle()
	} else {
		// What was written before may be whole. It is not acknowledged: nobody
		// knows.
		err = errors.Join(err, r.sync())
	}
	if err == nil {
		r.note(time.Now())
	}
	return err
}

func (r *Recorder) run(ctx context.Context) error {
	tick, acks := time.NewTicker(syncEvery), time.NewTicker(ackEvery)
	defer tick.Stop()
	defer acks.Stop()
	r.noted = time.Now()
	working := context.WithoutCancel(ctx)
	for {
		var err error
		select {
		case d := <-r.queue.messages:
			err = r.keep(working, r.queue.batch(d))
		case refusal := <-r.refused.samples:
			err = r.keepRefused(refusal)
		case <-tick.C:
			if err = r.settle(); err == nil {
				r.look(time.Now())
				r.tellHoles(time.Now())
			}
		case now := <-acks.C:
			r.acknowledge(now)
		case <-ctx.Done():
			for err == nil && len(r.queue.messages) > 0 {
				err = r.keep(working, r.queue.batch(<-r.queue.messages))
			}
			for err == nil && len(r.refused.samples) > 0 {
				err = r.keepRefused(<-r.refused.samples)
			}
			return err
		}
		if err != nil {
			return err
		}
	}
}

// settle makes the segment durable, and with it everything that was taken: what
// is signed the log has by now.
func (r *Recorder) settle() error {
	if err := r.sync(); err != nil {
		return err
	}
	r.held.ledger.Commit()
	return nil
}

// sync makes the segment durable. Only then do its messages count.
func (r *Recorder) sync() error {
	if err := r.config.Segments.Sync(); err != nil {
		return fmt.Errorf("keeping envelopes: %w", err)
	}
	r.figures.kept.Add(r.written)
	r.written = 0
	return nil
}

// append appends a record to the segment.
func (r *Recorder) append(record segment.Record) error {
	if err := r.config.Segments.Append(record); err != nil {
		return fmt.Errorf("keeping an envelope: %w", err)
	}
	r.held.last = sha256.Sum256(record.Envelope)
	r.dirty = true
	return nil
}
