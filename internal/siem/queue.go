package siem

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxQueue = 4096 // events that wait to be sent: 11 MiB if every text is as long as it may be
	maxBatch = 64   // lines of one write
)

// queue is what waits to be sent.
type queue struct {
	mu      sync.Mutex
	events  []Event
	dropped uint64        // for want of room, and not declared yet
	wake    chan struct{} // has one element while there may be something new
	lost    atomic.Uint64 // dropped in all
}

func newQueue() queue { return queue{wake: make(chan struct{}, 1)} }

// put takes an event, or counts it where there is no room. It does not wait.
func (q *queue) put(e Event) {
	q.mu.Lock()
	if len(q.events) < maxQueue {
		q.events = append(q.events, e)
	} else {
		q.dropped++
		q.lost.Add(1)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns what has waited longest. What was dropped meanwhile is declared
// behind everything that was told before.
func (q *queue) take(now time.Time) []Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.events), maxBatch)
	batch := append([]Event(nil), q.events[:n]...)
	left := copy(q.events, q.events[n:])
	clear(q.events[left:])
	q.events = q.events[:left]
	if q.dropped > 0 && n > 0 {
		q.events = append(q.events, Event{ID: EventsDropped, Time: now, Count: q.dropped,
			Message: fmt.Sprintf("%d events were dropped for want of room; what they told of is in the log", q.dropped)}.settle())
		q.dropped = 0
	}
	return batch
}

// waiting returns how many events wait.
func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.events)
}
