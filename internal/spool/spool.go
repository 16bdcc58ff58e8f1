package spool

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"levee/envelope"
	"levee/internal/wire"
)

// maxMemory bounds in bytes what a slow or failing disk has not taken.
const maxMemory = 4 << 20

// Spool is one sender's messages. It is safe for concurrent use.
type Spool struct {
	config Config
	wake   chan struct{} // holds a token when there may be something to write

	mu       sync.Mutex
	chunks   []*chunk // in the order of their messages
	files    int      // of them, at most
	removals []*chunk // whose files nobody needs any more
	bytes    int64    // of chunks
	memory   int64    // of their tails
	failed   bool     // the disk did not take what it should

	writer writer
}

// Message is a sealed message of this start.
type Message struct {
	Seq    uint64
	Time   int64 // ts
	Raw    []byte
	Begins bool         // it begins a range of a digest
	Digest *wire.Digest // what it vouches for, nil for all but digests
}

// Add keeps a message, the next one of this start. It does not wait for the disk,
// and keeps no reference to m.Raw.
func (s *Spool) Add(m Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.newest()
	// An acknowledgement that reached into this file is followed by others: the
	// sooner the file ends, the sooner it goes.
	if c == nil || c.closed || m.Begins && (c.size() >= fullChunk || c.released > 0) || c.last()+1 != m.Seq {
		if c != nil {
			c.closed = true
			s.sweep()
		}
		c = &chunk{boot: s.config.Boot}
		s.chunks = append(s.chunks, c)
	}
	c.add(m.Seq, m.Time, len(m.Raw), m.Digest)
	c.tail = append(append(c.tail, m.Raw...), '\n')
	s.bytes += int64(len(m.Raw)) + 1
	s.memory += int64(len(m.Raw)) + 1
	s.nudge()
}

// newest returns the last chunk, nil if there is none.
func (s *Spool) newest() *chunk {
	if len(s.chunks) == 0 {
		return nil
	}
	return s.chunks[len(s.chunks)-1]
}

func (s *Spool) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Release forgets the messages of boot up to seq. It returns how many of them
// were still held.
func (s *Spool) Release(boot, seq uint64) (released int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.chunks {
		if c.boot == boot && seq >= c.first {
			n := int(min(seq, c.last()) - c.first + 1)
			released += max(0, n-c.released)
			c.released = max(c.released, n)
		}
	}
	s.sweep()
	return released
}

// ReleaseTo forgets every message up to the one with that nonce, those of earlier
// boots too, and returns how many.
func (s *Spool) ReleaseTo(last envelope.Nonce) (released int) {
	s.mu.Lock()
	boots := make([]uint64, 0, 4)
	for _, c := range s.chunks {
		if c.boot < last.Boot && !slices.Contains(boots, c.boot) {
			boots = append(boots, c.boot)
		}
	}
	s.mu.Unlock()
	for _, boot := range boots {
		released += s.Release(boot, ^uint64(0))
	}
	return released + s.Release(last.Boot, last.Seq)
}

// sweep removes what is wholly released.
func (s *Spool) sweep() {
	s.chunks = slices.DeleteFunc(s.chunks, func(c *chunk) bool {
		if !c.closed || c.held() > 0 {
			return false
		}
		s.remove(c)
		return true
	})
}

// remove takes leave of a chunk that is no longer in the list.
func (s *Spool) remove(c *chunk) {
	s.bytes -= int64(c.size())
	s.memory -= int64(len(c.tail))
	c.gone, c.tail = true, nil
	s.removals = append(s.removals, c)
	s.nudge()
}

// Loss is messages that there is no room for, or that the disk lost.
type Loss struct {
	Drops    []wire.Drop // to be declared: theirs, and what was declared by them
	Messages int         // of them, those that were not acknowledged
	chunk    *chunk
}

// Excess returns what must be given up next, ok false if nothing. The caller
// declares it, and then calls GiveUp.
func (s *Spool) Excess() (l Loss, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.excess()
	if c == nil {
		return Loss{}, false
	}
	c.closed = true
	return Loss{Drops: c.lost(), Messages: c.held(), chunk: c}, true
}

func (s *Spool) excess() *chunk {
	if i := slices.IndexFunc(s.chunks, func(c *chunk) bool { return c.bad }); i >= 0 {
		return s.chunks[i]
	}
	old := s.chunks
	if newest := s.newest(); newest != nil && !newest.closed {
		old = old[:len(old)-1] // its range is not whole
	}
	switch {
	case len(old) == 0:
	case s.bytes > s.config.Max || len(s.chunks) > s.files:
		return old[0]
	case s.memory > maxMemory:
		if i := slices.IndexFunc(old, func(c *chunk) bool { return len(c.tail) > 0 }); i >= 0 {
			return old[i]
		}
	}
	return nil
}

// GiveUp forgets what Excess returned.
func (s *Spool) GiveUp(l Loss) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.chunks, l.chunk); i >= 0 {
		s.chunks = slices.Delete(s.chunks, i, i+1)
		s.remove(l.chunk)
	}
}

// Holds returns the lowest number of this boot that is not released; ok is false
// if all are.
func (s *Spool) Holds() (seq uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.chunks {
		if c.boot == s.config.Boot && c.held() > 0 {
			return c.first + uint64(c.released), true
		}
	}
	return 0, false
}

// Stats are figures of a spool.
type Stats struct {
	Messages int           // held
	Bytes    int64         // in files and memory, released ones in the same files too
	Oldest   time.Duration // age of the oldest one held
	Failed   bool          // the disk does not take messages: they are in memory alone
	// Acknowledgements is how many there were, and Backfilled how many messages the
	// recorder has only from a backfill. The spool itself does not know.
	Acknowledgements, Backfilled uint64
}

// Stats returns the figures of now.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Bytes: s.bytes, Failed: s.failed}
	for _, c := range s.chunks {
		st.Messages += c.held()
	}
	if at, ok := s.oldest(); ok {
		st.Oldest = max(0, time.Since(time.UnixMilli(at)))
	}
	return st
}

// oldest returns the ts of the oldest message held.
func (s *Spool) oldest() (at int64, ok bool) {
	for _, c := range s.chunks {
		if c.held() > 0 {
			return c.time(c.released), true
		}
	}
	return 0, false
}

// ErrDamaged is that a file does not hold what was written to it.
var ErrDamaged = errors.New("the outbox's file is damaged")

// Batch is the oldest messages held.
type Batch struct {
	Envelopes [][]byte
	Last      envelope.Nonce // of the last of them
}

// Oldest reads the oldest messages held: at least one, if there is one, and as
// many more as take room bytes and are no more than most. size says what one
// takes. Of this boot it returns only those with a ts of before or earlier. It
// reads the disk. What it cannot read, Excess returns next.
func (s *Spool) Oldest(room, most int, before int64, size func(int) int) (Batch, error) {
	s.mu.Lock()
	var c *chunk
	for _, x := range s.chunks {
		if x.held() > 0 && !x.bad {
			c = x
			break
		}
	}
	if c == nil {
		s.mu.Unlock()
		return Batch{}, nil
	}
	from := c.released
	to, taken := from, 0
	for ; to < len(c.entries) && to-from < most; to++ {
		if c.boot == s.config.Boot && c.time(to) > before {
			break
		}
		n := size(int(c.entries[to].end) - c.begin(to) - 1)
		if to > from && (taken+n > room || c.begin(from) < c.written && int(c.entries[to].end) > c.written) {
			break
		}
		taken += n
	}
	ends := make([]int, 0, to-from)
	begin := c.begin(from)
	for _, e := range c.entries[from:to] {
		ends = append(ends, int(e.end)-begin)
	}
	path, first := c.path(s.config.Dir), envelope.Nonce{Boot: c.boot, Seq: c.first + uint64(from)}
	var lines []byte
	if len(ends) > 0 && begin >= c.written {
		lines = slices.Clone(c.tail[begin-c.written : begin-c.written+ends[len(ends)-1]])
	}
	s.mu.Unlock()
	if len(ends) == 0 {
		return Batch{}, nil
	}
	var err error
	if lines == nil {
		lines, err = readAt(path, begin, ends[len(ends)-1])
	}
	b := Batch{Last: envelope.Nonce{Boot: first.Boot, Seq: first.Seq + uint64(len(ends)) - 1}}
	at := 0
	for i, end := range ends {
		if err != nil {
			break
		}
		raw := lines[at : end-1]
		_, err = parse(raw, s.config.Sender, envelope.Nonce{Boot: first.Boot, Seq: first.Seq + uint64(i)})
		b.Envelopes, at = append(b.Envelopes, raw), end
	}
	if err == nil {
		return b, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.gone {
		return Batch{}, nil // acknowledged meanwhile
	}
	c.bad = true
	return Batch{}, errors.Join(ErrDamaged, cmp.Or(err, ErrDamaged))
}
