package session

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"levee/envelope"
	"levee/envelope/keys"
	"levee/envelope/replay"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/policies"
)

// Proof says what vouches for a delivered message.
type Proof uint8

// The proofs, weakest first.
const (
	// ProofNone: a public message, or a reading whose key the receiver does
	// not hold. A reading counts once its sender's digest covers it.
	ProofNone Proof = iota
	// ProofMAC: sealed with the sender's key, which this receiver could have
	// used as well.
	ProofMAC
	// ProofSignature: signed with the sender's certificate key, verified from
	// the root.
	ProofSignature
)

// Delivery is a message that passed every check that its proof names.
type Delivery struct {
	Topic    wire.Topic
	Name     string           // the topic as published
	Message  envelope.Message // zero for public messages
	Payload  []byte
	Proof    Proof
	Received time.Time
}

// Refusal is a message that failed a check.
type Refusal struct {
	Name     string // the topic as published
	Raw      []byte
	Reason   envelope.Reason
	Received time.Time
}

// receiver holds what the checks need. It is safe for concurrent use.
type receiver struct {
	site     string
	filters  []string
	policy   *policies.Policy
	document *site.Document
	verifier *pki.Verifier
	keys     *keys.Ring // nil: this receiver holds no keys
	judges   bool       // policy has this receiver hold the keys of those it reads
	windows  *replay.Set
	skew     time.Duration
}

// open runs every check, in the order of docs/envelope.md, section 7. That
// order begins with a size which only the topic tells, so a topic that is not
// ours, or that we did not ask for, falls first.
func (r *receiver) open(name string, raw []byte, now time.Time) (Delivery, error) {
	topic, err := wire.ParseTopic(name)
	if err != nil || !slices.ContainsFunc(r.filters, func(f string) bool { return matches(f, name) }) {
		return Delivery{}, envelope.BadTopic
	}
	d := Delivery{Topic: topic, Name: name, Payload: raw, Received: now}
	if !topic.Protected() {
		if len(raw) > r.policy.Class(topic.Kind).MaxBytes {
			return Delivery{}, envelope.BadSize
		}
		return d, nil
	}
	if topic.Site != r.site {
		return Delivery{}, envelope.BadTopic
	}
	class := r.policy.Class(topic.Kind)
	m, sealed, err := r.unseal(raw, class, pki.Role(topic.Role))
	if err != nil {
		return Delivery{}, err
	}
	switch {
	case string(m.Topic) != name:
		return Delivery{}, envelope.BadTopic
	case string(m.Sender()) != topic.Sender() || !r.mayPublish(topic, name):
		return Delivery{}, envelope.BadSender
	case m.KeyID().Generation < r.document.MinimumGeneration(topic.Sender()):
		return Delivery{}, envelope.UnknownKey
	}
	if sealed {
		d.Proof = ProofMAC
	}
	if class.Signed || m.Signed() {
		if err := r.checkSignature(&m); err != nil {
			return Delivery{}, err
		}
		d.Proof = ProofSignature
	}
	if d.Proof == ProofNone && r.judges {
		// Who acts on readings does not act on what only waits for a digest.
		return Delivery{}, envelope.UnknownKey
	}
	if err := r.checkTime(&m, d.Proof, now); err != nil {
		return Delivery{}, err
	}
	d.Message, d.Payload = m, m.Payload
	return d, nil
}

// mayPublish reports whether policy lets the sender that the topic names
// publish there. The broker has asked already; it may be captured, and some
// topics name any role.
func (r *receiver) mayPublish(topic wire.Topic, name string) bool {
	return r.policy.Rights(pki.Identity{Site: topic.Site, Role: pki.Role(topic.Role), Name: topic.Name}).MayPublish(name)
}

// unseal checks the MAC where this receiver holds the publisher's role key. A
// receiver without it reads the grammar alone: what is signed stands by its
// signature, and the rest waits for its digest.
func (r *receiver) unseal(raw []byte, class policies.Class, role pki.Role) (m envelope.Message, sealed bool, err error) {
	if r.keys == nil || !r.keys.Holds(role) {
		m, err = envelope.Parse(raw, class.MaxBytes)
		return m, false, err
	}
	m, err = envelope.Open(raw, class.MaxBytes, r.keys.Find)
	return m, true, err
}

// checkSignature verifies the signature from the root, as of the message's own
// time, so that an auditor comes to the same result later; how far that time
// may be off is checked next. The keys of monitor and approver are pinned:
// whoever holds the site's machine CA can make a certificate for them, but not
// this one.
func (r *receiver) checkSignature(m *envelope.Message) error {
	id, leaf, err := m.VerifySignature(r.verifier, time.UnixMilli(m.Time))
	if err != nil {
		return err
	}
	match, pinned := r.document.Pinned(id.Sender(), leaf)
	if (pinned || id.Role == pki.RoleMonitor || id.Role == pki.RoleApprover) && !match {
		return envelope.BadPin
	}
	return nil
}

// checkTime judges freshness and replay. What nothing vouches for has windows
// of its own: an invented reading must not make what is signed look like a
// clone's.
func (r *receiver) checkTime(m *envelope.Message, proof Proof, now time.Time) error {
	switch offset := now.UnixMilli() - m.Time; {
	case offset > r.skew.Milliseconds():
		return envelope.Stale
	case offset < -r.skew.Milliseconds():
		return envelope.Future
	case m.Nonce.Boot > uint64(m.Time+r.skew.Milliseconds()):
		return envelope.Future
	}
	sender := m.Sender()
	if proof == ProofNone {
		sender = append(sender[:len(sender):len(sender)], "/unproven"...)
	}
	switch r.windows.Check(replay.Message{Sender: sender, Boot: m.Nonce.Boot, Seq: m.Nonce.Seq, Time: m.Time, Tag: m.Tag()}) {
	case replay.Fresh:
		return nil
	case replay.Redelivery:
		return envelope.Redelivered
	case replay.Collision:
		return envelope.NonceCollision
	case replay.Clone:
		return envelope.Cloned
	case replay.Full:
		return envelope.WindowsFull
	case replay.Unavailable:
		return envelope.WindowsFailed
	case replay.BeforeStart:
		return envelope.BeforeStart
	default:
		return envelope.Replayed
	}
}

// matches reports whether an MQTT filter (3.1.1, section 4.7) covers topic.
func matches(filter, topic string) bool {
	for {
		f, filterRest, filterMore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, topicRest, topicMore := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		switch {
		case !filterMore:
			return !topicMore
		case !topicMore:
			return filterRest == "#"
		}
		filter, topic = filterRest, topicRest
	}
}

// tally counts refusals by reason and logs them, at most one line a second for
// each reason, so that a flood of refusals is no flood of lines.
type tally struct {
	log *slog.Logger

	mu     sync.Mutex
	counts map[envelope.Reason]uint64
	logged map[envelope.Reason]time.Time
}

func newTally(log *slog.Logger) *tally {
	return &tally{log: log, counts: make(map[envelope.Reason]uint64), logged: make(map[envelope.Reason]time.Time)}
}

func (t *tally) refuse(r Refusal) {
	t.mu.Lock()
	t.counts[r.Reason]++
	count := t.counts[r.Reason]
	due := r.Received.Sub(t.logged[r.Reason]) >= time.Second
	if due {
		t.logged[r.Reason] = r.Received
	}
	t.mu.Unlock()
	if !due {
		return
	}
	write := t.log.Warn
	switch r.Reason {
	case envelope.Redelivered:
		write = t.log.Info
	case envelope.NonceCollision, envelope.Cloned, envelope.WindowsFailed:
		write = t.log.Error
	}
	write("message refused", slog.String("reason", r.Reason.String()), slog.Uint64("count", count),
		slog.String("topic", r.Name), slog.Int("bytes", len(r.Raw)))
}

func (t *tally) snapshot() map[envelope.Reason]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.counts)
}
