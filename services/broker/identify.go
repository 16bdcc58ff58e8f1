package broker

import (
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"levee/pki"
	"levee/policies"
)

// grant is what policy allows a session. Another policy replaces it whole.
type grant struct {
	policy *policies.Policy // that it follows from
	rights *policies.Rights
	limits policies.Limits
}

// granted returns what policy allows an identity, false if it has no role there.
func granted(p *policies.Policy, id pki.Identity) (*grant, bool) {
	rights := p.Rights(id)
	g := &grant{policy: p, rights: rights, limits: rights.Limits()}
	return g, g.limits.MessagesPerSecond > 0
}

// identify completes TLS and finds out whose connection it is. The
// configuration's VerifyConnection has judged the certificate already; it is
// judged here again, for the identity, and so that nothing depends on how that
// configuration came about.
func (s *session) identify(timeout time.Duration) error {
	defer s.shaking.finish()
	s.shaking.within(timeout)
	_ = s.out.SetReadDeadline(s.shaking.until)
	if err := s.tls.Handshake(); err != nil {
		return fmt.Errorf("completing TLS: %w", err)
	}
	now := time.Now()
	b := s.b
	id, err := b.verifier.VerifyConnection(s.tls.ConnectionState(), pki.UsageClient, now)
	if err != nil {
		return err
	}
	if id.Site != b.site {
		return fmt.Errorf("checking identity %s: %w", id, BadCertificate)
	}
	g, ok := granted(b.policy(), id)
	if !ok {
		return fmt.Errorf("checking identity %s: %w", id, NoRole)
	}
	s.identity, s.sender = id, id.Sender()
	s.leaf = s.tls.ConnectionState().PeerCertificates[0]
	until, began := b.bans.arrive(s.sender, g.policy.Broker(), now)
	if began {
		b.banned(s.sender, tooOften, until)
	}
	if !until.IsZero() {
		return banned(id, until)
	}
	s.grant.Store(g)
	s.account = b.registry.open(s.sender, g.limits, now)
	s.known.Store(true)
	// What came since was not asked, and did not see s.
	if b.revocations.Revoked(id, s.leaf) {
		return fmt.Errorf("checking identity %s: %w", id, Revoked)
	}
	if until := b.bans.until(s.sender, now); !until.IsZero() {
		return banned(id, until)
	}
	return b.judgeAgain(s)
}

// judging returns a configuration that judges a client's certificate in its
// VerifyConnection alone: package tls would verify the same chain first, and up
// to the root each time, which costs a millisecond of whoever lets clients
// connect. identify judges it a second time. Who is banned is refused before
// either, and may come back as often as it likes.
func (b *Broker) judging(config *tls.Config) *tls.Config {
	config = config.Clone()
	config.ClientAuth = tls.RequireAnyClientCert
	verify, domain := config.VerifyConnection, strings.TrimPrefix(b.host, b.site+".")
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) > 0 && len(cs.PeerCertificates[0].URIs) == 1 {
			if id, err := pki.ParseIdentity(cs.PeerCertificates[0].URIs[0].String(), domain); err == nil {
				if until := b.bans.until(id.Sender(), time.Now()); !until.IsZero() {
					return banned(id, until)
				}
			}
		}
		return verify(cs)
	}
	return config
}

func banned(id pki.Identity, until time.Time) error {
	return fmt.Errorf("checking identity %s: %w until %s", id, Banned, until.UTC().Format(time.RFC3339))
}
