package keys

import (
	"encoding/pem"
	"errors"
	"fmt"

	"levee/envelope/ownkey"
	"levee/pki"
)

// The PEM types of a key file beside that of package ownkey. Headers name what a
// key is for; the body is the key's 32 bytes.
const (
	blockSite = "LEVEE SITE KEY"
	blockRole = "LEVEE ROLE KEY"
)

// EncodeSite returns the file of a site key.
func EncodeSite(k SiteKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockSite, Headers: map[string]string{"Site": k.site}, Bytes: k.key[:]})
}

// LoadSite reads the file of a site key, which only its owner may read.
func LoadSite(path string) (SiteKey, error) {
	blocks, err := ownkey.Read(path)
	if err != nil {
		return SiteKey{}, err
	}
	if len(blocks) != 1 || blocks[0].Type != blockSite || !pki.ValidSite(blocks[0].Headers["Site"]) {
		return SiteKey{}, fmt.Errorf("reading site key %s: it does not hold exactly one site key", path)
	}
	return SiteKey{site: blocks[0].Headers["Site"], key: secret(blocks[0].Bytes)}, nil
}

// EncodeBundle returns the key file of a bundle: the component's own key, and
// the role keys that policy grants it.
func EncodeBundle(own ownkey.Key, roles ...RoleKey) []byte {
	b := own.Encode()
	for _, k := range roles {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: blockRole, Bytes: k.key[:],
			Headers: map[string]string{"Site": k.site, "Role": string(k.role)}})...)
	}
	return b
}

func parseBundle(blocks []*pem.Block) (own ownkey.Key, roles []RoleKey, err error) {
	if own, err = ownkey.Parse(blocks[0]); err != nil {
		return ownkey.Key{}, nil, err
	}
	for _, block := range blocks[1:] {
		if block.Type != blockRole {
			return ownkey.Key{}, nil, errors.New("not one sender key and then role keys")
		}
		k := RoleKey{site: block.Headers["Site"], role: pki.Role(block.Headers["Role"]), key: secret(block.Bytes)}
		if k.role.Class() == pki.ClassNone || k.site != own.ID().Site {
			return ownkey.Key{}, nil, fmt.Errorf("a role key is for %q of %q", k.role, k.site)
		}
		roles = append(roles, k)
	}
	return own, roles, nil
}
