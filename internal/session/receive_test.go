package session

import (
	"crypto/hkdf"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
)

const (
	ramTopic     = "melb/bank_server/metrics/ram/web-1"
	commandTopic = "melb/bank_server/control/command/monitor/m1"
	digestTopic  = "melb/bank_server/digests/sensor/web-1"
)

var ram = wire.RAM{Timestamp: 1, Server: "web-1", RAMUsage: 41.5}

// verdict opens raw as what came on topic.
func verdict(r *receiver, topic string, raw []byte, now time.Time) (Delivery, envelope.Reason) {
	d, err := r.open(topic, raw, now)
	return d, envelope.ReasonOf(err)
}

// Every reason of docs/envelope.md, section 7, in its order. Each message fails
// at least the check that it is named for, and most of them later ones too: a
// receiver that checks in another order gives another reason.
func TestReasonsInTheOrderOfTheSpecification(t *testing.T) {
	now := time.Now()
	monitor := &openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil).receiver
	controller := &openSession(t, identity("melb", pki.RoleController, "lb-1"), nil).receiver
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	other := newSender(t, identity("melb", pki.RoleSensor, "web-2"))
	foreign := newSender(t, identity("syd", pki.RoleSensor, "web-1"))
	m1 := newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	lb := newSender(t, identity("melb", pki.RoleController, "lb-1"))
	past := now.Add(-31 * time.Second) // stale, but with certificates that were valid
	reading := func() []byte { return web.message(ramTopic, &ram, past) }
	command := func(options ...func(*envelope.Header, **envelope.Signer)) []byte {
		return m1.message(commandTopic, &ram, past, options...)
	}
	replace := func(raw []byte, old, new string) []byte {
		changed := strings.Replace(string(raw), old, new, 1)
		if changed == string(raw) {
			t.Fatalf("%q is not in %s", old, raw)
		}
		return []byte(changed)
	}
	spoilMAC := func(raw []byte) []byte {
		raw[len(raw)-10] ^= 1
		return raw
	}
	curious := *monitor // asked for more than policy would let it
	curious.filters = []string{"#"}
	rekeyed := *controller
	rekeyed.document = &site.Document{Site: "melb", Generations: []site.Generation{{Sender: "melb/monitor/m1", Minimum: 2}}}
	for _, test := range []struct {
		name     string
		receiver *receiver
		topic    string
		raw      []byte
		want     envelope.Reason
	}{
		{"size: a byte over the class, and no envelope at all", monitor, ramTopic, make([]byte, 4097), envelope.BadSize},
		{"size: empty", monitor, ramTopic, nil, envelope.BadSize},
		{"kid: not at its place, MAC spoilt", monitor, ramTopic, spoilMAC(replace(reading(), `"v":1`, `"v":2`)), envelope.BadKeyID},
		{"kid: outside the grammar", monitor, ramTopic, replace(reading(), "melb/sensor", "melb/Sensor"), envelope.BadKeyID},
		{"unknown_key: another site's sender, MAC spoilt", monitor, ramTopic, spoilMAC(foreign.message(ramTopic, &ram, past)), envelope.UnknownKey},
		{"mac: spoilt, and so is the grammar", monitor, ramTopic, spoilMAC(replace(reading(), `"ts":`, `"ts": `)), envelope.BadMAC},
		{"mac: the payload was changed", monitor, ramTopic, replace(reading(), "41.5", "11.5"), envelope.BadMAC},
		{"mac: sealed with another sender's key", monitor, ramTopic, replace(other.message(ramTopic, &ram, past), "web-2/1", "web-1/1"), envelope.BadMAC},
		{"grammar: white space, and a payload that is none", monitor, ramTopic,
			web.reseal(web.reseal(reading(), `"ts":`, `"ts": `), "41.5", "null"), envelope.BadGrammar},
		{"payload: null, on another topic", monitor, "melb/bank_server/metrics/cpu/web-1", web.reseal(reading(), "41.5", "null"), envelope.BadPayload},
		{"payload: a name twice", monitor, ramTopic, web.reseal(reading(), `"timestamp":1`, `"server":"web-2"`), envelope.BadPayload},
		{"topic: another topic of the same sender", monitor, "melb/bank_server/metrics/cpu/web-1", reading(), envelope.BadTopic},
		{"topic: a topic whose sender is another", monitor, "melb/bank_server/metrics/ram/web-2", reading(), envelope.BadTopic},
		{"topic: another site's", monitor, "syd/bank_server/metrics/ram/web-1", reading(), envelope.BadTopic},
		{"topic: another site's, asked for", &curious, "syd/bank_server/metrics/ram/web-1",
			foreign.message("syd/bank_server/metrics/ram/web-1", &ram, now), envelope.BadTopic},
		{"topic: outside the grammar", monitor, "melb/bank_server/metrics/ram/WEB-1", reading(), envelope.BadTopic},
		{"topic: not asked for", controller, ramTopic, reading(), envelope.BadTopic},
		{"sender: published under another's name, stale", monitor, "melb/bank_server/metrics/ram/web-2",
			web.message("melb/bank_server/metrics/ram/web-2", &ram, past), envelope.BadSender},
		{"sender: a role that policy gives no commands, unsigned, stale", monitor, "melb/bank_server/control/command/controller/lb-1",
			lb.message("melb/bank_server/control/command/controller/lb-1", &ram, past), envelope.BadSender},
		{"unknown_key: a generation below the minimum, unsigned", &rekeyed, commandTopic, command(), envelope.UnknownKey},
		{"unsigned: a command without signature, stale", controller, commandTopic, command(), envelope.Unsigned},
		{"signature: the payload was changed by one who has the MAC key, stale", controller, commandTopic,
			m1.reseal(command(m1.signed), "41.5", "11.5"), envelope.BadSignature},
		{"signature: a chain of another site, stale", controller, commandTopic,
			command(signedBy(mint(t, identity("syd", pki.RoleMonitor, "m1")))), envelope.BadSender},
		{"sender: signed by another sender, stale", controller, commandTopic, command(signedBy(web.signer)), envelope.BadSender},
		{"pin: a new certificate for the monitor from the real machine CA, stale", controller, commandTopic,
			command(signedBy(mint(t, identity("melb", pki.RoleMonitor, "m1")))), envelope.BadPin},
		{"stale, and seen before", monitor, ramTopic, web.message(ramTopic, &ram, now.Add(-30001*time.Millisecond)), envelope.Stale},
		{"future", monitor, ramTopic, web.message(ramTopic, &ram, now.Add(30001*time.Millisecond)), envelope.Future},
		{"future: a boot above ts + skew", monitor, ramTopic,
			web.message(ramTopic, &ram, now, booted(uint64(now.UnixMilli())+30001)), envelope.Future},
	} {
		if d, got := verdict(test.receiver, test.topic, test.raw, now); got != test.want {
			t.Errorf("%s: %s instead of %s", test.name, got.String(), test.want.String())
		} else if d.Payload != nil || d.Proof != ProofNone {
			t.Errorf("%s: refused, and handed out all the same", test.name)
		}
	}
}

func TestWhatIsAccepted(t *testing.T) {
	now := time.Now()
	monitor := &openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil).receiver
	controller := &openSession(t, identity("melb", pki.RoleController, "lb-1"), nil).receiver
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	web.boot -= 60_000
	m1 := newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	lb := newSender(t, identity("melb", pki.RoleController, "lb-1"))
	scaling := "melb/bank_server/status/scaling/lb-1"
	for _, test := range []struct {
		name     string
		receiver *receiver
		topic    string
		raw      []byte
		proof    Proof
	}{
		{"a reading", monitor, ramTopic, web.message(ramTopic, &ram, now), ProofMAC},
		{"at the skew", monitor, ramTopic, web.message(ramTopic, &ram, now.Add(-30*time.Second)), ProofMAC},
		{"at the skew ahead", monitor, ramTopic, web.message(ramTopic, &ram, now.Add(30*time.Second)), ProofMAC},
		{"a reading that is signed although it need not be", monitor, ramTopic, web.message(ramTopic, &ram, now, web.signed), ProofSignature},
		{"a command", controller, commandTopic, m1.message(commandTopic, &ram, now, m1.signed), ProofSignature},
		{"a boot at ts + skew", monitor, scaling, lb.message(scaling, &ram, now, lb.signed, booted(uint64(now.UnixMilli())+30000)), ProofSignature},
	} {
		d, got := verdict(test.receiver, test.topic, test.raw, now)
		if got != envelope.Accepted || d.Proof != test.proof || d.Name != test.topic || len(d.Payload) == 0 {
			t.Errorf("%s: %v, %+v", test.name, got, d)
		}
	}
}

// An unpinned sender that is not compelled to be pinned may renew its key;
// one that the document pins may not, whatever its role.
func TestPins(t *testing.T) {
	now := time.Now()
	monitor := openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil).receiver
	lb := newSender(t, identity("melb", pki.RoleController, "lb-1"))
	renewed := mint(t, identity("melb", pki.RoleController, "lb-1"))
	topic := "melb/bank_server/status/scaling/lb-1"
	if _, got := verdict(&monitor, topic, lb.message(topic, &ram, now, signedBy(renewed)), now); got != envelope.Accepted {
		t.Errorf("a renewed key: %s", got.String())
	}
	document := *monitor.document
	document.Pins = append(document.Pins, site.Pin{Sender: "melb/controller/lb-1", SPKI: document.Pins[0].SPKI})
	monitor.document = &document
	if _, got := verdict(&monitor, topic, lb.message(topic, &ram, now, lb.signed), now); got != envelope.BadPin {
		t.Errorf("a pinned controller with another key: %s", got.String())
	}
	// Without any pin there is nothing that a monitor's key could match.
	controller := openSession(t, identity("melb", pki.RoleController, "lb-1"), nil).receiver
	document.Pins = nil
	controller.document = &document
	m1 := newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	if _, got := verdict(&controller, commandTopic, m1.message(commandTopic, &ram, now, m1.signed), now); got != envelope.BadPin {
		t.Errorf("a monitor that no pin names: %s", got.String())
	}
}

func TestReplayedMessages(t *testing.T) {
	now := time.Now()
	r := &openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil).receiver
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	send := func(raw []byte) envelope.Reason {
		_, got := verdict(r, ramTopic, raw, now)
		return got
	}
	first := web.message(ramTopic, &ram, now)
	if got := send(first); got != envelope.Accepted {
		t.Fatalf("the first: %s", got.String())
	}
	if got := send(first); got != envelope.Redelivered {
		t.Errorf("the same again: %s", got.String())
	}
	changed := wire.RAM{Timestamp: 1, Server: "web-1", RAMUsage: 99}
	if got := send(web.message(ramTopic, &changed, now, numbered(1))); got != envelope.NonceCollision {
		t.Errorf("the same nonce over other bytes: %s", got.String())
	}
	if got := send(web.message(ramTopic, &ram, now, numbered(100))); got != envelope.Accepted {
		t.Errorf("a later one: %s", got.String())
	}
	if got := send(first); got != envelope.Replayed {
		t.Errorf("again, with no tag kept: %s", got.String())
	}
	older := web.boot - 1000
	if got := send(web.message(ramTopic, &ram, now.Add(time.Second), booted(older))); got != envelope.Cloned {
		t.Errorf("an older boot that still sends: %s", got.String())
	}
	if got := send(web.message(ramTopic, &ram, now.Add(-time.Second), booted(older))); got != envelope.Replayed {
		t.Errorf("an older boot's late message: %s", got.String())
	}
	if got := send(web.message(ramTopic, &ram, now, booted(web.boot+1))); got != envelope.Accepted {
		t.Errorf("a newer boot: %s", got.String())
	}
	// A message that was refused for its time leaves no mark in the window.
	late := web.message(ramTopic, &ram, now.Add(-31*time.Second), booted(web.boot+1), numbered(77))
	if got := send(late); got != envelope.Stale {
		t.Errorf("a stale one: %s", got.String())
	}
	if got := send(web.message(ramTopic, &ram, now, booted(web.boot+1), numbered(77))); got != envelope.Accepted {
		t.Errorf("its number, fresh: %s", got.String())
	}
}

// A restart forgets nothing; lost windows cost the skew.
func TestWindowsOutliveTheSession(t *testing.T) {
	id := identity("melb", pki.RoleMonitor, "m1")
	b := openBundle(t, id)
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	c := Config{Bundle: b, Ring: ringOf(t, b.KeyFile), Filters: []string{wire.Filter(wire.KindRAM, "melb")}, Handle: func(Delivery) {}, Log: quiet()}
	raw := web.message(ramTopic, &ram, time.Now())
	for i, want := range []envelope.Reason{envelope.Accepted, envelope.Redelivered} {
		s, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := verdict(&s.receiver, ramTopic, raw, time.Now()); got != want {
			t.Errorf("start %d: %s instead of %s", i, got.String(), want.String())
		}
		if _, err := New(c); err == nil {
			t.Error("two sessions share one state directory")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("closing twice: %v", err)
		}
	}
	fresh := openBundle(t, id)
	fresh.State = t.TempDir() // never prepared: what was accepted before is unknown
	c.Bundle = fresh
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, got := verdict(&s.receiver, ramTopic, web.message(ramTopic, &ram, time.Now()), time.Now()); got != envelope.BeforeStart {
		t.Errorf("windows were lost, and a message was accepted: %s", got.String())
	}
}

func TestWindowsFull(t *testing.T) {
	now := time.Now()
	r := openSession(t, identity("melb", pki.RoleOperator, "ann"), nil).receiver
	const room = 32 // for those that nothing vouches for, and as many for the others
	r.windows = replay.New(2 * room)
	for i := range room {
		name := "s" + strings.ReplaceAll(time.Duration(i).String(), "µ", "u")
		name = strings.NewReplacer(".", "-", "ns", "").Replace(name)
		topic := "melb/bank_server/metrics/ram/" + name
		raw := forged(t, "melb/sensor/"+name+"/1", topic, now)
		if _, got := verdict(&r, topic, raw, now); got != envelope.Accepted {
			t.Fatalf("sender %d, %s: %v", i, name, got)
		}
	}
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	if _, got := verdict(&r, ramTopic, web.message(ramTopic, &ram, now), now); got != envelope.WindowsFull {
		t.Errorf("one sender more: %s", got.String())
	}
}

// forged returns a message that has the grammar and nothing else.
func forged(t testing.TB, kid, topic string, at time.Time) []byte {
	t.Helper()
	id, err := envelope.ParseKeyID([]byte(kid))
	if err != nil {
		t.Fatal(err)
	}
	key, err := envelope.NewKey(make([]byte, envelope.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := envelope.Append(nil, envelope.Header{KeyID: id, Time: at.UnixMilli(),
		Nonce: envelope.Nonce{Boot: uint64(at.UnixMilli()), Seq: 1}, Topic: topic}, []byte(`{}`), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// People hold no keys: what is signed is verified all the same, and a reading,
// forged or not, is nothing until its digest comes.
func TestPersonWithoutKeys(t *testing.T) {
	now := time.Now()
	ann := &openSession(t, identity("melb", pki.RoleOperator, "ann"), nil).receiver
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	m1 := newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	if d, got := verdict(ann, ramTopic, web.message(ramTopic, &ram, now), now); got != envelope.Accepted || d.Proof != ProofNone {
		t.Errorf("a reading: %v, proof %v", got.String(), d.Proof)
	}
	topic := "melb/bank_server/metrics/ram/web-9"
	if d, got := verdict(ann, topic, forged(t, "melb/sensor/web-9/1", topic, now), now); got != envelope.Accepted || d.Proof != ProofNone {
		t.Errorf("a forged reading: %v, proof %v", got.String(), d.Proof)
	}
	if d, got := verdict(ann, commandTopic, m1.message(commandTopic, &ram, now, m1.signed), now); got != envelope.Accepted || d.Proof != ProofSignature {
		t.Errorf("a command: %v, proof %v", got.String(), d.Proof)
	}
	for name, raw := range map[string][]byte{
		"unsigned":         m1.message(commandTopic, &ram, now),
		"changed":          m1.reseal(m1.message(commandTopic, &ram, now, m1.signed), "41.5", "11.5"),
		"of an unpinned":   m1.message(commandTopic, &ram, now, signedBy(mint(t, identity("melb", pki.RoleMonitor, "m1")))),
		"of another site":  m1.message(commandTopic, &ram, now, signedBy(mint(t, identity("syd", pki.RoleMonitor, "m1")))),
		"of another role":  m1.message(commandTopic, &ram, now, signedBy(web.signer)),
		"of one hour back": m1.message(commandTopic, &ram, now.Add(-time.Hour), m1.signed),
	} {
		if d, got := verdict(ann, commandTopic, raw, now); got == envelope.Accepted || d.Proof != ProofNone {
			t.Errorf("a command %s: accepted, proof %v", name, d.Proof)
		}
	}
	// Policy, not the broker alone, says who commands: a captured broker and
	// any certificate of the site are not enough.
	topic = "melb/bank_server/control/command/sensor/web-1"
	if _, got := verdict(ann, topic, web.message(topic, &ram, now, web.signed), now); got != envelope.BadSender {
		t.Errorf("a sensor's command: %s", got.String())
	}
}

// An invented reading must not make its sender look like a clone to a person:
// the digest that would expose it has to get through.
func TestInventedReadingsDoNotHideDigests(t *testing.T) {
	now := time.Now()
	ann := &openSession(t, identity("melb", pki.RoleOperator, "ann"), nil).receiver
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	key, err := envelope.NewKey(make([]byte, envelope.KeySize)) // nobody's
	if err != nil {
		t.Fatal(err)
	}
	invented, err := envelope.Append(nil, envelope.Header{KeyID: envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1},
		Time: now.UnixMilli(), Nonce: envelope.Nonce{Boot: uint64(now.Add(20 * time.Second).UnixMilli()), Seq: 1}, Topic: ramTopic},
		[]byte(`{"timestamp":1,"server":"web-1","ram_usage":1}`), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, got := verdict(ann, ramTopic, invented, now); got != envelope.Accepted {
		t.Fatalf("the invented reading: %s", got.String())
	}
	topic := "melb/bank_server/digests/sensor/web-1"
	later := now.Add(time.Second)
	if _, got := verdict(ann, topic, web.message(topic, &ram, later, web.signed), later); got != envelope.Accepted {
		t.Errorf("the honest digest: %s", got.String())
	}
}

// An acknowledgement counts for its peer alone, under the key of that: who has
// no use for it does not take it for a reading that waits for a digest.
func TestAcknowledgements(t *testing.T) {
	now := time.Now()
	topic := "melb/bank_server/acks/rec-1/sensor/web-1"
	rec := newSender(t, identity("melb", pki.RoleRecorder, "rec-1"))
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	ack := func(secret []byte, options ...func(*envelope.Header, **envelope.Signer)) []byte {
		rec.secret = secret
		return rec.reseal(rec.message(topic, &ram, now, options...), "41.5", "7.5")
	}
	derived, err := hkdf.Key(sha256.New, web.secret, []byte("levee/v1"), "ack\x00", 32)
	if err != nil {
		t.Fatal(err)
	}
	peer := openSession(t, identity("melb", pki.RoleSensor, "web-1"), func(c *Config) { c.Handle = func(Delivery) {} }).receiver
	other := openSession(t, identity("melb", pki.RoleSensor, "web-2"), nil).receiver
	reads := openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil).receiver // it holds the key of the peer's role
	person := openSession(t, identity("melb", pki.RoleOperator, "ann"), nil).receiver
	for _, r := range []*receiver{&other, &reads, &person} {
		r.filters = []string{"#"} // a captured broker brings what nobody asked for
	}
	for _, test := range []struct {
		name     string
		receiver *receiver
		raw      []byte
		want     envelope.Reason
	}{
		{"to its peer", &peer, ack(derived), envelope.Accepted},
		{"under no key", &peer, ack(make([]byte, 32)), envelope.BadMAC},
		{"under the peer's own key", &peer, ack(web.secret), envelope.BadMAC},
		{"of another sender", &peer, ack(derived, func(h *envelope.Header, _ **envelope.Signer) { h.KeyID = web.kid }), envelope.BadSender},
		{"to another sensor", &other, ack(derived), envelope.UnknownKey},
		{"to one that holds the role key", &reads, ack(derived), envelope.UnknownKey},
		{"to a person", &person, ack(derived), envelope.UnknownKey},
		{"to a person, signed", &person, ack(derived, rec.signed), envelope.UnknownKey},
	} {
		d, got := verdict(test.receiver, topic, test.raw, now)
		if got != test.want || got == envelope.Accepted && d.Proof != ProofMAC {
			t.Errorf("%s: %s, proof %v", test.name, got.String(), d.Proof)
		}
	}
}

// Windows that are closed, or whose file failed, take nothing.
func TestClosedWindows(t *testing.T) {
	now := time.Now()
	s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil)
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	if err := s.receiver.windows.Close(); err != nil {
		t.Fatal(err)
	}
	if _, got := verdict(&s.receiver, ramTopic, web.message(ramTopic, &ram, now), now); got != envelope.WindowsFailed {
		t.Errorf("a reading: %s", got.String())
	}
}

// A thief with a fast clock that starts anew all the time is found out by what
// the honest sender goes on sending.
func TestFastClone(t *testing.T) {
	now := time.Now()
	r := openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil).receiver
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	honest := web.boot
	send := func(at, ts time.Time, boot uint64) envelope.Reason {
		_, got := verdict(&r, ramTopic, web.message(ramTopic, &ram, ts, booted(boot)), at)
		return got
	}
	if got := send(now, now, honest); got != envelope.Accepted {
		t.Fatal(got.String())
	}
	for i := range 3 {
		at := now.Add(time.Duration(i) * 25 * time.Second)
		ahead := at.Add(29 * time.Second)
		if got := send(at, ahead, uint64(ahead.UnixMilli())); got != envelope.Accepted {
			t.Fatalf("the thief's start %d: %s", i, got.String())
		}
		if got := send(at.Add(time.Second), at.Add(time.Second), honest); got != envelope.Cloned {
			t.Errorf("the honest sender a second after start %d: %s", i, got.String())
		}
	}
}

// Who judges readings refuses one that it cannot check.
func TestJudgeWithoutTheKey(t *testing.T) {
	now := time.Now()
	s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil)
	r := s.receiver
	r.keys = nil
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	if _, got := verdict(&r, ramTopic, web.message(ramTopic, &ram, now), now); got != envelope.UnknownKey {
		t.Errorf("a reading: %s", got.String())
	}
	if d, got := verdict(&r, ramTopic, web.message(ramTopic, &ram, now, web.signed), now); got != envelope.Accepted || d.Proof != ProofSignature {
		t.Errorf("a signed reading: %v, proof %v", got.String(), d.Proof)
	}
}

func TestPublicMessages(t *testing.T) {
	now := time.Now()
	r := &openSession(t, identity("melb", pki.RoleOperator, "ann"), nil).receiver
	text := []byte("hello")
	if d, got := verdict(r, "public/lobby", text, now); got != envelope.Accepted || d.Proof != ProofNone || string(d.Payload) != "hello" {
		t.Errorf("a public message: %v, %+v", got.String(), d)
	}
	if _, got := verdict(r, "public/lobby", make([]byte, 4097), now); got != envelope.BadSize {
		t.Errorf("over the bound: %s", got.String())
	}
	// An envelope on a public topic stays text, whoever sealed it.
	m1 := newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	raw := m1.message(commandTopic, &ram, now, m1.signed)
	if d, got := verdict(r, "public/command", raw, now); got != envelope.Accepted || d.Proof != ProofNone || d.Topic.Kind != wire.KindPublic {
		t.Errorf("an envelope in public: %v, %+v", got.String(), d)
	}
	sensor := &openSession(t, identity("melb", pki.RoleSensor, "web-1"), func(c *Config) { c.Filters, c.Handle = nil, nil }).receiver
	if _, got := verdict(sensor, "public/lobby", text, now); got != envelope.BadTopic {
		t.Errorf("a sensor that subscribed to nothing: %s", got.String())
	}
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a/b/c", false}, {"a/b", "a", false}, {"a/b", "a/c", false}, {"a/b", "a/bb", false},
		{"a/+", "a/b", true}, {"a/+", "a", false}, {"a/+", "a/b/c", false}, {"+/+", "a/b", true}, {"+", "a/b", false}, {"a/+/c", "a/b/c", true},
		{"a/+/c", "a/b/d", false}, {"a/#", "a", true}, {"a/#", "a/b", true}, {"a/#", "a/b/c", true}, {"a/#", "ab", false}, {"#", "a/b", true},
		{"a/b/#", "a", false}, {"", "a", false},
	} {
		if got := matches(test.filter, test.topic); got != test.want {
			t.Errorf("%s covers %s: %v", test.filter, test.topic, got)
		}
	}
}

// The log of refusals is bounded, whatever arrives, and its counts are not.
func TestTally(t *testing.T) {
	log := new(logBuffer)
	y := newTally(log.logger(), 30*time.Second)
	at := time.Unix(1000, 0)
	for i := range 100 {
		y.refuse(Refusal{Name: "a/b", Reason: envelope.BadMAC, Received: at.Add(time.Duration(i) * 10 * time.Millisecond)})
	}
	y.refuse(Refusal{Name: "a/\x1b[31mb", Reason: envelope.Cloned, Received: at})
	y.refuse(Refusal{Name: "a/b", Reason: envelope.Redelivered, Received: at})
	if n := len(log.lines("message refused")); n != 3 {
		t.Errorf("%d lines for 102 refusals", n)
	}
	if n := len(log.lines("level=ERROR")); n != 1 {
		t.Errorf("%d alarms for a clone", n)
	}
	if counts := y.snapshot(); counts[envelope.BadMAC] != 100 || counts[envelope.Cloned] != 1 || counts[envelope.Redelivered] != 1 {
		t.Errorf("counts %v", counts)
	}
	y.refuse(Refusal{Name: "a/b", Reason: envelope.BadMAC, Received: at.Add(time.Second)})
	if n := len(log.lines("count=101")); n != 1 {
		t.Errorf("%d lines a second later", n)
	}
}
