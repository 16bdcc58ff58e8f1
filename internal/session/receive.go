package session

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/clocks"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/revocation"
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
	Via      string // name of the broker that it came by
}

// Refusal is a message that failed a check.
type Refusal struct {
	Name     string // the topic as published
	Raw      []byte
	Reason   envelope.Reason
	Received time.Time
	Via      string    // name of the broker that it came by, "" if it is not known
	Untimely *Untimely // of a verified sender's message that is stale or from the future; else nil
}

// Untimely says of a verified sender's message how it missed the skew. As an
// error it is its reason.
type Untimely struct {
	envelope.Reason
	Sender string
	Offset time.Duration // time of receipt less ts: below zero, ts is ahead
	Detail string        // what it can come from
}

// Unwrap returns the reason.
func (u *Untimely) Unwrap() error { return u.Reason }

// receiver holds what the checks need. It is safe for concurrent use.
type receiver struct {
	site     string
	filters  []string
	policy   *policies.Policy
	document *site.Document
	chains   *chains
	// revocations are nil where policy does not let this part be told.
	revocations *revocation.Set
	keys        Ring // nil: this receiver holds no keys
	judges      bool // policy has this receiver hold the keys of those it reads
	windows     *replay.Set
	clocks      *clocks.Watch
	skew        time.Duration
}

// open runs every check, in the order of docs/envelope.md, section 7. That
// order begins with a size which only the topic tells, so a topic that is not
// ours, or that we did not ask for, falls first.
func (r *receiver) open(name string, raw []byte, now time.Time) (Delivery, error) {
	topic, err := wire.ParseTopic(name)
	if err != nil || !covered(r.filters, name) {
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
	m, sealed, err := r.unseal(raw, class, topic)
	if err != nil {
		return Delivery{}, err
	}
	switch {
	case string(m.Topic) != name:
		return Delivery{}, envelope.BadTopic
	case string(m.Sender()) != topic.Sender() || !r.mayPublish(topic, name):
		return Delivery{}, envelope.BadSender
	case m.KeyID().Generation < r.minimumGeneration(topic.Sender()):
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
	if err := r.checkTime(&m, topic, d.Proof, now); err != nil {
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
// signature, and the rest waits for its digest. An acknowledgement has a key that
// its peer alone finds here; nobody else has a use for it.
func (r *receiver) unseal(raw []byte, class policies.Class, topic wire.Topic) (m envelope.Message, sealed bool, err error) {
	if topic.Kind == wire.KindAck {
		m, err = r.unsealAck(raw, class, topic)
		return m, err == nil, err
	}
	if r.keys == nil || !r.keys.Holds(pki.Role(topic.Role)) {
		m, err = envelope.Parse(raw, class.MaxBytes)
		return m, false, err
	}
	m, err = r.keys.Open(raw, class.MaxBytes)
	return m, true, err
}

func (r *receiver) unsealAck(raw []byte, class policies.Class, topic wire.Topic) (envelope.Message, error) {
	if r.keys != nil {
		if _, own := r.keys.Own(); own.Sender() == topic.Site+"/"+topic.PeerRole+"/"+topic.PeerName {
			return r.keys.OpenAck(raw, class.MaxBytes)
		}
	}
	return envelope.Open(raw, class.MaxBytes, func([]byte) *envelope.Key { return nil })
}

// checkSignature verifies the signature from the root, as of the message's own
// time, so that an auditor comes to the same result later; how far that time
// may be off is checked next. What was revoked since is refused all the same:
// this is about acting now. The keys of monitor and approver are pinned: whoever
// holds the site's machine CA can make a certificate for them, but not this one.
func (r *receiver) checkSignature(m *envelope.Message) error {
	if !m.Signed() {
		return envelope.Unsigned
	}
	id, leaf, err := r.chains.verify(m)
	if err != nil {
		return err
	}
	if r.revocations != nil && r.revocations.Revoked(id, leaf) {
		return envelope.Revoked
	}
	match, pinned := r.document.Pinned(id.Sender(), leaf)
	if (pinned || id.Role == pki.RoleMonitor || id.Role == pki.RoleApprover) && !match {
		return envelope.BadPin
	}
	return nil
}

// minimumGeneration returns the lowest generation of a sender's key that counts.
func (r *receiver) minimumGeneration(sender string) uint32 {
	minimum := r.document.MinimumGeneration(sender)
	if r.revocations != nil {
		minimum = max(minimum, r.revocations.MinimumGeneration(sender))
	}
	return minimum
}

// checkTime judges freshness and replay. What nothing vouches for has windows
// of its own, so that an invented reading does not make what is signed look like
// a clone's; and it says nothing of anybody's clock.
func (r *receiver) checkTime(m *envelope.Message, topic wire.Topic, proof Proof, now time.Time) error {
	offset := clocks.Offset(m.Time, now)
	switch clocks.SideOf(offset, r.skew) {
	case clocks.Behind:
		return r.untimely(m, topic, proof, envelope.Stale, offset, now)
	case clocks.Ahead:
		return r.untimely(m, topic, proof, envelope.Future, offset, now)
	}
	if m.Nonce.Boot > uint64(m.Time+r.skew.Milliseconds()) {
		if proof == ProofNone {
			return envelope.Future
		}
		return &Untimely{Reason: envelope.Future, Sender: string(m.Sender()), Offset: offset, Detail: clocks.LateBoot}
	}
	err := r.checkNonce(m, topic.Kind, proof, now)
	if err == nil && proof != ProofNone && topic.Kind != wire.KindBackfill {
		r.clocks.Hear(reading(m, offset, true), now)
	}
	return err
}

// untimely refuses a message for its time, and says what that tells of clocks. A
// nonce that the windows know, or that is below what they know, comes from the
// past: a broker can bring such a message at any time.
func (r *receiver) untimely(m *envelope.Message, topic wire.Topic, proof Proof, reason envelope.Reason, offset time.Duration, now time.Time) error {
	if proof == ProofNone {
		return reason
	}
	u := &Untimely{Reason: reason, Sender: string(m.Sender()), Offset: offset, Detail: clocks.OldNonce}
	known, met := r.windows.Lookup(m.Sender())
	past := met && (m.Nonce.Boot < known.Boot || m.Nonce.Boot == known.Boot && m.Nonce.Seq <= known.Top)
	if topic.Kind == wire.KindBackfill || !past && r.clocks.Hear(reading(m, offset, false), now) {
		u.Detail = clocks.Detail(offset)
	}
	return u
}

func reading(m *envelope.Message, offset time.Duration, accepted bool) clocks.Reading {
	return clocks.Reading{Sender: m.Sender(), Boot: m.Nonce.Boot, Seq: m.Nonce.Seq, Offset: offset, Accepted: accepted}
}

// checkNonce judges replay.
func (r *receiver) checkNonce(m *envelope.Message, kind wire.Kind, proof Proof, now time.Time) error {
	switch r.windows.Check(replay.Message{Sender: wire.Window(kind, m.Sender()), Unproven: proof == ProofNone,
		Boot: m.Nonce.Boot, Seq: m.Nonce.Seq, Time: m.Time, Arrival: now.UnixMilli(), Tag: m.Tag()}) {
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

// covered reports whether one of filters covers topic.
func covered(filters []string, topic string) bool {
	return slices.ContainsFunc(filters, func(f string) bool { return matches(f, topic) })
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
	log  *slog.Logger
	skew time.Duration

	mu     sync.Mutex
	counts map[envelope.Reason]uint64
	logged map[envelope.Reason]time.Time
}

func newTally(log *slog.Logger, skew time.Duration) *tally {
	return &tally{log: log, skew: skew, counts: make(map[envelope.Reason]uint64), logged: make(map[envelope.Reason]time.Time)}
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
	attrs := []any{slog.String("reason", r.Reason.String()), slog.Uint64("count", count),
		slog.String("topic", r.Name), slog.Int("bytes", len(r.Raw))}
	if u := r.Untimely; u != nil {
		attrs = append(attrs, slog.String("sender", u.Sender), slog.Duration("offset", u.Offset),
			slog.Duration("skew", t.skew), slog.String("detail", u.Detail))
	}
	write("message refused", attrs...)
}

func (t *tally) snapshot() map[envelope.Reason]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.counts)
}
