package audit

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"math"
	"slices"

	"levee/internal/confirm"
)

// stretch is a range of one boot's messages, and when it began and ended.
type stretch struct {
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	From    int64  `json:"from,omitempty"` // ms since the epoch; 0: not known
	To      int64  `json:"to,omitempty"`
	Expired bool   `json:"expired,omitempty"`
}

// find returns which of the stretches, which are in order, holds seq.
func find(all []stretch, seq uint64) (int, bool) {
	// The newest is asked for most.
	if n := len(all); n == 0 || seq > all[n-1].Last {
		return 0, false
	}
	i, _ := slices.BinarySearchFunc(all, seq, func(s stretch, seq uint64) int { return cmp.Compare(s.Last, seq) })
	return i, i < len(all) && all[i].First <= seq
}

func overlaps(all []stretch, first, last uint64) bool {
	i, _ := slices.BinarySearchFunc(all, first, func(s stretch, seq uint64) int { return cmp.Compare(s.Last, seq) })
	return i < len(all) && all[i].First <= last
}

// join adds a stretch, and makes one of those that touch or overlap and are
// alike.
func join(all []stretch, s stretch) []stretch {
	i, _ := slices.BinarySearchFunc(all, s.First, func(t stretch, seq uint64) int { return cmp.Compare(t.First, seq) })
	if i > 0 && all[i-1].Expired == s.Expired && (all[i-1].Last >= s.First || all[i-1].Last+1 == s.First) {
		i--
		t := &all[i]
		if s.Last >= t.Last {
			t.Last, t.To = s.Last, s.To
		}
	} else {
		all = slices.Insert(all, i, s)
	}
	for i+1 < len(all) && all[i+1].Expired == all[i].Expired && (all[i].Last == math.MaxUint64 || all[i+1].First <= all[i].Last+1) {
		if all[i+1].Last > all[i].Last {
			all[i].Last, all[i].To = all[i+1].Last, all[i+1].To
		}
		all = slices.Delete(all, i+1, i+2)
	}
	return all
}

// insert adds an open pledge in its place.
func (b *boot) insert(p *pledge) {
	i, _ := slices.BinarySearchFunc(b.pledges, p.First, func(p *pledge, seq uint64) int { return cmp.Compare(p.First, seq) })
	b.pledges = slices.Insert(b.pledges, i, p)
}

func (b *boot) remove(p *pledge) {
	b.pledges = slices.DeleteFunc(b.pledges, func(q *pledge) bool { return p == q })
}

// pledged reports whether an open pledge covers any of a range.
func (b *boot) pledged(first, last uint64) bool {
	i, _ := slices.BinarySearchFunc(b.pledges, first, func(p *pledge, seq uint64) int { return cmp.Compare(p.Last, seq) })
	return i < len(b.pledges) && b.pledges[i].First <= last
}

// covering returns the open pledge over seq, nil if there is none or if that
// declares seq as dropped.
func (b *boot) covering(seq uint64) *pledge {
	i, _ := slices.BinarySearchFunc(b.pledges, seq, func(p *pledge, seq uint64) int { return cmp.Compare(p.Last, seq) })
	if i == len(b.pledges) || b.pledges[i].First > seq || b.pledges[i].declares(seq) {
		return nil
	}
	return b.pledges[i]
}

// credit counts a message for its digest, and settles that when it was the last.
func (l *ledger) credit(b *boot, seq uint64) {
	if p := b.covering(seq); p != nil {
		if p.have++; p.have == p.need {
			l.conclude(b, p)
		}
	}
}

func (b *boot) uncredit(seq uint64) {
	if p := b.covering(seq); p != nil {
		p.have--
	}
}

// judge holds a digest against what was kept.
func (l *ledger) judge(b *boot, p *pledge) settled {
	files := make(map[int32]bool, 1)
	r := confirm.Check(p.Digest, func(seq uint64) ([sha256.Size]byte, bool) {
		if e := b.signed[seq]; e != nil {
			return e.sum, true
		}
		k, ok := b.waiting[seq]
		if ok {
			files[k.file] = true
		}
		return k.sum, ok
	})
	s := settled{Result: r, boot: b, index: p.index}
	if r.Outcome == confirm.Contradicted {
		for _, i := range slices.Sorted(maps.Keys(files)) {
			s.files = append(s.files, l.files[i].path)
		}
	}
	return s
}

// conclude settles a digest of which everything was kept: the messages are not
// needed any more, but for those that wait for their other copy.
func (l *ledger) conclude(b *boot, p *pledge) {
	l.settle(l.judge(b, p))
	l.close(b, p, false)
}

// expire settles a digest over messages that may have been deleted.
func (l *ledger) expire(b *boot, p *pledge) {
	s := l.judge(b, p)
	s.expired = true
	l.settle(s)
	l.close(b, p, true)
}

func (l *ledger) close(b *boot, p *pledge, expired bool) {
	b.remove(p)
	maps.DeleteFunc(b.recent, func(seq uint64, _ [sha256.Size]byte) bool { return seq < b.previous })
	b.previous = p.First
	for seq := p.First; seq <= p.Last; seq++ {
		if p.declares(seq) {
			continue
		}
		delete(b.waiting, seq)
		if s := b.signed[seq]; s != nil {
			s.settled = true
			b.forget(seq, s)
		}
	}
	for _, drop := range p.own {
		b.own = join(b.own, stretch{First: drop.First, Last: drop.Last})
	}
	b.done = join(b.done, stretch{First: p.First, Last: p.Last, From: p.time, To: p.time, Expired: expired})
}

// settleAll settles what is left.
func (l *ledger) settleAll() {
	type open struct {
		*boot
		*pledge
	}
	var all []open
	for _, b := range l.boots {
		for _, p := range b.pledges {
			all = append(all, open{b, p})
		}
	}
	slices.SortFunc(all, func(x, y open) int { return cmp.Compare(x.index, y.index) })
	for _, o := range all {
		l.settle(l.judge(o.boot, o.pledge))
	}
}

// halves returns the entries that are in no segment, in their order, and
// the signed messages that the log does not hold, by file and record.
func (l *ledger) halves() (entries, records []half) {
	for _, b := range l.boots {
		for seq, s := range b.signed {
			switch {
			case s.index == noEntry:
				records = append(records, half{b, seq, s})
			case s.file == noFile:
				entries = append(entries, half{b, seq, s})
			}
		}
	}
	slices.SortFunc(entries, func(x, y half) int { return cmp.Compare(x.index, y.index) })
	slices.SortFunc(records, func(x, y half) int { return cmp.Or(cmp.Compare(x.file, y.file), cmp.Compare(x.record, y.record)) })
	return entries, records
}

// half is a signed message of which one copy is missing.
type half struct {
	boot *boot
	seq  uint64
	*signed
}
