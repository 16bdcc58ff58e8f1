package wire

import (
	"encoding/json"
	"slices"
	"strings"
)

// Bounds of a Presence: each fits an envelope of 32 KiB, whatever the names.
const (
	MaxPresenceChanges = 200
	MaxRosterPage      = 400
)

// The states of a machine at a broker.
const (
	StatePresent = "present"
	StateGone    = "gone"
)

// Why a machine's session ended. The set is closed.
const (
	EndLeft       = "left"       // it said goodbye: it was stopped
	EndLost       = "lost"       // the connection broke without a word: killed, crashed, unplugged
	EndSilent     = "silent"     // no packet within one and a half times the keep-alive
	EndReplaced   = "replaced"   // another session with its certificate took the place
	EndSlow       = "slow"       // it did not read what it was sent
	EndMisconduct = "misconduct" // it broke the protocol, its rates or its rights
	EndExpired    = "expired"    // its certificate, or the credential beside it, ended
	EndRevoked    = "revoked"    // its certificate was taken back
	EndRemoved    = "removed"    // an administrator of the broker ended it
	EndPolicy     = "policy"     // another policy took a right that it used
	EndFault      = "fault"      // a defect of the broker, contained
)

var ends = []string{EndLeft, EndLost, EndSilent, EndReplaced, EndSlow, EndMisconduct, EndExpired, EndRevoked, EndRemoved, EndPolicy, EndFault}

// presenceRoles are those of the machines whose sessions are told of. Guests are
// strangers, and where people are is nobody's business but their own broker's.
var presenceRoles = []string{"approver", "console", "controller", "issuer", "monitor", "recorder", "sensor"}

// TellsPresence reports whether brokers tell of the sessions of a role.
func TellsPresence(role string) bool { return slices.Contains(presenceRoles, role) }

// Presence is the payload of status/presence: what a broker says of machines'
// sessions. A machine is "role/name". It states what is, never a difference: who
// missed a message has the right picture again with the next whole roster.
type Presence struct {
	Timestamp float64          `json:"timestamp"`
	Machines  int              `json:"machines"` // with a session here, in all
	Changes   []PresenceChange `json:"changes"`  // MaxPresenceChanges at most, each machine once
	Roster    *Roster          `json:"roster,omitempty"`
}

// PresenceChange is the newest state of one machine.
type PresenceChange struct {
	Machine string `json:"machine"`
	State   string `json:"state"`            // StatePresent or StateGone
	Since   int64  `json:"since"`            // ms since the epoch
	Reason  string `json:"reason,omitempty"` // why its session before ended, if one did since the broker spoke of it last
}

// Roster is everybody present whose machine sorts, byte by byte, behind After and
// not behind Through. The first page's After and the last page's Through are
// empty.
type Roster struct {
	After   string     `json:"after"`
	Through string     `json:"through"`
	Present []Attendee `json:"present"` // MaxRosterPage at most, sorted
}

// Attendee is one machine of a roster: [machine, since] in JSON.
type Attendee struct {
	Machine string
	Since   int64 // ms since the epoch
}

// MarshalJSON returns [machine, since].
func (a Attendee) MarshalJSON() ([]byte, error) { return json.Marshal([2]any{a.Machine, a.Since}) }

// UnmarshalJSON accepts exactly [machine, since].
func (a *Attendee) UnmarshalJSON(b []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil || len(parts) != 2 ||
		json.Unmarshal(parts[0], &a.Machine) != nil || json.Unmarshal(parts[1], &a.Since) != nil {
		return payloadError("one of a roster is not [machine, since]")
	}
	return nil
}

// UnmarshalJSON demands every member: a page without its list would say that
// nobody is there.
func (r *Roster) UnmarshalJSON(b []byte) error {
	type members Roster
	return Decode(b, (*members)(r))
}

// Covers reports whether the page speaks for a machine.
func (r *Roster) Covers(machine string) bool {
	return machine > r.After && (r.Through == "" || machine <= r.Through)
}

// ParsePresence reads the payload of status/presence and checks everything that
// it must be by itself. Members that it does not know it tolerates, as of all
// telemetry; a state or a reason that it does not know it refuses.
func ParsePresence(b []byte) (Presence, error) {
	var p Presence
	if err := Decode(b, &p); err != nil {
		return Presence{}, err
	}
	if err := p.check(); err != nil {
		return Presence{}, err
	}
	return p, nil
}

func (p *Presence) check() error {
	if p.Machines < 0 || int64(p.Machines) > maxMoment || len(p.Changes) > MaxPresenceChanges {
		return payloadError("a presence counts below 0, or has too many changes")
	}
	told := make(map[string]bool, len(p.Changes))
	for _, c := range p.Changes {
		switch {
		case !validMachine(c.Machine) || !validMoment(c.Since) || told[c.Machine]:
			return payloadError("a change of presence names no machine or no time, or one machine twice")
		case c.State != StatePresent && c.State != StateGone, c.Reason == "" && c.State == StateGone, c.Reason != "" && !slices.Contains(ends, c.Reason):
			return payloadError("a change of presence has no known state or reason")
		}
		told[c.Machine] = true
	}
	if p.Roster == nil {
		return nil
	}
	return p.Roster.check()
}

func (r *Roster) check() error {
	switch {
	case r.After != "" && !validMachine(r.After), r.Through != "" && (!validMachine(r.Through) || r.Through <= r.After):
		return payloadError("a roster's page has no bounds")
	case len(r.Present) > MaxRosterPage:
		return payloadError("a roster's page is too long")
	}
	last := r.After
	for _, a := range r.Present {
		if !validMachine(a.Machine) || !validMoment(a.Since) || a.Machine <= last || !r.Covers(a.Machine) {
			return payloadError("a roster names no machine or no time, or one outside its page or its order")
		}
		last = a.Machine
	}
	return nil
}

// validMachine reports whether s is "role/name" of a role that is told of.
func validMachine(s string) bool {
	role, name, _ := strings.Cut(s, "/")
	if !TellsPresence(role) || len(name) == 0 || len(name) > maxName || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for i := range len(name) {
		if !machineBytes[name[i]] {
			return false
		}
	}
	return true
}

// maxName bounds a name in bytes, as package pki does.
const maxName = 24

var machineBytes = bytesOf("abcdefghijklmnopqrstuvwxyz0123456789-")

// maxMoment is the largest integer that every reader of JSON holds exactly.
const maxMoment = 1 << 53

func validMoment(ms int64) bool { return ms > 0 && ms <= maxMoment }
