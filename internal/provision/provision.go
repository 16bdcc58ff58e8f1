// Package provision makes, from an inventory, everything that a site's parts
// are given before any of them runs: authorities, certificates, envelope keys,
// the site document, and a configuration file for each part.
//
// It guarantees that running it again changes nothing that is already there
// and finishes what was interrupted; a bundle is complete when it holds its
// site document, which is written last. Keys are made where they are first
// stored and never written over. It does not seal the authorities' keys: what
// it makes is for one machine that its deployer trusts.
package provision

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"golang.org/x/mod/sumdb/note"

	"levee/envelope/keys"
	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
	"levee/policies"
)

// FileInventory is the inventory, in the directory that is made from it.
const FileInventory = "inventory.yaml"

// Apply makes what the inventory asks for and dir does not hold yet. It
// returns the identities of all bundles.
func Apply(dir string, inv Inventory, now time.Time) ([]pki.Identity, error) {
	ids, err := apply(Layout{Dir: dir}, inv, now)
	if err != nil {
		return nil, fmt.Errorf("provisioning %s: %w", dir, err)
	}
	return ids, nil
}

func apply(l Layout, inv Inventory, now time.Time) ([]pki.Identity, error) {
	if err := inv.Check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.Authority(), 0o700); err != nil {
		return nil, err
	}
	root, err := l.openRoot(inv, now)
	if err != nil {
		return nil, err
	}
	var all []pki.Identity
	for _, s := range inv.Sites {
		d, err := l.openSite(root, s, inv.TrustDomain, now)
		if err != nil {
			return nil, fmt.Errorf("site %s: %w", s.Name, err)
		}
		ids := s.identities(inv.TrustDomain)
		for _, id := range ids {
			if err := l.prepare(d, inv, s, id, now); err != nil {
				return nil, fmt.Errorf("bundle of %s: %w", id.Sender(), err)
			}
		}
		if err := l.distribute(d, s, ids, now); err != nil {
			return nil, fmt.Errorf("site %s: %w", s.Name, err)
		}
		all = append(all, ids...)
	}
	return all, nil
}

// prepare writes whatever a bundle lacks, except its site document.
func (l Layout) prepare(d *deployer, inv Inventory, s Site, id pki.Identity, now time.Time) error {
	dir := l.Bundle(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	issuer := d.issuer(id.Role.Class())
	key, err := openKey(filepath.Join(dir, site.FileKey), func() (crypto.Signer, error) { return ca.NewKey(id.Role) })
	if err != nil {
		return err
	}
	type content struct {
		name string
		mode os.FileMode
		make func() ([]byte, error)
	}
	files := []content{
		{site.FileChain, 0o644, func() ([]byte, error) {
			names := ca.Names{}
			if id.Role == pki.RoleBroker {
				names = s.brokerNames(id.Name)
			}
			leaf, err := ca.IssueLeaf(issuer, id, key.Public(), names, id.Role.Class().MaxLifetime(), now)
			if err != nil {
				return nil, err
			}
			return ca.MarshalCertificates(leaf, issuer.Certificate), nil
		}},
		{site.FileRoot, 0o644, func() ([]byte, error) { return ca.MarshalCertificates(d.root.Certificate), nil }},
		{site.FilePolicy, 0o644, func() ([]byte, error) { return policies.Default(), nil }},
	}
	if id.Role.Class() == pki.ClassMachine {
		files = append(files, content{site.FileKeys, 0o600, func() ([]byte, error) { return d.bundleKeys(id) }})
	}
	if id.Role == pki.RoleRecorder {
		files = append(files, content{records.FileLogKey, 0o600, func() ([]byte, error) {
			signing, _, err := note.GenerateKey(rand.Reader, logOrigin(id))
			return []byte(signing + "\n"), err
		}})
	}
	for _, f := range files {
		if err := createMissing(filepath.Join(dir, f.name), f.mode, f.make); err != nil {
			return err
		}
	}
	return createMissing(l.Config(id), 0o644, func() ([]byte, error) { return l.configuration(inv, s, id) })
}

// createMissing writes what content makes, unless path is there already.
func createMissing(path string, mode os.FileMode, content func() ([]byte, error)) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := content()
	if err != nil || b == nil {
		return err
	}
	return durable.WriteFile(path, b, mode)
}

// bundleKeys returns a machine's own key and the role keys that policy grants
// its role.
func (d *deployer) bundleKeys(id pki.Identity) ([]byte, error) {
	role, err := d.key.Role(id.Role)
	if err != nil {
		return nil, err
	}
	own, err := role.Sender(id.Name, 1)
	if err != nil {
		return nil, err
	}
	policy, err := policies.Parse(policies.Default())
	if err != nil {
		return nil, err
	}
	var granted []keys.RoleKey
	for _, r := range policy.KeyRoles(id.Role) {
		k, err := d.key.Role(r)
		if err != nil {
			return nil, err
		}
		granted = append(granted, k)
	}
	return keys.EncodeBundle(own, granted...), nil
}

// logOrigin names a site's log: its recorder's identity, without the scheme.
func logOrigin(id pki.Identity) string { return id.Host() + "/" + string(id.Role) + "/" + id.Name }

// distribute signs a new site document if the site is not what the last one
// says, and gives every bundle the current one.
func (l Layout) distribute(d *deployer, s Site, ids []pki.Identity, now time.Time) error {
	want, err := l.document(d, s, ids)
	if err != nil {
		return err
	}
	path := filepath.Join(l.site(s.Name), site.FileDocument)
	raw, err := durable.ReadFile(path, site.MaxDocument)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		want.Number = 1
	case err != nil:
		return err
	default:
		v, err := pki.NewVerifier(pki.VerifierConfig{Root: d.root.Certificate, TrustDomain: want.TrustDomain, AllowEvaluation: true})
		if err != nil {
			return err
		}
		have, err := site.ParseDocument(raw, d.root.Certificate, v, now)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		want.Number, want.ID, want.Issued = have.Number, have.ID, have.Issued
		if reflect.DeepEqual(want, *have) {
			return l.copyDocument(raw, ids)
		}
		want.Number++
	}
	want.ID = wire.NewID()
	if raw, err = site.Sign(want, d.people.Signer, d.people.Certificate, d.root.Certificate, now); err != nil {
		return err
	}
	if err := durable.WriteFile(path, raw, 0o644); err != nil {
		return err
	}
	return l.copyDocument(raw, ids)
}

func (l Layout) copyDocument(raw []byte, ids []pki.Identity) error {
	for _, id := range ids {
		path := filepath.Join(l.Bundle(id), site.FileDocument)
		if have, err := durable.ReadFile(path, site.MaxDocument); err == nil && bytes.Equal(have, raw) {
			continue
		}
		if err := durable.WriteFile(path, raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// document returns what the site document must say of the bundles that are
// there. Its number, id and time are the caller's.
func (l Layout) document(d *deployer, s Site, ids []pki.Identity) (site.Document, error) {
	policy, err := policies.Parse(policies.Default())
	if err != nil {
		return site.Document{}, err
	}
	doc := site.Document{TrustDomain: ids[0].TrustDomain, Site: s.Name, PolicyHash: site.HashText(policy.Hash()),
		Pins: []site.Pin{}, Generations: []site.Generation{}}
	for _, b := range s.Brokers {
		doc.Brokers = append(doc.Brokers, site.Broker{Name: b.Name, Address: b.Address})
	}
	for _, id := range ids {
		switch id.Role {
		case pki.RoleMonitor, pki.RoleApprover:
			c, err := pki.LoadCredential(filepath.Join(l.Bundle(id), site.FileKey), filepath.Join(l.Bundle(id), site.FileChain))
			if err != nil {
				return site.Document{}, err
			}
			doc.Pins = append(doc.Pins, site.Pin{Sender: id.Sender(), SPKI: site.HashText(pki.SPKIHash(c.Leaf()))})
		case pki.RoleRecorder:
			text, err := durable.ReadFile(filepath.Join(l.Bundle(id), records.FileLogKey), 1024)
			if err != nil {
				return site.Document{}, err
			}
			if doc.LogKey, err = verifierKey(string(bytes.TrimSpace(text))); err != nil {
				return site.Document{}, err
			}
		}
	}
	return doc, nil
}
