package main

import (
	"bytes"
	"strings"

	"levee/test/vectors"
)

func (s *set) honest() {
	s.reading("honest-reading", "3", "a reading, sealed as the page says", web1.on(ramWeb1).raw(), "accepted")
	s.vector("honest-signed-reading", "4", "a reading that is signed although its class need not be", s.verifying(monitor()),
		web1.on(ramWeb1).by(s.web1).given("accepted"))
	s.vector("honest-command", "4", "a command, signed with the pinned Ed25519 key", s.verifying(monitor()), m1.on(command).by(s.m1).given("accepted"))
	s.vector("honest-status-p256", "4", "a status, signed with ECDSA over P-256", s.verifying(monitor()), lb1.on(scaling).by(s.lb1EC).given("accepted"))
	for _, half := range []struct {
		name string
		from int
	}{{"r", 0}, {"s", 32}} {
		m := lb1.on(scaling).by(s.lb1EC)
		for ; ; m.seq++ {
			b := m.body()
			if s.lb1EC.sign(signPrefix + b[:strings.LastIndex(b, `,"sig":"`)])[half.from] == 0 {
				break
			}
		}
		s.vector("honest-status-p256-"+half.name+"-leading-zero", "4", half.name+" of the signature begins with a zero byte, which stands",
			s.verifying(monitor()), m.given("accepted"))
	}
	s.vector("honest-person-reading", "7", "a receiver without keys takes a reading for what its digest will say", person(),
		web1.on(ramWeb1).given("accepted"))
	s.vector("honest-person-any-mac", "7", "a receiver without keys cannot tell a MAC that is right from one that is not", person(),
		web1.on(ramWeb1).under(make([]byte, 32)).given("accepted"))
	s.vector("honest-person-command", "7", "a receiver without keys verifies a command by its signature", s.verifying(person()),
		m1.on(command).by(s.m1).given("accepted"))
	s.vector("honest-two-senders", "9", "two senders use the same numbers: each has its own window", monitor(),
		web1.on(ramWeb1).given("accepted"), web2.on("melb/bank_server/metrics/ram/web-2").given("accepted"))
	s.reading("honest-boot-1", "2", "a boot of the first millisecond", web1.on(ramWeb1).since(1).raw(), "accepted")
	latest := web1.on(ramWeb1).at(1<<53 - 1)
	g := latest.given("accepted")
	g.Now = 1<<53 - 1
	s.vector("honest-ts-2-53-less-1", "2", "the largest ts", monitor(), g)
	g = latest.since(1<<44 - 1).given("accepted")
	g.Now = 1<<53 - 1
	s.vector("honest-boot-largest", "2", "the largest boot", monitor(), g)
	g = web1.on(ramWeb1).at(1).since(1).given("accepted")
	g.Now = 1
	s.vector("honest-ts-1", "2", "a ts of one digit", monitor(), g)
	s.reading("honest-seq-largest", "2", "seq 2^64-1", web1.on(ramWeb1).number(1<<64-1).raw(), "accepted")
	for _, name := range []struct{ file, is, name string }{
		{"honest-name-24", "a name of 24 characters", "a23456789-123456789-1234"},
		{"honest-name-1", "a name of one character", "7"},
		{"honest-name-dashes", "two dashes in a row within a name", "a--b"},
	} {
		by := sender{"melb", "sensor", name.name, 1}
		topic := "melb/bank_server/metrics/ram/" + name.name
		s.vector(name.file, "2", name.is, monitor(), by.on(topic).given("accepted"))
	}
	s.reading("honest-generation-largest", "2", "generation 2^32-1", web1.on(ramWeb1).as(1<<32-1).raw(), "accepted")
}

// padded returns the message with a payload that makes it n bytes long.
func padded(m message, n int) string {
	m = m.value(`""`)
	fill := n - len(m.raw())
	raw := m.value(`"` + strings.Repeat("x", fill) + `"`).raw()
	if len(raw) != n {
		panic("padding missed")
	}
	return raw
}

func (s *set) sizes() {
	s.reading("size-at-bound", "7", "exactly the bound of its class", padded(web1.on(ramWeb1), 4096), "accepted")
	s.reading("size-over-bound", "7", "one byte over the bound of its class", padded(web1.on(ramWeb1), 4097), "size")
	s.reading("size-before-kid", "7", "too large, and no envelope at all: the size comes first", string(bytes.Repeat([]byte("x"), 4097)), "size")
	short := web1.on(ramWeb1).raw()
	s.reading("size-66", "7", "66 bytes, which begin like an envelope", short[:66], "size")
	s.reading("size-66-no-kid", "7", "66 bytes of no envelope: the size comes first", strings.Repeat("x", 66), "size")
	s.reading("size-67", "7", "67 bytes, which begin like an envelope: they are no longer too few", short[:67], "mac")
	s.reading("size-67-no-kid", "7", "67 bytes of no envelope: they are no longer too few", strings.Repeat("x", 67), "kid")
	backfill := "melb/bank_server/backfill/sensor/web-1"
	s.vector("size-backfill-at-bound", "2", "65,536 bytes on a backfill topic", monitor(),
		given(web1, backfill, padded(web1.on(backfill), 65536), "accepted"))
	s.vector("size-backfill-over-bound", "2", "65,537 bytes on a backfill topic", monitor(),
		given(web1, backfill, padded(web1.on(backfill), 65537), "size"))
	s.vector("size-person", "7", "one byte over, at a receiver without keys", person(),
		given(web1, ramWeb1, padded(web1.on(ramWeb1), 4097), "size"))
}

func (s *set) keyIDs() {
	good := web1.on(ramWeb1)
	for _, c := range []struct{ name, says, old, new string }{
		{"version-2", "another version", `"v":1`, `"v":2`},
		{"version-string", "the version is a string", `"v":1`, `"v":"1"`},
		{"version-10", "the version has another digit", `"v":1`, `"v":10`},
		{"version-missing", "no version", `"v":1,`, ``},
		{"version-twice", "two versions", `"v":1,`, `"v":1,"v":1,`},
		{"version-after-kid", "the version stands after kid", `{"v":1,"kid":"melb/sensor/web-1/1"`, `{"kid":"melb/sensor/web-1/1","v":1`},
		{"alg-before", "a field that would choose an algorithm", `{"v":1,`, `{"alg":"none","v":1,`},
		{"missing", "no kid", `"kid":"melb/sensor/web-1/1",`, ``},
		{"upper-case-member", "kid's name in upper case", `"kid"`, `"KID"`},
		{"escaped-member", "kid's name with an escape", `"kid"`, `"\u006bid"`},
		{"space-before", "a space before the message", `{"v"`, ` {"v"`},
		{"newline-before", "a line feed before the message", `{"v"`, "\n{\"v\""},
		{"byte-order-mark", "a byte order mark before the message", `{"v"`, "\ufeff{\"v\""},
		{"space-after-brace", "a space after the first brace", `{"v"`, `{ "v"`},
		{"space-before-colon", "a space before kid's colon", `"kid":`, `"kid" :`},
		{"space-after-colon", "a space after kid's colon", `"kid":`, `"kid": `},
		{"array", "the message is an array", `{"v":1,`, `[{"v":1,`},
		{"number", "kid is a number", `"melb/sensor/web-1/1"`, `1`},
		{"empty", "kid is empty", `"melb/sensor/web-1/1"`, `""`},
		{"escape", "an escape in kid", `"melb/sensor`, `"melb\/sensor`},
		{"upper-case-site", "the site in upper case", `"melb/sensor`, `"Melb/sensor`},
		{"upper-case-role", "the role in upper case", `"melb/sensor`, `"melb/Sensor`},
		{"upper-case-name", "the name in upper case", `sensor/web-1`, `sensor/Web-1`},
		{"underscore", "an underscore in the name", `sensor/web-1/1`, `sensor/web_1/1`},
		{"dot", "a dot in the name", `sensor/web-1/1`, `sensor/web.1/1`},
		{"not-ascii", "a letter outside ASCII", `sensor/web-1/1`, `sensor/wéb-1/1`},
		{"nul", "a NUL byte", `sensor/web-1/1`, "sensor/web-1\x00/1"},
		{"site-empty", "no site", `"melb/sensor`, `"/sensor`},
		{"role-empty", "no role", `"melb/sensor`, `"melb/`},
		{"name-empty", "no name", `sensor/web-1/1`, `sensor//1`},
		{"site-25", "a site of 25 characters", `"melb/sensor`, `"` + strings.Repeat("a", 25) + `/sensor`},
		{"role-25", "a role of 25 characters", `"melb/sensor`, `"melb/` + strings.Repeat("a", 25)},
		{"name-25", "a name of 25 characters", `sensor/web-1/1`, `sensor/` + strings.Repeat("a", 25) + `/1`},
		{"dash-first", "a dash begins the name", `sensor/web-1/1`, `sensor/-web/1`},
		{"dash-last", "a dash ends the name", `sensor/web-1/1`, `sensor/web-/1`},
		{"site-dash-last", "a dash ends the site", `"melb/sensor`, `"melb-/sensor`},
		{"role-dash-first", "a dash begins the role", `"melb/sensor`, `"melb/-sensor`},
		{"site-public", "a site called public", `"melb/sensor`, `"public/sensor`},
		{"site-ops", "a site called ops", `"melb/sensor`, `"ops/sensor`},
		{"three-parts", "no generation", `web-1/1"`, `web-1"`},
		{"five-parts", "a fifth part", `web-1/1"`, `web-1/1/1"`},
		{"slash-last", "a slash at the end", `web-1/1"`, `web-1/1/"`},
		{"generation-empty", "an empty generation", `web-1/1"`, `web-1/"`},
		{"generation-0", "generation 0", `web-1/1"`, `web-1/0"`},
		{"generation-01", "a leading zero", `web-1/1"`, `web-1/01"`},
		{"generation-plus", "a sign", `web-1/1"`, `web-1/+1"`},
		{"generation-minus", "a negative generation", `web-1/1"`, `web-1/-1"`},
		{"generation-hex", "a letter in the generation", `web-1/1"`, `web-1/1a"`},
		{"generation-2-32", "generation 2^32", `web-1/1"`, `web-1/4294967296"`},
		{"generation-2-64-more-1", "generation 2^64+1, which wraps to 1", `web-1/1"`, `web-1/18446744073709551617"`},
	} {
		s.reading("kid-"+c.name, "2", c.says, good.edited(c.old, c.new), "kid")
	}
	s.reading("kid-before-mac", "7", "kid is outside the grammar, and the MAC is wrong: kid comes first",
		good.under(make([]byte, 32)).edited("web-1/1", "web-1/0"), "kid")
	s.vector("kid-person", "7", "a leading zero, at a receiver without keys", person(),
		given(web1, ramWeb1, good.edited(`web-1/1"`, `web-1/01"`), "kid"))
}

func (s *set) keys() {
	syd := sender{"syd", "sensor", "web-1", 1}
	m := web1.on(ramWeb1)
	m.sender = syd
	s.vector("unknown-key-site", "7", "a sender of another site, on a topic whose keys the receiver holds", monitor(), given(web1, ramWeb1, m.raw(), "unknown_key"))
	m.sender = sender{"melb", "teller", "web-1", 1}
	s.vector("unknown-key-role", "7", "a role that does not exist, on a topic whose keys the receiver holds", monitor(), given(web1, ramWeb1, m.raw(), "unknown_key"))
	sensors := monitor()
	sensors.Keys = hexKeys("sensor")
	m.sender = m1
	s.vector("unknown-key-not-held", "7", "a role whose key the receiver does not hold, on a topic of one that it does", sensors, given(web1, ramWeb1, m.raw(), "unknown_key"))
	m.sender = syd
	s.vector("unknown-key-before-mac", "7", "a sender of another site, and a wrong MAC: the key comes first", monitor(),
		given(web1, ramWeb1, m.under(make([]byte, 32)).raw(), "unknown_key"))

	second := func() vectors.Receiver {
		r := monitor()
		r.Minimum = map[string]uint32{web1.String(): 2}
		return r
	}
	good := web1.on(ramWeb1)
	s.vector("generation-below-minimum", "7", "a generation that was ended", second(), good.given("unknown_key"))
	s.vector("generation-at-minimum", "7", "the lowest generation that counts", second(), good.as(2).given("accepted"))
	s.vector("generation-above-minimum", "7", "a generation newer than the lowest that counts", second(), good.as(3).given("accepted"))
	s.vector("generation-of-another", "7", "the minimum of one sender is none for another", second(),
		web2.on("melb/bank_server/metrics/ram/web-2").given("accepted"))
	commands := s.verifying(monitor())
	commands.Minimum = map[string]uint32{m1.String(): 2}
	s.vector("generation-before-unsigned", "7", "a generation that was ended, and no signature: the generation comes first", commands,
		m1.on(command).given("unknown_key"))
	people := second()
	people.Keys = nil
	s.vector("generation-person", "7", "a generation that was ended, at a receiver without keys", people, good.given("unknown_key"))
}
