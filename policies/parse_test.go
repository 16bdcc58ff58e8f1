package policies

import (
	"slices"
	"strings"
	"testing"

	"levee/internal/wire"
	"levee/pki"
)

// edit replaces the one occurrence of from.
func edit(t testing.TB, text, from, to string) string {
	t.Helper()
	if strings.Count(text, from) != 1 {
		t.Fatalf("%q stands %d times in the text", from, strings.Count(text, from))
	}
	return strings.Replace(text, from, to, 1)
}

// small is a policy in which every text occurs once, for editing.
const small = `version: 1
skew: 30s
topics:
  metrics/cpu: {protected: true, signed: false, max_bytes: 4001}
  metrics/ram: {protected: true, signed: false, max_bytes: 4002}
  metrics/network: {protected: true, signed: false, max_bytes: 4003}
  alerts: {protected: true, signed: true, max_bytes: 4004}
  control/command: {protected: true, signed: true, max_bytes: 4005}
  status/scaling: {protected: true, signed: true, max_bytes: 4006}
  status/rate_limiting: {protected: true, signed: true, max_bytes: 4007}
  status/presence: {protected: true, signed: true, max_bytes: 4008}
  statements: {protected: true, signed: true, max_bytes: 4009}
  revocations: {protected: true, signed: true, max_bytes: 4010}
  digests: {protected: true, signed: true, max_bytes: 4011}
  acks: {protected: true, signed: false, max_bytes: 4012}
  backfill: {protected: true, signed: false, max_bytes: 65536}
  public: {protected: false, signed: false, max_bytes: 4014}
roles:
  sensor:
    publish: ["{site}/bank_server/metrics/cpu/{name}", public/sensor]
    subscribe: ["{site}/bank_server/acks/+/{role}/{name}"]
    limits: {messages_per_second: 11, burst: 12, bytes_per_second: 9013, max_message_bytes: 8014, subscriptions: 15}
  monitor:
    publish: ["{site}/bank_server/control/command/{role}/{name}"]
    subscribe: ["{site}/bank_server/metrics/cpu/+", public/#]
    keys: [sensor]
    limits: {messages_per_second: 21, burst: 22, bytes_per_second: 9023, max_message_bytes: 8024, subscriptions: 25}
  controller:
    publish: ["{site}/bank_server/status/scaling/{name}"]
    subscribe: ["{site}/bank_server/control/command/+/+"]
    keys: [monitor]
    limits: {messages_per_second: 31, burst: 32, bytes_per_second: 9033, max_message_bytes: 8034, subscriptions: 35}
  recorder:
    publish: ["{site}/bank_server/acks/{name}/+/+"]
    limits: {messages_per_second: 41, burst: 42, bytes_per_second: 9043, max_message_bytes: 8044, subscriptions: 45}
automatic:
  enable_rate_limiting:
    causes: [syn_packet_count]
    ttl: 31s
    max_ttl: 10m
    renewals: 60
    cool_down: 10s
    all_servers: {min_sensors: 2}
    parameters:
      rate_per_second: {ask: 5, min: 1.5, max: 1000}
      burst: {ask: 10, min: 1, max: 2000}
  scale_up_servers:
    causes: [cpu_usage]
    ttl: 2m
    max_ttl: 30m
    cool_down: 1m
    parameters:
      servers: {ask: 3, min: 2, max: 8}
`

func TestParseRefuses(t *testing.T) {
	mustParse(t, small)
	for _, c := range []struct {
		name, from, to string
		reason         string // part of the error
	}{
		// The shape of the file.
		{"unknown member", "skew: 30s", "skew: 30s\nallow_all: true", "allow_all"},
		{"unknown member of a role", "keys: [sensor]", "keyes: [sensor]", "keyes"},
		{"member in another case", "skew: 30s", "Skew: 30s", "Skew"},
		{"duplicate member", "skew: 30s", "skew: 30s\nskew: 31s", "already defined"},
		{"duplicate role", "  controller:", "  sensor:", "already defined"},
		{"duplicate kind", "  metrics/ram:", "  metrics/cpu:", "already defined"},
		{"second document", "skew: 30s", "skew: 30s\n---\nversion: 1", "more than one document"},
		{"anchor", "keys: [sensor]", "keys: &k [sensor]", "anchors"},
		{"alias", "skew: 30s", "skew: *s", "anchor"},
		{"merge", "  sensor:\n", "  <<: {viewer: {limits: {burst: 1}}}\n  sensor:\n", "merge"},
		{"tag", "version: 1", "version: !!int 1", "tags"},
		{"empty value", "keys: [sensor]", "keys:", "empty"},
		{"null", "keys: [sensor]", "keys: null", "empty"},
		{"deep nesting", "version: 1", "version: [[[[[[[[[[1]]]]]]]]]]", "deeper"},
		{"long list", "keys: [sensor]", "keys: [" + strings.Repeat("sensor, ", 1025) + "]", "entries"},
		{"not UTF-8", "skew: 30s", "skew: 30s # \xff", "UTF-8"},
		{"quoted number", "version: 1", `version: "1"`, "not an integer"},
		{"octal number", "burst: 12", "burst: 012", "not an integer"},
		{"grouped number", "burst: 12", "burst: 1_2", "not an integer"},
		{"hexadecimal number", "burst: 12", "burst: 0x12", "not an integer"},
		{"fraction for an integer", "burst: 12", "burst: 12.9", "not an integer"},
		{"integer that overflows", "burst: 12", "burst: 18446744073709551628", "not an integer"},
		{"exponent", "max: 1000}", "max: 1e3}", "not a number"},
		{"boolean of another kind", "signed: true, max_bytes: 4004", "signed: yes, max_bytes: 4004", "neither true nor false"},
		{"boolean in another case", "signed: true, max_bytes: 4004", "signed: True, max_bytes: 4004", "neither true nor false"},
		{"quoted boolean", "{protected: true, signed: true, max_bytes: 4004}", `{protected: true, signed: "true", max_bytes: 4004}`, "neither true nor false"},

		// The head.
		{"another version", "version: 1", "version: 2", "version 2"},
		{"no version", "version: 1\n", "", "version 0"},
		{"no skew", "skew: 30s\n", "", "skew 0s"},
		{"negative skew", "skew: 30s", "skew: -30s", "skew -30s"},
		{"long skew", "skew: 30s", "skew: 1h", "skew 1h"},
		{"skew without unit", "skew: 30s", "skew: 30", "not a duration"},
		{"skew as a list", "skew: 30s", "skew: [30s]", "not a duration"},

		// The kinds.
		{"unknown kind", "  public: {", "  metrics/disk: {protected: true, signed: true, max_bytes: 1}\n  public: {", "no kind"},
		{"missing kind", "  alerts: {protected: true, signed: true, max_bytes: 4004}\n", "", `"alerts" is missing`},
		{"unsigned alerts", "signed: true, max_bytes: 4004", "signed: false, max_bytes: 4004", "signature"},
		{"unsigned commands", "signed: true, max_bytes: 4005", "signed: false, max_bytes: 4005", "signature"},
		{"unsigned scaling status", "signed: true, max_bytes: 4006", "signed: false, max_bytes: 4006", "signature"},
		{"unsigned rate limiting status", "signed: true, max_bytes: 4007", "signed: false, max_bytes: 4007", "signature"},
		{"unsigned presence", "signed: true, max_bytes: 4008", "signed: false, max_bytes: 4008", "signature"},
		{"unsigned statements", "signed: true, max_bytes: 4009", "signed: false, max_bytes: 4009", "signature"},
		{"unsigned revocations", "signed: true, max_bytes: 4010", "signed: false, max_bytes: 4010", "signature"},
		{"unsigned digests", "signed: true, max_bytes: 4011", "signed: false, max_bytes: 4011", "signature"},
		{"signed by omission", "signed: true, max_bytes: 4005", "max_bytes: 4005", "signature"},
		{"readings without envelope", "protected: true, signed: false, max_bytes: 4001", "protected: false, signed: false, max_bytes: 4001", "protected"},
		{"public in envelopes", "protected: false", "protected: true", "protected"},
		{"public signed", "signed: false, max_bytes: 4014", "signed: true, max_bytes: 4014", "plain text"},
		{"no size", ", max_bytes: 4001", "", "max_bytes 0"},
		{"size beyond the format", "4001", "32769", "max_bytes"},
		{"backfill beyond the format", "max_bytes: 65536", "max_bytes: 65537", "max_bytes"},
		{"negative size", "4001", "-1", "max_bytes"},

		// Patterns: sites.
		{"no roles", small[strings.Index(small, "roles:"):strings.Index(small, "automatic:")], "", "no roles"},
		{"unknown role", "  controller:", "  superuser:", "no such role"},
		{"role in another case", "  controller:", "  Controller:", "no such role"},
		{"literal site", "{site}/bank_server/metrics/cpu/+", "melb/bank_server/metrics/cpu/+", "neither"},
		{"any site", "{site}/bank_server/metrics/cpu/+", "+/bank_server/metrics/cpu/+", "may not stand"},
		{"name as site", "{site}/bank_server/metrics/cpu/+", "{name}/bank_server/metrics/cpu/+", "may not stand"},
		{"everything", "{site}/bank_server/metrics/cpu/+", "#", "may not stand"},
		{"system topics", "{site}/bank_server/metrics/cpu/+", "$SYS/broker", "may not stand"},
		{"shared subscription", "{site}/bank_server/metrics/cpu/+", "$share/g/{site}/bank_server/metrics/cpu/+", "may not stand"},
		{"site further down", "{site}/bank_server/metrics/cpu/+", "{site}/bank_server/metrics/cpu/{site}", "may not stand"},
		{"site below public", "public/#]", `"public/{site}"]`, "may not stand"},

		// Patterns: grammar.
		{"empty pattern", "{site}/bank_server/metrics/cpu/+", "", "may not stand"},
		{"empty level", "{site}/bank_server/metrics/cpu/+", "{site}//metrics/cpu/+", "may not stand"},
		{"leading slash", "{site}/bank_server/metrics/cpu/+", "/{site}/bank_server/metrics/cpu/+", "may not stand"},
		{"upper case", "{site}/bank_server/metrics/cpu/+", "{site}/bank_server/metrics/CPU/+", "may not stand"},
		{"unknown placeholder", "{site}/bank_server/metrics/cpu/+", "{site}/bank_server/metrics/cpu/{id}", "may not stand"},
		{"placeholder in a level", "{site}/bank_server/metrics/cpu/+", "{site}/bank_server/metrics/cpu/x-{name}", "may not stand"},
		{"rest in the middle", "{site}/bank_server/metrics/cpu/+", "public/#/x", "may not stand"},
		{"nine levels", "{site}/bank_server/metrics/cpu/+", "public/1/2/3/4/5/6/7/8", "more than 8"},
		{"too long", "{site}/bank_server/metrics/cpu/+", "public" + strings.Repeat("/"+strings.Repeat("a", 32), 6), "no topic"},
		{"twice", "public/#]", "public/#, public/#]", "twice"},
		{"protected rest", "{site}/bank_server/metrics/cpu/+", "{site}/bank_server/metrics/#", `below "public" alone`},
		{"several kinds", "{site}/bank_server/metrics/cpu/+", "{site}/bank_server/metrics/+/web-1", "no topic"},
		{"another root", "{site}/bank_server/metrics/cpu/+", "{site}/shop/metrics/cpu/+", "no topic"},
		{"the site alone", "{site}/bank_server/metrics/cpu/+", "{site}", "no topic"},
		{"too few levels", "{site}/bank_server/control/command/+/+", "{site}/bank_server/control/command/+", "no topic"},
		{"role that nobody has", "{site}/bank_server/control/command/+/+", "{site}/bank_server/control/command/root/+", "no role"},
		{"peer role that nobody has", "{site}/bank_server/acks/{name}/+/+", "{site}/bank_server/acks/{name}/root/+", "no role"},
		{"name that nobody has", "{site}/bank_server/metrics/cpu/+", "{site}/bank_server/metrics/cpu/web_1", "nobody"},
		{"peer that nobody is", "{site}/bank_server/acks/{name}/+/+", "{site}/bank_server/acks/{name}/+/web_1", "nobody"},

		// Patterns: publishers.
		{"any name", "{site}/bank_server/metrics/cpu/{name}", "{site}/bank_server/metrics/cpu/+", "publisher"},
		{"literal name", "{site}/bank_server/metrics/cpu/{name}", "{site}/bank_server/metrics/cpu/web-1", "publisher"},
		{"another role's kind", "{site}/bank_server/status/scaling/{name}", "{site}/bank_server/alerts/{name}", `role "monitor"`},
		{"another role's level", "{site}/bank_server/metrics/cpu/{name}", "{site}/bank_server/digests/monitor/{name}", `role "monitor"`},
		{"any role's level", "{site}/bank_server/metrics/cpu/{name}", "{site}/bank_server/digests/+/{name}", "belongs to role"},
		{"commands by a sensor", "{site}/bank_server/metrics/cpu/{name}", "{site}/bank_server/control/command/{role}/{name}", "monitor and approver"},
		{"commands by a controller", "{site}/bank_server/status/scaling/{name}", "{site}/bank_server/control/command/{role}/{name}", "monitor and approver"},
		{"acks in another's name", "{site}/bank_server/acks/{name}/+/+", "{site}/bank_server/acks/+/{role}/{name}", "publisher"},

		// Keys.
		{"unknown key", "keys: [sensor]", "keys: [sensors]", "no role"},
		{"key twice", "keys: [sensor]", "keys: [sensor, sensor]", "twice"},
		{"key too many", "keys: [sensor]", "keys: [sensor, recorder]", "needs"},
		{"own key for nothing", "keys: [sensor]", "keys: [sensor, monitor]", "needs"},
		{"key missing", "    keys: [sensor]\n", "", "needs"},
		{"reads more than the keys", "{site}/bank_server/metrics/cpu/+", "{site}/bank_server/status/scaling/+", "needs"},
		{"keys of one who does not judge", "subscriptions: 15}", "subscriptions: 15}\n    keys: [recorder]", "hold other roles' keys"},

		// Limits.
		{"no limits", "    limits: {messages_per_second: 11, burst: 12, bytes_per_second: 9013, max_message_bytes: 8014, subscriptions: 15}\n", "", "messages_per_second 0"},
		{"no burst", "burst: 12, ", "", "burst 0"},
		{"negative rate", "messages_per_second: 11", "messages_per_second: -1", "messages_per_second -1"},
		{"huge rate", "messages_per_second: 11", "messages_per_second: 4294967296", "messages_per_second"},
		{"fractional rate", "messages_per_second: 11", "messages_per_second: 0.5", "not an integer"},
		{"no subscriptions", "subscriptions: 25", "subscriptions: 1", "below the 2 filters"},
		{"bytes below one message", "bytes_per_second: 9013", "bytes_per_second: 8013", "would never pass"},
		{"message below its kind", "max_message_bytes: 8034", "max_message_bytes: 4005", "4006"},
		{"message beyond the format", "bytes_per_second: 9013, max_message_bytes: 8014", "bytes_per_second: 99999, max_message_bytes: 65537", "any message"},

		// Automatic commands.
		{"unknown command", "  scale_up_servers:", "  reboot:", "not a command"},
		{"automation that holds itself", "  scale_up_servers:", "  hold_automation:", "not a command"},
		{"memory starts servers", "[cpu_usage]", "[ram_usage]", "may not cause"},
		{"unknown cause", "[cpu_usage]", "[load]", "may not cause"},
		{"cause twice", "[cpu_usage]", "[cpu_usage, cpu_usage]", "twice"},
		{"no causes", "    causes: [cpu_usage]\n", "", "no causes"},
		{"no ttl", "    ttl: 2m\n", "", "times to live"},
		{"ttl beyond its maximum", "ttl: 2m", "ttl: 31m", "times to live"},
		{"ttl beyond an hour", "max_ttl: 30m", "max_ttl: 61m", "times to live"},
		{"ttl below a second", "ttl: 31s", "ttl: 500ms", "whole seconds"},
		{"no cool-down", "    cool_down: 1m\n", "", "cool_down"},
		{"negative renewals", "renewals: 60", "renewals: -1", "renewals"},
		{"one sensor for all servers", "min_sensors: 2", "min_sensors: 1", "min_sensors"},
		{"no sensors for all servers", "{min_sensors: 2}", "{}", "min_sensors"},
		{"no parameter", "      servers: {ask: 3, min: 2, max: 8}", "      {}", "servers"},
		{"parameter of another command", "      servers: {ask: 3", "      burst: {ask: 1, min: 1, max: 1}\n      servers: {ask: 3", "no parameter"},
		{"asks for more than granted", "ask: 3,", "ask: 9,", "servers"},
		{"asks for less than granted", "ask: 3,", "ask: 1,", "servers"},
		{"minimum of nothing", "ask: 3, min: 2", "ask: 3, min: 0", "servers"},
		{"not a number", "min: 1.5", "min: .nan", "not a number"},
		{"infinite", "max: 1000}", "max: .inf}", "not a number"},
		{"too many servers", "max: 8", "max: 1001", "servers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse([]byte(edit(t, small, c.from, c.to)))
			if err == nil {
				t.Fatal("accepted")
			}
			if p != nil {
				t.Error("a policy beside the error")
			}
			if !strings.Contains(err.Error(), c.reason) {
				t.Errorf("refused for another reason: %v", err)
			}
		})
	}
}

func TestParseRefusesNonPolicies(t *testing.T) {
	for _, text := range []string{
		"", "\n", "# only a comment\n", "---\n", "{}", "[]", "version", "version: 1", "\x00", "\ufeff", "{", "\t",
		small + "# " + strings.Repeat("x", MaxBytes),
	} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%.20q is accepted", text)
		}
	}
	utf16 := "\xff\xfe" + strings.Join(strings.Split(small, ""), "\x00") + "\x00"
	if _, err := Parse([]byte(utf16)); err == nil {
		t.Error("a policy in UTF-16 is accepted")
	}
	padding := strings.Repeat("#", MaxBytes-len(small)-1)
	mustParse(t, small+padding+"\n")
}

// What the file may say beyond the default: it is a language, not a constant.
func TestParseAccepts(t *testing.T) {
	for _, c := range []struct{ name, from, to string }{
		{"signed readings", "signed: false, max_bytes: 4001", "signed: true, max_bytes: 4001"},
		{"one reader of one server", "{site}/bank_server/control/command/+/+", "{site}/bank_server/control/command/monitor/mon-1"},
		{"an own corner of public", "public/sensor", `"public/{role}/{name}/#"`},
		{"public alone", "public/sensor", "public"},
		{"no automatic command", small[strings.Index(small, "automatic:"):], ""},
		{"automatic end", small[strings.Index(small, "  scale_up_servers:"):], "  disable_rate_limiting: {causes: [syn_packet_count], ttl: 10s, max_ttl: 10s, cool_down: 10s}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkInvariants(t, mustParse(t, edit(t, small, c.from, c.to)))
		})
	}
}

// Keys follow from reading alone: a role that may read what nobody publishes
// needs no key, and one more publisher needs one more key.
func TestKeysFollowReading(t *testing.T) {
	text := edit(t, small, "{site}/bank_server/metrics/cpu/+", "{site}/bank_server/metrics/ram/+")
	mustParse(t, edit(t, text, "keys: [sensor]", "keys: []"))

	text = edit(t, small, `["{site}/bank_server/control/command/+/+"]`, `["{site}/bank_server/control/command/approver/+"]`)
	mustParse(t, edit(t, text, "keys: [monitor]", "keys: []"))
}

// FuzzParse: no input makes Parse panic, and whatever it accepts keeps every
// promise of the package. Run it with -fuzzminimizetime 10x: the seeds are long,
// and Go would spend its time on making them short.
func FuzzParse(f *testing.F) {
	f.Add(defaultFile)
	f.Add(small)
	f.Add(strings.ReplaceAll(small, "{name}", "+"))
	f.Add(strings.ReplaceAll(small, "{site}", "{name}"))
	f.Add(strings.ReplaceAll(small, "signed: true", "signed: false"))
	f.Add("a: &a [*a]")
	f.Add("version: 1\nskew: 1s\n? {a: b}\n: c\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse([]byte(text))
		if (p == nil) == (err == nil) {
			t.Fatalf("Parse returned %v, %v", p, err)
		}
		if err == nil {
			checkInvariants(t, p)
		}
	})
}

// FuzzPatterns gives one role any two patterns: whatever compiles keeps every
// promise of the package, and is matched as MQTT matches it.
func FuzzPatterns(f *testing.F) {
	base := mustParse(f, defaultFile)
	for i, role := range everyone {
		for _, p := range base.roles[role].publish {
			f.Add(uint8(i), p.source, "public/#")
		}
		for _, p := range base.roles[role].subscribe {
			f.Add(uint8(i), "public", p.source)
		}
	}
	for _, p := range []string{
		"{site}/bank_server/digests/+/{name}", "{site}/bank_server/control/command/{role}/+", "{name}/bank_server/metrics/cpu/{name}",
		"{site}/bank_server/#", "{site}/+/+/+/+", "+/#", "#", "public/{name}/+/#", "{site}/bank_server/acks/{name}/{role}/{name}",
	} {
		for i := range everyone {
			f.Add(uint8(i), p, p)
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, publish, subscribe string) {
		name := everyone[int(i)%len(everyone)]
		limits := limitsFile{MessagesPerSecond: 1, Burst: 1, BytesPerSecond: 65536, MaxMessageBytes: 65536, Subscriptions: 1}
		r, err := compileRole(name, roleFile{Publish: []string{publish}, Subscribe: []string{subscribe}, Limits: limits}, base.classes)
		if err != nil {
			return
		}
		p := &Policy{classes: base.classes, roles: map[pki.Role]*role{name: r}}
		checkInvariants(t, p)
		rights := p.Rights(identity("melb", name, "web-1"))
		resolve := strings.NewReplacer("{site}", "melb", "{role}", string(name), "{name}", "web-1")
		for _, topic := range append(slices.Clone(universes["melb"]), "public", "public/x", "public/web-1/x", "public/x/"+strings.Repeat("a", 33)) {
			levels := strings.Split(topic, "/")
			valid := wire.ValidTopic(topic)
			if got := rights.MayPublish(topic); got != (valid && matches(strings.Split(resolve.Replace(publish), "/"), levels)) {
				t.Fatalf("%q: MayPublish(%q) = %t", publish, topic, got)
			}
			if got := rights.MayReceive(topic); got != (valid && matches(strings.Split(resolve.Replace(subscribe), "/"), levels)) {
				t.Fatalf("%q: MayReceive(%q) = %t", subscribe, topic, got)
			}
		}
	})
}
