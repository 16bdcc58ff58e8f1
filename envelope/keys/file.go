package keys

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"levee/envelope"
	"levee/pki"
)

// The PEM types of a key file. Headers name what a key is for; the body is the
// key's 32 bytes.
const (
	blockSite   = "LEVEE SITE KEY"
	blockRole   = "LEVEE ROLE KEY"
	blockSender = "LEVEE SENDER KEY"
)

// maxFile bounds a key file in bytes.
const maxFile = 64 << 10

// EncodeSite returns the file of a site key.
func EncodeSite(k SiteKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockSite, Headers: map[string]string{"Site": k.site}, Bytes: k.key[:]})
}

// LoadSite reads the file of a site key, which only its owner may read.
func LoadSite(path string) (SiteKey, error) {
	blocks, err := load(path)
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
func EncodeBundle(own SenderKey, roles ...RoleKey) []byte {
	b := pem.EncodeToMemory(&pem.Block{Type: blockSender, Bytes: own.key[:], Headers: map[string]string{
		"Site": own.id.Site, "Role": own.id.Role, "Name": own.id.Name,
		"Generation": strconv.FormatUint(uint64(own.id.Generation), 10),
	}})
	for _, k := range roles {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: blockRole, Bytes: k.key[:],
			Headers: map[string]string{"Site": k.site, "Role": string(k.role)}})...)
	}
	return b
}

func load(path string) ([]*pem.Block, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("reading key file %s: not a regular file", path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("reading key file %s: mode %#o lets others read it; run: chmod 600 %s", path, info.Mode().Perm(), path)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("reading key file %s: larger than %d bytes", path, maxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	var blocks []*pem.Block
	for len(bytes.TrimSpace(b)) > 0 {
		block, rest := pem.Decode(b)
		if block == nil || len(block.Bytes) != envelope.KeySize {
			return nil, fmt.Errorf("reading key file %s: not PEM blocks of 32 bytes each", path)
		}
		blocks, b = append(blocks, block), rest
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("reading key file %s: empty", path)
	}
	return blocks, nil
}

func parseBundle(blocks []*pem.Block) (own SenderKey, roles []RoleKey, err error) {
	for i, block := range blocks {
		h := block.Headers
		switch {
		case i == 0 && block.Type == blockSender:
			kid := h["Site"] + "/" + h["Role"] + "/" + h["Name"] + "/" + h["Generation"]
			id, err := envelope.ParseKeyID([]byte(kid))
			if err != nil {
				return SenderKey{}, nil, fmt.Errorf("the sender key's name %q is outside the grammar", kid)
			}
			own = SenderKey{id: id, key: secret(block.Bytes)}
		case i > 0 && block.Type == blockRole:
			k := RoleKey{site: h["Site"], role: pki.Role(h["Role"]), key: secret(block.Bytes)}
			if k.role.Class() == pki.ClassNone || k.site != own.id.Site {
				return SenderKey{}, nil, fmt.Errorf("a role key is for %q of %q", k.role, k.site)
			}
			roles = append(roles, k)
		default:
			return SenderKey{}, nil, errors.New("not one sender key and then role keys")
		}
	}
	return own, roles, nil
}
