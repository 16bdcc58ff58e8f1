package monitor

import "sync"

// queue is a bounded ring between the receivers and Run. A full one gives up
// its oldest entry: the newest reading says most about what is happening now.
type queue[T any] struct {
	mu    sync.Mutex
	ring  []T
	first int
	n     int
}

func newQueue[T any](size int) *queue[T] { return &queue[T]{ring: make([]T, size)} }

// push adds v and reports whether an older entry was lost for it.
func (q *queue[T]) push(v T) (lost bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == len(q.ring) {
		q.first = (q.first + 1) % len(q.ring)
		q.n--
		lost = true
	}
	q.ring[(q.first+q.n)%len(q.ring)] = v
	q.n++
	return lost
}

// pop takes the oldest entry.
func (q *queue[T]) pop() (T, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var v, zero T
	if q.n == 0 {
		return zero, false
	}
	v, q.ring[q.first] = q.ring[q.first], zero // what is taken need not live on
	q.first = (q.first + 1) % len(q.ring)
	q.n--
	return v, true
}
