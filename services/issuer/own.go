package issuer

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"levee/internal/issuance"
	"levee/pki"
	"levee/pki/ca"
)

// renewOwnEach is how often the issuer looks at its own certificate. A wall
// clock that jumps is found out that soon.
func (s *Issuer) renewOwnEach() time.Duration {
	return max(time.Second, min(time.Minute, s.config.Lifetime/30))
}

// tendOwn renews the issuer's own certificate if it is time, as it renews
// everybody's: into the journal first, from a third of life on, with a new key
// unless this one is pinned. It asks nobody over the network, so it works when
// nothing else does, and also when the certificate has expired: who holds the
// authority's key needs no proof.
func (s *Issuer) tendOwn(now time.Time) {
	if err := s.renewOwn(now); err != nil {
		leaf := s.config.Credentials.Current().Leaf()
		s.config.Log.Error("the issuer's own certificate was not renewed", slog.Any("error", err), slog.Time("not_after", leaf.NotAfter))
	}
}

func (s *Issuer) renewOwn(now time.Time) error {
	leaf := s.config.Credentials.Current().Leaf()
	if now.Before(leaf.NotBefore) { // the clock was ahead when it was issued
		if err := s.config.Credentials.Reload(); err != nil {
			return err
		}
		leaf = s.config.Credentials.Current().Leaf()
	}
	if now.Before(leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 3)) {
		return nil
	}
	if now.Add(s.config.Lifetime).Before(leaf.NotAfter) {
		return nil // what it has lasts longer: the lifetime was lowered since
	}
	id := s.config.Identity
	if end := s.config.Authority.Certificate.NotAfter; !end.After(leaf.NotAfter) {
		return fmt.Errorf("the authority itself ends at %s", end.UTC().Format(time.RFC3339))
	}
	names, err := namesOf(leaf)
	if err != nil {
		return err
	}
	key, err := s.nextOwnKey(leaf)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	request, err := ca.ParseRequest(der)
	if err != nil {
		return err
	}
	s.deciding.Lock()
	defer s.deciding.Unlock()
	if s.ledger.Revoked(id, leaf) {
		return refuse(http.StatusForbidden, ReasonRevoked, "the certificate is revoked: replace the issuer")
	}
	issued, err := s.issue(id, request, names, issuance.Record{Kind: issuance.Issuance, Cause: issuance.CauseRenewal}, leaf, now)
	if err != nil {
		return err
	}
	keyPEM, chainPEM, err := pki.MarshalCredential(key, issued, s.config.Authority.Certificate)
	if err != nil {
		return err
	}
	return s.config.Credentials.Replace(keyPEM, chainPEM)
}

// nextOwnKey returns a new key, or the old one if the site document pins it.
func (s *Issuer) nextOwnKey(leaf *x509.Certificate) (crypto.Signer, error) {
	if _, pinned := s.config.Pins.Pinned(s.config.Identity.Sender(), leaf); !pinned {
		return pki.NewKey(pki.RoleIssuer)
	}
	key, err := s.config.Key()
	if err != nil {
		return nil, err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(leaf.PublicKey) {
		return nil, errors.New("the key is pinned, and the bundle's is another one")
	}
	return key, nil
}
