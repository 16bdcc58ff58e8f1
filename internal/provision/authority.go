package provision

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"levee/envelope/keys"
	"levee/internal/durable"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
	"levee/policies"
)

const authorityLifetime = 2 * 365 * 24 * time.Hour

// deployer holds what makes one site's bundles.
type deployer struct {
	root     ca.Issuer
	verifier *pki.Verifier
	machines ca.Issuer
	people   ca.Issuer
	key      keys.SiteKey
	policy   *policies.Policy
	text     []byte // the policy file
	current  issued // the site document in force
}

// issued is a signed site document; it is empty before the first.
type issued struct {
	document *site.Document
	raw      []byte
}

// The deployer's own files, below Layout.site.
const (
	fileMachineCA = "machine-ca" // .key and .pem
	filePeopleCA  = "people-ca"  // .key and .pem
	fileSiteKey   = "site.key"   // the root of the site's envelope keys
)

func (d *deployer) issuer(c pki.Class) ca.Issuer {
	if c == pki.ClassPerson {
		return d.people
	}
	return d.machines
}

// openRoot loads the root, or makes it when nothing was ever issued.
func (l Layout) openRoot(inv Inventory, now time.Time) (ca.Issuer, *pki.Verifier, error) {
	path := filepath.Join(l.Authority(), "root")
	lifetime := ca.MaxRootLifetime
	if inv.Evaluation {
		lifetime = ca.MaxEvaluationLifetime
	}
	entries, err := os.ReadDir(l.Authority())
	if err != nil {
		return ca.Issuer{}, nil, err
	}
	if !exists(path+".pem") && slices.ContainsFunc(entries, fs.DirEntry.IsDir) {
		return ca.Issuer{}, nil, fmt.Errorf("%s.pem is gone, and sites were made below it: restore it", path)
	}
	root, err := openIssuer(path, ca.NewRootKey, func(key crypto.Signer) (*x509.Certificate, error) {
		made, err := ca.NewRoot(key, inv.TrustDomain, ca.RootOptions{Lifetime: lifetime, Evaluation: inv.Evaluation}, now)
		return made.Certificate, err
	})
	if err != nil {
		return ca.Issuer{}, nil, err
	}
	if trustDomain, err := pki.TrustDomain(root.Certificate); err != nil || trustDomain != inv.TrustDomain {
		return ca.Issuer{}, nil, fmt.Errorf("the root in %s is of trust domain %q, the inventory of %q", l.Authority(), trustDomain, inv.TrustDomain)
	}
	if pki.IsEvaluation(root.Certificate) != inv.Evaluation {
		return ca.Issuer{}, nil, fmt.Errorf("of the root in %s and the inventory one is for evaluation and the other is not", l.Authority())
	}
	if now.After(root.Certificate.NotAfter) {
		return ca.Issuer{}, nil, fmt.Errorf("the root in %s expired on %s; move %s away and start anew", l.Authority(),
			root.Certificate.NotAfter.UTC().Format(time.DateOnly), l.Dir)
	}
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: inv.TrustDomain, AllowEvaluation: true})
	return root, v, err
}

// openSite loads what makes the bundles of one site, and makes what is missing
// and cannot have been used yet.
func (l Layout) openSite(root ca.Issuer, v *pki.Verifier, s Site, trustDomain string, now time.Time) (*deployer, error) {
	dir := l.site(s.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &deployer{root: root, verifier: v}
	for _, a := range []struct {
		class  pki.Class
		file   string
		issuer *ca.Issuer
		zones  ca.Zones
	}{
		{pki.ClassMachine, fileMachineCA, &d.machines, ca.Zones{Networks: s.Networks}},
		{pki.ClassPerson, filePeopleCA, &d.people, ca.Zones{}},
	} {
		path := filepath.Join(dir, a.file)
		authority := pki.Authority{TrustDomain: trustDomain, Site: s.Name, Class: a.class}
		issuer, err := openIssuer(path, ca.NewAuthorityKey, func(key crypto.Signer) (*x509.Certificate, error) {
			return ca.IssueAuthority(root, authority, key.Public(), a.zones, authorityLifetime, now)
		})
		if err != nil {
			return nil, err
		}
		if is, err := v.VerifyAuthority(issuer.Certificate, now); err != nil {
			return nil, fmt.Errorf("%s.pem: %w", path, err)
		} else if is != authority {
			return nil, fmt.Errorf("%s.pem is the authority of %s, not of %s", path, is.Host(), authority.Host())
		}
		*a.issuer = issuer
	}
	var err error
	if d.key, err = l.openSiteKey(s.Name); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, site.FilePolicy)
	if err := createMissing(path, 0o644, func() ([]byte, error) { return policies.Default(), nil }); err != nil {
		return nil, err
	}
	if d.text, err = durable.ReadFile(path, policies.MaxBytes); err != nil {
		return nil, err
	}
	if d.policy, err = policies.Parse(d.text); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	d.current, err = l.newestDocument(d, s.identities(trustDomain), now)
	return d, err
}

// openSiteKey loads the root of a site's envelope keys. Another one in its
// place would give new parts keys that no old part accepts.
func (l Layout) openSiteKey(name string) (keys.SiteKey, error) {
	path := filepath.Join(l.site(name), fileSiteKey)
	key, err := keys.LoadSite(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if exists(l.bundles(name)) {
		return keys.SiteKey{}, fmt.Errorf("%s is gone, and bundles were made with it: restore it", path)
	}
	if key, err = keys.NewSiteKey(name); err != nil {
		return keys.SiteKey{}, err
	}
	return key, durable.WriteFile(path, keys.EncodeSite(key), 0o600)
}

// newestDocument returns the site document with the highest number that was
// given out. The deployer's own copy may be lost, or from a backup; parts
// refuse a lower number than one they have seen.
func (l Layout) newestDocument(d *deployer, ids []pki.Identity, now time.Time) (newest issued, err error) {
	own := l.document(ids[0].Site)
	paths := []string{own}
	for _, id := range ids {
		paths = append(paths, filepath.Join(l.Bundle(id), site.FileDocument))
	}
	for _, path := range paths {
		raw, err := durable.ReadFile(path, site.MaxDocument)
		if errors.Is(err, fs.ErrNotExist) || err == nil && string(raw) == string(newest.raw) {
			continue
		}
		if err != nil {
			return issued{}, err
		}
		document, err := site.ParseDocument(raw, d.root.Certificate, d.verifier, now)
		switch {
		case err != nil && path == own:
			return issued{}, fmt.Errorf("%s: %w", path, err)
		case err != nil || document.Site != ids[0].Site: // a bundle's copy is replaced
		case newest.document == nil || document.Number > newest.document.Number:
			newest = issued{document, raw}
		}
	}
	return newest, nil
}

// openIssuer loads path.key and path.pem, and makes what is missing. A key
// without a certificate is one whose making was interrupted.
func openIssuer(path string, newKey func() (crypto.Signer, error), issue func(crypto.Signer) (*x509.Certificate, error)) (ca.Issuer, error) {
	key, err := openKey(path+".key", path+".pem", newKey)
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

// openKey loads a private key, or makes it. It makes none where a certificate
// shows that there was one.
func openKey(path, certificate string, newKey func() (crypto.Signer, error)) (crypto.Signer, error) {
	key, err := pki.ReadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if exists(certificate) {
		return nil, fmt.Errorf("%s is gone, and there is a certificate for it: restore it, or remove %s as well", path, certificate)
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

// exists reports whether there is anything at path, or nobody can tell.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
