package audit

import (
	"crypto/sha256"
	"crypto/x509"
	"time"

	"levee/envelope"
	"levee/pki"
)

// chains verifies certificate chains and remembers those that were good. The
// time decides nothing about a chain but whether it lies within the validity of
// its three certificates, so that a chain that was good once is good at every
// other such time. It is for one goroutine.
type chains struct {
	of      *pki.Verifier
	root    *x509.Certificate
	good    map[chain]span
	carried map[string]carried // by the text in which messages carry them
}

// chain names the certificates of a verification.
type chain struct {
	leaf, issuer [sha256.Size]byte
	usage        pki.Usage
}

// span is what a chain proves, and when.
type span struct {
	id          pki.Identity
	first, last time.Time
}

// carried is a chain that signed messages with success.
type carried struct {
	span
	leaf *x509.Certificate
}

// maxChains bounds what is remembered.
const maxChains = 1 << 14

func newChains(of *pki.Verifier, root *x509.Certificate) *chains {
	return &chains{of: of, root: root, good: make(map[chain]span), carried: make(map[string]carried)}
}

// signer is envelope.Message.VerifySignature at the message's own time.
func (c *chains) signer(m *envelope.Message) (pki.Identity, *x509.Certificate, error) {
	at := time.UnixMilli(m.Time)
	if known, ok := c.carried[string(m.Chain)]; ok && known.covers(at) {
		return known.id, known.leaf, m.CheckSigner(known.id, known.leaf)
	}
	id, leaf, err := m.VerifySignature(c, at)
	if err != nil {
		return id, leaf, err
	}
	_, issuer, err := m.Certificates()
	if err != nil {
		return id, leaf, err
	}
	if len(c.carried) >= maxChains {
		clear(c.carried)
	}
	c.carried[string(m.Chain)] = carried{c.spanOf(id, leaf, issuer), leaf}
	return id, leaf, nil
}

// Verify is pki.Verifier.Verify.
func (c *chains) Verify(leaf, issuer *x509.Certificate, usage pki.Usage, at time.Time) (pki.Identity, error) {
	key := chain{sha256.Sum256(leaf.Raw), sha256.Sum256(issuer.Raw), usage}
	if s, ok := c.good[key]; ok && s.covers(at) {
		return s.id, nil
	}
	id, err := c.of.Verify(leaf, issuer, usage, at)
	if err != nil {
		return id, err
	}
	if len(c.good) >= maxChains {
		clear(c.good)
	}
	c.good[key] = c.spanOf(id, leaf, issuer)
	return id, nil
}

func (s span) covers(at time.Time) bool { return !at.Before(s.first) && !at.After(s.last) }

// spanOf is when leaf, issuer and root are all valid.
func (c *chains) spanOf(id pki.Identity, leaf, issuer *x509.Certificate) span {
	s := span{id: id, first: leaf.NotBefore, last: leaf.NotAfter}
	for _, above := range []*x509.Certificate{issuer, c.root} {
		if above.NotBefore.After(s.first) {
			s.first = above.NotBefore
		}
		if above.NotAfter.Before(s.last) {
			s.last = above.NotAfter
		}
	}
	return s
}
