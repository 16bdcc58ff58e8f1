package policies

import (
	"slices"
	"strings"
	"testing"

	"levee/internal/wire"
	"levee/pki"
)

// matches is MQTT's own matching (3.1.1, section 4.7), written for tests from
// the standard and not from the code under test.
func matches(filter, topic []string) bool {
	if len(filter) == 0 {
		return len(topic) == 0
	}
	if filter[0] == "#" {
		return true
	}
	if len(topic) == 0 {
		return false
	}
	return (filter[0] == "+" || filter[0] == topic[0]) &&
		(matches(filter[1:], topic[1:]) || len(topic) == 1 && len(filter) == 2 && filter[1] == "#")
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		filter, grant string
		want          bool
	}{
		// The table of cases that matchers of topics get wrong.
		{"bank/#", "bank/+", false},
		{"bank/site-a/#", "bank/site-a/+", false},
		{"$share/site-a/bank/#", "+/site-a/+/+", false},
		{"bank/site-a", "bank/site-a/#", true},

		{"bank/a", "bank/a", true},
		{"bank/a", "bank/b", false},
		{"bank/a", "bank/+", true},
		{"bank/+", "bank/a", false},
		{"bank/+", "bank/+", true},
		{"bank/+", "bank/#", true},
		{"bank/#", "bank/#", true},
		{"bank/+/#", "bank/#", true},
		{"bank/#", "bank/+/#", false}, // bank itself
		{"bank/+/+", "bank/#", true},
		{"bank/+/+", "bank/+", false},
		{"bank/+", "bank/+/+", false},
		{"bank", "bank/+", false},
		{"bank", "bank", true},
		{"#", "bank/#", false},
		{"+", "bank", false},
		{"+/a", "bank/a", false},
		{"bank/a/#", "bank/+", false},
		{"bank/a/#", "bank/a", false},
		{"bank/a/b", "bank/a", false},
		{"bank/a", "bank/a/b", false},
	} {
		if got := covers(strings.Split(c.grant, "/"), strings.Split(c.filter, "/")); got != c.want {
			t.Errorf("%q covers %q: %t, want %t", c.grant, c.filter, got, c.want)
		}
	}
}

// FuzzCovers compares subsumption with inclusion of languages, counted out
// over all topics of an alphabet that has one word more than the filters.
func FuzzCovers(f *testing.F) {
	for _, seed := range [][2]string{
		{"a/+", "a/#"}, {"a/#", "a"}, {"a/#", "a/+/b"}, {"a/+/#", "a/#"}, {"a/+/b", "a/b/b"}, {"a/b/+/#", "a/b/#"}, {"b", "#"},
	} {
		f.Add(seed[0], seed[1])
	}
	topics := [][]string{}
	for from, n := 0, 1; n <= 6; n++ { // two levels more than any filter has
		if n == 1 {
			topics = append(topics, []string{"a"}, []string{"b"}, []string{"c"})
			continue
		}
		level := topics[from:]
		from = len(topics)
		for _, t := range level {
			for _, word := range []string{"a", "b", "c"} {
				topics = append(topics, append(slices.Clone(t), word))
			}
		}
	}
	f.Fuzz(func(t *testing.T, grantText, filterText string) {
		grant, ok := splitFilter(nil, grantText)
		filter, ok2 := splitFilter(nil, filterText)
		if !ok || !ok2 || len(grant) > 4 || len(filter) > 4 || grant[0] == "+" || grant[0] == "#" {
			t.Skip()
		}
		for _, l := range slices.Concat(grant, filter) {
			if !strings.Contains("a b + #", l) {
				t.Skip()
			}
		}
		included := true
		for _, topic := range topics {
			if matches(filter, topic) && !matches(grant, topic) {
				included = false
				break
			}
		}
		if got := covers(grant, filter); got != included {
			t.Fatalf("%q covers %q: %t, by counting %t", grantText, filterText, got, included)
		}
	})
}

func TestMaySubscribe(t *testing.T) {
	p := mustParse(t, defaultFile)
	for _, c := range []struct {
		role   pki.Role
		filter string
		want   bool
	}{
		{pki.RoleMonitor, "melb/bank_server/metrics/cpu/+", true},
		{pki.RoleMonitor, "melb/bank_server/metrics/cpu/web-1", true},
		{pki.RoleMonitor, "melb/bank_server/metrics/cpu/#", false}, // the parent is no topic
		{pki.RoleMonitor, "melb/bank_server/metrics/+/web-1", false},
		{pki.RoleMonitor, "melb/bank_server/metrics/#", false},
		{pki.RoleMonitor, "melb/bank_server/#", false},
		{pki.RoleMonitor, "melb/#", false},
		{pki.RoleMonitor, "#", false},
		{pki.RoleMonitor, "+", false},
		{pki.RoleMonitor, "+/bank_server/metrics/cpu/+", false},
		{pki.RoleMonitor, "syd/bank_server/metrics/cpu/+", false},
		{pki.RoleMonitor, "melb/+/metrics/cpu/+", false},
		{pki.RoleMonitor, "melb/bank_server/control/command/approver/+", true},
		{pki.RoleMonitor, "melb/bank_server/control/command/+/web-1", true},
		{pki.RoleMonitor, "melb/bank_server/control/command/#", false},
		{pki.RoleSensor, "melb/bank_server/acks/+/sensor/web-1", true},
		{pki.RoleSensor, "melb/bank_server/acks/rec-1/sensor/web-1", true},
		{pki.RoleSensor, "melb/bank_server/acks/+/sensor/web-10", false},
		{pki.RoleSensor, "melb/bank_server/acks/+/sensor/+", false},
		{pki.RoleSensor, "melb/bank_server/acks/+/monitor/web-1", false},
		{pki.RoleSensor, "melb/bank_server/acks/#", false},
		{pki.RoleSensor, "melb/bank_server/metrics/cpu/web-1", false},
		{pki.RoleRecorder, "melb/bank_server/digests/sensor/+", true},
		{pki.RoleRecorder, "melb/bank_server/backfill/+/+", true},
		{pki.RoleOperator, "melb/bank_server/backfill/+/+", false},
		{pki.RoleViewer, "melb/bank_server/alerts/+", false},
		{pki.RoleAuditor, "melb/bank_server/revocations/+", false},
		{pki.RoleGuest, "melb/bank_server/revocations/+", true},
		{pki.RoleGuest, "$SYS/#", false},
		{pki.RoleGuest, "$SYS/broker/version", false},
		{pki.RoleGuest, "$share/g/public/#", false},
		{pki.RoleGuest, "$queue/public/#", false},
		{pki.RoleGuest, "/public/#", false},
		{pki.RoleGuest, "public/#/", false},
		{pki.RoleGuest, "public/#/x", false},
		{pki.RoleGuest, "public/x#", false},
		{pki.RoleGuest, "public/+x", false},
		{pki.RoleGuest, "public/", false},
		{pki.RoleGuest, "", false},
		{pki.RoleGuest, "public/\x00", false},
		{pki.RoleGuest, "public/1/2/3/4/5/6/#", true},
		{pki.RoleGuest, "public/1/2/3/4/5/6/7/#", false},
		{pki.RoleGuest, "public" + strings.Repeat("/+", 32000), false},
		{pki.RoleGuest, "public/" + strings.Repeat("a", 33), false},
		{pki.RoleGuest, "public" + strings.Repeat("/"+strings.Repeat("a", 31), 6) + "/+", true},   // 200 bytes
		{pki.RoleGuest, "public" + strings.Repeat("/"+strings.Repeat("a", 31), 6) + "/aa", false}, // 201 bytes
	} {
		r := p.Rights(identity("melb", c.role, "web-1"))
		if got := r.MaySubscribe(c.filter); got != c.want {
			t.Errorf("%s: MaySubscribe(%.80q) = %t, want %t", c.role, c.filter, got, c.want)
		}
	}
}

// TestFiltersGrantNoMore replaces every subset of levels of every topic by
// wildcards: whatever is then granted must match nothing that is not.
func TestFiltersGrantNoMore(t *testing.T) {
	p := mustParse(t, defaultFile)
	var topics [][]string
	filters := map[string]bool{"#": true}
	for _, topic := range slices.Concat(universes["melb"], universes["syd"], []string{"public", "public/x", "public/x/y"}) {
		if !wire.ValidTopic(topic) {
			continue
		}
		levels := strings.Split(topic, "/")
		topics = append(topics, levels)
		for mask := range 1 << len(levels) {
			filter := slices.Clone(levels)
			for i := range levels {
				if mask>>i&1 == 1 {
					filter[i] = "+"
				}
			}
			filters[strings.Join(filter, "/")] = true
			filters[strings.Join(append(filter, "#"), "/")] = true
		}
	}
	granted := 0
	for _, role := range everyone {
		r := p.Rights(identity("melb", role, "web-1"))
		for filter := range filters {
			if !r.MaySubscribe(filter) {
				continue
			}
			granted++
			levels := strings.Split(filter, "/")
			for _, topic := range topics {
				if matches(levels, topic) && !r.MayReceive(strings.Join(topic, "/")) {
					t.Fatalf("%s may subscribe to %q and with it to %q", role, filter, topic)
				}
			}
		}
	}
	if granted < 100 {
		t.Errorf("only %d filters were granted: the test tests nothing", granted)
	}
}

func FuzzMaySubscribe(f *testing.F) {
	p := mustParse(f, defaultFile)
	for i, role := range everyone {
		for _, filter := range p.Rights(identity("melb", role, "web-1")).Subscriptions() {
			f.Add(uint8(i), filter)
		}
	}
	for _, filter := range []string{"#", "+/#", "melb/#", "melb/bank_server/metrics/#", "$share/g/public/#", "public", "a//b", "public/#/#"} {
		f.Add(uint8(2), filter)
	}
	topics := slices.Concat(universes["melb"], universes["syd"], []string{"public", "public/x", "public/x/y", "$SYS/x"})
	f.Fuzz(func(t *testing.T, role uint8, filter string) {
		r := p.Rights(identity("melb", everyone[int(role)%len(everyone)], "web-1"))
		if !r.MaySubscribe(filter) {
			return
		}
		if len(filter) > wire.MaxTopic || strings.HasPrefix(filter, "$") || strings.Count(filter, "/") >= wire.MaxLevels {
			t.Fatalf("%q is granted", filter)
		}
		levels := strings.Split(filter, "/")
		for _, topic := range topics {
			if wire.ValidTopic(topic) && matches(levels, strings.Split(topic, "/")) && !r.MayReceive(topic) {
				t.Fatalf("%q is granted and matches %q, which is not", filter, topic)
			}
		}
	})
}

func TestSubscriptions(t *testing.T) {
	p := mustParse(t, defaultFile)
	got := p.Rights(identity("melb", pki.RoleController, "lb-1")).Subscriptions()
	want := []string{
		"melb/bank_server/control/command/+/+",
		"melb/bank_server/revocations/+",
		"melb/bank_server/acks/+/controller/lb-1",
		"public/#",
	}
	if !slices.Equal(got, want) {
		t.Errorf("controller: %q, want %q", got, want)
	}
}

func TestPublications(t *testing.T) {
	p := mustParse(t, defaultFile)
	got := p.Rights(identity("melb", pki.RoleController, "lb-1")).Publications()
	want := []string{
		"melb/bank_server/status/scaling/lb-1",
		"melb/bank_server/status/rate_limiting/lb-1",
		"melb/bank_server/digests/controller/lb-1",
		"melb/bank_server/backfill/controller/lb-1",
		"public/#",
	}
	if !slices.Equal(got, want) {
		t.Errorf("controller: %q, want %q", got, want)
	}
	if got := p.Rights(identity("melb", "ghost", "x")).Publications(); got != nil {
		t.Errorf("no role: %q", got)
	}
}

// Filters that overlap would have an MQTT 3.1.1 broker deliver twice.
func TestSubscriptionsAreTheWidest(t *testing.T) {
	text := edit(t, defaultFile, `      - "{site}/bank_server/revocations/+"
      - "public/#"
    limits: {messages_per_second: 5, burst: 20, bytes_per_second: 16384, max_message_bytes: 4096, subscriptions: 8}

  operator:`, `      - "public/+/x"
      - "{site}/bank_server/digests/sensor/{name}"
      - "{site}/bank_server/digests/sensor/web-1"
      - "{site}/bank_server/revocations/iss-1"
      - "{site}/bank_server/revocations/+"
      - "public/#"
    limits: {messages_per_second: 5, burst: 20, bytes_per_second: 16384, max_message_bytes: 4096, subscriptions: 8}

  operator:`)
	p := mustParse(t, text)
	got := p.Rights(identity("melb", pki.RoleGuest, "web-1")).Subscriptions()
	want := []string{"melb/bank_server/digests/sensor/web-1", "melb/bank_server/revocations/+", "public/#"}
	if !slices.Equal(got, want) {
		t.Errorf("guest web-1: %q, want %q", got, want)
	}
	got = p.Rights(identity("melb", pki.RoleGuest, "web-2")).Subscriptions()
	want = slices.Insert(want, 0, "melb/bank_server/digests/sensor/web-2")
	if !slices.Equal(got, want) {
		t.Errorf("guest web-2: %q, want %q", got, want)
	}
}

// TestLevelGrammar holds the fast reading of levels against package wire's.
func TestLevelGrammar(t *testing.T) {
	for c := range 256 {
		for _, level := range []string{string([]byte{byte(c)}), string([]byte{'a', byte(c), 'z'})} {
			if c == '/' {
				continue
			}
			if got, want := levelLength(level) == len(level), wire.ValidTopic(level); got != want {
				t.Errorf("%q: %t, wire says %t", level, got, want)
			}
		}
	}
	for n := range 40 {
		level := strings.Repeat("a", n)
		if got, want := levelLength(level) == n && n > 0, wire.ValidTopic(level); got != want {
			t.Errorf("%d bytes: %t, wire says %t", n, got, want)
		}
		if got, want := levelLength(level+"/x") == n && n > 0, wire.ValidTopic(level+"/x"); got != want {
			t.Errorf("%d bytes and another level: %t, wire says %t", n, got, want)
		}
	}
}

// decisions are the dearest: the longest walk, and a refusal at its end.
var decisions = []struct {
	name  string
	role  pki.Role
	topic string
	ask   func(*Rights, string) bool
	want  bool
}{
	{"publish/own", pki.RoleSensor, "melb/bank_server/metrics/network/web-1", (*Rights).MayPublish, true},
	{"publish/other", pki.RoleSensor, "melb/bank_server/metrics/network/web-10", (*Rights).MayPublish, false},
	{"publish/ack", pki.RoleRecorder, "melb/bank_server/acks/web-1/sensor/a-name-of-24-letters-abc", (*Rights).MayPublish, true},
	{"receive/reading", pki.RoleRecorder, "melb/bank_server/metrics/network/a-name-of-24-letters-abc", (*Rights).MayReceive, true},
	{"receive/command", pki.RoleMonitor, "melb/bank_server/control/command/approver/a-name-of-24-letters-abc", (*Rights).MayReceive, true},
	{"receive/backfill", pki.RoleRecorder, "melb/bank_server/backfill/controller/a-name-of-24-letters-abc", (*Rights).MayReceive, true},
	{"receive/foreign", pki.RoleRecorder, "syd/bank_server/backfill/controller/a-name-of-24-letters-abc", (*Rights).MayReceive, false},
	{"receive/public", pki.RoleRecorder, "public/some/thing/that/everybody/may-read", (*Rights).MayReceive, true},
}

func TestDecisionsDoNotAllocate(t *testing.T) {
	p := mustParse(t, defaultFile)
	for _, d := range decisions {
		r := p.Rights(identity("melb", d.role, "web-1"))
		got := false
		if n := testing.AllocsPerRun(100, func() { got = d.ask(r, d.topic) }); n != 0 {
			t.Errorf("%s: %g allocations", d.name, n)
		}
		if got != d.want {
			t.Errorf("%s: %t, want %t", d.name, got, d.want)
		}
	}
	r := p.Rights(identity("melb", pki.RoleRecorder, "rec-1"))
	if n := testing.AllocsPerRun(100, func() { r.MaySubscribe("melb/bank_server/backfill/+/+") }); n != 0 {
		t.Errorf("MaySubscribe: %g allocations", n)
	}
}

func BenchmarkDecision(b *testing.B) {
	p := mustParse(b, defaultFile)
	for _, d := range decisions {
		b.Run(d.name, func(b *testing.B) {
			r := p.Rights(identity("melb", d.role, "web-1"))
			b.ReportAllocs()
			for b.Loop() {
				if d.ask(r, d.topic) != d.want {
					b.Fatal("wrong decision")
				}
			}
		})
	}
}

func BenchmarkMaySubscribe(b *testing.B) {
	r := mustParse(b, defaultFile).Rights(identity("melb", pki.RoleRecorder, "rec-1"))
	b.ReportAllocs()
	for b.Loop() {
		r.MaySubscribe("melb/bank_server/backfill/+/+")
	}
}
