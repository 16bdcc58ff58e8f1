package main

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

func (s *set) macs() {
	good := web1.on(ramWeb1)
	raw, body := good.raw(), good.body()
	tag := raw[len(raw)-45 : len(raw)-2]
	decoded, err := base64.RawURLEncoding.DecodeString(tag)
	if err != nil {
		s.fail("decoding a MAC: %w", err)
	}
	with := func(tag string) string { return body + macMember + tag + `"}` }
	for _, c := range []struct{ name, says, raw string }{
		{"one-bit", "one bit of the MAC is flipped", with(flip(tag, 10))},
		{"first-character", "the first character of the MAC is another", with(other(tag, 0))},
		{"last-character", "the last character of the MAC is another, still canonical", with(tag[:42] + string(next4(tag[42])))},
		{"padding-bits", "the unused bits of the MAC's last character are not zero", with(tag[:42] + string(spare(tag[42])))},
		{"padded", "the MAC ends with =", with(tag + "=")},
		{"standard-base64", "the MAC is in the other alphabet", web1.standardAlphabet()},
		{"hexadecimal", "the MAC is in hexadecimal", with(hex.EncodeToString(decoded))},
		{"truncated", "the MAC is 16 bytes long", with(base64url(decoded[:16]))},
		{"empty", "the MAC is empty", with("")},
		{"zero", "the MAC is all zero", with(strings.Repeat("A", 43))},
		{"missing", "no MAC", body + "}"},
		{"upper-case-member", "the member is called MAC", body + `,"MAC":"` + tag + `"}`},
		{"space", "a space before the MAC", body + `,"mac": "` + tag + `"}`},
		{"payload-changed", "a digit of the payload is another", replace(raw, "41.5", "11.5")},
		{"ts-changed", "a digit of ts is another", replace(raw, `"ts":1729697327822`, `"ts":1729697327823`)},
		{"nonce-changed", "a digit of the nonce is another", replace(raw, `-1","topic"`, `-2","topic"`)},
		{"another-sender", "sealed with the key of web-2", good.under(web2.key()).raw()},
		{"another-generation", "sealed with the key of generation 2", good.under(sender{"melb", "sensor", "web-1", 2}.key()).raw()},
		{"another-role", "sealed with the key of the monitor web-1", good.under(sender{"melb", "monitor", "web-1", 1}.key()).raw()},
		{"another-site", "sealed with the key of syd's web-1", good.under(sender{"syd", "sensor", "web-1", 1}.key()).raw()},
		{"role-key", "sealed with the role key", good.under(roleKey("melb", "sensor")).raw()},
		{"site-key", "sealed with the site key", good.under(siteKey).raw()},
		{"ack-key", "sealed with the key of acknowledgements to web-1", good.under(derive(web1.key(), "ack")).raw()},
		{"without-label", "the MAC does not cover the prefix", with(mac(web1.key(), body))},
		{"signature-label", "the MAC covers the signature's prefix", with(mac(web1.key(), signPrefix+body))},
		{"label-without-nul", "the prefix lacks its zero byte", with(mac(web1.key(), macPrefix[:len(macPrefix)-1]+body))},
		{"over-member", "the MAC covers its own member's name", with(mac(web1.key(), macPrefix+body+macMember))},
		{"quote", "an apostrophe ends the MAC", raw[:len(raw)-2] + "'}"},
		{"bracket", "a bracket ends the message", raw[:len(raw)-1] + "]"},
		{"newline-after", "a line feed after the message", raw + "\n"},
		{"space-after", "a space after the message", raw + " "},
		{"nul-after", "a zero byte after the message", raw + "\x00"},
		{"brace-after", "a brace after the message", raw + "}"},
		{"message-after", "the message stands twice", raw + raw},
		{"before-grammar", "a wrong MAC, and a space: the MAC comes first", replace(raw, `"ts":`, `"ts": `)},
		{"before-payload", "a wrong MAC, and a null: the MAC comes first", replace(raw, "41.5", "null")},
	} {
		s.reading("mac-"+c.name, "3", c.says, c.raw, "mac")
	}
	for _, c := range []struct{ name, says, raw string }{
		{"padding-bits", "the unused bits of the MAC's last character are not zero", with(tag[:42] + string(spare(tag[42])))},
		{"padded", "the MAC ends with =", with(tag + "=")},
		{"standard-base64", "the MAC is in the other alphabet", web1.standardAlphabet()},
		{"character", "a character of the MAC is outside the alphabet", with("." + tag[1:])},
		{"42-characters", "the MAC is 42 characters long", with(tag[:42])},
		{"44-characters", "the MAC is 44 characters long", with(tag + "A")},
		{"missing", "no MAC", body + "}"},
		{"upper-case-member", "the member is called MAC", body + `,"MAC":"` + tag + `"}`},
		{"space", "a space before the MAC", body + `,"mac": "` + tag + `"}`},
		{"quote", "an apostrophe ends the MAC", raw[:len(raw)-2] + "'}"},
		{"bracket", "a bracket ends the message", raw[:len(raw)-1] + "]"},
		{"newline-after", "a line feed after the message", raw + "\n"},
		{"brace-missing", "the last brace is missing", raw[:len(raw)-1]},
		{"message-after", "a member after the MAC", raw[:len(raw)-1] + `,"x":1}`},
	} {
		s.vector("person-mac-"+c.name, "2", c.says+", at a receiver without keys", person(), given(web1, ramWeb1, c.raw, "grammar"))
	}
}

// standardAlphabet returns a reading whose MAC has a - or _, written with + and /.
func (by sender) standardAlphabet() string {
	m := by.on(ramWeb1)
	for ; ; m.seq++ {
		raw := m.raw()
		if tag := raw[len(raw)-45 : len(raw)-2]; strings.ContainsAny(tag, "-_") {
			return raw[:len(raw)-45] + strings.NewReplacer("-", "+", "_", "/").Replace(tag) + `"}`
		}
	}
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// flip returns tag with one bit of what character i stands for flipped.
func flip(tag string, i int) string {
	return tag[:i] + string(alphabet[strings.IndexByte(alphabet, tag[i])^1]) + tag[i+1:]
}

// other returns tag with another character i.
func other(tag string, i int) string {
	return tag[:i] + string(alphabet[(strings.IndexByte(alphabet, tag[i])+17)%64]) + tag[i+1:]
}

// spare returns c with the lowest bit set, which a last character has unused.
func spare(c byte) byte { return alphabet[strings.IndexByte(alphabet, c)|1] }

// next4 returns another character whose two lowest bits are zero.
func next4(c byte) byte { return alphabet[(strings.IndexByte(alphabet, c)+4)%64] }

type edit struct{ name, says, old, new string }

func (s *set) headers() {
	good := web1.on(ramWeb1)
	member := func(name string) string { // of the head, as it stands there
		b := good.body()
		from := strings.Index(b, `,"`+name+`":`)
		to := from + 1 + strings.Index(b[from+1:], `,"`)
		return b[from:to]
	}
	time, nonce, topic := member("ts"), member("nonce"), member("topic")
	long := strings.TrimSuffix(strings.Repeat(strings.Repeat("a", 27)+"/", 7), "/") // 195 bytes, 7 levels
	for _, c := range []edit{
		{"order-ts-nonce", "nonce stands before ts", time + nonce, nonce + time},
		{"order-nonce-topic", "topic stands before nonce", nonce + topic, topic + nonce},
		{"order-topic-payload", "topic stands after the payload", topic + `,"payload":` + reading, `,"payload":` + reading + topic},
		{"ts-missing", "no ts", time, ""},
		{"nonce-missing", "no nonce", nonce, ""},
		{"topic-missing", "no topic", topic, ""},
		{"payload-missing", "no payload", `,"payload":` + reading, ""},
		{"ts-twice", "two ts", time, time + time},
		{"nonce-twice", "two nonces", nonce, nonce + nonce},
		{"topic-twice", "two topics", topic, topic + topic},
		{"kid-twice", "a second kid after the first", time, `,"kid":"melb/sensor/web-2/1"` + time},
		{"version-twice", "a second version after kid", time, `,"v":1` + time},
		{"unknown-member", "a member that the grammar does not have", time, `,"alg":"HS256"` + time},
		{"unknown-member-before-payload", "a member that the grammar does not have, before the payload", `,"payload"`, `,"x":1,"payload"`},
		{"comma-missing", "a comma is missing", `,"ts"`, `"ts"`},
		{"comma-twice", "two commas", `,"ts"`, `,,"ts"`},
		{"member-upper-case", "topic's name in upper case", `"topic"`, `"Topic"`},
		{"member-escape", "topic's name with an escape", `"topic"`, `"\u0074opic"`},
		{"payload-member-upper-case", "the payload's name in upper case", `"payload"`, `"Payload"`},

		{"space-before-comma", "a space before a comma", `,"ts"`, ` ,"ts"`},
		{"space-after-comma", "a space after a comma", `,"ts"`, `, "ts"`},
		{"space-before-colon", "a space before a colon", `"ts":`, `"ts" :`},
		{"space-after-colon", "a space after a colon", `"ts":`, `"ts": `},
		{"tab", "a tab", `"nonce":`, "\"nonce\":\t"},
		{"line-feed", "a line feed", `,"topic"`, ",\n\"topic\""},
		{"carriage-return", "a carriage return", `,"topic"`, ",\r\"topic\""},
		{"space-before-payload-colon", "a space before the payload's colon", `"payload":`, `"payload" :`},

		{"ts-leading-zero", "a leading zero", `"ts":1`, `"ts":01`},
		{"ts-0", "ts is zero", `"ts":1729697327822`, `"ts":0`},
		{"ts-00", "two zeros", `"ts":1729697327822`, `"ts":00`},
		{"ts-minus", "a negative ts", `"ts":1`, `"ts":-1`},
		{"ts-minus-zero", "minus zero", `"ts":1729697327822`, `"ts":-0`},
		{"ts-plus", "a sign", `"ts":1`, `"ts":+1`},
		{"ts-fraction", "a fraction", `327822,`, `327822.0,`},
		{"ts-exponent", "an exponent", `1729697327822,"n`, `1729697327822e0,"n`},
		{"ts-string", "ts is a string", `1729697327822,"n`, `"1729697327822","n`},
		{"ts-empty", "ts is empty", `1729697327822,"n`, `,"n`},
		{"ts-null", "ts is null", `1729697327822,"n`, `null,"n`},
		{"ts-2-53", "ts is 2^53", `1729697327822,"n`, `9007199254740992,"n`},
		{"ts-2-64-more", "ts wraps to itself in 64 bits", `1729697327822,"n`, `18446745803406879438,"n`},
		{"ts-30-digits", "ts has 30 digits", `1729697327822,"n`, `172969732782200000000000000000,"n`},

		{"boot-10-digits", "the boot has 10 digits", `"nonce":"1`, `"nonce":"`},
		{"boot-12-digits", "the boot has 12 digits", `"nonce":"1`, `"nonce":"01`},
		{"boot-upper-case", "the boot in upper case", web1.bootText(), strings.ToUpper(web1.bootText())},
		{"boot-zero", "the boot is zero", web1.bootText(), "00000000000"},
		{"boot-letter", "the boot has a letter beyond f", web1.bootText(), "1929c0a7f3g"},
		{"boot-prefix", "the boot has a prefix", web1.bootText(), "0x29c0a7f3e"},
		{"dash-missing", "no dash in the nonce", `-1","topic"`, `1","topic"`},
		{"dash-twice", "two dashes in the nonce", `-1","topic"`, `--1","topic"`},
		{"dash-underscore", "an underscore for the dash", `-1","topic"`, `_1","topic"`},
		{"seq-empty", "no seq", `-1","topic"`, `-","topic"`},
		{"seq-0", "seq is zero", `-1","topic"`, `-0","topic"`},
		{"seq-leading-zero", "a leading zero", `-1","topic"`, `-01","topic"`},
		{"seq-plus", "a sign", `-1","topic"`, `-+1","topic"`},
		{"seq-hexadecimal", "a letter in seq", `-1","topic"`, `-1a","topic"`},
		{"seq-space", "a space after seq", `-1","topic"`, `-1 ","topic"`},
		{"seq-2-64", "seq is 2^64", `-1","topic"`, `-18446744073709551616","topic"`},
		{"seq-2-64-more-1", "seq is 2^64+1, which wraps to 1", `-1","topic"`, `-18446744073709551617","topic"`},
		{"seq-21-digits", "seq has 21 digits", `-1","topic"`, `-100000000000000000001","topic"`},
		{"nonce-escape", "an escape in the nonce", `-1","topic"`, `-\u0031","topic"`},
		{"nonce-number", "the nonce is a number", nonce, `,"nonce":1`},

		{"topic-empty", "an empty topic", `"` + ramWeb1 + `"`, `""`},
		{"topic-plus", "a wildcard of one level", "metrics/ram", "metrics/+"},
		{"topic-hash", "a wildcard of the rest", "ram/web-1\"", "ram/#\""},
		{"topic-dollar", "a topic of the broker's own", `"melb/bank`, `"$melb/bank`},
		{"topic-level-empty", "an empty level", "metrics/ram", "metrics//ram"},
		{"topic-slash-first", "a slash at the beginning", `"melb/bank`, `"/melb/bank`},
		{"topic-slash-last", "a slash at the end", "ram/web-1\"", "ram/web-1/\""},
		{"topic-upper-case", "an upper-case letter", "metrics/ram", "metrics/RAM"},
		{"topic-space", "a space", "metrics/ram", "metrics/r m"},
		{"topic-dot", "a dot", "metrics/ram", "metrics/r.m"},
		{"topic-not-ascii", "a letter outside ASCII", "metrics/ram", "metrics/rám"},
		{"topic-nul", "a zero byte", "metrics/ram", "metrics/ram\x00"},
		{"topic-escape", "an escape", "metrics/ram", `metrics\/ram`},
		{"topic-level-33", "a level of 33 characters", "ram/web-1\"", "ram/" + strings.Repeat("a", 33) + "\""},
		{"topic-9-levels", "nine levels", ramWeb1, "a/b/c/d/e/f/g/h/i"},
		{"topic-201-bytes", "201 bytes", ramWeb1, long + "/12345"},
		{"topic-unterminated", "the topic does not end", `web-1","payload"`, `web-1,"payload"`},
		{"topic-array", "the topic is an array", `"` + ramWeb1 + `"`, `["` + ramWeb1 + `"]`},
	} {
		s.reading("grammar-"+c.name, "2", c.says, good.edited(c.old, c.new), "grammar")
	}
	// At the bound the grammar holds, and the topic is merely another one.
	for _, c := range []struct{ name, says, topic string }{
		{"topic-level-32", "a level of 32 characters passes the grammar, but is not the topic published on", "melb/bank_server/metrics/ram/" + strings.Repeat("a", 32)},
		{"topic-8-levels", "eight levels pass the grammar, but are not the topic published on", "a/b/c/d/e/f/g/h"},
		{"topic-200-bytes", "200 bytes pass the grammar, but are not the topic published on", long + "/1234"},
		{"topic-one-level", "one level passes the grammar, but is not the topic published on", "a"},
	} {
		s.reading("bound-"+c.name, "2", c.says, good.edited(ramWeb1, c.topic), "topic")
	}
	s.reading("grammar-before-payload", "7", "a space, and a null: the grammar comes first", good.value("null").edited(`"ts":`, `"ts": `), "grammar")
	s.reading("grammar-before-topic", "7", "a leading zero, and another topic: the grammar comes first",
		web1.on("melb/bank_server/metrics/cpu/web-1").edited(`"ts":1`, `"ts":01`), "grammar")
	s.vector("grammar-person", "7", "a space, at a receiver without keys", person(), given(web1, ramWeb1, good.edited(`"ts":`, `"ts": `), "grammar"))
}

func (by sender) bootText() string {
	b := by.on(ramWeb1).body()
	from := strings.Index(b, `"nonce":"`) + len(`"nonce":"`)
	return b[from : from+11]
}

// chains are the cases of the grammar of chain and sig.
func (s *set) chains() {
	// The payload is longer than a sig: its length must not be what refuses a
	// message without one.
	good := web1.on(ramWeb1).value(`"` + strings.Repeat("x", 94) + `"`).by(s.web1)
	b := good.body()
	payload := strings.Index(b, `,"payload"`)
	sigAt := strings.LastIndex(b, `,"sig":"`)
	chain := b[strings.Index(b, `,"chain"`):payload]
	sig := b[sigAt:]
	text := sig[len(`,"sig":"`) : len(sig)-1]
	value := strings.TrimSuffix(strings.TrimPrefix(chain, `,"chain":"`), `"`)
	add := func(name, says, old, new, expect string) {
		s.vector(name, "2", says, s.verifying(monitor()), given(web1, ramWeb1, good.edited(old, new), expect))
	}
	for _, c := range []edit{
		{"chain-without-sig", "a chain and no sig", sig, ""},
		{"chain-empty", "an empty chain", chain, `,"chain":""`},
		{"chain-padded", "the chain ends with =", value, value + "="},
		{"chain-padding-bits", "the unused bits of the chain's last character are not zero", chain, `,"chain":"AAB"`},
		{"chain-one-character", "the chain has one character, which is no whole byte", chain, `,"chain":"A"`},
		{"chain-alphabet", "a + in the chain", value, "+" + value[1:]},
		{"chain-space", "a space before the chain", `,"chain"`, `, "chain"`},
		{"chain-twice", "two chains", chain, chain + chain},
		{"chain-upper-case-member", "the member is called Chain", `"chain"`, `"Chain"`},
		{"chain-array", "the chain is an array", chain, `,"chain":["` + value + `"]`},
		{"chain-before-topic", "the chain stands before the topic", `,"topic":"` + ramWeb1 + `"` + chain, chain + `,"topic":"` + ramWeb1 + `"`},
		{"sig-before-payload", "the sig stands before the payload", `,"payload":` + good.payload + sig, sig + `,"payload":` + good.payload},
		{"sig-85", "the sig is 85 characters long", text, text[:85]},
		{"sig-87", "the sig is 87 characters long", text, text + "A"},
		{"sig-padded", "the sig ends with =", text, text + "="},
		{"sig-padding-bits", "the unused bits of the sig's last character are not zero", text, text[:85] + string(spare(text[85]))},
		{"sig-alphabet", "a / in the sig", text, "/" + text[1:]},
		{"sig-space", "a space before the sig", `,"sig":`, `,"sig": `},
		{"sig-upper-case-member", "the member is called Sig", `,"sig":`, `,"Sig":`},
		{"sig-empty", "an empty sig", text, ""},
	} {
		add("grammar-"+c.name, c.says, c.old, c.new, "grammar")
	}
	// What stands between ,"payload": and the fixed places of sig and mac is
	// the payload, whatever it looks like.
	add("payload-sig-twice", "two sigs: the first is no part of an object", sig, sig+sig, "payload")
	unsigned := web1.on(ramWeb1)
	for _, c := range []struct{ name, says, more string }{
		{"twice", "two payloads", `,"payload":{}`},
		{"member-after", "a member after the payload", `,"x":1`},
		{"comma-after", "a comma after the payload", `,`},
	} {
		s.reading("payload-"+c.name, "2", c.says, unsigned.seal(unsigned.body()+c.more), "payload")
	}
	s.reading("payload-sig-without-chain", "2", "a sig and no chain: the sig is no part of an object", unsigned.seal(unsigned.body()+sig), "payload")
	s.reading("payload-sig-without-chain-alphabet", "2", "a sig and no chain, and the sig is no base64url: nobody looks at it",
		unsigned.seal(unsigned.body()+strings.Replace(sig, sig[20:21], " ", 1)), "payload")
	s.vector("payload-sig-without-chain-person", "2", "a sig and no chain, at a receiver without keys", s.verifying(person()),
		given(web1, ramWeb1, unsigned.seal(unsigned.body()+sig), "payload"))
	backfill := "melb/bank_server/backfill/sensor/web-1"
	for _, c := range []struct {
		name, says, want string
		bytes            int
	}{
		{"bound-chain-8192-bytes", "a chain of 10,923 characters passes the grammar, but is no certificates", "signature", 8192},
		{"grammar-chain-8193-bytes", "a chain of 10,924 characters", "grammar", 8193},
	} {
		t := *s.web1
		t.certs = make([]byte, c.bytes)
		s.vector(c.name, "2", c.says, s.verifying(monitor()), web1.on(backfill).by(&t).given(c.want))
	}
	s.reading("payload-empty", "2", "an empty payload", unsigned.with("").raw(), "payload")
	s.reading("mac-cut", "3", "the message is cut short", unsigned.raw()[:100], "mac")
	s.vector("person-mac-cut", "2", "the message is cut short, at a receiver without keys", person(), given(web1, ramWeb1, unsigned.raw()[:100], "grammar"))
}
