package replay

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
)

const (
	// reclaimBatch is how many records Forget looks at under one hold of the
	// lock, so that it delays no Check noticeably.
	reclaimBatch = 1024
	// growth is how many records a file begins with and grows by: under a
	// millisecond for the one Check in so many new senders that meets it.
	growth = 1024
)

var errClosed = errors.New("replay set is closed")

// Set holds the windows of up to a fixed number of senders, and apart from
// them those of half as many unproven ones. Its storage grows with those that
// it has met. All methods are safe for concurrent use.
type Set struct {
	// storage is held during Sync and Close, so that the file is not unmapped
	// under a Sync; Check does not wait for it. It is taken before mu.
	storage sync.Mutex
	flush   func(records int) error // nil: in memory only
	release func() error

	mu       sync.Mutex
	state    *state
	records  []record
	capacity int
	rooms    [2]room                  // proven, unproven
	grow     func() ([]record, error) // returns records and more, up to bothRooms
	stuck    error                    // why grow failed, until Sync says so
	index    map[string]uint32        // sender to record
	free     []uint32                 // records not in use
	hand     int                      // where Forget goes on
	floor    int64                    // Time below this is BeforeStart
	damaged  int
	err      error // closed or failed: nothing is Fresh any more
}

// room is what senders of one kind share. Neither kind can fill the other's, nor
// have the set forget one of the other.
type room struct {
	used, limit int
	full        uint64
}

// tight reports whether less than an eighth of the room is free.
func (r *room) tight() bool { return r.limit-r.used < max(1, r.limit/8) }

// unprovenMark ends the name under which the window of an unproven sender is
// kept. It stands in no sender's name.
const unprovenMark = '?'

// roomOf returns the room of a sender by the name that its window is kept under.
func (s *Set) roomOf(name []byte) *room {
	if name[len(name)-1] == unprovenMark {
		return &s.rooms[1]
	}
	return &s.rooms[0]
}

// unprovenRoom returns how many unproven senders fit beside capacity others.
func unprovenRoom(capacity int) int { return (capacity + 1) / 2 }

// bothRooms returns how many records a set needs at most.
func bothRooms(capacity int) int { return capacity + unprovenRoom(capacity) }

// Stats is what a service reports of its set.
type Stats struct {
	Senders  int // Unproven is not part of it
	Unproven int
	Capacity int // of Senders; half of it for the unproven, rounded up
	// Full and FullUnproven count the messages refused for want of room since
	// the start.
	Full, FullUnproven uint64
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
	First    int64  // the earlier of time and arrival of the first message of Boot to arrive, Unix milliseconds
	Newest   int64  // latest time accepted of any boot, Unix milliseconds
}

// New returns a set in memory for capacity senders, 0 to MaxCapacity (values
// outside are brought inside; a set without room answers Full). It forgets
// everything with the process and has no start to refuse from: it fits where
// something else remembers, and tests.
func New(capacity int) *Set {
	capacity = bounded(capacity)
	most := bothRooms(capacity)
	s := newSet(capacity, &state{}, make([]record, min(growth, most)))
	s.grow = func() ([]record, error) {
		more := make([]record, min(2*len(s.records), most))
		copy(more, s.records)
		return more, nil
	}
	return s
}

func bounded(capacity int) int { return min(max(capacity, 0), MaxCapacity) }

// newSet returns a set over empty storage, which does not grow yet.
func newSet(capacity int, st *state, records []record) *Set {
	s := &Set{capacity: capacity, state: st, index: make(map[string]uint32)}
	s.rooms[0].limit, s.rooms[1].limit = capacity, unprovenRoom(capacity)
	s.use(records)
	return s
}

// use takes over records, of which the first are those in use already.
func (s *Set) use(records []record) {
	for i := len(records) - 1; i >= len(s.records); i-- {
		s.free = append(s.free, uint32(i))
	}
	s.records = records
}

// Check judges a message and, if it is fresh, marks it as seen, in one step.
// When it returns Fresh the mark is already where a kill of the process does
// not reach it. It does not keep m.Sender, and allocates only for a sender that
// it has not met.
func (s *Set) Check(m Message) (v Verdict) {
	if len(m.Sender) == 0 || m.Sender[len(m.Sender)-1] == unprovenMark || m.Boot == 0 || m.Seq == 0 || m.Time <= 0 {
		return Refused
	}
	name, buffer := m.Sender, [MaxSender + 1]byte{}
	if m.Unproven && len(name) <= MaxSender {
		name = append(append(buffer[:0], name...), unprovenMark)
	}
	if len(name) > MaxSender {
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
	i, known := s.index[string(name)]
	if !known {
		return s.admit(name, &m)
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
func (s *Set) admit(name []byte, m *Message) Verdict {
	t := &s.state.tally
	if m.Time <= t.forgotten {
		return Late
	}
	room := s.roomOf(name)
	if room.used >= room.limit || len(s.free) == 0 && !s.enlarge() {
		room.full++
		return Full
	}
	i := s.free[len(s.free)-1]
	r := s.begin(i, m.Seq)
	copy(r.name[:], name)
	r.window = window{length: uint32(len(name)), named: r.nameSum()}
	r.accept(m)
	s.count(t.used+1, t.forgotten)
	s.commit(r)
	s.free = s.free[:len(s.free)-1]
	s.index[string(name)] = i
	room.used++
	return Fresh
}

// enlarge makes more records, and reports whether it did. After a failure it
// waits for the next Sync: a full disk must not cost every message a try.
func (s *Set) enlarge() bool {
	if s.stuck != nil || len(s.records) >= bothRooms(s.capacity) {
		return false
	}
	records, err := s.grow()
	if err != nil {
		s.stuck = err
		return false
	}
	s.use(records)
	return true
}

// Forget lets the set reclaim entries whose newest message is older than
// before (Unix milliseconds), and returns how many it reclaimed. The caller
// calls it every second or so with the oldest time that it would still take for
// fresh, now - skew: a replay for such an entry would be refused as stale.
//
// A sender that was reclaimed is believed again only with later messages than
// it, so a horizon that is too high costs senders their welcome but admits no
// replay. Entries are reclaimed only while less than an eighth of the room is
// free, and only in the room that is short, so that inventing unproven senders
// makes the set forget no other: the longer a sender is remembered, the more of
// its clones are noticed.
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
		if !s.rooms[0].tight() && !s.rooms[1].tight() {
			return n, false
		}
		i := uint32(s.hand)
		s.hand = (s.hand + 1) % len(s.records)
		r := &s.records[i]
		if r.length == 0 || r.newest >= before {
			continue
		}
		if room := s.roomOf(r.sender()); room.tight() {
			room.used--
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

// Lookup returns what is known of a sender, as far as it was proven.
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
		Senders:      s.rooms[0].used,
		Unproven:     s.rooms[1].used,
		Capacity:     s.capacity,
		Full:         s.rooms[0].full,
		FullUnproven: s.rooms[1].full,
		Floor:        s.floor,
		Damaged:      s.damaged,
	}
}

// Sync writes the windows to the disk and waits for it; Check goes on
// meanwhile. The caller calls it every second, and takes an error for an alarm:
// the disk failed, or it is full and keeps new senders out, or the mapping failed
// and nothing is accepted any more.
func (s *Set) Sync() error {
	s.storage.Lock()
	defer s.storage.Unlock()
	s.mu.Lock()
	err, stuck, records := s.err, s.stuck, len(s.records)
	s.stuck = nil
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("syncing replay windows: %w", err)
	}
	if s.flush == nil {
		return nil
	}
	if err := errors.Join(stuck, s.flush(records)); err != nil {
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
	records := len(s.records)
	s.state, s.records, s.index, s.free = nil, nil, nil, nil
	s.mu.Unlock()
	if s.release == nil {
		return nil
	}
	if err := errors.Join(s.flush(records), s.release()); err != nil {
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
