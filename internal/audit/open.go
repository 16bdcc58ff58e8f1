package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"levee/envelope"
	"levee/envelope/keys"
	"levee/internal/config"
	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/site"
	"levee/pki"
	"levee/policies"
)

// Options say what an audit rests on.
type Options struct {
	// Config is a recorder's configuration file.
	Config string
	// Root is a file with the root that the auditor trusts; empty means the
	// one in the recorder's bundle, which is then believed.
	Root string
	// WithoutKeys leaves the recorder's secrets alone, and MACs unchecked.
	WithoutKeys bool
	// KeptSince is the age of the oldest segment that must be there.
	KeptSince time.Time
}

// Open reads what a recorder's configuration file names. The error is a
// Finding if a file is wrong or, other than the configuration file itself,
// missing; any other error means that a file could not be read.
//
// The site document is judged as of its issue, as messages are as of their
// time: records outlive the certificates.
func Open(o Options) (Config, error) {
	c := Config{Source: o.Config, KeptSince: o.KeptSince}
	if info, err := os.Stat(o.Config); err == nil && !info.Mode().IsRegular() {
		return c, fmt.Errorf("%s is not a configuration file", o.Config)
	}
	if err := config.Load(o.Config, &c.Files); errors.Is(err, fs.ErrNotExist) {
		return c, err
	} else if err != nil {
		return c, wrong(o.Config, err)
	}
	files := c.Files
	if files.Bundle == "" || files.State == "" || files.Watermark == "" {
		return c, Finding{Where: o.Config, What: "does not name bundle, state and watermark"}
	}
	for _, named := range []string{string(files.Bundle), string(files.State), filepath.Dir(string(files.Watermark))} {
		if _, err := os.Stat(named); errors.Is(err, fs.ErrNotExist) {
			return c, Finding{Where: o.Config, What: fmt.Sprintf("names %q, which does not exist", named)}
		}
	}
	if err := c.checkSums(o.WithoutKeys); err != nil {
		return c, err
	}
	if err := c.openTrust(o.Root); err != nil {
		return c, err
	}
	if o.WithoutKeys {
		return c, nil
	}
	path := filepath.Join(string(files.Bundle), site.FileKeys)
	ring, err := keys.Load(path)
	if err != nil {
		return c, wrong(path, err)
	}
	if _, kid := ring.Own(); kid.Site != c.Document.Site || kid.Role != string(pki.RoleRecorder) {
		return c, Finding{Where: path, What: fmt.Sprintf("is of %s, not of a recorder of %s", kid.Sender(), c.Document.Site)}
	}
	c.Keys = ring
	return c, nil
}

// openTrust reads root, site document and policy.
func (c *Config) openTrust(trusted string) error {
	path := filepath.Join(string(c.Files.Bundle), site.FileRoot)
	root, err := pki.ReadCertificate(path)
	if err != nil {
		return wrong(path, err)
	}
	if trusted != "" {
		own, err := pki.ReadCertificate(trusted)
		if err != nil {
			return err
		}
		if !own.Equal(root) {
			return Finding{Where: path, What: "is not the root in " + trusted}
		}
	}
	trustDomain, err := pki.TrustDomain(root)
	if err != nil {
		return wrong(path, err)
	}
	if pki.IsEvaluation(root) && !c.Files.Evaluation {
		return Finding{Where: c.Source, What: "does not say evaluation: true, and " + path + " was made for evaluation"}
	}
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root, TrustDomain: trustDomain, AllowEvaluation: c.Files.Evaluation})
	if err != nil {
		return wrong(path, err)
	}
	c.Root, c.Verifier = root, v
	path = filepath.Join(string(c.Files.Bundle), site.FileDocument)
	raw, err := durable.ReadFile(path, site.MaxDocument)
	if err != nil {
		return wrong(path, err)
	}
	statement, err := envelope.ParseStatement(raw, site.MaxDocument)
	if err != nil {
		return Finding{Where: path, What: fmt.Sprintf("is no site document (%s)", envelope.ReasonOf(err).String())}
	}
	if c.Document, err = site.ParseDocument(raw, root, v, time.UnixMilli(statement.Time)); err != nil {
		return wrong(path, err)
	}
	if c.Document.LogKey == "" {
		return Finding{Where: path, What: "names no log key"}
	}
	path = filepath.Join(string(c.Files.Bundle), site.FilePolicy)
	text, err := durable.ReadFile(path, policies.MaxBytes)
	if err != nil {
		return wrong(path, err)
	}
	if c.Policy, err = policies.Parse(text); err != nil {
		return wrong(path, err)
	}
	if site.HashText(c.Policy.Hash()) != c.Document.PolicyHash {
		return Finding{Where: path, What: "is not the policy that the site document names"}
	}
	return nil
}

// checkSums holds the files that no signature covers whole against the list
// that provisioning made of them.
func (c *Config) checkSums(withoutKeys bool) error {
	files := c.Files
	list, err := durable.ReadFile(files.Sums(), 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return Finding{Where: files.Sums(), What: "is not there; " + c.Source + " names the directory"}
	}
	if err != nil {
		return wrong(files.Sums(), err)
	}
	names := records.Summed()
	lines := strings.SplitAfter(string(list), "\n")
	if len(lines) != len(names)+1 || lines[len(names)] != "" {
		return Finding{Where: files.Sums(), What: fmt.Sprintf("does not list %s, a line each", strings.Join(names, ", "))}
	}
	for i, name := range names {
		if name == site.FileKeys && withoutKeys {
			continue
		}
		path := filepath.Join(string(files.Bundle), name)
		content, err := durable.ReadFile(path, maxSummed)
		if err != nil {
			return wrong(path, err)
		}
		if records.Sum(name, content) != lines[i] {
			return Finding{Where: path, What: "is not what " + files.Sums() + " lists: one of the two was changed"}
		}
	}
	return nil
}

// maxSummed bounds the files that have a sum.
const maxSummed = policies.MaxBytes

// wrong makes a Finding of err, unless it says that path cannot be read.
func wrong(path string, err error) error {
	var unreadable *fs.PathError
	if errors.As(err, &unreadable) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return Finding{Where: path, What: err.Error()}
}
