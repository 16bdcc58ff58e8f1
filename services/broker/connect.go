package broker

import (
	"errors"
	"log/slog"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

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

// present asks whether a second credential holds, and ends the session with it.
func (s *session) present(username string, password []byte, now time.Time) bool {
	until, err := s.b.credentials.Verify(s.identity, username, password, now)
	if err == nil && !until.IsZero() && !until.After(now) {
		err = errLapsed
	}
	if err != nil {
		s.b.reporter.report(slog.LevelWarn, "credential "+s.sender, "credential refused", slog.String("identity", s.sender),
			slog.String("remote", s.from), slog.Any("error", err))
		return false
	}
	if !until.IsZero() {
		s.until.Store(&until)
		s.lapse = time.AfterFunc(until.Sub(now), func() { s.end(Expired) })
	}
	return true
}

var errLapsed = errors.New("it has expired")

// judgeConnect checks CONNECT and notes the client identifier of one that
// passes.
func (s *session) judgeConnect(pk *packets.Packet) Reason {
	c := &pk.Connect
	bounds := s.b.bounds()
	switch keepAlive := time.Duration(c.Keepalive) * time.Second; {
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
	case keepAlive < bounds.MinKeepAlive || keepAlive > bounds.MaxKeepAlive:
		// mochi's deadline is one and a half times that, in 16 bits (P19).
		return BadKeepAlive
	case s.b.credentials == nil && (c.UsernameFlag || c.PasswordFlag || len(c.Username)+len(c.Password) > 0):
		return BadCredential
	case !s.mayUse(c.ClientIdentifier):
		return BadClientID
	case s.b.credentials != nil && !s.present(string(c.Username), c.Password, time.Now()):
		return BadCredential
	}
	s.clientID = c.ClientIdentifier
	return None
}
