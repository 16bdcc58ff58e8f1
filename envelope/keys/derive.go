// Package keys derives envelope keys and holds those that a bundle was issued.
//
// From one site key follow a key for each role, and from that a key for each
// sender and generation (docs/envelope.md, section 6). A sender is issued its
// own key alone, which is package ownkey's, a machine that judges the keys of
// the roles it reads.
//
// It guarantees that no key derives its parent or its sibling, that a key file
// readable by others is refused, and that no type here prints its secret. It
// does not protect against a holder of a role key: whoever can check a MAC can
// make it. Signatures are for that.
package keys

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"strconv"

	"levee/envelope"
	"levee/envelope/ownkey"
	"levee/pki"
)

// secret is 32 bytes that never show. The types that hold one format
// themselves, because package fmt does not call the methods of hidden fields.
type secret [envelope.KeySize]byte

// SiteKey is the root of one site's envelope keys. Only the deployer holds it.
type SiteKey struct {
	site string
	key  secret
}

// RoleKey derives the key of every sender of one role of one site.
type RoleKey struct {
	site string
	role pki.Role
	key  secret
}

// NewSiteKey returns a fresh random key for site.
func NewSiteKey(site string) (SiteKey, error) {
	if !pki.ValidSite(site) {
		return SiteKey{}, fmt.Errorf("making a site key: %q is not a site's name", site)
	}
	k := SiteKey{site: site}
	rand.Read(k.key[:]) // never fails (crypto/rand since Go 1.24)
	return k, nil
}

// Role returns the key of one role of the site.
func (k SiteKey) Role(role pki.Role) (RoleKey, error) {
	if role.Class() == pki.ClassNone {
		return RoleKey{}, fmt.Errorf("deriving a role key: %q is no role", role)
	}
	key, err := derive(k.key, "role", k.site, string(role))
	if err != nil {
		return RoleKey{}, err
	}
	return RoleKey{site: k.site, role: role, key: key}, nil
}

// Role returns the role whose senders k derives.
func (k RoleKey) Role() pki.Role { return k.role }

// Sender returns the key of one sender of the role.
func (k RoleKey) Sender(name string, generation uint32) (ownkey.Key, error) {
	if !pki.ValidName(name) || generation == 0 {
		return ownkey.Key{}, fmt.Errorf("deriving a sender key: %q, generation %d is no sender", name, generation)
	}
	key, err := derive(k.key, "sender", name, strconv.FormatUint(uint64(generation), 10))
	if err != nil {
		return ownkey.Key{}, err
	}
	id := envelope.KeyID{Site: k.site, Role: string(k.role), Name: name, Generation: generation}
	return ownkey.New(id, key), nil
}

// Format hides the key, whatever the verb.
func (k SiteKey) Format(f fmt.State, _ rune) { redact(f, k.site) }

// Format hides the key, whatever the verb.
func (k RoleKey) Format(f fmt.State, _ rune) { redact(f, k.site+"/"+string(k.role)) }

// LogValue hides the key.
func (k SiteKey) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(k)) }

// LogValue hides the key.
func (k RoleKey) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(k)) }

func redact(w io.Writer, name string) { fmt.Fprintf(w, "key of %s (redacted)", name) }

// derive is one step of the hierarchy: HKDF-SHA256 (RFC 5869), extracted with
// our salt from the parent and expanded with the label and its fields.
func derive(parent secret, label string, fields ...string) (secret, error) {
	info := append([]byte(label), 0)
	for _, field := range fields {
		if len(field) > 255 {
			return secret{}, fmt.Errorf("deriving a key: a field of %q is over 255 bytes long", label)
		}
		info = append(info, byte(len(field)))
		info = append(info, field...)
	}
	key, err := hkdf.Key(sha256.New, parent[:], []byte(ownkey.Salt), string(info), envelope.KeySize)
	if err != nil {
		return secret{}, fmt.Errorf("deriving a key: %w", err)
	}
	return secret(key), nil
}
