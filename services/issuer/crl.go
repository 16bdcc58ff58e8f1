package issuer

import (
	"log/slog"
	"math/big"
	"net/http"
	"sync"
	"time"

	"levee/pki/ca"
)

const (
	listLife = 24 * time.Hour // of an X.509 list
	listAge  = time.Hour      // after which a new one is made
)

// crlCache is the newest X.509 list. It is for third parties: our own parts go
// by the list that is published.
type crlCache struct {
	mu     sync.Mutex
	der    []byte
	number uint64 // of the published list that it is of
	made   time.Time
}

// x509List returns the X.509 list of what is revoked now.
func (s *Issuer) x509List(now time.Time) ([]byte, error) {
	s.crl.mu.Lock()
	defer s.crl.mu.Unlock()
	_, number := s.ledger.current()
	if age := now.Sub(s.crl.made); s.crl.der != nil && s.crl.number == number && age >= 0 && age < listAge {
		return s.crl.der, nil
	}
	der, err := ca.IssueRevocationList(s.config.Authority, s.ledger.crlEntries(s.more(), now), crlNumber(number, now), now, now.Add(listLife))
	if err != nil {
		return nil, refuse(http.StatusServiceUnavailable, ReasonProfile, "no list can be made").because(err)
	}
	s.crl.der, s.crl.number, s.crl.made = der, number, now
	return der, nil
}

// crlNumber rises with the published list's number, and between two of those
// with time (RFC 5280, section 5.2.3).
func crlNumber(number uint64, now time.Time) *big.Int {
	n := new(big.Int).Lsh(new(big.Int).SetUint64(number), 40)
	return n.Add(n, big.NewInt(now.Unix()))
}

// more returns the certificates that provisioning issued. To go on without them
// is better than not at all, and the log says so.
func (s *Issuer) more() []certificate {
	if s.config.More == nil {
		return nil
	}
	certs, err := s.config.More()
	if err != nil {
		s.config.Log.Error("what provisioning issued cannot be read: the X.509 list lacks it, and a readmission of all may admit what a bundle replaced", slog.Any("error", err))
	}
	var all []certificate
	for _, cert := range certs {
		if c, err := describe(cert, s.authority); err == nil {
			all = append(all, c)
		}
	}
	return all
}

func (s *Issuer) see() {
	if s.config.Seen == nil {
		return
	}
	if err := s.config.Seen(s.journal.Position()); err != nil {
		s.config.Log.Error("the watermark cannot be written: a journal put back from an older copy would not be noticed", slog.Any("error", err))
	}
}
