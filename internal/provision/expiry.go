package provision

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"levee/internal/durable"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/seal"
)

// Expiry is one certificate of a deployer's directory, and when it ends.
type Expiry struct {
	Who       string    `json:"who"` // "root", "melb machine authority" or site/role/name
	Path      string    `json:"path"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	RenewBy   time.Time `json:"renew_by"`
	Key       KeyState  `json:"key"`
	// Renews: its part renews it with the site's issuer, and has a newer one.
	Renews bool `json:"renews"`
}

// Late reports whether somebody has to renew it by now.
func (e Expiry) Late(now time.Time) bool { return !e.Renews && !now.Before(e.RenewBy) }

// Early reports whether it is not valid yet: its deployer's clock was ahead when
// it was made.
func (e Expiry) Early(now time.Time) bool { return now.Before(e.NotBefore) }

// KeyState says how the certificate's key is kept.
type KeyState string

// The states of keys.
const (
	KeySealed  KeyState = "sealed"
	KeyPlain   KeyState = "UNSEALED" // an authority's, which should be
	KeyOwn     KeyState = "bundle"   // a bundle's, which its part must read by itself
	KeyAway    KeyState = "elsewhere"
	KeyUnknown KeyState = "not a file of ours"
)

// authorityWarning is how long before its end an authority is to be renewed:
// everything below it has to follow.
const authorityWarning = 30 * 24 * time.Hour

// Days returns how many whole days are left, none if it has expired.
func (e Expiry) Days(now time.Time) int { return max(0, int(e.NotAfter.Sub(now)/(24*time.Hour))) }

// RenewBy returns when a certificate is to be renewed at the latest.
func RenewBy(cert *x509.Certificate) time.Time {
	if cert.IsCA {
		return cert.NotAfter.Add(-min(authorityWarning, cert.NotAfter.Sub(cert.NotBefore)/3)).UTC()
	}
	return cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore) / 3).UTC()
}

// Expiries returns the certificates of a deployer's directory that the inventory
// names, in the order in which they are to be renewed.
func Expiries(dir string, inv Inventory) ([]Expiry, error) {
	l := Layout{Dir: dir}
	type file struct {
		who, path, key string
		renews         bool
	}
	files := []file{{"root", filepath.Join(l.Authority(), fileRoot+".pem"), filepath.Join(l.Authority(), fileRoot+".key"), false}}
	for _, s := range inv.Sites {
		for _, a := range s.authorities(inv.TrustDomain) {
			path := filepath.Join(l.site(s.Name), a.file)
			files = append(files, file{s.Name + " " + a.Class.String() + " authority", path + ".pem", path + ".key", false})
		}
		for _, id := range s.identities(inv.TrustDomain) {
			renews := len(s.Issuers) > 0 && id.Role.Class() == pki.ClassMachine && id.Role != pki.RoleGuest
			files = append(files, file{id.Sender(), filepath.Join(l.Bundle(id), site.FileChain), "", renews})
		}
	}
	all := make([]Expiry, 0, len(files))
	for _, f := range files {
		cert, err := firstCertificate(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, Expiry{Who: f.who, Path: f.path, NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), RenewBy: RenewBy(cert), Key: keyState(f.key), Renews: f.renews})
	}
	slices.SortStableFunc(all, func(a, b Expiry) int { return a.RenewBy.Compare(b.RenewBy) })
	return all, nil
}

// firstCertificate returns the first certificate of a chain's file.
func firstCertificate(path string) (*x509.Certificate, error) {
	text, err := durable.ReadFile(path, maxCarried)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s begins with no certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

// keyState looks at the key file of an authority; "" is a bundle's.
func keyState(path string) KeyState {
	if path == "" {
		return KeyOwn
	}
	text, err := durable.ReadFile(path, seal.MaxSealed)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return KeyAway
	case err != nil:
		return KeyUnknown
	case seal.Is(text):
		return KeySealed
	default:
		return KeyPlain
	}
}
