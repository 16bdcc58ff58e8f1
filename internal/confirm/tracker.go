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
//
// Anybody can invent boots as well. So of each sender two are followed: the one
// that a signature spoke of last, or else the first, and the newest after it.
// What nothing vouches for replaces the second alone.
type Tracker struct {
	senders  map[string]*pending
	unsigned *list.List // of *pending, by the last message
	signed   *list.List // of *pending, by the last digest
	held     int
}

// pending is one sender's messages that wait.
type pending struct {
	sender string
	place  *list.Element // in one of the tracker's lists
	signed bool          // a digest has come
	proven uint64        // the newest boot that a signature spoke of; 0: none has
	start  boot          // the proven one, if one is
	next   boot          // a newer one; zero: none
}

// boot is what waits of one boot.
type boot struct {
	number uint64
	hashes map[uint64][sha256.Size]byte // contested where it is
	lowest uint64                       // what is below it is settled
}

func newBoot(number uint64) boot {
	return boot{number: number, hashes: make(map[uint64][sha256.Size]byte)}
}

// contested stands for two different messages under one number. It is the hash
// of neither, so that no digest confirms it, whichever of them the sender sent.
var contested [sha256.Size]byte

// boot returns what waits of a boot, nil if that one is not followed.
func (p *pending) boot(number uint64) *boot {
	switch number {
	case p.start.number:
		return &p.start
	case p.next.number:
		return &p.next
	default:
		return nil
	}
}

func (p *pending) held() int { return len(p.start.hashes) + len(p.next.hashes) }

// NewTracker returns an empty tracker.
func NewTracker() *Tracker {
	return &Tracker{senders: make(map[string]*pending), unsigned: list.New(), signed: list.New()}
}

// Add notes a message that passed the receiver's checks. raw is the whole
// envelope; proven says that a signature vouches for it. Digests are messages
// too: each counts in the one after it. It reports whether the message is the
// second one under its number, and another one than the first: then somebody
// made one of the two up.
func (t *Tracker) Add(sender string, nonce envelope.Nonce, raw []byte, proven bool) (second bool) {
	p := t.senders[sender]
	if p == nil {
		if len(t.senders) >= MaxSenders && !t.release(t.unsigned) {
			return false
		}
		p = t.insert(sender, nonce.Boot)
	}
	switch {
	case proven && nonce.Boot >= p.proven:
		t.follow(p, nonce.Boot)
	case nonce.Boot > p.start.number && nonce.Boot > p.next.number:
		t.forget(&p.next)
		p.next = newBoot(nonce.Boot)
	}
	b := p.boot(nonce.Boot)
	if b == nil || nonce.Seq < b.lowest {
		return false
	}
	if !p.signed {
		t.unsigned.MoveToBack(p.place)
	}
	if len(b.hashes) >= MaxPending {
		t.forget(b)
	}
	if t.held >= MaxHeld {
		t.makeRoom()
	}
	sum, before := sha256.Sum256(raw), len(b.hashes)
	if first, twice := b.hashes[nonce.Seq]; twice && first != sum {
		sum, second = contested, first != contested
	}
	b.hashes[nonce.Seq] = sum
	t.held += len(b.hashes) - before
	return second
}

// insert begins to follow a sender, as one that has not signed.
func (t *Tracker) insert(sender string, number uint64) *pending {
	p := &pending{sender: sender, start: newBoot(number)}
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
	t.held -= p.held()
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
			if p := e.Value.(*pending); p.held() >= fairShare && (most == nil || p.held() > most.held()) {
				most = p
			}
		}
		switch {
		case most == nil:
		case len(most.next.hashes) >= fairShare: // which may be invented
			t.forget(&most.next)
			return
		default:
			t.forget(&most.start)
			t.forget(&most.next)
			return
		}
	}
}

// follow notes that a signature spoke of a boot, and of none later: a later one
// that messages spoke of was invented, or tells so again.
func (t *Tracker) follow(p *pending, number uint64) {
	p.proven = number
	if number == p.start.number {
		return
	}
	t.forget(&p.start)
	p.start = newBoot(number)
	if number == p.next.number {
		p.start = p.next
	} else {
		t.forget(&p.next)
	}
	p.next = boot{}
}

// forget drops what is held of a boot.
func (t *Tracker) forget(b *boot) {
	t.held -= len(b.hashes)
	b.hashes = make(map[uint64][sha256.Size]byte)
}

// Settle holds a verified digest of sender against what was added before it,
// and forgets what it covers.
func (t *Tracker) Settle(sender string, d wire.Digest) Result {
	p := t.senders[sender]
	var known *boot
	if number, ok := envelope.ParseBoot(d.Boot); ok && p != nil {
		known = p.boot(number)
	}
	r := Check(d, func(seq uint64) (sum [sha256.Size]byte, seen bool) {
		if known != nil {
			sum, seen = known.hashes[seq]
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
	if known == nil {
		return r
	}
	known = p.boot(r.Boot) // which may have moved
	for seq := range known.hashes {
		if seq > d.Last {
			continue
		}
		if seq < d.First {
			r.Unvouched++
		}
		delete(known.hashes, seq)
		t.held--
	}
	known.lowest = max(known.lowest, d.Last+1)
	return r
}

// vouch notes that a sender has signed a digest of a boot.
func (t *Tracker) vouch(p *pending, number uint64) {
	if p.signed {
		t.signed.MoveToBack(p.place)
	} else {
		t.unsigned.Remove(p.place)
		p.place, p.signed = t.signed.PushBack(p), true
	}
	if number >= p.proven {
		t.follow(p, number)
	}
}
