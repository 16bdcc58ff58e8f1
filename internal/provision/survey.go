package provision

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/site"
	"levee/pki"
)

// Issued is one bundle that was made.
type Issued struct {
	Identity  pki.Identity
	Dir       string
	NotBefore time.Time // of its certificate
	NotAfter  time.Time
	// Content is a hash of what is carried. A part whose copy has another one
	// needs the bundle again.
	Content string
	// Edited: its configuration file is not what the inventory would make of
	// it now. It was written once, and is its operator's.
	Edited bool
}

// Survey returns the bundles of the inventory that dir holds, in its order. A
// bundle without key or certificate was not made yet.
func Survey(dir string, inv Inventory) ([]Issued, error) {
	if err := inv.Check(); err != nil {
		return nil, err
	}
	l := Layout{Dir: dir}
	var all []Issued
	for _, s := range inv.Sites {
		for _, id := range s.identities(inv.TrustDomain) {
			is, err := l.survey(inv, s, id)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("looking at the bundle of %s: %w", id.Sender(), err)
			}
			all = append(all, is)
		}
	}
	return all, nil
}

func (l Layout) survey(inv Inventory, s Site, id pki.Identity) (Issued, error) {
	c, err := pki.LoadCredential(filepath.Join(l.Bundle(id), site.FileKey), filepath.Join(l.Bundle(id), site.FileChain))
	if err != nil {
		return Issued{}, err
	}
	is := Issued{Identity: id, Dir: l.Bundle(id), NotBefore: c.Leaf().NotBefore, NotAfter: c.Leaf().NotAfter}
	if is.Content, err = content(is.Dir, filepath.Base(l.Config(id))); err != nil {
		return Issued{}, err
	}
	want, err := l.configuration(inv, s, id)
	if err != nil || want == nil {
		return is, err
	}
	have, err := durable.ReadFile(l.Config(id), maxCarried)
	if errors.Is(err, fs.ErrNotExist) {
		return is, nil
	}
	if err != nil {
		return Issued{}, err
	}
	is.Edited = !bytes.Equal(have, want)
	return is, nil
}

// content hashes what is carried: the names and contents of a bundle's files that
// change when anything of it does. The certificate stands for its key.
func content(dir, configuration string) (string, error) {
	h := sha256.New()
	for _, name := range []string{site.FileChain, site.FileRoot, site.FileDocument, site.FilePolicy, site.FileKeys, records.FileSums,
		FileIssuing + ".pem", FileJournal(pki.ClassMachine), FileJournal(pki.ClassPerson), configuration} {
		b, err := durable.ReadFile(filepath.Join(dir, name), maxCarried)
		if errors.Is(err, fs.ErrNotExist) { // not of this role, or not made yet
			continue
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(b))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// maxCarried bounds a file of a bundle in bytes.
const maxCarried = 1 << 20

// Orphans returns the bundles that dir holds and the inventory does not name.
func Orphans(dir string, inv Inventory) ([]Issued, error) {
	named := make(map[string]bool)
	l := Layout{Dir: dir}
	for _, s := range inv.Sites {
		for _, id := range s.identities(inv.TrustDomain) {
			named[l.Bundle(id)] = true
		}
	}
	chains, err := filepath.Glob(filepath.Join(l.bundles("*"), "*", "*", site.FileChain))
	if err != nil {
		return nil, err
	}
	var all []Issued
	for _, chain := range chains {
		if named[filepath.Dir(chain)] {
			continue
		}
		c, err := pki.LoadCredential(filepath.Join(filepath.Dir(chain), site.FileKey), chain)
		if err != nil || len(c.Leaf().URIs) != 1 {
			continue // nothing that could be used
		}
		id, err := pki.ParseIdentity(c.Leaf().URIs[0].String(), inv.TrustDomain)
		if err != nil {
			continue
		}
		all = append(all, Issued{Identity: id, Dir: filepath.Dir(chain), NotBefore: c.Leaf().NotBefore, NotAfter: c.Leaf().NotAfter})
	}
	return all, nil
}

//go:embed example.yaml
var example []byte

// Example returns an inventory to begin with: two sites that run on one machine.
func Example() []byte { return bytes.Clone(example) }
