package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"sync"
	"time"
)

// maxVouched bounds the authorities that are remembered: two for each site, and
// their predecessors.
const maxVouched = 128

// vouched remembers which authorities' certificates the root has signed. That
// signature is ECDSA P-384, costs a millisecond, and depends on no time; whoever
// may connect could make a broker verify it for each connection. Everything else
// of the first wall is judged anew each time, with the authority as the anchor.
//
// Only certificates that passed the first wall whole are remembered, so that
// nobody but the root can fill it.
type vouched struct {
	root *x509.Certificate
	// plain says that the root restricts neither names nor usages, so that an
	// answer below an authority never depends on which root is above it.
	plain bool

	mu      sync.RWMutex
	anchors map[[sha256.Size]byte]*x509.CertPool // by SHA-256 of the DER
}

func newVouched(root *x509.Certificate) *vouched {
	restricted := slices.ContainsFunc(root.Extensions, func(e pkix.Extension) bool {
		return e.Id.Equal(oidNameConstraints) || e.Id.Equal(oidExtKeyUsage)
	})
	return &vouched{root: root, plain: !restricted, anchors: make(map[[sha256.Size]byte]*x509.CertPool)}
}

// anchor returns a pool of the issuer alone if the root is known to have signed
// exactly this certificate, and is valid at the time at; else nil.
func (v *vouched) anchor(issuer *x509.Certificate, at time.Time) *x509.CertPool {
	if !v.plain || at.Before(v.root.NotBefore) || at.After(v.root.NotAfter) {
		return nil
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.anchors[sha256.Sum256(issuer.Raw)]
}

// add remembers an issuer that passed the first wall up to the root.
func (v *vouched) add(issuer *x509.Certificate) {
	if !v.plain {
		return
	}
	pool := x509.NewCertPool()
	pool.AddCert(issuer)
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.anchors) < maxVouched {
		v.anchors[sha256.Sum256(issuer.Raw)] = pool
	}
}
