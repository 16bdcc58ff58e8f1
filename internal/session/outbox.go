package session

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"levee/envelope"
	"levee/internal/wire"
)

const (
	// replayAge is how long a sealed message is worth sending: well inside the
	// skew, so that it is still fresh where it arrives.
	replayAge = 15 * time.Second
	// maxQueue bounds what waits for a connection, and what is kept to be sent
	// again. The oldest goes first: in an attack the newest reading is worth
	// most.
	maxQueue = 1024
)

// outgoing is a sealed message on its way.
type outgoing struct {
	name   string
	raw    []byte
	seq    uint64
	time   int64        // the envelope's ts
	digest *wire.Digest // what the message vouches for, nil for all but digests
}

// fresh reports whether a receiver whose clock is ours would still take it. It
// goes by the clock that ts was read from: after a suspension or a step of
// that clock the message is as old as it says, however short the wait was.
func (m *outgoing) fresh(now time.Time) bool {
	age := now.UnixMilli() - m.time
	return age <= replayAge.Milliseconds() && age >= -replayAge.Milliseconds()
}

// outbox seals, keeps order, and remembers what it must vouch for.
type outbox struct {
	key     *envelope.Key
	kid     envelope.KeyID
	boot    uint64
	skew    time.Duration
	sign    func() (*envelope.Signer, error)
	vouches bool          // policy lets this sender publish digests
	wake    chan struct{} // holds a token when there may be something to send
	drops   func()        // told of every message given up

	mu       sync.Mutex
	seq      uint64
	queue    []outgoing // not acknowledged by the broker, in the order of seq
	flying   bool       // queue[0] was handed to a connection
	dead     int        // messages behind queue[0] that were given up
	resend   []outgoing // acknowledged on an earlier connection, to be sent again
	recent   []outgoing // acknowledged
	ledger   ledger
	unsigned int // digests owed when one could not be signed
}

// put seals payload and queues it.
func (o *outbox) put(name string, payload []byte, signed bool, maxBytes int, now time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seal(outgoing{name: name}, payload, signed, maxBytes, now)
}

// putDigest queues a digest of every message whose fate is known. A message
// that still waits is the next digest's: once a range is signed, losing one
// message of it would lose the whole range.
func (o *outbox) putDigest(name string, maxBytes int, now time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ledger.close()
	for len(o.ledger.owed) > 0 {
		d := o.ledger.take()
		d.Timestamp = seconds(now)
		payload, err := wire.Encode(&d)
		if err == nil {
			err = o.seal(outgoing{name: name, digest: &d}, payload, true, maxBytes, now)
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
		Nonce: envelope.Nonce{Boot: o.boot, Seq: out.seq}, Topic: out.name}, payload, o.key, signer)
	if err != nil {
		return err
	}
	if len(out.raw) > maxBytes {
		return fmt.Errorf("sealing for %s: %d bytes, but its class holds %d", out.name, len(out.raw), maxBytes)
	}
	o.seq++
	o.queue = append(o.queue, out)
	if len(o.queue)-o.dead > maxQueue {
		o.giveUp()
	}
	o.nudge()
	return nil
}

// nudge says that there may be something to send.
func (o *outbox) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// next returns the oldest message worth sending, and gives up those before it
// that would arrive stale.
func (o *outbox) next(now time.Time) (outgoing, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.resend) > 0 {
		if o.resend[0].fresh(now) {
			return o.resend[0], true
		}
		o.resend = behead(o.resend) // it was acknowledged once: not given up
	}
	o.flying = false
	for len(o.queue) > 0 {
		if o.queue[0].fresh(now) {
			o.flying = true
			return o.queue[0], true
		}
		o.giveUp()
	}
	return outgoing{}, false
}

// giveUp drops the oldest message that is not in the air.
func (o *outbox) giveUp() {
	o.drops()
	if o.flying {
		// The fate of queue[0] is told first.
		o.dead++
		o.queue[o.dead].raw = nil
		return
	}
	o.drop()
	o.bury()
}

// bury drops those that were given up behind a message that is gone now.
func (o *outbox) bury() {
	for ; o.dead > 0; o.dead-- {
		o.drop()
	}
}

// drop removes queue[0] and declares it. A digest that is lost takes its range
// with it.
func (o *outbox) drop() {
	if o.vouches {
		o.ledger.drop()
		if d := o.queue[0].digest; d != nil {
			o.ledger.lose(*d)
		}
	}
	o.queue = behead(o.queue)
}

// acknowledged notes that the broker took sent, which next returned.
func (o *outbox) acknowledged(sent outgoing, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.resend) > 0 {
		o.resend = behead(o.resend)
	} else {
		o.queue, o.flying = behead(o.queue), false
		if o.vouches {
			o.ledger.deliver(sha256.Sum256(sent.raw))
		}
		o.bury()
	}
	o.recent = append(o.recent, sent)
	for len(o.recent) > maxQueue || len(o.recent) > 0 && !o.recent[0].fresh(now) {
		o.recent = behead(o.recent)
	}
}

// again has the recent messages sent once more, byte for byte: a broker
// acknowledges before it delivers, so a lost connection may have swallowed
// them. Receivers know the duplicates by their nonces.
func (o *outbox) again() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.resend, o.recent, o.flying = append(o.recent, o.resend...), nil, false
}

// waiting returns how many messages were not acknowledged.
func (o *outbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.queue) - o.dead
}

// behead returns list without its first message, which nothing holds any more.
func behead(list []outgoing) []outgoing {
	list[0] = outgoing{}
	return list[1:]
}
