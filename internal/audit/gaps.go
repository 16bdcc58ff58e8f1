package audit

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"levee/envelope"
	"levee/internal/confirm"
)

// checkDigests reports what the digests say of what was kept, and what is
// missing.
func (a *audit) checkDigests() {
	for _, s := range a.ledger.settleAll() {
		a.report.Declared += s.Dropped
		switch s.Outcome {
		case confirm.Confirmed, confirm.Disowned: // what is disowned is named among the gaps
			a.report.Confirmed++
			a.report.Vouched += s.Seen
		case confirm.Incomplete:
			a.report.Incomplete++
		default:
			a.report.Contradicted++
			a.report.find(entryName(s.index), "the digest of %s over messages %d to %d of %s does not match what is kept in %s",
				s.boot.sender, s.First, s.Last, envelope.FormatBoot(s.boot.boot), strings.Join(append(s.files, "the log"), ", "))
		}
	}
	keys := slices.SortedFunc(maps.Keys(a.ledger.boots), func(x, y bootKey) int {
		return cmp.Or(cmp.Compare(x.sender, y.sender), cmp.Compare(x.boot, y.boot))
	})
	for i, key := range keys {
		newest := i+1 == len(keys) || keys[i+1].sender != key.sender
		a.reportGaps(a.ledger.boots[key], newest)
	}
}

func (a *audit) reportGaps(b *boot, newest bool) {
	missing := b.missing()
	unvouched, pending := b.unvouched(newest)
	a.report.Pending += pending
	for _, g := range missing {
		a.report.Missing = sum(a.report.Missing, g)
	}
	for _, g := range unvouched {
		a.report.Unvouched = sum(a.report.Unvouched, g)
	}
	all := append(missing, unvouched...)
	slices.SortStableFunc(all, func(x, y Gap) int { return cmp.Compare(x.First, y.First) })
	room := maxListed - len(a.report.Gaps)
	a.report.Gaps = append(a.report.Gaps, all[:min(len(all), room)]...)
}

// sum adds the length of a gap. Who signs can claim any numbers.
func sum(total uint64, g Gap) uint64 {
	n := g.Last - g.First + 1
	if n > math.MaxUint64-total {
		return math.MaxUint64
	}
	return total + n
}

// stretch is a range of one boot's messages, and when it ended.
type stretch struct {
	first, last uint64
	time        int64 // ms since the epoch; 0: not known
}

func (b *boot) gap(what string, first, last uint64, after, before int64) Gap {
	return Gap{What: what, Sender: b.sender, Boot: envelope.FormatBoot(b.boot), First: first, Last: last, After: after, Before: before}
}

// missing returns the numbers, from 1 to the last one known, that are neither
// kept nor declared dropped.
func (b *boot) missing() []Gap {
	known := slices.Clone(b.dropped)
	for seq, e := range b.logged {
		known = append(known, stretch{seq, seq, e.time})
	}
	for seq, k := range b.waiting {
		known = append(known, stretch{seq, seq, k.time})
	}
	for _, p := range b.pledges {
		if p.settled {
			known = append(known, stretch{p.First, p.Last, p.time})
		}
	}
	slices.SortFunc(known, func(x, y stretch) int { return cmp.Compare(x.first, y.first) })
	var gaps []Gap
	for next, after := uint64(1), int64(0); len(known) > 0; known = known[1:] {
		k := known[0]
		if k.first > next {
			gaps = append(gaps, b.gap(GapMissing, next, k.first-1, after, k.time))
		}
		if k.last == math.MaxUint64 {
			break
		}
		next = max(next, k.last+1)
		if k.time > 0 {
			after = k.time
		}
	}
	return gaps
}

// unvouched returns the readings that no digest will confirm any more, and
// counts those that one may still confirm: what came after the last digest of
// the sender's newest boot.
func (b *boot) unvouched(newest bool) (gaps []Gap, pending int) {
	var vouched uint64
	if n := len(b.pledges); n > 0 {
		vouched = b.pledges[n-1].Last
	}
	for _, seq := range slices.Sorted(maps.Keys(b.waiting)) {
		k := b.waiting[seq]
		if k.signed {
			continue // it stands by its signature
		}
		if newest && seq > vouched {
			pending++
			continue
		}
		if n := len(gaps); n > 0 && gaps[n-1].Last+1 == seq {
			gaps[n-1].Last, gaps[n-1].Before = seq, k.time
			continue
		}
		gaps = append(gaps, b.gap(GapUnvouched, seq, seq, k.time, k.time))
	}
	return gaps, pending
}
