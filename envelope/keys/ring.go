package keys

import (
	"fmt"
	"sync"

	"levee/envelope"
	"levee/pki"
)

// maxDerived bounds the sender keys that a ring remembers. Beyond it keys are
// derived each time: slower, but no sender can make the ring grow.
const maxDerived = 16384

// Ring is what one component holds: its own key, and the role keys from which
// it derives those of the senders that it reads. It is safe for concurrent use.
type Ring struct {
	own   SenderKey
	key   *envelope.Key
	roles map[string]RoleKey

	mu      sync.RWMutex
	derived map[string]*envelope.Key
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
	r := &Ring{own: own, key: key, roles: make(map[string]RoleKey), derived: make(map[string]*envelope.Key)}
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

// Find returns the key for kid, nil if the ring holds none for it: another
// site, a role that the bundle was not issued, or no kid at all.
func (r *Ring) Find(kid []byte) *envelope.Key {
	r.mu.RLock()
	key := r.derived[string(kid)]
	r.mu.RUnlock()
	if key != nil {
		return key
	}
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
	if key, err = sender.Envelope(); err != nil {
		return nil
	}
	r.mu.Lock()
	if len(r.derived) < maxDerived {
		r.derived[string(kid)] = key
	}
	r.mu.Unlock()
	return key
}
