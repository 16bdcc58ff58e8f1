// Package siem turns security events into lines that other makers' systems read,
// CEF or OCSF, and delivers them by syslog over TLS (RFC 5424, RFC 5425).
// docs/siem.md specifies the lines.
//
// It guarantees that telling an event never waits and takes bounded memory, that
// what finds no room is counted and declared in a later event, that nothing goes
// out but over TLS to a server whose certificate names it and ends at a given
// authority, and that whatever an event's texts hold, they add no field, line or
// member to what is sent.
//
// It does not guarantee that a line arrives: syslog knows no acknowledgement. It
// says again what may have been lost with a connection, so a line may come twice,
// and what waits when the process ends is gone. The log has everything.
package siem
