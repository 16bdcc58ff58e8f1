package provision

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"levee/envelope/keys"
	"levee/internal/durable"
	"levee/pki"
	"levee/pki/ca"
)

const authorityLifetime = 2 * 365 * 24 * time.Hour

// deployer holds what makes one site's bundles.
type deployer struct {
	root     ca.Issuer
	machines ca.Issuer
	people   ca.Issuer
	key      keys.SiteKey
}

func (d *deployer) issuer(c pki.Class) ca.Issuer {
	if c == pki.ClassPerson {
		return d.people
	}
	return d.machines
}

// openRoot loads the root, or makes it when the directory holds none.
func (l Layout) openRoot(inv Inventory, now time.Time) (ca.Issuer, error) {
	lifetime := ca.MaxRootLifetime
	if inv.Evaluation {
		lifetime = ca.MaxEvaluationLifetime
	}
	root, err := openIssuer(filepath.Join(l.Authority(), "root"), ca.NewRootKey, func(key crypto.Signer) (*x509.Certificate, error) {
		made, err := ca.NewRoot(key, inv.TrustDomain, ca.RootOptions{Lifetime: lifetime, Evaluation: inv.Evaluation}, now)
		return made.Certificate, err
	})
	if err != nil {
		return ca.Issuer{}, err
	}
	if trustDomain, err := pki.TrustDomain(root.Certificate); err != nil || trustDomain != inv.TrustDomain {
		return ca.Issuer{}, fmt.Errorf("the root in %s is of trust domain %q, the inventory of %q", l.Authority(), trustDomain, inv.TrustDomain)
	}
	if now.After(root.Certificate.NotAfter) {
		return ca.Issuer{}, fmt.Errorf("the root in %s expired on %s; move %s away and start anew", l.Authority(),
			root.Certificate.NotAfter.UTC().Format(time.DateOnly), l.Dir)
	}
	return root, nil
}

func (l Layout) openSite(root ca.Issuer, s Site, trustDomain string, now time.Time) (*deployer, error) {
	dir := l.site(s.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &deployer{root: root}
	for _, a := range []struct {
		class  pki.Class
		file   string
		issuer *ca.Issuer
		zones  ca.Zones
	}{
		{pki.ClassMachine, "machine-ca", &d.machines, ca.Zones{Networks: s.Networks}},
		{pki.ClassPerson, "people-ca", &d.people, ca.Zones{}},
	} {
		authority := pki.Authority{TrustDomain: trustDomain, Site: s.Name, Class: a.class}
		issuer, err := openIssuer(filepath.Join(dir, a.file), ca.NewAuthorityKey, func(key crypto.Signer) (*x509.Certificate, error) {
			return ca.IssueAuthority(root, authority, key.Public(), a.zones, authorityLifetime, now)
		})
		if err != nil {
			return nil, err
		}
		*a.issuer = issuer
	}
	path := filepath.Join(dir, "site.key")
	key, err := keys.LoadSite(path)
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = keys.NewSiteKey(s.Name); err == nil {
			err = durable.WriteFile(path, keys.EncodeSite(key), 0o600)
		}
	}
	d.key = key
	return d, err
}

// openIssuer loads path.key and path.pem, and makes what is missing. A key
// without a certificate is one whose making was interrupted.
func openIssuer(path string, newKey func() (crypto.Signer, error), issue func(crypto.Signer) (*x509.Certificate, error)) (ca.Issuer, error) {
	key, err := openKey(path+".key", newKey)
	if err != nil {
		return ca.Issuer{}, err
	}
	cert, err := pki.ReadCertificate(path + ".pem")
	if errors.Is(err, fs.ErrNotExist) {
		if cert, err = issue(key); err == nil {
			err = durable.WriteFile(path+".pem", ca.MarshalCertificates(cert), 0o644)
		}
	}
	if err != nil {
		return ca.Issuer{}, err
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return ca.Issuer{}, fmt.Errorf("%s.key is not the key of %s.pem", path, path)
	}
	return ca.Issuer{Certificate: cert, Signer: key}, nil
}

// openKey loads a private key, or makes it.
func openKey(path string, newKey func() (crypto.Signer, error)) (crypto.Signer, error) {
	key, err := pki.ReadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = newKey(); err != nil {
		return nil, err
	}
	b, err := ca.MarshalKey(key)
	if err != nil {
		return nil, err
	}
	return key, durable.WriteFile(path, b, 0o600)
}
