package audit

import (
	"crypto/x509"
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
	// Export is a directory that Export wrote, in place of Config. Then Root is
	// needed, and there are no keys.
	Export string
	// Document is a file with the site document that the auditor trusts; empty
	// means the one beside the record, which the people's authority signed.
	Document string
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
	if o.Export != "" {
		return openExport(o)
	}
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
		return c, Finding{Kind: KindTrust, Where: o.Config, What: "does not name bundle, state and watermark"}
	}
	for _, named := range []string{string(files.Bundle), string(files.State), filepath.Dir(string(files.Watermark))} {
		if _, err := os.Stat(named); errors.Is(err, fs.ErrNotExist) {
			return c, Finding{Kind: KindTrust, Where: o.Config, What: fmt.Sprintf("names %q, which does not exist", named)}
		}
	}
	if err := c.checkSums(o.WithoutKeys); err != nil {
		return c, err
	}
	if err := c.openTrust(o); err != nil {
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
		return c, Finding{Kind: KindTrust, Where: path, What: fmt.Sprintf("is of %s, not of a recorder of %s", kid.Sender(), c.Document.Site)}
	}
	c.Keys = ring
	return c, nil
}

// openExport opens what Export wrote. Sums find what was changed by accident; what
// was changed with them, the audit finds.
func openExport(o Options) (Config, error) {
	c := Config{Source: o.Export, KeptSince: o.KeptSince}
	c.Files.Bundle, c.Files.State, c.Files.Evaluation = config.Path(o.Export), config.Path(o.Export), true
	if o.Root == "" {
		return c, errors.New("an export holds no root certificate: name the one that you trust with --root")
	}
	if _, err := os.Stat(o.Export); err != nil {
		return c, err
	}
	if _, err := os.Stat(filepath.Join(o.Export, fileUnfinished)); err == nil {
		return c, Finding{Kind: KindTrust, Where: o.Export, What: "is an export that was not finished"}
	}
	root, err := pki.ReadCertificate(o.Root)
	if err != nil {
		return c, err
	}
	if err := c.trust(o.Root, root); err != nil {
		return c, err
	}
	return c, c.openDocument(o.Document)
}

// openTrust reads root, site document and policy of a recorder's bundle.
func (c *Config) openTrust(o Options) error {
	path := filepath.Join(string(c.Files.Bundle), site.FileRoot)
	root, err := pki.ReadCertificate(path)
	if err != nil {
		return wrong(path, err)
	}
	if o.Root != "" {
		own, err := pki.ReadCertificate(o.Root)
		if err != nil {
			return err
		}
		if !own.Equal(root) {
			return Finding{Kind: KindTrust, Where: path, What: "is not the root in " + o.Root}
		}
	}
	if pki.IsEvaluation(root) && !c.Files.Evaluation {
		return Finding{Kind: KindTrust, Where: c.Source, What: "does not say evaluation: true, and " + path + " was made for evaluation"}
	}
	if err := c.trust(path, root); err != nil {
		return err
	}
	return c.openDocument(o.Document)
}

// trust makes the verifier of a root that was read from path.
func (c *Config) trust(path string, root *x509.Certificate) error {
	trustDomain, err := pki.TrustDomain(root)
	if err != nil {
		return wrong(path, err)
	}
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root, TrustDomain: trustDomain, AllowEvaluation: c.Files.Evaluation})
	if err != nil {
		return wrong(path, err)
	}
	c.Root, c.Verifier = root, v
	return nil
}

// openDocument reads the site document, at path if the auditor has one, and the
// policy.
func (c *Config) openDocument(path string) error {
	own := path != ""
	if !own {
		path = filepath.Join(string(c.Files.Bundle), site.FileDocument)
	}
	raw, err := durable.ReadFile(path, site.MaxDocument)
	if err != nil && own {
		return err
	}
	if err != nil {
		return wrong(path, err)
	}
	if err := c.document(path, raw); err != nil {
		return err
	}
	path = filepath.Join(string(c.Files.Bundle), site.FilePolicy)
	text, err := durable.ReadFile(path, policies.MaxBytes)
	if err != nil {
		return wrong(path, err)
	}
	return c.policy(path, text)
}

// document parses a site document.
func (c *Config) document(path string, raw []byte) error {
	statement, err := envelope.ParseStatement(raw, site.MaxDocument)
	if err != nil {
		return Finding{Kind: KindTrust, Where: path, What: fmt.Sprintf("is no site document (%s)", envelope.ReasonOf(err).String())}
	}
	if c.Document, err = site.ParseDocument(raw, c.Root, c.Verifier, time.UnixMilli(statement.Time)); err != nil {
		return wrong(path, err)
	}
	if c.Document.LogKey == "" {
		return Finding{Kind: KindTrust, Where: path, What: "names no log key"}
	}
	return nil
}

// policy parses the policy file, which must be the one that the document names.
func (c *Config) policy(path string, text []byte) (err error) {
	if c.Policy, err = policies.Parse(text); err != nil {
		return wrong(path, err)
	}
	if site.HashText(c.Policy.Hash()) != c.Document.PolicyHash {
		return Finding{Kind: KindTrust, Where: path, What: "is not the policy that the site document names"}
	}
	return nil
}

// checkSums holds the files that no signature covers whole against the list
// that provisioning made of them.
func (c *Config) checkSums(withoutKeys bool) error {
	files := c.Files
	list, err := durable.ReadFile(files.Sums(), 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return Finding{Kind: KindTrust, Where: files.Sums(), What: "is not there; " + c.Source + " names the directory"}
	}
	if err != nil {
		return wrong(files.Sums(), err)
	}
	names := records.Summed()
	lines := strings.SplitAfter(string(list), "\n")
	if len(lines) != len(names)+1 || lines[len(names)] != "" {
		return Finding{Kind: KindTrust, Where: files.Sums(), What: fmt.Sprintf("does not list %s, a line each", strings.Join(names, ", "))}
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
			return Finding{Kind: KindTrust, Where: path, What: "is not what " + files.Sums() + " lists: one of the two was changed"}
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
	return Finding{Kind: KindTrust, Where: path, What: err.Error()}
}
