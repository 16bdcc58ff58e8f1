package broker

import (
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"
)

// turns lets as many handshakes as there are processors compute at one moment.
// A handshake costs as much as ten messages, whoever begins it, and the
// scheduler takes goroutines in turn: hundreds of handshakes at once would hold
// every message up for all of them. A handshake that waits for its peer has no
// slot.
//
// A handshake that goes on comes before all that begin: else, when a thousand
// come at once, each would be half done when its time is over.
type turns struct {
	mu      sync.Mutex
	free    []time.Duration         // slots, each with what was computed since its last pause
	waiting [2][]chan time.Duration // handshakes that begin, and that go on
}

// A slot rests after so much work, because the scheduler asks the network for
// what has arrived only when nothing else can run.
const (
	mostWork = 5 * time.Millisecond
	rest     = 500 * time.Microsecond
)

// errNoTurn ends a handshake that the broker had no time for.
var errNoTurn = errors.New("too many handshakes at once")

func newTurns(slots int) *turns { return &turns{free: make([]time.Duration, slots)} }

// take waits for a slot until a time, and returns what was computed in it.
func (t *turns) take(goesOn bool, until time.Time, ended <-chan struct{}) (work time.Duration, err error) {
	t.mu.Lock()
	if n := len(t.free); n > 0 {
		work, t.free = t.free[n-1], t.free[:n-1]
		t.mu.Unlock()
		return work, nil
	}
	queue := &t.waiting[0]
	if goesOn {
		queue = &t.waiting[1]
	}
	granted := make(chan time.Duration, 1)
	*queue = append(*queue, granted)
	t.mu.Unlock()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case work = <-granted:
		return work, nil
	case <-timer.C:
		err = errNoTurn
	case <-ended:
		err = net.ErrClosed
	}
	t.mu.Lock()
	left := slices.Index(*queue, granted)
	if left >= 0 {
		*queue = slices.Delete(*queue, left, left+1)
	}
	t.mu.Unlock()
	if left < 0 { // it came at the last moment
		t.give(<-granted)
	}
	return 0, err
}

// give passes a slot on.
func (t *turns) give(work time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, queue := range []*[]chan time.Duration{&t.waiting[1], &t.waiting[0]} {
		if len(*queue) > 0 {
			(*queue)[0] <- work
			*queue = slices.Delete(*queue, 0, 1)
			return
		}
	}
	t.free = append(t.free, work)
}

// shaking is a connection whose handshake computes in turn: it gives its slot
// back while it reads. It is the reading goroutine's.
type shaking struct {
	*outbox
	turns *turns
	ended <-chan struct{}
	most  time.Duration // that it waits for its first turn
	until time.Time     // when its time is over
	began bool
	over  bool // the handshake

	held  bool // a slot
	work  time.Duration
	since time.Time
}

// within sets how long the handshake may take. Whoever waits for half of that
// before it begins is sent away: it might not be done in time, and would have cost
// another one its turn.
func (s *shaking) within(timeout time.Duration) {
	s.most, s.until = timeout/2, time.Now().Add(timeout)
}

// Read reads, and waits for a slot as long as the handshake goes on.
func (s *shaking) Read(p []byte) (int, error) {
	if s.over {
		return s.outbox.Read(p)
	}
	s.leave()
	n, err := s.outbox.Read(p)
	if err != nil {
		return n, err
	}
	until := s.until
	if begin := time.Now().Add(s.most); !s.began && begin.Before(until) {
		until = begin
	}
	if s.work, err = s.turns.take(s.began, until, s.ended); err != nil {
		return 0, err
	}
	s.began, s.held, s.since = true, true, time.Now()
	runtime.Gosched() // whoever waits on a channel runs before the rest otherwise
	return n, nil
}

// leave gives the slot back, if it has one.
func (s *shaking) leave() {
	if !s.held {
		return
	}
	s.held = false
	work := s.work + time.Since(s.since)
	if work < mostWork {
		s.turns.give(work)
		return
	}
	time.AfterFunc(rest, func() { s.turns.give(0) })
}

// finish ends the handshake.
func (s *shaking) finish() {
	s.over = true
	s.leave()
}
