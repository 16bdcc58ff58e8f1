package stack

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/provision"
	"levee/pki"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func inventory(t *testing.T) provision.Inventory {
	t.Helper()
	broker, issuer := freePort(t), freePort(t)
	return provision.Inventory{TrustDomain: "bank.example", Evaluation: true, Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers:     []provision.Broker{{Name: "b1", Listen: broker, Address: broker}},
		Sensors:     []provision.Sensor{{Name: "web-1"}},
		Monitors:    []provision.Monitor{{Name: "mon-1"}},
		Controllers: []provision.Controller{{Name: "lb-1", Pools: []provision.Pool{{Server: "web-1", Listen: freePort(t)}}}},
		Recorder:    "rec-1",
		Issuers:     []provision.Issuer{{Name: "iss-1", Listen: issuer, Address: issuer}},
		Consoles:    []provision.Console{{Name: "console-1", Listen: freePort(t)}},
		People:      []provision.Person{{Role: pki.RoleOperator, Name: "ann"}},
	}}}
}

func identity(role pki.Role, name string) pki.Identity {
	return pki.Identity{TrustDomain: "bank.example", Site: "melb", Role: role, Name: name}
}

func prepare(t *testing.T, dir string, inv provision.Inventory) []pki.Identity {
	t.Helper()
	ids, err := provision.Apply(dir, inv, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// What a part remembered, and what was recorded, is not replaced by something
// empty because it is gone, by provisioning or by a start.
func TestNothingIsReplaced(t *testing.T) {
	t.Parallel()
	dir, inv := t.TempDir(), inventory(t)
	ids := prepare(t, dir, inv)
	layout := provision.Layout{Dir: dir}
	first, err := Open(dir, ids, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id.Role.Class() != pki.ClassMachine {
			continue
		}
		path := layout.State(id)
		if err := os.Rename(path, path+".moved"); err != nil {
			t.Fatal(err)
		}
		prepare(t, dir, inv)
		if _, err := Open(dir, ids, quiet()); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), id.Sender()) {
			t.Errorf("without %s: %v", path, err)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made anew: %v", path, err)
		}
		if err := os.Rename(path+".moved", path); err != nil {
			t.Fatal(err)
		}
	}
	// Whoever makes the directory begins anew, knowingly. A log is asked for
	// even then: its watermark knows of it.
	recorder := identity(pki.RoleRecorder, "rec-1")
	if err := errors.Join(os.RemoveAll(layout.State(recorder)), os.Mkdir(layout.State(recorder), 0o700)); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, []pki.Identity{recorder}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "a part of the log is lost") {
		t.Errorf("%v", err)
	}
}

// diary is what parts write down.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

// fake is a part.
type fake struct {
	name   string
	diary  *diary
	fails  chan error    // Run returns what it receives
	atEnd  error         // that Run returns when it is stopped
	drains time.Duration // how long it takes to stop
}

func (f *fake) Run(ctx context.Context) error {
	f.diary.note("start " + f.name)
	select {
	case err := <-f.fails:
		f.diary.note("fail " + f.name)
		return err
	case <-ctx.Done():
		time.Sleep(f.drains)
		f.diary.note("stop " + f.name)
		return f.atEnd
	}
}

func (f *fake) Close() error {
	f.diary.note("close " + f.name)
	return nil
}

// listener is a part that others wait for.
type listener struct {
	fake
	ready chan struct{}
}

func (l *listener) Ready() <-chan struct{} { return l.ready }

// fakes returns a stack of a listener and three more.
func fakes() (*Stack, *diary, *listener, []*fake) {
	d := new(diary)
	l := &listener{fake{name: "broker", diary: d, fails: make(chan error, 1)}, make(chan struct{})}
	s := &Stack{parts: []part{{identity(pki.RoleBroker, "broker"), l}}}
	var others []*fake
	for _, name := range []string{"recorder", "monitor", "sensor"} {
		f := &fake{name: name, diary: d, fails: make(chan error, 1)}
		others = append(others, f)
		s.parts = append(s.parts, part{identity(pki.RoleSensor, name), f})
	}
	return s, d, l, others
}

func TestRunStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d, l, others := fakes()
		others[2].drains = time.Second // the others wait for it
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		if !slices.Equal(d.lines, []string{"start broker"}) {
			t.Errorf("before the broker listens: %q", d.lines)
		}
		close(l.ready)
		synctest.Wait()
		started := slices.Sorted(slices.Values(d.lines))
		if !slices.Equal(started, []string{"start broker", "start monitor", "start recorder", "start sensor"}) {
			t.Errorf("%q", d.lines)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if !slices.Equal(d.lines[4:], []string{"stop sensor", "stop monitor", "stop recorder", "stop broker"}) {
			t.Errorf("%q", d.lines)
		}
	})
}

func TestOnePartEndsAll(t *testing.T) {
	broken, late := errors.New("broken"), errors.New("late")
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"with an error", broken, "melb/sensor/recorder: broken"},
		{"without one", nil, "melb/sensor/recorder: stopped by itself"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d, l, others := fakes()
				others[1].atEnd = late
				close(l.ready)
				done := make(chan error, 1)
				go func() { done <- s.Run(t.Context()) }()
				synctest.Wait()
				others[0].fails <- test.err
				err := <-done
				if err == nil || !strings.Contains(err.Error(), test.want) || test.err != nil && !errors.Is(err, test.err) || !errors.Is(err, late) {
					t.Errorf("%v", err)
				}
				if !slices.Equal(d.lines[4:], []string{"fail recorder", "stop sensor", "stop monitor", "stop broker"}) {
					t.Errorf("%q", d.lines)
				}
			})
		})
	}
}

// Parts that were not started are closed: when the first fails before it is
// ready, and when nobody waits any longer.
func TestEndBeforeAllWereStarted(t *testing.T) {
	for _, stop := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, d, l, _ := fakes()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			synctest.Wait()
			if stop {
				cancel()
			} else {
				l.fails <- errors.New("address in use")
			}
			if err := <-done; (err == nil) != stop {
				t.Errorf("%v", err)
			}
			closed := slices.DeleteFunc(slices.Clone(d.lines), func(line string) bool { return !strings.HasPrefix(line, "close") })
			if !slices.Equal(closed, []string{"close recorder", "close monitor", "close sensor"}) || slices.Contains(d.lines, "start recorder") {
				t.Errorf("%q", d.lines)
			}
		})
	}
}

// The parts themselves: opened in their order, run, stopped, and opened again.
func TestRun(t *testing.T) {
	t.Parallel()
	dir, inv := t.TempDir(), inventory(t)
	ids := prepare(t, dir, inv)
	// One that cannot be opened gives everything back.
	config := provision.Layout{Dir: dir}.Config(identity(pki.RoleSensor, "web-1"))
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, append(text, "colour: blue\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, ids, quiet()); err == nil || !strings.Contains(err.Error(), "opening melb/sensor/web-1") {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for run := range 2 {
		s, err := Open(dir, ids, quiet())
		if err != nil {
			t.Fatal(err)
		}
		var roles []pki.Role
		for _, p := range s.parts {
			roles = append(roles, p.id.Role)
		}
		if !slices.Equal(roles, order) {
			t.Errorf("%q", roles)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		// A reading that is kept has been through most of them.
		segments := filepath.Join(provision.Layout{Dir: dir}.State(identity(pki.RoleRecorder, "rec-1")), "segments", "*.seg")
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if found, err := filepath.Glob(segments); err != nil || len(found) > run {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no reading is kept")
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
