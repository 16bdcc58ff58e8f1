package replay

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

// reclaimBatch is how many records Forget looks at under one hold of the lock,
// so that it delays no Check noticeably.
const reclaimBatch = 1024

var errClosed = errors.New("replay set is closed")

// Set holds the windows of up to a fixed number of senders. All methods are
// safe for concurrent use.
type Set struct {
	// storage is held during Sync and Close, so that the file is not unmapped
	// under a Sync; Check does not wait for it. It is taken before mu.
	storage sync.Mutex
	flush   func() error // nil: in memory only
	release func() error

	mu      sync.Mutex
	state   *state
	records []record
	index   map[string]uint32 // sender to record
	free    []uint32          // records not in use
	hand    int               // where Forget goes on
	floor   int64             // Time below this is BeforeStart
	full    uint64
	damaged int
	err     error // closed or failed: nothing is Fresh any more
}

// Stats is what a service reports of its set.
type Stats struct {
	Senders  int
	Capacity int
	// Full counts the messages refused for want of room since the start.
	Full uint64
	// Floor is the time in Unix milliseconds below which everything is
	// BeforeStart; 0: nothing is.
	Floor int64
	// Damaged counts the parts of the file that Open found damaged. Records
	// torn by a power failure are among them; otherwise it points to a disk
	// or a program that writes where it should not.
	Damaged int
}

// Info is what is known of a sender: the evidence that goes with an alarm.
type Info struct {
	Boot     uint64 // the newest boot
	Previous uint64 // the boot before it, 0 if none was seen
	Top      uint64 // the highest sequence number of Boot
	First    int64  // time of the first message of Boot to arrive, Unix milliseconds
	Newest   int64  // latest time accepted of any boot, Unix milliseconds
}

// New returns a set in memory for capacity senders, 0 to MaxCapacity (values
// outside are brought inside; a set without room answers Full). It forgets
// everything with the process and has no start to refuse from: it fits where
// something else remembers, and tests.
func New(capacity int) *Set {
	return newSet(&state{}, make([]record, bounded(capacity)))
}

func bounded(capacity int) int { return min(max(capacity, 0), MaxCapacity) }

// newSet returns a set over empty storage.
func newSet(st *state, records []record) *Set {
	s := &Set{state: st, records: records, index: make(map[string]uint32)}
	s.free = make([]uint32, 0, len(records))
	for i := len(records) - 1; i >= 0; i-- {
		s.free = append(s.free, uint32(i))
	}
	return s
}

// Check judges a message and, if it is fresh, marks it as seen, in one step.
// When it returns Fresh the mark is already where a kill of the process does
// not reach it. It does not keep m.Sender, and allocates only for a sender that
// it has not met.
func (s *Set) Check(m Message) (v Verdict) {
	if len(m.Sender) == 0 || len(m.Sender) > MaxSender || m.Boot == 0 || m.Seq == 0 || m.Time <= 0 {
		return Refused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return Unavailable
	}
	v = Unavailable // what is left if the mapping faults below
	defer s.rescue(debug.SetPanicOnFault(true))

	if m.Time < s.floor {
		return BeforeStart
	}
	i, known := s.index[string(m.Sender)]
	if !known {
		return s.admit(&m)
	}
	if v := s.records[i].judge(&m); v != Fresh {
		return v
	}
	r := s.begin(i, m.Seq)
	r.accept(&m)
	s.commit(r)
	return Fresh
}

// admit gives a new sender a record.
func (s *Set) admit(m *Message) Verdict {
	t := &s.state.tally
	if m.Time <= t.forgotten {
		return Late
	}
	if len(s.free) == 0 {
		s.full++
		return Full
	}
	i := s.free[len(s.free)-1]
	r := s.begin(i, m.Seq)
	copy(r.name[:], m.Sender)
	r.window = window{length: uint32(len(m.Sender)), named: r.nameSum()}
	r.accept(m)
	s.count(t.used+1, t.forgotten)
	s.commit(r)
	s.free = s.free[:len(s.free)-1]
	s.index[string(m.Sender)] = i
	return Fresh
}

// Forget lets the set reclaim entries whose newest message is older than
// before (Unix milliseconds), and returns how many it reclaimed. The caller
// calls it every second or so with the oldest time that it would still take for
// fresh, now - skew: a replay for such an entry would be refused as stale.
//
// A sender that was reclaimed is believed again only with later messages than
// it, so a horizon that is too high costs senders their welcome but admits no
// replay. Entries are reclaimed only while less than an eighth of the set is
// free: the longer a sender is remembered, the more of its clones are noticed.
func (s *Set) Forget(before int64) int {
	s.mu.Lock()
	batches := (len(s.records) + reclaimBatch - 1) / reclaimBatch
	s.mu.Unlock()
	total := 0
	for range batches {
		n, more := s.reclaim(before)
		total += n
		if !more {
			break
		}
	}
	return total
}

// reclaim looks at the next batch of records. It reports whether there is
// reason to look further.
func (s *Set) reclaim(before int64) (n int, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, false
	}
	defer s.rescue(debug.SetPanicOnFault(true))
	for range min(reclaimBatch, len(s.records)) {
		if len(s.free) >= max(1, len(s.records)/8) {
			return n, false
		}
		i := uint32(s.hand)
		s.hand = (s.hand + 1) % len(s.records)
		if r := &s.records[i]; r.length != 0 && r.newest < before {
			delete(s.index, string(r.sender()))
			t := &s.state.tally
			s.begin(i, 0)
			s.count(t.used-1, max(t.forgotten, r.newest))
			r.length = 0
			s.commit(r)
			s.free = append(s.free, i)
			n++
		}
	}
	return n, true
}

// Lookup returns what is known of a sender.
func (s *Set) Lookup(sender []byte) (info Info, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, known := s.index[string(sender)]
	if s.err != nil || !known {
		return Info{}, false
	}
	defer s.rescue(debug.SetPanicOnFault(true))
	r := &s.records[i]
	return Info{Boot: r.boot, Previous: r.previous, Top: r.top, First: r.first, Newest: r.newest}, true
}

// Stats returns the set's figures.
func (s *Set) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Senders:  len(s.index),
		Capacity: len(s.free) + len(s.index),
		Full:     s.full,
		Floor:    s.floor,
		Damaged:  s.damaged,
	}
}

// Sync writes the windows to the disk and waits for it; Check goes on
// meanwhile. The caller calls it every second, and takes an error for an alarm:
// either the disk failed, or the mapping did and nothing is accepted any more.
func (s *Set) Sync() error {
	s.storage.Lock()
	defer s.storage.Unlock()
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("syncing replay windows: %w", err)
	}
	if s.flush == nil {
		return nil
	}
	if err := s.flush(); err != nil {
		return fmt.Errorf("syncing replay windows: %w", err)
	}
	return nil
}

// Close writes the windows to the disk and lets go of the file. The set answers
// Unavailable from then on. Closing twice is an error and does no harm.
func (s *Set) Close() error {
	s.storage.Lock()
	defer s.storage.Unlock()
	s.mu.Lock()
	if errors.Is(s.err, errClosed) {
		s.mu.Unlock()
		return fmt.Errorf("closing replay windows: %w", errClosed)
	}
	s.err = errClosed
	s.state, s.records, s.index, s.free = nil, nil, nil, nil
	s.mu.Unlock()
	if s.release == nil {
		return nil
	}
	if err := errors.Join(s.flush(), s.release()); err != nil {
		return fmt.Errorf("closing replay windows: %w", err)
	}
	return nil
}

// rescue is deferred around every use of the mapping. A disk that cannot
// deliver a page, or a file that was cut short, raises a fault there. The set
// then accepts nothing more; without rescue the whole process would die.
func (s *Set) rescue(before bool) {
	debug.SetPanicOnFault(before)
	if cause := recover(); cause != nil {
		s.err = asFault(cause)
	}
}

// asFault turns a recovered memory fault into an error. Any other panic is a
// fault of the program and goes on.
func asFault(cause any) error {
	fault, ok := cause.(interface{ Addr() uintptr })
	if !ok {
		panic(cause)
	}
	return fmt.Errorf("replay file cannot be accessed: fault at %#x", fault.Addr())
}
