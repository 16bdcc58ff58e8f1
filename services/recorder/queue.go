package recorder

import (
	"log/slog"
	"sync/atomic"
	"time"

	"levee/internal/session"
)

// queue is what waits to be kept.
type queue struct {
	messages chan session.Delivery
	held     *atomic.Int64 // bytes in messages
	taken    *[]session.Delivery
}

func newQueue() queue {
	return queue{messages: make(chan session.Delivery, maxQueue), held: new(atomic.Int64), taken: new([]session.Delivery)}
}

// put takes a message, or reports that there is no room for it.
func (q queue) put(d session.Delivery) bool {
	size := int64(len(d.Message.Raw))
	if q.held.Add(size) <= maxQueueBytes {
		select {
		case q.messages <- d:
			return true
		default:
		}
	}
	q.held.Add(-size)
	return false
}

// batch returns first and what waits behind it. It is valid until the next call.
func (q queue) batch(first session.Delivery) []session.Delivery {
	clear(*q.taken)
	batch := append((*q.taken)[:0], first)
	defer func() {
		*q.taken = batch
		for _, d := range batch {
			q.held.Add(-int64(len(d.Message.Raw)))
		}
	}()
	for len(batch) < maxBatch {
		select {
		case d := <-q.messages:
			batch = append(batch, d)
		default:
			return batch
		}
	}
	return batch
}

// sayEvery is how often the recorder says that it is behind.
const sayEvery = 10 * time.Second

// sayBehind says how far behind the recorder is, now and then.
func (r *Recorder) sayBehind(now time.Time) {
	last := r.figures.said.Load()
	if now.UnixMilli()-last < sayEvery.Milliseconds() && now.UnixMilli() >= last || !r.figures.said.CompareAndSwap(last, now.UnixMilli()) {
		return
	}
	r.config.Log.Error("messages arrive faster than they can be kept: what finds no room is not acknowledged, and its senders send it again",
		slog.Duration("behind", time.Duration(r.figures.behind.Load())), slog.Int("waiting", len(r.queue.messages)),
		slog.Uint64("without_room", r.figures.unkept.of(becauseFull)))
}
