package ledger

import "slices"

// span is a range of numbers, both ends included.
type span struct{ first, last uint64 }

// boot is what is held of one boot of a sender.
type boot struct {
	number   uint64
	prefix   uint64 // every number from 1 to here is held or was given up
	above    []span // likewise, above the prefix; in order, not touching
	missing  []span // given up and not held; in order, not touching
	disputed uint64 // the lowest number of which two messages came; 0: none
}

// whole returns the number up to which everything may be acknowledged.
func (b *boot) whole() uint64 {
	if b.disputed > 0 {
		return min(b.prefix, b.disputed-1)
	}
	return b.prefix
}

// holds reports whether a message of that number is held.
func (b *boot) holds(seq uint64) bool {
	return (seq <= b.prefix || contains(b.above, seq)) && !contains(b.missing, seq)
}

// take notes that a message is held that was not. It reports whether there was
// room for that.
func (b *boot) take(seq uint64) bool {
	if contains(b.missing, seq) {
		b.missing = without(b.missing, seq)
		return true // its place was counted when it was given up
	}
	above := insert(b.above, span{seq, seq})
	if len(above) > maxSpans && above[0].first != b.prefix+1 {
		b.above = without(above, seq)
		return false
	}
	b.above = above
	b.fold()
	return true
}

// giveUp notes that numbers will not come. What of them is held stays held.
func (b *boot) giveUp(first, last uint64) {
	for first <= last {
		gap, ok := b.gap(first, last)
		if !ok || len(b.above) >= maxSpans && gap.first != b.prefix+1 {
			break // its sender says from where on it holds anything
		}
		b.missing = insert(b.missing, gap)
		b.above = insert(b.above, gap)
		b.fold()
		if gap.last == last {
			break
		}
		first = gap.last + 1
	}
	if n := len(b.missing) - maxSpans; n > 0 {
		b.missing = slices.Delete(b.missing, 0, n) // one that comes all the same counts as held
	}
}

// gap returns the first range of first to last that is neither held nor given
// up.
func (b *boot) gap(first, last uint64) (gap span, ok bool) {
	if b.prefix >= last {
		return span{}, false
	}
	first = max(first, b.prefix+1)
	for _, s := range b.above {
		if s.last < first {
			continue
		}
		if s.first > first {
			return span{first, min(last, s.first-1)}, true
		}
		if s.last >= last {
			return span{}, false
		}
		first = s.last + 1
	}
	return span{first, last}, true
}

// fold moves the prefix over what follows it.
func (b *boot) fold() {
	if len(b.above) > 0 && b.above[0].first <= b.prefix+1 && b.prefix+1 != 0 {
		b.prefix = max(b.prefix, b.above[0].last)
		b.above = slices.Delete(b.above, 0, 1)
	}
}

// find returns the index of the first span that does not end before seq.
func find(spans []span, seq uint64) int {
	i, _ := slices.BinarySearchFunc(spans, seq, func(s span, seq uint64) int {
		if s.last < seq {
			return -1
		}
		return 1
	})
	return i
}

func contains(spans []span, seq uint64) bool {
	i := find(spans, seq)
	return i < len(spans) && spans[i].first <= seq
}

// insert adds a span that overlaps none.
func insert(spans []span, s span) []span {
	i := find(spans, s.first)
	joinsBefore := i > 0 && spans[i-1].last+1 == s.first
	joinsAfter := i < len(spans) && s.last+1 == spans[i].first
	switch {
	case joinsBefore && joinsAfter:
		spans[i-1].last = spans[i].last
		return slices.Delete(spans, i, i+1)
	case joinsBefore:
		spans[i-1].last = s.last
	case joinsAfter:
		spans[i].first = s.first
	default:
		return slices.Insert(spans, i, s)
	}
	return spans
}

// without takes one number out of the spans that contain it.
func without(spans []span, seq uint64) []span {
	i := find(spans, seq)
	switch s := spans[i]; {
	case s.first == s.last:
		return slices.Delete(spans, i, i+1)
	case s.first == seq:
		spans[i].first++
	case s.last == seq:
		spans[i].last--
	default:
		spans[i].last = seq - 1
		return slices.Insert(spans, i+1, span{seq + 1, s.last})
	}
	return spans
}
