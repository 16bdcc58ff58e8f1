package brokeradmin

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"levee/pki"
)

var errTarget = errors.New("neither SITE/ROLE/NAME nor an address")

// ParseTarget reads an identity, SITE/ROLE/NAME, or an address. An address may
// have the bits behind it that Ban.Who shows: /32, or /64 of IPv6.
func ParseTarget(text string) (Target, error) {
	address, bits, _ := strings.Cut(text, "/")
	a, err := netip.ParseAddr(address)
	switch a = a.Unmap(); {
	case err != nil:
		if !validIdentity(text) {
			return Target{}, fmt.Errorf("%q: %w", text, errTarget)
		}
		return Target{Identity: text}, nil
	case a.Zone() != "" || a.IsUnspecified():
		return Target{}, fmt.Errorf("%q: %w", text, errTarget)
	case text != address && !(a.Is4() && bits == "32" || a.Is6() && bits == "64"):
		return Target{}, fmt.Errorf("%q: only whole addresses, and /64 of IPv6, are banned", text)
	}
	return Target{Address: a}, nil
}

// ParseIdentity reads an identity, SITE/ROLE/NAME.
func ParseIdentity(text string) (string, error) {
	if !validIdentity(text) {
		return "", fmt.Errorf("%q: not SITE/ROLE/NAME", text)
	}
	return text, nil
}

func validIdentity(text string) bool {
	parts := strings.Split(text, "/")
	return len(parts) == 3 && pki.ValidSite(parts[0]) && pki.Role(parts[1]).Class() != pki.ClassNone && pki.ValidName(parts[2])
}

// String returns what ParseTarget reads.
func (t Target) String() string {
	if t.Identity != "" {
		return t.Identity
	}
	return t.Address.String()
}
