package audit

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"levee/envelope"
	"levee/internal/confirm"
	"levee/internal/wire"
)

// ledger holds what each sender signed for against what was kept. Log and
// segments are read side by side, and a message is forgotten when its digest
// has come and every copy of it that there must be: what the ledger holds is
// what is open, however long the record.
type ledger struct {
	boots map[bootKey]*boot
	files []segmentFile // in the order in which they are read
	// keptSince is when the oldest message was received that must be in a
	// segment, ms since the epoch.
	keptSince int64
	settle    func(settled)
}

// segmentFile is a file that was read.
type segmentFile struct {
	path    string
	last    int64 // when its newest record was received, ms since the epoch
	records int64 // that were read
	size    int64 // of them, in the file
}

// bootKey is one boot of one sender.
type bootKey struct {
	sender string
	boot   uint64
}

// boot is what is known of one boot of one sender.
type boot struct {
	bootKey
	pledges  []*pledge                    // not settled, in order
	waiting  map[uint64]reading           // not settled, by seq
	signed   map[uint64]*signed           // not settled, or without their other copy
	done     []stretch                    // settled, in order, joined where they touch
	dropped  []stretch                    // declared by any digest
	own      []stretch                    // of those, what a settled digest declared of its own range
	recent   map[uint64][sha256.Size]byte // signed messages of the two ranges that were settled last
	previous uint64                       // where the last of them begins
}

// reading is an unsigned message in a segment.
type reading struct {
	sum  [sha256.Size]byte
	time int64 // ts
	file int32
}

// signed is a signed message in the log, in a segment, or in both.
type signed struct {
	sum      [sha256.Size]byte
	index    int64 // the entry; noEntry if there is none yet
	received int64 // ms since the epoch
	time     int64 // ts
	file     int32 // noFile if there is none yet
	record   int64 // in the file
	raw      []byte
	settled  bool // its digest is; it waits for its other copy
}

const (
	noEntry = -1
	noFile  = -1
)

// pledge is a digest.
type pledge struct {
	wire.Digest
	index int64
	time  int64       // ts
	need  int         // messages that it covers
	have  int         // of them
	own   []wire.Drop // of Dropped, those of the digest's boot, in order
}

// settled is what a digest says of what was kept.
type settled struct {
	confirm.Result
	boot  *boot
	index int64
	files []string // that hold the messages
	// expired says that segments may have been deleted that held them.
	expired bool
}

func newLedger(settle func(settled)) *ledger {
	return &ledger{boots: make(map[bootKey]*boot), settle: settle}
}

// of returns what is known of a boot.
func (l *ledger) of(sender string, number uint64) *boot {
	key := bootKey{sender, number}
	b := l.boots[key]
	if b == nil {
		key.sender = strings.Clone(sender)
		b = &boot{bootKey: key, waiting: make(map[uint64]reading), signed: make(map[uint64]*signed), recent: make(map[uint64][sha256.Size]byte)}
		l.boots[key] = b
	}
	return b
}

func (b *boot) number(seq uint64) string {
	return fmt.Sprintf("%s-%d", envelope.FormatBoot(b.boot), seq)
}

// repeated judges a message whose number a settled digest covers. over is
// false if there is none, or if that declares the number as dropped. The log
// may hold a message twice, when an answer was lost; of that, no sender is
// behind by more than the range before.
func (b *boot) repeated(seq uint64, sum [sha256.Size]byte) (over, same bool) {
	over, expired := b.over(seq)
	old, ok := b.recent[seq]
	return over, ok && old == sum || expired
}

// over reports whether a settled digest vouches for seq, and whether that was
// settled though messages may have been deleted.
func (b *boot) over(seq uint64) (over, expired bool) {
	i, ok := find(b.done, seq)
	if !ok {
		return false, false
	}
	if _, given := find(b.own, seq); given {
		return false, false
	}
	return true, b.done[i].Expired
}

// log notes a message of the log. again is true if it was there before.
func (l *ledger) log(b *boot, seq uint64, e signed) (again bool, err error) {
	e.file = noFile
	if e.received < l.keptSince {
		e.file = maxFile // it needs none
	}
	old := b.signed[seq]
	switch {
	case old == nil:
		if over, same := b.repeated(seq, e.sum); over && !same {
			return true, asKind(KindRepeat, fmt.Errorf("its number, %s of %s, was used before", b.number(seq), b.sender))
		} else if over {
			return true, nil
		}
		if r, ok := b.waiting[seq]; ok {
			// A segment's record that is no such message: its number is taken.
			delete(b.waiting, seq)
			b.uncredit(seq)
			l.add(b, seq, &e)
			return false, segmentError{l.files[r.file].path, asKind(KindRepeat, fmt.Errorf("entry %d of the log has the same number, %s of %s", e.index, b.number(seq), b.sender))}
		}
		l.add(b, seq, &e)
		return false, nil
	case old.index != noEntry:
		if old.sum != e.sum {
			return true, asKind(KindRepeat, fmt.Errorf("entry %d is another message with the same number, %s of %s", old.index, b.number(seq), b.sender))
		}
		return true, nil
	case old.sum != e.sum:
		file, record := old.file, old.record
		old.sum, old.index, old.received, old.time, old.file, old.raw = e.sum, e.index, e.received, e.time, e.file, nil
		return false, segmentError{l.files[file].path, fmt.Errorf("record %d: %w", record, b.contradicts(seq, e.index))}
	}
	old.index, old.received, old.raw = e.index, e.received, nil
	b.forget(seq, old)
	return false, nil
}

// maxFile stands for a segment that may have been deleted.
const maxFile = 1<<31 - 1

func (b *boot) contradicts(seq uint64, index int64) error {
	return asKind(KindRepeat, fmt.Errorf("it is not entry %d of the log, which has the same number, %s of %s", index, b.number(seq), b.sender))
}

// segmentError is what an entry of the log says against a segment.
type segmentError struct {
	path string
	error
}

func (e segmentError) Unwrap() error { return e.error }

// copied notes a signed message that is in a segment.
func (l *ledger) copied(b *boot, seq uint64, s signed) error {
	s.index = noEntry
	if over, expired := b.over(seq); over && b.signed[seq] == nil {
		if expired {
			return nil
		}
		return b.twice(seq)
	}
	if _, ok := b.waiting[seq]; ok {
		return b.twice(seq)
	}
	old := b.signed[seq]
	switch {
	case old == nil:
		l.add(b, seq, &s)
		return nil
	case old.file != noFile && old.file != maxFile:
		return b.twice(seq)
	case old.sum != s.sum:
		return b.contradicts(seq, old.index)
	}
	old.file, old.record = s.file, s.record
	b.forget(seq, old)
	return nil
}

func (b *boot) twice(seq uint64) error {
	return asKind(KindRepeat, fmt.Errorf("%s of %s is kept twice", b.number(seq), b.sender))
}

// keep notes an unsigned message, which is in a segment alone.
func (l *ledger) keep(b *boot, seq uint64, r reading) error {
	if _, ok := b.waiting[seq]; ok {
		return b.twice(seq)
	}
	if e := b.signed[seq]; e != nil && e.index != noEntry {
		return asKind(KindRepeat, fmt.Errorf("entry %d of the log has the same number, %s of %s", e.index, b.number(seq), b.sender))
	} else if e != nil {
		return b.twice(seq)
	}
	if over, expired := b.over(seq); expired {
		return nil
	} else if over {
		return b.twice(seq)
	}
	b.waiting[seq] = r
	l.credit(b, seq)
	return nil
}

func (l *ledger) add(b *boot, seq uint64, s *signed) {
	b.signed[seq] = s
	l.credit(b, seq)
}

// forget drops a message that is settled and has both its copies.
func (b *boot) forget(seq uint64, s *signed) {
	if s.settled && s.index != noEntry && s.file != noFile {
		delete(b.signed, seq)
		b.recent[seq] = s.sum
	}
}

// pledge notes a digest whose signature was verified.
func (l *ledger) pledge(b *boot, d wire.Digest, index, at, received int64) error {
	none := confirm.Check(d, func(uint64) (sum [sha256.Size]byte, seen bool) { return sum, false })
	if none.Outcome == confirm.Malformed {
		return asKind(KindDigest, errors.New("the digest contradicts itself"))
	}
	if overlaps(b.done, d.First, d.Last) || b.pledged(d.First, d.Last) {
		return asKind(KindDigest, errors.New("the digest is over messages that another digest of its sender covers"))
	}
	for _, drop := range d.Dropped {
		number, _ := envelope.ParseBoot(drop.Boot) // Check has read it
		dropping := l.of(b.sender, number)
		dropping.dropped = join(dropping.dropped, stretch{First: drop.First, Last: drop.Last})
	}
	p := &pledge{Digest: d, index: index, time: at, need: none.Missing, own: ownDrops(d)}
	for seq := d.First; seq <= d.Last; seq++ {
		if !p.declares(seq) && b.holds(seq) {
			p.have++
		}
	}
	b.insert(p)
	if p.have == p.need {
		l.conclude(b, p)
	} else if received < l.keptSince {
		l.expire(b, p)
	}
	return nil
}

func (b *boot) holds(seq uint64) bool {
	_, reading := b.waiting[seq]
	return reading || b.signed[seq] != nil
}

// ownDrops returns what a digest declares of its own range, in order.
func ownDrops(d wire.Digest) (own []wire.Drop) {
	for _, drop := range d.Dropped {
		if drop.Boot == d.Boot && drop.First >= d.First {
			own = append(own, drop)
		}
	}
	slices.SortFunc(own, func(x, y wire.Drop) int { return cmp.Compare(x.First, y.First) })
	return own
}

// declares reports whether seq was given up.
func (p *pledge) declares(seq uint64) bool {
	i, _ := slices.BinarySearchFunc(p.own, seq, func(d wire.Drop, seq uint64) int { return cmp.Compare(d.Last, seq) })
	return i < len(p.own) && p.own[i].First <= seq
}
