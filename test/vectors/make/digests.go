package main

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"levee/test/vectors"
)

// bootText is the boot of most cases, as the nonce spells it, and own the nonce
// of the digest's envelope, which comes behind every number that it can be over.
var (
	bootText = fmt.Sprintf("%011x", boot)
	own      = bootText + "-18446744073709551615"
)

// seen returns messages of web-1 of one boot.
func seen(of uint64, numbers ...uint64) []vectors.Seen {
	var all []vectors.Seen
	for _, n := range numbers {
		all = append(all, vectors.Seen{Boot: fmt.Sprintf("%011x", of), Seq: n, Raw: []byte(web1.on(ramWeb1).since(of).number(n).raw())})
	}
	return all
}

// hashOf is section 8's, over whole messages in this order.
func hashOf(messages []vectors.Seen) string {
	var hashes []byte
	for _, m := range messages {
		h := sha256.Sum256(m.Raw)
		hashes = append(hashes, h[:]...)
	}
	sum := sha256.Sum256(hashes)
	return base64url(sum[:])
}

func digest(first, last uint64, dropped, hash string) string {
	return fmt.Sprintf(`{"timestamp":1729697327.822,"boot":"%s","first":%d,"last":%d,"dropped":[%s],"hash":"%s"}`, bootText, first, last, dropped, hash)
}

func dropped(of uint64, first, last uint64) string {
	return fmt.Sprintf(`["%011x",%d,%d]`, of, first, last)
}

// outcome adds a case of section 8.
func (s *set) outcome(name, says, payload string, of []vectors.Seen, want string, missing int) {
	s.outcomeAt(name, says, own, payload, of, want, missing)
}

// outcomeAt adds a case whose digest has an envelope with that nonce.
func (s *set) outcomeAt(name, says, nonce, payload string, of []vectors.Seen, want string, missing int) {
	s.encode("digests/"+name+".json", vectors.DigestCase{Name: name, Says: says, Nonce: nonce, Payload: payload, Seen: of, Expect: want, Missing: missing})
}

func (s *set) digests() {
	const first, last = 38, 41
	all := seen(boot, 38, 39, 40, 41)
	three := seen(boot, 38, 39, 41)
	forty := dropped(boot, 40, 40)
	whole, part := digest(first, last, "", hashOf(all)), digest(first, last, forty, hashOf(three))
	other := seen(boot, 38, 39, 40, 41)
	other[1].Raw = []byte(web1.on(ramWeb1).number(39).value("1").raw())
	remade := seen(boot, 38, 39, 40, 41)
	remade[1].Raw = []byte(web1.on(ramWeb1).number(39).under(make([]byte, 32)).raw())

	s.outcome("confirmed", "all of the range was seen as it was sent", whole, all, "confirmed", 0)
	s.outcome("confirmed-dropped", "what is declared dropped was not seen", part, three, "confirmed", 0)
	s.outcome("confirmed-one", "a range of one number", digest(38, 38, "", hashOf(seen(boot, 38))), seen(boot, 38), "confirmed", 0)
	s.outcome("confirmed-all-dropped", "all of the range is declared dropped: the hash is over nothing", digest(first, last, dropped(boot, 38, 41), hashOf(nil)), nil, "confirmed", 0)
	s.outcome("confirmed-others-seen", "what was seen outside the range, or of another boot, is of other digests", whole,
		append(append(seen(boot, 37, 42), seen(boot-1, 38, 40)...), all...), "confirmed", 0)
	s.outcome("confirmed-earlier-lost", "ranges of earlier digests that were lost, one of them of an earlier boot",
		digest(first, last, dropped(boot-1, 1, 500)+","+dropped(boot, 3, 37), hashOf(all)), all, "confirmed", 0)
	s.outcome("confirmed-earlier-seen", "a range of an earlier digest that was lost, and its messages were seen",
		digest(first, last, dropped(boot, 3, 37), hashOf(all)), append(seen(boot, 36, 37), all...), "confirmed", 0)
	s.outcome("confirmed-unordered", "the dropped ranges stand in no order", digest(first, last, forty+","+dropped(boot, 38, 38), hashOf(seen(boot, 39, 41))),
		seen(boot, 39, 41), "confirmed", 0)
	s.outcome("confirmed-largest", "the largest number that a digest can be over", digest(1<<64-2, 1<<64-2, "", hashOf(seen(boot, 1<<64-2))),
		seen(boot, 1<<64-2), "confirmed", 0)
	var ranges []string
	for n := range uint64(513) {
		ranges = append(ranges, dropped(boot-1, 2*n+1, 2*n+1))
	}
	s.outcome("confirmed-512-ranges", "512 dropped ranges", digest(first, last, strings.Join(ranges[:512], ","), hashOf(all)), all, "confirmed", 0)
	s.outcome("confirmed-16384-numbers", "a digest over 16,384 numbers, but for two of them dropped", digest(1, 16384, dropped(boot, 2, 16383), hashOf(seen(boot, 1, 16384))),
		seen(boot, 1, 16384), "confirmed", 0)

	s.outcomeAt("confirmed-just-before-it", "the range ends just before the digest's own number", bootText+"-42", whole, all, "confirmed", 0)
	for _, c := range []struct{ name, says, nonce string }{
		{"over-itself", "the range ends with the digest's own number", bootText + "-41"},
		{"over-later", "the range ends behind the digest's own number", bootText + "-40"},
		{"of-an-older-boot", "the digest is of another boot than its envelope, an older one", fmt.Sprintf("%011x-42", boot+1)},
		{"of-a-newer-boot", "the digest is of another boot than its envelope, a newer one", fmt.Sprintf("%011x-42", boot-1)},
	} {
		s.outcomeAt("malformed-"+c.name, c.says, c.nonce, whole, all, "malformed", 0)
	}
	for _, c := range []struct{ name, says, timestamp, want string }{
		{"largest", "the largest timestamp that a double holds", "1.7976931348623157e308", "confirmed"},
		{"rounds-down", "a timestamp above the largest double, and nearer to that than to 2^1024", "1.7976931348623158e308", "confirmed"},
		{"rounds-up", "a timestamp that would round to 2^1024", "1.7976931348623159e308", "malformed"},
		{"smallest", "a timestamp that rounds to 0", "1e-400", "confirmed"},
		{"zero", "a timestamp of 0, with an exponent beyond all others", "0e999999999999", "confirmed"},
		{"1e400", "a timestamp that no double holds", "1e400", "malformed"},
		{"minus-1e400", "a timestamp that no double holds, below 0", "-1e400", "malformed"},
		{"exponent", "a timestamp that nothing holds", "1e999999999999", "malformed"},
		{"309-digits", "a timestamp of 310 digits", "1" + strings.Repeat("0", 309), "malformed"},
	} {
		s.outcome(c.want+"-timestamp-"+c.name, c.says, replace(whole, `1729697327.822`, c.timestamp), all, c.want, 0)
	}

	s.outcome("incomplete", "one message of the range was not seen", whole, three, "incomplete", 1)
	s.outcome("incomplete-nothing", "no message of the range was seen", whole, nil, "incomplete", 4)
	s.outcome("incomplete-another-boot", "the numbers were seen, but of another boot", whole, seen(boot-1, 38, 39, 40, 41), "incomplete", 4)
	s.outcome("incomplete-before-contradicted", "one was not seen, and another is a different one: nothing can be said of it", whole, other[:3], "incomplete", 1)
	s.outcome("incomplete-before-disowned", "one was not seen, and one that was is declared dropped", part, seen(boot, 38, 40, 41), "incomplete", 1)

	s.outcome("contradicted", "one message is a different one", whole, other, "contradicted", 0)
	s.outcome("contradicted-mac", "one message has another MAC: the hash covers whole messages", whole, remade, "contradicted", 0)
	s.outcome("contradicted-order", "the hash is over the messages in another order",
		digest(first, last, "", hashOf([]vectors.Seen{all[1], all[0], all[2], all[3]})), all, "contradicted", 0)
	s.outcome("contradicted-dropped", "the hash covers what is declared dropped", digest(first, last, forty, hashOf(all)), three, "contradicted", 0)
	s.outcome("contradicted-before-disowned", "one message is a different one, and one that was seen is declared dropped", part, other, "contradicted", 0)
	s.outcome("contradicted-hash-empty", "the hash is empty", digest(first, last, "", ""), all, "contradicted", 0)
	hash := hashOf(all)
	s.outcome("contradicted-hash-padded", "the hash ends with =", digest(first, last, "", hash+"="), all, "contradicted", 0)
	s.outcome("contradicted-hash-padding-bits", "the unused bits of the hash's last character are not zero", digest(first, last, "", hash[:42]+string(spare(hash[42]))), all, "contradicted", 0)

	s.outcome("disowned", "what was seen is declared dropped, and the rest is as it was sent", part, all, "disowned", 0)
	s.outcome("disowned-all", "all of it", digest(first, last, dropped(boot, 38, 41), hashOf(nil)), all, "disowned", 0)
	s.outcome("disowned-other", "another message than the one that was dropped, under its number", part, append(seen(boot, 38, 39, 41), vectors.Seen{Boot: bootText, Seq: 40, Raw: []byte("?")}), "disowned", 0)

	// Two messages under one number, of which the sender sent one.
	s.outcome("confirmed-seen-twice", "one message was seen twice", whole, append(seen(boot, 39), all...), "confirmed", 0)
	s.outcome("contradicted-two-first", "two messages of one number, the right one first", whole, append(slices.Clone(all), other[1]), "contradicted", 0)
	s.outcome("contradicted-two-last", "two messages of one number, the right one last", whole, append(slices.Clone(other), all[1]), "contradicted", 0)
	s.outcome("contradicted-two-and-again", "two messages of one number, and the right one once more", whole,
		append(slices.Clone(other), all[1], all[1]), "contradicted", 0)
	s.outcome("disowned-two", "two messages of a number that is declared dropped", part, append(slices.Clone(all), vectors.Seen{Boot: bootText, Seq: 40, Raw: []byte("?")}), "disowned", 0)
	s.outcome("incomplete-two", "two messages of one number, and another number was not seen", whole, append(slices.Clone(three), other[1]), "incomplete", 1)

	for _, c := range []struct{ name, says, old, new string }{
		{"first-0", "the range begins at 0", `"first":38`, `"first":0`},
		{"last-before-first", "the range ends before it begins", `"last":41`, `"last":37`},
		{"last-2-64-less-1", "the range ends at 2^64-1", `"first":38,"last":41`, `"first":18446744073709551615,"last":18446744073709551615`},
		{"16385-numbers", "the range has 16,385 numbers", `"last":41`, `"last":16422`},
		{"513-ranges", "513 dropped ranges", `[]`, `[` + strings.Join(ranges, ",") + `]`},
		{"boot-zero", "the boot is zero", bootText, "00000000000"},
		{"boot-10-digits", "the boot has 10 digits", bootText, bootText[1:]},
		{"boot-upper-case", "the boot in upper case", bootText, strings.ToUpper(bootText)},
		{"boot-number", "the boot is a number", `"` + bootText + `"`, "19290000000"},
		{"first-fraction", "the first number has a fraction", `"first":38`, `"first":38.0`},
		{"first-exponent", "the first number has an exponent", `"first":38`, `"first":38e0`},
		{"first-minus", "the first number is negative", `"first":38`, `"first":-38`},
		{"first-string", "the first number is a string", `"first":38`, `"first":"38"`},
		{"last-2-64", "the last number is 2^64", `"last":41`, `"last":18446744073709551616`},
		{"hash-number", "the hash is a number", `"hash":"` + hash + `"`, `"hash":1`},
		{"timestamp-string", "the timestamp is a string", `1729697327.822`, `"1729697327.822"`},
		{"timestamp-missing", "no timestamp", `"timestamp":1729697327.822,`, ``},
		{"boot-missing", "no boot", `"boot":"` + bootText + `",`, ``},
		{"first-missing", "no first", `"first":38,`, ``},
		{"last-missing", "no last", `"last":41,`, ``},
		{"dropped-missing", "no dropped, which stands even where it is empty", `"dropped":[],`, ``},
		{"hash-missing", "no hash", `,"hash":"` + hash + `"`, ``},
		{"unknown-member", "a member that digests do not have", `"dropped":[]`, `"dropped":[],"note":"x"`},
		{"dropped-object", "dropped is an object", `[]`, `{}`},
		{"range-of-two", "a dropped range of two elements", `[]`, `[["` + bootText + `",40]]`},
		{"range-of-four", "a dropped range of four elements", `[]`, `[["` + bootText + `",40,40,40]]`},
		{"range-object", "a dropped range is an object", `[]`, `[{"boot":"` + bootText + `"}]`},
		{"range-0", "a dropped range begins at 0", `[]`, `[` + dropped(boot-1, 0, 3) + `]`},
		{"range-backwards", "a dropped range ends before it begins", `[]`, `[` + dropped(boot, 40, 39) + `]`},
		{"range-fraction", "a dropped range has a fraction", `[]`, `[["` + bootText + `",40.0,40]]`},
		{"range-boot-number", "the boot of a dropped range is a number", `[]`, `[[19290000000,40,40]]`},
		{"range-boot-zero", "the boot of a dropped range is zero", `[]`, `[["00000000000",40,40]]`},
		{"range-across-first", "a dropped range reaches into the range from before", `[]`, `[` + dropped(boot, 37, 38) + `]`},
		{"range-across-last", "a dropped range reaches out of the range", `[]`, `[` + dropped(boot, 41, 42) + `]`},
		{"range-around", "a dropped range is wider than the range", `[]`, `[` + dropped(boot, 37, 42) + `]`},
		{"range-of-the-future", "a dropped range behind the range", `[]`, `[` + dropped(boot, 42, 42) + `]`},
		{"range-of-a-later-boot", "a dropped range of a later boot", `[]`, `[` + dropped(boot+1, 1, 1) + `]`},
		{"ranges-overlap", "two dropped ranges overlap", `[]`, `[` + dropped(boot, 38, 40) + "," + dropped(boot, 40, 41) + `]`},
		{"ranges-overlap-earlier", "two dropped ranges of an earlier boot overlap", `[]`, `[` + dropped(boot-1, 1, 9) + "," + dropped(boot-1, 9, 9) + `]`},
		{"range-twice", "a dropped range stands twice", `[]`, `[` + forty + "," + forty + `]`},
	} {
		s.outcome("malformed-"+c.name, c.says, replace(whole, c.old, c.new), all, "malformed", 0)
	}
}
