package issuer

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	"levee/pki"
)

// peer is who is at the other end of a connection.
type peer struct {
	id   pki.Identity
	leaf *x509.Certificate
	// expired: a machine whose certificate has expired and that a person has
	// readmitted. It may renew, and nothing else.
	expired bool
}

var (
	errRevoked = errors.New("its certificate is revoked")
	errSite    = errors.New("it is of another site")
	errExpired = errors.New("its certificate has expired, and nobody has readmitted it")
)

// judge returns the peer of a connection as of now, nil for one that showed no
// certificate.
func (s *Issuer) judge(cs tls.ConnectionState, now time.Time) (*peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return nil, nil
	}
	leaf := cs.PeerCertificates[0]
	p := &peer{leaf: leaf}
	var err error
	at := now
	if now.After(leaf.NotAfter) {
		// It was good until its end, or nobody vouches for it at all.
		p.expired, at = true, leaf.NotAfter
	}
	if p.id, err = s.config.Verifier.VerifyConnection(cs, pki.UsageClient, at); err != nil {
		return nil, err
	}
	switch {
	case p.id.Site != s.authority.Site:
		return nil, errSite
	case s.ledger.Revoked(p.id, leaf):
		return nil, errRevoked
	case !p.expired:
		return p, nil
	}
	// An authority that was replaced admits nobody any more: its key may be
	// why it was.
	public, ok := cs.PeerCertificates[1].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	connect, _ := s.ledger.readmitted(p.id.Sender(), leaf, false, now)
	if p.id.Authority() != s.authority || !ok || !public.Equal(s.config.Authority.Certificate.PublicKey) || !connect {
		return nil, errExpired
	}
	return p, nil
}

// tlsConfig is pki.ServerConfig's, but that a client may come without a
// certificate, to join, and a readmitted one with an expired certificate. Every
// request asks judge again, so nothing rests on the handshake alone.
func (s *Issuer) tlsConfig(store *pki.Store) *tls.Config {
	c := pki.ServerConfig(store, s.config.Verifier)
	// crypto/tls would judge the time by itself. What it does not verify, judge
	// verifies: the same two walls, in VerifyConnection.
	c.ClientAuth = tls.RequestClientCert
	c.NextProtos = []string{"http/1.1"}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.Version != tls.VersionTLS13 || cs.DidResume {
			return pki.ErrConnection
		}
		_, err := s.judge(cs, time.Now())
		return err
	}
	return c
}
