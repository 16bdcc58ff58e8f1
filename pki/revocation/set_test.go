package revocation

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// noon is the time of the tests that do not depend on the clock.
var noon = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

func revoke(id pki.Identity, before time.Time) wire.Revoked {
	return wire.Revoked{Sender: id.Sender(), Before: before.UnixMilli()}
}

func serial(h holder) wire.Revoked {
	var id wire.ID
	h.leaf.SerialNumber.FillBytes(id[:])
	return wire.Revoked{Serial: id, Until: h.leaf.NotAfter.UnixMilli()}
}

func apply(t testing.TB, s *Set, raw []byte, now time.Time) (changed bool) {
	t.Helper()
	changed, err := s.Apply(raw, now)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func TestRevokesByIdentityAndBySerial(t *testing.T) {
	b := newBank(t, noon)
	s := newPart(t, b).open(t, noon)
	issuer, old, other := b.issue(issuer1, noon), b.issue(web1, noon), b.issue(web2, noon)
	person, people := b.issue(alice, noon), b.issue(alice, noon)
	if s.Revoked(web1, old.leaf) || s.Number() != 0 || s.MinimumGeneration(web1.Sender()) != 0 {
		t.Error("something is revoked before the first list")
	}
	now := noon.Add(10 * time.Minute)
	entry := revoke(web1, now)
	entry.Generation = 2
	if !apply(t, s, b.sign(issuer, topic, payload(1, now, entry, serial(person)), now), now) {
		t.Error("the first list changes nothing")
	}
	for _, test := range []struct {
		name string
		h    holder
		want bool
	}{
		{"an identity's certificate", old, true},
		{"another certificate of it, issued earlier as well", b.issue(web1, noon.Add(time.Minute)), true},
		{"one that it was given afterwards", b.issue(web1, now.Add(2*time.Minute)), false},
		{"another identity's", other, false},
		{"a certificate", person, true},
		{"another one of the same person", people, false},
		{"the issuer's", issuer, false},
		{"the same name in another role", b.issue(identity("melb", pki.RoleController, "web-1"), noon), false},
		{"the same name at another site", b.issue(identity("perth", pki.RoleSensor, "web-1"), noon), false},
	} {
		if got := s.Revoked(test.h.id, test.h.leaf); got != test.want {
			t.Errorf("%s: revoked = %v", test.name, got)
		}
	}
	if got := s.MinimumGeneration(web1.Sender()); got != 2 {
		t.Errorf("minimum generation %d", got)
	}
	if got := s.MinimumGeneration(web2.Sender()); got != 0 {
		t.Errorf("another's minimum generation %d", got)
	}
}

// A certificate is revoked to the millisecond of its notBefore, and a serial
// number that no list can spell is nobody else's.
func TestEdges(t *testing.T) {
	b := newBank(t, noon)
	s := newPart(t, b).open(t, noon)
	issuer, h := b.issue(issuer1, noon), b.issue(web1, noon)
	apply(t, s, b.sign(issuer, topic, payload(1, noon, revoke(web1, h.leaf.NotBefore)), noon), noon)
	if s.Revoked(web1, h.leaf) {
		t.Error("issued at that very moment, and revoked")
	}
	later := noon.Add(time.Second)
	apply(t, s, b.sign(issuer, topic, payload(2, later, revoke(web1, h.leaf.NotBefore.Add(time.Millisecond)), serial(h)), later), later)
	if !s.Revoked(web1, h.leaf) {
		t.Error("issued a millisecond earlier, and not revoked")
	}
	long := *h.leaf
	long.SerialNumber = new(big.Int).Add(h.leaf.SerialNumber, new(big.Int).Lsh(big.NewInt(1), 128))
	if s.Revoked(web2, &long) {
		t.Error("revoked by the lower half of a serial number")
	}
}

// refused demands that a list is refused for a reason, and that the one in force
// stays.
func refused(t *testing.T, s *Set, raw []byte, now time.Time, want envelope.Reason, text string) {
	t.Helper()
	before, changed := s.Number(), s.Changed()
	_, err := s.Apply(raw, now)
	if err == nil || envelope.ReasonOf(err) != want || !errors.Is(err, envelope.ErrRejected) || !strings.Contains(err.Error(), text) {
		t.Errorf("%v (%s), want %s, %q", err, envelope.ReasonOf(err).String(), want.String(), text)
	}
	if s.Number() != before {
		t.Errorf("number %d took the place of %d", s.Number(), before)
	}
	select {
	case <-changed:
		t.Error("a refused list told of a change")
	default:
	}
}

func TestWhoMaySignAList(t *testing.T) {
	b := newBank(t, noon)
	s := newPart(t, b).open(t, noon)
	list := payload(2, noon, revoke(web1, noon))
	issuer := b.issue(issuer1, noon)
	perth := b.issue(identity("perth", pki.RoleIssuer, "issuer-1"), noon)
	monitor := b.issue(identity("melb", pki.RoleMonitor, "monitor-1"), noon)
	namesake := b.issue(identity("melb", pki.RoleMonitor, "issuer-1"), noon)
	stranger := newBank(t, noon).issue(issuer1, noon)
	unsigned := must(envelope.Append(nil, envelope.Header{KeyID: envelope.KeyID{Site: "melb", Role: "issuer", Name: "issuer-1", Generation: 1},
		Time: noon.UnixMilli(), Nonce: envelope.Nonce{Boot: uint64(noon.UnixMilli()), Seq: 1}, Topic: topic}, list, b.key, nil))
	good := b.sign(issuer, topic, list, noon)
	for _, test := range []struct {
		name string
		raw  []byte
		want envelope.Reason
	}{
		{"nothing", nil, envelope.BadSize},
		{"no message", []byte(strings.Repeat("x", 200)), envelope.BadKeyID},
		{"too long", append(bytes.Repeat([]byte{' '}, envelope.MaxMessage), good...), envelope.BadSize},
		{"unsigned", unsigned, envelope.Unsigned},
		{"another site's issuer, on its own topic", b.sign(perth, "perth/bank_server/revocations/issuer-1", list, noon), envelope.BadTopic},
		{"another site's issuer, on this site's topic", b.sign(perth, topic, list, noon), envelope.BadSender},
		{"another site's issuer, in this one's name", b.signAs(perth, issuer1, topic, list, noon), envelope.BadSender},
		{"a monitor, on its own topic", b.sign(monitor, "melb/bank_server/alerts/monitor-1", list, noon), envelope.BadTopic},
		{"a monitor, on the issuer's topic", b.sign(monitor, topic, list, noon), envelope.BadSender},
		{"a monitor of the issuer's name", b.sign(namesake, topic, list, noon), envelope.BadSender},
		{"a monitor, in the issuer's name", b.signAs(monitor, issuer1, topic, list, noon), envelope.BadSender},
		{"another issuer, on this one's topic", b.sign(b.issue(identity("melb", pki.RoleIssuer, "issuer-2"), noon), topic, list, noon), envelope.BadSender},
		{"another root's issuer", b.sign(stranger, topic, list, noon), envelope.BadSignature},
		{"a certificate that has ended", b.sign(issuer, topic, list, noon.Add(25*time.Hour)), envelope.BadSignature},
		{"an entry changed", bytes.Replace(good, []byte("sensor/web-1"), []byte("sensor/web-2"), 1), envelope.BadSignature},
	} {
		t.Run(test.name, func(t *testing.T) { refused(t, s, test.raw, noon, test.want, "list refused") })
	}
	apply(t, s, good, noon)
}

// Who holds the site's machine CA makes an issuer. The site document may pin
// the true one.
func TestPinnedIssuer(t *testing.T) {
	b := newBank(t, noon)
	p := newPart(t, b)
	issuer, minted := b.issue(issuer1, noon), b.issue(issuer1, noon)
	other := b.issue(identity("melb", pki.RoleIssuer, "issuer-2"), noon)
	p.config.Document = &pins{sender: issuer1.Sender(), spki: pki.SPKIHash(issuer.leaf)}
	s := p.open(t, noon)
	refused(t, s, b.sign(minted, topic, payload(1, noon), noon), noon, envelope.BadPin, "does not pin for melb/issuer/issuer-1")
	refused(t, s, b.sign(other, "melb/bank_server/revocations/issuer-2", payload(1, noon), noon), noon, envelope.BadPin, "does not pin for melb/issuer/issuer-2")
	apply(t, s, b.sign(issuer, topic, payload(1, noon), noon), noon)
}

func TestNumbersOnlyRise(t *testing.T) {
	b := newBank(t, noon)
	s := newPart(t, b).open(t, noon)
	issuer, h := b.issue(issuer1, noon), b.issue(web1, noon)
	at := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Second) }
	first := b.sign(issuer, topic, payload(7, noon), noon)
	apply(t, s, first, noon)
	second := b.sign(issuer, topic, payload(8, at(2), revoke(web1, noon)), at(2))
	if !apply(t, s, second, at(2)) || !s.Revoked(web1, h.leaf) {
		t.Error("the second list has no effect")
	}
	refused(t, s, first, at(3), envelope.BadContent, "number 7, and number 8")
	refused(t, s, b.sign(issuer, topic, payload(7, at(3)), at(3)), at(3), envelope.BadContent, "number 7, and number 8")
	refused(t, s, b.sign(issuer, topic, payload(8, at(3)), at(3)), at(3), envelope.BadContent, "other entries")
	// The same list again, as each minute; and that again, late.
	third := b.sign(issuer, topic, payload(8, at(5), revoke(web1, noon)), at(5))
	changed := s.Changed()
	if apply(t, s, third, at(5)) {
		t.Error("a list that says the same changes something")
	}
	select {
	case <-changed:
	default:
		t.Error("a list in force, and nobody is told")
	}
	if apply(t, s, second, at(6)) {
		t.Error("an older message of the same list changes something")
	}
	if age, _ := s.Stale(at(6)); age != time.Second {
		t.Errorf("an older message of the same list made it %s old", age)
	}
	// Taken back.
	if !apply(t, s, b.sign(issuer, topic, payload(9, at(7)), at(7)), at(7)) || s.Revoked(web1, h.leaf) {
		t.Error("an entry that went is still in force")
	}
}

func TestFreshness(t *testing.T) {
	b := newBank(t, noon)
	s := newPart(t, b).open(t, noon)
	issuer := b.issue(issuer1, noon)
	raw := b.sign(issuer, topic, payload(1, noon), noon)
	refused(t, s, raw, noon.Add(skew+time.Millisecond), envelope.Stale, "stale")
	refused(t, s, raw, noon.Add(-skew-time.Millisecond), envelope.Future, "future")
	apply(t, s, raw, noon.Add(skew))
	apply(t, newPart(t, b).open(t, noon), raw, noon.Add(-skew))
}

func TestListsOutsideTheForm(t *testing.T) {
	b := newBank(t, noon)
	s := newPart(t, b).open(t, noon)
	issuer := b.issue(issuer1, noon)
	ts := noon.UnixMilli()
	many := make([]wire.Revoked, wire.MaxRevoked+1)
	for i := range many {
		many[i] = wire.Revoked{Sender: fmt.Sprintf("melb/sensor/s%d", i), Before: 1}
	}
	id, until := strings.Repeat("0f", 16), `,"until":5`
	for _, test := range []struct {
		name    string
		payload string
		text    string
	}{
		{"number 0", fmt.Sprintf(`{"timestamp":1,"number":0,"issued":%d,"revoked":[]}`, ts), "number"},
		{"number 2^53", fmt.Sprintf(`{"timestamp":1,"number":9007199254740992,"issued":%d,"revoked":[]}`, ts), "number"},
		{"number 2^64", fmt.Sprintf(`{"timestamp":1,"number":18446744073709551616,"issued":%d,"revoked":[]}`, ts), "payload"},
		{"a number above its time", fmt.Sprintf(`{"timestamp":1,"number":%d,"issued":%d,"revoked":[]}`, ts+skew.Milliseconds()+1, ts), "number"},
		{"a negative number", fmt.Sprintf(`{"timestamp":1,"number":-1,"issued":%d,"revoked":[]}`, ts), "payload"},
		{"a fraction", fmt.Sprintf(`{"timestamp":1,"number":1.5,"issued":%d,"revoked":[]}`, ts), "payload"},
		{"issued later", fmt.Sprintf(`{"timestamp":1,"number":1,"issued":%d,"revoked":[]}`, ts+1), "issue"},
		{"issued never", `{"timestamp":1,"number":1,"issued":0,"revoked":[]}`, "issue"},
		{"no list", fmt.Sprintf(`{"timestamp":1,"number":1,"issued":%d}`, ts), "missing"},
		{"an unknown member", fmt.Sprintf(`{"timestamp":1,"number":1,"issued":%d,"revoked":[],"until":1}`, ts), "unknown"},
		{"257 entries", string(payload(1, noon, many...)), "257 entries"},
		{"an empty entry", entry(`{}`), "entry 0"},
		{"an unknown member of an entry", entry(`{"sender":"melb/sensor/web-1","before":1,"after":2}`), "unknown"},
		{"an identity without a time", entry(`{"sender":"melb/sensor/web-1"}`), "entry 0"},
		{"an identity with a time below 0", entry(`{"sender":"melb/sensor/web-1","before":-1}`), "entry 0"},
		{"an identity with an end", entry(`{"sender":"melb/sensor/web-1","before":1,"until":2}`), "entry 0"},
		{"an identity of another site", entry(`{"sender":"perth/sensor/web-1","before":1}`), "entry 0"},
		{"an identity of an unknown role", entry(`{"sender":"melb/ca/machine","before":1}`), "entry 0"},
		{"an identity with a generation in it", entry(`{"sender":"melb/sensor/web-1/1","before":1}`), "entry 0"},
		{"no identity", entry(`{"sender":"melb","before":1}`), "entry 0"},
		{"a wildcard", entry(`{"sender":"melb/sensor/+","before":1}`), "entry 0"},
		{"a generation of 2^32", entry(`{"sender":"melb/sensor/web-1","before":1,"generation":4294967296}`), "payload"},
		{"both", entry(`{"sender":"melb/sensor/web-1","before":1,"serial":"` + id + `"}`), "entry 0"},
		{"both, entirely", entry(`{"sender":"melb/sensor/web-1","before":1,"serial":"` + id + `","until":5}`), "entry 0"},
		{"a certificate without an end", entry(`{"serial":"` + id + `"}`), "entry 0"},
		{"a certificate with a time", entry(`{"serial":"` + id + `","before":1` + until + `}`), "entry 0"},
		{"a certificate with a generation", entry(`{"serial":"` + id + `","generation":1` + until + `}`), "entry 0"},
		{"a serial number of 0", entry(`{"serial":"` + strings.Repeat("0", 32) + `"` + until + `}`), "identifier"},
		{"a serial number in capitals", entry(`{"serial":"` + strings.ToUpper(id) + `"` + until + `}`), "identifier"},
		{"a short serial number", entry(`{"serial":"0f"` + until + `}`), "identifier"},
		{"an identity twice", entry(`{"sender":"melb/sensor/web-1","before":1},{"sender":"melb/sensor/web-1","before":2}`), "entry 1 stands twice"},
		{"a certificate twice", entry(`{"serial":"` + id + `"` + until + `},{"serial":"` + id + `","until":6}`), "entry 1 stands twice"},
		{"what is issued after the list", entry(fmt.Sprintf(`{"sender":"melb/sensor/web-1","before":%d}`, ts+skew.Milliseconds()+1)), "issued after"},
		{"what is ever issued", entry(`{"sender":"melb/sensor/web-1","before":9007199254740991}`), "issued after"},
		{"no object", entry(`1`), "payload"},
	} {
		t.Run(test.name, func(t *testing.T) {
			refused(t, s, b.sign(issuer, topic, []byte(test.payload), noon), noon, envelope.BadContent, test.text)
		})
	}
}

// entry returns a payload with these entries.
func entry(text string) string {
	return fmt.Sprintf(`{"timestamp":1,"number":1,"issued":%d,"revoked":[%s]}`, noon.UnixMilli(), text)
}

// The longest list fits into one message.
func TestLongestList(t *testing.T) {
	b := newBank(t, noon)
	s := newPart(t, b).open(t, noon)
	all := make([]wire.Revoked, wire.MaxRevoked)
	for i := range all {
		all[i] = wire.Revoked{Sender: fmt.Sprintf("melb/controller/%024d", i), Before: noon.UnixMilli(), Generation: 4294967295}
	}
	raw := b.sign(b.issue(issuer1, noon), topic, payload(uint64(noon.UnixMilli()+skew.Milliseconds()), noon, all...), noon)
	t.Logf("%d bytes", len(raw))
	apply(t, s, raw, noon)
	if h := b.issue(identity("melb", pki.RoleController, fmt.Sprintf("%024d", 255)), noon); !s.Revoked(h.id, h.leaf) {
		t.Error("the last entry has no effect")
	}
}

// An issuer's word about itself counts, and is its last.
func TestIssuerRevokesItself(t *testing.T) {
	b := newBank(t, noon)
	p := newPart(t, b)
	s := p.open(t, noon)
	issuer := b.issue(issuer1, noon)
	at := func(m int) time.Time { return noon.Add(time.Duration(m) * time.Minute) }
	apply(t, s, b.sign(issuer, topic, payload(1, at(5), revoke(issuer1, at(5))), at(5)), at(5))
	refused(t, s, b.sign(issuer, topic, payload(2, at(6)), at(6)), at(6), envelope.Revoked, "revoked")
	refused(t, s, b.sign(issuer, topic, payload(1, at(6), revoke(issuer1, at(5))), at(6)), at(6), envelope.Revoked, "revoked")
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	s = p.open(t, at(6))
	refused(t, s, b.sign(issuer, topic, payload(2, at(6)), at(6)), at(6), envelope.Revoked, "revoked")
	// Until the deployer issues a new certificate.
	apply(t, s, b.sign(b.issue(issuer1, at(10)), topic, payload(2, at(10), revoke(issuer1, at(5))), at(10)), at(10))
}

func TestRestartKeepsTheList(t *testing.T) {
	b := newBank(t, noon)
	p := newPart(t, b)
	s := p.open(t, noon)
	issuer, h := b.issue(issuer1, noon), b.issue(web1, noon)
	first := b.sign(issuer, topic, payload(1, noon), noon)
	apply(t, s, first, noon)
	now := noon.Add(time.Second)
	second := b.sign(issuer, topic, payload(2, now, revoke(web1, now)), now)
	apply(t, s, second, now)
	for range 2 {
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if kept, err := os.ReadFile(p.config.File); err != nil || !bytes.Equal(kept, second) {
		t.Errorf("kept %d bytes, %v", len(kept), err)
	}
	// Long after the issuer's certificate has ended.
	late := noon.Add(100 * 24 * time.Hour)
	s = p.open(t, late)
	if !s.Revoked(web1, h.leaf) || s.Number() != 2 {
		t.Error("what was revoked is not, after a restart")
	}
	refused(t, s, first, noon.Add(2*time.Second), envelope.BadContent, "number 1, and number 2")
	if age, stale := s.Stale(late); !stale || age < 99*24*time.Hour {
		t.Errorf("%s old, stale = %v", age, stale)
	}
}

// What was kept is believed no more than what comes.
func TestKeptListIsVerifiedAgain(t *testing.T) {
	b := newBank(t, noon)
	issuer, monitor, h := b.issue(issuer1, noon), b.issue(identity("melb", pki.RoleMonitor, "monitor-1"), noon), b.issue(web1, noon)
	list := payload(9, noon, revoke(web1, noon))
	good := b.sign(issuer, topic, list, noon)
	for name, kept := range map[string][]byte{
		"nothing":                {},
		"half of it":             good[:len(good)/2],
		"an entry changed":       bytes.Replace(good, []byte("sensor/web-1"), []byte("sensor/web-2"), 1),
		"the number changed":     bytes.Replace(good, []byte(`"number":9`), []byte(`"number":8`), 1),
		"signed by a monitor":    b.sign(monitor, topic, list, noon),
		"signed by another CA":   b.sign(newBank(t, noon).issue(issuer1, noon), topic, list, noon),
		"another site's":         b.sign(b.issue(identity("perth", pki.RoleIssuer, "issuer-1"), noon), "perth/bank_server/revocations/issuer-1", list, noon),
		"a list out of its form": b.sign(issuer, topic, []byte(entry(`{}`)), noon),
	} {
		t.Run(name, func(t *testing.T) {
			p := newPart(t, b)
			if err := os.WriteFile(p.config.File, kept, 0o600); err != nil {
				t.Fatal(err)
			}
			s := p.open(t, noon)
			if s.Number() != 0 || s.Revoked(web1, h.leaf) || s.Revoked(web2, h.leaf) {
				t.Error("it is in force")
			}
			if !strings.Contains(p.log.String(), "do not hold") {
				t.Errorf("the log says nothing:\n%s", p.log)
			}
			apply(t, s, good, noon)
		})
	}
	p := newPart(t, b)
	if err := os.WriteFile(p.config.File, make([]byte, envelope.MaxMessage+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(p.config, noon); err == nil {
		t.Error("a file that is too long was opened")
	}
}

func TestOpenWantsEverything(t *testing.T) {
	p := newPart(t, newBank(t, noon))
	for name, change := range map[string]func(*Config){
		"site": func(c *Config) { c.Site = "" }, "verifier": func(c *Config) { c.Verifier = nil }, "document": func(c *Config) { c.Document = nil },
		"file": func(c *Config) { c.File = "" }, "skew": func(c *Config) { c.Skew = 0 }, "logger": func(c *Config) { c.Log = nil },
	} {
		c := p.config
		change(&c)
		if _, err := Open(c, noon); err == nil {
			t.Errorf("opened without a %s", name)
		}
	}
}
