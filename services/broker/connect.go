package broker

import "github.com/mochi-mqtt/server/v2/packets"

// connackCodes are the codes with which a CONNECT is refused (MQTT 3.1.1,
// section 3.2.2.3), so that a person sees why. Where the standard has none,
// "not authorized" stands for "not like this".
var connackCodes = map[Reason]byte{
	BadVersion:    0x01,
	BadClientID:   0x02,
	BadCredential: 0x04,
	BadWill:       0x05,
	BadKeepAlive:  0x05,
	BadSession:    0x05,
}

// judgeConnect checks CONNECT and notes the client identifier of one that
// passes.
func (s *session) judgeConnect(pk *packets.Packet) Reason {
	c := &pk.Connect
	switch {
	case s.clientID != "":
		return SecondConnect
	case string(c.ProtocolName) != "MQTT" || pk.ProtocolVersion != 4:
		// One truncated packet of MQTT 5 panics in mochi's decoder (P3), a
		// subscriber of it can stop every publisher (P4, P5).
		return BadVersion
	case pk.ReservedBit != 0:
		return BadPacket
	case c.WillFlag || c.WillQos != 0 || c.WillRetain:
		return BadWill // mochi publishes wills without asking anyone (P2)
	case !c.Clean:
		return BadSession
	case c.Keepalive < minKeepAlive || c.Keepalive > maxKeepAlive:
		return BadKeepAlive
	case c.UsernameFlag || c.PasswordFlag || len(c.Username)+len(c.Password) > 0:
		return BadCredential
	case !s.mayUse(c.ClientIdentifier):
		return BadClientID
	}
	s.clientID = c.ClientIdentifier
	return None
}
