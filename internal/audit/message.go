package audit

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"levee/envelope"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/pki"
	"levee/policies"
	"levee/services/recorder/segment"
)

// checker judges entries and records each by itself. It is for one goroutine;
// what it finds is held together by the audit.
type checker struct {
	*Config
	chains   *chains
	channels map[string]*channel
}

// channel is a topic, and what policy says of who publishes on it.
type channel struct {
	wire.Topic
	sender  string // site/role/name
	machine bool
	class   policies.Class
	allowed bool
}

// maxChannels bounds the topics that are remembered.
const maxChannels = 1 << 16

func newChecker(c *Config) *checker {
	return &checker{Config: c, chains: newChains(c.Verifier, c.Root), channels: make(map[string]*channel)}
}

// item is an entry or a record, as far as it can be judged by itself.
type item struct {
	n        int64 // of the entry, or of the record in its file
	received int64 // ms since the epoch
	kind     leaf.Kind
	err      error // what is wrong with it
	channel  *channel
	nonce    envelope.Nonce
	time     int64 // ts
	sum      [sha256.Size]byte
	signed   bool
	late     bool   // it came by backfill
	refused  bool   // it failed a check when it was received
	raw      []byte // of a signed record; valid until the batch is reused
	*entry
}

// entry is what only entries have.
type entry struct {
	line        leaf.Leaf // of a journal
	signer      pki.Identity
	certificate *x509.Certificate
	payload     any // a *wire.Digest, *wire.Command or *wire.Status
}

// kindError gives an error a kind of its own.
type kindError struct {
	kind string
	error
}

func (e kindError) Unwrap() error { return e.error }

func asKind(kind string, err error) error { return kindError{kind, err} }

// kindOf returns the kind of what is wrong.
func kindOf(err error) string { return kindOr(err, KindEntry) }

// kindOr is kindOf with another default.
func kindOr(err error, kind string) string {
	if e := (kindError{}); errors.As(err, &e) {
		return e.kind
	}
	return kind
}

// record judges a record of a segment by itself. What was refused is evidence
// against whoever sent it, and nothing that its sender said.
func (c *checker) record(n, received int64, verdict segment.Verdict, raw []byte) (it item) {
	it.n, it.received, it.late = n, received, verdict == segment.Late
	switch {
	case verdict.String() == "":
		it.err = fmt.Errorf("verdict %d is none of this version", verdict)
		return it
	case !verdict.Kept():
		it.refused = true
		return it
	}
	var m envelope.Message
	if m, it.channel, it.err = c.open(raw, received, it.late); it.err != nil {
		return it
	}
	it.nonce, it.time, it.sum, it.signed = m.Nonce, m.Time, sha256.Sum256(raw), m.Signed()
	if it.signed {
		it.raw = raw
	}
	return it
}

// leaf judges an entry of the log by itself.
func (c *checker) leaf(index int64, raw []byte) (it item) {
	it.n, it.entry = index, &entry{}
	l, err := leaf.Parse(raw)
	it.late = l.Kind == leaf.KindMessage && l.Verdict == segment.Late.String()
	if err == nil && (l.Kind == leaf.KindGrant || l.Verdict != segment.Accepted.String() && !it.late) {
		err = fmt.Errorf("a %s with the verdict %q is nothing that this version keeps", l.Kind, l.Verdict)
	}
	if err != nil {
		it.err = err
		return it
	}
	it.received, it.kind = l.Received, l.Kind
	if l.Kind != leaf.KindMessage {
		it.line = l
		return it
	}
	m, on, err := c.open(l.Data, l.Received, it.late)
	if err != nil {
		it.err = err
		return it
	}
	it.channel, it.nonce, it.time, it.sum, it.signed = on, m.Nonce, m.Time, sha256.Sum256(l.Data), true
	if it.signer, it.certificate, err = c.signature(&m); err == nil {
		it.payload, err = payload(on.Kind, &m)
	}
	if err != nil {
		it.err = fmt.Errorf("of %s: %w", on.sender, err)
	}
	return it
}

// payload reads what is held against other entries.
func payload(kind wire.Kind, m *envelope.Message) (any, error) {
	switch kind {
	case wire.KindDigest:
		var d wire.Digest
		if err := wire.DecodeExact(m.Payload, &d); err != nil {
			return nil, err
		}
		if d.Boot != envelope.FormatBoot(m.Nonce.Boot) || d.Last >= m.Nonce.Seq {
			return nil, asKind(KindDigest, errors.New("the digest is over messages that its sender had not sent yet, or in another life"))
		}
		return &d, nil
	case wire.KindCommand:
		var c wire.Command
		if err := wire.DecodeExact(m.Payload, &c); err != nil {
			return nil, err
		}
		return &c, nil
	case wire.KindScaling, wire.KindRateLimiting:
		var s wire.Status
		if err := wire.Decode(m.Payload, &s); err != nil {
			return nil, err
		}
		return &s, nil
	default:
		return nil, nil
	}
}

// open checks what every kept envelope must satisfy to have been accepted when
// it was received, in ms since the epoch. What came late was fresh once.
func (c *checker) open(raw []byte, received int64, late bool) (m envelope.Message, on *channel, err error) {
	if c.Keys != nil {
		m, err = c.Keys.Open(raw, envelope.MaxBackfill)
	} else {
		m, err = envelope.Parse(raw, envelope.MaxBackfill)
	}
	if err != nil {
		return m, nil, fmt.Errorf("it is no message of its sender (%s)", envelope.ReasonOf(err).String())
	}
	if on, err = c.channel(m.Topic); err != nil {
		return m, nil, err
	}
	switch {
	case !on.allowed || string(m.Sender()) != on.sender:
		return m, on, fmt.Errorf("%s may not speak on %s", m.Sender(), m.Topic)
	case !on.class.Protected || len(raw) > on.class.MaxBytes:
		return m, on, errors.New("policy does not let it be kept, or not of that size")
	case on.class.Signed && !m.Signed():
		return m, on, asKind(KindSignature, errors.New("its class must be signed"))
	}
	skew := c.Policy.Skew().Milliseconds()
	if offset := received - m.Time; offset > skew && !late || offset < -skew || m.Nonce.Boot > uint64(m.Time+skew) {
		return m, on, asKind(KindLate, fmt.Errorf("it was not fresh when it was received, at %s", clock(received)))
	}
	return m, on, nil
}

// channel returns what is known of a topic.
func (c *checker) channel(topic []byte) (*channel, error) {
	if on := c.channels[string(topic)]; on != nil {
		return on, nil
	}
	t, err := wire.ParseTopic(string(topic))
	if err != nil {
		return nil, err
	}
	sender := pki.Identity{Site: t.Site, Role: pki.Role(t.Role), Name: t.Name}
	on := &channel{Topic: t, sender: t.Sender(), machine: sender.Role.Class() == pki.ClassMachine, class: c.Policy.Class(t.Kind),
		allowed: t.Site == c.Document.Site && c.Policy.Rights(sender).MayPublish(string(topic))}
	if len(c.channels) >= maxChannels {
		clear(c.channels)
	}
	c.channels[string(topic)] = on
	return on, nil
}

// signature verifies a signature from the root as of the message's own time,
// and that the key is the one pinned, where the site document pins any.
func (c *checker) signature(m *envelope.Message) (pki.Identity, *x509.Certificate, error) {
	id, certificate, err := c.chains.signer(m)
	if err != nil {
		return id, nil, asKind(KindSignature, fmt.Errorf("its signature is not good (%s)", envelope.ReasonOf(err).String()))
	}
	match, pinned := c.Document.Pinned(id.Sender(), certificate)
	if (pinned || id.Role == pki.RoleMonitor || id.Role == pki.RoleApprover) && !match {
		return id, nil, asKind(KindSignature, errors.New("it is signed with a key that the site document does not pin"))
	}
	return id, certificate, nil
}

// clock spells a time of the record, in ms since the epoch.
func clock(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
