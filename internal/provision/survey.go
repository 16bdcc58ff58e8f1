package provision

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"levee/internal/durable"
	"levee/internal/site"
	"levee/pki"
)

// Issued is one bundle that was made.
type Issued struct {
	Identity pki.Identity
	Dir      string
	NotAfter time.Time // of its certificate
	// Document is SHA-256 of its site document, which is to be carried again
	// when it changes; zero before there is one.
	Document [sha256.Size]byte
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
	is := Issued{Identity: id, Dir: l.Bundle(id), NotAfter: c.Leaf().NotAfter}
	document, err := durable.ReadFile(filepath.Join(l.Bundle(id), site.FileDocument), site.MaxDocument)
	switch {
	case err == nil:
		is.Document = sha256.Sum256(document)
	case !errors.Is(err, fs.ErrNotExist): // an interrupted run writes it last
		return Issued{}, err
	}
	want, err := l.configuration(inv, s, id)
	if err != nil || want == nil {
		return is, err
	}
	have, err := durable.ReadFile(l.Config(id), maxConfiguration)
	if errors.Is(err, fs.ErrNotExist) {
		return is, nil
	}
	if err != nil {
		return Issued{}, err
	}
	is.Edited = !bytes.Equal(have, want)
	return is, nil
}

// maxConfiguration bounds a configuration file in bytes.
const maxConfiguration = 256 << 10

//go:embed example.yaml
var example []byte

// Example returns an inventory to begin with: two sites that run on one machine.
func Example() []byte { return bytes.Clone(example) }
