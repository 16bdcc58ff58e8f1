package policies

import (
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"levee/internal/wire"
	"levee/pki"
)

//go:embed default.yaml
var defaultFile string

// Default returns a copy of the default policy file.
func Default() []byte { return []byte(defaultFile) }

// Policy is a compiled policy file. It never changes once parsed, so any
// number of goroutines may use it. The zero value denies everything.
type Policy struct {
	hash      [sha256.Size]byte
	skew      time.Duration
	classes   classes
	roles     map[pki.Role]*role
	automatic map[string]Automatic
	broker    Broker
}

// Class is what every message of one kind must be. The zero value, with its
// MaxBytes of 0, admits no message at all.
type Class struct {
	Protected bool // travels in an envelope
	Signed    bool // the envelope carries a signature as well as a MAC
	MaxBytes  int  // of the whole envelope; of the payload where not Protected
}

// classes has a place for every kind: a broker asks for each message.
type classes [wire.KindPublic + 1]Class

// Limits bound one identity. The zero value permits nothing.
type Limits struct {
	MessagesPerSecond int // sustained, published
	Burst             int // messages
	BytesPerSecond    int // sustained, published; at least MaxMessageBytes
	MaxMessageBytes   int // of one PUBLISH payload, before its kind is known
	Subscriptions     int // filters held at once
}

// role is one role's compiled grants, shared by all of its identities.
type role struct {
	publish, subscribe []pattern
	keys               []pki.Role
	limits             Limits
}

// Parse reads a policy file: one YAML document of at most MaxBytes, with no
// unknown or duplicate name, no anchors and no tags. Whatever it accepts has
// passed every check that the package comment promises.
func Parse(b []byte) (*Policy, error) {
	f, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("reading policy: %w", err)
	}
	p, err := compile(f)
	if err != nil {
		return nil, fmt.Errorf("checking policy: %w", err)
	}
	p.hash = sha256.Sum256(b)
	return p, nil
}

// Hash returns SHA-256 of the file's bytes, which the site document pins.
func (p *Policy) Hash() [sha256.Size]byte { return p.hash }

// Skew returns how far a message's time may lie from the checker's clock.
func (p *Policy) Skew() time.Duration { return p.skew }

// Class returns what a message of kind k must be, the zero Class for a kind
// that the policy does not know.
func (p *Policy) Class(k wire.Kind) Class {
	if int(k) >= len(p.classes) {
		return Class{}
	}
	return p.classes[k]
}

// KeyRoles returns the roles whose role keys the bundles of r hold, sorted. It
// is empty for every role that does not judge messages.
func (p *Policy) KeyRoles(r pki.Role) []pki.Role {
	if role := p.roles[r]; role != nil {
		return slices.Clone(role.keys)
	}
	return nil
}

// Automatic returns the bounds within which a monitor may give command by
// itself, false when it may not at all.
func (p *Policy) Automatic(command string) (Automatic, bool) {
	a, ok := p.automatic[command]
	a.Causes = slices.Clone(a.Causes)
	return a, ok
}

// Rights resolves what id may do. It is never nil: an unknown role, or a site
// or name outside its grammar, has Rights that deny everything. id must come
// from a verified certificate; its parts are checked here once more, because
// they take the places of levels in patterns.
func (p *Policy) Rights(id pki.Identity) *Rights {
	role := p.roles[id.Role]
	if role == nil || !pki.ValidSite(id.Site) || !pki.ValidName(id.Name) {
		return &Rights{}
	}
	return &Rights{role: role, site: id.Site, name: id.Name, below: id.Site + "/" + wire.Root + "/"}
}

// Bounds of the skew: below, honest clocks disagree; above, a captured broker
// could hold back a command for longer than anyone would notice.
const (
	minSkew = time.Second
	maxSkew = 5 * time.Minute
)

func compile(f *file) (*Policy, error) {
	if f.Version != 1 {
		return nil, fmt.Errorf("version %d is not 1", f.Version)
	}
	skew := time.Duration(f.Skew)
	if skew < minSkew || skew > maxSkew {
		return nil, fmt.Errorf("skew %s is outside %s to %s", skew, minSkew, maxSkew)
	}
	classes, err := compileClasses(f.Topics)
	if err != nil {
		return nil, err
	}
	roles, err := compileRoles(f.Roles, classes)
	if err != nil {
		return nil, err
	}
	automatic, err := compileAutomatic(f.Automatic)
	if err != nil {
		return nil, err
	}
	broker, err := compileBroker(f.Broker)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	return &Policy{skew: skew, classes: classes, roles: roles, automatic: automatic, broker: broker}, nil
}

func compileRoles(files map[string]roleFile, classes classes) (map[pki.Role]*role, error) {
	if len(files) == 0 {
		return nil, errors.New("no roles")
	}
	roles := make(map[pki.Role]*role, len(files))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		r, err := compileRole(pki.Role(name), files[name], classes)
		if err != nil {
			return nil, fmt.Errorf("role %q: %w", name, err)
		}
		roles[pki.Role(name)] = r
	}
	// Which keys a role needs depends on what all the others may publish.
	for _, name := range slices.Sorted(maps.Keys(files)) {
		keys, err := compileKeys(pki.Role(name), files[name].Keys, roles)
		if err != nil {
			return nil, fmt.Errorf("role %q: %w", name, err)
		}
		roles[pki.Role(name)].keys = keys
	}
	return roles, nil
}

func compileRole(name pki.Role, f roleFile, classes classes) (*role, error) {
	if name.Class() == pki.ClassNone {
		return nil, errors.New("no such role")
	}
	var r role
	var err error
	if r.publish, err = compilePatterns(f.Publish, name); err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	if r.subscribe, err = compilePatterns(f.Subscribe, name); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	for _, p := range r.publish {
		if err := lintPublish(p, name); err != nil {
			return nil, fmt.Errorf("publish: %q: %w", p.source, err)
		}
	}
	r.limits = Limits{
		MessagesPerSecond: int(f.Limits.MessagesPerSecond),
		Burst:             int(f.Limits.Burst),
		BytesPerSecond:    int(f.Limits.BytesPerSecond),
		MaxMessageBytes:   int(f.Limits.MaxMessageBytes),
		Subscriptions:     int(f.Limits.Subscriptions),
	}
	if err := lintLimits(&r, classes); err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	return &r, nil
}

func compilePatterns(sources []string, name pki.Role) ([]pattern, error) {
	patterns := make([]pattern, 0, len(sources))
	for i, source := range sources {
		if slices.Contains(sources[:i], source) {
			return nil, fmt.Errorf("%q stands twice", source)
		}
		p, err := parsePattern(source, name)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", source, err)
		}
		patterns = append(patterns, p)
	}
	return patterns, nil
}
