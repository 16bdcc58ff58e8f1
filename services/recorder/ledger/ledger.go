// Package ledger knows which messages a recorder holds, by sender, boot and
// number, and what it may acknowledge (docs/topics.md, Acknowledgement).
//
// It guarantees that a message is new once, that no acknowledgement covers a
// number which is neither held nor given up by its sender, nor one that was
// taken since the last Commit, and that its memory is bounded whatever senders
// claim. It holds no messages, and knows the bytes of the newest alone: a message
// of a number that is held over other bytes is told from a repetition only while
// the first one's tag is there. A digest tells them apart for ever.
//
// It is not safe for concurrent use.
package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// Bounds of what is known.
const (
	MaxSenders = 1 << 16
	maxBoots   = 32      // of one sender: the newest
	maxSpans   = 1024    // of one boot
	tags       = 1 << 19 // of the newest messages of all senders, 16 bytes each
)

// Interval is how long a sender waits for an acknowledgement at least, but for one
// of a backfill.
const Interval = 5 * time.Second

// Finding is what the ledger says of a message.
type Finding uint8

// The findings.
const (
	// Taken: it was not held, and is from now on.
	Taken Finding = iota
	// Held: it is held already, or another of its number is and nobody knows
	// its bytes any more.
	Held
	// Contradicts: another message of its number is held.
	Contradicts
	// Crowded: its boot has too many gaps. The sender fills the lowest first.
	Crowded
	// Gone: what is held of its boot is not known any more.
	Gone
	// Untracked: there are too many senders to know what is held of this one.
	Untracked
)

// Ledger is what a recorder holds.
type Ledger struct {
	senders map[string]*sender
	limit   int       // of senders
	touched []*sender // since the last Commit
	owed    []*sender // an acknowledgement, the oldest first
	seed    maphash.Seed
	tags    []tag // by the hash of sender, boot and number
}

// tag tells one message of a number from another.
type tag struct{ place, sum uint64 }

// sender is what is held of one sender.
type sender struct {
	name       string
	generation uint32 // of the key of its newest message
	boots      []boot // ascending
	touched    bool

	// What may be acknowledged.
	boot, seq uint64
	dealt     uint64 // number of the newest backfill of boot that was dealt with
	owed      bool
	urgent    bool      // it waits for the end of a backfill
	last      time.Time // when it was acknowledged last

	answered uint64 // the backfill that the next Commit ends; 0: none
}

// New returns a ledger that holds nothing.
func New() *Ledger {
	return &Ledger{senders: make(map[string]*sender), limit: MaxSenders, seed: maphash.MakeSeed(), tags: make([]tag, tags)}
}

// Message names a message.
type Message struct {
	Sender []byte // site/role/name
	Boot   uint64
	Seq    uint64
	Sum    [sha256.Size]byte // of the whole envelope
}

// Take says whether a message is held, and from now on it is.
func (l *Ledger) Take(m Message) Finding {
	s := l.sender(m.Sender)
	if s == nil {
		return Untracked
	}
	b := s.of(m.Boot)
	if b == nil {
		return Gone
	}
	place, sum := l.place(m), binary.BigEndian.Uint64(m.Sum[:])
	known := &l.tags[place%uint64(len(l.tags))]
	if b.holds(m.Seq) {
		if known.place == place && known.sum != sum {
			return Contradicts
		}
		return Held
	}
	if !b.take(m.Seq) {
		return Crowded
	}
	*known = tag{place, sum}
	l.touch(s)
	return Taken
}

// place is where the tag of a message is.
func (l *Ledger) place(m Message) uint64 {
	var h maphash.Hash
	h.SetSeed(l.seed)
	h.Write(m.Sender)
	var number [16]byte
	binary.BigEndian.PutUint64(number[:], m.Boot)
	binary.BigEndian.PutUint64(number[8:], m.Seq)
	h.Write(number[:])
	return h.Sum64() | 1 // an empty tag is no message's
}

// Heard notes the generation of the key of a message or backfill that came just
// now, under which its sender is acknowledged.
func (l *Ledger) Heard(name []byte, boot uint64, generation uint32) {
	if s := l.sender(name); s != nil && s.of(boot) != nil && boot == s.newest() {
		s.generation = generation
	}
}

// Dispute notes that two messages of one number came. Nothing from that number
// on is acknowledged until its sender says that it holds it no longer.
func (l *Ledger) Dispute(m Message) {
	if s := l.sender(m.Sender); s != nil {
		if b := s.of(m.Boot); b != nil && (b.disputed == 0 || m.Seq < b.disputed) {
			b.disputed = m.Seq
			l.touch(s)
		}
	}
}

// GiveUp notes that a sender declares that it gave messages up, both ends
// included.
func (l *Ledger) GiveUp(name []byte, boot, first, last uint64) {
	if s := l.sender(name); s != nil {
		if b := s.of(boot); b != nil && first > 0 && first <= last {
			b.giveUp(first, last)
			l.touch(s)
		}
	}
}

// Backfill notes that a backfill, of that boot and number, is dealt with at the
// next Commit, and that its sender holds nothing of the boot below from.
func (l *Ledger) Backfill(name []byte, boot, number, from uint64) {
	s := l.sender(name)
	if s == nil {
		return
	}
	b := s.of(boot)
	if b == nil || boot != s.newest() {
		return // its sender has begun anew, and waits for nothing
	}
	if from > 1 {
		b.giveUp(1, from-1)
	}
	if b.disputed < from {
		b.disputed = 0
	}
	s.answered = max(s.answered, number)
	l.touch(s)
}

// sender returns what is held of a sender, nil if there are too many.
func (l *Ledger) sender(name []byte) *sender {
	s := l.senders[string(name)]
	if s == nil && len(l.senders) < l.limit {
		s = &sender{name: string(name)}
		l.senders[s.name] = s
	}
	return s
}

func (l *Ledger) touch(s *sender) {
	if !s.touched {
		s.touched = true
		l.touched = append(l.touched, s)
	}
}

// of returns what is held of a boot, nil if that is not known any more.
func (s *sender) of(number uint64) *boot {
	i, found := slices.BinarySearchFunc(s.boots, number, func(b boot, number uint64) int { return cmp.Compare(b.number, number) })
	if found {
		return &s.boots[i]
	}
	if i == len(s.boots) {
		s.answered = 0 // its sender has begun anew, and waits for nothing
	}
	if len(s.boots) == maxBoots {
		if i == 0 {
			return nil // it is, or was, the one to forget
		}
		s.boots = slices.Delete(s.boots, 0, 1)
		i--
	}
	s.boots = slices.Insert(s.boots, i, boot{number: number})
	return &s.boots[i]
}

func (s *sender) newest() uint64 { return s.boots[len(s.boots)-1].number }

// Commit says that everything that was taken is durable, and what is signed is
// part of the log.
func (l *Ledger) Commit() {
	for _, s := range l.touched {
		s.touched = false
		if len(s.boots) == 0 {
			continue
		}
		b := &s.boots[len(s.boots)-1]
		if s.boot != b.number {
			s.boot, s.dealt = b.number, 0
		}
		s.seq = b.whole()
		if s.answered > 0 {
			s.dealt, s.urgent = max(s.dealt, s.answered), true
		}
		s.answered = 0
		if !s.owed {
			s.owed = true
			l.owed = append(l.owed, s)
		}
	}
	l.touched = l.touched[:0]
}

// Ack is an acknowledgement that is due.
type Ack struct {
	Role, Name string
	Generation uint32
	Boot       uint64
	Seq        uint64
	Backfill   uint64
}

// Due returns up to most acknowledgements that are due, those of backfills
// first; they are not due any more.
func (l *Ledger) Due(now time.Time, most int) (due []Ack) {
	for _, urgent := range []bool{true, false} {
		left := l.owed[:0]
		for _, s := range l.owed {
			if len(due) == most || s.urgent != urgent || !urgent && now.Sub(s.last) < Interval && !now.Before(s.last) {
				left = append(left, s)
				continue
			}
			s.owed, s.urgent, s.last = false, false, now
			if s.generation == 0 {
				continue // nothing came from it since the start: nobody waits
			}
			_, peer, _ := strings.Cut(s.name, "/")
			role, name, _ := strings.Cut(peer, "/")
			due = append(due, Ack{Role: role, Name: name, Generation: s.generation, Boot: s.boot, Seq: s.seq, Backfill: s.dealt})
		}
		clear(l.owed[len(left):])
		l.owed = left
	}
	return due
}

// Owed returns how many senders wait for an acknowledgement.
func (l *Ledger) Owed() int { return len(l.owed) }

// Senders returns how many senders are known.
func (l *Ledger) Senders() int { return len(l.senders) }

// Gaps returns how many ranges of numbers are missing below others that are
// held, of the newest boots.
func (l *Ledger) Gaps() (gaps int) {
	for _, s := range l.senders {
		if len(s.boots) > 0 {
			gaps += len(s.boots[len(s.boots)-1].above)
		}
	}
	return gaps
}

// String returns the finding as a word.
func (f Finding) String() string {
	return [...]string{"taken", "held", "contradicts", "crowded", "gone", "untracked"}[f]
}

// Holds reports whether a message of that number is held.
func (l *Ledger) Holds(m Message) bool {
	s := l.senders[string(m.Sender)]
	if s == nil {
		return false
	}
	i, found := slices.BinarySearchFunc(s.boots, m.Boot, func(b boot, number uint64) int { return cmp.Compare(b.number, number) })
	return found && s.boots[i].holds(m.Seq)
}

// Settle is Commit for what was taken while the ledger was made: nobody waits for
// an acknowledgement of it yet.
func (l *Ledger) Settle() {
	l.Commit()
	for _, s := range l.owed {
		s.owed = false
	}
	l.owed = l.owed[:0]
}
