// Package confirm holds what a receiver saw against the digests that senders
// sign (docs/envelope.md, section 8).
//
// It guarantees that a range is called confirmed only if every message in it
// was seen, byte for byte, but for those that its sender declares dropped, and
// it counts those of them that were seen all the same: nobody vouches for them.
// It needs no key: whoever can verify the digest's signature can use it. It does
// not verify that signature itself; the caller has.
//
// Two different messages under one number are never confirmed, whichever of them
// the sender sent, as long as the first one still waits when the second one comes.
//
// It guarantees as well that a flood of messages from invented senders leaves
// no lasting trace: a sender that it has not heard of may lose what waits until
// its first digest, and one with more than 64 messages waiting may lose them.
package confirm

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"math"
	"slices"

	"levee/envelope"
	"levee/internal/wire"
)

// Outcome is what a digest says of what was seen.
type Outcome uint8

// The outcomes of a digest.
const (
	// Malformed: the digest contradicts itself.
	Malformed Outcome = iota
	// Confirmed: everything in the range was seen as it was sent.
	Confirmed
	// Incomplete: some of the range was not seen, so that nothing can be said
	// of the rest. Who began to listen in the middle of a range sees this once.
	Incomplete
	// Contradicted: something in the range is not what the sender sent.
	Contradicted
	// Disowned: the sender vouches for what matches, and takes back or leaves
	// out something that was seen. It may have believed it undelivered; or it
	// denies what it said.
	Disowned
)

// String returns the outcome as a word.
func (o Outcome) String() string {
	return [...]string{"malformed", "confirmed", "incomplete", "contradicted", "disowned"}[o]
}

// Bounds of what is followed. A digest over more is malformed: senders sign
// long before. A tracker that is over one of its own forgets what it holds of
// a sender, whose range is incomplete then.
const (
	MaxSenders = 4096
	MaxPending = 16384   // messages of one boot of a sender that wait for their digest
	MaxHeld    = 1 << 18 // messages of all senders
	MaxRanges  = 512     // declared as dropped in one digest
)

// Result is what a digest settled.
type Result struct {
	Outcome   Outcome
	Boot      uint64
	First     uint64
	Last      uint64
	Seen      int // messages of the range that were seen and not declared dropped
	Missing   int // neither seen nor declared dropped
	Dropped   int // declared dropped, in this range and in earlier ones
	Unvouched int // seen, and never to be vouched for: declared dropped, or left out by the digests
}

// Check holds a verified digest against the hashes of whole envelopes that seen
// returns for the digest's sender and boot.
func Check(d wire.Digest, seen func(seq uint64) ([sha256.Size]byte, bool)) Result {
	boot, ok := envelope.ParseBoot(d.Boot)
	r := Result{Boot: boot, First: d.First, Last: d.Last}
	if !ok || d.First == 0 || d.Last < d.First || d.Last == math.MaxUint64 || d.Last-d.First >= MaxPending {
		return r
	}
	dropped, ok := droppedOf(d)
	if !ok {
		return r
	}
	for _, drop := range d.Dropped {
		r.Dropped += int(min(drop.Last-drop.First, maxDropped)) + 1
	}
	h := sha256.New()
	for seq := d.First; seq <= d.Last; seq++ {
		for len(dropped) > 0 && dropped[0].Last < seq {
			dropped = dropped[1:]
		}
		declared := len(dropped) > 0 && dropped[0].First <= seq
		sum, ok := seen(seq)
		switch {
		case declared && ok:
			r.Unvouched++
		case declared:
		case !ok:
			r.Missing++
		default:
			r.Seen++
			h.Write(sum[:])
		}
	}
	switch {
	case r.Missing > 0:
		r.Outcome = Incomplete
	case base64.RawURLEncoding.EncodeToString(h.Sum(nil)) != d.Hash:
		r.Outcome = Contradicted
	case r.Unvouched > 0:
		r.Outcome = Disowned
	default:
		r.Outcome = Confirmed
	}
	return r
}

// maxDropped is what one declared range counts for at most: a sum of them must
// not overflow.
const maxDropped = 1 << 40

// droppedOf returns what the digest declares of its own range, in order. ok is
// false for declarations that no sender makes: a range that is none, overlaps
// another, reaches from outside into the digest's own, or is of the future.
func droppedOf(d wire.Digest) (own []wire.Drop, ok bool) {
	if len(d.Dropped) > MaxRanges {
		return nil, false
	}
	all := slices.SortedFunc(slices.Values(d.Dropped), func(a, b wire.Drop) int {
		return cmp.Or(cmp.Compare(a.Boot, b.Boot), cmp.Compare(a.First, b.First))
	})
	for i, drop := range all {
		if _, valid := envelope.ParseBoot(drop.Boot); !valid || drop.First == 0 || drop.Last < drop.First || drop.Boot > d.Boot {
			return nil, false
		}
		if i > 0 && drop.Boot == all[i-1].Boot && drop.First <= all[i-1].Last {
			return nil, false
		}
		switch {
		case drop.Boot < d.Boot || drop.Last < d.First:
		case drop.First >= d.First && drop.Last <= d.Last:
			own = append(own, drop)
		default:
			return nil, false
		}
	}
	return own, true
}
