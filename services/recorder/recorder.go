// Package recorder keeps what a site says: every envelope in segments, and
// every signed message in the site's transparency log as well. Package journals
// brings what was issued and revoked into the same log.
//
// It guarantees that it keeps messages byte for byte as they came, and that a
// message counts as kept only when it is durable: synced in a segment and, if
// it is signed, integrated in the log. A segment has a signed message before
// the log has it, so that the log shows when a segment is gone. When it cannot
// keep on it stops, loudly, rather than run without a record.
//
// It does not yet acknowledge what it has kept: a message that arrives while it
// is down is missing from the record, and the sender's signed digests show it.
package recorder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/translog/leaf"
	"levee/services/recorder/segment"
)

const (
	maxQueue  = 16384       // messages that wait to be kept
	maxBatch  = 512         // messages that share one write of the log
	syncEvery = time.Second // how often segments are made durable
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
}

// Config is what a recorder needs.
type Config struct {
	Transparency Log
	Segments     Segments
	Log          *slog.Logger
}

// Recorder keeps what Deliver is given while Run runs.
type Recorder struct {
	config  Config
	queue   chan session.Delivery
	lost    atomic.Uint64
	kept    atomic.Uint64
	written uint64 // messages that the next sync makes durable; Run's alone
}

// New checks the configuration.
func New(c Config) (*Recorder, error) {
	if c.Transparency == nil || c.Segments == nil || c.Log == nil {
		return nil, errors.New("configuring the recorder: it has no log, no segments or no logger")
	}
	return &Recorder{config: c, queue: make(chan session.Delivery, maxQueue)}, nil
}

// Deliver takes a checked message. It does not wait; what finds no room is
// counted, logged, and missing from the record.
func (r *Recorder) Deliver(d session.Delivery) {
	if !d.Topic.Protected() {
		return // anybody's text: never kept
	}
	select {
	case r.queue <- d:
	default:
		if n := r.lost.Add(1); n&(n-1) == 0 { // at powers of two
			r.config.Log.Error("messages arrive faster than they can be kept", slog.Uint64("lost", n))
		}
	}
}

// Counts returns how many messages were kept, and how many found no room.
func (r *Recorder) Counts() (kept, lost uint64) { return r.kept.Load(), r.lost.Load() }

// Run keeps messages until ctx ends and everything delivered before is kept,
// or until something cannot be kept. It is called once.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	working := context.WithoutCancel(ctx)
	for {
		var err error
		select {
		case d := <-r.queue:
			err = r.keep(working, r.batch(d))
		case <-tick.C:
			err = r.sync()
		case <-ctx.Done():
			for err == nil && len(r.queue) > 0 {
				err = r.keep(working, r.batch(<-r.queue))
			}
			return errors.Join(err, r.sync())
		}
		if err != nil {
			return errors.Join(err, r.sync())
		}
	}
}

// batch returns first and what waits behind it.
func (r *Recorder) batch(first session.Delivery) []session.Delivery {
	batch := []session.Delivery{first}
	for len(batch) < maxBatch {
		select {
		case d := <-r.queue:
			batch = append(batch, d)
		default:
			return batch
		}
	}
	return batch
}

// keep appends messages to the segment in the order in which they came, and
// the signed ones to the log.
func (r *Recorder) keep(ctx context.Context, batch []session.Delivery) error {
	var entries [][]byte
	for _, d := range batch {
		received := d.Received.UnixMilli()
		if err := r.config.Segments.Append(segment.Record{Received: received, Envelope: d.Message.Raw}); err != nil {
			return fmt.Errorf("keeping an envelope: %w", err)
		}
		if d.Proof != session.ProofSignature {
			r.written++
			continue
		}
		entry, err := leaf.Leaf{Received: received, Verdict: envelope.Accepted.String(), Kind: leaf.KindMessage, Data: d.Message.Raw}.Marshal()
		if err != nil {
			return fmt.Errorf("keeping a signed message: %w", err)
		}
		entries = append(entries, entry)
	}
	if len(entries) == 0 {
		return nil // the next tick syncs
	}
	// After a crash a segment may hold what the log does not, never the other
	// way round: an entry without its envelope means that a segment was cut.
	if err := r.sync(); err != nil {
		return err
	}
	if _, err := r.config.Transparency.AppendAll(ctx, entries); err != nil {
		return fmt.Errorf("keeping signed messages: %w", err)
	}
	r.kept.Add(uint64(len(entries)))
	return nil
}

// sync makes the segment durable. Only then do its messages count.
func (r *Recorder) sync() error {
	if err := r.config.Segments.Sync(); err != nil {
		return fmt.Errorf("keeping envelopes: %w", err)
	}
	r.kept.Add(r.written)
	r.written = 0
	return nil
}
