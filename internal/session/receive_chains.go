package session

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"sync/atomic"
	"time"

	"levee/envelope"
	"levee/pki"
)

// maxChains bounds the chains that a receiver remembers, at some 6 KiB each.
const maxChains = 1024

// chains verifies the certificates of signed messages and remembers those that
// were good: a path is a hundred times the work of a signature, and whoever can
// bring an old message can bring it again. Time decides nothing about a path but
// whether it lies within the validity of its three certificates, so that one
// that was good once is good at every other such time; that is asked of each
// message. Whether a certificate was revoked is not: the caller asks each time.
// A full cache gives up a chain that was not met since it last looked (the clock
// algorithm). It is safe for concurrent use.
type chains struct {
	verifier envelope.ChainVerifier
	root     *x509.Certificate // the verifier's
	limit    int

	mu    sync.RWMutex
	met   map[[sha256.Size]byte]*chain // by SHA-256 of a message's chain
	clock []*chain
	hand  int
}

// chain is what is known of a leaf and its issuer.
type chain struct {
	sum         [sha256.Size]byte
	id          pki.Identity
	leaf        *x509.Certificate
	first, last time.Time   // when all three certificates are valid, both included
	used        atomic.Bool // since the hand last passed
}

func newChains(verifier envelope.ChainVerifier, root *x509.Certificate) *chains {
	return &chains{verifier: verifier, root: root, limit: maxChains, met: make(map[[sha256.Size]byte]*chain)}
}

// verify is envelope.Message.VerifySignature as of the message's own time.
func (c *chains) verify(m *envelope.Message) (pki.Identity, *x509.Certificate, error) {
	at, sum := time.UnixMilli(m.Time), sha256.Sum256(m.Chain)
	if known := c.find(&sum); known != nil && !at.Before(known.first) && !at.After(known.last) {
		if err := m.CheckSigner(known.id, known.leaf); err != nil {
			return pki.Identity{}, nil, err
		}
		return known.id, known.leaf, nil
	}
	seen := recording{of: c.verifier}
	id, leaf, err := m.VerifySignature(&seen, at)
	if seen.good {
		c.remember(&chain{sum: sum, id: seen.id, leaf: seen.leaf, first: latest(seen.leaf.NotBefore, seen.issuer.NotBefore, c.root.NotBefore),
			last: earliest(seen.leaf.NotAfter, seen.issuer.NotAfter, c.root.NotAfter)})
	}
	return id, leaf, err
}

// recording is a verifier that keeps what it was asked, and whether that is good.
type recording struct {
	of           envelope.ChainVerifier
	leaf, issuer *x509.Certificate
	id           pki.Identity
	good         bool
}

// Verify is pki.Verifier.Verify.
func (r *recording) Verify(leaf, issuer *x509.Certificate, usage pki.Usage, at time.Time) (pki.Identity, error) {
	id, err := r.of.Verify(leaf, issuer, usage, at)
	r.leaf, r.issuer, r.id, r.good = leaf, issuer, id, err == nil
	return id, err
}

// find returns what is known of a chain, nil if it is not remembered.
func (c *chains) find(sum *[sha256.Size]byte) *chain {
	c.mu.RLock()
	defer c.mu.RUnlock()
	known := c.met[*sum]
	if known != nil && !known.used.Load() { // a store would take the line from other cores
		known.used.Store(true)
	}
	return known
}

// remember keeps a chain that was verified: whoever can only invent certificates
// must not decide what is remembered.
func (c *chains) remember(good *chain) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.met[good.sum] != nil {
		return
	}
	if len(c.clock) < c.limit {
		c.clock = append(c.clock, good)
	} else {
		for c.clock[c.hand].used.Swap(false) { // ends within one round and one step
			c.hand = (c.hand + 1) % c.limit
		}
		delete(c.met, c.clock[c.hand].sum)
		c.clock[c.hand] = good
		c.hand = (c.hand + 1) % c.limit
	}
	c.met[good.sum] = good
}

func latest(times ...time.Time) (last time.Time) {
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

func earliest(first time.Time, more ...time.Time) time.Time {
	for _, t := range more {
		if t.Before(first) {
			first = t
		}
	}
	return first
}
