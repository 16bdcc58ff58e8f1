package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/config"
	"levee/internal/provision"
	"levee/internal/site"
	"levee/pki"
)

// A second broker is a line of the inventory: apply makes its bundle, and every
// bundle of the site names both.
func TestApplySecondBroker(t *testing.T) {
	inv, out := exampleInventory(t), filepath.Join(t.TempDir(), "bank")
	c := provision.Config{Dir: out, Inventory: inv, Unsealed: true}
	var shown bytes.Buffer
	if err := apply(&shown, c, false, time.Now()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(shown.String(), "which exchange no messages") {
		t.Error("a site of one broker is told about several")
	}
	s := &inv.Sites[0]
	host, _, err := net.SplitHostPort(s.Brokers[0].Address)
	if err != nil {
		t.Fatal(err)
	}
	s.Brokers = append(s.Brokers, provision.Broker{Name: "second", Listen: ":8899", Address: net.JoinHostPort(host, "8899")})
	shown.Reset()
	if err := apply(&shown, c, false, time.Now()); err != nil {
		t.Fatal(err)
	}
	if want := "Site " + s.Name + " has 2 brokers, which exchange no messages"; !strings.Contains(shown.String(), want) {
		t.Errorf("it does not say %q:\n%s", want, shown.String())
	}
	layout := provision.Layout{Dir: out}
	for _, id := range []pki.Identity{
		{TrustDomain: inv.TrustDomain, Site: s.Name, Role: pki.RoleBroker, Name: "second"},
		{TrustDomain: inv.TrustDomain, Site: s.Name, Role: pki.RoleSensor, Name: s.Sensors[0].Name},
		{TrustDomain: inv.TrustDomain, Site: s.Name, Role: pki.RoleMonitor, Name: s.Monitors[0].Name},
	} {
		if _, err := os.Stat(layout.Config(id)); err != nil {
			t.Error(err)
		}
		state := filepath.Join(t.TempDir(), "state")
		if err := site.NewState(state); err != nil {
			t.Fatal(err)
		}
		b, err := site.Open(site.Settings{Bundle: config.Path(layout.Bundle(id)), State: config.Path(state)}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if brokers := b.Document.Brokers; len(brokers) != 2 || brokers[1].Name != "second" {
			t.Errorf("%s knows %v", id.Sender(), brokers)
		}
	}
}
