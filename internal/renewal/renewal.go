// Package renewal keeps a machine's certificate from expiring.
//
// It guarantees that a renewal begins by the wall clock, from a third of the
// certificate's life on and at a moment of its own, so that neither a machine
// that slept nor a thousand that started together surprise the issuer; that each
// certificate has a new key, unless the site document pins this part's key;
// that the old credential stays in use until the new one is on disk; that an
// answer which is lost, or cannot be kept, is asked for again with the same key,
// also after a restart, and one that nothing can come of is asked for with
// another; and that clocks which were ahead for a while, and are right again,
// leave the part a certificate that is valid, if it has one. It stops nothing: a
// part whose certificate has expired goes on asking, and says so.
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
	longestVain  = time.Hour // while nothing that the issuer gives would be of use, or as long as it asks for
	hurryEach    = time.Hour
	rereadEach   = time.Hour // while the certificate in use is not valid: what is carried or was kept may be
)

// maxAhead is how far the issuer's clock may be ahead of ours: what begins later
// was issued by a clock that is wrong, and we do not wait for it.
const maxAhead = time.Minute

var errAhead = errors.New("the issuer's clock, or ours, is wrong: its certificate is not valid yet")

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
	reread  time.Time      // when other credentials were last looked for
	early   string         // serial number of the one that was last said not to be valid yet

	hurry   chan struct{}
	hurried time.Time // when Hurry was last heeded
	pressed bool      // since then nothing was renewed
}

// New checks the configuration.
func New(c Config) (*Renewal, error) {
	if c.Store == nil || c.Log == nil {
		return nil, errors.New("renewing: store or logger is missing")
	}
	return &Renewal{config: c, said: make(map[string]int), share: mathrand.Float64(), hurry: make(chan struct{}, 1)}, nil
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
		case <-r.hurry:
			r.press(time.Now())
		case <-time.After(r.look(time.Now())):
		}
	}
}

// Hurry asks Run for a renewal before it is due, for who is put out again and
// again with a certificate that is good: the broker may know a newer one of the
// same machine, a thief's, and lets in whoever renewed last. It is heeded once an
// hour: whoever cuts our connections could call for it as well. It does not wait.
func (r *Renewal) Hurry() {
	select {
	case r.hurry <- struct{}{}:
	default:
	}
}

func (r *Renewal) press(now time.Time) {
	if passed := now.Sub(r.hurried); passed >= 0 && passed < hurryEach {
		return
	}
	r.hurried, r.pressed = now, true
	r.config.Log.Warn("the certificate is renewed before it is due: its sessions are ended at once, as those of an older certificate are")
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
	leaf := r.held(now)
	if now.Before(r.due(leaf)) && !now.Before(leaf.NotBefore) && !r.pressed {
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
	r.retry, r.share, r.pressed = r.vain(), mathrand.Float64(), false
	if r.retry == 0 {
		r.warned = saidNothing
	}
	r.config.Log.Info("certificate renewed", slog.Time("until", r.config.Store.Current().Leaf().NotAfter))
}

// held returns the certificate in use. One that is not valid now makes way for
// another that is on disk: clocks were wrong, and are right again.
func (r *Renewal) held(now time.Time) *x509.Certificate {
	leaf := r.config.Store.Current().Leaf()
	_, whole := life(leaf)
	passed := now.Sub(r.reread)
	if !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter) || passed >= 0 && passed < min(rereadEach, whole/20) {
		return leaf
	}
	r.reread = now
	err := r.config.Store.Reload()
	next := r.config.Store.Current().Leaf()
	if serial := leaf.SerialNumber.Text(16); now.Before(leaf.NotBefore) && serial != r.early {
		r.early = serial
		attrs := []any{slog.Time("from", leaf.NotBefore), slog.Time("used_until", next.NotAfter)}
		if err != nil {
			attrs = append(attrs, slog.Any("error", err))
		}
		r.config.Log.Error("the certificate is not valid yet: a clock was ahead when it was issued; the one before is used, if there is one, and another asked for", attrs...)
	}
	return next
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
	return atLeast(longestVain, r.config.Store.Current().Issuer())
}

// atLeast is a wait that is no shorter, unless a life as short as that of cert
// would pass in it.
func atLeast(wait time.Duration, cert *x509.Certificate) time.Duration {
	_, whole := life(cert)
	wait = max(shortestLook, min(wait, longestVain, whole/20))
	return wait + time.Duration(mathrand.Int64N(int64(wait/4)+1))
}

// after is how long to wait after a failure: longer each time, but not so long
// that a short life would pass, and as long as the issuer asks for.
func (r *Renewal) after(err error, leaf *x509.Certificate) time.Duration {
	_, whole := life(leaf)
	wait := min(max(shortestLook, min(longestRetry, whole/20)), max(firstRetry, 2*r.retry))
	wait = wait/2 + time.Duration(mathrand.Int64N(int64(wait/2)+1))
	if refused := (*enrol.Refused)(nil); errors.As(err, &refused) && refused.RetryAfter > 0 {
		return max(wait, atLeast(refused.RetryAfter, leaf))
	}
	if errors.Is(err, pki.ErrEndsEarlier) { // and so would the next, most likely: a lifetime was lowered
		return max(wait, atLeast(longestVain, leaf))
	}
	return wait
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
	if errors.Is(err, pki.ErrEndsEarlier) || errors.Is(err, errAhead) {
		return true // a person has carried a new bundle since it was issued; a clock was wrong
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
	if time.Until(leaf.NotBefore) > maxAhead {
		return fmt.Errorf("%w, but from %s on", errAhead, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	keyPEM, chainPEM, err := pki.MarshalCredential(key, leaf, issuer)
	if err != nil {
		return err
	}
	return r.config.Store.Replace(keyPEM, chainPEM)
}
