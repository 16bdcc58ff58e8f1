package session

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"levee/envelope"
	"levee/internal/spool"
	"levee/internal/wire"
)

const (
	// replayAge is how long a sealed message is worth sending: well inside the
	// skew, so that it is still fresh where it arrives.
	replayAge = 15 * time.Second
	// maxQueue bounds what waits for a connection, and what is kept to be sent
	// again or by another line. The oldest goes first: in an attack the newest
	// reading is worth most.
	maxQueue = 1024
)

// outgoing is a sealed message on its way.
type outgoing struct {
	name   string
	raw    []byte // nil once it was given up
	seq    uint64
	time   int64         // the envelope's ts
	key    *envelope.Key // of an acknowledgement: its peer's; nil: the sender's own
	digest *wire.Digest  // what the message vouches for, nil for all but digests
	fate   fate
	sum    [sha256.Size]byte // of raw, once delivered
}

// fate is what became of a message.
type fate uint8

const (
	waiting   fate = iota // no broker took it yet
	delivered             // the first broker acknowledged it
	lost                  // not worth sending before any did: given up, or left to backfill
)

// fresh reports whether a receiver whose clock is ours would still take it. It
// goes by the clock that ts was read from: after a suspension or a step of
// that clock the message is as old as it says, however short the wait was.
func (m *outgoing) fresh(now time.Time) bool {
	age := now.UnixMilli() - m.time
	return age <= replayAge.Milliseconds() && age >= -replayAge.Milliseconds()
}

// outbox seals, keeps order, and remembers what it must vouch for. It is one
// list for all lines, each of which has its own place in it: a line that is slow
// or gone keeps nothing alive, and finds what is still there when it comes back.
//
// With a spool nothing is given up for being late: every message is kept there
// until the recorder has acknowledged it, and counts as delivered for the digests.
type outbox struct {
	key     *envelope.Key
	kid     envelope.KeyID
	boot    uint64
	skew    time.Duration
	sign    func() (*envelope.Signer, error)
	vouches bool         // policy lets this sender publish digests
	drops   func(int)    // told of messages given up
	spool   *spool.Spool // nil where policy does not let this sender backfill
	fill    filler

	mu       sync.Mutex
	seq      uint64
	kept     []outgoing // in the order of seq, none left out
	told     int        // messages at the front of kept whose fate the ledger knows
	waits    int        // messages in kept that wait
	holds    int        // messages in kept that were delivered
	cursors  []*cursor
	ledger   ledger
	unsigned int // digests owed when one could not be signed
	digests  class
}

// class is where messages of one kind go, and how large one may be.
type class struct {
	topic    string
	maxBytes int
}

// cursor is the place of one connected line.
type cursor struct {
	wake   chan struct{} // holds a token when there may be something to send
	next   uint64        // seq of the message that it has not sent yet
	flying uint64        // seq of the message that it handed to its connection; 0 if none
	filled uint64        // number of the backfill that it sent last
}

// put seals payload and queues it.
func (o *outbox) put(name string, payload []byte, signed bool, maxBytes int, now time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.seal(outgoing{name: name}, payload, signed, maxBytes, now)
	o.thin(now)
	return err
}

// putDigest queues a digest of every message whose fate is known. A message
// that still waits is the next digest's: once a range is signed, losing one
// message of it would lose the whole range.
func (o *outbox) putDigest(now time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.vouch(now)
	o.thin(now)
	return err
}

// vouch ends the open range and queues every digest that is owed. It must be
// called with o.mu held.
func (o *outbox) vouch(now time.Time) error {
	o.ledger.close()
	for len(o.ledger.owed) > 0 {
		d := o.ledger.take()
		d.Timestamp = seconds(now)
		payload, err := wire.Encode(&d)
		if err == nil {
			err = o.seal(outgoing{name: o.digests.topic, digest: &d}, payload, true, o.digests.maxBytes, now)
		}
		if err != nil {
			o.ledger.owed = append([]wire.Digest{d}, o.ledger.owed...)
			o.unsigned = len(o.ledger.owed)
			return fmt.Errorf("signing a digest: %w", err)
		}
	}
	o.unsigned = 0
	return nil
}

// owes reports whether a digest is due whatever the time. One that could not be
// signed waits for its time.
func (o *outbox) owes() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.ledger.owed) > o.unsigned
}

// seal must be called with o.mu held.
func (o *outbox) seal(out outgoing, payload []byte, signed bool, maxBytes int, now time.Time) error {
	out.seq, out.time = o.seq+1, now.UnixMilli()
	if o.boot > uint64(max(0, now.Add(o.skew).UnixMilli())) {
		return errors.New("sealing: this machine's clock went back behind its start; set it, or start again")
	}
	var signer *envelope.Signer
	var err error
	if signed {
		if signer, err = o.sign(); err != nil {
			return err
		}
	}
	out.raw, err = envelope.Append(nil, envelope.Header{KeyID: o.kid, Time: out.time,
		Nonce: envelope.Nonce{Boot: o.boot, Seq: out.seq}, Topic: out.name}, payload, cmp.Or(out.key, o.key), signer)
	if err != nil {
		return err
	}
	if len(out.raw) > maxBytes {
		return fmt.Errorf("sealing for %s: %d bytes, but its class holds %d", out.name, len(out.raw), maxBytes)
	}
	o.seq++
	if o.spool != nil {
		o.store(out)
	}
	o.kept = append(o.kept, out)
	if o.waits++; o.waits > maxQueue {
		o.loseOldest()
		o.settle(now)
	}
	for _, c := range o.cursors {
		c.nudge()
	}
	return nil
}

// nudge says that there may be something to send.
func (c *cursor) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// join gives a line that has connected its place: before everything that is
// kept. What was acknowledged on an earlier connection is thus sent once more,
// byte for byte: a broker acknowledges before it delivers, so that what it took
// may have died with it. Receivers know the duplicates by their nonces.
func (o *outbox) join() *cursor {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := &cursor{wake: make(chan struct{}, 1)}
	o.cursors = append(o.cursors, c)
	return c
}

// leave gives up the place of a line whose connection ended.
func (o *outbox) leave(c *cursor) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cursors = slices.DeleteFunc(o.cursors, func(other *cursor) bool { return other == c })
}

// next returns the oldest message worth sending that the line of c has not
// sent.
func (o *outbox) next(c *cursor, now time.Time) (outgoing, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.flying = 0
	defer o.settle(now)
	for i := o.index(c.next); i < len(o.kept); i++ {
		if m := o.kept[i]; m.fate != lost && m.fresh(now) {
			c.next, c.flying = m.seq, m.seq
			return m, true
		}
	}
	c.next = o.seq + 1
	return o.nextFill(c, now)
}

// index returns where in kept the message seq is, or the first one after it.
func (o *outbox) index(seq uint64) int {
	if len(o.kept) == 0 {
		return 0
	}
	return int(max(seq, o.kept[0].seq) - o.kept[0].seq)
}

// inFlight reports whether a line has sent the message seq and waits for the
// answer. Its fate is that line's to tell.
func (o *outbox) inFlight(seq uint64) bool {
	return slices.ContainsFunc(o.cursors, func(c *cursor) bool { return c.flying == seq })
}

// loseOldest gives up the oldest message that waits and is not in the air.
func (o *outbox) loseOldest() {
	for i := o.told; i < len(o.kept); i++ {
		if m := &o.kept[i]; m.fate == waiting && !o.inFlight(m.seq) {
			o.lose(m)
			return
		}
	}
}

// lose gives up a message that waits.
func (o *outbox) lose(m *outgoing) {
	m.fate, m.raw = lost, nil
	o.waits--
	if o.spool == nil {
		o.drops(1)
	}
}

// acknowledged notes that a broker took what next returned to c. The first one
// decides that the message was delivered.
func (o *outbox) acknowledged(c *cursor, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.flying == 0 {
		return // it was a backfill, whose fate is the recorder's to tell
	}
	if i := o.index(c.flying); i < len(o.kept) && o.kept[i].seq == c.flying && o.kept[i].fate == waiting {
		m := &o.kept[i]
		m.fate, m.sum = delivered, sha256.Sum256(m.raw)
		o.waits--
		o.holds++
	}
	c.next, c.flying = c.flying+1, 0
	o.settle(now)
}

// settle gives up what would arrive stale, tells the ledger, in the order of seq,
// what became of messages, and forgets those that nobody will send again. A
// message that is in the air keeps those behind it for as long as a broker may
// take to answer.
func (o *outbox) settle(now time.Time) {
	for ; o.told < len(o.kept); o.told++ {
		m := &o.kept[o.told]
		if m.fate == waiting {
			if m.fresh(now) || o.inFlight(m.seq) {
				break
			}
			o.lose(m)
		}
		o.tell(m)
	}
	for o.told > 0 && (o.kept[0].fate == lost || o.holds > maxQueue || !o.kept[0].fresh(now)) {
		if o.kept[0].fate == delivered {
			o.holds--
		}
		o.kept[0] = outgoing{} // the array behind the slice outlives it
		o.kept = o.kept[1:]
		o.told--
	}
}

// tell tells the ledger of the next message.
func (o *outbox) tell(m *outgoing) {
	switch {
	case !o.vouches || o.spool != nil: // the ledger knows already
	case m.fate == delivered:
		o.ledger.deliver(m.sum, 0)
	default:
		o.ledger.drop()
		if m.digest != nil { // it takes its range with it
			o.ledger.lose(*m.digest)
		}
	}
}

// waiting returns how many messages no broker has acknowledged.
func (o *outbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.waits
}
