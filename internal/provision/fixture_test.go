package provision

import (
	"bytes"
	"crypto/sha256"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/envelope/keys"
	"levee/internal/config"
	"levee/internal/records"
	"levee/internal/site"
	"levee/pki"
	"levee/policies"
)

var noon = time.Now().Truncate(time.Second)

// inventory is a site with one part of each role.
func inventory() Inventory {
	return Inventory{TrustDomain: "bank.example", Evaluation: true, Sites: []Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers:     []Broker{{Name: "b1", Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}},
		Sensors:     []Sensor{{Name: "web-1"}},
		Monitors:    []Monitor{{Name: "mon-1", Act: true}},
		Controllers: []Controller{{Name: "lb-1", Pools: []Pool{{Server: "web-1", Listen: "127.0.0.1:2"}}}},
		Recorder:    "rec-1",
		People:      []Person{{Role: pki.RoleOperator, Name: "ann"}},
	}}}
}

// small is a site with as few parts as have each kind of file, for tests that
// make it many times.
func small() Inventory {
	inv := inventory()
	inv.Sites[0].Sensors, inv.Sites[0].Controllers = nil, nil
	return inv
}

func mustApply(t testing.TB, dir string, inv Inventory) []pki.Identity {
	t.Helper()
	ids, err := Apply(dir, inv, noon)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// made returns a directory with inventory.
func made(t testing.TB) string { return madeOf(t, inventory()) }

func madeOf(t testing.TB, inv Inventory) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bank")
	mustApply(t, dir, inv)
	return dir
}

// file is what is known of a file.
type file struct {
	mode fs.FileMode
	time time.Time
	sum  [sha256.Size]byte
}

// tree returns the files below dir, by path.
func tree(t testing.TB, dir string) map[string]file {
	t.Helper()
	all := make(map[string]file)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		all[rel] = file{info.Mode(), info.ModTime(), sha256.Sum256(b)}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// changed returns the paths that differ, in any way.
func changed(before, after map[string]file) (all []string) {
	for path, f := range before {
		if after[path] != f {
			all = append(all, path)
		}
	}
	for path := range after {
		if _, ok := before[path]; !ok {
			all = append(all, path)
		}
	}
	return all
}

// check opens a copy of every bundle as its part would, and requires that all have one
// site document, the policy that it names, and the keys that policy grants.
func check(t testing.TB, dir string, ids []pki.Identity) *site.Document {
	t.Helper()
	l := Layout{Dir: dir}
	var document *site.Document
	var first []byte
	for _, id := range ids {
		carried := filepath.Join(t.TempDir(), "bundle") // opening it is its first start
		copyTree(t, l.Bundle(id), carried)
		s := site.Settings{Bundle: config.Path(carried), State: config.Path(filepath.Join(carried, "state")), Evaluation: true}
		b, err := site.Open(s, noon)
		if err != nil {
			t.Errorf("bundle of %s: %v", id.Sender(), err)
			return nil
		}
		if b.Identity != id {
			t.Errorf("the bundle of %s is of %s", id.Sender(), b.Identity.Sender())
		}
		raw, err := os.ReadFile(filepath.Join(l.Bundle(id), site.FileDocument))
		if err != nil {
			t.Fatal(err)
		}
		if document == nil {
			document, first = b.Document, raw
		}
		if b.Document.Site == document.Site && !bytes.Equal(raw, first) {
			t.Errorf("%s has another site document", id.Sender())
		}
		if id.Role.Class() == pki.ClassPerson {
			if _, err := os.Stat(b.KeyFile); err == nil {
				t.Errorf("%s has envelope keys", id.Sender())
			}
			continue
		}
		ring, err := keys.Load(b.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		if _, kid := ring.Own(); kid.String() != id.Sender()+"/1" {
			t.Errorf("%s has the key of %s", id.Sender(), kid)
		}
		for _, role := range []pki.Role{pki.RoleBroker, pki.RoleSensor, pki.RoleMonitor, pki.RoleController, pki.RoleApprover, pki.RoleIssuer, pki.RoleRecorder, pki.RoleConsole, pki.RoleGuest} {
			granted := false
			for _, r := range b.Policy.KeyRoles(id.Role) {
				granted = granted || r == role
			}
			if ring.Holds(role) != granted {
				t.Errorf("%s holds the key of role %s: %v, policy says %v", id.Sender(), role, ring.Holds(role), granted)
			}
		}
		keeps := id.Role == pki.RoleMonitor || id.Role == pki.RoleIssuer
		if match, pinned := b.Document.Pinned(id.Sender(), b.Credentials.Current().Leaf()); match != keeps || pinned != keeps {
			t.Errorf("%s: pinned %v, match %v", id.Sender(), pinned, match)
		}
		if id.Role == pki.RoleRecorder {
			checkSums(t, l.Bundle(id))
		}
	}
	return document
}

func checkSums(t testing.TB, bundle string) {
	t.Helper()
	files := make(map[string][]byte)
	for _, name := range records.Summed() {
		b, err := os.ReadFile(filepath.Join(bundle, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
	if got, err := os.ReadFile(filepath.Join(bundle, records.FileSums)); err != nil || !bytes.Equal(got, records.Sums(files)) {
		t.Errorf("the sums are\n%s, %v", got, err)
	}
}

func identity(role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: role, Name: name}
}

func remove(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// stricter is the default policy with a shorter skew.
func stricter(t testing.TB) []byte {
	t.Helper()
	text := strings.Replace(string(policies.Default()), "skew: 30s", "skew: 20s", 1)
	if _, err := policies.Parse([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// tiny is a site with one bundle of each kind.
func tiny() Inventory {
	inv := inventory()
	s := &inv.Sites[0]
	s.Sensors, s.Controllers, s.Monitors = nil, nil, nil
	s.Issuers = []Issuer{{Name: "iss-1", Listen: "127.0.0.1:9", Address: "127.0.0.1:9"}}
	return inv
}
