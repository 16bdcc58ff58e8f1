package policies

import (
	"errors"
	"fmt"
	"strings"

	"levee/internal/wire"
	"levee/pki"
)

// levelKind tells what one level of a pattern stands for.
type levelKind uint8

const (
	levelLiteral levelKind = iota // text
	levelSite                     // the identity's site
	levelName                     // the identity's name
	levelAny                      // "+": any one level
	levelRest                     // "#": this level's parent and all below it; last
)

type level struct {
	kind levelKind
	text string // of a literal
}

// pattern is one grant, with {role} resolved already.
type pattern struct {
	source string // as the file spells it
	levels []level
	kind   wire.Kind // the one kind of topics that it matches

	// The same once more, cut for matching: what it begins with (below
	// "{site}/bank_server/" if protected), then the levels from the first that
	// is no literal. fixed is never empty.
	protected bool
	fixed     string
	tail      []level
}

// sample is what a pattern is tried with: values for the placeholders, the
// longest there are, and one level for every wildcard.
type sample struct{ site, name, wildcard string }

// samples differ in every value, so that a level of a tried pattern equals the
// own site, name or role in both only if it is no wildcard and no accident. A
// wildcard's value is a valid name and a valid role, and no fixed level of any
// topic, so it fits wherever a wildcard may stand and nowhere else.
var samples = [2]sample{
	{strings.Repeat("a", 24), strings.Repeat("b", 24), string(pki.RoleSensor)},
	{strings.Repeat("c", 24), strings.Repeat("d", 24), string(pki.RoleBroker)},
}

// parsePattern reads one pattern of role. It refuses one that could match
// another site's topics, or topics of no kind or of several.
func parsePattern(source string, role pki.Role) (pattern, error) {
	p := pattern{source: source}
	texts := strings.Split(source, "/")
	if len(texts) > wire.MaxLevels {
		return pattern{}, fmt.Errorf("more than %d levels", wire.MaxLevels)
	}
	for i, text := range texts {
		switch {
		case text == "{site}" && i == 0:
			p.levels = append(p.levels, level{kind: levelSite})
		case text == "{name}" && i > 0:
			p.levels = append(p.levels, level{kind: levelName})
		case text == "{role}" && i > 0:
			p.levels = append(p.levels, level{text: string(role)})
		case text == "+" && i > 0:
			p.levels = append(p.levels, level{kind: levelAny})
		case text == "#" && i > 0 && i == len(texts)-1:
			p.levels = append(p.levels, level{kind: levelRest})
		case wire.ValidTopic(text):
			p.levels = append(p.levels, level{text: text})
		default:
			return pattern{}, fmt.Errorf("level %q may not stand there", text)
		}
	}
	public := p.levels[0] == level{text: "public"}
	if !public && p.levels[0].kind != levelSite {
		return pattern{}, errors.New(`neither below "{site}" nor "public"`)
	}
	if !public && p.levels[len(p.levels)-1].kind == levelRest {
		return pattern{}, errors.New(`"#" may stand below "public" alone`)
	}
	for _, s := range samples {
		t, err := p.try(s)
		if err != nil {
			return pattern{}, err
		}
		p.kind, p.protected = t.Kind, t.Protected()
	}
	p.tail = p.levels
	if p.protected {
		p.tail = p.levels[2:] // every protected topic lies below the site and wire.Root
	}
	var fixed []string
	for len(p.tail) > 0 && p.tail[0].kind == levelLiteral {
		fixed, p.tail = append(fixed, p.tail[0].text), p.tail[1:]
	}
	p.fixed = strings.Join(fixed, "/")
	return p, nil
}

// try parses the topic that p becomes with the values of s.
func (p pattern) try(s sample) (wire.Topic, error) {
	texts := make([]string, len(p.levels))
	for i, l := range p.levels {
		switch l.kind {
		case levelSite:
			texts[i] = s.site
		case levelName:
			texts[i] = s.name
		case levelAny, levelRest:
			texts[i] = s.wildcard
		default:
			texts[i] = l.text
		}
	}
	t, err := wire.ParseTopic(strings.Join(texts, "/"))
	switch {
	case err != nil:
		return wire.Topic{}, errors.New("matches no topic of docs/topics.md")
	case t.Kind == wire.KindPublic:
		return t, nil
	case pki.Role(t.Role).Class() == pki.ClassNone,
		t.Kind == wire.KindAck && pki.Role(t.PeerRole).Class() == pki.ClassNone:
		return wire.Topic{}, errors.New("names no role of this system")
	case !pki.ValidName(t.Name),
		t.Kind == wire.KindAck && !pki.ValidName(t.PeerName):
		return wire.Topic{}, errors.New("names nobody who could exist")
	}
	return t, nil
}

// covers reports whether every topic that filter matches is matched by grant
// as well. Both are split into levels, without placeholders, and grant begins
// with a literal. Comparing level by level is then exact: "+" covers any one
// level but not "#", and "#" covers its parent too (MQTT 3.1.1, section
// 4.7.1.2).
func covers(grant, filter []string) bool {
	for i, g := range grant {
		switch {
		case g == "#":
			return true
		case i == len(filter) || filter[i] == "#":
			return false
		case g != "+" && g != filter[i]:
			return false
		}
	}
	return len(filter) == len(grant)
}

// overlap reports whether some topic could match both a pattern of one role
// and a pattern of another role of the same site. Only protected patterns,
// which have no "#", are compared.
func overlap(a, b []level) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].kind == levelLiteral && b[i].kind == levelLiteral && a[i].text != b[i].text {
			return false
		}
	}
	return true
}
