package policies

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/wire"
	"levee/pki"
)

func readTopics(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../docs/topics.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDocumentedTables renders the default policy as docs/topics.md shows it.
// When it fails, either the page or the policy is wrong: decide which, and only
// then copy.
func TestDocumentedTables(t *testing.T) {
	doc := readTopics(t)
	p := mustParse(t, defaultFile)
	for name, rows := range map[string][]string{
		"topics":    topicRows(p),
		"roles":     roleRows(p),
		"automatic": automaticRows(p),
	} {
		text := strings.Join(rows, "\n") + "\n"
		if !strings.Contains(doc, "|\n"+text+"\n") {
			t.Errorf("the table of %s in docs/topics.md is not that of the default policy:\n%s", name, text)
		}
	}
	if want := fmt.Sprintf("within %d seconds", int(p.Skew()/time.Second)); !strings.Contains(doc, want) {
		t.Errorf("docs/topics.md does not say %q", want)
	}
}

func topicRows(p *Policy) []string {
	var rows []string
	for k := wire.KindCPU; k <= wire.KindPublic; k++ {
		topic := wire.Topic{Kind: k, Site: "{site}", Role: "{role}", Name: "{name}", PeerRole: "{peer-role}", PeerName: "{peer}"}.String()
		if k == wire.KindPublic {
			topic = "public/#"
		}
		var publishers, readers []pki.Role
		for name, r := range p.roles {
			if slices.ContainsFunc(r.publish, func(p pattern) bool { return p.kind == k }) {
				publishers = append(publishers, name)
			}
			if slices.ContainsFunc(r.subscribe, func(p pattern) bool { return p.kind == k }) {
				readers = append(readers, name)
			}
		}
		c := p.Class(k)
		signed := "no"
		if c.Signed {
			signed = "yes"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s | %d |", topic, list(publishers), list(readers), signed, c.MaxBytes))
	}
	return rows
}

func list(roles []pki.Role) string {
	switch slices.Sort(roles); {
	case len(roles) == 0:
		return "none"
	case slices.Equal(roles, slices.Sorted(slices.Values(everyone))):
		return "any certificate"
	case slices.Equal(roles, slices.Sorted(slices.Values(machines))):
		return "every machine"
	}
	var names []string
	for _, r := range roles {
		names = append(names, string(r))
	}
	return strings.Join(names, ", ")
}

func roleRows(p *Policy) []string {
	var rows []string
	for _, name := range everyone {
		l := p.Rights(identity("melb", name, "web-1")).Limits()
		rows = append(rows, fmt.Sprintf("| %s | %d | %d | %d | %d | %d | %s |", name, l.MessagesPerSecond, l.Burst,
			l.BytesPerSecond, l.MaxMessageBytes, l.Subscriptions, list(p.KeyRoles(name))))
	}
	return rows
}

func automaticRows(p *Policy) []string {
	var rows []string
	for _, command := range []string{wire.EnableRateLimiting, wire.ScaleUpServers} {
		a, _ := p.Automatic(command)
		all := "never"
		if a.AllServers {
			all = fmt.Sprintf("%d sensors", a.MinSensors)
		}
		var parameters []string
		if a.Max.RatePerSecond > 0 {
			parameters = append(parameters, fmt.Sprintf("`rate_per_second` %g (%g to %g)", a.Ask.RatePerSecond, a.Min.RatePerSecond, a.Max.RatePerSecond))
		}
		if a.Max.Burst > 0 {
			parameters = append(parameters, fmt.Sprintf("`burst` %d (%d to %d)", a.Ask.Burst, a.Min.Burst, a.Max.Burst))
		}
		if a.Max.Servers > 0 {
			parameters = append(parameters, fmt.Sprintf("`servers` %d (%d to %d)", a.Ask.Servers, a.Min.Servers, a.Max.Servers))
		}
		rows = append(rows, fmt.Sprintf("| `%s` | `%s` | %.0f s | %.0f s | %d | %.0f s | %s | %s |", command, strings.Join(a.Causes, "` `"),
			a.TTL.Seconds(), a.MaxTTL.Seconds(), a.Renewals, a.CoolDown.Seconds(), all, strings.Join(parameters, ", ")))
	}
	if len(rows) != len(p.automatic) {
		rows = append(rows, "an automatic command that this test does not know")
	}
	return rows
}

// TestDocumentedPayloads holds the members of every payload struct, in their
// order, against the page's table of that name.
func TestDocumentedPayloads(t *testing.T) {
	doc := readTopics(t)
	for heading, payload := range map[string]any{
		"CPU":             wire.CPU{},
		"RAM":             wire.RAM{},
		"Network":         wire.Network{},
		"Alert":           wire.Alert{},
		"Command":         wire.Command{},
		"Parameters":      wire.Parameters{},
		"Status":          wire.Status{},
		"Digest":          wire.Digest{},
		"Revocations":     wire.Revocations{},
		"Revoked":         wire.Revoked{},
		"Presence":        wire.Presence{},
		"Change":          wire.PresenceChange{},
		"Roster":          wire.Roster{},
		"Acknowledgement": wire.Ack{},
		"Backfill":        wire.Backfill{},
	} {
		_, section, ok := strings.Cut(doc, "\n### "+heading+"\n")
		if !ok {
			t.Errorf("docs/topics.md has no section %q", heading)
			continue
		}
		section, _, _ = strings.Cut(section, "\n#")
		var got []string
		for line := range strings.Lines(section) {
			if cells := strings.Split(line, "|"); len(cells) > 2 && strings.HasPrefix(cells[1], " `") {
				got = append(got, strings.Trim(cells[1], " `")+" "+strings.TrimSpace(cells[2]))
			}
		}
		var want []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(payload)) {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			presence := "always"
			if options != "" {
				presence = "if set"
			}
			want = append(want, name+" "+presence)
		}
		if !slices.Equal(got, want) {
			t.Errorf("section %q of docs/topics.md has\n%q, the struct has\n%q", heading, got, want)
		}
	}
	for _, text := range []string{
		wire.AlertCPU, wire.AlertRAM, wire.AlertSYN, wire.AlertConnections,
		wire.EnableRateLimiting, wire.DisableRateLimiting, wire.ScaleUpServers, wire.ScaleDownServers, wire.HoldAutomation,
		wire.StateRaised, wire.StateEnded, wire.StateActive, wire.StateLapsed, wire.StateStopped, wire.StateRefused, wire.StateFailed,
		wire.StatusSuccess, wire.StatusFailure, wire.SYNNFTables, wire.SYNPacket, wire.SYNEstimate,
		wire.StatePresent, wire.StateGone, wire.EndLeft, wire.EndLost, wire.EndSilent, wire.EndReplaced, wire.EndSlow, wire.EndMisconduct,
		wire.EndExpired, wire.EndRevoked, wire.EndRemoved, wire.EndPolicy, wire.EndFault,
	} {
		if !strings.Contains(doc, "`"+text+"`") {
			t.Errorf("docs/topics.md does not explain %q", text)
		}
	}
	for what, n := range map[string]int{"levels": wire.MaxLevels, "bytes": wire.MaxTopic, "members": wire.MaxMembers, "deep": wire.MaxDepth,
		"whole envelopes of 1": wire.MaxOriginals, "changes at most": wire.MaxPresenceChanges, "machines at most": wire.MaxRosterPage} {
		if !strings.Contains(doc, fmt.Sprintf("%d %s", n, what)) {
			t.Errorf("docs/topics.md does not say %d %s", n, what)
		}
	}
}
