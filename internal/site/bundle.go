// Package site opens what a component was issued: its bundle directory with
// identity, root, site document and policy.
//
// It guarantees that the parts belong together: the certificate is below the
// root and of the document's site, the document is signed by that site's
// people CA and not older than one accepted before, and the policy file is the
// very one that the document names. It holds no role keys; envelope/keys does.
package site

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"levee/envelope"
	"levee/internal/config"
	"levee/internal/durable"
	"levee/internal/enrol"
	"levee/internal/renewal"
	"levee/pki"
	"levee/policies"
)

// The files of a bundle.
const (
	FileKey      = "tls.key"       // the certificate's private key
	FileChain    = "tls.pem"       // leaf and issuer
	FileRoot     = "root.pem"      // the one root
	FileDocument = "site.json"     // the site document
	FilePolicy   = "policy.yaml"   // the policy file
	FileKeys     = "envelope.keys" // envelope keys; people have none

	// FileFirstStart says that the component never ran. Its first start makes
	// the state directory and removes the file.
	FileFirstStart = "first-start"
)

// FileStarted stands in a bundle whose component has run, and says with which
// state. Whoever carries the bundle there again does not bring it.
const FileStarted = "started"

// FileRenewed is the renewed credential, in the state directory.
const FileRenewed = "renewed.pem"

// Settings say where a component's bundle and state are. They stand in every
// configuration file.
type Settings struct {
	// Bundle is the directory that provisioning made.
	Bundle config.Path `yaml:"bundle"`
	// State is the directory that the component writes to. Its first start
	// makes it; without it no other one begins.
	State config.Path `yaml:"state"`
	// Evaluation accepts a root marked as made for evaluation. Production
	// leaves it out.
	Evaluation bool `yaml:"evaluation,omitempty"`
	// Issuer is where the site's issuer answers, host:port. Without one nothing
	// is renewed.
	Issuer string `yaml:"issuer,omitempty"`
	// OutboxBytes bounds what is kept on disk of what the recorder has not
	// acknowledged, from MinOutbox to MaxOutbox; without it 32 MiB at a sensor and
	// 256 MiB at other machines.
	OutboxBytes int64 `yaml:"outbox_bytes,omitempty"`
}

// Bounds of Settings.OutboxBytes.
const (
	MinOutbox = 4 << 20
	MaxOutbox = 64 << 30
)

// Trust is what a bundle says of its site, whoever holds it: enough to verify,
// without any secret.
type Trust struct {
	Root     *x509.Certificate
	Verifier *pki.Verifier
	Document *Document
	Policy   *policies.Policy
}

// Bundle is an opened bundle.
type Bundle struct {
	Trust
	Identity    pki.Identity
	Credentials *pki.Store
	State       string // directory, made if it was missing, 0700
	KeyFile     string // of envelope/keys; may not exist
	Issuer      string // host:port, "" if nothing is renewed
	OutboxBytes int64  // as configured, 0 if not
}

// OpenTrust reads and checks the public part of a bundle as of now. It does not
// know which site document was accepted before; Open does.
func OpenTrust(s Settings, now time.Time) (*Trust, error) {
	t, err := openTrust(s, now)
	if err != nil {
		return nil, s.failed(err)
	}
	return t, nil
}

func openTrust(s Settings, now time.Time) (*Trust, error) {
	if s.Bundle == "" {
		return nil, errors.New("the configuration names no bundle")
	}
	root, err := pki.ReadCertificate(s.file(FileRoot))
	if err != nil {
		return nil, err
	}
	trustDomain, err := pki.TrustDomain(root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FileRoot, err)
	}
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root, TrustDomain: trustDomain, AllowEvaluation: s.Evaluation})
	if err != nil && pki.IsEvaluation(root) && !s.Evaluation {
		return nil, fmt.Errorf("%s: %w; an evaluation's configuration says evaluation: true, production needs another root", FileRoot, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FileRoot, err)
	}
	raw, err := durable.ReadFile(s.file(FileDocument), MaxDocument)
	if err != nil {
		return nil, err
	}
	document, err := ParseDocument(raw, root, v, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FileDocument, err)
	}
	text, err := durable.ReadFile(s.file(FilePolicy), 1<<20)
	if err != nil {
		return nil, err
	}
	policy, err := policies.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", FilePolicy, err)
	}
	if HashText(policy.Hash()) != document.PolicyHash {
		return nil, fmt.Errorf("%s is not the policy that the site document names", FilePolicy)
	}
	return &Trust{Root: root, Verifier: v, Document: document, Policy: policy}, nil
}

func (s Settings) file(name string) string { return filepath.Join(string(s.Bundle), name) }

// Open reads and checks a bundle as of now.
func Open(s Settings, now time.Time) (*Bundle, error) {
	trust, err := OpenTrust(s, now)
	if err != nil {
		return nil, err
	}
	b, err := open(s, *trust, now)
	if err != nil {
		return nil, s.failed(err)
	}
	return b, nil
}

// failed says what to do about a bundle that lacks a file.
func (s Settings) failed(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening bundle %s: %w", s.Bundle, err)
	}
	remedy := "carry the bundle here again"
	if missing, ok := errors.AsType[*fs.PathError](err); ok && (missing.Path == s.file(FileKey) || missing.Path == s.file(FileChain)) {
		remedy += ", or, if the machine is to make its own key: levee pki join"
	}
	return fmt.Errorf("opening bundle %s: %w; %s", s.Bundle, err, remedy)
}

func open(s Settings, trust Trust, now time.Time) (*Bundle, error) {
	if s.State == "" {
		return nil, errors.New("the configuration names no state directory")
	}
	if n := s.OutboxBytes; n != 0 && (n < MinOutbox || n > MaxOutbox) {
		return nil, fmt.Errorf("outbox_bytes: %d is not from %d to %d", n, MinOutbox, MaxOutbox)
	}
	for _, path := range []string{string(s.Bundle), s.file(FileRoot), s.file(FileDocument), s.file(FilePolicy)} {
		if err := checkOwner(path); err != nil {
			return nil, err
		}
	}
	credentials, err := pki.OpenRenewable(s.file(FileKey), s.file(FileChain), filepath.Join(string(s.State), FileRenewed), trust.Verifier)
	if err != nil {
		return nil, err
	}
	id := credentials.Identity()
	if trust.Document.Site != id.Site {
		return nil, fmt.Errorf("the certificate is of site %q, the site document of %q", id.Site, trust.Document.Site)
	}
	if err := openState(s, id, now); err != nil {
		return nil, err
	}
	if err := checkOwner(string(s.State)); err != nil {
		return nil, err
	}
	if err := raiseNumber(filepath.Join(string(s.State), "site-document"), trust.Document.Number); err != nil {
		return nil, err
	}
	return &Bundle{Trust: trust, Identity: id, Credentials: credentials, State: string(s.State), KeyFile: s.file(FileKeys), Issuer: s.Issuer,
		OutboxBytes: s.OutboxBytes}, nil
}

// Reload reads the site document and the policy of a bundle anew, for a part that
// runs. The root stays what it was, and the document's number never falls. An
// error changes nothing.
func (b *Bundle) Reload(s Settings, now time.Time) (*Trust, error) {
	t, err := OpenTrust(s, now)
	if err != nil {
		return nil, err
	}
	for _, path := range []string{string(s.Bundle), s.file(FileDocument), s.file(FilePolicy)} {
		if err := checkOwner(path); err != nil {
			return nil, s.failed(err)
		}
	}
	switch {
	case !t.Root.Equal(b.Root):
		return nil, s.failed(errors.New("another root takes a start of the part"))
	case t.Document.Site != b.Identity.Site:
		return nil, s.failed(fmt.Errorf("the site document is of site %q", t.Document.Site))
	}
	if err := raiseNumber(filepath.Join(b.State, "site-document"), t.Document.Number); err != nil {
		return nil, s.failed(err)
	}
	return t, nil
}

// checkOwner refuses what others may write to: they could put another root into
// a bundle, and take back what a component must remember. Windows has no such
// mode, and the access list decides there.
func checkOwner(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o022 != 0 {
		return fmt.Errorf("%s has mode %04o: others could write to it; run: chmod go-w %s", path, mode, path)
	}
	if !ownedByUs(info) {
		return fmt.Errorf("%s belongs to another user, who could change it; run: chown %d %s", path, os.Geteuid(), path)
	}
	return nil
}

// Signer returns a signer with the bundle's current certificate.
func (b *Bundle) Signer() (*envelope.Signer, error) {
	c := b.Credentials.Current()
	return envelope.NewSigner(c.Signer(), c.Leaf(), c.Issuer())
}

// Certificates returns the bundle's current certificate, its issuer's, and the root.
func (b *Bundle) Certificates() (leaf, authority, root *x509.Certificate) {
	c := b.Credentials.Current()
	return c.Leaf(), c.Issuer(), b.Root
}

// Renewal returns what keeps the bundle's certificate from expiring. Without an
// issuer it only says that the end comes near.
func (b *Bundle) Renewal(log *slog.Logger) (*renewal.Renewal, error) {
	c := renewal.Config{Store: b.Credentials, Root: b.Root, Log: log}
	_, c.KeepKey = b.Document.Pinned(b.Identity.Sender(), b.Credentials.Current().Leaf())
	if b.Issuer != "" {
		client, err := enrol.New(enrol.Config{Address: b.Issuer, Verifier: b.Verifier, Host: b.Identity.Host(), Store: b.Credentials})
		if err != nil {
			return nil, fmt.Errorf("renewing the certificate: %w", err)
		}
		c.Issuer = client
	}
	return renewal.New(c)
}

// raiseNumber refuses a number below the one in the file, and records a higher
// one before it counts.
func raiseNumber(path string, number uint64) error {
	var last uint64
	text, err := durable.ReadFile(path, 32)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if last, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			return fmt.Errorf("%s does not hold the number of a site document", path)
		}
	}
	if number < last {
		return fmt.Errorf("the site document is number %d, but number %d was accepted before; fetch the newest from the deployer", number, last)
	}
	if number == last {
		return nil
	}
	return durable.WriteFile(path, []byte(strconv.FormatUint(number, 10)+"\n"), 0o600)
}
