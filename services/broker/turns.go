package broker

import (
	"net"
	"runtime"
	"time"
)

// turns lets as many handshakes as there are processors compute at one moment.
// A handshake costs as much as a hundred messages, whoever begins it, and the
// scheduler takes goroutines in turn: hundreds of handshakes at once would hold
// every message up for all of them. Each slot holds what was computed since its
// last pause; a handshake that waits for its peer has none.
type turns chan time.Duration

// A slot rests after so much work, because the scheduler asks the network for
// what has arrived only when nothing else can run.
const (
	mostWork = 5 * time.Millisecond
	rest     = 500 * time.Microsecond
)

func newTurns() turns {
	t := make(turns, runtime.GOMAXPROCS(0))
	for range cap(t) {
		t <- 0
	}
	return t
}

// shaking is a connection whose handshake computes in turn: it gives its slot
// back while it reads. It is the reading goroutine's.
type shaking struct {
	*outbox
	turns turns
	ended <-chan struct{}
	over  bool // the handshake

	held  bool // a slot
	work  time.Duration
	since time.Time
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
	select {
	case s.work = <-s.turns:
		s.held, s.since = true, time.Now()
	case <-s.ended:
		return 0, net.ErrClosed
	}
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
		s.turns <- work
		return
	}
	time.AfterFunc(rest, func() { s.turns <- 0 })
}

// finish ends the handshake.
func (s *shaking) finish() {
	s.over = true
	s.leave()
}
