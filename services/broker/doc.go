// Package broker is the site's MQTT server: mochi behind our own listener and
// one hook that fails closed.
//
// It guarantees that every connection belongs to a verified certificate of the
// site, one live session for each client identifier; that nobody publishes or
// receives outside the rights of that certificate's role; and that a message
// on a protected topic is delivered only if it is a well-formed, fresh, not yet
// seen envelope of that very identity for that very topic. A client that reads
// slowly, sends nonsense or floods loses its own connection and holds up no
// other; who misbehaves is kept away for a time, and so is whom an administrator
// of its machine names (internal/brokeradmin). When a list of the site's issuer passes through, the sessions of what
// it revokes end before anybody is given the list, and none begins again; no
// session outlives its certificate.
//
// As a process runs it, it says which machines come and go: signed, and as a
// client of its own listener, so that what it says is checked and kept like the
// messages of any part (docs/topics.md, Presence).
//
// It holds no key of another, so it cannot check MACs, and of signatures it
// checks those of lists of revocations alone: receivers check all. It delivers
// a message at most once to each session and stores none: senders keep what is
// not acknowledged end to end.
//
// Of MQTT 3.1.1 it refuses on purpose: every other version, wills, retained
// messages, QoS 2, persistent sessions, user names and passwords, keep-alive
// outside 10 to 120 s, topics and filters outside the grammar of
// internal/wire, and filters that begin with "$". A PUBLISH outside the
// sender's rights ends the connection (section 3.3.5 leaves that or a silent
// acknowledgement); a SUBSCRIBE outside them is answered with 0x80. A message
// that is refused for its envelope is acknowledged, dropped and counted, and
// repeated offences end the connection. mochi acknowledges before it delivers:
// PUBACK means "read", never "received by anyone".
package broker
