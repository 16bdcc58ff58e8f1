package provision

import (
	"path/filepath"

	"levee/internal/site"
	"levee/pki"
)

// Layout is where provisioning puts what it makes, below one directory.
type Layout struct{ Dir string }

// Authority is the deployer's own directory: root, issuing authorities, site
// keys. No part reads it, and in production it does not lie on a machine that
// runs one.
func (l Layout) Authority() string { return filepath.Join(l.Dir, "authority") }

func (l Layout) site(name string) string { return filepath.Join(l.Authority(), name) }

// document is the deployer's copy of a site's document.
func (l Layout) document(name string) string { return filepath.Join(l.site(name), site.FileDocument) }

// bundles holds the bundles of a site.
func (l Layout) bundles(name string) string { return filepath.Join(l.Dir, "bundles", name) }

// Bundle is what one component is given: a directory that works wherever it is
// put, on this machine or on another.
func (l Layout) Bundle(id pki.Identity) string {
	return filepath.Join(l.bundles(id.Site), string(id.Role), id.Name)
}

// Config is the configuration file inside a component's bundle.
func (l Layout) Config(id pki.Identity) string {
	return filepath.Join(l.Bundle(id), "levee-"+string(id.Role)+".yaml")
}

// State is where the component keeps what it must remember, unless its
// configuration file is edited. Its first start makes it, where the bundle then
// is.
func (l Layout) State(id pki.Identity) string { return filepath.Join(l.Bundle(id), "state") }

// Watermark is where the recorder notes its log's last checkpoint, unless its
// configuration file is edited: away from the log, so that restoring one does
// not restore the other.
func (l Layout) Watermark(id pki.Identity) string {
	return filepath.Join(l.Bundle(id), "watermark", "newest")
}
