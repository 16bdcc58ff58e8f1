package keys

import (
	"fmt"

	"levee/envelope"
	"levee/pki"
)

// Ring is what one component holds: its own key, and the role keys from which
// it derives those of the senders that it reads. It is safe for concurrent use.
type Ring struct {
	own     SenderKey
	key     *envelope.Key
	ack     *envelope.Key
	roles   map[string]RoleKey
	derived *cache
}

// Load reads the key file of a bundle, which only its owner may read.
func Load(path string) (*Ring, error) {
	blocks, err := load(path)
	if err != nil {
		return nil, err
	}
	own, roles, err := parseBundle(blocks)
	if err != nil {
		return nil, fmt.Errorf("reading key file %s: %w", path, err)
	}
	return NewRing(own, roles...)
}

// NewRing returns a ring over keys in memory.
func NewRing(own SenderKey, roles ...RoleKey) (*Ring, error) {
	key, err := own.Envelope()
	if err != nil {
		return nil, err
	}
	ack, err := own.Ack()
	if err != nil {
		return nil, err
	}
	r := &Ring{own: own, key: key, ack: ack, roles: make(map[string]RoleKey), derived: newCache(maxDerived)}
	for _, k := range roles {
		if k.site != own.id.Site {
			return nil, fmt.Errorf("making a key ring: a role key of site %q beside a sender of %q", k.site, own.id.Site)
		}
		r.roles[string(k.role)] = k
	}
	return r, nil
}

// Own returns the component's own key and its kid.
func (r *Ring) Own() (*envelope.Key, envelope.KeyID) { return r.key, r.own.id }

// Holds reports whether the ring can check the MACs of a role's senders.
func (r *Ring) Holds(role pki.Role) bool {
	_, ok := r.roles[string(role)]
	return ok
}

// Open opens a message with the key that its kid asks for; see envelope.Open.
// It remembers a derived key once that has opened a message: kid is not
// authenticated before, and whoever invents names costs one derivation each and
// leaves nothing behind. Opening a message of a remembered sender does not
// allocate.
func (r *Ring) Open(raw []byte, max int) (envelope.Message, error) {
	var derived *envelope.Key
	m, err := envelope.Open(raw, max, func(kid []byte) *envelope.Key {
		if key := r.derived.find(kid); key != nil {
			return key
		}
		derived = r.derive(kid)
		return derived
	})
	if err == nil && derived != nil {
		r.derived.remember(string(m.KID), derived)
	}
	return m, err
}

// OpenAck opens an acknowledgement to the component itself; see envelope.Open.
// Whose it is, its kid says; whom it is for, its topic.
func (r *Ring) OpenAck(raw []byte, max int) (envelope.Message, error) {
	return envelope.Open(raw, max, func([]byte) *envelope.Key { return r.ack })
}

// Find returns the key for kid, nil if the ring holds none for it: another
// site, a role that the bundle was not issued, or no kid at all. It remembers
// nothing: Open does.
func (r *Ring) Find(kid []byte) *envelope.Key {
	if key := r.derived.find(kid); key != nil {
		return key
	}
	return r.derive(kid)
}

func (r *Ring) derive(kid []byte) *envelope.Key {
	id, err := envelope.ParseKeyID(kid)
	if err != nil || id.Site != r.own.id.Site {
		return nil
	}
	if id == r.own.id {
		return r.key
	}
	role, ok := r.roles[id.Role]
	if !ok {
		return nil
	}
	sender, err := role.Sender(id.Name, id.Generation)
	if err != nil {
		return nil
	}
	key, err := sender.Envelope()
	if err != nil {
		return nil
	}
	return key
}
