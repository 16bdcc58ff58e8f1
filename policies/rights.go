package policies

import (
	"strings"

	"levee/internal/wire"
)

// Rights are what one identity may do under one policy. They never change, so
// any number of goroutines may ask. The zero value, and nil, deny everything.
type Rights struct {
	role       *role
	site, name string
	below      string // "{site}/bank_server/": what all protected patterns begin with
}

// MayPublish reports whether the identity may publish on topic, which must be
// concrete: a name with a wildcard in it is refused.
func (r *Rights) MayPublish(topic string) bool {
	return r != nil && r.role != nil && r.match(r.role.publish, topic)
}

// MayReceive reports whether a message on topic, which must be concrete, may be
// delivered to the identity.
func (r *Rights) MayReceive(topic string) bool {
	return r != nil && r.role != nil && r.match(r.role.subscribe, topic)
}

// MaySubscribe reports whether the identity may receive every topic that
// filter matches: some one pattern granted must cover it whole. Filters
// outside the grammar of topics are refused, and with them all that begin
// with "$", shared subscriptions included.
func (r *Rights) MaySubscribe(filter string) bool {
	if r == nil || r.role == nil {
		return false
	}
	var wanted, granted [wire.MaxLevels]string
	levels, ok := splitFilter(wanted[:0], filter)
	if !ok {
		return false
	}
	for _, p := range r.role.subscribe {
		if covers(r.spell(granted[:0], p), levels) {
			return true
		}
	}
	return false
}

// Subscriptions returns the widest filters granted, in the order of the file:
// what a component subscribes to that wants all it may read. None of them
// covers another.
func (r *Rights) Subscriptions() []string {
	if r == nil || r.role == nil {
		return nil
	}
	return r.widest(r.role.subscribe)
}

// Publications returns the widest filters of the topics that may be published
// on, in the order of the file: what to tell somebody who wants to know. None of
// them covers another.
func (r *Rights) Publications() []string {
	if r == nil || r.role == nil {
		return nil
	}
	return r.widest(r.role.publish)
}

// widest spells the patterns that no other one covers.
func (r *Rights) widest(patterns []pattern) []string {
	var filters []string
	for i, p := range patterns {
		levels := r.spell(nil, p)
		redundant := false
		for j, other := range patterns {
			wider := covers(r.spell(nil, other), levels)
			// Of two that are equal once resolved, the first stays.
			if j != i && wider && (j < i || !covers(levels, r.spell(nil, other))) {
				redundant = true
				break
			}
		}
		if !redundant {
			filters = append(filters, strings.Join(levels, "/"))
		}
	}
	return filters
}

// Limits returns the identity's limits.
func (r *Rights) Limits() Limits {
	if r == nil || r.role == nil {
		return Limits{}
	}
	return r.role.limits
}

// spell appends the levels of p as a filter of this identity.
func (r *Rights) spell(to []string, p pattern) []string {
	for _, l := range p.levels {
		switch l.kind {
		case levelAny:
			to = append(to, "+")
		case levelRest:
			to = append(to, "#")
		default:
			to = append(to, r.text(l))
		}
	}
	return to
}

// text returns what a level other than a wildcard stands for.
func (r *Rights) text(l level) string {
	switch l.kind {
	case levelSite:
		return r.site
	case levelName:
		return r.name
	default:
		return l.text
	}
}

// match reports whether one of patterns matches topic. It runs for every
// message and every receiver: nearly all patterns fall at their first byte.
func (r *Rights) match(patterns []pattern, topic string) bool {
	if len(topic) > wire.MaxTopic {
		return false
	}
	rest, protected := strings.CutPrefix(topic, r.below)
	if rest == "" {
		return false
	}
	for i := range patterns {
		p := &patterns[i]
		if p.fixed[0] == rest[0] && p.protected == protected &&
			strings.HasPrefix(rest, p.fixed) && r.matchTail(p, rest[len(p.fixed):]) {
			return true
		}
	}
	return false
}

// matchTail reports whether what p has after its fixed part matches rest, which
// is empty or must begin with a slash. A level that equals a literal or the own
// name is valid by that; one that meets a wildcard is checked, so that no topic
// outside the grammar matches.
func (r *Rights) matchTail(p *pattern, rest string) bool {
	for i := range p.tail {
		l := &p.tail[i]
		if l.kind == levelRest {
			return validRest(rest, len(p.levels)-1)
		}
		if rest == "" || rest[0] != '/' {
			return false
		}
		rest = rest[1:]
		if l.kind == levelAny {
			n := levelLength(rest)
			if n == 0 {
				return false
			}
			rest = rest[n:]
			continue
		}
		text := r.text(*l)
		if !strings.HasPrefix(rest, text) {
			return false
		}
		rest = rest[len(text):]
	}
	return rest == ""
}

// validRest reports whether rest, after so many levels of a topic, is empty or
// a slash and further levels of a valid topic.
func validRest(rest string, levels int) bool {
	for ; rest != ""; levels++ {
		n := levelLength(rest[1:])
		if rest[0] != '/' || n == 0 {
			return false
		}
		rest = rest[1+n:]
	}
	return levels <= wire.MaxLevels
}

// levelLength returns the length of the valid level that s begins with, 0 if
// there is none. It must agree with wire.ValidTopic, which would cost a
// decision half of its time; a test holds the two together.
func levelLength(s string) int {
	for i := range len(s) {
		if !levelByte[s[i]] {
			if s[i] != '/' || i > maxLevel {
				return 0
			}
			return i
		}
	}
	if len(s) > maxLevel {
		return 0
	}
	return len(s)
}

// maxLevel bounds one level in bytes.
const maxLevel = 32

// levelByte tells what a level is made of: "[a-z0-9_-]".
var levelByte = func() (is [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyz0123456789_-") {
		is[c] = true
	}
	return is
}()

// splitFilter appends the levels of a filter, false when it is outside the
// grammar: levels of topics, "+", and "#" at the end.
func splitFilter(to []string, filter string) ([]string, bool) {
	if len(filter) == 0 || len(filter) > wire.MaxTopic {
		return nil, false
	}
	for more := true; more; {
		var head string
		head, filter, more = strings.Cut(filter, "/")
		switch {
		case len(to) == wire.MaxLevels:
			return nil, false
		case head == "+", head == "#" && !more, wire.ValidTopic(head):
			to = append(to, head)
		default:
			return nil, false
		}
	}
	return to, true
}
