package renewal

import (
	"crypto/x509"
	"log/slog"
	"time"

	"levee/pki"
)

// warning is the worst that was said of the current certificate.
type warning uint8

const (
	saidNothing warning = iota
	saidLate
	saidExpired
)

func (r *Renewal) warn(leaf *x509.Certificate, now time.Time) {
	_, whole := life(leaf)
	left := leaf.NotAfter.Sub(now)
	attrs := []any{slog.Time("until", leaf.NotAfter), slog.String("remedy", "see that the issuer runs and is reached, or carry a new bundle here")}
	ends := r.endsWithAuthority()
	if ends {
		attrs[1] = slog.String("remedy", "its authority ends as well, so no renewal lasts longer: the deployer makes a new one in time")
	}
	switch {
	case left <= 0 && r.warned < saidExpired:
		r.warned = saidExpired
		attrs[1] = slog.String("remedy", "an operator readmits it: levee pki readmit")
		r.config.Log.Error("the certificate has expired: nobody takes it any more", attrs...)
	case left > 0 && ends && r.warned < saidLate:
		r.warned = saidLate
		r.config.Log.Warn("the certificate ends with its authority", attrs...)
	case left > 0 && left < whole/3 && r.warned < saidLate:
		r.warned = saidLate
		r.config.Log.Warn("less than a third of the certificate's life is left", attrs...)
	}
}

// warnOfAuthority says that a CA comes to its end: 30, 14, 7 and 1 days before,
// and when it has. Those of an evaluation never last longer than 7 days, and
// their last one counts.
func (r *Renewal) warnOfAuthority(what string, cert *x509.Certificate, now time.Time) {
	left := cert.NotAfter.Sub(now)
	for _, days := range []int{0, 1, 7, 14, 30} {
		if left > time.Duration(days)*24*time.Hour {
			continue
		}
		if days > 1 && r.config.Root != nil && pki.IsEvaluation(r.config.Root) {
			return
		}
		serial := cert.SerialNumber.Text(16)
		if last, said := r.said[serial]; said && last <= days {
			return
		}
		r.said[serial] = days
		attrs := []any{slog.String("certificate", what), slog.Time("until", cert.NotAfter), slog.String("remedy", "the deployer makes a new one, and carries new bundles: docs/deploying.md")}
		if days == 0 {
			r.config.Log.Error("a certificate authority has expired: nothing below it counts any more", attrs...)
		} else {
			r.config.Log.Warn("a certificate authority ends soon", append(attrs, slog.Int("days", days))...)
		}
		return
	}
}
