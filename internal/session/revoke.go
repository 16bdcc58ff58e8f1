package session

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"levee/internal/wire"
	"levee/pki"
	"levee/pki/revocation"
)

// openRevocations has the session told what is revoked, if policy grants it. It
// does not grant it to people, whose tools see what passed a broker that is told.
func (s *Session) openRevocations(now time.Time) (*revocation.Set, error) {
	b := s.config.Bundle
	filter := wire.Filter(wire.KindRevocations, b.Identity.Site)
	if !s.rights.MaySubscribe(filter) {
		return nil, nil
	}
	set, err := s.config.Revocations, error(nil)
	if set == nil {
		set, err = revocation.Open(revocation.Config{Site: b.Identity.Site, Verifier: b.Verifier, Document: b.Document,
			File: filepath.Join(b.State, revocation.FileName), Skew: b.Policy.Skew(), Log: s.config.Log}, now)
	}
	if err != nil {
		return nil, err
	}
	s.verifier = b.Verifier.WithRevocations(set)
	if !slices.Contains(s.filters, filter) {
		s.filters = append(slices.Clone(s.filters), filter)
	}
	return set, nil
}

// revoke puts a list in force that passed every check of its envelope.
func (s *Session) revoke(d Delivery) error {
	changed, err := s.Revocations().Apply(d.Message.Raw, d.Received)
	if err != nil {
		s.config.Log.Error("list of revocations refused", slog.Any("error", err))
		return err
	}
	if changed {
		s.config.Log.Warn("revocations changed", slog.Uint64("number", s.Revocations().Number()))
	}
	return nil
}

// listed returns a channel that is closed when the next list is in force.
func (s *Session) listed() <-chan struct{} {
	if s.Revocations() == nil {
		return nil
	}
	return s.Revocations().Changed()
}

// checkBroker ends the connection to a broker that was revoked since the
// handshake.
func (s *Session) checkBroker(l *link) error {
	conn, ok := l.conn.Conn.(*tls.Conn)
	if !ok {
		return errors.New("checking broker: not a connection of TLS")
	}
	if _, err := s.verifier.VerifyConnection(conn.ConnectionState(), pki.UsageServer, time.Now()); errors.Is(err, pki.ErrRevoked) {
		return fmt.Errorf("checking broker: %w", err)
	}
	return nil
}
