package keys

import (
	"fmt"

	"levee/envelope"
)

// Ack returns the key of the acknowledgements to a sender, from its key in that
// generation, which the ring derives from its role's.
func (r *Ring) Ack(peer envelope.KeyID) (*envelope.Key, error) {
	role, ok := r.roles[peer.Role]
	if _, own := r.Own(); !ok || peer.Site != own.Site {
		return nil, fmt.Errorf("deriving an acknowledgement key: the ring does not hold the key of the %ss of %s", peer.Role, peer.Site)
	}
	k, err := role.Sender(peer.Name, peer.Generation)
	if err != nil {
		return nil, err
	}
	return k.Ack()
}
