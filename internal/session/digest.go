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
	maxCovered = 4096    // messages, sent or dropped
	maxBytes   = 1 << 20 // of them
	maxRanges  = 256     // declared as dropped
	maxOwed    = 64      // digests that could not be signed
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
	bytes   int           // of them
	dropped []wire.Drop   // in the open range
	lost    []wire.Drop   // earlier ranges that nobody vouches for, to be declared
	owed    []wire.Digest // closed ranges, not yet signed
}

func newLedger(boot uint64) ledger {
	return ledger{boot: envelope.FormatBoot(boot), first: 1, next: 1, hash: sha256.New()}
}

// deliver notes that the next message went out, or will be there whenever it is
// asked for. sum is the hash of the whole envelope, MAC included.
func (l *ledger) deliver(sum [sha256.Size]byte, bytes int) {
	l.bound()
	l.hash.Write(sum[:])
	l.covered++
	l.bytes += bytes
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
	if l.next-l.first < maxCovered && len(l.dropped) < maxRanges && l.bytes < maxBytes {
		return
	}
	if l.covered > 0 {
		l.close()
		return
	}
	l.lost = insert(l.lost, wire.Drop{Boot: l.boot, First: l.first, Last: l.next - 1})
	l.begin()
}

// close ends the open range, for which a digest is owed from now on.
func (l *ledger) close() {
	if l.next == l.first {
		return
	}
	lost := l.lost[:min(len(l.lost), maxRanges)] // the others are the next digest's
	l.owed = append(l.owed, wire.Digest{Boot: l.boot, First: l.first, Last: l.next - 1,
		Dropped: append(append([]wire.Drop{}, lost...), l.dropped...), // never null
		Hash:    base64.RawURLEncoding.EncodeToString(l.hash.Sum(nil))})
	l.lost = l.lost[len(lost):]
	l.begin()
	if len(l.owed) > maxOwed {
		l.lose(l.take())
	}
}

// begin begins a range with the next message.
func (l *ledger) begin() {
	l.hash.Reset()
	l.first, l.covered, l.bytes, l.dropped = l.next, 0, 0, nil
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
		if earlier.Boot != d.Boot || earlier.Last < d.First {
			l.lost = insert(l.lost, earlier)
		}
	}
	l.lost = insert(l.lost, wire.Drop{Boot: l.boot, First: d.First, Last: d.Last})
}

// giveUp declares ranges that were delivered and can be had no longer, of this
// boot or of earlier ones. Those of this boot are whole ranges, but for the open
// one, which ends with them.
func (l *ledger) giveUp(gone []wire.Drop) {
	for _, r := range gone {
		if r.Boot == l.boot && r.Last >= l.first {
			r.First, r.Last = min(r.First, l.first), l.next-1
			l.begin()
		}
		l.owed = slices.DeleteFunc(l.owed, func(d wire.Digest) bool { // not signed: nobody knows of it
			within := r.Boot == l.boot && r.First <= d.First && d.Last <= r.Last
			if within {
				l.lose(d)
			}
			return within
		})
		l.lost = insert(l.lost, r)
	}
}

// insert adds r to ranges, which are in order of boot and number and do not
// touch, and keeps them so.
func insert(ranges []wire.Drop, r wire.Drop) []wire.Drop {
	i := len(ranges)
	for i > 0 && (ranges[i-1].Boot > r.Boot || ranges[i-1].Boot == r.Boot && ranges[i-1].First > r.First) {
		i--
	}
	ranges = slices.Insert(slices.Clip(ranges), i, r)
	for i = max(i-1, 0); i+1 < len(ranges) && (ranges[i].Boot < r.Boot || ranges[i].Boot == r.Boot && ranges[i].First <= r.Last); {
		if ranges[i].Boot != ranges[i+1].Boot || ranges[i].Last+1 < ranges[i+1].First {
			i++
			continue
		}
		ranges[i].Last = max(ranges[i].Last, ranges[i+1].Last)
		ranges = slices.Delete(ranges, i+1, i+2)
	}
	return ranges
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
