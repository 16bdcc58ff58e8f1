package main

import (
	"fmt"
	"strings"
)

// object returns an object of n members.
func object(n int) string {
	members := make([]string, n)
	for i := range members {
		members[i] = fmt.Sprintf(`"m%d":%d`, i, i)
	}
	return "{" + strings.Join(members, ",") + "}"
}

// payloads are the cases of section 2's last list but for numbers and strings.
func (s *set) payloads() {
	good := web1.on(ramWeb1)
	for _, c := range []struct {
		name, says, value string
		ok                bool
	}{
		{"empty-object", "an empty object", `{}`, true},
		{"empty-array", "an empty array", `[]`, true},
		{"literals", "true and false", `[true,false]`, true},
		{"depth-8-arrays", "eight levels, the payload and seven arrays", strings.Repeat("[", 7) + strings.Repeat("]", 7), true},
		{"depth-9-arrays", "nine levels, the payload and eight arrays", strings.Repeat("[", 8) + strings.Repeat("]", 8), false},
		{"depth-8-objects", "eight levels of objects", strings.Repeat(`{"a":`, 6) + "{}" + strings.Repeat("}", 6), true},
		{"depth-9-objects", "nine levels of objects", strings.Repeat(`{"a":`, 7) + "{}" + strings.Repeat("}", 7), false},
		{"depth-8-mixed", "eight levels, twice", strings.Repeat(`[{"a":`, 3) + "[1]" + strings.Repeat("}]", 3), true},
		{"depth-9-mixed", "nine levels, of which one is behind a shallow one", `[[],` + strings.Repeat("[", 7) + strings.Repeat("]", 7) + "]", false},
		{"depth-1000", "a thousand levels", strings.Repeat("[", 999) + strings.Repeat("]", 999), false},
		{"array-of-100", "an array of 100 values: only members are counted", "[" + strings.TrimSuffix(strings.Repeat("1,", 100), ",") + "]", true},
		{"nested-64", "an inner object of 64 members", object(64), true},
		{"nested-65", "an inner object of 65 members", object(65), false},
		{"same-name-in-two-objects", "one name in two objects", `[{"a":1},{"a":2}]`, true},
		{"same-name-as-outside", "a name that stands in the object around it too", `{"server":1,"x":2}`, true},
		{"duplicate-nested", "a name twice in an inner object", `{"a":1,"b":2,"a":3}`, false},
		{"duplicate-in-array", "a name twice in an object in an array", `[{"a":1,"a":1}]`, false},
		{"duplicate-deep", "a name twice, around another object", `{"a":{"b":1},"a":2}`, false},
		{"null", "a null", `null`, false},
		{"null-in-array", "a null in an array", `[1,null]`, false},
		{"null-nested", "a null in an inner object", `{"a":null}`, false},
		{"true-upper-case", "True", `True`, false},
		{"true-cut", "a literal that is cut short", `tru`, false},
		{"undefined", "undefined", `undefined`, false},
		{"value-missing", "no value", ``, false},
		{"array-comma-last", "a comma at the end of an array", `[1,]`, false},
		{"array-comma-first", "a comma at the beginning of an array", `[,1]`, false},
		{"array-comma-missing", "no comma between two values", `[1 2]`, false},
		{"array-commas", "two commas in an array", `[1,,2]`, false},
		{"array-unclosed", "an array that does not end", `[1`, false},
		{"array-closed-by-brace", "an array that ends with a brace", `[1}`, false},
		{"object-comma-last", "a comma at the end of an object", `{"a":1,}`, false},
		{"object-unclosed", "an object that does not end", `{"a":1`, false},
		{"comment", "a comment", `1/**/`, false},
		{"space-array-first", "a space after a bracket", `[ 1]`, false},
		{"space-array-last", "a space before a bracket", `[1 ]`, false},
		{"space-array-comma", "a space after an array's comma", `[1, 2]`, false},
		{"space-empty-array", "a space in an empty array", `[ ]`, false},
		{"space-empty-object", "a space in an empty object", `{ }`, false},
		{"space-nested", "a space in an inner object", `{"a": 1}`, false},
		{"space-before-value", "a space before a value", ` 1`, false},
		{"space-after-value", "a space after a value", `1 `, false},
		{"tab", "a tab after a value", "1\t", false},
		{"line-feed", "a line feed after a value", "1\n", false},
		{"carriage-return", "a carriage return after a value", "1\r", false},
		{"form-feed", "a form feed after a value", "1\f", false},
		{"no-break-space", "a no-break space after a value", "1\u00a0", false},
		{"nul", "a zero byte after a value", "1\x00", false},
	} {
		s.reading("payload-"+c.name, "2", c.says, good.value(c.value).raw(), verdict(c.ok, "payload"))
	}
	for _, c := range []struct {
		name, says, member string
		ok                 bool
	}{
		{"name-1", "a name of one character", `"a":1`, true},
		{"name-32", "a name of 32 characters", `"` + strings.Repeat("a", 32) + `":1`, true},
		{"name-33", "a name of 33 characters", `"` + strings.Repeat("a", 33) + `":1`, false},
		{"name-alphabet", "a name of digits and underscores", `"0_9_":1`, true},
		{"name-prefix", "a name that begins like another", `"serve":1,"server_":1`, true},
		{"name-empty", "an empty name", `"":1`, false},
		{"name-upper-case", "an upper-case letter in a name", `"Server":1`, false},
		{"name-dash", "a dash in a name", `"a-b":1`, false},
		{"name-space", "a space in a name", `"a b":1`, false},
		{"name-not-ascii", "a letter outside ASCII in a name", `"é":1`, false},
		{"name-escape", "an escape in a name", `"\u0061":1`, false},
		{"name-escaped-duplicate", "a name a second time, with an escape", `"serve\u0072":1`, false},
		{"name-unquoted", "a name without quotes", `a:1`, false},
		{"name-apostrophes", "a name in apostrophes", `'a':1`, false},
		{"name-number", "a number for a name", `1:1`, false},
		{"duplicate", "a name twice", `"server":"web-2"`, false},
		{"duplicate-equal", "a name twice, with the same value", `"server":"web-1"`, false},
		{"colon-missing", "no colon", `"a"1`, false},
		{"colon-twice", "two colons", `"a"::1`, false},
		{"space-before-colon", "a space before a colon", `"a" :1`, false},
		{"space-after-colon", "a space after a colon", `"a": 1`, false},
		{"space-before-name", "a space before a name", ` "a":1`, false},
		{"comma-last", "a comma at the end of the object", ``, false},
		{"commas", "two commas in the object", `,"a":1`, false},
		{"members-64", "64 members", strings.Trim(object(61), "{}"), true},
		{"members-65", "65 members", strings.Trim(object(62), "{}"), false},
	} {
		s.reading("payload-"+c.name, "2", c.says, good.member(c.member).raw(), verdict(c.ok, "payload"))
	}
	for _, c := range []struct{ name, says, payload string }{
		{"is-array", "the payload is an array", `[1]`},
		{"is-string", "the payload is a string", `"a"`},
		{"is-number", "the payload is a number", `1`},
		{"is-null", "the payload is null", `null`},
		{"is-true", "the payload is true", `true`},
		{"space-before", "a space before the payload", " " + reading},
		{"space-after", "a space after the payload", reading + " "},
		{"space-first", "a space after the payload's first brace", "{ " + reading[1:]},
		{"space-last", "a space before the payload's last brace", reading[:len(reading)-1] + " }"},
		{"comma-first", "a comma after the payload's first brace", "{," + reading[1:]},
		{"byte-order-mark", "a byte order mark before the payload", "\ufeff" + reading},
		{"unclosed", "the payload does not end", reading[:len(reading)-1]},
		{"closed-twice", "a brace too many", reading + "}"},
	} {
		s.reading("payload-"+c.name, "2", c.says, good.with(c.payload).raw(), "payload")
	}
	s.reading("payload-before-topic", "7", "a null, and another topic: the payload comes first",
		web1.on("melb/bank_server/metrics/cpu/web-1").value("null").raw(), "payload")
	s.vector("payload-person", "7", "a name twice, at a receiver without keys", person(),
		given(web1, ramWeb1, good.member(`"server":"web-2"`).raw(), "payload"))
	signed := good.by(s.web1).member(`"server":"web-2"`)
	s.vector("payload-signed", "7", "a name twice, well signed", s.verifying(monitor()), signed.given("payload"))
}

func verdict(ok bool, reason string) string {
	if ok {
		return "accepted"
	}
	return reason
}

// numbers are the cases of RFC 8259, section 6.
func (s *set) numbers() {
	for _, c := range []struct {
		name, says, value string
		ok                bool
	}{
		{"zero", "zero", "0", true},
		{"minus-zero", "minus zero", "-0", true},
		{"minus", "a negative number", "-12", true},
		{"fraction", "a fraction", "0.50", true},
		{"exponent", "an exponent", "1e3", true},
		{"exponent-signs", "exponents with signs", "[1E+2,-0.5e-03]", true},
		{"exponent-zero", "a zero with an exponent", "0e0", true},
		{"1e400", "a number that no 64-bit float holds: it is JSON all the same", "1e400", true},
		{"30-digits", "an integer that 64 bits do not hold", "123456789012345678901234567890", true},
		{"leading-zero", "a leading zero", "01", false},
		{"minus-leading-zero", "a leading zero after the sign", "-01", false},
		{"double-zero", "two zeros", "00", false},
		{"plus", "a plus sign", "+1", false},
		{"point-first", "nothing before the point", ".5", false},
		{"point-last", "nothing after the point", "1.", false},
		{"point-exponent", "nothing between point and exponent", "1.e5", false},
		{"points", "two points", "1.2.3", false},
		{"exponent-empty", "nothing after the e", "1e", false},
		{"exponent-sign-empty", "nothing after the exponent's sign", "1e+", false},
		{"exponent-fraction", "an exponent with a fraction", "1e1.5", false},
		{"minus-empty", "a sign alone", "-", false},
		{"minus-twice", "two signs", "--1", false},
		{"minus-point", "a sign and a point", "-.5", false},
		{"hexadecimal", "hexadecimal", "0x10", false},
		{"underscore", "an underscore between digits", "1_000", false},
		{"nan", "NaN", "NaN", false},
		{"infinity", "Infinity", "Infinity", false},
		{"minus-infinity", "-Infinity", "-Infinity", false},
		{"other-digits", "digits outside ASCII", "١", false},
	} {
		s.reading("number-"+c.name, "2", c.says, web1.on(ramWeb1).value(c.value).raw(), verdict(c.ok, "payload"))
	}
}

// text are the cases of RFC 8259, section 7, and of UTF-8.
func (s *set) text() {
	for _, c := range []struct {
		name, says, text string
		ok               bool
	}{
		{"empty", "an empty string", "", true},
		{"two-bytes", "the ends of two bytes", "\u0080\u07ff", true},
		{"three-bytes", "the ends of three bytes, around the surrogates", "\u0800\ud7ff\ue000\uffff", true},
		{"four-bytes", "the ends of four bytes", "\U00010000\U0010ffff", true},
		{"replacement-character", "a replacement character that was sent as one", "\ufffd", true},
		{"byte-order-mark", "a byte order mark within a string", "\ufeff", true},
		{"delete", "the character 127", "\x7f", true},
		{"escapes", "all short escapes", `\"\\\/\b\f\n\r\t`, true},
		{"escape-unicode", "escapes with digits of both cases", `\u0041\u00e9\uABcd`, true},
		{"escape-control", "an escape for a control character", `\u0001\u001f`, true},
		{"escape-surrogates", "a pair of surrogates", `\ud83d\ude00`, true},
		{"escape-surrogate-ends", "the ends of the pairs", `\ud800\udc00\udbff\udfff`, true},
		{"escape-next-to-surrogates", "escapes next to the surrogates", `\ud7ff\ue000`, true},
		{"escape-nul-text", "a backslash and the text u0000", `\\u0000`, true},
		{"escape-nul", "an escaped zero", `\u0000`, false},
		{"escape-nul-within", "an escaped zero within text", `a\u0000b`, false},
		{"escape-x", "an escape that JSON does not have", `\x41`, false},
		{"escape-apostrophe", "an escaped apostrophe", `\'`, false},
		{"escape-upper-case", "an escape with an upper-case U", `\U0041`, false},
		{"escape-v", "an escaped v", `\v`, false},
		{"escape-0", "an escaped digit", `\0`, false},
		{"escape-short", "an escape of three digits", `\u004`, false},
		{"escape-letter", "an escape with a letter beyond f", `\u004g`, false},
		{"escape-sign", "an escape with a sign", `\u+041`, false},
		{"escape-braces", "an escape in braces", `\u{41}`, false},
		{"escape-last", "a backslash before the last quote", `\`, false},
		{"escape-line-feed", "an escaped line feed", "\\\n", false},
		{"surrogate-high", "a high surrogate alone", `\ud800`, false},
		{"surrogate-high-text", "a high surrogate before text", `\ud83dx`, false},
		{"surrogate-high-escape", "a high surrogate before another escape", `\ud83d\n`, false},
		{"surrogate-high-high", "two high surrogates", `\ud83d\ud83d`, false},
		{"surrogate-high-bmp", "a high surrogate before an escape that is none", `\ud83d\u0041`, false},
		{"surrogate-low", "a low surrogate alone", `\udc00`, false},
		{"surrogate-reversed", "a pair the wrong way round", `\ude00\ud83d`, false},
		{"surrogate-low-after-pair", "a low surrogate after a pair", `\ud83d\ude00\ude00`, false},
		{"control-nul", "a zero byte", "\x00", false},
		{"control-tab", "a tab", "\t", false},
		{"control-line-feed", "a line feed", "\n", false},
		{"control-1f", "the character 31", "\x1f", false},
		{"utf8-continuation", "a continuation byte alone", "\x80", false},
		{"utf8-continuation-last", "the last continuation byte alone", "\xbf", false},
		{"utf8-truncated-2", "one of two bytes", "\xc3", false},
		{"utf8-truncated-3", "two of three bytes", "\xe2\x82", false},
		{"utf8-truncated-4", "three of four bytes", "\xf0\x9f\x98", false},
		{"utf8-latin-1", "a letter in Latin-1", "caf\xe9 x", false},
		{"utf8-overlong-2", "a NUL in two bytes", "\xc0\x80", false},
		{"utf8-overlong-2-last", "a DEL in two bytes", "\xc1\xbf", false},
		{"utf8-overlong-3", "a slash in three bytes", "\xe0\x80\xaf", false},
		{"utf8-overlong-3-last", "the last overlong form of three bytes", "\xe0\x9f\xbf", false},
		{"utf8-overlong-4", "a euro sign in four bytes", "\xf0\x82\x82\xac", false},
		{"utf8-overlong-4-last", "the last overlong form of four bytes", "\xf0\x8f\xbf\xbf", false},
		{"utf8-surrogate-high", "a high surrogate as bytes", "\xed\xa0\x80", false},
		{"utf8-surrogate-low", "a low surrogate as bytes", "\xed\xbf\xbf", false},
		{"utf8-surrogate-pair", "a pair of surrogates as bytes", "\xed\xa0\xbd\xed\xb8\x80", false},
		{"utf8-above-10ffff", "a character above U+10FFFF", "\xf4\x90\x80\x80", false},
		{"utf8-f5", "a byte that begins nothing", "\xf5\x80\x80\x80", false},
		{"utf8-five-bytes", "five bytes", "\xf8\x88\x80\x80\x80", false},
		{"utf8-fe", "the byte FE", "\xfe", false},
		{"utf8-ff", "the byte FF", "\xff", false},
	} {
		s.reading("string-"+c.name, "2", c.says, web1.on(ramWeb1).value(`"`+c.text+`"`).raw(), verdict(c.ok, "payload"))
	}
	s.reading("string-unclosed", "2", "a string that does not end", web1.on(ramWeb1).value(`"a`).raw(), "payload")
	s.reading("string-apostrophes", "2", "a string in apostrophes", web1.on(ramWeb1).value(`'a'`).raw(), "payload")
}
