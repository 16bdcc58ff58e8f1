// Package console drives the console's page in a browser, with a real site
// behind it. It needs node, Chromium, and what `npm ci` fetches in this
// directory.
//
// LEVEE_CONSOLE_SHOTS is a directory for pictures of the page, and
// LEVEE_CONSOLE_PAUSE how long to wait before the flood, so that the charts
// have a past.
package console

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"levee/envelope/ownkey"
	"levee/internal/config"
	"levee/internal/provision"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/processes"
	"levee/test/rawmqtt"
)

// bin is where the binaries are.
var bin string

func TestMain(m *testing.M) {
	os.Exit(processes.Run(m, func(dir string) { bin = dir },
		"levee", "levee-broker", "levee-sensor", "levee-monitor", "levee-controller", "levee-console"))
}

const trustDomain = "bank.example"

// bank is one site on this machine, provisioned and not running.
type bank struct {
	layout   provision.Layout
	broker   string // address
	balancer string // address
	page     string // address
}

func newBank(t *testing.T) *bank {
	t.Helper()
	b := &bank{layout: provision.Layout{Dir: t.TempDir()}, broker: freePort(t), balancer: freePort(t), page: freePort(t)}
	_, err := provision.Apply(b.layout.Dir, provision.Inventory{
		TrustDomain: trustDomain, Evaluation: true,
		Sites: []provision.Site{{
			Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Brokers:     []provision.Broker{{Name: "broker-1", Listen: b.broker, Address: b.broker}},
			Sensors:     []provision.Sensor{{Name: "web-1"}, {Name: "web-2"}, {Name: "web-3"}},
			Monitors:    []provision.Monitor{{Name: "mon-1", Act: true}},
			Controllers: []provision.Controller{{Name: "lb-1", Pools: []provision.Pool{{Server: "web-1", Listen: b.balancer}}}},
			Recorder:    "rec-1",
			Consoles:    []provision.Console{{Name: "desk-1", Listen: b.page}},
			Guests:      []provision.Guest{{Name: "lobby"}, {Name: "noise-1"}, {Name: "noise-2"}, {Name: "noise-3"}, {Name: "noise-4"}},
		}},
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b.configure(t, pki.RoleSensor, "web-1", "interval: 5s", "interval: 1s\ndigest_interval: 5s")
	b.configure(t, pki.RoleMonitor, "mon-1", "mode: act", "mode: act\nhold: 4s\ndigest_interval: 5s")
	// This machine may be busy with other tests, whatever this one floods.
	b.configure(t, pki.RoleMonitor, "mon-1", "cpu_usage: 80", "cpu_usage: 99.9")
	b.configure(t, pki.RoleMonitor, "mon-1", "ram_usage: 80", "ram_usage: 99.9")
	return b
}

func (b *bank) identity(role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: role, Name: name}
}

func (b *bank) configure(t *testing.T, role pki.Role, name, old, new string) {
	t.Helper()
	processes.Edit(t, b.layout.Config(b.identity(role, name)), old, new)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (b *bank) daemon(t *testing.T, role pki.Role, name string) *processes.Process {
	t.Helper()
	return processes.Start(t, exec.Command(filepath.Join(bin, "levee-"+string(role)), "--config", b.layout.Config(b.identity(role, name))))
}

// sensor publishes readings of a server that is not there, sealed and signed
// for by its own bundle, until the test ends.
func (b *bank) sensor(t *testing.T, name string, next func(i int) (cpu, ram float64, syn, connections uint64)) {
	t.Helper()
	id := b.identity(pki.RoleSensor, name)
	dir := b.layout.Bundle(id)
	bundle, err := site.Open(site.Settings{Bundle: config.Path(dir), State: config.Path(filepath.Join(dir, "state")), Evaluation: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := ownkey.Load(bundle.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	s, err := session.New(session.Config{Bundle: bundle, Ring: ring, Digest: 5 * time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		s.Around(ctx, func(ctx context.Context) error {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for i := 0; ; i++ {
				cpu, ram, syn, connections := next(i)
				at := float64(time.Now().UnixMilli()) / 1000
				for kind, payload := range map[wire.Kind]any{
					wire.KindCPU: &wire.CPU{Timestamp: at, Server: name, Interval: 1, CPUUsage: cpu},
					wire.KindRAM: &wire.RAM{Timestamp: at, Server: name, RAMUsage: ram},
					wire.KindNetwork: &wire.Network{Timestamp: at, Server: name, Interval: 1, SYNPacketCount: syn,
						ActiveTCPConnections: connections, SYNMethod: wire.SYNNFTables},
				} {
					s.Publish(wire.Topic{Kind: kind, Site: id.Site, Role: string(id.Role), Name: name}, payload)
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return nil
				}
			}
		})
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// guest connects as anybody may who has a certificate.
func (b *bank) guest(t *testing.T, name string) *rawmqtt.Client {
	t.Helper()
	id := b.identity(pki.RoleGuest, name)
	dir := b.layout.Bundle(id)
	trust, err := site.OpenTrust(site.Settings{Bundle: config.Path(dir), Evaluation: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	store, err := pki.OpenStore(filepath.Join(dir, site.FileKey), filepath.Join(dir, site.FileChain), trust.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	host := pki.Authority{TrustDomain: trustDomain, Site: "melb", Class: pki.ClassMachine}.Host()
	c, err := rawmqtt.Dial(b.broker, pki.ClientConfig(store, trust.Verifier, host, func(pki.Identity) error { return nil }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: id.ClientID(), KeepAlive: 60})
	if err != nil || code != rawmqtt.Accepted {
		t.Fatalf("connecting as a guest: code %d, %v", code, err)
	}
	return c
}

func say(t *testing.T, c *rawmqtt.Client, topic, text string) {
	t.Helper()
	if err := c.Send(publishPublic(topic, text)); err != nil {
		t.Fatal(err)
	}
}

func publishPublic(topic, text string) []byte {
	return rawmqtt.Publish(rawmqtt.Message{Topic: topic, Payload: []byte(text)})
}

func dials(address string) bool {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// await waits until what holds, and fails the test if it never does.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if holds() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// pause is how long a run for pictures waits, so that the charts have a past.
func pause(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("LEVEE_CONSOLE_PAUSE")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
