package watch

import (
	"fmt"
	"strings"
	"time"

	"levee/internal/confirm"
	"levee/internal/feed"
	"levee/internal/wire"
)

// Bounds of what is shown of text that others wrote, in bytes.
const (
	maxText = 400
	maxWord = 64
)

// describe says what a line carries, in one line.
func describe(l feed.Line) string {
	switch l.Kind {
	case feed.KindConfirmation:
		return describeConfirmation(l)
	case feed.KindContradiction:
		return fmt.Sprintf("%-16s %s  two different messages numbered %d since %s", l.Kind, l.Sender, l.First, l.Boot)
	case feed.KindRefusal:
		return fmt.Sprintf("%s: %s", plain(l.Topic, maxText), l.Reason)
	case wire.KindPublic.String():
		return fmt.Sprintf("%s: %s", l.Topic, plain(l.Text, maxText))
	}
	if text, ok := describePayload(l); ok {
		return text
	}
	return fmt.Sprintf("%-16s %s  %s", l.Kind, l.Sender, plain(string(l.Payload), maxText))
}

func describeConfirmation(l feed.Line) string {
	if l.Verification == confirm.Malformed.String() {
		return fmt.Sprintf("%-16s %s  contradicts itself", "digest", l.Sender)
	}
	text := fmt.Sprintf("%-16s %s  messages %d to %d since %s", "digest", l.Sender, l.First, l.Last, l.Boot)
	if l.Missing > 0 {
		text += fmt.Sprintf(", %d of them not seen here", l.Missing)
	}
	if l.Dropped > 0 {
		text += fmt.Sprintf(", %d declared dropped", l.Dropped)
	}
	if l.Unvouched > 0 {
		text += fmt.Sprintf(", %d seen here that it does not vouch for", l.Unvouched)
	}
	return text
}

// describePayload renders the payloads that people look at most.
func describePayload(l feed.Line) (string, bool) {
	_, name, _ := strings.Cut(l.Sender[strings.IndexByte(l.Sender, '/')+1:], "/")
	switch l.Kind {
	case wire.KindCPU.String():
		var m wire.CPU
		if wire.Decode(l.Payload, &m) == nil {
			return fmt.Sprintf("%-16s %s  cpu_usage %.1f %%", "cpu", name, m.CPUUsage), true
		}
	case wire.KindRAM.String():
		var m wire.RAM
		if wire.Decode(l.Payload, &m) == nil {
			return fmt.Sprintf("%-16s %s  ram_usage %.1f %%", "ram", name, m.RAMUsage), true
		}
	case wire.KindNetwork.String():
		var m wire.Network
		if wire.Decode(l.Payload, &m) == nil {
			return fmt.Sprintf("%-16s %s  active_tcp_connections %d  syn_packet_count %d in %s s (%s)", "network", name,
				m.ActiveTCPConnections, m.SYNPacketCount, number(m.Interval), word(m.SYNMethod)), true
		}
	case wire.KindAlert.String():
		var m wire.Alert
		if wire.Decode(l.Payload, &m) == nil {
			return fmt.Sprintf("%-16s %s  %s: %s on %s (%s %s, threshold %s)", "ALERT "+word(m.State), name, short(m.Incident), word(m.Alert), word(m.Server),
				word(m.Metric), number(m.Value), number(m.Threshold)), true
		}
	case wire.KindCommand.String():
		var m wire.Command
		if wire.DecodeExact(l.Payload, &m) == nil {
			text := fmt.Sprintf("%-16s %s  %s: %s on %s of %s until %s", "COMMAND", name, short(m.ID), word(m.Command), word(m.Server), word(m.Controller),
				time.UnixMilli(m.Issued).Add(time.Duration(m.TTL)*time.Second).Format(time.TimeOnly))
			return text + describeWanted(m), true
		}
	case wire.KindScaling.String(), wire.KindRateLimiting.String():
		var m wire.Status
		if wire.Decode(l.Payload, &m) == nil {
			text := fmt.Sprintf("%-16s %s  %s: %s on %s: %s", "STATUS "+word(m.Status), name, short(m.ID), word(m.Command), word(m.Server), word(m.State))
			if m.State == wire.StateActive {
				text += " until " + time.UnixMilli(m.Until).Format(time.TimeOnly)
			}
			if m.Reason != "" {
				text += " (" + plain(m.Reason, maxText) + ")"
			}
			return text, true
		}
	case wire.KindPresence.String():
		if m, err := wire.ParsePresence(l.Payload); err == nil {
			return fmt.Sprintf("%-16s %s  %s", "PRESENCE", name, describePresence(m)), true
		}
	}
	return "", false
}

// maxChanges bounds the changes of presence that a line names.
const maxChanges = 5

// describePresence says who came and went, or who is there.
func describePresence(m wire.Presence) string {
	var said []string
	for _, c := range m.Changes[:min(len(m.Changes), maxChanges)] {
		text := fmt.Sprintf("%s %s since %s", word(c.Machine), c.State, time.UnixMilli(c.Since).Format(time.TimeOnly))
		if c.Reason != "" {
			text += " (" + c.Reason + ")"
		}
		said = append(said, text)
	}
	if more := len(m.Changes) - maxChanges; more > 0 {
		said = append(said, fmt.Sprintf("%d more", more))
	}
	if r := m.Roster; r != nil {
		said = append(said, fmt.Sprintf("a roster names %d", len(r.Present)))
	}
	return strings.Join(append(said, fmt.Sprintf("%d machines in all", m.Machines)), "; ")
}

// describeWanted says what a command asks for, and which alert it answers.
func describeWanted(m wire.Command) string {
	var wanted []string
	if p := m.Parameters; p.RatePerSecond != 0 {
		wanted = append(wanted, fmt.Sprintf("%s/s for each client, burst %d", number(p.RatePerSecond), p.Burst))
	}
	if m.Parameters.Servers != 0 {
		wanted = append(wanted, fmt.Sprintf("%d servers", m.Parameters.Servers))
	}
	if !m.Incident.IsZero() {
		wanted = append(wanted, "answers "+short(m.Incident))
	}
	if wanted == nil {
		return ""
	}
	return " (" + strings.Join(wanted, "; ") + ")"
}

// plain returns at most limit bytes of s as text that can neither steer a
// terminal nor look like a line of ours: printable ASCII alone, because blank,
// combining and right-to-left letters pass for printable elsewhere, and no two
// spaces together, because those separate our columns where a long line wraps.
func plain(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	s = strings.Join(strings.FieldsFunc(inert(s), func(r rune) bool { return r == ' ' }), " ")
	if cut {
		s += "..."
	}
	return s
}

// word is plain for the short texts inside a line.
func word(s string) string { return plain(s, maxWord) }

// inert replaces whatever is not printable ASCII.
func inert(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '\uFFFD'
		}
		return r
	}, s)
}

// short is the part of an identifier that people compare on a screen.
func short(id wire.ID) string { return id.String()[:8] }
