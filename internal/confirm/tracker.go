package confirm

import (
	"container/list"
	"crypto/sha256"

	"levee/envelope"
	"levee/internal/wire"
)

// fairShare is what a sender may always hold: when all hold too much, some
// sender holds at least this.
const fairShare = MaxHeld / MaxSenders

// Tracker remembers the hashes of messages until a digest covers them. It is
// not safe for concurrent use.
//
// Anybody who can publish can invent senders; only a sender can sign a digest.
// So a tracker that is full gives up those of whom no digest has come, the one
// that was silent for longest first. One that has signed is replaced only by
// another one that signs, when all have: the one whose last digest is oldest.
type Tracker struct {
	senders  map[string]*pending
	unsigned *list.List // of *pending, by the last message
	signed   *list.List // of *pending, by the last digest
	held     int
}

// pending is one sender's messages of one boot that wait.
type pending struct {
	sender string
	place  *list.Element // in one of the tracker's lists
	boot   uint64
	signed uint64 // the newest boot that a digest was of; 0: no digest has come
	hashes map[uint64][sha256.Size]byte
	lowest uint64 // what is below it is settled
}

// NewTracker returns an empty tracker.
func NewTracker() *Tracker {
	return &Tracker{senders: make(map[string]*pending), unsigned: list.New(), signed: list.New()}
}

// Add notes a message that passed the receiver's checks. raw is the whole
// envelope. Digests are messages too: each counts in the one after it.
func (t *Tracker) Add(sender string, nonce envelope.Nonce, raw []byte) {
	p := t.senders[sender]
	switch {
	case p == nil:
		if len(t.senders) >= MaxSenders && !t.release(t.unsigned) {
			return
		}
		p = t.insert(sender, nonce.Boot)
	case nonce.Boot > p.boot:
		t.begin(p, nonce.Boot)
	case nonce.Boot < p.boot || nonce.Seq < p.lowest:
		return
	}
	if p.signed == 0 {
		t.unsigned.MoveToBack(p.place)
	}
	if len(p.hashes) >= MaxPending {
		t.forget(p)
	}
	if t.held >= MaxHeld {
		t.makeRoom()
	}
	before := len(p.hashes)
	p.hashes[nonce.Seq] = sha256.Sum256(raw)
	t.held += len(p.hashes) - before
}

// insert begins to follow a sender, as one that has not signed.
func (t *Tracker) insert(sender string, boot uint64) *pending {
	p := &pending{sender: sender, boot: boot, hashes: make(map[uint64][sha256.Size]byte)}
	p.place = t.unsigned.PushBack(p)
	t.senders[sender] = p
	return p
}

// release stops following the first of a list, if there is one.
func (t *Tracker) release(from *list.List) bool {
	first := from.Front()
	if first == nil {
		return false
	}
	p := from.Remove(first).(*pending)
	t.held -= len(p.hashes)
	delete(t.senders, p.sender)
	return true
}

// makeRoom forgets what the sender holds that holds most, of those that have
// not signed if one of them holds more than its share. It looks at all of them,
// but frees at least one share each time.
func (t *Tracker) makeRoom() {
	for _, from := range []*list.List{t.unsigned, t.signed} {
		var most *pending
		for e := from.Front(); e != nil; e = e.Next() {
			if p := e.Value.(*pending); len(p.hashes) >= fairShare && (most == nil || len(p.hashes) > len(most.hashes)) {
				most = p
			}
		}
		if most != nil {
			t.forget(most)
			return
		}
	}
}

// begin makes a boot the one that is followed.
func (t *Tracker) begin(p *pending, boot uint64) {
	t.forget(p)
	p.boot, p.lowest = boot, 0
}

// forget drops what is held of a sender.
func (t *Tracker) forget(p *pending) {
	t.held -= len(p.hashes)
	p.hashes = make(map[uint64][sha256.Size]byte)
}

// Settle holds a verified digest of sender against what was added before it,
// and forgets what it covers.
func (t *Tracker) Settle(sender string, d wire.Digest) Result {
	p := t.senders[sender]
	known := p != nil && envelope.FormatBoot(p.boot) == d.Boot
	r := Check(d, func(seq uint64) (sum [sha256.Size]byte, seen bool) {
		if known {
			sum, seen = p.hashes[seq]
		}
		return sum, seen
	})
	if r.Outcome == Malformed {
		return r
	}
	if p == nil {
		if len(t.senders) >= MaxSenders && !t.release(t.unsigned) {
			t.release(t.signed)
		}
		p = t.insert(sender, r.Boot)
	}
	t.vouch(p, r.Boot)
	if !known {
		return r
	}
	for seq := range p.hashes {
		if seq > d.Last {
			continue
		}
		if seq < d.First {
			r.Unvouched++
		}
		delete(p.hashes, seq)
		t.held--
	}
	p.lowest = max(p.lowest, d.Last+1)
	return r
}

// vouch notes that a sender has signed for a boot. Unless it has signed for a
// later one, a later one that messages spoke of was invented, or tells so again.
func (t *Tracker) vouch(p *pending, boot uint64) {
	if p.signed == 0 {
		t.unsigned.Remove(p.place)
		p.place = t.signed.PushBack(p)
	} else {
		t.signed.MoveToBack(p.place)
	}
	if boot < p.signed {
		return
	}
	p.signed = boot
	if boot != p.boot {
		t.begin(p, boot)
	}
}
