package site_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"levee/internal/config"
	"levee/internal/provision"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
)

const trustDomain = "bank.example"

// world is two provisioned roots: one for production with two sites, and one
// for evaluation. Tests copy the bundles that they change.
var world struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "site")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	world.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func inventory(evaluation bool) provision.Inventory {
	inv := provision.Inventory{TrustDomain: trustDomain, Evaluation: evaluation}
	for _, name := range []string{"melb", "syd"} {
		inv.Sites = append(inv.Sites, provision.Site{
			Name: name, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Brokers: []provision.Broker{{Name: "b1", Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}},
			Sensors: []provision.Sensor{{Name: "web-1"}}, Monitors: []provision.Monitor{{Name: "m1"}},
			People: []provision.Person{{Role: pki.RoleOperator, Name: "ann"}},
		})
	}
	return inv
}

func layout(t testing.TB, evaluation bool) provision.Layout {
	t.Helper()
	world.Do(func() {
		for name, evaluation := range map[string]bool{"production": false, "evaluation": true} {
			if _, world.err = provision.Apply(filepath.Join(world.dir, name), inventory(evaluation), time.Now()); world.err != nil {
				return
			}
		}
	})
	if world.err != nil {
		t.Fatal(world.err)
	}
	name := "production"
	if evaluation {
		name = "evaluation"
	}
	return provision.Layout{Dir: filepath.Join(world.dir, name)}
}

func identity(site string, role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: site, Role: role, Name: name}
}

// settings returns a copy of a bundle, and a state directory that is missing.
func settings(t testing.TB, l provision.Layout, id pki.Identity) site.Settings {
	t.Helper()
	dir := t.TempDir()
	bundle := filepath.Join(dir, "bundle")
	if err := os.Mkdir(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(l.Bundle(id))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		from := filepath.Join(l.Bundle(id), e.Name())
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bundle, e.Name()), b, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	return site.Settings{Bundle: config.Path(bundle), State: config.Path(filepath.Join(dir, "state"))}
}

// authority loads one of the deployer's issuers: "root", "melb/people-ca", ...
func authority(t testing.TB, l provision.Layout, name string) ca.Issuer {
	t.Helper()
	path := filepath.Join(l.Authority(), name)
	key, err := pki.ReadKey(path + ".key")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ReadCertificate(path + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	return ca.Issuer{Certificate: cert, Signer: key}
}

func verifier(t testing.TB, root ca.Issuer) *pki.Verifier {
	t.Helper()
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: trustDomain, AllowEvaluation: true})
	if err != nil {
		t.Fatal(err)
	}
	return v
}
