package main

import (
	"crypto/x509"
	"fmt"
	"strings"

	"levee/test/vectors"
)

const (
	ramWeb2 = "melb/bank_server/metrics/ram/web-2"
	cpuWeb1 = "melb/bank_server/metrics/cpu/web-1"
)

func (s *set) topics() {
	good := web1.on(ramWeb1)
	s.vector("topic-another-metric", "7", "published on another topic of the same sender", monitor(), given(web1, cpuWeb1, good.raw(), "topic"))
	s.vector("topic-before-sender", "7", "published on another sender's topic: the topic comes first", monitor(), given(web2, ramWeb2, good.raw(), "topic"))
	s.vector("topic-before-generation", "7", "another topic, and a generation that was ended: the topic comes first", func() vectors.Receiver {
		r := monitor()
		r.Minimum = map[string]uint32{web1.String(): 2}
		return r
	}(), given(web1, cpuWeb1, good.raw(), "topic"))
	s.vector("topic-before-stale", "7", "another topic, and stale: the topic comes first", monitor(), given(web1, cpuWeb1, good.at(now-skew-1).raw(), "topic"))
	s.vector("topic-longer", "7", "the topic of the envelope begins like the one published on", monitor(),
		given(web1, ramWeb1, web1.on(ramWeb1+"-2").raw(), "topic"))
	s.vector("topic-person", "7", "another topic, at a receiver without keys", person(), given(web1, cpuWeb1, good.raw(), "topic"))
	other := "syd/bank_server/metrics/ram/web-1"
	s.vector("topic-of-another-site", "7", "a topic of another site: the topic comes before the sender", person(),
		given(sender{"syd", "sensor", "web-1", 1}, other, web1.on(other).raw(), "topic"))

	// A topic that is none of ours has no publisher, and no class whose size could
	// come first.
	for _, c := range []struct{ name, says, topic, raw string }{
		{"none-before-size", "a topic that carries nothing, and a message that is too short: the topic comes first", "melb/bank_server/metrics/disk/web-1", "x"},
		{"none-before-kid", "a topic that carries nothing, and no kid: the topic comes first", "melb/bank_server/metrics/disk/web-1", strings.Repeat("x", 67)},
		{"none-before-mac", "a topic that carries nothing, and no MAC: the topic comes first", "melb/bank_server/metrics/disk/web-1", good.body()},
		{"outside-the-grammar", "a topic in capitals, and a message that is too short: the topic comes first", "melb/bank_server/metrics/ram/WEB-1", "x"},
		{"of-no-site", "a topic with a level too few, and a message that is too short: the topic comes first", "bank_server/metrics/ram/web-1", "x"},
	} {
		m := vectors.Message{Now: now, Topic: c.topic, MaxBytes: 4096, Raw: []byte(c.raw), Expect: "topic"}
		s.vector("topic-"+c.name, "7", c.says, monitor(), m)
	}
	s.vector("topic-of-another-site-before-size", "7", "a topic of another site, and a message that is too short: the topic comes first", monitor(),
		given(sender{"syd", "sensor", "web-1", 1}, other, "x", "topic"))

	s.vector("sender-another-name", "7", "web-1 on the topic of web-2", monitor(), given(web2, ramWeb2, web1.on(ramWeb2).raw(), "sender"))
	s.vector("sender-another-role", "7", "the monitor web-1 on the topic of the sensor web-1", monitor(),
		given(web1, ramWeb1, sender{"melb", "monitor", "web-1", 1}.on(ramWeb1).raw(), "sender"))
	s.vector("sender-longer", "7", "the sender's name begins like the publisher's", monitor(),
		given(web1, ramWeb1, sender{"melb", "sensor", "web-10", 1}.on(ramWeb1).raw(), "sender"))
	s.vector("sender-another-site", "7", "a sender of another site, at a receiver without keys", person(),
		given(web1, ramWeb1, sender{"syd", "sensor", "web-1", 1}.on(ramWeb1).raw(), "sender"))
	s.vector("sender-before-unsigned", "7", "a sensor gives a command without a signature: the sender comes first", monitor(),
		given(m1, command, web1.on(command).raw(), "sender"))
	s.vector("sender-before-stale", "7", "web-1 on the topic of web-2, and stale: the sender comes first", monitor(),
		given(web2, ramWeb2, web1.on(ramWeb2).at(now-skew-1).raw(), "sender"))
	generation := monitor()
	generation.Minimum = map[string]uint32{web1.String(): 2, web2.String(): 2}
	s.vector("sender-before-generation", "7", "web-1 on the topic of web-2, of an ended generation: the sender comes first", generation,
		given(web2, ramWeb2, web1.on(ramWeb2).raw(), "sender"))

	s.vector("unsigned-command", "7", "a command without a signature", s.verifying(monitor()), m1.on(command).given("unsigned"))
	s.vector("unsigned-status", "7", "a status without a signature", s.verifying(monitor()), lb1.on(scaling).given("unsigned"))
	s.vector("unsigned-person", "7", "a command without a signature, at a receiver without keys", s.verifying(person()), m1.on(command).given("unsigned"))
	s.vector("unsigned-before-stale", "7", "a command without a signature, and stale: the signature comes first", s.verifying(monitor()),
		m1.on(command).at(now-skew-1).given("unsigned"))
}

func (s *set) freshness() {
	good := web1.on(ramWeb1)
	for _, c := range []struct {
		name, says string
		m          message
		want       string
	}{
		{"stale-at-skew", "as old as the skew", good.at(now - skew), "accepted"},
		{"stale-by-1", "one millisecond older than the skew", good.at(now - skew - 1), "stale"},
		{"stale-year", "of a year ago", good.at(now - 365*24*3600*1000).since(1), "stale"},
		{"stale-ts-1", "ts is 1", good.at(1).since(1), "stale"},
		{"future-at-skew", "as far ahead as the skew", good.at(now + skew), "accepted"},
		{"future-by-1", "one millisecond further ahead than the skew", good.at(now + skew + 1), "future"},
		{"future-largest", "the largest ts", good.at(1<<53 - 1), "future"},
		{"future-boot-at-skew", "a boot of ts + skew", good.since(uint64(ts + skew)), "accepted"},
		{"future-boot-by-1", "a boot one millisecond above ts + skew", good.since(uint64(ts + skew + 1)), "future"},
		{"future-boot-largest", "the largest boot", good.since(1<<44 - 1), "future"},
		{"future-boot-of-late", "a late message, whose boot lies below the clock but above ts + skew", good.at(now - 20_000).since(uint64(now + 10_001)), "future"},
	} {
		s.reading(c.name, "7", c.says, c.m.raw(), c.want)
	}
	for _, c := range []struct {
		name string
		at   int64
		want string
	}{{"narrow-stale-at", now - 5000, "accepted"}, {"narrow-stale-by-1", now - 5001, "stale"}, {"narrow-future-at", now + 5000, "accepted"}, {"narrow-future-by-1", now + 5001, "future"}} {
		r := monitor()
		r.Skew = 5000
		s.vector("skew-"+c.name, "7", "a skew of five seconds", r, good.at(c.at).given(c.want))
	}
	s.vector("stale-person", "7", "stale, at a receiver without keys", person(), good.at(now-skew-1).given("stale"))
	again := good.given("stale")
	again.Now = ts + skew + 1
	s.vector("stale-before-redelivered", "7", "stale, and seen before: staleness comes first", monitor(), good.given("accepted"), again)
}

// step is one message of a sequence.
type step struct {
	m    message
	want string
}

// sequence adds a case of readings, one after another.
func (s *set) sequence(name, says string, r vectors.Receiver, steps ...step) {
	c := vectors.Case{Name: name, Says: says, Section: "9", Receiver: r}
	for _, x := range steps {
		c.Messages = append(c.Messages, x.m.given(x.want))
	}
	s.add(c)
}

func (s *set) replays() {
	good := web1.on(ramWeb1)
	n := good.number
	other := good.value("1")
	ok, again, seen := "accepted", "redelivered", "replayed"
	s.sequence("replay-redelivered", "the same bytes again, and again", monitor(), step{good, ok}, step{good, again}, step{good, again})
	s.sequence("replay-collision", "the same nonce over other bytes; the first message stays the one that is known", monitor(),
		step{good, ok}, step{other, "nonce_collision"}, step{good, again}, step{other, "nonce_collision"})
	s.sequence("replay-collision-ts", "the same nonce with another ts", monitor(), step{good, ok}, step{good.at(ts + 1), "nonce_collision"})
	s.sequence("replay-collision-generation", "the same nonce under another generation: generations share one window", monitor(),
		step{good, ok}, step{good.as(2), "nonce_collision"})
	s.sequence("replay-generations-overlap", "two generations of one sender by turns: one counter, one window", monitor(),
		step{n(1), ok}, step{n(2).as(2), ok}, step{n(3), ok}, step{n(4).as(2), ok}, step{n(1), again}, step{n(2).as(2), again}, step{n(2), "nonce_collision"})
	s.sequence("replay-generations-clone", "the old generation of an older boot sends on after the new one began", monitor(),
		step{n(1), ok}, step{n(1).since(boot + 1000).as(2), ok}, step{n(2).at(ts + 1), "cloned"})
	ended := monitor()
	ended.Minimum = map[string]uint32{web1.String(): 2}
	s.sequence("replay-generation-ended", "what was refused for its generation leaves no mark", ended,
		step{n(1), "unknown_key"}, step{n(1).as(2), ok}, step{n(2), "unknown_key"}, step{n(2).as(3), ok})
	for _, c := range tags {
		first, second := good.value(c.values[0]), good.value(c.values[1])
		if common(first.tag(), second.tag()) != c.equal {
			s.fail("%s: %s and %s do not begin with the same %d characters alone", c.name, first.tag(), second.tag(), c.equal)
		}
		s.sequence("replay-tag-"+c.name, c.says, monitor(), step{first, ok}, step{second, c.want}, step{first, again}, step{second, c.want})
	}
	s.sequence("replay-out-of-order", "numbers come out of order", monitor(), step{n(5), ok}, step{n(3), ok}, step{n(4), ok}, step{n(3), again}, step{n(1), ok}, step{n(5), again})
	s.sequence("replay-gap", "numbers are left out", monitor(), step{n(1), ok}, step{n(1000), ok}, step{n(1_000_000), ok}, step{n(1 << 40), ok})
	s.sequence("replay-window-edge", "1,024 numbers back from the newest", monitor(), step{n(2000), ok}, step{n(2000 - 1023), ok}, step{n(2000 - 1024), seen})
	s.sequence("replay-below-window", "far below the window, never seen", monitor(), step{n(5000), ok}, step{n(1), seen})
	s.sequence("replay-window-moves", "a number that was in the window and is no more", monitor(),
		step{n(1), ok}, step{n(1024), ok}, step{n(1), seen}, step{n(2), ok}, step{n(1025), ok}, step{n(1), seen}, step{n(2), seen}, step{n(3), ok})
	// Windows are rings of 1,024 bits, or of 1,088, or of 2,048: what was marked
	// one turn ago must be gone.
	wraps, jump := []step{{n(100), ok}, {n(101), ok}}, []step{{n(100), ok}, {n(101), ok}}
	for _, turn := range []uint64{1024, 1088, 2048} {
		wraps = append(wraps, step{n(102 + turn), ok}, step{n(100 + turn), ok}, step{n(101 + turn), ok})
	}
	const far = 1024 * 1088 // a whole number of turns of each
	jump = append(jump, step{n(102 + far), ok}, step{n(100 + far), ok}, step{n(101 + far), ok}, step{n(101 + far), again}, step{n(101), seen})
	s.sequence("replay-window-wraps", "a mark must not come back as that of a later number", monitor(), wraps...)
	s.sequence("replay-window-jump", "a jump over many windows clears them all", monitor(), jump...)
	s.sequence("replay-tag-kept", "of the newest 64 the tag is known", monitor(), step{n(1), ok}, step{n(64), ok}, step{n(1), again}, step{other, "nonce_collision"})
	s.sequence("replay-tag-gone", "64 back from the newest no tag is known", monitor(), step{n(1), ok}, step{n(65), ok}, step{n(1), seen}, step{other, seen})
	s.sequence("replay-tag-never-kept", "a late number is not among the newest 64: it has a mark and no tag", monitor(),
		step{n(200), ok}, step{n(100), ok}, step{n(100), seen}, step{n(164), ok}, step{n(200), again})
	s.sequence("replay-seq-largest", "the window at the largest seq", monitor(),
		step{n(1<<64 - 1), ok}, step{n(1<<64 - 1024), ok}, step{n(1<<64 - 1025), seen}, step{n(1), seen}, step{n(1<<64 - 1), again})

	newer := func(seq uint64) message { return n(seq).since(boot + 1000) }
	s.sequence("replay-newer-boot", "a newer boot begins a new window", monitor(), step{n(500), ok}, step{newer(1), ok}, step{newer(500), ok}, step{newer(1), seen}, step{newer(500), again})
	s.sequence("replay-newer-boot-empty", "the window of a newer boot begins without the marks of the older one", monitor(),
		step{n(3), ok}, step{n(4), ok}, step{newer(5), ok}, step{newer(3), ok}, step{newer(4), ok}, step{newer(3), again})
	s.sequence("replay-older-boot-clone", "an older boot that sends later than the newer one began", monitor(),
		step{n(1), ok}, step{newer(1), ok}, step{n(2).at(ts + 1), "cloned"}, step{n(1).at(ts + 1), "cloned"}, step{newer(2), ok})
	s.sequence("replay-older-boot-late", "an older boot's message of before the newer one's first, seen or not", monitor(),
		step{n(1), ok}, step{newer(1), ok}, step{n(2).at(ts - 1), seen}, step{n(1).at(ts - 1), seen})
	s.sequence("replay-older-boot-same-ts", "an older boot's message of the same millisecond is late, not a clone's", monitor(), step{newer(1), ok}, step{n(1), seen})
	s.sequence("replay-older-boot-first", "the newer boot's first message counts, not its newest", monitor(),
		step{newer(1), ok}, step{newer(2).at(ts + 50), ok}, step{n(1).at(ts + 20), "cloned"})
	s.sequence("replay-older-boot-first-to-come", "the first of the newer boot that came, though an earlier one follows", monitor(),
		step{newer(2).at(ts + 50), ok}, step{newer(1), ok}, step{n(1).at(ts + 20), seen}, step{n(2).at(ts + 51), "cloned"})
	s.sequence("replay-two-clones", "two processes with one identity", monitor(),
		step{n(1), ok}, step{newer(1).at(ts + 1), ok}, step{n(2).at(ts + 2), "cloned"}, step{newer(2).at(ts + 3), ok}, step{n(3).at(ts + 4), "cloned"})

	s.vector("replay-fast-clock", "9", "a newer boot begins with a ts of the future: it began when it came", monitor(),
		n(1).given(ok), newer(1).at(now+29_000).given(ok), n(2).at(now).given(seen), n(2).at(now+1).given("cloned"))
	// The same, again and again.
	var restarts []vectors.Message
	for i := range int64(3) {
		at := now + 25_000*i
		start, honest := n(1).since(uint64(at+29_000)).at(at+29_000).given(ok), n(uint64(2+i)).at(at+1000).given("cloned")
		start.Now, honest.Now = at, at+1000
		restarts = append(restarts, start, honest)
	}
	s.vector("replay-fast-clock-restarts", "9", "a newer boot every 25 s, with a ts of the future each time", monitor(), restarts...)

	root := s.verifying(person())
	unsigned, vouched := n(2), good.by(s.web1)
	s.vector("replay-unproven-apart", "9", "what nobody can check has a window of its own: the same nonce, signed", root,
		good.given(ok), vouched.given(ok), good.given(again), vouched.given(again), other.given("nonce_collision"), other.by(s.web1).given("nonce_collision"))
	s.vector("replay-unproven-no-clone", "9", "a newer boot that nobody can check makes no clone of what is signed", root,
		newer(1).given(ok), vouched.at(ts+50).given(ok), unsigned.at(ts+50).given("cloned"), newer(1).by(s.web1).at(ts+60).given(ok))
	backfill := "melb/bank_server/backfill/sensor/web-1"
	late := web1.on(backfill)
	s.vector("replay-backfill-apart", "9", "backfill has a counter of its own", monitor(),
		good.given(ok), late.given(ok), late.number(2).given(ok), late.given(again), n(2).given(ok), late.value("1").given("nonce_collision"))
	s.vector("replay-backfill-no-clone", "9", "a newer boot of one counter makes no clone of the other's", monitor(),
		newer(1).given(ok), late.at(ts+50).given(ok), n(2).at(ts+50).given("cloned"))
	s.vector("replay-backfill-unproven", "9", "backfill that nobody can check is apart from both", root,
		late.given(ok), good.given(ok), late.by(s.web1).given(ok), vouched.given(ok), late.given(again))

	started := func(at int64) vectors.Receiver {
		r := monitor()
		r.Start = at
		return r
	}
	s.sequence("replay-before-start", "one millisecond before start + skew", started(ts-skew+1), step{good, "before_start"}, step{good, "before_start"})
	s.sequence("replay-at-start", "exactly start + skew", started(ts-skew), step{good, ok}, step{good, again})
	s.sequence("replay-before-start-unmarked", "what was refused for the start leaves no mark", started(ts-skew+1), step{good, "before_start"}, step{good.at(ts + 1), ok})
	s.sequence("replay-before-start-clone", "an older boot before start + skew: the start comes first", started(ts-skew),
		step{newer(1), ok}, step{n(1).at(ts - 1), "before_start"})
	s.sequence("replay-stale-before-start", "stale, and before the start: staleness comes first", started(now), step{good.at(now - skew - 1), "stale"})

	s.sequence("replay-mac-unmarked", "what was refused for its MAC leaves no mark", monitor(), step{good.under(make([]byte, 32)), "mac"}, step{good, ok})
	s.sequence("replay-stale-unmarked", "what was refused as stale leaves no mark", monitor(), step{good.at(now - skew - 1), "stale"}, step{good, ok})
	s.sequence("replay-future-unmarked", "a boot that was refused leaves no mark", monitor(), step{n(1).since(uint64(ts + skew + 1)), "future"}, step{good, ok})
	s.sequence("replay-payload-unmarked", "what was refused for its payload leaves no mark", monitor(), step{good.value("null"), "payload"}, step{good, ok})
	signed := m1.on(command).by(s.m1)
	s.sequence("replay-signature-unmarked", "what was refused for its signature leaves no mark", s.verifying(monitor()),
		step{signed.by(s.m1.mended(spoil)), "signature"}, step{signed, ok}, step{signed, again})
	s.vector("replay-topic-unmarked", "9", "what was refused for its topic leaves no mark", monitor(),
		given(web1, cpuWeb1, good.raw(), "topic"), good.given(ok))
	s.vector("replay-two-topics", "9", "one window for all topics of a sender", monitor(), good.given(ok), web1.on(cpuWeb1).given("nonce_collision"))
	s.vector("replay-two-senders", "9", "the windows of two senders are apart", monitor(),
		good.given(ok), web2.on(ramWeb2).since(boot+1000).given(ok), n(2).given(ok), good.given(again), web2.on(ramWeb2).since(boot+1000).given(again))
	s.vector("replay-person", "9", "a receiver without keys has windows too", person(), good.given(ok), good.given(again))

	var many []step
	for i := range uint64(70) {
		many = append(many, step{n(i + 1), ok})
	}
	many = append(many, step{n(6), seen}, step{n(7), again}, step{n(70), again})
	s.sequence("replay-seventy", "seventy messages, and then three of them again", monitor(), many...)
}

// tags are pairs of readings under one nonce whose MACs begin alike. They were
// found by counting the value upwards from 0: the first pair among 2^22 values,
// and among 2^25.
var tags = []struct {
	name, says string
	values     [2]string
	equal      int // characters
	want       string
}{
	{"7-alike", "the same nonce over other bytes, and the MACs begin with the same 7 characters", [2]string{"3180717", "3515396"}, 7, "nonce_collision"},
	{"8-alike", "the same nonce over other bytes, and the MACs begin with the same 8 characters: no tag can tell", [2]string{"12960881", "19368042"}, 8, "redelivered"},
}

func (m message) tag() string {
	raw := m.raw()
	return raw[len(raw)-len(`"}`)-43:]
}

// common returns how many characters two texts begin with alike.
func common(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

func spoil(sig []byte) []byte {
	sig[5] ^= 1
	return sig
}

// statements have no MAC, no clock and no window.
func (s *set) statements() {
	who := sender{"melb", "approver", "approver", 1}
	topic := "melb/bank_server/statement/acknowledgement"
	good := who.on(topic).since(uint64(ts)).by(s.appr).with(`{"id":"00112233445566778899aabbccddeeff","reason":"` + strings.Repeat("x", 94) + `"}`)
	r := s.verifying(person())
	r.Pins[appr.String()] = s.appr.pin()
	add := func(name, says, raw, want string) {
		g := given(who, topic, raw, want)
		g.Statement = true
		s.vector("statement-"+name, "5", says, r, g)
	}
	s.ofPeople(topic)
	later := given(who, topic, good.body()+"}", "accepted")
	later.Statement, later.Now = true, now+10*365*24*3600*1000
	s.vector("statement-years-later", "5", "a statement has no clock: it is read again ten years later", r, later)
	body := good.body()
	add("accepted", "a statement", body+"}", "accepted")
	add("message", "a message where a statement belongs", good.raw(), "grammar")
	add("brace-missing", "the last brace is missing", body, "grammar")
	add("newline-after", "a line feed after the statement", body+"}\n", "grammar")
	add("sig-missing", "a chain and no sig", body[:len(body)-len(`,"sig":""`)-86]+"}", "grammar")
	unsigned := good.by(nil)
	add("unsigned", "neither chain nor sig", unsigned.body()+"}", "grammar")
	add("unsigned-before-payload", "neither chain nor sig, and a null: the grammar comes first", unsigned.with(`{"id":null}`).body()+"}", "grammar")
	add("nonce-seq", "seq is 2", good.number(2).body()+"}", "grammar")
	add("nonce-boot", "boot is not ts", good.since(uint64(ts)+1).body()+"}", "grammar")
	add("generation", "generation 2", good.as(2).body()+"}", "grammar")
	add("generation-before-payload", "generation 2, and a null: the grammar comes first", good.as(2).with(`{"id":null}`).body()+"}", "grammar")
	add("payload", "a null", good.with(`{"id":null}`).body()+"}", "payload")
	add("topic", "another topic", replace(good.body(), "acknowledgement", "request")+"}", "topic")
	add("sender", "signed by the sensor web-1, who says so", web1.on(topic).since(uint64(ts)).by(s.web1).body()+"}", "sender")
	add("signature", "a digit of the payload is another", replace(body, "0011", "1011")+"}", "signature")
	add("another-identity", "signed with the certificate of the sensor web-1", good.by(s.web1).body()+"}", "sender")
	for _, c := range []struct {
		name, says string
		r          vectors.Receiver
		want       string
	}{{"as-message", "a statement where a message belongs", monitor(), "mac"}, {"as-message-person", "a statement where a message belongs, at a receiver without keys", person(), "grammar"}} {
		m := m1.on(command).by(s.m1)
		s.vector("statement-"+c.name, "5", c.says, s.verifying(c.r), given(m1, command, m.body()+"}", c.want))
	}
}

// ofPeople are statements of persons, and of the authority that issues their
// certificates.
func (s *set) ofPeople(topic string) {
	onPeoplesHost := func(c *x509.Certificate) { c.URIs[0].Host = "ops." + c.URIs[0].Host }
	ann := sender{"melb", "operator", "ann", 1}
	payload := `{"id":"00112233445566778899aabbccddeeff","reason":"calm"}`
	document := sender{"melb", "ca", "people", 7}
	text := fmt.Sprintf(`{"id":"00112233445566778899aabbccddeeff","trust_domain":"%s","site":"melb","number":7,"issued":%d,"brokers":[{"name":"b1","address":"192.0.2.1:8883"}],"pins":[],"policy_hash":"%s","generations":[]}`,
		trustDomain, ts, strings.Repeat("A", 43))
	signs := func(ca issuer, under issuer) *signer {
		return (&signer{leaf: ca.cert, key: ca.key}).carrying(ca.cert, under.cert)
	}
	for _, c := range []struct {
		name, says string
		by         sender
		topic      string
		payload    string
		signer     *signer
		want       string
	}{
		{"person", "a statement of an operator", ann, topic, payload, s.signer(s.people, ann, edKey("ann"), onPeoplesHost), "accepted"},
		{"person-of-machines", "the machines' authority issued an operator's certificate, on the machines' host", ann, topic, payload, s.signer(s.machines, ann, edKey("ann"), nil), "signature"},
		{"machine-of-people", "the people's authority issued a sensor's certificate, on the people's host", web1, topic, payload, s.signer(s.people, web1, edKey("web-1"), onPeoplesHost), "signature"},
		{"site-document", "a site document, signed by the people's authority", document, "melb/bank_server/statement/site", text, signs(s.people, s.root), "accepted"},
		{"site-document-of-machines", "a site document, signed by the machines' authority", document, "melb/bank_server/statement/site", text, signs(s.machines, s.root), "signature"},
		{"site-document-of-a-person", "a site document, signed by an operator", document, "melb/bank_server/statement/site", text, s.signer(s.people, ann, edKey("ann"), onPeoplesHost), "signature"},
	} {
		g := given(c.by, c.topic, c.by.on(c.topic).since(uint64(ts)).with(c.payload).by(c.signer).body()+"}", c.want)
		g.Statement = true
		s.vector("statement-"+c.name, "5", c.says, s.verifying(person()), g)
	}
}
