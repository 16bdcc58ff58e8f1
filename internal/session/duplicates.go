package session

import (
	"crypto/sha256"
	"time"

	"levee/internal/wire"
)

// maxEchoes bounds the messages that are remembered: 15 s of 2,000 a second,
// which is what 10,000 sensors say again when their broker is gone.
const maxEchoes = 1 << 15

// echoes remembers the newest messages that passed every check, and by which
// lines they came, so that a part that hears every broker of its site tells at
// the cost of one hash what it has heard already. That is no repeat that anybody
// must look into: the sender said it to each broker.
//
// Nothing rests on it. What it has forgotten the replay windows know, and it
// knows nothing but what passed them. It is not safe for concurrent use.
type echoes struct {
	limit int
	life  time.Duration // after it, a message is judged like any other
	met   map[sum]*echo
	ring  []sum
	next  int // in ring
}

// sum is SHA-256 over topic and message.
type sum [sha256.Size]byte

// echo is how a message came.
type echo struct {
	lines uint64    // a bit for each
	at    time.Time // first
}

// newEchoes returns nil where there is one line, to which everything is new.
func newEchoes(lines int, life time.Duration) *echoes {
	if lines < 2 {
		return nil
	}
	return &echoes{limit: maxEchoes, life: life, met: make(map[sum]*echo)}
}

// sum returns what known and remember go by. Public messages are not remembered:
// two of the same text are two.
func (e *echoes) sum(in inbound) (of sum) {
	if e == nil || wire.IsPublic(in.name) {
		return sum{}
	}
	h := sha256.New()
	h.Write([]byte(in.name))
	h.Write([]byte{0})
	h.Write(in.raw)
	h.Sum(of[:0])
	return of
}

// known reports whether the message came by another line and now comes by this
// one for the first time.
func (e *echoes) known(of sum, line int, now time.Time) bool {
	if e == nil {
		return false
	}
	m := e.met[of]
	if m == nil || m.lines&bit(line) != 0 || now.Sub(m.at) > e.life {
		return false
	}
	m.lines |= bit(line)
	return true
}

// remember notes a message that passed every check.
func (e *echoes) remember(of sum, line int, now time.Time) {
	if e == nil {
		return
	}
	if len(e.ring) < e.limit {
		e.ring = append(e.ring, of)
	} else {
		delete(e.met, e.ring[e.next])
		e.ring[e.next] = of
		e.next = (e.next + 1) % e.limit
	}
	e.met[of] = &echo{lines: bit(line), at: now}
}

// bit is a line's. Lines beyond 64 share some, and a message that comes by two
// of those is left to the replay windows.
func bit(line int) uint64 { return 1 << (line % 64) }
