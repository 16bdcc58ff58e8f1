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

// settle reports what a digest says of what was kept.
func (a *audit) settle(s settled) {
	a.report.Declared += s.Dropped
	switch {
	case s.Outcome == confirm.Confirmed || s.Outcome == confirm.Disowned: // what is disowned is named among the gaps
		a.report.Confirmed++
		a.report.Vouched += s.Seen
	case s.Outcome == confirm.Incomplete && s.expired:
		a.report.Expired++
	case s.Outcome == confirm.Incomplete:
		a.report.Incomplete++
	default:
		a.report.Contradicted++
		a.report.find(between, KindDigest, entryName(s.index), "the digest of %s over messages %d to %d of %s does not match what is kept in %s",
			s.boot.sender, s.First, s.Last, envelope.FormatBoot(s.boot.boot), strings.Join(append(s.files, "the log"), ", "))
	}
}

// checkGaps settles what is open, and reports what is missing.
func (a *audit) checkGaps() {
	a.ledger.settleAll()
	keys := slices.SortedFunc(maps.Keys(a.ledger.boots), func(x, y bootKey) int {
		return cmp.Or(cmp.Compare(x.sender, y.sender), cmp.Compare(x.boot, y.boot))
	})
	for i, key := range keys {
		newest := i+1 == len(keys) || keys[i+1].sender != key.sender
		a.reportGaps(a.ledger.boots[key], newest)
	}
}

func (a *audit) reportGaps(b *boot, newest bool) {
	missing := slices.DeleteFunc(b.missing(), func(g Gap) bool { return g.Before > 0 && g.Before < a.ledger.keptSince })
	unvouched, pending := b.unvouched(newest)
	a.report.Pending += pending
	for _, g := range missing {
		a.report.Missing = sum(a.report.Missing, g)
		a.executions.missed(b.sender, g)
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

func (b *boot) gap(what string, first, last uint64, after, before int64) Gap {
	return Gap{What: what, Sender: b.sender, Boot: envelope.FormatBoot(b.boot), First: first, Last: last, After: after, Before: before}
}

// missing returns the numbers, from 1 to the last one known, that are neither
// kept nor declared dropped.
func (b *boot) missing() []Gap {
	known := append(slices.Clone(b.dropped), b.done...)
	for seq, s := range b.signed {
		known = append(known, stretch{First: seq, Last: seq, From: s.time, To: s.time})
	}
	for seq, r := range b.waiting {
		known = append(known, stretch{First: seq, Last: seq, From: r.time, To: r.time})
	}
	slices.SortFunc(known, func(x, y stretch) int { return cmp.Compare(x.First, y.First) })
	var gaps []Gap
	for next, after := uint64(1), int64(0); len(known) > 0; known = known[1:] {
		k := known[0]
		if k.First > next {
			gaps = append(gaps, b.gap(GapMissing, next, k.First-1, after, k.From))
		}
		if k.Last == math.MaxUint64 {
			break
		}
		next = max(next, k.Last+1)
		if k.To > 0 {
			after = k.To
		}
	}
	return gaps
}

// unvouched returns the readings that no digest will confirm any more, and
// counts those that one may still confirm: what came after the last digest of
// the sender's newest boot.
func (b *boot) unvouched(newest bool) (gaps []Gap, pending int) {
	var vouched uint64
	if n := len(b.done); n > 0 {
		vouched = b.done[n-1].Last
	}
	if n := len(b.pledges); n > 0 {
		vouched = max(vouched, b.pledges[n-1].Last)
	}
	for _, seq := range slices.Sorted(maps.Keys(b.waiting)) {
		r := b.waiting[seq]
		if newest && seq > vouched {
			pending++
			continue
		}
		if n := len(gaps); n > 0 && gaps[n-1].Last+1 == seq {
			gaps[n-1].Last, gaps[n-1].Before = seq, r.time
			continue
		}
		gaps = append(gaps, b.gap(GapUnvouched, seq, seq, r.time, r.time))
	}
	return gaps, pending
}
