package export

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"levee/envelope/keys"
	"levee/internal/config"
	"levee/internal/durable"
	"levee/internal/site"
	"levee/pki"
)

// Joining is what was written for a machine that joins.
type Joining struct {
	Dir      string   `json:"dir"`      // absolute
	Identity string   `json:"identity"` // site/role/name
	Files    []string `json:"files"`    // relative to Dir
}

// joiners are the roles whose token one operator can sign. The others are the
// site's own machinery, and their bundles are carried whole.
var joiners = []pki.Role{pki.RoleSensor, pki.RoleConsole, pki.RoleGuest}

// maxFile bounds a file of a bundle in bytes.
const maxFile = 1 << 20

// ForJoining writes the bundle of a machine without key and certificate: the
// machine makes its key itself, and the issuer the certificate. Its envelope keys
// go with it, because no issuer has them: they follow from the site's key, which
// is the deployer's.
func ForJoining(o Options, now time.Time) (*Joining, error) {
	trust, err := site.OpenTrust(site.Settings{Bundle: config.Path(o.Bundle), Evaluation: true}, now)
	if err != nil {
		return nil, err
	}
	ring, err := keys.Load(filepath.Join(o.Bundle, site.FileKeys))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s has no %s: machines join, and people get their bundle from the deployer", o.Bundle, site.FileKeys)
	}
	if err != nil {
		return nil, err
	}
	_, kid := ring.Own()
	role := pki.Role(kid.Role)
	switch {
	case kid.Site != trust.Document.Site:
		return nil, fmt.Errorf("opening bundle %s: the envelope keys are of site %q, the site document of %q", o.Bundle, kid.Site, trust.Document.Site)
	case !slices.Contains(joiners, role):
		return nil, fmt.Errorf("%s does not join: sensors, consoles and guests do; carry its bundle whole", kid.Sender())
	}
	names := []string{site.FileRoot, site.FileDocument, site.FilePolicy, site.FileKeys}
	if role != pki.RoleGuest { // guests run no part of ours
		names = append(names, "levee-"+string(role)+".yaml", site.FileFirstStart)
	}
	files := make(map[string][]byte)
	for _, name := range names {
		files[name], err = durable.ReadFile(filepath.Join(o.Bundle, name), maxFile)
		if errors.Is(err, fs.ErrNotExist) && name == site.FileFirstStart {
			return nil, fmt.Errorf("%s has been started where it is: export the deployer's own copy", o.Bundle)
		}
		if err != nil {
			return nil, err
		}
	}
	out, err := filepath.Abs(o.Out)
	if err != nil {
		return nil, err
	}
	if err := write(out, files); err != nil {
		return nil, fmt.Errorf("writing the export: %w", err)
	}
	slices.Sort(names)
	return &Joining{Dir: out, Identity: kid.Sender(), Files: names}, nil
}
