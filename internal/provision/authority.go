package provision

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
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
	machines authority
	people   authority
	key      keys.SiteKey
	policy   *policies.Policy
	text     []byte // the policy file
	current  issued // the site document in force
}

// authority is one issuing authority of a site and the journal of what it
// issued. In a dry walk that would make it, it has neither certificate nor key.
type authority struct {
	ca.Issuer
	journal *journal
}

// issued is a signed site document; it is empty before the first.
type issued struct {
	document *site.Document
	raw      []byte
	signer   *x509.Certificate // the people authority then
}

// The deployer's own files: the root's in Layout.Authority, the others in a
// directory for each site.
const (
	fileRoot      = "root"       // .key and .pem
	fileMachineCA = "machine-ca" // .key and .pem
	filePeopleCA  = "people-ca"  // .key and .pem
	fileSiteKey   = "site.key"   // the root of the site's envelope keys
)

func (d *deployer) authority(c pki.Class) *authority {
	if c == pki.ClassPerson {
		return &d.people
	}
	return &d.machines
}

// openRoot loads the root, or makes it when nothing was ever issued. Its key may
// lie elsewhere: only a new authority needs it.
func (r *run) openRoot() (ca.Issuer, *pki.Verifier, error) {
	inv, path := r.config.Inventory, filepath.Join(r.Authority(), fileRoot)
	lifetime := ca.MaxRootLifetime
	if inv.Evaluation {
		lifetime = ca.MaxEvaluationLifetime
	}
	entries, err := os.ReadDir(r.Authority())
	if err != nil && !(r.dry && errors.Is(err, fs.ErrNotExist)) {
		return ca.Issuer{}, nil, err
	}
	if err := r.sweep(r.Authority()); err != nil {
		return ca.Issuer{}, nil, err
	}
	if !exists(path+".pem") && slices.ContainsFunc(entries, fs.DirEntry.IsDir) {
		return ca.Issuer{}, nil, fmt.Errorf("%s.pem is gone, and sites were made below it: restore it", path)
	}
	root, err := r.openIssuer(path, SecretRoot, ca.NewRootKey, func(key crypto.Signer) (*x509.Certificate, error) {
		made, err := ca.NewRoot(key, inv.TrustDomain, ca.RootOptions{Lifetime: lifetime, Evaluation: inv.Evaluation}, r.now)
		return made.Certificate, err
	})
	if err == nil && root.Certificate == nil { // a dry walk goes on below one that nobody keeps
		root, err = trialRoot(inv, lifetime, r.now)
	}
	if err != nil {
		return ca.Issuer{}, nil, err
	}
	if trustDomain, err := pki.TrustDomain(root.Certificate); err != nil || trustDomain != inv.TrustDomain {
		return ca.Issuer{}, nil, fmt.Errorf("the root in %s is of trust domain %q, the inventory of %q", r.Authority(), trustDomain, inv.TrustDomain)
	}
	if pki.IsEvaluation(root.Certificate) != inv.Evaluation {
		return ca.Issuer{}, nil, fmt.Errorf("of the root in %s and the inventory one is for evaluation and the other is not", r.Authority())
	}
	if r.now.After(root.Certificate.NotAfter) {
		return ca.Issuer{}, nil, fmt.Errorf("the root in %s expired on %s; move %s away and start anew", r.Authority(),
			root.Certificate.NotAfter.UTC().Format(time.DateOnly), r.Dir)
	}
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: inv.TrustDomain, AllowEvaluation: true})
	return root, v, err
}

func trialRoot(inv Inventory, lifetime time.Duration, now time.Time) (ca.Issuer, error) {
	key, err := ca.NewRootKey()
	if err != nil {
		return ca.Issuer{}, err
	}
	return ca.NewRoot(key, inv.TrustDomain, ca.RootOptions{Lifetime: lifetime, Evaluation: inv.Evaluation}, now)
}

// siteAuthority is what an inventory says of one of a site's two authorities.
type siteAuthority struct {
	pki.Authority
	file  string // below Layout.site, without extension
	zones ca.Zones
}

func (s Site) authorities(trustDomain string) [2]siteAuthority {
	return [2]siteAuthority{
		{pki.Authority{TrustDomain: trustDomain, Site: s.Name, Class: pki.ClassMachine}, fileMachineCA, ca.Zones{Networks: s.Networks}},
		{pki.Authority{TrustDomain: trustDomain, Site: s.Name, Class: pki.ClassPerson}, filePeopleCA, ca.Zones{}},
	}
}

// openSite loads what makes the bundles of one site, and makes what is missing
// and cannot have been used yet.
func (r *run) openSite(root ca.Issuer, v *pki.Verifier, s Site) (*deployer, error) {
	dir, trustDomain := r.site(s.Name), r.config.Inventory.TrustDomain
	if err := errors.Join(r.directory(dir), r.sweep(dir)); err != nil {
		return nil, err
	}
	d := &deployer{root: root, verifier: v}
	for _, a := range s.authorities(trustDomain) {
		path := filepath.Join(dir, a.file)
		if err := r.lost(s.Name, a.Class, path); err != nil {
			return nil, err
		}
		issuer, err := r.openIssuer(path, SecretSites, ca.NewAuthorityKey, func(key crypto.Signer) (*x509.Certificate, error) {
			return ca.IssueAuthority(root, a.Authority, key.Public(), a.zones, authorityLifetime, r.now)
		})
		if err != nil {
			return nil, err
		}
		if issuer.Certificate != nil {
			if err := a.check(path+".pem", issuer.Certificate, v, r.now); err != nil {
				return nil, err
			}
			if !a.permitted(issuer.Certificate) {
				r.note(path+".pem", "it permits other networks than the inventory: to have it made anew with the same key, remove this file, bring the root's key, and run apply")
			}
		}
		j, err := r.openJournal(s.Name, a.Class, root, issuer, v)
		if err != nil {
			return nil, err
		}
		*d.authority(a.Class) = authority{issuer, j}
	}
	var err error
	if d.key, err = r.openSiteKey(s.Name); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, site.FilePolicy)
	if err := r.createMissing(path, public, func() ([]byte, error) { return policies.Default(), nil }); err != nil {
		return nil, err
	}
	if d.text = policies.Default(); !r.planned(path) {
		if d.text, err = durable.ReadFile(path, policies.MaxBytes); err != nil {
			return nil, err
		}
	}
	if d.policy, err = policies.Parse(d.text); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	d.current, err = r.newestDocument(d, s.identities(trustDomain))
	return d, err
}

// lost refuses to make an authority anew that is gone altogether and was there:
// nothing that the first one issued would belong to the second.
func (r *run) lost(name string, class pki.Class, path string) error {
	if exists(path+".key") || exists(path+".pem") {
		return nil
	}
	trace, err := r.anyChain(name, class)
	if err != nil {
		return err
	}
	if info, err := os.Lstat(r.Journal(name, class)); err == nil && info.Size() > 0 {
		trace = r.Journal(name, class)
	}
	documents, err := filepath.Glob(filepath.Join(r.bundles(name), "*", "*", site.FileDocument))
	if err != nil {
		return err
	}
	for _, document := range append(documents, r.document(name)) { // both authorities are older than the first one
		if trace == "" && exists(document) {
			trace = document
		}
	}
	if trace == "" {
		return nil
	}
	return drift(path+".key", "it is gone, with its certificate, and there is %s: restore both; a site whose authority is lost for good begins anew, with its directories in authority and bundles moved away", trace)
}

// check wants the certificate at path to be this authority's, below our root.
func (a siteAuthority) check(path string, cert *x509.Certificate, v *pki.Verifier, now time.Time) error {
	is, err := v.VerifyAuthority(cert, now)
	if err != nil {
		return drift(path, "%w", err)
	}
	if is != a.Authority {
		return drift(path, "it is the authority of %s, not of %s", is.Host(), a.Host())
	}
	return nil
}

// permitted reports whether cert permits the networks of the inventory and no
// others.
func (a siteAuthority) permitted(cert *x509.Certificate) bool {
	return slices.EqualFunc(cert.PermittedIPRanges, a.zones.Networks, func(n *net.IPNet, p netip.Prefix) bool { return n.String() == p.String() })
}

// openSiteKey loads the root of a site's envelope keys. Another one in its
// place would give new parts keys that no old part accepts.
func (r *run) openSiteKey(name string) (keys.SiteKey, error) {
	path := filepath.Join(r.site(name), fileSiteKey)
	key, err := keys.LoadSite(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if exists(r.bundles(name)) {
		return keys.SiteKey{}, drift(path, "it is gone, and bundles were made with it: restore it")
	}
	if key, err = keys.NewSiteKey(name); err != nil {
		return keys.SiteKey{}, err
	}
	return key, r.create(path, secret, func() ([]byte, error) { return keys.EncodeSite(key), nil })
}

// newestDocument returns the site document with the highest number that was
// given out. The deployer's own copy may be lost, or from a backup; parts
// refuse a lower number than one they have seen. So the number counts even if
// its signer's certificate has ended since, or a clock was wrong.
func (r *run) newestDocument(d *deployer, ids []pki.Identity) (newest issued, err error) {
	own := r.document(ids[0].Site)
	paths := []string{own}
	for _, id := range ids {
		paths = append(paths, filepath.Join(r.Bundle(id), site.FileDocument))
	}
	for _, path := range paths {
		raw, err := durable.ReadFile(path, site.MaxDocument)
		if errors.Is(err, fs.ErrNotExist) || err == nil && string(raw) == string(newest.raw) {
			continue
		}
		if err != nil {
			return issued{}, err
		}
		document, signer, err := site.ParseIssued(raw, d.root.Certificate, d.verifier)
		switch {
		case err != nil && path == own:
			return issued{}, drift(path, "%w", err)
		case err != nil || document.Site != ids[0].Site: // a bundle's copy is replaced
		case newest.document == nil || document.Number > newest.document.Number:
			newest = issued{document, raw, signer}
		}
	}
	return newest, nil
}

// openIssuer loads path.key and path.pem, and makes what is missing. A key
// without a certificate is one whose making was interrupted, or whose
// certificate is asked for elsewhere.
func (r *run) openIssuer(path string, whose Secret, newKey func() (crypto.Signer, error), issue func(crypto.Signer) (*x509.Certificate, error)) (ca.Issuer, error) {
	cert, err := pki.ReadCertificate(path + ".pem")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ca.Issuer{}, drift(path+".pem", "%w", err)
	}
	if err == nil {
		key, err := r.openAuthorityKey(path+".key", whose, cert)
		return ca.Issuer{Certificate: cert, Signer: key}, err
	}
	if whose != SecretRoot && exists(filepath.Join(r.Authority(), fileRoot+".pem")) && !exists(filepath.Join(r.Authority(), fileRoot+".key")) {
		return ca.Issuer{}, errNoRoot
	}
	var key crypto.Signer
	if exists(path + ".key") {
		if key, err = r.openAuthorityKey(path+".key", whose, nil); err != nil {
			return ca.Issuer{}, err
		}
	} else {
		if key, err = r.makeAuthorityKey(path+".key", whose, newKey); err != nil {
			return ca.Issuer{}, err
		}
	}
	err = r.write(path+".pem", public, func() ([]byte, error) {
		if cert, err = issue(key); err != nil {
			return nil, err
		}
		return pki.MarshalCertificates(cert), nil
	})
	return ca.Issuer{Certificate: cert, Signer: key}, err
}

// errNoRoot says that a new authority is needed, and the root's key is elsewhere.
var errNoRoot = errors.New("the root's key is elsewhere")
