package session

import (
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"slices"
	"time"

	"levee/envelope"
	"levee/internal/wire"
)

// Bounds of one digest: over them a new range begins. Receivers keep room for
// more messages than this, and the class for more declared ranges.
const (
	maxCovered = 4096 // messages, sent or dropped
	maxRanges  = 256  // declared as dropped
	maxOwed    = 64   // digests that could not be signed
)

// ledger is what a sender owes a digest for (docs/envelope.md, section 8). It
// is told the fate of each message in the order of seq, and is not safe for
// concurrent use.
type ledger struct {
	boot    string
	first   uint64        // seq that the open range begins with
	next    uint64        // seq whose fate is told next
	hash    hash.Hash     // over the hashes of what was delivered in the open range
	covered int           // messages in hash
	dropped []wire.Drop   // in the open range
	lost    []wire.Drop   // earlier ranges that nobody vouches for, to be declared
	owed    []wire.Digest // closed ranges, not yet signed
}

func newLedger(boot uint64) ledger {
	return ledger{boot: envelope.FormatBoot(boot), first: 1, next: 1, hash: sha256.New()}
}

// deliver notes that the next message went out. sum is the hash of the whole
// envelope, MAC included.
func (l *ledger) deliver(sum [sha256.Size]byte) {
	l.bound()
	l.hash.Write(sum[:])
	l.covered++
	l.next++
}

// drop declares that the next message was given up before it was delivered.
func (l *ledger) drop() {
	l.bound()
	l.dropped = insert(l.dropped, wire.Drop{Boot: l.boot, First: l.next, Last: l.next})
	l.next++
}

// bound closes the open range when it is as long as a digest may be. One in
// which there is nothing to vouch for, as in a long outage, needs no digest of
// its own.
func (l *ledger) bound() {
	if l.next-l.first < maxCovered && len(l.dropped) < maxRanges {
		return
	}
	if l.covered > 0 {
		l.close()
		return
	}
	l.lost = insert(l.lost, wire.Drop{Boot: l.boot, First: l.first, Last: l.next - 1})
	l.first, l.dropped = l.next, nil
}

// close ends the open range, for which a digest is owed from now on.
func (l *ledger) close() {
	if l.next == l.first {
		return
	}
	l.owed = append(l.owed, wire.Digest{Boot: l.boot, First: l.first, Last: l.next - 1,
		Dropped: append(append([]wire.Drop{}, l.lost...), l.dropped...), // never null
		Hash:    base64.RawURLEncoding.EncodeToString(l.hash.Sum(nil))})
	l.hash.Reset()
	l.first, l.covered, l.dropped, l.lost = l.next, 0, nil, nil
	if len(l.owed) > maxOwed {
		l.lose(l.take())
	}
}

// take returns the oldest digest that is owed, which no longer is.
func (l *ledger) take() wire.Digest {
	d := l.owed[0]
	l.owed = l.owed[1:]
	return d
}

// lose declares that digest d was given up: nobody will see its range vouched
// for, and what it declared lost must be declared again.
func (l *ledger) lose(d wire.Digest) {
	for _, earlier := range d.Dropped {
		if earlier.Last < d.First {
			l.lost = insert(l.lost, earlier)
		}
	}
	l.lost = insert(l.lost, wire.Drop{Boot: l.boot, First: d.First, Last: d.Last})
}

// insert adds r to ranges of its boot, which are in order and do not touch, and
// keeps them so.
func insert(ranges []wire.Drop, r wire.Drop) []wire.Drop {
	i := len(ranges)
	for i > 0 && ranges[i-1].First > r.First {
		i--
	}
	ranges = slices.Insert(ranges, i, r)
	for i = max(i-1, 0); i+1 < len(ranges) && ranges[i].First <= r.Last; {
		if ranges[i].Last+1 < ranges[i+1].First {
			i++
			continue
		}
		ranges[i].Last = max(ranges[i].Last, ranges[i+1].Last)
		ranges = slices.Delete(ranges, i+1, i+2)
	}
	return ranges
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
