// Package renewal keeps a machine's certificate from expiring.
//
// It guarantees that a renewal begins by the wall clock, from a third of the
// certificate's life on and at a moment of its own, so that neither a machine
// that slept nor a thousand that started together surprise the issuer; that each
// certificate has a new key, unless the site document pins this part's key;
// that the old credential stays in use until the new one is on disk. It stops
// nothing: a part whose certificate has expired goes on asking, and says so.
//
// It does not know what the credential is used for. Sessions watch the Store.
package renewal

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"time"

	"levee/internal/enrol"
	"levee/pki"
)

// Bounds of how often the clock is looked at and the issuer asked.
const (
	longestLook  = time.Minute
	shortestLook = 100 * time.Millisecond
	firstRetry   = time.Second
	longestRetry = 10 * time.Minute
)

// Issuer answers requests for certificates; *enrol.Client is one.
type Issuer interface {
	Reenroll(ctx context.Context, request []byte) (leaf, issuer *x509.Certificate, err error)
}

// Config is what a renewal needs.
type Config struct {
	Store *pki.Store
	// Issuer may be nil: nothing is renewed then, and the end is announced.
	Issuer Issuer
	// KeepKey says that the site document pins this part's key.
	KeepKey bool
	// Root ends too, and cannot be renewed by anybody who is not a person. It
	// may be nil.
	Root *x509.Certificate
	Log  *slog.Logger
}

// Renewal renews one credential.
type Renewal struct {
	config  Config
	warned  warning
	said    map[string]int // by serial number, of authorities: the days that were last announced
	retry   time.Duration  // 0: the last attempt succeeded
	earlier time.Time      // of the last attempt
	share   float64        // where in its second third of life a certificate is renewed, 0 to 1
}

// warning is the worst that was said of the current certificate.
type warning uint8

const (
	saidNothing warning = iota
	saidLate
	saidExpired
)

// New checks the configuration.
func New(c Config) (*Renewal, error) {
	if c.Store == nil || c.Log == nil {
		return nil, errors.New("renewing: store or logger is missing")
	}
	return &Renewal{config: c, said: make(map[string]int), share: mathrand.Float64()}, nil
}

// Run renews until ctx ends.
func (r *Renewal) Run(ctx context.Context) {
	for {
		r.step(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-time.After(r.look(time.Now())):
		}
	}
}

// life returns when leaf was issued, as far as it says so, and for how long.
func life(leaf *x509.Certificate) (from time.Time, whole time.Duration) {
	from = leaf.NotBefore
	return from, leaf.NotAfter.Sub(from)
}

// due is when leaf is to be renewed: within the second third of its life,
// early in it, so that most of two thirds is left to an issuer that is away.
func (r *Renewal) due(leaf *x509.Certificate) time.Time {
	from, whole := life(leaf)
	return from.Add(whole/3 + time.Duration(r.share*float64(whole)/12))
}

// look is how long to wait before the clock is looked at again. A timer alone
// would sleep with the machine.
func (r *Renewal) look(now time.Time) time.Duration {
	if r.retry != 0 {
		return max(shortestLook, min(longestLook, r.earlier.Add(r.retry).Sub(now)))
	}
	_, whole := life(r.config.Store.Current().Leaf())
	return max(shortestLook, min(longestLook, whole/30))
}

func (r *Renewal) step(ctx context.Context, now time.Time) {
	r.warnOfAuthority("authority", r.config.Store.Current().Issuer(), now)
	if r.config.Root != nil {
		r.warnOfAuthority("root", r.config.Root, now)
	}
	leaf := r.config.Store.Current().Leaf()
	if now.Before(r.due(leaf)) {
		return
	}
	r.warn(leaf, now)
	if ends := r.config.Store.Current().Issuer().NotAfter; !leaf.NotAfter.Before(ends) {
		return // nothing that this authority issues would last longer
	}
	if r.config.Issuer == nil || r.retry != 0 && now.Before(r.earlier.Add(r.retry)) && now.After(r.earlier) {
		return
	}
	r.earlier = now
	if err := r.renew(ctx); err != nil {
		if ctx.Err() != nil {
			return
		}
		r.retry = r.after(err, leaf)
		r.config.Log.Warn("certificate not renewed", slog.Any("error", err), slog.Time("until", leaf.NotAfter),
			slog.Duration("again_in", r.retry.Round(time.Millisecond)))
		return
	}
	r.retry, r.warned, r.share = 0, saidNothing, mathrand.Float64()
	r.config.Log.Info("certificate renewed", slog.Time("until", r.config.Store.Current().Leaf().NotAfter))
}

// after is how long to wait after a failure: longer each time, but not so long
// that a short life would pass, and as long as the issuer asks for.
func (r *Renewal) after(err error, leaf *x509.Certificate) time.Duration {
	_, whole := life(leaf)
	bound := max(shortestLook, min(longestRetry, whole/20))
	wait := min(bound, max(firstRetry, 2*r.retry))
	var refused *enrol.Refused
	if errors.As(err, &refused) {
		wait = min(bound, max(wait, refused.RetryAfter))
	}
	return wait/2 + time.Duration(mathrand.Int64N(int64(wait/2)+1))
}

func (r *Renewal) warn(leaf *x509.Certificate, now time.Time) {
	_, whole := life(leaf)
	left := leaf.NotAfter.Sub(now)
	attrs := []any{slog.Time("until", leaf.NotAfter), slog.String("remedy", "see that the issuer runs and is reached, or carry a new bundle here")}
	if !leaf.NotAfter.Before(r.config.Store.Current().Issuer().NotAfter) {
		attrs[1] = slog.String("remedy", "its authority ends as well, so nothing can be renewed: the deployer replaces that, and carries new bundles")
	}
	switch {
	case left <= 0 && r.warned < saidExpired:
		r.warned = saidExpired
		attrs[1] = slog.String("remedy", "an operator readmits it: levee pki readmit")
		r.config.Log.Error("the certificate has expired: nobody takes it any more", attrs...)
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

func (r *Renewal) renew(ctx context.Context) error {
	id := r.config.Store.Identity()
	key := r.config.Store.Current().Signer()
	if !r.config.KeepKey {
		var err error
		if key, err = pki.NewKey(id.Role); err != nil {
			return err
		}
	}
	// The subject is for people who read the request: the issuer takes the
	// identity from the certificate of the connection.
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: id.ClientID()}}, key)
	if err != nil {
		return fmt.Errorf("making a certificate request: %w", err)
	}
	leaf, issuer, err := r.config.Issuer.Reenroll(ctx, request)
	if err != nil {
		return err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return errors.New("the issuer's certificate is for another key")
	}
	keyPEM, chainPEM, err := pki.MarshalCredential(key, leaf, issuer)
	if err != nil {
		return err
	}
	return r.config.Store.Replace(keyPEM, chainPEM)
}
