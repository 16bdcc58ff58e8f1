package revocation

import (
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// The issuer was replaced, and the new document pins the new key: what the old one
// revoked stays revoked over a start, until the new one's first list.
func TestKeptListOfAReplacedIssuer(t *testing.T) {
	b := newBank(t, noon)
	p := newPart(t, b)
	issuer, stolen := b.issue(issuer1, noon), b.issue(web1, noon.Add(-time.Minute))
	p.config.Document = &pins{sender: issuer1.Sender(), spki: pki.SPKIHash(issuer.leaf)}
	s := p.open(t, noon)
	at := noon.Add(time.Second)
	apply(t, s, b.sign(issuer, topic, payload(5, at, revoke(web1, at)), at), at)
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	next := b.issue(issuer1, noon)
	p.config.Document = &pins{sender: issuer1.Sender(), spki: pki.SPKIHash(next.leaf)}
	s = p.open(t, at)
	if !s.Revoked(web1, stolen.leaf) {
		t.Errorf("after a start the revoked sensor counts again; number %d", s.Number())
	}
	at = at.Add(time.Second)
	refused(t, s, b.sign(issuer, topic, payload(6, at), at), at, envelope.BadPin, "does not pin")
	apply(t, s, b.sign(next, topic, payload(6, at, revoke(web1, at)), at), at)
}

// The clocks of a site were ahead when something was revoked, and are right again:
// the next list of the right time counts, if it takes nothing back.
func TestListOfClocksThatWereAhead(t *testing.T) {
	b := newBank(t, noon)
	issuer := b.issue(issuer1, noon)
	ahead, at := noon.Add(20*time.Hour), noon.Add(time.Minute)
	number, first := uint64(at.UnixMilli()), uint64(ahead.UnixMilli())
	entry := revoke(web1, ahead)
	entry.Generation = 2
	stolen, again := serial(b.issue(alice, noon)), revoke(web1, at)
	again.Generation = 2
	for name, test := range map[string]struct {
		number  uint64
		revoked []wire.Revoked
		now     time.Time // by which the first list is judged
		want    bool
	}{
		"the same":                   {number, []wire.Revoked{again, stolen}, at, true},
		"more":                       {number, []wire.Revoked{again, revoke(web2, at), stolen}, at, true},
		"nothing":                    {number, nil, at, false},
		"without the identity":       {number, []wire.Revoked{stolen, revoke(web2, at)}, at, false},
		"without the certificate":    {number, []wire.Revoked{again, revoke(web2, at)}, at, false},
		"with a lower generation":    {number, []wire.Revoked{revoke(web1, at), stolen}, at, false},
		"once that time has come":    {first - 1, []wire.Revoked{again, stolen}, ahead, false},
		"of the skew before it came": {first - 1, []wire.Revoked{again, stolen}, ahead.Add(-skew), false},
		"a moment before that":       {first - skewed - 1, []wire.Revoked{again, stolen}, ahead.Add(-skew - time.Millisecond), true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPart(t, b)
			s := p.open(t, noon)
			apply(t, s, b.sign(issuer, topic, payload(first, ahead, entry, stolen), ahead), ahead)
			raw := b.sign(issuer, topic, payload(test.number, test.now, test.revoked...), test.now)
			if !test.want {
				refused(t, s, raw, test.now, envelope.BadContent, "is in force")
				return
			}
			apply(t, s, raw, test.now)
			if s.Number() != test.number || !strings.Contains(p.log.String(), "level=ERROR") || !strings.Contains(p.log.String(), "clocks were ahead") {
				t.Errorf("number %d, and the log says:\n%s", s.Number(), p.log)
			}
			later := test.now.Add(time.Second)
			refused(t, s, b.sign(issuer, topic, payload(test.number-1, later, test.revoked...), later), later, envelope.BadContent, "is in force")
		})
	}
	// Of a journal that begins anew the number says nothing of the time.
	s := newPart(t, b).open(t, noon)
	apply(t, s, b.sign(issuer, topic, payload(1, ahead), ahead), ahead)
	refused(t, s, b.sign(issuer, topic, payload(1, at, revoke(web1, at)), at), at, envelope.BadContent, "other entries")
	apply(t, s, b.sign(issuer, topic, payload(1, at), at), at)
	if age, stale := s.Stale(at); stale || age != 0 {
		t.Errorf("the same list of the right time is %s old, stale: %v", age, stale)
	}
}

// skewed is the skew as list numbers count it.
const skewed = uint64(skew / time.Millisecond)
