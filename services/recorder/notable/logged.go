package notable

import (
	"fmt"
	"strings"
	"time"

	"levee/envelope"
	"levee/internal/issuance"
	"levee/internal/siem"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/pki"
)

// late is the verdict of a message that came by backfill.
const late = "late"

// Logged tells of entries that are in the log. What is no event it passes over.
func (e *Events) Logged(entries [][]byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, raw := range entries {
		l, err := leaf.Parse(raw)
		if err != nil {
			continue // the recorder made it
		}
		for _, event := range e.events(l) {
			event.Received = time.UnixMilli(l.Received)
			event.Late = l.Verdict == late
			e.tell(event, event.Received)
		}
	}
}

// events returns what an entry tells.
func (e *Events) events(l leaf.Leaf) []siem.Event {
	if l.Kind == leaf.KindRevocation {
		return ordered(l.Data)
	}
	if l.Kind != leaf.KindMessage {
		return nil
	}
	m, err := envelope.Parse(l.Data, envelope.MaxMessage)
	if err != nil {
		return nil
	}
	topic, err := wire.ParseTopic(string(m.Topic))
	if err != nil {
		return nil
	}
	var all []siem.Event
	switch topic.Kind {
	case wire.KindAlert:
		all = alert(m.Payload)
	case wire.KindCommand:
		all = e.command(m.Payload, topic)
	case wire.KindScaling, wire.KindRateLimiting:
		all = e.status(m.Payload)
	case wire.KindPresence:
		return e.presence(m.Payload, topic)
	}
	for i := range all {
		all[i].Time, all[i].Sender, all[i].Topic = time.UnixMilli(m.Time), topic.Sender(), string(m.Topic)
	}
	return all
}

func alert(payload []byte) []siem.Event {
	var a wire.Alert
	if wire.Decode(payload, &a) != nil {
		return nil
	}
	event := siem.Event{ID: siem.AlertRaised, Message: fmt.Sprintf("%s: %g over %g", a.Alert, a.Value, a.Threshold), Server: a.Server, Object: a.Incident.String(),
		Metric: a.Metric, Value: a.Value, Limit: a.Threshold}
	switch a.State {
	case wire.StateRaised:
	case wire.StateEnded:
		event.ID, event.Message = siem.AlertEnded, a.Alert+": ended"
	default:
		return nil
	}
	return []siem.Event{event}
}

func (e *Events) command(payload []byte, topic wire.Topic) []siem.Event {
	var c wire.Command
	if wire.DecodeExact(payload, &c) != nil || !e.seen.add("command "+c.ID.String()) {
		return nil // it is said each second until it is answered
	}
	event := siem.Event{ID: siem.CommandIssued, Message: fmt.Sprintf("%s for %s of %s, %d s: ", c.Command, c.Server, c.Controller, c.TTL), Server: c.Server, Action: c.Command,
		Reason: "granted", Object: c.ID.String()}
	if topic.Role == string(pki.RoleMonitor) {
		event.Reason = "automatic"
	}
	event.Message += event.Reason
	if c.Cause != "" {
		event.Message += ", because of " + c.Cause
	}
	return []siem.Event{event}
}

func (e *Events) status(payload []byte) []siem.Event {
	var s wire.Status
	if wire.DecodeExact(payload, &s) != nil || !e.seen.add(fmt.Sprintf("status %s %q %q", s.ID, s.Status, s.State)) {
		return nil
	}
	event := siem.Event{ID: siem.CommandStatus, Message: fmt.Sprintf("%s for %s: %s", s.Command, s.Server, s.State), Server: s.Server, Action: s.Command, Outcome: siem.Success,
		Reason: s.State, Object: s.ID.String()}
	if s.Reason != "" {
		event.Reason += ": " + s.Reason
	}
	if s.Status != wire.StatusSuccess {
		event.Outcome, event.Severity = siem.Failure, siem.High
		if s.State == wire.StateRefused {
			event.Severity = siem.Medium
		}
	}
	return []siem.Event{event}
}

// ends are the severities of the ends of sessions, by reason; others are Medium.
var ends = map[string]siem.Severity{
	wire.EndLeft:       siem.Low,
	wire.EndReplaced:   siem.Low,
	wire.EndPolicy:     siem.Low,
	wire.EndMisconduct: siem.High,
	wire.EndRevoked:    siem.High,
	wire.EndFault:      siem.High,
}

func (e *Events) presence(payload []byte, topic wire.Topic) (all []siem.Event) {
	p, err := wire.ParsePresence(payload)
	if err != nil {
		return nil
	}
	for _, c := range p.Changes {
		if c.State != wire.StateGone || !e.seen.add(fmt.Sprintf("gone %s %s %d", topic.Name, c.Machine, c.Since)) {
			continue
		}
		all = append(all, siem.Event{ID: siem.MachineGone, Severity: ends[c.Reason], Time: time.UnixMilli(c.Since), Sender: topic.Site + "/" + c.Machine, Reason: c.Reason,
			Broker: topic.Name, Topic: topic.String(), Message: fmt.Sprintf("%s is gone from %s: %s", c.Machine, topic.Name, c.Reason)})
	}
	return all
}

// maxTargets is how many targets of an order an event names.
const maxTargets = 8

// ordered is a revocation or readmission that was carried out. Its signature was
// verified before it was logged.
func ordered(line []byte) []siem.Event {
	entry, err := issuance.ReadEntry(line)
	if err != nil {
		return nil
	}
	order, err := issuance.ReadOrder(entry.Order, entry.Authority)
	if err != nil {
		return nil
	}
	event := siem.Event{ID: siem.AccessRevoked, Time: time.UnixMilli(entry.Time), Reason: order.Reason, Object: order.ID.String()}
	what := "revoked"
	if entry.Kind == issuance.Readmission {
		event.ID, what = siem.AccessRestored, "readmitted"
	}
	targets := order.Targets
	for _, serial := range order.Serials {
		targets = append(targets, "certificate "+serial)
	}
	if order.All {
		targets = []string{"every machine that is not revoked"}
	}
	event.Count = uint64(len(targets))
	if len(targets) > maxTargets {
		targets = append(targets[:maxTargets:maxTargets], "and more")
	}
	event.Sender = strings.Join(targets, ", ")
	event.Message = what + ": " + event.Sender
	event.Actor = signer(entry.Order)
	return []siem.Event{event}
}

// signer names who signed an order.
func signer(order []byte) string {
	m, err := envelope.ParseStatement(order, issuance.MaxOrder)
	if err != nil {
		return ""
	}
	return m.KeyID().Sender()
}
