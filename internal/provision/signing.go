package provision

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"levee/envelope"
	"levee/internal/site"
	"levee/pki"
)

// Edit is what a person changes in a site document, beside what follows from the
// inventory.
type Edit struct {
	// Generations raise the lowest generation of message keys that counts.
	Generations []site.Generation
	// GrantKey and WitnessKeys replace what is there; empty and nil leave it.
	GrantKey    string
	WitnessKeys []string
}

func (e Edit) apply(d *site.Document) error {
	d.Generations = slices.Clone(d.Generations)
	for _, g := range e.Generations {
		if g.Minimum <= d.MinimumGeneration(g.Sender) {
			return fmt.Errorf("the generation of %s is %d at least already: it only rises", g.Sender, d.MinimumGeneration(g.Sender))
		}
		d.Generations = slices.DeleteFunc(d.Generations, func(old site.Generation) bool { return old.Sender == g.Sender })
		d.Generations = append(d.Generations, g)
	}
	if e.GrantKey != "" {
		d.GrantKey = e.GrantKey
	}
	if e.WitnessKeys != nil {
		d.WitnessKeys = e.WitnessKeys
	}
	return nil
}

// ErrUnchanged says that a document would say what the one in force says.
var ErrUnchanged = errors.New("nothing would change")

// ErrPending says that more than the site's document is to be made first.
var ErrPending = errors.New("there is something to apply first")

// Proposal is a site document that may be signed.
type Proposal struct {
	Difference []string `json:"difference"`
	Files      []string `json:"files"` // that would be written
}

// Propose returns how the document of a site would change, ErrUnchanged if it
// would not.
func (c Config) Propose(name string, e Edit, now time.Time) (*Proposal, error) {
	if _, err := c.site(name); err != nil {
		return nil, err
	}
	c.edits = map[string]Edit{name: e}
	result, err := c.Plan(now)
	if err != nil {
		return nil, err
	}
	if blocked := result.Blocked(); len(blocked) > 0 {
		return nil, fmt.Errorf("%w:\n  %s", ErrDrift, strings.Join(blocked, "\n  "))
	}
	l, p := Layout{Dir: c.Dir}, &Proposal{Difference: []string{}}
	for _, change := range result.Changes {
		ours := filepath.Dir(change.Path) == l.site(name) || strings.HasPrefix(change.Path, l.bundles(name)+string(filepath.Separator))
		if change.Action != Replace || !ours {
			return nil, fmt.Errorf("%w (%s): levee pki apply", ErrPending, change.Path)
		}
		if change.Path == l.document(name) {
			p.Difference = change.Detail
		}
		p.Files = append(p.Files, change.Path)
	}
	if len(p.Difference) == 0 {
		return nil, ErrUnchanged
	}
	return p, nil
}

// Sign signs the next document of a site and gives it, and what follows from it,
// to every bundle. What would change must still be what was proposed.
func (c Config) Sign(name string, e Edit, proposed *Proposal, now time.Time) error {
	p, err := c.Propose(name, e, now)
	if err != nil {
		return err
	}
	if !slices.Equal(p.Difference, proposed.Difference) {
		return errors.New("signing the site document: what would be signed has changed meanwhile")
	}
	c.edits = map[string]Edit{name: e}
	r := c.run(now, false)
	_, err = r.walk()
	if err = errors.Join(err, r.close()); err != nil {
		return fmt.Errorf("signing the document of site %s: %w", name, err)
	}
	return nil
}

// PeopleSigner returns what signs statements in the name of a site's people
// authority, with the keys in dir: an order that no single person may give.
func (c Config) PeopleSigner(name string, now time.Time) (*envelope.Signer, error) {
	r := c.run(now, false)
	path := filepath.Join(r.site(name), filePeopleCA)
	root, err := pki.ReadCertificate(filepath.Join(r.Authority(), fileRoot+".pem"))
	if err != nil {
		return nil, err
	}
	people, err := pki.ReadCertificate(path + ".pem")
	if err != nil {
		return nil, err
	}
	key, err := r.openAuthorityKey(path+".key", SecretSites, people)
	if err != nil {
		return nil, err
	}
	return envelope.NewSigner(key, people, root)
}
