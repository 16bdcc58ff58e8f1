package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
)

// NewKey makes a key for a leaf of role: ECDSA P-256 for people and brokers,
// whose certificates browsers and foreign MQTT clients must understand,
// Ed25519 for all other machines.
func NewKey(role Role) (crypto.Signer, error) {
	switch {
	case role.Class() == ClassNone:
		return nil, fmt.Errorf("making key: %q is no role", role)
	case role.Class() == ClassPerson, role == RoleBroker:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
}
