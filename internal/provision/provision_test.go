package provision

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/records"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
)

func TestApply(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ids := mustApply(t, dir, inventory())
	var senders []string
	for _, id := range ids {
		senders = append(senders, id.Sender())
	}
	if want := []string{"melb/broker/b1", "melb/sensor/web-1", "melb/monitor/mon-1", "melb/controller/lb-1", "melb/recorder/rec-1", "melb/operator/ann"}; !slices.Equal(senders, want) {
		t.Errorf("made %q", senders)
	}
	d := check(t, dir, ids)
	if d.Number != 1 || len(d.Brokers) != 1 || d.Brokers[0] != (site.Broker{Name: "b1", Address: "127.0.0.1:1"}) || len(d.Pins) != 1 ||
		!strings.HasPrefix(d.LogKey, "melb.bank.example/recorder/rec-1+") || d.GrantKey != "" {
		t.Errorf("%+v", d)
	}
	for _, id := range ids {
		bundle := Layout{Dir: dir}.Bundle(id)
		if noted := exists(filepath.Join(bundle, site.FileFirstStart)); noted != (id.Role.Class() == pki.ClassMachine) {
			t.Errorf("%s never ran: noted %t", id.Sender(), noted)
		}
		if noted := exists(filepath.Join(bundle, records.FileNewLog)); noted != (id.Role == pki.RoleRecorder) {
			t.Errorf("%s never made a log: noted %t", id.Sender(), noted)
		}
	}
	secrets := 0
	for path, f := range tree(t, dir) {
		secret := filepath.Ext(path) == ".key" || filepath.Ext(path) == ".keys"
		if secret {
			secrets++
		}
		journal := strings.HasPrefix(path, filepath.Join("authority", "melb", journalPrefix))
		if want := map[bool]os.FileMode{true: 0o600, false: 0o644}[secret || journal]; f.mode != want {
			t.Errorf("%s has mode %v", path, f.mode)
		}
	}
	if secrets != 4+6+5+1 { // authorities and site; people's and parts' own; envelope keys; the log's
		t.Errorf("%d files of secrets", secrets)
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == dir {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A second run changes no byte, no mode and no time.
func TestApplyAgain(t *testing.T) {
	t.Parallel()
	dir := made(t)
	before := tree(t, dir)
	for _, at := range []time.Time{noon, noon.Add(5 * 24 * time.Hour)} {
		if _, err := Apply(dir, inventory(), at); err != nil {
			t.Fatal(err)
		}
		if paths := changed(before, tree(t, dir)); len(paths) > 0 {
			t.Errorf("changed: %q", paths)
		}
	}
}

// order returns the files of the inventory in the order in which they are made.
func order(ids []pki.Identity) (paths []string) {
	for _, name := range []string{"root.key", "root.pem", "melb/machine-ca.key", "melb/machine-ca.pem", "melb/issued.machine",
		"melb/people-ca.key", "melb/people-ca.pem", "melb/issued.people", "melb/site.key", "melb/policy.yaml"} {
		paths = append(paths, filepath.Join("authority", name))
	}
	for _, id := range ids {
		var names []string
		if id.Role == pki.RoleRecorder {
			names = append(names, records.FileNewLog)
		}
		if id.Role.Class() == pki.ClassMachine {
			names = append(names, site.FileFirstStart)
		}
		names = append(names, site.FileKey, site.FileChain)
		if id.Role == pki.RoleRecorder {
			names = append(names, records.FileLogKey)
		}
		names = append(names, site.FileRoot, site.FilePolicy)
		if id.Role.Class() == pki.ClassMachine {
			names = append(names, site.FileKeys)
		}
		if id.Role == pki.RoleRecorder {
			names = append(names, records.FileSums)
		}
		if id.Role.Class() == pki.ClassMachine {
			names = append(names, "levee-"+string(id.Role)+".yaml")
		}
		for _, name := range names {
			paths = append(paths, filepath.Join(Layout{}.Bundle(id), name))
		}
	}
	for _, id := range ids {
		if id.Role == pki.RoleRecorder {
			paths = append(paths, filepath.Join(Layout{}.Bundle(id), FileJournal(pki.ClassMachine)), filepath.Join(Layout{}.Bundle(id), FileJournal(pki.ClassPerson)))
		}
	}
	paths = append(paths, filepath.Join("authority", "melb", site.FileDocument))
	for _, id := range ids {
		paths = append(paths, filepath.Join(Layout{}.Bundle(id), site.FileDocument))
	}
	return paths
}

// Wherever it was interrupted, the next run goes on from there: with the first
// files alone, in turn, and the directory of the next one.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	origin := madeOf(t, small())
	ids := mustApply(t, origin, small())
	all, paths := tree(t, origin), order(ids)
	if len(all) != len(paths) {
		t.Fatalf("%d files, but an order of %d", len(all), len(paths))
	}
	for n, path := range paths {
		if _, ok := all[path]; !ok || n > 0 && !grows(paths[n-1]) && all[path].time.Before(all[paths[n-1]].time) {
			t.Fatalf("%s was not made after %s", path, paths[max(0, n-1)])
		}
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "bank")
			for i, path := range paths[:n+1] {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700); err != nil {
					t.Fatal(err)
				}
				if i < n {
					write(t, filepath.Join(dir, path), read(t, filepath.Join(origin, path)))
				}
			}
			// And what a write that was cut short leaves behind.
			write(t, filepath.Join(dir, filepath.Dir(path), "."+filepath.Base(path)+"-123"), []byte("-----BEGIN"))
			before := tree(t, dir)
			if d := check(t, dir, mustApply(t, dir, small())); d != nil && d.Number != 1 {
				t.Errorf("number %d", d.Number)
			}
			after := tree(t, dir)
			for p, f := range before {
				if _, left := after[p]; after[p] != f && !grows(p) && !strings.HasSuffix(p, "-123") {
					t.Errorf("%s was there and was made again", p)
				} else if left && strings.HasSuffix(p, "-123") {
					t.Errorf("%s was left", p)
				}
			}
		})
	}
}

// grows reports whether a file is a journal, which every certificate is written to.
func grows(path string) bool { return strings.HasPrefix(filepath.Base(path), journalPrefix) }

// Every file removed, in turn: what follows from others is made again, and what
// something depends on is asked for.
func TestRemoved(t *testing.T) {
	t.Parallel()
	origin := madeOf(t, small())
	refused := 0
	for path := range tree(t, origin) {
		dir := filepath.Join(t.TempDir(), "bank")
		copyTree(t, origin, dir)
		before := tree(t, dir)
		remove(t, filepath.Join(dir, path))
		ids, err := Apply(dir, small(), noon)
		rootKey := path == filepath.Join("authority", "root.key")
		if unique := filepath.Ext(path) == ".key" && !rootKey || path == filepath.Join("authority", "root.pem") ||
			grows(path) && strings.HasPrefix(path, "authority"); unique {
			refused++
			if err == nil || !strings.Contains(err.Error(), filepath.Base(path)) {
				t.Errorf("without %s: %v", path, err)
			}
			if paths := changed(before, tree(t, dir)); !slices.Equal(paths, []string{path}) || exists(filepath.Join(dir, path)) {
				t.Errorf("without %s it changed %q", path, paths)
			}
			continue
		}
		if err != nil {
			t.Errorf("without %s: %v", path, err)
			continue
		}
		if filepath.Base(path) == site.FileFirstStart || filepath.Base(path) == records.FileNewLog {
			if exists(filepath.Join(dir, path)) { // nobody can tell that it never ran
				t.Errorf("%s was made again", path)
			}
			continue
		}
		for _, id := range ids { // the others are as they were
			if strings.HasPrefix(path, (Layout{}).Bundle(id)+"/") {
				check(t, dir, []pki.Identity{id})
			}
		}
		paths := changed(before, tree(t, dir))
		if path == filepath.Join("authority", "melb", filePeopleCA+".pem") { // what it signed, another signs now
			paths = slices.DeleteFunc(paths, func(p string) bool { return filepath.Base(p) == site.FileDocument })
		}
		if !slices.Equal(paths, []string{path}) {
			t.Errorf("without %s it changed %q", path, paths)
		}
	}
	if refused != 2+1+1+4+1+2 { // authorities, root, site key; parts, log; journals
		t.Errorf("%d files were asked for", refused)
	}
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for path, f := range tree(t, from) {
		if err := os.Chmod(filepath.Join(to, path), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(to, path), f.time, f.time); err != nil {
			t.Fatal(err)
		}
	}
}

// What the inventory gains is added, and nothing else is touched but the site
// document, where it speaks of what was added.
func TestInventoryGrows(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		grow   func(*Site)
		number uint64
	}{
		{"a sensor", func(s *Site) { s.Sensors = append(s.Sensors, Sensor{Name: "web-2"}) }, 1},
		{"a person", func(s *Site) { s.People = append(s.People, Person{Role: pki.RoleViewer, Name: "vera"}) }, 1},
		{"a controller", func(s *Site) { s.Controllers = append(s.Controllers, Controller{Name: "lb-2"}) }, 1},
		{"a monitor", func(s *Site) { s.Monitors = append(s.Monitors, Monitor{Name: "mon-2"}) }, 2},
		{"a broker", func(s *Site) {
			s.Brokers = append(s.Brokers, Broker{Name: "b2", Listen: ":3", Address: "127.0.0.1:3"})
		}, 2},
		{"another address", func(s *Site) { s.Brokers[0].Address = "127.0.0.1:4" }, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := made(t)
			before := tree(t, dir)
			inv := inventory()
			test.grow(&inv.Sites[0])
			for range 2 { // the second run finds it done
				ids := mustApply(t, dir, inv)
				if d := check(t, dir, ids); d != nil && d.Number != test.number {
					t.Errorf("number %d", d.Number)
				}
			}
			after := tree(t, dir)
			for path, f := range before {
				if after[path] != f && !grows(path) && (filepath.Base(path) != site.FileDocument || test.number == 1) {
					t.Errorf("%s changed", path)
				}
			}
		})
	}
	dir := made(t)
	inv := inventory()
	inv.Sites = append(inv.Sites, inv.Sites[0])
	inv.Sites[1].Name = "syd"
	before := tree(t, dir)
	ids := mustApply(t, dir, inv)
	if len(ids) != 12 {
		t.Errorf("%d identities", len(ids))
	}
	check(t, dir, ids[:6])
	check(t, dir, ids[6:])
	for path, f := range before {
		if tree(t, dir)[path] != f {
			t.Errorf("a second site changed %s", path)
		}
	}
	if bytes.Equal(read(t, filepath.Join(dir, "authority", "melb", fileSiteKey)), read(t, filepath.Join(dir, "authority", "syd", fileSiteKey))) {
		t.Error("two sites have one key")
	}
}

// The policy is the deployer's: an edit reaches every bundle and the document.
func TestPolicyIsEdited(t *testing.T) {
	t.Parallel()
	dir := made(t)
	l := Layout{Dir: dir}
	write(t, filepath.Join(l.site("melb"), site.FilePolicy), stricter(t))
	ids := mustApply(t, dir, inventory())
	if d := check(t, dir, ids); d != nil && d.Number != 2 {
		t.Errorf("number %d", d.Number)
	}
	for _, id := range ids {
		if !bytes.Equal(read(t, filepath.Join(l.Bundle(id), site.FilePolicy)), stricter(t)) {
			t.Errorf("%s has the old policy", id.Sender())
		}
	}
	write(t, filepath.Join(l.site("melb"), site.FilePolicy), []byte("version: 2\n"))
	before := tree(t, dir)
	if _, err := Apply(dir, inventory(), noon); err == nil {
		t.Error("a policy that is none was given out")
	}
	if paths := changed(before, tree(t, dir)); len(paths) > 0 {
		t.Errorf("changed %q", paths)
	}
}

// Keys that receivers must know are pinned: of an issuer too, whose lists nobody
// else can sign then.
func TestIssuerIsPinned(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ids := mustApply(t, dir, tiny())
	d := check(t, dir, ids)
	for _, id := range ids {
		if id.Role != pki.RoleIssuer {
			continue
		}
		l := Layout{Dir: dir}
		c, err := pki.LoadCredential(filepath.Join(l.Bundle(id), site.FileKey), filepath.Join(l.Bundle(id), site.FileChain))
		if err != nil {
			t.Fatal(err)
		}
		if match, pinned := d.Pinned(id.Sender(), c.Leaf()); !match || !pinned || len(d.Pins) != 1 {
			t.Errorf("the pins are %+v", d.Pins)
		}
		return
	}
	t.Error("there is no issuer")
}

// What no inventory says is not taken back when the next document is signed.
func TestDocumentKeepsWhatItSays(t *testing.T) {
	t.Parallel()
	dir := made(t)
	l := Layout{Dir: dir}
	ids := mustApply(t, dir, inventory())
	d := *check(t, dir, ids)
	d.Number = 7
	d.Generations = []site.Generation{{Sender: "melb/sensor/web-1", Minimum: 2}}
	d.WitnessKeys = []string{"witness"}
	d.GrantKey = "grant"
	raw := l.sign(t, d)
	// Not even the deployer's own copy: a bundle's is newer.
	write(t, filepath.Join(l.Bundle(ids[1]), site.FileDocument), raw)
	inv := inventory()
	inv.Sites[0].Monitors = append(inv.Sites[0].Monitors, Monitor{Name: "mon-2"})
	after := check(t, dir, mustApply(t, dir, inv))
	if after.Number != 8 || len(after.Generations) != 1 || after.Generations[0].Minimum != 2 || len(after.WitnessKeys) != 1 || after.GrantKey != "grant" || len(after.Pins) != 2 {
		t.Errorf("%+v", after)
	}
	remove(t, l.document("melb"))
	if again := check(t, dir, mustApply(t, dir, inv)); again.Number != 8 {
		t.Errorf("without the deployer's copy: number %d", again.Number)
	}
	// A copy that is damaged is replaced, the deployer's own is not.
	write(t, filepath.Join(l.Bundle(ids[1]), site.FileDocument), raw[:100])
	check(t, dir, mustApply(t, dir, inv))
	write(t, l.document("melb"), raw[:100])
	if _, err := Apply(dir, inv, noon); err == nil || !strings.Contains(err.Error(), l.document("melb")) {
		t.Errorf("%v", err)
	}
}

// sign signs a document as the deployer can.
func (l Layout) sign(t testing.TB, d site.Document) []byte {
	t.Helper()
	root, err := pki.ReadCertificate(filepath.Join(l.Authority(), "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(l.site("melb"), filePeopleCA)
	key, err := pki.ReadKey(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	people, err := pki.ReadCertificate(path + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := site.Sign(d, key, people, root, noon)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// What is there and does not belong together is refused, not used.
func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	origin, other := made(t), made(t)
	for _, test := range []struct {
		name, want string
		change     func(t *testing.T, dir string, inv *Inventory)
	}{
		{"another trust domain", "of trust domain", func(_ *testing.T, _ string, inv *Inventory) { inv.TrustDomain = "bank.test" }},
		{"production on an evaluation root", "one is for evaluation", func(_ *testing.T, _ string, inv *Inventory) { inv.Evaluation = false }},
		{"an inventory that is none", "it has no broker", func(_ *testing.T, _ string, inv *Inventory) { inv.Sites[0].Brokers = nil }},
		{"another's root", "root", func(t *testing.T, dir string, _ *Inventory) {
			swap(t, other, dir, "authority/root.key", "authority/root.pem")
		}},
		{"another root's key", "is not the key of", func(t *testing.T, dir string, _ *Inventory) { swap(t, other, dir, "authority/root.key") }},
		{"an authority below another root", "machine-ca.pem", func(t *testing.T, dir string, _ *Inventory) {
			swap(t, other, dir, "authority/melb/machine-ca.key", "authority/melb/machine-ca.pem")
		}},
		{"the people's authority for machines", "is the authority of ops.melb", func(t *testing.T, dir string, _ *Inventory) {
			for _, ext := range []string{".key", ".pem"} {
				write(t, filepath.Join(dir, "authority/melb/machine-ca"+ext), read(t, filepath.Join(dir, "authority/melb/people-ca"+ext)))
			}
		}},
		{"another part's certificate", "is the certificate of", func(t *testing.T, dir string, _ *Inventory) {
			for _, name := range []string{site.FileKey, site.FileChain} {
				write(t, filepath.Join(dir, "bundles/melb/sensor/web-1", name), read(t, filepath.Join(dir, "bundles/melb/controller/lb-1", name)))
			}
		}},
		{"another part's key", "does not belong", func(t *testing.T, dir string, _ *Inventory) {
			write(t, filepath.Join(dir, "bundles/melb/sensor/web-1", site.FileKey), read(t, filepath.Join(dir, "bundles/melb/controller/lb-1", site.FileKey)))
		}},
		{"another root in a bundle", "is not the deployer's root", func(t *testing.T, dir string, _ *Inventory) {
			swap(t, other, dir, "bundles/melb/sensor/web-1/root.pem")
		}},
		{"another log's key", "is not the key of the site's log", func(t *testing.T, dir string, _ *Inventory) {
			swap(t, other, dir, "bundles/melb/recorder/rec-1/log.key")
		}},
		{"another recorder", "the site's log has a key already", func(_ *testing.T, _ string, inv *Inventory) { inv.Sites[0].Recorder = "rec-2" }},
		{"another address, which the broker's certificate lacks", "is not for its address", func(_ *testing.T, _ string, inv *Inventory) {
			inv.Sites[0].Brokers[0].Address = "127.0.0.9:1"
		}},
		{"another recorder, after none", "the site's log has a key already", func(t *testing.T, dir string, inv *Inventory) {
			without := inventory()
			without.Sites[0].Recorder = ""
			mustApply(t, dir, without)
			inv.Sites[0].Recorder = "rec-2"
		}},
		{"another site's key", "of site \"syd\"", func(t *testing.T, dir string, _ *Inventory) {
			path := filepath.Join(dir, "authority/melb", fileSiteKey)
			write(t, path, bytes.Replace(read(t, path), []byte("Site: melb"), []byte("Site: syd"), 1))
		}},
		{"a key that others may read", "0644", func(t *testing.T, dir string, _ *Inventory) {
			if err := os.Chmod(filepath.Join(dir, "authority/root.key"), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir, inv := filepath.Join(t.TempDir(), "bank"), inventory()
			copyTree(t, origin, dir)
			test.change(t, dir, &inv)
			before := tree(t, filepath.Join(dir, "authority"))
			if _, err := Apply(dir, inv, noon); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
			if paths := changed(before, tree(t, filepath.Join(dir, "authority"))); len(paths) > 0 {
				t.Errorf("it changed the deployer's %q", paths)
			}
		})
	}
	if _, err := Apply(origin, inventory(), noon.Add(ca.MaxEvaluationLifetime+time.Hour)); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired root: %v", err)
	}
}

// A renewed bundle is not one whose part never ran.
func TestRenewedIsNotNew(t *testing.T) {
	t.Parallel()
	dir := made(t)
	for _, id := range mustApply(t, dir, inventory()) {
		bundle := Layout{Dir: dir}.Bundle(id)
		for _, name := range []string{site.FileFirstStart, records.FileNewLog, site.FileKey, site.FileChain} {
			remove(t, filepath.Join(bundle, name))
		}
	}
	for _, id := range mustApply(t, dir, inventory()) {
		bundle := Layout{Dir: dir}.Bundle(id)
		if exists(filepath.Join(bundle, site.FileFirstStart)) || exists(filepath.Join(bundle, records.FileNewLog)) {
			t.Errorf("%s counts as never run", id.Sender())
		}
		if !exists(filepath.Join(bundle, site.FileKey)) {
			t.Errorf("%s has no new key", id.Sender())
		}
	}
}

func swap(t testing.TB, from, to string, paths ...string) {
	t.Helper()
	for _, path := range paths {
		write(t, filepath.Join(to, path), read(t, filepath.Join(from, path)))
	}
}

func TestInventoryCheck(t *testing.T) {
	t.Parallel()
	if err := inventory().Check(); err != nil {
		t.Fatal(err)
	}
	own := inventory()
	own.Sites[0].Brokers[0].Address = "melb.bank.example:8883"
	if err := own.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Inventory){
		"no trust domain":                     func(i *Inventory) { i.TrustDomain = "" },
		"a trust domain in capitals":          func(i *Inventory) { i.TrustDomain = "Bank.example" },
		"no site":                             func(i *Inventory) { i.Sites = nil },
		"a site twice":                        func(i *Inventory) { i.Sites = append(i.Sites, i.Sites[0]) },
		"a site called public":                func(i *Inventory) { i.Sites[0].Name = "public" },
		"a site called ops":                   func(i *Inventory) { i.Sites[0].Name = "ops" },
		"a site that is a path":               func(i *Inventory) { i.Sites[0].Name = "../melb" },
		"no broker":                           func(i *Inventory) { i.Sites[0].Brokers = nil },
		"a broker without name":               func(i *Inventory) { i.Sites[0].Brokers[0].Name = "" },
		"a broker twice":                      func(i *Inventory) { i.Sites[0].Brokers = append(i.Sites[0].Brokers, i.Sites[0].Brokers[0]) },
		"a listener without port":             func(i *Inventory) { i.Sites[0].Brokers[0].Listen = "127.0.0.1" },
		"a listener on a name with a space":   func(i *Inventory) { i.Sites[0].Brokers[0].Listen = "a b:1" },
		"a listener on a line":                func(i *Inventory) { i.Sites[0].Brokers[0].Listen = "a\nb:1" },
		"an address without host":             func(i *Inventory) { i.Sites[0].Brokers[0].Address = ":1" },
		"an address without port":             func(i *Inventory) { i.Sites[0].Brokers[0].Address = "127.0.0.1" },
		"port 0":                              func(i *Inventory) { i.Sites[0].Brokers[0].Address = "127.0.0.1:0" },
		"port 65536":                          func(i *Inventory) { i.Sites[0].Brokers[0].Address = "127.0.0.1:65536" },
		"a port by name":                      func(i *Inventory) { i.Sites[0].Brokers[0].Address = "127.0.0.1:mqtt" },
		"an address outside the networks":     func(i *Inventory) { i.Sites[0].Brokers[0].Address = "192.0.2.1:1" },
		"a host that no certificate can name": func(i *Inventory) { i.Sites[0].Brokers[0].Address = "mqtt.example.com:1" },
		"another site's host":                 func(i *Inventory) { i.Sites[0].Brokers[0].Address = "syd.bank.example:1" },
		"no network":                          func(i *Inventory) { i.Sites[0].Networks[0] = netip.Prefix{} },
		"all networks":                        func(i *Inventory) { i.Sites[0].Networks[0] = netip.MustParsePrefix("0.0.0.0/0") },
		"a network with host bits":            func(i *Inventory) { i.Sites[0].Networks[0] = netip.MustParsePrefix("127.0.0.1/8") },
		"a mapped network":                    func(i *Inventory) { i.Sites[0].Networks[0] = netip.MustParsePrefix("::ffff:127.0.0.0/104") },
		"a sensor twice":                      func(i *Inventory) { i.Sites[0].Sensors = append(i.Sites[0].Sensors, i.Sites[0].Sensors[0]) },
		"a sensor with a dot":                 func(i *Inventory) { i.Sites[0].Sensors[0].Name = "web.1" },
		"a name of 25":                        func(i *Inventory) { i.Sites[0].Monitors[0].Name = strings.Repeat("x", 25) },
		"a recorder that is a path":           func(i *Inventory) { i.Sites[0].Recorder = "../rec" },
		"a pool of nobody":                    func(i *Inventory) { i.Sites[0].Controllers[0].Pools[0].Server = "web-9" },
		"a pool without port":                 func(i *Inventory) { i.Sites[0].Controllers[0].Pools[0].Listen = "127.0.0.1" },
		"a pool twice": func(i *Inventory) {
			i.Sites[0].Controllers = append(i.Sites[0].Controllers, Controller{Name: "lb-2", Pools: i.Sites[0].Controllers[0].Pools})
		},
		"a person without role":        func(i *Inventory) { i.Sites[0].People[0].Role = "" },
		"a person with a machine's":    func(i *Inventory) { i.Sites[0].People[0].Role = pki.RoleMonitor },
		"a person with an unknown one": func(i *Inventory) { i.Sites[0].People[0].Role = "root" },
		"a person twice":               func(i *Inventory) { i.Sites[0].People = append(i.Sites[0].People, i.Sites[0].People[0]) },
	} {
		inv := inventory()
		change(&inv)
		if err := inv.Check(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		dir := filepath.Join(t.TempDir(), "bank")
		if _, err := Apply(dir, inv, noon); err == nil {
			t.Errorf("%s: made", name)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: it left %s behind", name, dir)
		}
	}
}

func TestVerifierKeyRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "PRIVATE+KEY", "PRIVATE+KEY+a+b+c", "PRIVATE+KEY+log+00000000+AAAA", "log+00000000+AAAA"} {
		if key, err := verifierKey(text); err == nil {
			t.Errorf("%q has the public key %q", text, key)
		}
	}
}
