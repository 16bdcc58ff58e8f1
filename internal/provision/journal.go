package provision

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"levee/internal/durable"
	"levee/internal/issuance"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
)

// maxJournal bounds a journal in bytes: 200,000 certificates.
const maxJournal = 1 << 30

// journal is the deployer's journal of what one authority issued. In a dry walk
// it is read and not opened.
type journal struct {
	path    string
	open    *issuance.Journal // nil in a dry walk
	issued  map[string]*x509.Certificate
	pending bool // a dry walk would write to it
}

// openJournal opens an authority's journal. One that is gone is not begun anew
// where its authority issued anything.
func (r *run) openJournal(name string, class pki.Class, root, by ca.Issuer, v *pki.Verifier) (*journal, error) {
	j := &journal{path: r.Journal(name, class), issued: make(map[string]*x509.Certificate)}
	if !exists(j.path) {
		if chain, err := r.anyChain(name, class); err != nil || chain != "" {
			return nil, errors.Join(err, drift(j.path, "it is gone, and there is %s: restore it; the recorder's bundle holds a copy", chain))
		}
		r.changes = append(r.changes, Change{Path: j.path, Action: Make})
		if r.dry {
			return j, nil
		}
		if err := issuance.Create(j.path); err != nil {
			return nil, err
		}
	}
	each := func(e issuance.Entry) error {
		if e.Certificate != nil {
			j.issued[string(e.Certificate.Raw)] = e.Certificate
		}
		return nil
	}
	if r.dry {
		return j, r.readJournal(j.path, name, class, root.Certificate, v, each)
	}
	open, err := issuance.Open(issuance.Config{Path: j.path, Name: issuance.Deployer, Key: by.Signer, Issuer: by.Certificate,
		Root: root.Certificate, Verifier: v}, each, r.now)
	if err != nil {
		return nil, err
	}
	j.open = open
	r.journals = append(r.journals, open)
	return j, nil
}

// readJournal checks every line of a journal. A last line that was not written
// whole is left for whoever opens it.
func (r *run) readJournal(path, name string, class pki.Class, root *x509.Certificate, v *pki.Verifier, each func(issuance.Entry) error) error {
	text, err := durable.ReadFile(path, maxJournal)
	if err != nil {
		return err
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1]
	authority := pki.Authority{TrustDomain: r.config.Inventory.TrustDomain, Site: name, Class: class}
	c := issuance.NewChecker(root, v, authority, issuance.Deployer, issuance.Position{})
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte("\n"))
		if len(rest) == 0 && bytes.IndexByte(line, 0) >= 0 {
			return nil
		}
		e, err := c.Next(line)
		if err != nil {
			return drift(path, "%w: restore it; the recorder's bundle holds a copy", err)
		}
		if err := each(e); err != nil {
			return err
		}
		text = rest
	}
	return nil
}

// anyChain returns a certificate that the site's authority of that class issued
// to a bundle, or "".
func (r *run) anyChain(name string, class pki.Class) (string, error) {
	chains, err := filepath.Glob(filepath.Join(r.bundles(name), "*", "*", site.FileChain))
	for _, chain := range chains {
		if pki.Role(filepath.Base(filepath.Dir(filepath.Dir(chain)))).Class() == class {
			return chain, err
		}
	}
	return "", err
}

// holds reports whether the journal has that certificate.
func (j *journal) holds(cert *x509.Certificate) bool { return j.issued[string(cert.Raw)] != nil }

// unused returns a certificate of id for the key that is in the journal and still
// good. The bundle lacks it: a run was interrupted in between.
func (j *journal) unused(id pki.Identity, public crypto.PublicKey, now time.Time) *x509.Certificate {
	for _, cert := range j.issued {
		key, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		if ok && key.Equal(public) && len(cert.URIs) == 1 && cert.URIs[0].String() == id.URI() && now.Before(cert.NotAfter) {
			return cert
		}
	}
	return nil
}

// append writes down that cert is issued, before anybody has it.
func (j *journal) append(cert *x509.Certificate, now time.Time) error {
	_, err := j.open.Append(issuance.Record{Kind: issuance.Issuance, Certificate: cert, Cause: issuance.CauseBundle}, now)
	if err == nil {
		j.issued[string(cert.Raw)] = cert
	}
	return err
}

// copies are the journals that a role gets: the recorder logs both, the issuer
// knows from its own who has which key.
func copies(role pki.Role) []pki.Class {
	switch role {
	case pki.RoleRecorder:
		return []pki.Class{pki.ClassMachine, pki.ClassPerson}
	case pki.RoleIssuer:
		return []pki.Class{pki.ClassMachine}
	default:
		return nil
	}
}

// giveJournals gives recorder and issuer their copies of the journals. A copy
// that has more than the deployer's shows that the deployer's was put back to an
// older state.
func (r *run) giveJournals(d *deployer, ids []pki.Identity) error {
	for _, id := range ids {
		for _, class := range copies(id.Role) {
			j, path := d.authority(class).journal, filepath.Join(r.Bundle(id), FileJournal(class))
			var own []byte
			var err error
			if !r.planned(j.path) {
				if own, err = durable.ReadFile(j.path, maxJournal); err != nil {
					return err
				}
			}
			copied, err := durable.ReadFile(path, maxJournal)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if !bytes.HasPrefix(own, copied) {
				return drift(j.path, "it lacks what its copy %s has: put the copy back here, or find out who changed it", path)
			}
			if j.pending {
				err = r.write(path, public, nil)
			} else {
				err = r.keep(path, public, own)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) close() error {
	var errs []error
	for _, j := range r.journals {
		errs = append(errs, j.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing journals: %w", err)
	}
	return nil
}
