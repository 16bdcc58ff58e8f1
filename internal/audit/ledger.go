package audit

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"levee/envelope"
	"levee/internal/confirm"
	"levee/internal/wire"
)

// ledger holds what each sender signed for against what was kept. The log is
// read into it first and whole, so that every digest is known when the segments
// come: a message is forgotten as soon as its digest is settled.
type ledger struct {
	boots map[bootKey]*boot
	files []string // segments, in the order in which they are read
	ready bool     // prepare was called
	done  []settled
}

// bootKey is one boot of one sender.
type bootKey struct {
	sender string
	boot   uint64
}

// boot is what is known of one boot of one sender.
type boot struct {
	bootKey
	pledges []*pledge
	logged  map[uint64]*logged
	waiting map[uint64]kept // in segments, not settled, by seq
	dropped []stretch       // declared by any digest
}

// logged is a signed message in the log.
type logged struct {
	sum      [sha256.Size]byte
	index    int64
	received int64 // ms since the epoch
	time     int64 // ts
	signer   int32 // of registry.signers
	copied   bool  // it was found in a segment
}

// kept is a message in a segment that the log does not hold.
type kept struct {
	sum    [sha256.Size]byte
	time   int64 // ts
	file   int
	signed bool
}

// pledge is a digest.
type pledge struct {
	wire.Digest
	index   int64
	time    int64 // ts
	need    int   // messages that it covers
	have    int   // of them
	settled bool
	own     []wire.Drop // of Dropped, those of the digest's boot, in order
}

// settled is what a digest says of what was kept.
type settled struct {
	confirm.Result
	boot  *boot
	index int64
	files []string // that hold the messages
}

func newLedger() *ledger { return &ledger{boots: make(map[bootKey]*boot)} }

// of returns what is known of a boot.
func (l *ledger) of(sender string, number uint64) *boot {
	key := bootKey{sender, number}
	b := l.boots[key]
	if b == nil {
		key.sender = strings.Clone(sender)
		b = &boot{bootKey: key, logged: make(map[uint64]*logged), waiting: make(map[uint64]kept)}
		l.boots[key] = b
	}
	return b
}

// log notes a message of the log. again is true if it was there before.
func (b *boot) log(seq uint64, e logged) (again bool, err error) {
	if old := b.logged[seq]; old != nil {
		if old.sum != e.sum {
			return true, fmt.Errorf("entry %d is another message with the same number, %s of %s", old.index, b.number(seq), b.sender)
		}
		return true, nil
	}
	b.logged[seq] = &e
	return false, nil
}

func (b *boot) number(seq uint64) string {
	return fmt.Sprintf("%s-%d", envelope.FormatBoot(b.boot), seq)
}

// pledge notes a digest whose signature was verified.
func (l *ledger) pledge(b *boot, d wire.Digest, index, at int64) error {
	none := confirm.Check(d, func(uint64) (sum [sha256.Size]byte, seen bool) { return sum, false })
	if none.Outcome == confirm.Malformed {
		return errors.New("the digest contradicts itself")
	}
	for _, drop := range d.Dropped {
		number, _ := envelope.ParseBoot(drop.Boot) // Check has read it
		dropping := l.of(b.sender, number)
		dropping.dropped = append(dropping.dropped, stretch{first: drop.First, last: drop.Last})
	}
	p := &pledge{Digest: d, index: index, time: at, need: none.Missing}
	for _, drop := range d.Dropped {
		if drop.Boot == d.Boot {
			p.own = append(p.own, drop)
		}
	}
	slices.SortFunc(p.own, func(x, y wire.Drop) int { return cmp.Compare(x.First, y.First) })
	b.pledges = append(b.pledges, p)
	return nil
}

// prepare is called once, between log and segments. It returns the digests
// that cover what another one covers: no sender signs twice for a message.
func (l *ledger) prepare() (doubled []*pledge) {
	l.ready = true
	for _, b := range l.boots {
		slices.SortFunc(b.pledges, func(p, q *pledge) int {
			return cmp.Or(cmp.Compare(p.First, q.First), cmp.Compare(p.index, q.index))
		})
		single := b.pledges[:0]
		for _, p := range b.pledges {
			if len(single) > 0 && p.First <= single[len(single)-1].Last {
				doubled = append(doubled, p)
				continue
			}
			single = append(single, p)
		}
		b.pledges = single
		for seq := range b.logged {
			l.credit(b, seq)
		}
	}
	return doubled
}

// file says which segment the messages to come are in.
func (l *ledger) file(path string) { l.files = append(l.files, path) }

// copied notes that a signed message was found in a segment. found is false if
// the log does not hold it.
func (b *boot) copied(seq uint64, sum [sha256.Size]byte) (found bool, err error) {
	e := b.logged[seq]
	switch {
	case e == nil:
		return false, nil
	case e.sum != sum:
		return true, fmt.Errorf("it is not entry %d of the log, which has the same number, %s of %s", e.index, b.number(seq), b.sender)
	case e.copied:
		return true, fmt.Errorf("%s of %s is kept twice", b.number(seq), b.sender)
	}
	e.copied = true
	return true, nil
}

// keep notes a message that is in a segment alone.
func (l *ledger) keep(b *boot, seq uint64, k kept) error {
	k.file = len(l.files) - 1
	_, twice := b.waiting[seq]
	if p := b.covering(seq); p != nil && p.settled && !p.declares(seq) {
		twice = true
	}
	switch e := b.logged[seq]; {
	case twice:
		return fmt.Errorf("%s of %s is kept twice", b.number(seq), b.sender)
	case e != nil:
		return fmt.Errorf("entry %d of the log has the same number, %s of %s", e.index, b.number(seq), b.sender)
	}
	b.waiting[seq] = k
	if l.ready {
		l.credit(b, seq)
	}
	return nil
}

// credit counts a message for its digest, and settles that when it was the last.
func (l *ledger) credit(b *boot, seq uint64) {
	p := b.covering(seq)
	if p == nil || p.declares(seq) {
		return
	}
	if p.have++; p.have == p.need {
		l.settle(b, p)
	}
}

// covering returns the digest over seq, nil if there is none.
func (b *boot) covering(seq uint64) *pledge {
	i, found := slices.BinarySearchFunc(b.pledges, seq, func(p *pledge, seq uint64) int { return cmp.Compare(p.First, seq) })
	if !found {
		i--
	}
	if i < 0 || seq > b.pledges[i].Last {
		return nil
	}
	return b.pledges[i]
}

// declares reports whether seq was given up.
func (p *pledge) declares(seq uint64) bool {
	i, _ := slices.BinarySearchFunc(p.own, seq, func(d wire.Drop, seq uint64) int { return cmp.Compare(d.Last, seq) })
	return i < len(p.own) && p.own[i].First <= seq
}

// settle holds a digest against what was kept. If all of it was, the messages
// are not needed any more.
func (l *ledger) settle(b *boot, p *pledge) {
	files := make(map[int]bool)
	r := confirm.Check(p.Digest, func(seq uint64) ([sha256.Size]byte, bool) {
		if e := b.logged[seq]; e != nil {
			return e.sum, true
		}
		k, ok := b.waiting[seq]
		if ok {
			files[k.file] = true
		}
		return k.sum, ok
	})
	s := settled{Result: r, boot: b, index: p.index}
	for _, i := range slices.Sorted(maps.Keys(files)) {
		s.files = append(s.files, l.files[i])
	}
	l.done = append(l.done, s)
	if r.Outcome == confirm.Incomplete {
		return
	}
	p.settled = true
	for seq := p.First; seq <= p.Last; seq++ {
		if !p.declares(seq) {
			delete(b.waiting, seq)
		}
	}
}

// settleAll settles what is left, and returns all, in the order of the log.
func (l *ledger) settleAll() []settled {
	for _, b := range l.boots {
		for _, p := range b.pledges {
			if !p.settled {
				l.settle(b, p)
			}
		}
	}
	slices.SortFunc(l.done, func(a, b settled) int { return cmp.Compare(a.index, b.index) })
	return l.done
}

// withoutCopy returns the entries that are in no segment, in their order, but
// for those received before since, in ms since the epoch.
func (l *ledger) withoutCopy(since int64) []*logged {
	var lost []*logged
	for _, b := range l.boots {
		for _, e := range b.logged {
			if !e.copied && e.received >= since {
				lost = append(lost, e)
			}
		}
	}
	slices.SortFunc(lost, func(a, b *logged) int { return cmp.Compare(a.index, b.index) })
	return lost
}
