package provision

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/translog/witness"
	"levee/pki"
)

// neighbour is another site's recorder: it witnesses, and is witnessed.
type neighbour struct {
	ID      pki.Identity
	Name    string // of the witness
	Address string
}

// recorder returns the identity of the site's recorder.
func (s Site) recorder(trustDomain string) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: s.Name, Role: pki.RoleRecorder, Name: s.Recorder}
}

// witnesses returns those of the other sites, if the site takes part itself.
func (inv Inventory) witnesses(of Site) (all []neighbour) {
	if of.Log == (Log{}) {
		return nil
	}
	for _, s := range inv.Sites {
		if s.Log != (Log{}) && s.Name != of.Name && s.Recorder != "" {
			id := s.recorder(inv.TrustDomain)
			all = append(all, neighbour{id, records.WitnessName(id), s.Log.Address})
		}
	}
	return all
}

// openWitnessKey makes the key by which a recorder cosigns other sites' logs. One
// that these sites' documents name is not made anew.
func (r *run) openWitnessKey(s Site, id pki.Identity) error {
	if s.Log == (Log{}) {
		return nil
	}
	path := filepath.Join(r.Bundle(id), records.FileWitnessKey)
	if !exists(path) {
		for _, other := range r.config.Inventory.Sites {
			named, err := r.names(other, records.WitnessName(id))
			if err != nil {
				return err
			}
			if named {
				return drift(path, "it is gone, and the document of site %s names its key: put that one back", other.Name)
			}
		}
	}
	return r.createMissing(path, secret, func() ([]byte, error) { return witness.GenerateKey(records.WitnessName(id)) })
}

// names reports whether the deployer's copy of another site's document names a
// witness. That it is right is for opening that site to find out.
func (r *run) names(other Site, name string) (bool, error) {
	text, err := durable.ReadFile(r.document(other.Name), site.MaxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return strings.Contains(string(text), `"`+name+"+"), nil
}

// wantWitnesses says in a site's document who witnesses its log, and whose logs
// it witnesses. Of sites of this inventory it follows the inventory; other keys,
// which a person put there, stay.
func (r *run) wantWitnesses(s Site, doc *site.Document) error {
	ours := func(vkey string) bool {
		return slices.ContainsFunc(r.config.Inventory.Sites, func(of Site) bool {
			return strings.HasPrefix(vkey, of.host(r.config.Inventory.TrustDomain)+"/")
		})
	}
	doc.WitnessKeys = slices.DeleteFunc(slices.Clone(doc.WitnessKeys), ours)
	doc.WitnessedLogs = slices.DeleteFunc(slices.Clone(doc.WitnessedLogs), ours)
	for _, other := range r.config.Inventory.witnesses(s) {
		cosigns, err := r.publicKey(other.ID, records.FileWitnessKey, func(text string) (string, error) {
			key, err := witness.ParseKey([]byte(text))
			return key.VKey(), err
		})
		if err != nil {
			return err
		}
		log, err := r.publicKey(other.ID, records.FileLogKey, func(text string) (string, error) { return verifierKey(strings.TrimSpace(text)) })
		if err != nil {
			return err
		}
		if cosigns == "" || log == "" { // its site waits for something: the next run adds it
			continue
		}
		doc.WitnessKeys, doc.WitnessedLogs = append(doc.WitnessKeys, cosigns), append(doc.WitnessedLogs, log)
	}
	doc.WitnessesNeeded = min(s.Log.Witnesses, len(doc.WitnessKeys))
	if len(doc.WitnessKeys) == 0 { // as it is read back
		doc.WitnessKeys = nil
	}
	if len(doc.WitnessedLogs) == 0 {
		doc.WitnessedLogs = nil
	}
	return nil
}

// publicKey returns the public half of a key in a recorder's bundle, "" if that
// has none yet.
func (r *run) publicKey(id pki.Identity, name string, parse func(string) (string, error)) (string, error) {
	path := filepath.Join(r.Bundle(id), name)
	if r.planned(path) {
		return id.Host() + "/a new key", nil
	}
	text, err := durable.ReadFile(path, 1024)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	vkey, err := parse(string(text))
	if err != nil {
		return "", drift(path, "%w", err)
	}
	return vkey, nil
}
