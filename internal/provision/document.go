package provision

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"

	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
)

// distribute signs a new site document if the site is not what the last one
// says, or another authority signs now, and gives every bundle the current one.
func (r *run) distribute(d *deployer, s Site, ids []pki.Identity) error {
	if err := r.giveJournals(d, ids); err != nil {
		return err
	}
	want, err := r.want(d, s, ids)
	if err != nil {
		return err
	}
	if d.current.document != nil && reflect.DeepEqual(want, *d.current.document) && r.outdated(d) == "" {
		return r.deliver(s, ids, d.current.raw, nil)
	}
	return r.sign(d, s, ids, want)
}

// outdated says why a document must be signed again although it would say the
// same, or "".
func (r *run) outdated(d *deployer) string {
	switch {
	case d.current.document == nil:
		return ""
	case d.people.Certificate == nil || !d.people.Certificate.Equal(d.current.signer): // a dry walk has none before it is made
		return "signed by the people's authority as it is now"
	case d.current.document.Early(r.now):
		return "issued now, not in the future: a clock was wrong"
	default:
		return ""
	}
}

// sign signs the document that follows the one in force, and gives it to all.
func (r *run) sign(d *deployer, s Site, ids []pki.Identity, want site.Document) error {
	detail := Difference(d.current.document, &want)
	if why := r.outdated(d); why != "" {
		detail = append(detail, why)
	}
	if r.dry {
		return r.deliver(s, ids, nil, detail)
	}
	want.Number++
	want.ID = wire.NewID()
	raw, err := site.Sign(want, d.people.Signer, d.people.Certificate, d.root.Certificate, r.now)
	if err != nil {
		return err
	}
	return r.deliver(s, ids, raw, detail)
}

// deliver gives the document to the deployer and to every bundle. The deployer's
// comes first: no bundle has a number that the deployer lacks. In a dry walk raw
// is nil where it would be a new one.
func (r *run) deliver(s Site, ids []pki.Identity, raw []byte, detail []string) error {
	for i, path := range r.documents(s, ids) {
		if i > 0 {
			detail = nil
		}
		if raw == nil {
			if err := r.write(path, public, nil, detail...); err != nil {
				return err
			}
			continue
		}
		if err := r.keep(path, public, raw, detail...); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) documents(s Site, ids []pki.Identity) []string {
	paths := []string{r.document(s.Name)}
	for _, id := range ids {
		paths = append(paths, filepath.Join(r.Bundle(id), site.FileDocument))
	}
	return paths
}

// want returns what the site document must say of the bundles that are there.
// What follows from no inventory is as in the document in force: minimum
// generations and the keys of parts that are not provisioned here are not
// taken back.
func (r *run) want(d *deployer, s Site, ids []pki.Identity) (site.Document, error) {
	doc := site.Document{Generations: []site.Generation{}}
	if d.current.document != nil {
		doc = *d.current.document
	}
	if err := r.config.edits[s.Name].apply(&doc); err != nil {
		return doc, err
	}
	logKey := doc.LogKey // a site without its recorder keeps it: the next one continues that log, or says why not
	doc.TrustDomain, doc.Site, doc.PolicyHash = ids[0].TrustDomain, s.Name, site.HashText(d.policy.Hash())
	doc.Brokers, doc.Pins = nil, []site.Pin{}
	for _, b := range s.Brokers {
		doc.Brokers = append(doc.Brokers, site.Broker{Name: b.Name, Address: b.Address})
	}
	if err := r.wantWitnesses(s, &doc); err != nil {
		return site.Document{}, err
	}
	for _, id := range ids {
		switch id.Role {
		// Receivers want the first two pinned. An issuer's lists are believed from
		// whoever has a certificate of that role, unless its key is.
		case pki.RoleMonitor, pki.RoleApprover, pki.RoleIssuer:
			pin := site.Pin{Sender: id.Sender(), SPKI: "a new key"} // in a dry walk
			if !r.planned(filepath.Join(r.Bundle(id), site.FileChain)) {
				c, err := pki.LoadCredential(filepath.Join(r.Bundle(id), site.FileKey), filepath.Join(r.Bundle(id), site.FileChain))
				if err != nil {
					return site.Document{}, drift(r.Bundle(id), "%w", err)
				}
				pin.SPKI = site.HashText(pki.SPKIHash(c.Leaf()))
			}
			doc.Pins = append(doc.Pins, pin)
		case pki.RoleRecorder:
			path := filepath.Join(r.Bundle(id), records.FileLogKey)
			if r.planned(path) {
				doc.LogKey = "a new key"
				continue
			}
			text, err := durable.ReadFile(path, 1024)
			if err != nil {
				return site.Document{}, drift(path, "%w", err)
			}
			if doc.LogKey, err = verifierKey(string(bytes.TrimSpace(text))); err != nil {
				return site.Document{}, drift(path, "%w", err)
			}
			if logKey != "" && doc.LogKey != logKey {
				return site.Document{}, drift(path, "it is not the key of the site's log, %q: put that one back", logKey)
			}
		}
	}
	return doc, nil
}

// Difference says what changes from one site document to the next, one line for
// each thing: "+" comes, "-" goes. old is nil before the first. Number, id and
// time change with every signing and are left out.
func Difference(old, next *site.Document) (lines []string) {
	var before []string
	if old != nil {
		before = statements(old)
	}
	after := statements(next)
	for _, line := range before {
		if !slices.Contains(after, line) {
			lines = append(lines, "- "+line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			lines = append(lines, "+ "+line)
		}
	}
	return lines
}

// statements says everything that a document says, but its number, id and time.
// It goes by the encoding, so that no member that comes to it is left out.
func statements(d *site.Document) (lines []string) {
	var members map[string]json.RawMessage
	text, err := json.Marshal(d)
	if err == nil {
		err = json.Unmarshal(text, &members)
	}
	if err != nil { // a document is nothing but text and numbers
		return []string{err.Error()}
	}
	for name, value := range members {
		var elements []json.RawMessage
		switch {
		case name == "number" || name == "id" || name == "issued":
		case json.Unmarshal(value, &elements) == nil:
			for _, e := range elements {
				lines = append(lines, name+" "+string(e))
			}
		default:
			lines = append(lines, name+" "+string(value))
		}
	}
	slices.Sort(lines)
	return lines
}
