package pki

import (
	"errors"
	"fmt"
	"strings"
)

// Role says what the holder of an identity is for. The set is closed.
type Role string

// Roles of machines.
const (
	RoleBroker     Role = "broker"
	RoleSensor     Role = "sensor"
	RoleMonitor    Role = "monitor"
	RoleController Role = "controller"
	RoleApprover   Role = "approver"
	RoleIssuer     Role = "issuer"
	RoleRecorder   Role = "recorder"
	RoleConsole    Role = "console"
	RoleGuest      Role = "guest"
)

// Roles of people.
const (
	RoleOperator Role = "operator"
	RoleViewer   Role = "viewer"
	RoleAuditor  Role = "auditor"
)

// Class tells which of a site's two issuing authorities vouches for an identity.
// The zero value belongs to no authority.
type Class uint8

// The classes of identities.
const (
	ClassNone Class = iota
	ClassMachine
	ClassPerson
)

// String returns "machine", "person" or "none".
func (c Class) String() string {
	switch c {
	case ClassMachine:
		return "machine"
	case ClassPerson:
		return "person"
	default:
		return "none"
	}
}

// Class returns the class that may carry r, ClassNone for an unknown role.
func (r Role) Class() Class {
	switch r {
	case RoleBroker, RoleSensor, RoleMonitor, RoleController, RoleApprover,
		RoleIssuer, RoleRecorder, RoleConsole, RoleGuest:
		return ClassMachine
	case RoleOperator, RoleViewer, RoleAuditor:
		return ClassPerson
	default:
		return ClassNone
	}
}

// peopleLabel is the first host label of every person's identity. ValidSite
// refuses it, so that no site's machines can be mistaken for people.
const peopleLabel = "ops"

// Authority names one issuing authority: a class of one site. Its host is the
// only host that its certificates may carry.
type Authority struct {
	TrustDomain string
	Site        string
	Class       Class
}

// Host returns "{site}.{trust-domain}" for machines and
// "ops.{site}.{trust-domain}" for people.
func (a Authority) Host() string {
	if a.Class == ClassPerson {
		return peopleLabel + "." + a.Site + "." + a.TrustDomain
	}
	return a.Site + "." + a.TrustDomain
}

// URI returns the SPIFFE ID of the authority itself, which has no path
// (SPIFFE X.509-SVID, section 3.2).
func (a Authority) URI() string { return "spiffe://" + a.Host() }

// Identity names one part or one person of one site. Only ParseIdentity and
// code that validates its inputs may build one.
type Identity struct {
	TrustDomain string
	Site        string
	Role        Role
	Name        string
}

// Authority returns the authority that may vouch for id.
func (id Identity) Authority() Authority {
	return Authority{TrustDomain: id.TrustDomain, Site: id.Site, Class: id.Role.Class()}
}

// Host returns the host of the identity's URI.
func (id Identity) Host() string { return id.Authority().Host() }

// URI returns the SPIFFE ID, for example
// "spiffe://melb.bank.example/sensor/web-1".
func (id Identity) URI() string {
	return id.Authority().URI() + "/" + string(id.Role) + "/" + id.Name
}

// ClientID returns "{site}_{role}_{name}": the certificate's common name and
// the MQTT client identifier.
func (id Identity) ClientID() string {
	return id.Site + "_" + string(id.Role) + "_" + id.Name
}

// Sender returns "{site}/{role}/{name}": a key identifier without its generation.
func (id Identity) Sender() string {
	return id.Site + "/" + string(id.Role) + "/" + id.Name
}

// String returns the URI.
func (id Identity) String() string { return id.URI() }

var errIdentity = errors.New("not an identity of this system")

// ParseIdentity reads the SPIFFE ID of a leaf below trustDomain. It accepts
// exactly what URI produces and nothing else: no port, no user, no escapes, no
// upper case, no query, no further path.
func ParseIdentity(uri, trustDomain string) (Identity, error) {
	rest, ok := strings.CutPrefix(uri, "spiffe://")
	if !ok {
		return Identity{}, fmt.Errorf("reading identity %q: %w", uri, errIdentity)
	}
	host, path, ok := strings.Cut(rest, "/")
	if !ok {
		return Identity{}, fmt.Errorf("reading identity %q: no path: %w", uri, errIdentity)
	}
	authority, err := parseHost(host, trustDomain)
	if err != nil {
		return Identity{}, fmt.Errorf("reading identity %q: %w", uri, err)
	}
	role, name, ok := strings.Cut(path, "/")
	if !ok || !ValidName(name) {
		return Identity{}, fmt.Errorf("reading identity %q: not role/name: %w", uri, errIdentity)
	}
	if Role(role).Class() != authority.Class {
		return Identity{}, fmt.Errorf("reading identity %q: role not allowed for a %s: %w", uri, authority.Class, errIdentity)
	}
	return Identity{TrustDomain: trustDomain, Site: authority.Site, Role: Role(role), Name: name}, nil
}

// ParseAuthority reads the SPIFFE ID of an issuing authority below trustDomain.
func ParseAuthority(uri, trustDomain string) (Authority, error) {
	host, ok := strings.CutPrefix(uri, "spiffe://")
	if !ok {
		return Authority{}, fmt.Errorf("reading authority %q: %w", uri, errIdentity)
	}
	authority, err := parseHost(host, trustDomain)
	if err != nil {
		return Authority{}, fmt.Errorf("reading authority %q: %w", uri, err)
	}
	return authority, nil
}

func parseHost(host, trustDomain string) (Authority, error) {
	if !ValidTrustDomain(trustDomain) {
		return Authority{}, fmt.Errorf("trust domain %q: %w", trustDomain, errIdentity)
	}
	labels, ok := strings.CutSuffix(host, "."+trustDomain)
	if !ok {
		return Authority{}, fmt.Errorf("outside trust domain %q: %w", trustDomain, errIdentity)
	}
	class := ClassMachine
	if site, people := strings.CutPrefix(labels, peopleLabel+"."); people {
		labels, class = site, ClassPerson
	}
	if !ValidSite(labels) {
		return Authority{}, fmt.Errorf("site %q: %w", labels, errIdentity)
	}
	return Authority{TrustDomain: trustDomain, Site: labels, Class: class}, nil
}

// ValidName reports whether s may name a component or a person: 1 to 24 of
// "a-z 0-9 -", with a letter or digit at both ends.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > 24 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ValidSite reports whether s may name a site: a valid name other than
// "public", whose topics belong to nobody, and "ops", the label of people.
func ValidSite(s string) bool {
	return ValidName(s) && s != "public" && s != peopleLabel
}

// ValidTrustDomain reports whether s is a dotted lower-case host name of at
// most 200 bytes, so that every host below it fits a DNS name.
func ValidTrustDomain(s string) bool {
	if len(s) == 0 || len(s) > 200 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}
