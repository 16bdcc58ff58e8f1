package provision

import (
	"bytes"
	"fmt"
	"path/filepath"
	"reflect"
	"time"

	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
)

// distribute signs a new site document if the site is not what the last one
// says, and gives every bundle the current one.
func (l Layout) distribute(d *deployer, s Site, ids []pki.Identity, now time.Time) error {
	want, err := l.want(d, s, ids)
	if err != nil {
		return err
	}
	raw := d.current.raw
	if d.current.document == nil || !reflect.DeepEqual(want, *d.current.document) {
		want.Number++
		want.ID = wire.NewID()
		if raw, err = site.Sign(want, d.people.Signer, d.people.Certificate, d.root.Certificate, now); err != nil {
			return err
		}
	}
	// The deployer's first: no bundle has a number that the deployer lacks.
	paths := []string{l.document(s.Name)}
	for _, id := range ids {
		paths = append(paths, filepath.Join(l.Bundle(id), site.FileDocument))
	}
	for _, path := range paths {
		if err := keep(path, 0o644, raw); err != nil {
			return err
		}
	}
	return nil
}

// want returns what the site document must say of the bundles that are there.
// What follows from no inventory is as in the document in force: minimum
// generations and the keys of parts that are not provisioned here are not
// taken back.
func (l Layout) want(d *deployer, s Site, ids []pki.Identity) (site.Document, error) {
	doc := site.Document{Generations: []site.Generation{}}
	if d.current.document != nil {
		doc = *d.current.document
	}
	logKey := doc.LogKey // a site without its recorder keeps it: the next one continues that log, or says why not
	doc.TrustDomain, doc.Site, doc.PolicyHash = ids[0].TrustDomain, s.Name, site.HashText(d.policy.Hash())
	doc.Brokers, doc.Pins = nil, []site.Pin{}
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
			path := filepath.Join(l.Bundle(id), records.FileLogKey)
			text, err := durable.ReadFile(path, 1024)
			if err != nil {
				return site.Document{}, err
			}
			if doc.LogKey, err = verifierKey(string(bytes.TrimSpace(text))); err != nil {
				return site.Document{}, err
			}
			if logKey != "" && doc.LogKey != logKey {
				return site.Document{}, fmt.Errorf("%s is not the key of the site's log, %q: put that one back", path, logKey)
			}
		}
	}
	return doc, nil
}
