package session

import (
	"time"

	"levee/envelope"
	"levee/internal/clocks"
	"levee/internal/wire"
	"levee/pki"
)

// OpenOriginal checks an original that a backfill brought: everything that is
// checked of a message (docs/envelope.md, section 7) but its age and the windows,
// and that it is of the backfill's sender, from no later start, and on a topic
// that this session asked for. Revoked is what was revoked at the message's time.
// Every error is an envelope.Reason.
func (s *Session) OpenOriginal(raw []byte, by Delivery) (Delivery, error) {
	return s.receiver.openOriginal(raw, by)
}

func (r *receiver) openOriginal(raw []byte, by Delivery) (Delivery, error) {
	if r.keys == nil {
		return Delivery{}, envelope.UnknownKey
	}
	m, err := r.keys.Open(raw, envelope.MaxMessage)
	if err != nil {
		return Delivery{}, err
	}
	name := string(m.Topic)
	topic, err := wire.ParseTopic(name)
	switch {
	case err != nil || !topic.Protected() || topic.Kind == wire.KindBackfill || !covered(r.filters, name):
		return Delivery{}, envelope.BadTopic
	case string(m.Sender()) != by.Topic.Sender() || topic.Sender() != by.Topic.Sender() || !r.mayPublish(topic, name):
		return Delivery{}, envelope.BadSender
	}
	class := r.policy.Class(topic.Kind)
	switch {
	case len(raw) > class.MaxBytes:
		return Delivery{}, envelope.BadSize
	case m.KeyID().Generation < r.minimumGeneration(topic.Sender()):
		return Delivery{}, envelope.UnknownKey
	}
	d := Delivery{Topic: topic, Name: name, Message: m, Payload: m.Payload, Proof: ProofMAC, Received: by.Received, Via: by.Via}
	if class.Signed || m.Signed() {
		if err := r.checkOldSignature(&m); err != nil {
			return Delivery{}, err
		}
		d.Proof = ProofSignature
	}
	if clocks.SideOf(clocks.Offset(m.Time, by.Received), r.skew) == clocks.Ahead ||
		m.Nonce.Boot > uint64(m.Time+r.skew.Milliseconds()) || m.Nonce.Boot > by.Message.Nonce.Boot {
		return Delivery{}, envelope.Future
	}
	return d, nil
}

// checkOldSignature is checkSignature for the record: what was revoked after the
// message was signed does not undo it.
func (r *receiver) checkOldSignature(m *envelope.Message) error {
	if !m.Signed() {
		return envelope.Unsigned
	}
	id, leaf, err := r.chains.verify(m)
	if err != nil {
		return err
	}
	if r.revocations != nil && r.revocations.RevokedAt(id, leaf, time.UnixMilli(m.Time)) {
		return envelope.Revoked
	}
	match, pinned := r.document.Pinned(id.Sender(), leaf)
	if (pinned || id.Role == pki.RoleMonitor || id.Role == pki.RoleApprover) && !match {
		return envelope.BadPin
	}
	return nil
}
