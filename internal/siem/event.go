package siem

import (
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ID names a kind of event. The set is closed.
type ID string

// The kinds of events.
const (
	AlertRaised     ID = "alert_raised"
	AlertEnded      ID = "alert_ended"
	CommandIssued   ID = "command_issued"
	CommandStatus   ID = "command_status"
	AccessRevoked   ID = "access_revoked"
	AccessRestored  ID = "access_restored"
	MachineGone     ID = "machine_gone"
	MessageRefused  ID = "message_refused"
	GapFound        ID = "gap_found"
	GapClosed       ID = "gap_closed"
	LogContradicted ID = "log_contradicted"
	RecorderError   ID = "recorder_error"
	RecorderStarted ID = "recorder_started"
	RecorderStopped ID = "recorder_stopped"
	EventsDropped   ID = "events_dropped"
)

// Severity is how much an event matters. The zero value means the usual one of
// its kind.
type Severity uint8

// The severities, those of OCSF.
const (
	Informational Severity = iota + 1
	Low
	Medium
	High
	Critical
)

// severities spell a severity: in OCSF, in CEF (0 to 10) and in syslog (RFC 5424,
// section 6.2.1).
var severities = [...]struct {
	name        string
	cef, syslog int
}{
	Informational: {"Informational", 1, 6},
	Low:           {"Low", 3, 5},
	Medium:        {"Medium", 5, 4},
	High:          {"High", 8, 3},
	Critical:      {"Critical", 10, 2},
}

// The outcomes of what an event tells of.
const (
	Success = "success"
	Failure = "failure"
)

// Event is one security event. A member that a kind of event does not use is zero
// and left out of its line.
type Event struct {
	ID       ID
	Severity Severity
	Time     time.Time // when it happened
	Received time.Time // when the recorder learnt of it; zero: then
	Message  string    // for people
	Sender   string    // site/role/name whose message, command, status or session it is
	Actor    string    // the person who ordered it
	Server   string    // the server or pool that it is about
	Action   string    // the command
	Outcome  string    // Success or Failure
	Reason   string
	Object   string // what ties events together: the incident, the command's or order's id, the gap
	Topic    string
	Broker   string // the broker that a message came by
	Metric   string // of an alert, with Value and Threshold
	Value    float64
	Limit    float64 // the threshold
	Count    uint64  // of how many it tells
	Late     bool    // it came by backfill
}

// What a text of an event holds at most, in bytes. A line that escapes every byte
// of all of them stays below the 8,192 bytes that receivers should take
// (RFC 5425, section 4.3.1).
const (
	maxText = 600 // Message and Reason
	maxName = 200 // each of the others
)

// settle returns the event as it is kept until it is sent: bounded, inert, whole.
func (e Event) settle() Event {
	if int(e.Severity) >= len(severities) || e.Severity == 0 {
		e.Severity = kinds[e.ID].severity
	}
	if e.Received.IsZero() {
		e.Received = e.Time
	}
	for _, text := range []*string{&e.Message, &e.Reason} {
		*text = clean(*text, maxText)
	}
	for _, text := range []*string{&e.Sender, &e.Actor, &e.Server, &e.Action, &e.Outcome, &e.Object, &e.Topic, &e.Broker, &e.Metric} {
		*text = clean(*text, maxName)
	}
	if math.IsNaN(e.Value+e.Limit) || math.IsInf(e.Value, 0) || math.IsInf(e.Limit, 0) {
		e.Metric, e.Value, e.Limit = "", 0, 0
	}
	return e
}

// clean returns text as valid UTF-8 of max bytes at most, without anything that is
// not seen or that steers whoever shows it: control characters but the newline,
// line ends other than that, and marks of direction.
func clean(text string, max int) string {
	if len(text) > 4*max {
		text = text[:4*max]
	}
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\r\n", "\n")
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, text))
	if len(text) <= max {
		return text
	}
	const cut = "..."
	end := max - len(cut)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + cut
}
