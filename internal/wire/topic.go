package wire

import (
	"fmt"
	"strings"
)

// Root is the second level of every protected topic, after the site.
const Root = "bank_server"

// MaxTopic bounds a topic or filter in bytes, MaxLevels its levels.
const (
	MaxTopic  = 200
	MaxLevels = 8
	maxLevel  = 32 // bytes of one level
)

// Kind tells what a topic carries. The zero value is no topic of ours.
type Kind uint8

// The kinds of topics, in the order of docs/topics.md.
const (
	KindNone Kind = iota
	KindCPU
	KindRAM
	KindNetwork
	KindAlert
	KindCommand
	KindScaling
	KindRateLimiting
	KindPresence
	KindStatements
	KindRevocations
	KindDigest
	KindAck
	KindBackfill
	KindPublic
)

// shape is how one kind of topic is spelt below "{site}/bank_server/":
// a fixed prefix, then the publisher.
type shape struct {
	prefix string // levels before the variable ones, with a final slash
	role   string // the publisher's role where the topic does not name it
}

var shapes = [...]shape{
	KindCPU:          {"metrics/cpu/", "sensor"},
	KindRAM:          {"metrics/ram/", "sensor"},
	KindNetwork:      {"metrics/network/", "sensor"},
	KindAlert:        {"alerts/", "monitor"},
	KindCommand:      {"control/command/", ""},
	KindScaling:      {"status/scaling/", "controller"},
	KindRateLimiting: {"status/rate_limiting/", "controller"},
	KindPresence:     {"status/presence/", "broker"},
	KindStatements:   {"statements/", "approver"},
	KindRevocations:  {"revocations/", "issuer"},
	KindDigest:       {"digests/", ""},
	KindAck:          {"acks/", "recorder"},
	KindBackfill:     {"backfill/", ""},
	KindPublic:       {"", ""},
}

// String returns the kind's fixed levels, for example "metrics/cpu".
func (k Kind) String() string {
	switch {
	case k == KindNone || int(k) >= len(shapes):
		return "none"
	case k == KindPublic:
		return "public"
	default:
		return strings.TrimSuffix(shapes[k].prefix, "/")
	}
}

// Topic is a parsed topic: what it carries and who alone may publish on it.
type Topic struct {
	Kind Kind
	Site string // empty for public topics
	Role string // of the publisher
	Name string // of the publisher
	// PeerRole and PeerName are the sender that an acknowledgement is for,
	// and empty for all other kinds.
	PeerRole, PeerName string
}

// Protected reports whether the topic carries envelopes.
func (t Topic) Protected() bool { return t.Kind != KindNone && t.Kind != KindPublic }

// Sender returns "{site}/{role}/{name}" of the publisher.
func (t Topic) Sender() string { return t.Site + "/" + t.Role + "/" + t.Name }

// String spells the topic. It is the inverse of ParseTopic for every kind but
// KindPublic, which has no one spelling.
func (t Topic) String() string {
	if !t.Protected() || int(t.Kind) >= len(shapes) {
		return ""
	}
	s := shapes[t.Kind]
	b := t.Site + "/" + Root + "/" + s.prefix
	switch {
	case t.Kind == KindAck:
		return b + t.Name + "/" + t.PeerRole + "/" + t.PeerName
	case s.role == "":
		return b + t.Role + "/" + t.Name
	default:
		return b + t.Name
	}
}

// ParseTopic reads a concrete topic (no wildcards). Levels are
// "[a-z0-9_-]{1,32}", eight at most.
func ParseTopic(s string) (Topic, error) {
	if !ValidTopic(s) {
		return Topic{}, fmt.Errorf("reading topic: %q is outside the grammar", s)
	}
	if IsPublic(s) {
		return Topic{Kind: KindPublic}, nil
	}
	site, rest, _ := strings.Cut(s, "/")
	rest, ok := strings.CutPrefix(rest, Root+"/")
	if !ok {
		return Topic{}, fmt.Errorf("reading topic: %q is not below %s", s, Root)
	}
	for k := KindCPU; k < KindPublic; k++ {
		tail, ok := strings.CutPrefix(rest, shapes[k].prefix)
		if !ok {
			continue
		}
		t := Topic{Kind: k, Site: site, Role: shapes[k].role}
		levels := strings.Split(tail, "/")
		switch {
		case k == KindAck && len(levels) == 3:
			t.Name, t.PeerRole, t.PeerName = levels[0], levels[1], levels[2]
		case t.Role == "" && len(levels) == 2:
			t.Role, t.Name = levels[0], levels[1]
		case t.Role != "" && k != KindAck && len(levels) == 1:
			t.Name = levels[0]
		default:
			return Topic{}, fmt.Errorf("reading topic: %q has the wrong number of levels", s)
		}
		return t, nil
	}
	return Topic{}, fmt.Errorf("reading topic: %q is none of ours", s)
}

// ValidTopic reports whether s is a concrete topic in the grammar that every
// engine reads alike. It does not allocate.
func ValidTopic[T string | []byte](s T) bool {
	if len(s) == 0 || len(s) > MaxTopic {
		return false
	}
	levels, from := 1, 0
	for i := range len(s) {
		c := s[i]
		if levelBytes[c] {
			continue
		}
		if c != '/' || i == from || i-from > maxLevel {
			return false
		}
		levels, from = levels+1, i+1
	}
	last := len(s) - from
	return last > 0 && last <= maxLevel && levels <= MaxLevels
}

// levelBytes are those of a topic's level.
var levelBytes = bytesOf("abcdefghijklmnopqrstuvwxyz0123456789_-")

// Window returns the name of the replay window for what sender publishes on
// topics of kind k: backfill has a counter of its own (docs/envelope.md, section 9).
func Window(k Kind, sender []byte) []byte {
	if k == KindBackfill {
		return append(sender[:len(sender):len(sender)], "/backfill"...)
	}
	return sender
}

// Public is the filter of everything that anybody may publish.
const Public = "public/#"

// IsPublic reports whether Public covers a topic.
func IsPublic(topic string) bool { return topic == "public" || strings.HasPrefix(topic, "public/") }

// Filter returns the subscription that covers one kind of protected topic of a
// site, every publisher.
func Filter(k Kind, site string) string {
	if k == KindNone || k >= KindPublic {
		return ""
	}
	s := shapes[k]
	filter := site + "/" + Root + "/" + s.prefix + "+"
	if s.role == "" {
		filter += "/+"
	}
	if k == KindAck {
		filter += "/+/+"
	}
	return filter
}
