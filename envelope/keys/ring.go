package keys

import (
	"errors"
	"fmt"
	"io/fs"

	"levee/envelope"
	"levee/envelope/ownkey"
	"levee/pki"
)

// Ring is what one component holds: its own key, and the role keys from which
// it derives those of the senders that it reads. It is safe for concurrent use.
type Ring struct {
	*ownkey.Ring // the own key
	roles        map[string]RoleKey
	derived      *cache
}

// Load reads the key file of a bundle, which only its owner may read.
func Load(path string) (*Ring, error) {
	blocks, err := ownkey.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; %s", err, ownkey.Remedy)
	}
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
func NewRing(own ownkey.Key, roles ...RoleKey) (*Ring, error) {
	alone, err := ownkey.NewRing(own)
	if err != nil {
		return nil, err
	}
	r := &Ring{Ring: alone, roles: make(map[string]RoleKey), derived: newCache(maxDerived)}
	for _, k := range roles {
		if k.site != own.ID().Site {
			return nil, fmt.Errorf("making a key ring: a role key of site %q beside a sender of %q", k.site, own.ID().Site)
		}
		r.roles[string(k.role)] = k
	}
	return r, nil
}

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
	if own := r.Ring.Find(kid); own != nil {
		return own
	}
	id, err := envelope.ParseKeyID(kid)
	if _, own := r.Own(); err != nil || id.Site != own.Site {
		return nil
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
