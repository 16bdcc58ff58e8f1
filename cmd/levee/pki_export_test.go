package main

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"levee/internal/provision"
	"levee/pki"
)

// Each script finds a bank that was provisioned now, and one whose people's
// certificates expired yesterday.
func TestExportScripts(t *testing.T) {
	inv := provision.Inventory{TrustDomain: "bank.example", Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers: []provision.Broker{{Name: "broker-1", Listen: "127.0.0.1:8883", Address: "127.0.0.1:8883"}},
		Sensors: []provision.Sensor{{Name: "web-1"}},
		Guests:  []provision.Guest{{Name: "guest-1"}},
		People:  []provision.Person{{Role: pki.RoleViewer, Name: "vera"}},
	}}}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/export", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			for name, at := range map[string]time.Time{"bank": time.Now(), "old": time.Now().Add(-pki.MaxPersonLifetime - 24*time.Hour)} {
				if _, err := provision.Apply(filepath.Join(env.WorkDir, name), inv, at); err != nil {
					return err
				}
			}
			return nil
		},
	})
}
