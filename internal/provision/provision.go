// Package provision makes, from an inventory, everything that a site's parts
// are given before any of them runs: authorities, certificates, envelope keys,
// the site document, and a configuration file for each part. A part's bundle is
// one directory, which works on whatever machine it is carried to.
//
// It guarantees that running it again changes nothing that is already as it
// should be, and finishes what was interrupted; a bundle is complete when it
// holds its site document, which is written last. A private key is made where
// it is first stored and never written over, and what is gone is not made anew
// where something depends on it. What follows from the deployer's own files is
// kept equal to them: policy, envelope keys, site document. A configuration
// file is written once and belongs to its part's operator from then on.
//
// It renews nothing, does not seal the authorities' keys, and two runs at a time
// are the caller's to prevent: what it makes is for one machine that its deployer
// trusts.
package provision

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/sumdb/note"

	"levee/envelope/keys"
	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
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
	root, verifier, err := l.openRoot(inv, now)
	if err != nil {
		return nil, err
	}
	var all []pki.Identity
	for _, s := range inv.Sites {
		d, err := l.openSite(root, verifier, s, inv.TrustDomain, now)
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
	if err := l.markNew(id, now); err != nil {
		return err
	}
	if err := l.openCredential(d, s, id, now); err != nil {
		return err
	}
	files := map[string][]byte{site.FileRoot: ca.MarshalCertificates(d.root.Certificate), site.FilePolicy: d.text}
	path := filepath.Join(dir, site.FileRoot)
	switch have, err := durable.ReadFile(path, 64<<10); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !bytes.Equal(have, files[site.FileRoot]):
		return fmt.Errorf("%s is not the deployer's root", path)
	}
	if id.Role.Class() == pki.ClassMachine {
		b, err := d.bundleKeys(id)
		if err != nil {
			return err
		}
		files[site.FileKeys] = b
	}
	if id.Role == pki.RoleRecorder {
		files[records.FileSums] = records.Sums(files)
		if err := l.openLogKey(d, id); err != nil {
			return err
		}
	}
	for _, name := range []string{site.FileRoot, site.FilePolicy, site.FileKeys, records.FileSums} {
		if files[name] == nil {
			continue
		}
		mode := os.FileMode(0o644)
		if name == site.FileKeys {
			mode = 0o600
		}
		if err := keep(filepath.Join(dir, name), mode, files[name]); err != nil {
			return err
		}
	}
	return createMissing(l.Config(id), 0o644, func() ([]byte, error) { return l.configuration(inv, s, id) })
}

// markNew notes in a bundle that was never complete that its part never ran, so
// that its first start makes what it remembers, and no later one does. The note
// comes before everything else of the bundle: once there is a key, or the site
// document of a bundle whose key is renewed, nobody can tell whether it was used.
func (l Layout) markNew(id pki.Identity, now time.Time) error {
	if id.Role.Class() != pki.ClassMachine || id.Role == pki.RoleGuest { // guests run no part of ours
		return nil
	}
	dir := l.Bundle(id)
	for _, name := range []string{site.FileKey, site.FileChain, site.FileDocument} {
		if exists(filepath.Join(dir, name)) {
			return nil
		}
	}
	if id.Role == pki.RoleRecorder {
		if err := keep(filepath.Join(dir, records.FileNewLog), 0o644, []byte(records.NewLog)); err != nil {
			return err
		}
	}
	return createMissing(filepath.Join(dir, site.FileFirstStart), 0o644, func() ([]byte, error) { return site.FirstStart(now), nil })
}

// openCredential makes key and certificate of a bundle that lacks them, and
// checks those of one that does not. Whether the certificate has expired is
// for its part to say.
func (l Layout) openCredential(d *deployer, s Site, id pki.Identity, now time.Time) error {
	keyFile, chainFile := filepath.Join(l.Bundle(id), site.FileKey), filepath.Join(l.Bundle(id), site.FileChain)
	key, err := openKey(keyFile, chainFile, func() (crypto.Signer, error) { return ca.NewKey(id.Role) })
	if err != nil {
		return err
	}
	issuer := d.issuer(id.Role.Class())
	err = createMissing(chainFile, 0o644, func() ([]byte, error) {
		names := ca.Names{}
		if id.Role == pki.RoleBroker {
			names = s.brokerNames(id.Name)
		}
		leaf, err := ca.IssueLeaf(issuer, id, key.Public(), names, id.Role.Class().MaxLifetime(), now)
		if err != nil {
			return nil, err
		}
		return ca.MarshalCertificates(leaf, issuer.Certificate), nil
	})
	if err != nil {
		return err
	}
	c, err := pki.LoadCredential(keyFile, chainFile)
	if err != nil {
		return err
	}
	is, err := d.verifier.Verify(c.Leaf(), c.Issuer(), pki.UsageSign, c.Leaf().NotBefore)
	if err != nil {
		return fmt.Errorf("%s: %w", chainFile, err)
	}
	if is != id {
		return fmt.Errorf("%s is the certificate of %s", chainFile, is)
	}
	if id.Role == pki.RoleBroker {
		host, _, err := net.SplitHostPort(s.broker(id.Name).Address)
		if err == nil {
			err = c.Leaf().VerifyHostname(host)
		}
		if err != nil {
			return fmt.Errorf("the certificate of %s is not for its address (%w): remove its %s and %s, and run this again", id.Sender(), err, site.FileKey, site.FileChain)
		}
	}
	return nil
}

// openLogKey makes the key of a site's log, once: another one could not
// continue what was signed with the first.
func (l Layout) openLogKey(d *deployer, id pki.Identity) error {
	path := filepath.Join(l.Bundle(id), records.FileLogKey)
	return createMissing(path, 0o600, func() ([]byte, error) {
		if d.current.document != nil && d.current.document.LogKey != "" {
			return nil, fmt.Errorf("the site's log has a key already, %q: put that one back at %s", d.current.document.LogKey, path)
		}
		signing, _, err := note.GenerateKey(rand.Reader, logOrigin(id))
		return []byte(signing + "\n"), err
	})
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

// keep writes b unless path holds it already.
func keep(path string, mode os.FileMode, b []byte) error {
	if have, err := durable.ReadFile(path, int64(len(b))); err == nil && bytes.Equal(have, b) {
		return nil
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
	if own.ID().Site != id.Site {
		return nil, fmt.Errorf("the site key is of site %q", own.ID().Site)
	}
	var granted []keys.RoleKey
	for _, r := range d.policy.KeyRoles(id.Role) {
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
