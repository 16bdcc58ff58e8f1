package provision

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/internal/config"
	"levee/internal/daemon"
	"levee/internal/site"
	"levee/pki"
	"levee/services/broker"
	"levee/services/console"
	"levee/services/controller/embedded"
	"levee/services/monitor"
	"levee/services/recorder"
	"levee/services/sensor"
)

// open opens a part from its configuration file, as its daemon does.
func open(role pki.Role, file string) (daemon.Part, error) {
	log := slog.New(slog.DiscardHandler)
	switch role {
	case pki.RoleBroker:
		return broker.Open(file, log)
	case pki.RoleSensor:
		return sensor.Open(file, log)
	case pki.RoleMonitor:
		return monitor.Open(file, log)
	case pki.RoleController:
		return embedded.Open(file, log)
	case pki.RoleConsole:
		return console.Open(file, log)
	default:
		return recorder.Open(file, log)
	}
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Each service reads the file that is written for it, and says yes to
// everything in it and to nothing else. The names are those that YAML would
// take for something else, and the directory was moved since.
func TestConfigurationsLoad(t *testing.T) {
	inv := inventory()
	s := &inv.Sites[0]
	pool := freePort(t)
	s.Sensors = []Sensor{{Name: "null"}, {Name: "true"}, {Name: "1e3"}, {Name: "0x10"}}
	s.Controllers = []Controller{{Name: "no", Pools: []Pool{{Server: "null", Listen: pool}, {Server: "true", Listen: freePort(t)}}}, {Name: "lb-2", Pools: []Pool{{Server: "1e3", Listen: freePort(t)}}}}
	s.Monitors = []Monitor{{Name: "mon-1"}, {Name: "007", Act: true}}
	s.Consoles, s.Guests = []Console{{Name: "on", Listen: freePort(t)}}, []Guest{{Name: "off"}}
	t.Chdir(t.TempDir())
	ids := mustApply(t, "before", inv)
	if err := os.Rename("before", "after"); err != nil {
		t.Fatal(err)
	}
	l := Layout{Dir: "after"}
	opened := make(map[pki.Role]bool)
	for _, id := range ids {
		if id.Role.Class() == pki.ClassPerson || id.Role == pki.RoleGuest {
			if _, err := os.Stat(l.Config(id)); err == nil {
				t.Errorf("%s has a configuration file", id.Sender())
			}
			continue
		}
		opened[id.Role] = true
		p, err := open(id.Role, l.Config(id))
		if err != nil {
			t.Errorf("%s: %v\n%s", id.Sender(), err, read(t, l.Config(id)))
			continue
		}
		if c, ok := p.(interface{ Close() error }); !ok {
			t.Errorf("%s cannot be closed", id.Sender())
		} else if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(l.State(id), "site-document")); err != nil {
			t.Errorf("%s keeps its state elsewhere: %v", id.Sender(), err)
		}
		text := read(t, l.Config(id))
		write(t, l.Config(id), append(text, "colour: blue\n"...))
		if _, err := open(id.Role, l.Config(id)); err == nil || !strings.Contains(err.Error(), "colour") {
			t.Errorf("%s takes any setting: %v", id.Sender(), err)
		}
		write(t, l.Config(id), text)
	}
	if len(opened) != 6 {
		t.Errorf("opened %v", opened)
	}

	var m monitor.Settings
	if err := config.Load(l.Config(identity(pki.RoleMonitor, "007")), &m); err != nil {
		t.Fatal(err)
	}
	if m.Mode != "act" || m.Thresholds != (monitor.Thresholds{CPUUsage: 80, RAMUsage: 80, SYNPacketCount: 700, ActiveTCPConnections: 400}) ||
		len(m.Controllers) != 2 || m.Controllers[0].Name != "no" || len(m.Controllers[0].Servers) != 2 || m.Controllers[0].Servers[0] != "null" || m.Controllers[1].Servers[0] != "1e3" {
		t.Errorf("%+v", m)
	}
	if err := config.Load(l.Config(identity(pki.RoleMonitor, "mon-1")), &m); err != nil || m.Mode != "observe" {
		t.Errorf("%q, %v", m.Mode, err)
	}
	var b broker.Settings
	if err := config.Load(l.Config(identity(pki.RoleBroker, "b1")), &b); err != nil || b.Listen != "127.0.0.1:1" || !b.Evaluation {
		t.Errorf("%+v, %v", b, err)
	}
	var c embedded.Settings
	if err := config.Load(l.Config(identity(pki.RoleController, "no")), &c); err != nil || len(c.Pools) != 2 || c.Pools[0].Listen != pool || c.Pools[0].Server != "null" {
		t.Errorf("%+v, %v", c, err)
	}
}

// No part runs with another one's bundle.
func TestAnothersBundle(t *testing.T) {
	t.Parallel()
	dir, inv := t.TempDir(), inventory()
	inv.Sites[0].Consoles = []Console{{Name: "c1", Listen: freePort(t)}}
	ids := mustApply(t, dir, inv)
	l := Layout{Dir: dir}
	extra := map[pki.Role]string{pki.RoleBroker: "listen: 127.0.0.1:1\n", pki.RoleConsole: "listen: 127.0.0.1:1\n",
		pki.RoleRecorder: "watermark: watermark/newest\n", pki.RoleSensor: "", pki.RoleMonitor: "", pki.RoleController: ""}
	for role, text := range extra {
		for _, id := range ids {
			if id.Role == role || id.Role.Class() == pki.ClassPerson {
				continue
			}
			file := filepath.Join(l.Bundle(id), "test.yaml")
			write(t, file, []byte("bundle: .\nstate: state\nevaluation: true\n"+text))
			if _, err := open(role, file); err == nil || !strings.Contains(err.Error(), "the bundle is of a") {
				t.Errorf("a %s with the bundle of a %s: %v", role, id.Role, err)
			}
		}
	}
}

// Who does not say that a monitor may act has one that observes.
func TestModeAbsent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustApply(t, dir, inventory())
	file := Layout{Dir: dir}.Config(identity(pki.RoleMonitor, "mon-1"))
	text := strings.Replace(string(read(t, file)), "\nmode: act", "", 1)
	if strings.Contains(text, "mode:") {
		t.Fatal(text)
	}
	write(t, file, []byte(text))
	var log bytes.Buffer
	p, err := monitor.Open(file, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := p.Run(ctx); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "mode=observe") {
		t.Errorf("%s", log.String())
	}
}

// A site may have no controller, and no recorder.
func TestSmallSite(t *testing.T) {
	t.Parallel()
	dir, inv := t.TempDir(), inventory()
	inv.Sites[0].Controllers, inv.Sites[0].Recorder = nil, ""
	ids := mustApply(t, dir, inv)
	if d := check(t, dir, ids); d.LogKey != "" {
		t.Errorf("the log key is %q", d.LogKey)
	}
	p, err := open(pki.RoleMonitor, Layout{Dir: dir}.Config(identity(pki.RoleMonitor, "mon-1")))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.(*monitor.Part).Close(); err != nil {
		t.Error(err)
	}
	// They come later: the document then names the log.
	if d := check(t, dir, mustApply(t, dir, inventory())); d.LogKey == "" || d.Number != 2 {
		t.Errorf("%+v", d)
	}
}

// Only an evaluation is marked as one.
func TestProductionIsNotMarked(t *testing.T) {
	t.Parallel()
	dir, inv := t.TempDir(), inventory()
	inv.Evaluation = false
	for _, id := range mustApply(t, dir, inv) {
		if id.Role.Class() == pki.ClassPerson {
			continue
		}
		var s struct {
			site.Settings `yaml:",inline"`
			Rest          map[string]any `yaml:",inline"`
		}
		if err := config.Load(Layout{Dir: dir}.Config(id), &s); err != nil || s.Evaluation {
			t.Errorf("%s: %+v, %v", id.Sender(), s, err)
		}
		if _, err := site.Open(site.Settings{Bundle: s.Bundle, State: config.Path(t.TempDir())}, noon); err != nil {
			t.Error(err)
		}
	}
}

// A configuration file belongs to its operator once it is written.
func TestConfigurationIsNotWrittenOver(t *testing.T) {
	t.Parallel()
	dir := made(t)
	path := Layout{Dir: dir}.Config(identity(pki.RoleSensor, "web-1"))
	write(t, path, []byte("# mine\n"))
	inv := inventory()
	inv.Sites[0].Monitors = append(inv.Sites[0].Monitors, Monitor{Name: "mon-2"})
	mustApply(t, dir, inv)
	if got := string(read(t, path)); got != "# mine\n" {
		t.Errorf("%q", got)
	}
}
