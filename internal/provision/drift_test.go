package provision

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/issuance"
	"levee/internal/records"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
	"levee/pki/seal"
)

// A plan says what apply then does, and does nothing itself.
func TestPlanIsWhatApplyDoes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bank")
	c := Config{Dir: dir, Inventory: inventory(), Unsealed: true}
	for _, change := range []func(){
		func() {},
		func() { c.Inventory.Sites[0].Sensors = append(c.Inventory.Sites[0].Sensors, Sensor{Name: "web-2"}) },
		func() { c.Inventory.Sites[0].Monitors = append(c.Inventory.Sites[0].Monitors, Monitor{Name: "mon-2"}) },
		func() {
			c.Inventory.Sites[0].Issuers = []Issuer{{Name: "iss-1", Listen: "127.0.0.1:9", Address: "127.0.0.1:9"}}
		},
		func() { write(t, filepath.Join(Layout{Dir: dir}.site("melb"), site.FilePolicy), stricter(t)) },
		func() { remove(t, filepath.Join(dir, "bundles/melb/sensor/web-1", site.FilePolicy)) },
		func() {
			remove(t, filepath.Join(dir, "bundles/melb/sensor/web-1", site.FileKey), filepath.Join(dir, "bundles/melb/sensor/web-1", site.FileChain))
		},
	} {
		change()
		before := make(map[string]file)
		if exists(dir) {
			before = tree(t, dir)
		}
		plan, err := c.Plan(noon)
		if err != nil {
			t.Fatal(err)
		}
		if exists(dir) {
			if paths := changed(before, tree(t, dir)); len(paths) > 0 {
				t.Errorf("planning changed %q", paths)
			}
		}
		if _, err := c.Apply(noon); err != nil {
			t.Fatal(err)
		}
		var planned []string
		for _, change := range plan.Changes {
			path, err := filepath.Rel(dir, change.Path)
			if err != nil {
				t.Fatal(err)
			}
			planned = append(planned, path)
		}
		done := changed(before, tree(t, dir))
		done = slices.DeleteFunc(done, func(path string) bool {
			return grows(path) && strings.HasPrefix(path, "authority") && !slices.Contains(planned, path)
		})
		slices.Sort(planned)
		slices.Sort(done)
		if !slices.Equal(slices.Compact(planned), done) {
			t.Errorf("planned\n%q\nand did\n%q", planned, done)
		}
		if again, err := c.Plan(noon); err != nil || len(again.Changes) > 0 || len(again.Drift) > 0 && len(c.Inventory.Sites[0].Issuers) == 0 {
			t.Errorf("then there is still %+v, %v", again, err)
		}
	}
}

// What blocks is told all at once, and nothing is made beside it.
func TestDriftBlocks(t *testing.T) {
	t.Parallel()
	dir := made(t)
	bundles := filepath.Join(dir, "bundles", "melb")
	swapped := filepath.Join(bundles, "sensor", "web-1")
	for _, name := range []string{site.FileKey, site.FileChain} {
		write(t, filepath.Join(swapped, name), read(t, filepath.Join(bundles, "controller", "lb-1", name)))
	}
	write(t, filepath.Join(bundles, "recorder", "rec-1", site.FileRoot), []byte("not the root"))
	inv := inventory()
	inv.Sites[0].Sensors = append(inv.Sites[0].Sensors, Sensor{Name: "web-2"})
	before := tree(t, dir)
	result, err := Config{Dir: dir, Inventory: inv, Unsealed: true}.Apply(noon)
	if !errors.Is(err, ErrDrift) || result == nil || len(result.Blocked()) != 2 || !strings.Contains(err.Error(), "lb-1") || !strings.Contains(err.Error(), "rec-1") {
		t.Errorf("%+v, %v", result, err)
	}
	if paths := changed(before, tree(t, dir)); len(paths) > 0 {
		t.Errorf("it changed %q", paths)
	}
}

// What does not block is told, and left alone.
func TestDriftIsNoted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(t *testing.T, dir string, inv *Inventory)
		want   string
	}{
		"a configuration by hand": {func(t *testing.T, dir string, _ *Inventory) {
			path := filepath.Join(dir, "bundles/melb/sensor/web-1/levee-sensor.yaml")
			write(t, path, append(read(t, path), "# mine\n"...))
		}, "not what the inventory says"},
		"an orphan": {func(_ *testing.T, _ string, inv *Inventory) {
			inv.Sites[0].Controllers, inv.Sites[0].Sensors = nil, nil
		}, "is not in the inventory"},
		"other networks": {func(_ *testing.T, _ string, inv *Inventory) {
			inv.Sites[0].Networks = append(inv.Sites[0].Networks, mustPrefix("10.0.0.0/8"))
		}, "permits other networks"},
		"a certificate that nobody wrote down": {func(t *testing.T, dir string, _ *Inventory) {
			// Issued with the authority's key, past its journal.
			id := identity(pki.RoleSensor, "web-1")
			l := Layout{Dir: dir}
			cert, err := pki.ReadCertificate(filepath.Join(l.site("melb"), fileMachineCA+".pem"))
			if err != nil {
				t.Fatal(err)
			}
			signer, err := pki.ReadKey(filepath.Join(l.site("melb"), fileMachineCA+".key"))
			if err != nil {
				t.Fatal(err)
			}
			key, err := pki.ReadKey(filepath.Join(l.Bundle(id), site.FileKey))
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := ca.IssueLeaf(ca.Issuer{Certificate: cert, Signer: signer}, id, key.Public(), ca.Names{}, time.Hour, noon)
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(l.Bundle(id), site.FileChain), pki.MarshalCertificates(leaf, cert))
		}, "its certificate is not in"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, inv := made(t), inventory()
			test.change(t, dir, &inv)
			before := tree(t, filepath.Join(dir, "bundles", "melb", "sensor"))
			for range 2 {
				result, err := Config{Dir: dir, Inventory: inv, Unsealed: true}.Apply(noon)
				if err != nil || !slices.ContainsFunc(result.Drift, func(d Drift) bool { return !d.Blocks && strings.Contains(d.What, test.want) }) {
					t.Errorf("%+v, %v", result, err)
				}
			}
			for path, f := range before {
				if after := tree(t, filepath.Join(dir, "bundles", "melb", "sensor")); after[path] != f && filepath.Base(path) != site.FileDocument {
					t.Errorf("%s was changed", path)
				}
			}
		})
	}
}

// Every certificate of a bundle is in the journal of its authority, and the
// recorder has both journals.
func TestEverythingIsInTheJournal(t *testing.T) {
	t.Parallel()
	dir := made(t)
	ids := mustApply(t, dir, inventory())
	l := Layout{Dir: dir}
	root, err := pki.ReadCertificate(filepath.Join(l.Authority(), "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root, TrustDomain: "bank.example", AllowEvaluation: true})
	if err != nil {
		t.Fatal(err)
	}
	written := make(map[string]issuance.Entry)
	for _, class := range []pki.Class{pki.ClassMachine, pki.ClassPerson} {
		text := read(t, l.Journal("melb", class))
		if string(text) != string(read(t, filepath.Join(l.Bundle(identity(pki.RoleRecorder, "rec-1")), FileJournal(class)))) {
			t.Error("the recorder has another journal")
		}
		var lines [][]byte
		for line := range strings.Lines(string(text)) {
			lines = append(lines, []byte(strings.TrimSuffix(line, "\n")))
		}
		entries, _, err := issuance.Verify(lines, root, v, pki.Authority{TrustDomain: "bank.example", Site: "melb", Class: class}, issuance.Deployer, issuance.Position{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Cause != issuance.CauseBundle {
				t.Errorf("cause %q", e.Cause)
			}
			written[string(e.Certificate.Raw)] = e
		}
	}
	if len(written) != len(ids) {
		t.Errorf("%d certificates for %d bundles", len(written), len(ids))
	}
	for _, id := range ids {
		c, err := pki.LoadCredential(filepath.Join(l.Bundle(id), site.FileKey), filepath.Join(l.Bundle(id), site.FileChain))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := written[string(c.Leaf().Raw)]; !ok {
			t.Errorf("the certificate of %s is in no journal", id.Sender())
		}
	}
}

// A journal is not put back to an older state, nor changed, nor begun anew.
func TestJournalIsKept(t *testing.T) {
	t.Parallel()
	origin := made(t)
	older := read(t, Layout{Dir: origin}.Journal("melb", pki.ClassMachine))
	inv := inventory()
	inv.Sites[0].Sensors = append(inv.Sites[0].Sensors, Sensor{Name: "web-2"})
	mustApply(t, origin, inv)
	for name, test := range map[string]struct {
		content []byte
		want    string
	}{
		"older":   {older, "it lacks what its copy"},
		"changed": {[]byte(strings.Replace(string(read(t, Layout{Dir: origin}.Journal("melb", pki.ClassMachine))), `"cause":"bundle"`, `"cause":"renewal"`, 1)), "restore it"},
		"empty":   {nil, "it lacks what its copy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "bank")
			copyTree(t, origin, dir)
			path := Layout{Dir: dir}.Journal("melb", pki.ClassMachine)
			write(t, path, test.content)
			before := tree(t, dir)
			if _, err := Apply(dir, inv, noon); !errors.Is(err, ErrDrift) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
			if paths := changed(before, tree(t, dir)); len(paths) > 0 {
				t.Errorf("it changed %q", paths)
			}
		})
	}
}

// Nor is it begun anew where there is no copy to compare it with.
func TestJournalIsNotBegunAnew(t *testing.T) {
	t.Parallel()
	inv := small()
	inv.Sites[0].Recorder = ""
	for _, class := range []pki.Class{pki.ClassMachine, pki.ClassPerson} {
		dir := madeOf(t, inv)
		path := Layout{Dir: dir}.Journal("melb", class)
		remove(t, path)
		if _, err := Apply(dir, inv, noon); !errors.Is(err, ErrDrift) || !strings.Contains(err.Error(), "it is gone") || exists(path) {
			t.Errorf("%v", err)
		}
	}
}

// A certificate that was written down when a run ended before the bundle had it
// is used by the next run: nothing is issued twice.
func TestIssuedOnce(t *testing.T) {
	t.Parallel()
	dir := made(t)
	id := identity(pki.RoleSensor, "web-1")
	chain := filepath.Join(Layout{Dir: dir}.Bundle(id), site.FileChain)
	journal := Layout{Dir: dir}.Journal("melb", pki.ClassMachine)
	before, lines := read(t, chain), read(t, journal)
	remove(t, chain)
	mustApply(t, dir, inventory())
	if string(read(t, chain)) != string(before) || string(read(t, journal)) != string(lines) {
		t.Error("it was issued again")
	}
}

// asked answers for a deployer, and remembers whose keys were asked for.
func asked(t testing.TB, whose map[Secret]int) func(Secret, bool) (seal.Passphrase, error) {
	return func(s Secret, _ bool) (seal.Passphrase, error) {
		whose[s]++
		p, err := seal.NewPassphrase([]byte("correct horse battery " + string(s)))
		if err != nil {
			t.Error(err)
		}
		return p, nil
	}
}

// Sealed keys are opened to sign and for nothing else, each once; each kind has
// a passphrase of its own; the issuer's copy opens with its own alone.
func TestSealed(t *testing.T) {
	t.Parallel()
	dir, inv := filepath.Join(t.TempDir(), "bank"), tiny()
	whose := make(map[Secret]int)
	c := Config{Dir: dir, Inventory: inv, Passphrase: asked(t, whose)}
	if _, err := c.Apply(noon); err != nil {
		t.Fatal(err)
	}
	if whose[SecretRoot] != 1 || whose[SecretSites] != 1 || whose[SecretIssuer] != 1 {
		t.Errorf("asked %v", whose)
	}
	l := Layout{Dir: dir}
	for path, s := range map[string]Secret{
		filepath.Join(l.Authority(), "root.key"):                                   SecretRoot,
		filepath.Join(l.site("melb"), fileMachineCA+".key"):                        SecretSites,
		filepath.Join(l.site("melb"), filePeopleCA+".key"):                         SecretSites,
		filepath.Join(l.Bundle(identity(pki.RoleIssuer, "iss-1")), "machines.key"): SecretIssuer,
	} {
		wrong := SecretRoot
		if s == SecretRoot {
			wrong = SecretSites
		}
		for _, other := range []Secret{s, wrong} {
			_, err := ca.OpenKey(path, func() (seal.Passphrase, error) { return asked(t, map[Secret]int{})(other, false) })
			if (err == nil) != (other == s) {
				t.Errorf("%s with the passphrase of %s: %v", path, other, err)
			}
		}
	}
	clear(whose)
	before := tree(t, dir)
	if _, err := c.Apply(noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if paths := changed(before, tree(t, dir)); len(paths)+len(whose) > 0 {
		t.Errorf("a second run changed %q and asked %v", paths, whose)
	}
	remove(t, filepath.Join(l.Authority(), "root.key"))
	c.Inventory.Sites[0].Sensors = []Sensor{{Name: "web-1"}}
	if _, err := c.Apply(noon); err != nil || whose[SecretRoot] != 0 || whose[SecretSites] != 1 {
		t.Errorf("without the root: %v, asked %v", err, whose)
	}
	c.Passphrase = nil
	c.Inventory.Sites[0].Sensors = append(c.Inventory.Sites[0].Sensors, Sensor{Name: "web-2"})
	if _, err := c.Apply(noon); err == nil || !strings.Contains(err.Error(), "sealed") {
		t.Errorf("without a passphrase: %v", err)
	}
	// Another's key in its place is seen when it would sign.
	other := made(t)
	swap(t, other, dir, "authority/melb/machine-ca.key")
	if _, err := c.Apply(noon); !errors.Is(err, ErrDrift) || !strings.Contains(err.Error(), "not the key of the certificate") {
		t.Errorf("with another's key: %v", err)
	}
}

// A bundle is verified as its part would, and what is wrong is found.
func TestVerifyBundle(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bank")
	inv := inventory()
	inv.Sites[0].Issuers = tiny().Sites[0].Issuers
	l := Layout{Dir: dir}
	for _, id := range mustApply(t, dir, inv) {
		for _, c := range VerifyBundle(l.Bundle(id), noon) {
			if c.Wrong != "" {
				t.Errorf("%s: %+v", id.Sender(), c)
			}
		}
	}
	for name, change := range map[string]func(t *testing.T, dir string){
		"an open key": func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "bundles/melb/sensor/web-1/envelope.keys"), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"another's envelope keys": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "bundles/melb/sensor/web-1/envelope.keys"), read(t, filepath.Join(dir, "bundles/melb/controller/lb-1/envelope.keys")))
		},
		"another policy": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "bundles/melb/sensor/web-1/policy.yaml"), stricter(t))
		},
		"no key": func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "bundles/melb/sensor/web-1/tls.key")) },
		"another's monitor": func(t *testing.T, dir string) {
			other := made(t)
			swap(t, other, dir, "bundles/melb/monitor/mon-1/tls.key", "bundles/melb/monitor/mon-1/tls.pem")
		},
		"a journal cut in the middle": func(t *testing.T, dir string) {
			path := filepath.Join(dir, "bundles/melb/recorder/rec-1/issued.machine")
			write(t, path, read(t, path)[500:])
		},
		"another's machine authority": func(t *testing.T, dir string) {
			swap(t, made(t), dir, "authority/melb/machine-ca.key")
			write(t, filepath.Join(dir, "bundles/melb/issuer/iss-1/machines.key"), read(t, filepath.Join(dir, "authority/melb/machine-ca.key")))
		},
		"the people's authority for machines": func(t *testing.T, dir string) {
			for _, ext := range []string{".key", ".pem"} {
				write(t, filepath.Join(dir, "bundles/melb/issuer/iss-1/machines"+ext), read(t, filepath.Join(dir, "authority/melb/people-ca"+ext)))
			}
		},
		"another sum": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "bundles/melb/recorder/rec-1", records.FileSums), []byte("00  root.pem\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			changed := filepath.Join(t.TempDir(), "bank")
			copyTree(t, dir, changed)
			change(t, changed)
			wrong := 0
			for _, id := range []pki.Identity{identity(pki.RoleSensor, "web-1"), identity(pki.RoleMonitor, "mon-1"), identity(pki.RoleRecorder, "rec-1"), identity(pki.RoleIssuer, "iss-1")} {
				for _, c := range VerifyBundle(Layout{Dir: changed}.Bundle(id), noon) {
					if c.Wrong != "" {
						wrong++
					}
				}
			}
			if wrong == 0 {
				t.Error("nothing was wrong")
			}
		})
	}
}
