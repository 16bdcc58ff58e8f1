package ownkey

import (
	"levee/envelope"
	"levee/pki"
)

// Ring is what a part holds that judges nobody: its own key alone. It is safe
// for concurrent use.
type Ring struct {
	id       envelope.KeyID
	key, ack *envelope.Key
}

// NewRing returns a ring over a key in memory.
func NewRing(own Key) (*Ring, error) {
	key, err := own.Envelope()
	if err != nil {
		return nil, err
	}
	ack, err := own.Ack()
	if err != nil {
		return nil, err
	}
	return &Ring{id: own.id, key: key, ack: ack}, nil
}

// Own returns the part's own key and its kid.
func (r *Ring) Own() (*envelope.Key, envelope.KeyID) { return r.key, r.id }

// Holds reports whether the ring can check the MACs of a role's senders: of
// none.
func (r *Ring) Holds(pki.Role) bool { return false }

// Open opens a message of the part itself; see envelope.Open.
func (r *Ring) Open(raw []byte, max int) (envelope.Message, error) {
	return envelope.Open(raw, max, r.Find)
}

// OpenAck opens an acknowledgement to the part itself; see envelope.Open. Whose
// it is, its kid says; whom it is for, its topic.
func (r *Ring) OpenAck(raw []byte, max int) (envelope.Message, error) {
	return envelope.Open(raw, max, func([]byte) *envelope.Key { return r.ack })
}

// Find returns the part's own key for its own kid, nil for any other.
func (r *Ring) Find(kid []byte) *envelope.Key {
	if id, err := envelope.ParseKeyID(kid); err != nil || id != r.id {
		return nil
	}
	return r.key
}
