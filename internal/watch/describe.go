package watch

import (
	"fmt"
	"strings"
	"time"

	"levee/internal/wire"
)

// maxText bounds how much of a public message is shown.
const maxText = 400

// describe says what a line carries, in one line.
func describe(l Line) string {
	switch l.Kind {
	case "confirmation":
		return describeConfirmation(l)
	case "refusal":
		return fmt.Sprintf("%s: %s", l.Topic, l.Reason)
	case wire.KindPublic.String():
		text := l.Text
		if len(text) > maxText {
			text = text[:maxText] + "..."
		}
		return fmt.Sprintf("%s: %s", l.Topic, text)
	}
	if text, ok := describePayload(l); ok {
		return text
	}
	return fmt.Sprintf("%-16s %s  %s", l.Kind, l.Sender, l.Payload)
}

func describeConfirmation(l Line) string {
	text := fmt.Sprintf("%-16s %s  messages %d to %d since %s", "digest", l.Sender, l.First, l.Last, l.Boot)
	if l.Missing > 0 {
		text += fmt.Sprintf(", %d of them not seen here", l.Missing)
	}
	if l.Dropped > 0 {
		text += fmt.Sprintf(", %d declared dropped", l.Dropped)
	}
	return text
}

// describePayload renders the payloads that people look at most.
func describePayload(l Line) (string, bool) {
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
				m.ActiveTCPConnections, m.SYNPacketCount, number(m.Interval), m.SYNMethod), true
		}
	case wire.KindAlert.String():
		var m wire.Alert
		if wire.Decode(l.Payload, &m) == nil {
			return fmt.Sprintf("%-16s %s  %s: %s on %s (%s %s, threshold %s)", "ALERT "+m.State, name, short(m.Incident), m.Alert, m.Server,
				m.Metric, number(m.Value), number(m.Threshold)), true
		}
	case wire.KindCommand.String():
		var m wire.Command
		if wire.DecodeExact(l.Payload, &m) == nil {
			return fmt.Sprintf("%-16s %s  %s: %s on %s of %s until %s", "COMMAND", name, short(m.ID), m.Command, m.Server, m.Controller,
				time.UnixMilli(m.Issued).Add(time.Duration(m.TTL)*time.Second).Format(time.TimeOnly)), true
		}
	case wire.KindScaling.String(), wire.KindRateLimiting.String():
		var m wire.Status
		if wire.Decode(l.Payload, &m) == nil {
			text := fmt.Sprintf("%-16s %s  %s: %s on %s: %s", "STATUS "+m.Status, name, short(m.ID), m.Command, m.Server, m.State)
			if m.Reason != "" {
				text += " (" + m.Reason + ")"
			}
			return text, true
		}
	}
	return "", false
}

// short is the part of an identifier that people compare on a screen.
func short(id wire.ID) string { return id.String()[:8] }
