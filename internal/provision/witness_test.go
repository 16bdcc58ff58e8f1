package provision

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"levee/internal/config"
	"levee/internal/records"
	"levee/internal/site"
	"levee/internal/translog/proof"
	"levee/internal/translog/witness"
	"levee/pki"
)

// witnessed is an inventory of sites that have a recorder each, whose logs others see.
func witnessed(names ...string) Inventory {
	inv := Inventory{TrustDomain: "bank.example", Evaluation: true}
	for i, name := range names {
		s := small().Sites[0]
		s.Name, s.People, s.Monitors = name, nil, nil
		s.Log = Log{Listen: "127.0.0.1:4" + string(rune('0'+i)), Address: "127.0.0.1:4" + string(rune('0'+i))}
		inv.Sites = append(inv.Sites, s)
	}
	return inv
}

func recorderOf(name string) pki.Identity {
	return pki.Identity{TrustDomain: "bank.example", Site: name, Role: pki.RoleRecorder, Name: "rec-1"}
}

// document reads a site's newest.
func document(t *testing.T, dir, name string) *site.Document {
	t.Helper()
	l := Layout{Dir: dir}
	root, err := pki.ReadCertificate(filepath.Join(l.Authority(), "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root, TrustDomain: "bank.example", AllowEvaluation: true})
	if err != nil {
		t.Fatal(err)
	}
	d, err := site.ParseDocument(read(t, l.document(name)), root, v, noon)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Each site's document names the others' witnesses and logs, each recorder has its
// own key and is told where to ask, and its certificate is for its address and the
// name by which it is dialled.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bank")
	inv := witnessed("melb", "perth", "syd")
	inv.Sites[1].Log.Witnesses = 1
	ids := mustApply(t, dir, inv)
	check(t, dir, ids[:3])
	l := Layout{Dir: dir}
	logs, keys := make(map[string]string), make(map[string]string)
	for _, s := range inv.Sites {
		logs[s.Name] = document(t, dir, s.Name).LogKey
		key, err := witness.ReadKey(filepath.Join(l.Bundle(recorderOf(s.Name)), records.FileWitnessKey))
		if err != nil || key.Name() != s.Name+".bank.example/witness/rec-1" {
			t.Fatalf("%s, %v", key.Name(), err)
		}
		keys[s.Name] = key.VKey()
	}
	for i, others := range [][]string{{"perth", "syd"}, {"melb", "syd"}, {"melb", "perth"}} {
		s := inv.Sites[i]
		d := document(t, dir, s.Name)
		if !slices.Equal(d.WitnessKeys, []string{keys[others[0]], keys[others[1]]}) || !slices.Equal(d.WitnessedLogs, []string{logs[others[0]], logs[others[1]]}) {
			t.Errorf("%s: %v, %v", s.Name, d.WitnessKeys, d.WitnessedLogs)
		}
		if want := []int{2, 1, 2}[i]; d.Needed() != want {
			t.Errorf("%s needs %d", s.Name, d.Needed())
		}
		if _, err := (proof.Quorum{Witnesses: d.WitnessKeys, Need: d.Needed()}).Open(); err != nil {
			t.Error(err)
		}
		var settings records.Settings
		if err := config.Load(l.Config(recorderOf(s.Name)), &settings); err != nil {
			t.Fatal(err)
		}
		if settings.LogListen != s.Log.Listen || len(settings.Witnesses) != 2 || settings.Witnesses[0].Name != others[0]+".bank.example/witness/rec-1" ||
			settings.Witnesses[0].Address != inv.Sites[slices.IndexFunc(inv.Sites, func(o Site) bool { return o.Name == others[0] })].Log.Address {
			t.Errorf("%s: %+v", s.Name, settings)
		}
		bundle := l.Bundle(recorderOf(s.Name))
		c, err := pki.LoadCredential(filepath.Join(bundle, site.FileKey), filepath.Join(bundle, site.FileChain))
		if err != nil {
			t.Fatal(err)
		}
		if names := c.Leaf().DNSNames; !slices.Equal(names, []string{"log." + s.Name + ".bank.example"}) || c.Leaf().VerifyHostname("127.0.0.1") != nil {
			t.Errorf("%s: %v, %v", s.Name, names, c.Leaf().IPAddresses)
		}
	}
	before := tree(t, dir)
	mustApply(t, dir, inv)
	if all := changed(before, tree(t, dir)); len(all) > 0 {
		t.Errorf("a second run changed %v", all)
	}
}

// A site comes and goes: documents follow the inventory, but for keys that a person
// put there, and a site that takes no part stays as it was.
func TestWitnessesFollowTheInventory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bank")
	inv := witnessed("melb")
	inv.Sites[0].Log = Log{}
	mustApply(t, dir, inv)
	if d := document(t, dir, "melb"); d.WitnessKeys != nil || d.WitnessedLogs != nil || d.Needed() != 0 {
		t.Errorf("%+v", d)
	}
	if exists(filepath.Join(Layout{Dir: dir}.Bundle(recorderOf("melb")), records.FileWitnessKey)) {
		t.Error("a witness's key was made for nobody")
	}
	// Its certificate has no address yet.
	inv = witnessed("melb", "perth")
	if _, err := Apply(dir, inv, noon); err == nil || !strings.Contains(err.Error(), "not for its address") {
		t.Errorf("got %v", err)
	}
	bundle := Layout{Dir: dir}.Bundle(recorderOf("melb"))
	for _, name := range []string{site.FileKey, site.FileChain} {
		if err := os.Remove(filepath.Join(bundle, name)); err != nil {
			t.Fatal(err)
		}
	}
	mustApply(t, dir, inv)
	own := document(t, dir, "perth").WitnessKeys
	if d := document(t, dir, "melb"); len(d.WitnessKeys) != 1 || len(d.WitnessedLogs) != 1 || d.Needed() != 1 || len(own) != 1 {
		t.Errorf("%+v", d)
	}
	// A key from elsewhere, put there by a person.
	auditors, err := witness.GenerateKey("audit.example/witness")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := witness.ParseKey(auditors)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Dir: dir, Inventory: inv, Unsealed: true}
	e := Edit{WitnessKeys: append(slices.Clone(document(t, dir, "melb").WitnessKeys), elsewhere.VKey())}
	p, err := c.Propose("melb", e, noon)
	if err != nil || len(p.Difference) != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := c.Sign("melb", e, p, noon); err != nil {
		t.Fatal(err)
	}
	if d := document(t, dir, "melb"); !slices.Equal(d.WitnessKeys, []string{elsewhere.VKey(), d.WitnessKeys[1]}) || d.Needed() != 2 {
		t.Errorf("%v", d.WitnessKeys)
	}
	inv.Sites[1].Log = Log{}
	mustApply(t, dir, inv)
	if d := document(t, dir, "melb"); !slices.Equal(d.WitnessKeys, []string{elsewhere.VKey()}) || d.WitnessedLogs != nil {
		t.Errorf("perth has gone, and melb has %v, %v", d.WitnessKeys, d.WitnessedLogs)
	}
}

// A witness's key that is gone is asked for: other sites would believe another one.
func TestLostWitnessKey(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "bank")
	inv := witnessed("melb", "perth")
	mustApply(t, dir, inv)
	path := filepath.Join(Layout{Dir: dir}.Bundle(recorderOf("perth")), records.FileWitnessKey)
	key := read(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Apply(dir, inv, noon); err == nil || !strings.Contains(err.Error(), "site melb names its key") {
		t.Errorf("got %v", err)
	}
	write(t, path, key[:len(key)-2])
	if _, err := Apply(dir, inv, noon); err == nil || !strings.Contains(err.Error(), "not the key file of a witness") || strings.Contains(err.Error(), string(key[len(key)-20:len(key)-2])) {
		t.Errorf("got %v", err)
	}
	write(t, path, key)
	mustApply(t, dir, inv)
}

func TestLogsThatCannotBe(t *testing.T) {
	for name, change := range map[string]func(*Inventory){
		"no recorder":                     func(i *Inventory) { i.Sites[0].Recorder = "" },
		"no address":                      func(i *Inventory) { i.Sites[0].Log.Address = "" },
		"nowhere to listen":               func(i *Inventory) { i.Sites[0].Log.Listen = "" },
		"an address outside the networks": func(i *Inventory) { i.Sites[0].Log.Address = "10.0.0.1:1" },
		"the broker's name":               func(i *Inventory) { i.Sites[0].Log.Address = "melb.bank.example:1" },
		"the broker's address":            func(i *Inventory) { i.Sites[0].Log.Address = i.Sites[0].Brokers[0].Address },
		"more witnesses than sites":       func(i *Inventory) { i.Sites[0].Log.Witnesses = 2 },
		"less than none":                  func(i *Inventory) { i.Sites[0].Log.Witnesses = -1 },
		"witnesses without a log":         func(i *Inventory) { i.Sites[0].Log = Log{Witnesses: 1} },
	} {
		inv := witnessed("melb", "perth")
		change(&inv)
		if err := inv.Check(); err == nil || !strings.Contains(err.Error(), "log: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	inv := witnessed("melb", "perth")
	inv.Sites[0].Log.Address = "log.melb.bank.example:1"
	if err := inv.Check(); err != nil {
		t.Error(err)
	}
}
