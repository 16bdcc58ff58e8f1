package audit

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// open checks what every kept envelope must satisfy to have been accepted when
// it was received, in ms since the epoch.
func (a *audit) open(raw []byte, received int64) (m envelope.Message, topic wire.Topic, err error) {
	if a.Keys != nil {
		m, err = a.Keys.Open(raw, envelope.MaxBackfill)
	} else {
		m, err = envelope.Parse(raw, envelope.MaxBackfill)
	}
	if err != nil {
		return m, topic, fmt.Errorf("it is no message of its sender (%s)", envelope.ReasonOf(err).String())
	}
	if a.Keys != nil {
		a.report.MACs++
	}
	if topic, err = wire.ParseTopic(string(m.Topic)); err != nil {
		return m, topic, err
	}
	class := a.Policy.Class(topic.Kind)
	sender := pki.Identity{Site: topic.Site, Role: pki.Role(topic.Role), Name: topic.Name}
	switch {
	case topic.Site != a.Document.Site || topic.Sender() != string(m.Sender()) || !a.Policy.Rights(sender).MayPublish(string(m.Topic)):
		return m, topic, fmt.Errorf("%s may not speak on %s", m.Sender(), m.Topic)
	case !class.Protected || len(raw) > class.MaxBytes:
		return m, topic, errors.New("policy does not let it be kept, or not of that size")
	case class.Signed && !m.Signed():
		return m, topic, errors.New("its class must be signed")
	}
	skew := a.Policy.Skew().Milliseconds()
	if offset := received - m.Time; offset > skew || offset < -skew || m.Nonce.Boot > uint64(m.Time+skew) {
		return m, topic, fmt.Errorf("it was not fresh when it was received, at %s", clock(received))
	}
	return m, topic, nil
}

// checkSignature verifies the signature from the root as of the message's own
// time, and that the key is the one pinned, where the site document pins any. It
// notes who signed, and returns the signer's number. where is asked for if this
// is the signer's first message.
func (a *audit) checkSignature(m *envelope.Message, where func() string, received int64) (signer int32, err error) {
	id, certificate, err := m.VerifySignature(a.chains, time.UnixMilli(m.Time))
	if err != nil {
		return 0, fmt.Errorf("its signature is not good (%s)", envelope.ReasonOf(err).String())
	}
	match, pinned := a.Document.Pinned(id.Sender(), certificate)
	if (pinned || id.Role == pki.RoleMonitor || id.Role == pki.RoleApprover) && !match {
		return 0, errors.New("it is signed with a key that the site document does not pin")
	}
	a.report.Signatures++
	return a.registry.signed(id, certificate, where, received), nil
}

// chains verifies certificate chains and remembers those that were good. The
// time decides nothing about a chain but whether it lies within the validity of
// its three certificates, so that a chain that was good once is good at every
// other such time.
type chains struct {
	of   *pki.Verifier
	root *x509.Certificate
	good map[chain]span
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

// maxChains bounds what is remembered.
const maxChains = 1 << 14

func newChains(of *pki.Verifier, root *x509.Certificate) *chains {
	return &chains{of: of, root: root, good: make(map[chain]span)}
}

// Verify is pki.Verifier.Verify.
func (c *chains) Verify(leaf, issuer *x509.Certificate, usage pki.Usage, at time.Time) (pki.Identity, error) {
	key := chain{sha256.Sum256(leaf.Raw), sha256.Sum256(issuer.Raw), usage}
	if s, ok := c.good[key]; ok && !at.Before(s.first) && !at.After(s.last) {
		return s.id, nil
	}
	id, err := c.of.Verify(leaf, issuer, usage, at)
	if err != nil {
		return id, err
	}
	s := span{id: id, first: leaf.NotBefore, last: leaf.NotAfter}
	for _, above := range []*x509.Certificate{issuer, c.root} {
		if above.NotBefore.After(s.first) {
			s.first = above.NotBefore
		}
		if above.NotAfter.Before(s.last) {
			s.last = above.NotAfter
		}
	}
	if len(c.good) >= maxChains {
		clear(c.good)
	}
	c.good[key] = s
	return id, nil
}

// clock spells a time of the record, in ms since the epoch.
func clock(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
