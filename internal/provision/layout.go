package provision

import (
	"path/filepath"

	"levee/internal/records"
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

// The files that only some bundles and the deployer's directory hold.
const (
	FileIssuing   = "machines" // .key and .pem: the site's machine authority, in its issuer's bundle
	journalPrefix = "issued."  // and a class: the journal of what an authority issued
)

// plainNames are the files of bundles without an extension of ours.
var plainNames = []string{site.FileFirstStart, records.FileNewLog, records.FileSums}

// Journal is the deployer's journal of what a site's authority of that class issued.
func (l Layout) Journal(name string, c pki.Class) string {
	return filepath.Join(l.site(name), FileJournal(c))
}

// FileJournal is the name of such a journal, and of its copy in the recorder's bundle.
func FileJournal(c pki.Class) string {
	if c == pki.ClassPerson {
		return journalPrefix + "people"
	}
	return journalPrefix + "machine"
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
