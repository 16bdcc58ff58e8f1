// Package brokeradmin is how an administrator of a broker's own machine asks the
// running broker who is connected, and sends away or keeps away who should not
// be: a Unix socket, its server in the broker and its client in the tool.
//
// It guarantees that only root and the user that the broker runs as are
// answered, by what the kernel says of the peer (SO_PEERCRED) and not by the
// mode of the file alone; that every order is logged with the user who gave it;
// that a socket which a killed broker left is replaced and one that is answered
// is not; and that neither side can make the other wait or hold memory without
// bound. It knows no MQTT and does not import the broker. It does not tell two
// people apart who share a user, and of a broker that was captured it tells what
// that broker says. It works on Linux alone.
//
// A connection carries one request and its answer, both lines of JSON in the
// strict form of package wire. The request is one line of at most 4 KiB:
//
//	{"order":"sessions"}                                      or with "target", an identity: of it alone
//	{"order":"kick","target":"melb/sensor/web-1"}
//	{"order":"ban","target":"melb/sensor/web-1","seconds":600}   or an address
//	{"order":"unban","target":"192.0.2.7"}
//
// The answer is lines of at most 64 KiB with one member each: any number of
// "session" and "ban", and at the end "done" or "refused". An answer without its
// end is none.
package brokeradmin

import (
	"net/netip"
	"time"
)

// LongestBan bounds an ordered ban. Bans live in the broker's memory: one that
// should outlast a restart is a revocation.
const LongestBan = 24 * time.Hour

// Bounds of the protocol.
const (
	maxRequest = 4 << 10  // bytes of the request's line
	maxLine    = 64 << 10 // bytes of a line of the answer
	maxLines   = 1 << 18  // of an answer
	maxFilters = 256      // that are listed of one session
	patience   = 10 * time.Second
)

// Broker is whom orders are for.
type Broker interface {
	// Sessions returns the sessions of an identity, or with "" all of them.
	Sessions(identity string) []Session
	// Bans returns the bans in force.
	Bans() []Ban
	// Kick ends the sessions of an identity and returns how many there were.
	Kick(identity string) int
	// Ban keeps somebody away for a time, and ends the sessions of an identity.
	Ban(who Target, length time.Duration) (ended int, err error)
	// Unban ends a ban and reports whether there was one.
	Unban(who Target) bool
}

// Session is one connection whose identity is known.
type Session struct {
	Identity string `json:"identity"`
	// Client is the MQTT client identifier, "" before CONNECT was accepted.
	Client string    `json:"client"`
	Site   string    `json:"site"`
	Remote string    `json:"remote"`
	Since  time.Time `json:"since"`
	// Filters are subscribed to; no more than 256 of FiltersHeld are listed.
	Filters     []string `json:"filters"`
	FiltersHeld int      `json:"filters_held"`
	Messages    uint64   `json:"messages"`     // published, refused ones included
	Bytes       uint64   `json:"bytes"`        // received, inside TLS
	HeldBackMS  int64    `json:"held_back_ms"` // in all, for being over its rates
	Queued      int      `json:"queued_bytes"` // not yet taken by the client, TLS included
}

// Ban is one identity or address that is kept away.
type Ban struct {
	Who    string    `json:"who"` // SITE/ROLE/NAME, or an address with the bits that count
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
}

// Target is whom an order is about: an identity, or an address.
type Target struct {
	Identity string     // SITE/ROLE/NAME
	Address  netip.Addr // where Identity is ""
}

// Done is what became of an order.
type Done struct {
	Ended int `json:"ended"` // sessions
}

// request is one order.
type request struct {
	Order   string `json:"order"`
	Target  string `json:"target,omitempty"`
	Seconds int64  `json:"seconds,omitempty"`
}

// The orders.
const (
	orderSessions = "sessions"
	orderKick     = "kick"
	orderBan      = "ban"
	orderUnban    = "unban"
)

// line is one line of an answer: exactly one member.
type line struct {
	Session *Session `json:"session,omitempty"`
	Ban     *Ban     `json:"ban,omitempty"`
	Done    *Done    `json:"done,omitempty"`
	Refused string   `json:"refused,omitempty"`
}
