package console

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/provision"
	"levee/pki"
)

// provisioned makes a site with a console, and returns where it lies.
func provisioned(t *testing.T, listen string) provision.Layout {
	t.Helper()
	layout := provision.Layout{Dir: t.TempDir()}
	_, err := provision.Apply(layout.Dir, provision.Inventory{TrustDomain: "bank.example", Evaluation: true, Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers:  []provision.Broker{{Name: "b1", Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}}, // nobody listens there
		Monitors: []provision.Monitor{{Name: "m1"}}, Recorder: "rec-1", Sensors: []provision.Sensor{{Name: "web-1"}},
		Consoles: []provision.Console{{Name: "desk-1", Listen: listen}},
	}}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return layout
}

// free returns an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func identity(role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: role, Name: name}
}

// The page is there, and says what it does not know, when no broker is.
func TestOpenWithoutBroker(t *testing.T) {
	p, err := Open(provisioned(t, free(t)).Config(identity(pki.RoleConsole, "desk-1")), quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	<-p.Ready()
	s := &desk{hub: p.page.hub, page: p.page, address: p.Address()}
	if response, text := s.ask(t, http.MethodGet, "/", nil); response.StatusCode != http.StatusOK || !strings.Contains(text, "levee") {
		t.Errorf("the page is %d %q", response.StatusCode, text)
	}
	stream := s.events(t, "")
	if b := decode[beat](t, stream.next(t, "beat").data); b.Online {
		t.Error("online without a broker")
	}
	if got := decode[sent](t, s.events(t, "").next(t, "snapshot").data); got.Site != "melb" {
		t.Errorf("site %q", got.Site)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(stream.response.Body); err != nil {
		t.Errorf("the stream did not end well: %v", err)
	}
	if _, err := http.Get("http://" + p.Address() + "/"); err == nil {
		t.Error("the page outlives the console")
	}
}

func TestOpenRefusesAddresses(t *testing.T) {
	address := free(t)
	file := provisioned(t, address).Config(identity(pki.RoleConsole, "desk-1"))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, listen := range []string{"0.0.0.0:8090", "[::]:8090", ":8090", "192.0.2.1:8090", "localhost:8090", "127.0.0.1", "[::ffff:127.0.0.1]:8090", "[::1%lo]:8090", "[fe80::1]:8090", "x"} {
		edited := strings.Replace(string(text), address, listen, 1)
		if edited == string(text) {
			t.Fatal("the address was not found")
		}
		if err := os.WriteFile(file, []byte(edited), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := Open(file, quiet()); err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("%q: %v", listen, err)
			if p != nil {
				p.Close()
			}
		}
	}
}

// Another part's bundle shows nothing: what it may read is another policy's
// business, and its keys are no console's.
func TestOpenRefusesOtherRoles(t *testing.T) {
	layout := provisioned(t, free(t))
	text, err := os.ReadFile(layout.Config(identity(pki.RoleConsole, "desk-1")))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []pki.Identity{identity(pki.RoleMonitor, "m1"), identity(pki.RoleRecorder, "rec-1"), identity(pki.RoleSensor, "web-1")} {
		file := filepath.Join(layout.Bundle(id), "console.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if p, err := Open(file, quiet()); err == nil || !strings.Contains(err.Error(), "the bundle is of a "+string(id.Role)) {
			t.Errorf("%s: %v", id.Role, err)
			if p != nil {
				p.Close()
			}
		}
	}
}

// --check opens and closes: the address is free again.
func TestOpenAndClose(t *testing.T) {
	file := provisioned(t, free(t)).Config(identity(pki.RoleConsole, "desk-1"))
	for range 2 {
		p, err := Open(file, quiet())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The console reads what its views show. Statements and revocations would be its
// to read too, and it has no use for them yet.
func TestFilters(t *testing.T) {
	got := filters("melb")
	for _, want := range []string{"melb/bank_server/metrics/cpu/+", "melb/bank_server/metrics/ram/+", "melb/bank_server/metrics/network/+", "melb/bank_server/alerts/+",
		"melb/bank_server/control/command/+/+", "melb/bank_server/status/scaling/+", "melb/bank_server/status/rate_limiting/+", "melb/bank_server/status/presence/+", "melb/bank_server/digests/+/+", "public/#"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if len(got) != 10 {
		t.Errorf("%d filters: %v", len(got), got)
	}
}
