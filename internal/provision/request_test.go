package provision

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"levee/pki"
)

// perth is an inventory with a second site.
func perth() Inventory {
	inv := inventory()
	s := inv.Sites[0]
	s.Name = "perth"
	inv.Sites = append(inv.Sites, s)
	return inv
}

// A site is added with the root elsewhere: what comes back is taken only if it is
// just what was asked for.
func TestRequestAndAccept(t *testing.T) {
	t.Parallel()
	dir, offline := made(t), t.TempDir()
	swapIn(t, dir, offline, "root.key", "root.pem")
	remove(t, filepath.Join(dir, "authority", "root.key"))
	c := Config{Dir: dir, Inventory: perth(), Unsealed: true}
	result, err := c.Apply(noon)
	if err != nil || len(result.Drift) != 1 || !strings.Contains(result.Drift[0].What, "levee pki csr --site perth") || len(result.Identities) != 6 {
		t.Fatalf("%+v, %v", result, err)
	}
	asked, path, err := c.Request("perth", noon)
	if err != nil || len(asked.Authorities) != 2 {
		t.Fatal(asked, err)
	}
	again, _, err := c.Request("perth", noon)
	if err != nil || again.Digest != asked.Digest {
		t.Errorf("asked again: %+v, %v", again, err)
	}
	if name, err := RootDomain(offline); err != nil || name != "bank.example" {
		t.Error(name, err)
	}
	answer, err := Config{}.SignRequests(offline, asked, noon)
	if err != nil {
		t.Fatal(err)
	}
	first, rest, _ := bytes.Cut(answer, []byte("-----END CERTIFICATE-----\n"))
	first = append(first, "-----END CERTIFICATE-----\n"...)
	other := made(t)
	foreign := t.TempDir()
	swapIn(t, other, foreign, "root.key", "root.pem")
	below, err := Config{}.SignRequests(foreign, asked, noon)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"nothing": nil, "half": first, "one twice": append(bytes.Clone(first), first...), "below another root": below,
		"three": append(bytes.Clone(answer), rest...), "a request": read(t, path), "another site's": read(t, filepath.Join(dir, "authority/melb/machine-ca.pem")),
	} {
		if paths, err := c.Accept("perth", text, noon); err == nil {
			t.Errorf("%s: accepted %q", name, paths)
		}
		if exists(filepath.Join(dir, "authority/perth/machine-ca.pem")) || exists(filepath.Join(dir, "authority/perth/people-ca.pem")) {
			t.Fatalf("%s: something was kept", name)
		}
	}
	if _, err := c.Accept("perth", answer, noon); err != nil {
		t.Fatal(err)
	}
	result, err = c.Apply(noon)
	if err != nil || len(result.Drift) > 0 || len(result.Identities) != 12 {
		t.Fatalf("%+v, %v", result, err)
	}
	check(t, dir, result.Identities[6:])
	if _, _, err := c.Request("perth", noon); err == nil {
		t.Error("it asks for what it has")
	}
}

func swapIn(t testing.TB, dir, to string, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(to, name), read(t, filepath.Join(dir, "authority", name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The digest stands for everything that is asked for.
func TestDigestOfRequests(t *testing.T) {
	t.Parallel()
	digests := make(map[string]bool)
	for _, change := range []func(*Site){func(*Site) {}, func(s *Site) { s.Networks = append(s.Networks, mustPrefix("10.0.0.0/8")) }} {
		dir := made(t)
		inv := perth()
		change(&inv.Sites[1])
		asked, _, err := Config{Dir: dir, Inventory: inv, Unsealed: true}.Request("perth", noon)
		if err != nil {
			t.Fatal(err)
		}
		digests[asked.Digest] = true
	}
	if len(digests) != 2 {
		t.Error("two requests have one digest")
	}
}

// A document is signed when something changes, with what was proposed, and
// generations only rise.
func TestProposeAndSign(t *testing.T) {
	t.Parallel()
	dir := made(t)
	c := Config{Dir: dir, Inventory: inventory(), Unsealed: true}
	before := tree(t, dir)
	if _, err := c.Propose("melb", Edit{}, noon); !errors.Is(err, ErrUnchanged) {
		t.Errorf("%v", err)
	}
	if _, err := c.Propose("perth", Edit{}, noon); err == nil {
		t.Error("a document of no site")
	}
	e := Edit{WitnessKeys: []string{"witness+00000000+AAAA"}}
	p, err := c.Propose("melb", e, noon)
	if err != nil || len(p.Difference) != 1 || p.Difference[0] != `+ witness_keys "witness+00000000+AAAA"` {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := c.Sign("melb", Edit{WitnessKeys: []string{"another"}}, p, noon); err == nil {
		t.Error("another change than the one proposed was signed")
	}
	if paths := changed(before, tree(t, dir)); len(paths) > 0 {
		t.Errorf("proposing changed %q", paths)
	}
	if err := c.Sign("melb", e, p, noon); err != nil {
		t.Fatal(err)
	}
	if d := check(t, dir, mustApply(t, dir, inventory())); d != nil && (d.Number != 2 || len(d.WitnessKeys) != 1) {
		t.Errorf("%+v", d)
	}
	grown := inventory()
	grown.Sites[0].Sensors = append(grown.Sites[0].Sensors, Sensor{Name: "web-2"})
	if _, err := (Config{Dir: dir, Inventory: grown, Unsealed: true}).Propose("melb", e, noon); !errors.Is(err, ErrPending) {
		t.Errorf("%v", err)
	}
}

// A difference leaves nothing of a document out.
func TestDifferenceIsWhole(t *testing.T) {
	t.Parallel()
	dir := made(t)
	d := *check(t, dir, mustApply(t, dir, inventory()))
	next := d
	next.GrantKey, next.PolicyHash = "grant", "other"
	if lines := Difference(&d, &next); len(lines) != 3 {
		t.Errorf("%q", lines)
	}
	next.Number, next.Issued = d.Number+1, d.Issued+1
	if lines := Difference(&d, &next); len(lines) != 3 {
		t.Errorf("%q", lines)
	}
	if lines := Difference(nil, &d); len(lines) < 6 {
		t.Errorf("%q", lines)
	}
}

func FuzzParseRequests(f *testing.F) {
	dir := made(f)
	_, path, err := Config{Dir: dir, Inventory: perth(), Unsealed: true}.Request("perth", noon)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(read(f, path))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		asked, err := ParseRequests(text, "bank.example")
		if err == nil && (len(asked.Authorities) == 0 || len(asked.Digest) != 16 || asked.Authorities[0].Authority.Class == pki.ClassNone) {
			t.Errorf("%+v", asked)
		}
	})
}
