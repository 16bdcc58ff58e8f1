package provision

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"levee/envelope/keys"
	"levee/internal/config"
	"levee/internal/durable"
	"levee/internal/issuance"
	"levee/internal/records"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
	"levee/pki/seal"
)

// Check is one thing of a bundle, and what it is, or what is wrong with it.
type Check struct {
	What  string `json:"what"`
	Is    string `json:"is,omitempty"`
	Wrong string `json:"wrong,omitempty"`
}

// VerifyBundle checks a bundle as its part would at now, and writes nothing.
func VerifyBundle(dir string, now time.Time) (all []Check) {
	add := func(what, is string, err error) {
		c := Check{What: what, Is: is}
		if err != nil {
			c.Is, c.Wrong = "", err.Error()
		}
		all = append(all, c)
	}
	trust, err := site.OpenTrust(site.Settings{Bundle: config.Path(dir), Evaluation: true}, now)
	if err != nil {
		add("site", "", err)
		return all
	}
	kind := "production"
	if pki.IsEvaluation(trust.Root) {
		kind = "evaluation"
	}
	add("root", fmt.Sprintf("%s, for %s, until %s", trust.Verifier.TrustDomain(), kind, trust.Root.NotAfter.UTC().Format(time.DateOnly)), nil)
	add("site document", fmt.Sprintf("number %d of site %s, with this policy", trust.Document.Number, trust.Document.Site), nil)
	c, err := pki.LoadCredential(filepath.Join(dir, site.FileKey), filepath.Join(dir, site.FileChain))
	if err != nil {
		add("certificate", "", err)
		return all
	}
	id, err := trust.Verifier.Verify(c.Leaf(), c.Issuer(), pki.UsageSign, now)
	if err == nil && id.Site != trust.Document.Site {
		err = fmt.Errorf("it is of site %s, and the document of %s", id.Site, trust.Document.Site)
	}
	add("certificate", fmt.Sprintf("%s until %s", id.Sender(), c.Leaf().NotAfter.UTC().Format(time.RFC3339)), err)
	if err != nil {
		return all
	}
	if match, pinned := trust.Document.Pinned(id.Sender(), c.Leaf()); pinned || id.Role == pki.RoleMonitor || id.Role == pki.RoleApprover {
		if !match {
			err = errors.New("the site document pins another key: nothing that it signs is believed")
		}
		add("pin", "its key is the one that the site document pins", err)
	}
	if id.Role.Class() == pki.ClassMachine {
		add("envelope keys", "of its own", checkRing(dir, id))
	}
	for _, name := range secretFiles(id.Role) {
		add(name, "readable by its owner alone", checkSecret(filepath.Join(dir, name)))
	}
	switch id.Role {
	case pki.RoleRecorder:
		add("log key", "the one of the site document", checkLogKey(dir, trust.Document.LogKey))
		add("sums", "those of "+records.FileSums, checkSumsOf(dir))
	case pki.RoleIssuer:
		is, err := checkAuthority(dir, trust, id, now)
		add(FileIssuing+".key", is, err)
	}
	for _, class := range copies(id.Role) {
		authority := pki.Authority{TrustDomain: id.TrustDomain, Site: id.Site, Class: class}
		lines, err := checkJournal(filepath.Join(dir, FileJournal(class)), trust, authority)
		add(FileJournal(class), fmt.Sprintf("%d certificates", lines), err)
	}
	return all
}

// checkAuthority wants what an issuer issues with: the machine authority of its
// site, and the key of its certificate. A sealed key is not opened here.
func checkAuthority(dir string, trust *site.Trust, id pki.Identity, now time.Time) (string, error) {
	cert, err := pki.ReadCertificate(filepath.Join(dir, FileIssuing+".pem"))
	if err != nil {
		return "", err
	}
	authority, err := trust.Verifier.VerifyAuthority(cert, now)
	if err != nil {
		return "", err
	}
	if want := (pki.Authority{TrustDomain: id.TrustDomain, Site: id.Site, Class: pki.ClassMachine}); authority != want {
		return "", fmt.Errorf("%s.pem is the authority of %s, not of %s", FileIssuing, authority.Host(), want.Host())
	}
	path := filepath.Join(dir, FileIssuing+".key")
	key, err := ca.OpenKey(path, func() (seal.Passphrase, error) { return seal.Passphrase{}, errSealed })
	if errors.Is(err, errSealed) {
		return "sealed: whether it is the key of " + FileIssuing + ".pem, its issuer says when it opens it", nil
	}
	if err != nil {
		return "", err
	}
	return "the key of " + FileIssuing + ".pem, UNSEALED", belongs(path, key, cert)
}

func checkRing(dir string, id pki.Identity) error {
	ring, err := keys.Load(filepath.Join(dir, site.FileKeys))
	if err != nil {
		return err
	}
	if _, kid := ring.Own(); kid.Sender() != id.Sender() {
		return fmt.Errorf("they are of %s", kid.Sender())
	}
	return nil
}

// secretFiles are the files of a role's bundle that only its owner may read.
func secretFiles(role pki.Role) []string {
	files := []string{site.FileKey}
	if role.Class() == pki.ClassMachine {
		files = append(files, site.FileKeys)
	}
	switch role {
	case pki.RoleRecorder:
		files = append(files, records.FileLogKey)
	case pki.RoleIssuer:
		files = append(files, FileIssuing+".key")
	}
	return files
}

func checkSecret(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() > max(seal.MaxSealed, maxCarried) {
		return errors.New("it is no file of ours")
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return fmt.Errorf("it has mode %04o, and must have 0600", mode)
	}
	return nil
}

func checkLogKey(dir, want string) error {
	text, err := durable.ReadFile(filepath.Join(dir, records.FileLogKey), 1024)
	if err != nil {
		return err
	}
	key, err := verifierKey(string(bytes.TrimSpace(text)))
	if err == nil && key != want {
		err = fmt.Errorf("it is of the log %q, and the site's is %q", key, want)
	}
	return err
}

func checkSumsOf(dir string) error {
	files := make(map[string][]byte)
	for _, name := range append(records.Summed(), records.FileSums) {
		text, err := durable.ReadFile(filepath.Join(dir, name), maxCarried)
		if err != nil {
			return err
		}
		files[name] = text
	}
	if !bytes.Equal(records.Sums(files), files[records.FileSums]) {
		return errors.New("a file is not what it was when the bundle was made")
	}
	return nil
}

// checkJournal verifies every line of a journal, and returns how many there are.
func checkJournal(path string, trust *site.Trust, authority pki.Authority) (uint64, error) {
	text, err := durable.ReadFile(path, maxJournal)
	if err != nil {
		return 0, err
	}
	c := issuance.NewChecker(trust.Root, trust.Verifier, authority, issuance.Deployer, issuance.Position{})
	for line := range bytes.Lines(text) {
		if _, err := c.Next(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return c.Position().Lines, err
		}
	}
	return c.Position().Lines, nil
}
