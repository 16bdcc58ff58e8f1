package provision

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/site"
	"levee/pki"
)

// twoSites is an inventory of two sites with three sensors each, all roles, and
// two operators.
func twoSites() Inventory {
	inv := Inventory{TrustDomain: "bank.example"}
	for i, name := range []string{"melb", "perth"} {
		address := func(port int) string { return fmt.Sprintf("10.%d.0.1:%d", i+1, port) }
		inv.Sites = append(inv.Sites, Site{
			Name: name, Networks: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i+1))},
			Brokers:     []Broker{{Name: "broker-1", Listen: ":8883", Address: address(8883)}},
			Sensors:     []Sensor{{Name: "web-1"}, {Name: "web-2"}, {Name: "web-3"}},
			Monitors:    []Monitor{{Name: "monitor-1", Act: true}},
			Controllers: []Controller{{Name: "balancer-1", Pools: []Pool{{Server: "web-1", Listen: "127.0.0.1:8081"}}}},
			Recorder:    "recorder-1",
			Issuers:     []Issuer{{Name: "issuer-1", Listen: ":8884", Address: address(8884)}},
			Consoles:    []Console{{Name: "console-1", Listen: "127.0.0.1:8090"}},
			Guests:      []Guest{{Name: "guest-1"}},
			People:      []Person{{Role: pki.RoleOperator, Name: "ann"}},
		})
	}
	return inv
}

// The first run issues everything, a second changes no byte, and a sensor more is
// one bundle more.
func TestTwoSites(t *testing.T) {
	t.Parallel()
	dir, inv := filepath.Join(t.TempDir(), "bank"), twoSites()
	c := Config{Dir: dir, Inventory: inv, Unsealed: true}
	first, err := c.Apply(noon)
	if err != nil || len(first.Identities) != 22 {
		t.Fatal(first, err)
	}
	made := 0
	for _, id := range first.Identities {
		if first.Made(id) {
			made++
		}
	}
	if made != 22 {
		t.Errorf("%d bundles were made", made)
	}
	before := tree(t, dir)
	second, err := c.Apply(noon.Add(time.Hour))
	if err != nil || len(second.Changes)+len(second.Drift) > 0 {
		t.Errorf("%+v, %v", second, err)
	}
	if paths := changed(before, tree(t, dir)); len(paths) > 0 {
		t.Errorf("a second run changed %q", paths)
	}
	c.Inventory.Sites[0].Sensors = append(slices.Clone(inv.Sites[0].Sensors), Sensor{Name: "web-4"})
	third, err := c.Apply(noon)
	if err != nil {
		t.Fatal(err)
	}
	made = 0
	for _, id := range third.Identities {
		if third.Made(id) {
			made++
		}
	}
	if made != 1 {
		t.Errorf("a sensor more made %d bundles", made)
	}
	for _, path := range changed(before, tree(t, dir)) {
		if !strings.HasPrefix(path, "bundles/melb/sensor/web-4/") && !grows(path) {
			t.Errorf("a sensor more changed %s", path)
		}
	}
	if name := filepath.Join(dir, "bundles/melb/sensor/web-4", site.FileChain); !exists(name) {
		t.Error("and it has no certificate")
	}
}

func BenchmarkApply(b *testing.B) {
	for _, sealed := range []bool{false, true} {
		c := Config{Inventory: twoSites(), Unsealed: !sealed}
		name := "unsealed"
		if sealed {
			name, c.Passphrase = "sealed", asked(b, make(map[Secret]int))
		}
		b.Run(name+"/first", func(b *testing.B) {
			for b.Loop() {
				c.Dir = filepath.Join(b.TempDir(), "bank")
				if _, err := c.Apply(time.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/again", func(b *testing.B) {
			for b.Loop() {
				if _, err := c.Apply(time.Now()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
