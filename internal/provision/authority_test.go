package provision

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/site"
	"levee/pki"
)

// An authority of which nothing is left is not made anew where it issued anything,
// signed a document, or did so in a journal alone.
func TestLostAuthority(t *testing.T) {
	t.Parallel()
	origin := made(t)
	everywhere := func(t *testing.T, dir, name string) {
		for path := range tree(t, dir) {
			if filepath.Base(path) == name {
				remove(t, filepath.Join(dir, path))
			}
		}
	}
	for authority, journal := range map[string]string{fileMachineCA: "issued.machine", filePeopleCA: "issued.people"} {
		for name, also := range map[string]func(t *testing.T, dir string){
			"alone": func(*testing.T, string) {},
			"bundles as well": func(t *testing.T, dir string) {
				remove(t, filepath.Join(dir, "bundles"))
			},
			"bundles and document as well": func(t *testing.T, dir string) {
				remove(t, filepath.Join(dir, "bundles"), filepath.Join(dir, "authority/melb/site.json"))
			},
			"bundles and journal as well": func(t *testing.T, dir string) {
				remove(t, filepath.Join(dir, "bundles"), filepath.Join(dir, "authority/melb", journal))
			},
			"journal and documents as well": func(t *testing.T, dir string) {
				for _, n := range []string{journal, site.FileDocument} {
					everywhere(t, dir, n)
				}
			},
			"journal and chains as well, and the deployer's document": func(t *testing.T, dir string) {
				for _, n := range []string{journal, site.FileChain} {
					everywhere(t, dir, n)
				}
				remove(t, filepath.Join(dir, "authority/melb/site.json"))
			},
			"and the root is away": func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "authority/root.key")) },
		} {
			t.Run(authority+", "+name, func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "bank")
				copyTree(t, origin, dir)
				remove(t, filepath.Join(dir, "authority/melb", authority+".key"), filepath.Join(dir, "authority/melb", authority+".pem"))
				also(t, dir)
				before := tree(t, dir)
				c := Config{Dir: dir, Inventory: inventory(), Unsealed: true}
				plan, err := c.Plan(noon)
				if err != nil || !slices.ContainsFunc(plan.Blocked(), func(line string) bool { return strings.Contains(line, authority+".key: it is gone") }) {
					t.Errorf("plan: %+v, %v", plan, err)
				}
				if _, err := c.Apply(noon); !errors.Is(err, ErrDrift) {
					t.Errorf("apply: %v", err)
				}
				if _, _, err := c.Request("melb", noon); !errors.Is(err, ErrDrift) {
					t.Errorf("request: %v", err)
				}
				if paths := changed(before, tree(t, dir)); len(paths) > 0 {
					t.Errorf("it changed %q", paths)
				}
				if name == "alone" { // a site that begins anew, as the error says
					remove(t, filepath.Join(dir, "bundles/melb"), filepath.Join(dir, "authority/melb"))
					check(t, dir, mustApply(t, dir, inventory()))
				}
			})
		}
	}
}

// A site whose people's authority was followed by another has its document signed
// by that one, and nobody refuses it when the first one's certificate ends.
func TestDocumentFollowsItsAuthority(t *testing.T) {
	t.Parallel()
	dir, inv := filepath.Join(t.TempDir(), "bank"), twoSites()
	inv.Sites, inv.Evaluation = inv.Sites[:1], false
	c, l := Config{Dir: dir, Inventory: inv, Unsealed: true}, Layout{Dir: dir}
	own := l.document("melb")
	apply := func(at time.Time) {
		t.Helper()
		if _, err := c.Apply(at); err != nil {
			t.Fatal(err)
		}
	}
	number := func(path string, at time.Time) uint64 {
		t.Helper()
		root, err := pki.ReadCertificate(filepath.Join(dir, "authority/root.pem"))
		if err != nil {
			t.Fatal(err)
		}
		v, err := pki.NewVerifier(pki.VerifierConfig{Root: root, TrustDomain: inv.TrustDomain})
		if err != nil {
			t.Fatal(err)
		}
		d, err := site.ParseDocument(read(t, path), root, v, at)
		if err != nil {
			t.Fatalf("%s on %s: %v", path, at, err)
		}
		return d.Number
	}
	apply(noon)
	later, after := noon.Add(authorityLifetime-20*24*time.Hour), noon.Add(authorityLifetime+24*time.Hour)
	if n := number(own, after); n != 1 {
		t.Errorf("number %d", n)
	}
	for _, name := range []string{fileMachineCA, filePeopleCA} {
		remove(t, filepath.Join(dir, "authority/melb", name+".pem"))
	}
	plan, err := c.Plan(later)
	if err != nil || !slices.ContainsFunc(plan.Changes, func(change Change) bool { return change.Path == own && len(change.Detail) == 1 }) {
		t.Errorf("plan: %+v, %v", plan, err)
	}
	apply(later)
	if n := number(own, after); n != 2 {
		t.Errorf("after the authority was renewed: number %d", n)
	}
	before := tree(t, dir)
	apply(later.Add(time.Hour))
	if paths := changed(before, tree(t, dir)); len(paths) > 0 {
		t.Errorf("again: it changed %q", paths)
	}

	// The numbers go on from a copy whose signer's certificate has ended.
	bundle := l.Bundle(pki.Identity{TrustDomain: inv.TrustDomain, Site: "melb", Role: pki.RoleSensor, Name: "web-1"})
	last := read(t, own)
	before = tree(t, dir)
	for path := range before {
		if filepath.Base(path) == site.FileDocument && !strings.HasPrefix(filepath.Join(dir, path), bundle) {
			remove(t, filepath.Join(dir, path))
		}
	}
	end := noon.Add(2*authorityLifetime - 10*24*time.Hour)
	write(t, filepath.Join(bundle, site.FileDocument), last)
	for _, name := range []string{fileMachineCA, filePeopleCA} {
		remove(t, filepath.Join(dir, "authority/melb", name+".pem"))
	}
	apply(end)
	if n := number(own, end); n != 3 {
		t.Errorf("after the copies were lost and the signer had ended: number %d", n)
	}
}

// A document that a wrong clock dated in the future is followed by one of now,
// and a certificate of that clock is told.
func TestClockWasAhead(t *testing.T) {
	t.Parallel()
	dir, inv := filepath.Join(t.TempDir(), "bank"), inventory()
	c, l := Config{Dir: dir, Inventory: inv, Unsealed: true}, Layout{Dir: dir}
	if _, err := c.Apply(noon.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	ahead := noon.Add(48 * time.Hour)
	c.Inventory.Sites[0].Monitors = append(slices.Clone(inv.Sites[0].Monitors), Monitor{Name: "mon-2"})
	if _, err := c.Apply(ahead); err != nil {
		t.Fatal(err)
	}
	wrong := l.Bundle(identity(pki.RoleMonitor, "mon-2"))
	for range 2 { // told until it is put right
		result, err := c.Apply(noon)
		if err != nil || !slices.ContainsFunc(result.Drift, func(d Drift) bool {
			return d.Path == filepath.Join(wrong, site.FileChain) && strings.Contains(d.What, "a clock was wrong") && !d.Blocks
		}) {
			t.Errorf("%+v, %v", result, err)
		}
	}
	d := check(t, dir, []pki.Identity{identity(pki.RoleSensor, "web-1")})
	if d.Early(noon) || d.Number != 3 {
		t.Errorf("document %d of %s", d.Number, time.UnixMilli(d.Issued))
	}
	all, err := Expiries(dir, c.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Early(noon) != (e.Path == filepath.Join(wrong, site.FileChain)) {
			t.Errorf("%s from %s: early %v", e.Who, e.NotBefore, e.Early(noon))
		}
	}
}
