// Package provision makes, from an inventory, everything that a site's parts
// are given before any of them runs: authorities, certificates, envelope keys,
// the site document, and a configuration file for each part. A part's bundle is
// one directory, which works on whatever machine it is carried to.
//
// It guarantees that running it again changes nothing that is already as it
// should be, and finishes what was interrupted; a bundle is complete when it
// holds its site document, which is written last. A private key is made where
// it is first stored and never written over, and what is gone is not made anew
// where something depends on it. The keys of authorities are sealed unless the
// caller says otherwise, and opened only to sign; the root's is needed for new
// authorities alone. A certificate is in its authority's journal, on disk, before
// it is in a bundle. What follows from the deployer's own files is kept equal to
// them: policy, envelope keys, site document, copies of the journals. A
// configuration file is written once and belongs to its part's operator from
// then on. What is not as the inventory says is told, and where anything made
// from it could be wrong, nothing is made.
//
// It renews nothing, and two runs at a time are the caller's to prevent. A
// bundle holds its own key unsealed: what it makes is for one machine that its
// deployer trusts.
package provision

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"levee/envelope/keys"
	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/seal"
)

// FileInventory is the inventory, in the directory that is made from it.
const FileInventory = "inventory.yaml"

// Config says what to provision, and how the keys of authorities are kept.
type Config struct {
	Dir       string
	Inventory Inventory
	// Passphrase returns what seals and opens the keys of whose. made says that a
	// new key is sealed with it. It is called when a key is made or signs, and
	// once for each at most.
	Passphrase func(whose Secret, made bool) (seal.Passphrase, error)
	// Unsealed writes the keys of new authorities as they are: for evaluation
	// and tests.
	Unsealed bool

	edits map[string]Edit // of site documents, by site
}

// Result is what a run did and found.
type Result struct {
	Identities []pki.Identity // of all bundles
	Changes    []Change
	Drift      []Drift
}

// Apply makes what the inventory asks for and dir does not hold yet, with
// authorities whose keys are not sealed: it is for evaluation and tests. It
// returns the identities of all bundles.
func Apply(dir string, inv Inventory, now time.Time) ([]pki.Identity, error) {
	result, err := Config{Dir: dir, Inventory: inv, Unsealed: true}.Apply(now)
	if err != nil {
		return nil, err
	}
	return result.Identities, nil
}

// Ready asks for the passphrases of the keys that Apply would make, so that
// nothing is begun without them.
func (c Config) Ready(now time.Time) error {
	if c.Unsealed {
		return nil
	}
	r := c.run(now, true)
	if _, err := r.walk(); err != nil {
		return fmt.Errorf("planning %s: %w", c.Dir, err)
	}
	for _, whose := range r.seals {
		if _, err := r.newPassphrase(whose); err != nil {
			return err
		}
	}
	return nil
}

// Made reports whether the run issued a certificate for the bundle of id.
func (r Result) Made(id pki.Identity) bool {
	return slices.ContainsFunc(r.Changes, func(c Change) bool {
		return c.Action == Make && filepath.Base(c.Path) == site.FileChain && strings.HasSuffix(filepath.ToSlash(filepath.Dir(c.Path)), "/"+id.Sender())
	})
}

// Plan returns what Apply would do, and does nothing. It needs no passphrase.
func (c Config) Plan(now time.Time) (*Result, error) {
	r := c.run(now, true)
	result, err := r.walk()
	if err != nil {
		return nil, fmt.Errorf("planning %s: %w", c.Dir, err)
	}
	return result, nil
}

// Apply makes what the inventory asks for and Dir does not hold yet. If
// something is there that blocks it, it makes nothing and returns ErrDrift.
func (c Config) Apply(now time.Time) (*Result, error) {
	result, err := c.Plan(now)
	if err != nil {
		return nil, err
	}
	if blocked := result.Blocked(); len(blocked) > 0 {
		return result, fmt.Errorf("provisioning %s: %w:\n  %s", c.Dir, ErrDrift, strings.Join(blocked, "\n  "))
	}
	r := c.run(now, false)
	result, err = r.walk()
	if err = errors.Join(err, r.close()); err != nil {
		return nil, fmt.Errorf("provisioning %s: %w", c.Dir, err)
	}
	return result, nil
}

// Blocked returns why nothing is made, a line each.
func (r Result) Blocked() (lines []string) {
	for _, d := range r.Drift {
		if d.Blocks {
			lines = append(lines, d.String())
		}
	}
	return lines
}

func (c Config) run(now time.Time, dry bool) *run {
	return &run{Layout: Layout{Dir: c.Dir}, config: c, now: now, dry: dry, asked: make(map[Secret]seal.Passphrase)}
}

// opened is a site whose bundles are there, but for their site documents.
type opened struct {
	deployer *deployer
	site     Site
	ids      []pki.Identity
}

func (r *run) walk() (*Result, error) {
	inv := r.config.Inventory
	if err := inv.Check(); err != nil {
		return nil, err
	}
	if err := r.directory(r.Authority()); err != nil {
		return nil, err
	}
	root, verifier, err := r.openRoot()
	if err = r.noted(err); err != nil || root.Certificate == nil {
		return r.result(nil), err
	}
	var all []pki.Identity
	var open []opened
	for _, s := range inv.Sites {
		ids := s.identities(inv.TrustDomain)
		d, err := r.openSite(root, verifier, s)
		if errors.Is(err, errNoRoot) {
			r.note(r.site(s.Name), "the site needs a new authority, and the root's key is not in %[1]s: put %[2]s.key back there for one run, "+
				"or ask where the root is: levee pki csr --site %[3]s", r.Authority(), fileRoot, s.Name)
			continue
		}
		all = append(all, ids...)
		if err != nil {
			err = fmt.Errorf("site %s: %w", s.Name, err)
		}
		if err := r.noted(err); err != nil {
			return nil, err
		}
		if d == nil {
			continue
		}
		for _, id := range ids {
			err := r.prepare(d, s, id)
			if err != nil {
				err = fmt.Errorf("bundle of %s: %w", id.Sender(), err)
			}
			if err := r.noted(err); err != nil {
				return nil, err
			}
		}
		open = append(open, opened{d, s, ids})
	}
	// Only now: the documents name keys of other sites.
	for _, o := range open {
		err := r.distribute(o.deployer, o.site, o.ids)
		if err != nil {
			err = fmt.Errorf("site %s: %w", o.site.Name, err)
		}
		if err := r.noted(err); err != nil {
			return nil, err
		}
	}
	err = r.strays()
	return r.result(all), err
}

func (r *run) result(ids []pki.Identity) *Result {
	return &Result{Identities: ids, Changes: r.changes, Drift: r.drift}
}

// strays notes what the inventory does not name.
func (r *run) strays() error {
	orphans, err := Orphans(r.Dir, r.config.Inventory)
	for _, is := range orphans {
		r.note(is.Dir, "%s is not in the inventory: its certificate stays valid until %s unless it is revoked (levee pki revoke); then remove the directory",
			is.Identity.Sender(), is.NotAfter.UTC().Format("2006-01-02"))
	}
	return err
}

// prepare writes whatever a bundle lacks, except its site document.
func (r *run) prepare(d *deployer, s Site, id pki.Identity) error {
	dir := r.Bundle(id)
	if err := errors.Join(r.directory(dir), r.sweep(dir)); err != nil {
		return err
	}
	if err := r.markNew(id); err != nil {
		return err
	}
	if err := r.openCredential(d, s, id); err != nil {
		return err
	}
	files := map[string][]byte{site.FileRoot: pki.MarshalCertificates(d.root.Certificate), site.FilePolicy: d.text}
	path := filepath.Join(dir, site.FileRoot)
	switch have, err := durable.ReadFile(path, 64<<10); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !bytes.Equal(have, files[site.FileRoot]):
		return drift(path, "it is not the deployer's root")
	}
	if id.Role.Class() == pki.ClassMachine {
		b, err := d.bundleKeys(id)
		if err != nil {
			return err
		}
		files[site.FileKeys] = b
	}
	switch id.Role {
	case pki.RoleRecorder:
		files[records.FileSums] = records.Sums(files)
		if err := r.openLogKey(d, id); err != nil {
			return err
		}
		if err := r.openWitnessKey(s, id); err != nil {
			return err
		}
	case pki.RoleIssuer:
		if err := r.giveAuthority(d, id); err != nil {
			return err
		}
	}
	for _, name := range []string{site.FileRoot, site.FilePolicy, site.FileKeys, records.FileSums} {
		if files[name] == nil {
			continue
		}
		mode := public
		if name == site.FileKeys {
			mode = secret
		}
		if err := r.keep(filepath.Join(dir, name), mode, files[name]); err != nil {
			return err
		}
	}
	return r.configure(s, id)
}

// configure writes a configuration file, once.
func (r *run) configure(s Site, id pki.Identity) error {
	want, err := r.configuration(r.config.Inventory, s, id)
	if err != nil || want == nil {
		return err
	}
	path := r.Config(id)
	have, err := durable.ReadFile(path, maxCarried)
	if errors.Is(err, fs.ErrNotExist) {
		return r.write(path, public, func() ([]byte, error) { return want, nil })
	}
	if err == nil && !bytes.Equal(have, want) {
		r.note(path, "it is not what the inventory says, and a configuration file is written once: remove it to have it written anew")
	}
	return err
}

// markNew notes in a bundle that was never complete that its part never ran, so
// that its first start makes what it remembers, and no later one does. The note
// comes before everything else of the bundle: once there is a key, or the site
// document of a bundle whose key is renewed, nobody can tell whether it was used.
func (r *run) markNew(id pki.Identity) error {
	if id.Role.Class() != pki.ClassMachine || id.Role == pki.RoleGuest { // guests run no part of ours
		return nil
	}
	dir := r.Bundle(id)
	for _, name := range []string{site.FileKey, site.FileChain, site.FileDocument} {
		if exists(filepath.Join(dir, name)) {
			return nil
		}
	}
	if id.Role == pki.RoleRecorder {
		if err := r.keep(filepath.Join(dir, records.FileNewLog), public, []byte(records.NewLog)); err != nil {
			return err
		}
	}
	return r.createMissing(filepath.Join(dir, site.FileFirstStart), public, func() ([]byte, error) { return site.FirstStart(r.now), nil })
}

// openLogKey makes the key of a site's log, once: another one could not
// continue what was signed with the first.
func (r *run) openLogKey(d *deployer, id pki.Identity) error {
	path := filepath.Join(r.Bundle(id), records.FileLogKey)
	if !exists(path) && d.current.document != nil && d.current.document.LogKey != "" {
		return drift(path, "it is gone, and the site's log has a key already, %q: put that one back", d.current.document.LogKey)
	}
	return r.createMissing(path, secret, func() ([]byte, error) {
		signing, _, err := note.GenerateKey(rand.Reader, records.LogOrigin(id))
		return []byte(signing + "\n"), err
	})
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
