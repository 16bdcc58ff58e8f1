package controller

import (
	"math"
	"time"

	"levee/internal/wire"
)

// The reasons of a failure. The set is closed, so that it can label a counter.
const (
	ReasonRole              = "role"               // its publisher's role may not command
	ReasonGrantsUnsupported = "grants_unsupported" // no grant verification in this version
	ReasonPeopleOnly        = "people_only"        // automation may not ask for this
	ReasonMalformed         = "malformed"          // a member is out of range, or does not belong to the command
	ReasonUnknownCommand    = "unknown_command"    //
	ReasonUnknownPool       = "unknown_pool"       // no pool of that server here
	ReasonExpired           = "expired"            // issued + time to live is over
	ReasonFuture            = "issued_in_future"   // issued later than the skew allows
	ReasonNotPermitted      = "not_permitted"      // outside what policy lets automation do
	ReasonSuperseded        = "superseded"         // a later command for the same pool came first
	ReasonOutranked         = "outranked"          // automation does not touch what a person began
	ReasonCoolingDown       = "cooling_down"       // too soon after automation's last row ended
	ReasonRenewals          = "renewals_exhausted" // automation renewed it as often as policy lets it
	ReasonReusedID          = "id_reused"          // the id belongs to another command of that sender
	ReasonJournalFull       = "journal_full"       // no room to remember it, so no acting on it
	ReasonJournalFailed     = "journal_failed"     // it could not be remembered, so it was not acted on
	ReasonActuatorFailed    = "actuator_failed"    // the load balancer did not do it
)

// Bounds of every command, whatever policy says.
const (
	maxTTL     = 24 * 60 * 60 // seconds
	maxRate    = 1e6          // requests a second
	maxBurst   = 1_000_000
	maxServers = 1000
)

// kind is a property of a pool that commands change: each has its own latest
// command and its own end.
type kind int

const (
	rateLimiting kind = iota
	scaling
	kinds int = iota
)

// action is what a command means.
type action struct {
	kind kind
	ends bool // it ends what others began, and leaves nothing in force
}

var actions = map[string]action{
	wire.EnableRateLimiting:  {kind: rateLimiting},
	wire.DisableRateLimiting: {kind: rateLimiting, ends: true},
	wire.ScaleUpServers:      {kind: scaling},
	wire.ScaleDownServers:    {kind: scaling, ends: true},
}

// origin says on whose word a command stands; a later one outranks an earlier.
type origin int

const (
	automatic origin = iota
	person
)

// originOf returns the origin of what a role commands. Only a monitor's
// commands stand on automation's word alone.
func originOf(role string) origin {
	if role == "monitor" {
		return automatic
	}
	return person
}

// checkSender judges who sent a command. Nobody but monitors is heard as long
// as there is no verification of grants.
func checkSender(from wire.Topic, cmd wire.Command) string {
	switch {
	case from.Kind != wire.KindCommand:
		return ReasonRole
	case from.Role == "approver":
		return ReasonGrantsUnsupported
	case from.Role != "monitor":
		return ReasonRole
	case cmd.Command == wire.HoldAutomation:
		return ReasonPeopleOnly
	default:
		return ""
	}
}

// checkForm judges what no policy and no clock can change.
func checkForm(cmd wire.Command) string {
	if cmd.ID.IsZero() || cmd.Issued <= 0 || cmd.Issued > math.MaxInt64/2 || cmd.TTL < 1 || cmd.TTL > maxTTL {
		return ReasonMalformed
	}
	want := cmd.Parameters
	var rest wire.Parameters // what does not belong to the command
	var ok bool
	switch cmd.Command {
	case wire.EnableRateLimiting:
		ok = want.RatePerSecond > 0 && want.RatePerSecond <= maxRate && want.Burst >= 1 && want.Burst <= maxBurst
		rest.Servers = want.Servers
	case wire.ScaleUpServers:
		ok = want.Servers >= 1 && want.Servers <= maxServers
		rest = want
		rest.Servers = 0
	case wire.DisableRateLimiting, wire.ScaleDownServers:
		ok, rest = true, want
	default:
		return ReasonUnknownCommand
	}
	if !ok || rest != (wire.Parameters{}) {
		return ReasonMalformed
	}
	return ""
}

// until returns when a well-formed command ends, in ms since the epoch.
func until(cmd wire.Command) int64 { return cmd.Issued + cmd.TTL*1000 }

// checkTime judges a well-formed command's time: its future by when it was
// received, its end by now, which is later.
func checkTime(cmd wire.Command, received, now time.Time, skew time.Duration) string {
	switch {
	case until(cmd) <= now.UnixMilli():
		return ReasonExpired
	case cmd.Issued > received.Add(skew).UnixMilli():
		return ReasonFuture
	default:
		return ""
	}
}
