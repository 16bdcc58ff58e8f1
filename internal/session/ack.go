package session

import (
	"errors"
	"fmt"
	"time"

	"levee/envelope"
	"levee/internal/wire"
)

// AckKeys derives the keys of acknowledgements: *keys.Ring does for the senders of
// the roles that it holds.
type AckKeys interface {
	Ack(peer envelope.KeyID) (*envelope.Key, error)
}

// Acknowledge seals an acknowledgement to a peer, under the key that comes from
// the peer's own in the generation of peer, and queues it; see Publish.
func (s *Session) Acknowledge(peer envelope.KeyID, ack wire.Ack) error {
	if s.config.Acks == nil || s.outbox == nil {
		return errors.New("acknowledging: this part holds no keys for it")
	}
	id := s.config.Bundle.Identity
	topic := wire.Topic{Kind: wire.KindAck, Site: id.Site, Role: string(id.Role), Name: id.Name, PeerRole: peer.Role, PeerName: peer.Name}.String()
	class := s.receiver.policy.Class(wire.KindAck)
	if !class.Protected || class.Signed || !s.rights.MayPublish(topic) {
		return fmt.Errorf("acknowledging on %s: policy does not let %s do it", topic, id.Sender())
	}
	key, err := s.config.Acks.Ack(peer)
	if err != nil {
		return err
	}
	payload, err := wire.Encode(&ack)
	if err == nil {
		err = s.outbox.putAck(topic, payload, key, class.MaxBytes, time.Now())
	}
	if err != nil {
		return fmt.Errorf("acknowledging on %s: %w", topic, err)
	}
	return nil
}

// putAck seals an acknowledgement under its peer's key and queues it.
func (o *outbox) putAck(name string, payload []byte, key *envelope.Key, maxBytes int, now time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seal(outgoing{name: name, key: key}, payload, false, maxBytes, now)
}
