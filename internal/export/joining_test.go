package export

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/envelope/keys"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
)

// What a machine that joins is given is its bundle but for key and certificate,
// byte for byte.
func TestForJoining(t *testing.T) {
	l := bank(t)
	for _, test := range []struct {
		id    pki.Identity
		files []string
	}{
		{identity(pki.RoleSensor, "web-1"), []string{"envelope.keys", "first-start", "levee-sensor.yaml", "policy.yaml", "root.pem", "site.json"}},
		{identity(pki.RoleConsole, "con-1"), []string{"envelope.keys", "first-start", "levee-console.yaml", "policy.yaml", "root.pem", "site.json"}},
		{identity(pki.RoleGuest, "guest-1"), []string{"envelope.keys", "policy.yaml", "root.pem", "site.json"}},
	} {
		out := filepath.Join(t.TempDir(), "out")
		r, err := ForJoining(Options{Bundle: l.Bundle(test.id), Out: out}, noon)
		if err != nil {
			t.Errorf("%s: %v", test.id.Sender(), err)
			continue
		}
		entries, err := os.ReadDir(out)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
			ours, err := os.ReadFile(filepath.Join(out, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if theirs, err := os.ReadFile(filepath.Join(l.Bundle(test.id), e.Name())); err != nil || !bytes.Equal(ours, theirs) {
				t.Errorf("%s differs: %v", e.Name(), err)
			}
			info, err := e.Info()
			want := os.FileMode(0o644)
			if e.Name() == site.FileKeys {
				want = 0o600
			}
			if err != nil || info.Mode() != want {
				t.Errorf("%s has mode %s", e.Name(), info.Mode())
			}
		}
		if !slices.Equal(names, test.files) || !slices.Equal(r.Files, test.files) || r.Dir != out || r.Identity != test.id.Sender() {
			t.Errorf("%s: %v, %+v", test.id.Sender(), names, r)
		}
		if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("its mode is %s", info.Mode())
		}
	}
}

func TestWhoDoesNotJoin(t *testing.T) {
	l := bank(t)
	sensor := identity(pki.RoleSensor, "web-1")
	for name, test := range map[string]struct {
		id     pki.Identity
		change func(t *testing.T, bundle string)
		want   string
	}{
		"a broker":     {identity(pki.RoleBroker, "broker-1"), nil, "melb/broker/broker-1 does not join"},
		"a monitor":    {identity(pki.RoleMonitor, "mon-1"), nil, "does not join"},
		"a controller": {identity(pki.RoleController, "lb-1"), nil, "does not join"},
		"a recorder":   {identity(pki.RoleRecorder, "rec-1"), nil, "does not join"},
		"a person":     {identity(pki.RoleViewer, "vera"), nil, "machines join"},
		"a bundle that ran": {sensor, func(t *testing.T, bundle string) { remove(t, bundle, site.FileFirstStart) },
			"has been started where it is"},
		"another site's envelope keys": {sensor, func(t *testing.T, bundle string) {
			if err := os.WriteFile(filepath.Join(bundle, site.FileKeys), keysOf(t, "syd"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, `of site "syd"`},
		"a bundle without its document": {sensor, func(t *testing.T, bundle string) { remove(t, bundle, site.FileDocument) }, site.FileDocument},
		"a bundle without its configuration": {sensor, func(t *testing.T, bundle string) { remove(t, bundle, "levee-sensor.yaml") },
			"levee-sensor.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{Bundle: filepath.Join(t.TempDir(), "bundle"), Out: filepath.Join(t.TempDir(), "out")}
			copyBundle(t, o.Bundle, l.Bundle(test.id))
			if test.change != nil {
				test.change(t, o.Bundle)
			}
			if _, err := ForJoining(o, noon); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Error(err)
			}
			if _, err := os.Lstat(o.Out); err == nil {
				t.Error("something was written")
			}
		})
	}
}

// keysOf returns the envelope keys of a sensor of a site.
func keysOf(t *testing.T, name string) []byte {
	t.Helper()
	root, err := keys.NewSiteKey(name)
	if err != nil {
		t.Fatal(err)
	}
	role, err := root.Role(pki.RoleSensor)
	if err != nil {
		t.Fatal(err)
	}
	own, err := role.Sender("web-1", 1)
	if err != nil {
		t.Fatal(err)
	}
	return keys.EncodeBundle(own)
}

func remove(t *testing.T, bundle, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(bundle, name)); err != nil {
		t.Fatal(err)
	}
}

// copyBundle copies a bundle with its modes, which CopyFS adds to.
func copyBundle(t *testing.T, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{site.FileKey, site.FileKeys} {
		if err := os.Chmod(filepath.Join(to, name), 0o600); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
}

// A guest's newer certificate is what is exported, with its own key.
func TestRenewedGuest(t *testing.T) {
	now := time.Now()
	l := bankOf(t, now.Add(-40*24*time.Hour))
	guest := identity(pki.RoleGuest, "guest-1")
	bundle := filepath.Join(t.TempDir(), "guest")
	copyBundle(t, bundle, l.Bundle(guest))
	authority := filepath.Join(l.Authority(), "melb", "machine-ca")
	signer, err := ca.OpenKey(authority+".key", nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ReadCertificate(authority + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey(pki.RoleGuest)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(ca.Issuer{Certificate: cert, Signer: signer}, guest, key.Public(), ca.Names{}, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	renewedKey, chain, err := pki.MarshalCredential(key, leaf, cert)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Mosquitto(Options{Bundle: bundle, Out: filepath.Join(t.TempDir(), "out")}, now); err == nil {
		t.Error("a certificate that has expired was exported")
	}
	if err := os.Mkdir(filepath.Join(bundle, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "state", site.FileRenewed), append(bytes.Clone(renewedKey), chain...), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	r, err := Mosquitto(Options{Bundle: bundle, Out: out}, now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.LoadCredential(filepath.Join(out, FileKey), filepath.Join(out, FileChain))
	if err != nil || !c.Leaf().Equal(leaf) || !r.NotAfter.Equal(leaf.NotAfter) {
		t.Errorf("the export has another certificate: %v", err)
	}
}
