package broker

import (
	"sync/atomic"

	"levee/envelope"
)

// Reason names what ended a connection or refused a packet or message. The set
// is closed, so that it can label a counter. The zero value is no refusal.
type Reason uint8

// The reasons for which a connection is refused or ended.
const (
	None            Reason = iota
	TooMany                // the cap of all connections is reached
	TooManyPending         // the cap of connections without a session is reached
	TooManyAddress         // a cap of one address is reached
	BadHandshake           // TLS failed: no certificate, a foreign one, plain text, silence
	BadCertificate         // the certificate is not of this site, or not a client's
	NoSite                 // the client named none of the sites that are served
	Banned                 // the identity or address is kept away for a time
	NoRole                 // the policy does not know the certificate's role
	Silent                 // no CONNECT within the deadline
	TimedOut               // no packet within one and a half times the keep-alive
	BadVersion             // not MQTT 3.1.1
	BadClientID            // not the certificate's
	BadCredential          // user name or password where none belongs, or one that does not hold
	BadWill                // CONNECT with a will
	BadKeepAlive           // outside 10 to 120 s
	BadSession             // not a clean session
	SecondConnect          // CONNECT within a session
	Superseded             // a newer connection took the client identifier
	Outdated               // an older certificate of a machine that is there with a newer one
	TakeoverTimeout        // the older session would not end in time
	Expired                // the validity of the certificate, or of the credential beside it, ended
	Revoked                // the certificate was taken back
	SlowReader             // does not read what it is sent
	TooFast                // over its rate for too long
	Misbehaved             // too many refused messages
	Rejudged               // another policy took a right that it used
	Kicked                 // an administrator ended it
	Draining               // the broker stops
	Panicked               // a defect of ours or of mochi's, contained
)

// The reasons for which a packet or message is refused.
const (
	BadPacket      Reason = iota + Panicked + 1 // of a type, length or order that no client may send
	BadQoS                                      // above 1
	BadRetain                                   // a retained message
	BadTopicName                                // a topic outside the grammar
	BadFilter                                   // a filter outside the grammar, "$" included
	TooManyFilters                              // in one SUBSCRIBE, or of one session
	NotPublisher                                // no right to publish there
	NotSubscriber                               // no right to subscribe to all of that
	NotReceiver                                 // a delivery outside the rights
	reasons                                     // their number
)

var reasonNames = [reasons]string{
	None: "none", TooMany: "too_many", TooManyPending: "too_many_pending", TooManyAddress: "too_many_address",
	BadHandshake: "handshake", BadCertificate: "certificate", NoSite: "site", Banned: "banned", NoRole: "role", Silent: "silent", TimedOut: "timed_out", BadVersion: "version",
	BadClientID: "client_id", BadCredential: "credential", BadWill: "will", BadKeepAlive: "keep_alive",
	BadSession: "persistent_session", SecondConnect: "second_connect", Superseded: "superseded", Outdated: "outdated",
	TakeoverTimeout: "takeover_timeout", Expired: "expired", Revoked: "revoked", SlowReader: "slow_reader", TooFast: "too_fast",
	Misbehaved: "misbehaved", Rejudged: "rejudged", Kicked: "kicked", Draining: "draining", Panicked: "panicked", BadPacket: "packet", BadQoS: "qos",
	BadRetain: "retain", BadTopicName: "topic", BadFilter: "filter", TooManyFilters: "too_many_filters",
	NotPublisher: "not_publisher", NotSubscriber: "not_subscriber", NotReceiver: "not_receiver",
}

// misconduct reports whether an end is of the client's own making: no network,
// clock or operator of ours brings it about.
func (r Reason) misconduct() bool {
	switch r {
	case BadVersion, BadClientID, BadCredential, BadWill, BadKeepAlive, BadSession, SecondConnect, TooFast, Misbehaved,
		BadPacket, BadQoS, BadRetain, BadTopicName, BadFilter, TooManyFilters, NotPublisher:
		return true
	}
	return false
}

// String returns the counter's label.
func (r Reason) String() string {
	if r >= reasons {
		return "unknown"
	}
	return reasonNames[r]
}

// Error makes a Reason the error that ends a session.
func (r Reason) Error() string { return "refused: " + r.String() }

// counters are what the broker counts. The zero value is ready.
type counters struct {
	refused  [reasons]atomic.Uint64
	envelope [256]atomic.Uint64 // by envelope.Reason, which is a uint8

	accepted   atomic.Uint64 // protected messages passed on
	public     atomic.Uint64 // public messages passed on
	unjudged   atomic.Uint64 // passed on with freshness left to the receivers
	sessions   atomic.Uint64 // opened
	acceptErrs atomic.Uint64 // of the listening socket
	dropped    atomic.Uint64 // deliveries that a full queue cost
}

func (c *counters) refuse(r Reason) { c.refused[min(r, reasons-1)].Add(1) }

func (c *counters) refuseEnvelope(r envelope.Reason) { c.envelope[r].Add(1) }

// snapshot returns every counter, zeros included, under its label.
func (c *counters) snapshot() map[string]uint64 {
	m := map[string]uint64{
		"messages_accepted": c.accepted.Load(), "messages_public": c.public.Load(), "messages_unjudged": c.unjudged.Load(),
		"sessions_opened": c.sessions.Load(), "accept_errors": c.acceptErrs.Load(), "deliveries_dropped": c.dropped.Load(),
	}
	for r := None + 1; r < reasons; r++ {
		m["refused_"+r.String()] = c.refused[r].Load()
	}
	for _, r := range envelope.Reasons() {
		m["envelope_"+r.String()] = c.envelope[r].Load()
	}
	return m
}
