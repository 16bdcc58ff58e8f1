// Package renewal keeps a machine's certificate from expiring.
//
// It guarantees that a renewal begins by the wall clock, from a third of the
// certificate's life on and at a moment of its own, so that neither a machine
// that slept nor a thousand that started together surprise the issuer; that each
// certificate has a new key, unless the site document pins this part's key;
// that the old credential stays in use until the new one is on disk; that an
// answer which is lost, or cannot be kept, is asked for again with the same key,
// also after a restart. It stops nothing: a part whose certificate has expired
// goes on asking, and says so.
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
	"net/http"
	"strings"
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
	longestVain  = time.Hour // while nothing that the authority issues lasts longer
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
	retry   time.Duration  // 0: the last attempt succeeded, and was of use
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
	if err := r.config.Store.Sweep(); err != nil {
		r.config.Log.Warn("what an earlier renewal left is not removed", slog.Any("error", err))
	}
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
	if rest := r.earlier.Add(r.retry).Sub(now); r.retry != 0 && rest > 0 {
		return max(shortestLook, min(longestLook, rest))
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
	if r.config.Issuer == nil || r.retry != 0 && now.Before(r.earlier.Add(r.retry)) && now.After(r.earlier) {
		return
	}
	r.earlier = now
	if err := r.Now(ctx); err != nil {
		if ctx.Err() != nil {
			return
		}
		r.retry = max(r.after(err, leaf), r.vain())
		r.config.Log.Warn("certificate not renewed", slog.Any("error", err), slog.Time("until", leaf.NotAfter),
			slog.Duration("again_in", r.retry.Round(time.Millisecond)))
		return
	}
	r.retry, r.share = r.vain(), mathrand.Float64()
	if r.retry == 0 {
		r.warned = saidNothing
	}
	r.config.Log.Info("certificate renewed", slog.Time("until", r.config.Store.Current().Leaf().NotAfter))
}

// endsWithAuthority reports whether nothing that the current credential's
// authority issues would last longer than it does.
func (r *Renewal) endsWithAuthority() bool {
	c := r.config.Store.Current()
	return !c.Leaf().NotAfter.Before(c.Issuer().NotAfter)
}

// vain is how long to wait at least before another question that is of use only
// if the issuer has a new authority by then, 0 if any would be. It depends on
// the authority's life: that of its last certificates becomes ever shorter.
func (r *Renewal) vain() time.Duration {
	if !r.endsWithAuthority() {
		return 0
	}
	_, whole := life(r.config.Store.Current().Issuer())
	wait := max(shortestLook, min(longestVain, whole/20))
	return wait + time.Duration(mathrand.Int64N(int64(wait/4)+1))
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

// Now asks the issuer once, whatever the clock says, and keeps what it answers.
func (r *Renewal) Now(ctx context.Context) error {
	if r.config.Issuer == nil {
		return errors.New("renewing: no issuer is known")
	}
	id := r.config.Store.Identity()
	key := r.config.Store.Current().Signer()
	if !r.config.KeepKey {
		var err error
		if key, err = r.config.Store.NextKey(); err != nil {
			return err
		}
	}
	err := r.ask(ctx, id, key)
	if !r.config.KeepKey && hopeless(err) {
		return errors.Join(err, r.config.Store.ForgetNextKey())
	}
	return err
}

// hopeless reports whether an attempt failed in a way in which each attempt with
// the same key would.
func hopeless(err error) bool {
	if errors.Is(err, pki.ErrEndsEarlier) {
		return true // a person has carried a new bundle since it was issued
	}
	var refused *enrol.Refused
	if !errors.As(err, &refused) || refused.Status != http.StatusForbidden {
		return false
	}
	reason, _, _ := strings.Cut(refused.Text, ":")
	return reason == "key" || reason == "profile" || reason == "revoked" // docs/issuing.md
}

// ask asks for a certificate for the key, and keeps it.
func (r *Renewal) ask(ctx context.Context, id pki.Identity, key crypto.Signer) error {
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
