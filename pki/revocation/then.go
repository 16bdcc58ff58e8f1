package revocation

import (
	"crypto/x509"
	"time"

	"levee/pki"
)

// RevokedAt reports whether leaf, a verified certificate of id, was revoked at a
// time, as far as the list tells: of an identity it says from when on, and of a
// serial number it does not, so that such a certificate counts as revoked from
// its beginning. It is for records that arrive late; who acts asks Revoked.
func (s *Set) RevokedAt(id pki.Identity, leaf *x509.Certificate, at time.Time) bool {
	l := s.current.Load()
	if !l.covers(id, leaf) {
		return false
	}
	if r, ok := l.senders[id.Sender()]; ok && at.UnixMilli() >= r.Before {
		return true
	}
	var alone list
	alone.revoked, alone.serials = l.revoked, l.serials
	return alone.covers(id, leaf)
}
