package clocks

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// expiredAlert is how crypto/tls words the peer's alert certificate_expired
// (RFC 8446, section 6.2). Its type is private, and the MQTT library flattens it
// to this text. A server in Go sends it for a certificate that is not valid yet
// as well; a client in Go never does, it says bad_certificate whatever is wrong.
const expiredAlert = "remote error: tls: expired certificate"

// CertificateTrouble returns what to make of err if a certificate was refused
// for its time, and else "". own returns the chain that this side showed, the
// root with it where it is known; it is asked only if the peer refused it, and
// may be nil. With TLS
// 1.3 the peer refuses ours only after the handshake, so that err may come from
// the first read or write.
func CertificateTrouble(err error, own func() []*x509.Certificate, now time.Time) string {
	if err == nil {
		return ""
	}
	clock := now.UTC().Format(time.RFC3339)
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired && invalid.Cert != nil {
		problem := "has ended"
		if now.Before(invalid.Cert.NotBefore) {
			problem = "has not begun"
		}
		return fmt.Sprintf("a certificate that the peer showed is valid %s, and this machine's clock says %s: its time %s, or this machine's clock is wrong",
			validity(invalid.Cert.NotBefore, invalid.Cert.NotAfter), clock, problem)
	}
	if own == nil || !strings.Contains(err.Error(), expiredAlert) {
		return ""
	}
	chain := own()
	if len(chain) == 0 {
		return ""
	}
	from, until := chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotBefore.After(from) {
			from = c.NotBefore
		}
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	conclusion := "by our clock it is valid, so the peer's clock or this machine's is wrong"
	if now.Before(from) || now.After(until) {
		conclusion = "by our clock it is not valid: it must be issued again, or this machine's clock is wrong"
	}
	return fmt.Sprintf("the peer says that our certificate is not valid at this time; it is valid %s, and this machine's clock says %s: %s",
		validity(from, until), clock, conclusion)
}

func validity(from, until time.Time) string {
	return "from " + from.UTC().Format(time.RFC3339) + " to " + until.UTC().Format(time.RFC3339)
}
