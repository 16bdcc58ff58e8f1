package recorder

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/provision"
	"levee/internal/records"
	"levee/internal/translog"
	"levee/pki"
	"levee/policies"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// provisioned is a site with a recorder whose log was not created yet.
func provisioned(t *testing.T) (l provision.Layout, id pki.Identity) {
	t.Helper()
	l = provision.Layout{Dir: t.TempDir()}
	ids, err := provision.Apply(l.Dir, provision.Inventory{TrustDomain: "bank.example", Sites: []provision.Site{{
		Name: "melb", Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Brokers: []provision.Broker{{Name: "b1", Listen: "127.0.0.1:1", Address: "127.0.0.1:1"}}, Recorder: "rec-1",
	}}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return l, ids[slices.IndexFunc(ids, func(id pki.Identity) bool { return id.Role == pki.RoleRecorder })]
}

func log(l provision.Layout, id pki.Identity) string { return filepath.Join(l.State(id), "log") }

func mustCreate(t *testing.T, l provision.Layout, id pki.Identity) {
	t.Helper()
	if err := createAt(l, id); err != nil {
		t.Fatal(err)
	}
}

// createAt creates the log that the configuration file names.
func createAt(l provision.Layout, id pki.Identity) error {
	_, _, c, err := load(l.Config(id), quiet())
	if err != nil {
		return err
	}
	return create(c)
}

// open opens the log that was created.
func openLog(t *testing.T, l provision.Layout, id pki.Identity) error {
	t.Helper()
	_, _, c, err := load(l.Config(id), quiet())
	if err != nil {
		t.Fatal(err)
	}
	opened, err := translog.Open(t.Context(), c)
	if err != nil {
		return err
	}
	return opened.Close(t.Context())
}

// The first start makes the log, and no other one does: not when the log is
// gone, and not when its note came back with a copy of the bundle.
func TestTheFirstStartMakesTheLog(t *testing.T) {
	t.Parallel()
	l, id := provisioned(t)
	note := filepath.Join(l.Bundle(id), records.FileNewLog)
	text, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	open := func() *Part {
		t.Helper()
		p, err := Open(l.Config(id), quiet())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if err := open().Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(note); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note is still there: %v", err)
	}
	if err := openLog(t, l, id); err != nil {
		t.Error(err)
	}
	if err := createAt(l, id); !errors.Is(err, translog.ErrExists) {
		t.Errorf("again: %v", err)
	}
	for _, dir := range []string{log(l, id), l.State(id), filepath.Dir(l.Watermark(id))} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}
	before := snapshot(t, l.Dir)
	if err := os.WriteFile(note, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := open().Close(); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, l.Dir); !slices.Equal(before, after) {
		t.Errorf("the second first start changed %v into %v", before, after)
	}
	for _, returned := range []bool{false, true} {
		remove(t, log(l, id))
		if returned {
			if err := os.WriteFile(note, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := open().Run(t.Context()); err == nil {
			t.Error("it runs without a log")
		}
		if _, err := os.Stat(log(l, id)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it made another log (the note returned: %t): %v", returned, err)
		}
	}
}

// A creation that was interrupted anywhere is finished by the next one: each
// file in turn was the last, whole or in part.
func TestCreateInterrupted(t *testing.T) {
	t.Parallel()
	l, id := provisioned(t)
	mustCreate(t, l, id)
	order := []string{filepath.Join(log(l, id), ".state", "version"), filepath.Join(log(l, id), ".state", "treeState"),
		filepath.Join(log(l, id), "checkpoint"), l.Watermark(id)}
	var contents [][]byte
	for _, path := range order {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, b)
	}
	for last := range order {
		for _, part := range []int{0, 1, len(contents[last]) / 2, len(contents[last]) - 1} {
			if err := errors.Join(os.RemoveAll(log(l, id)), os.RemoveAll(l.Watermark(id)), os.MkdirAll(filepath.Dir(order[0]), 0o700)); err != nil {
				t.Fatal(err)
			}
			for i, path := range order[:last+1] {
				b := contents[i]
				if i == last {
					b = b[:part]
				}
				if err := os.WriteFile(path, b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := createAt(l, id); err != nil {
				t.Errorf("after %s with %d bytes: %v", order[last], part, err)
				continue
			}
			if err := openLog(t, l, id); err != nil {
				t.Errorf("after %s with %d bytes: %v", order[last], part, err)
			}
		}
	}
}

// What may have been a log is not replaced, however little of it is left.
func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	l, id := provisioned(t)
	mustCreate(t, l, id)
	_, _, c, err := load(l.Config(id), quiet())
	if err != nil {
		t.Fatal(err)
	}
	used, err := translog.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := used.Append(t.Context(), []byte("an entry")); err != nil {
		t.Fatal(err)
	}
	if err := used.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, harm := range map[string]func(t *testing.T){
		"as it is":              func(*testing.T) {},
		"without watermark":     func(t *testing.T) { remove(t, l.Watermark(id)) },
		"with half a watermark": func(t *testing.T) { cut(t, l.Watermark(id)) },
		"without log":           func(t *testing.T) { remove(t, log(l, id)) },
		"without tiles":         func(t *testing.T) { remove(t, filepath.Join(log(l, id), "tile")) },
		"tiles alone": func(t *testing.T) {
			remove(t, l.Watermark(id), filepath.Join(log(l, id), "checkpoint"), filepath.Join(log(l, id), ".state"))
		},
		"another file":           func(t *testing.T) { remove(t, l.Watermark(id)); put(t, filepath.Join(log(l, id), "notes")) },
		"a watermark of nothing": func(t *testing.T) { remove(t, filepath.Join(log(l, id), "checkpoint")) },
	} {
		t.Run(name, func(t *testing.T) {
			backup := t.TempDir()
			if err := errors.Join(os.CopyFS(filepath.Join(backup, "log"), os.DirFS(log(l, id))), os.CopyFS(filepath.Join(backup, "marks"), os.DirFS(filepath.Dir(l.Watermark(id))))); err != nil {
				t.Fatal(err)
			}
			defer func() {
				remove(t, log(l, id), filepath.Dir(l.Watermark(id)))
				if err := errors.Join(os.CopyFS(log(l, id), os.DirFS(filepath.Join(backup, "log"))), os.CopyFS(filepath.Dir(l.Watermark(id)), os.DirFS(filepath.Join(backup, "marks")))); err != nil {
					t.Fatal(err)
				}
			}()
			harm(t)
			before := snapshot(t, l.Dir)
			if err := createAt(l, id); !errors.Is(err, translog.ErrExists) {
				t.Errorf("%v", err)
			}
			if after := snapshot(t, l.Dir); !slices.Equal(before, after) {
				t.Errorf("it changed %v into %v", before, after)
			}
		})
	}
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

func put(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func cut(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, info.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// snapshot lists the files below dir, but for locks.
func snapshot(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !strings.HasSuffix(path, ".lock") && filepath.Base(path) != "log" {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, want string
		change     func(t *testing.T, l provision.Layout, id pki.Identity)
	}{
		{"another part's bundle", "of a broker", func(t *testing.T, l provision.Layout, id pki.Identity) {
			broker := pki.Identity{TrustDomain: id.TrustDomain, Site: id.Site, Role: pki.RoleBroker, Name: "b1"}
			edit(t, l.Config(id), "bundle: .\n", "bundle: "+l.Bundle(broker)+"\n")
		}},
		{"an unknown setting", "colour", func(t *testing.T, l provision.Layout, id pki.Identity) {
			edit(t, l.Config(id), "bundle: .\n", "bundle: .\ncolour: blue\n")
		}},
		{"another log's key", "not the one that the site document names", func(t *testing.T, l provision.Layout, id pki.Identity) {
			remove(t, filepath.Join(l.Bundle(id), records.FileLogKey))
			if _, err := translog.GenerateKey(filepath.Join(l.Bundle(id), records.FileLogKey), "melb.bank.example/recorder/rec-1"); err != nil {
				t.Fatal(err)
			}
		}},
		{"no log key", records.FileLogKey, func(t *testing.T, l provision.Layout, id pki.Identity) {
			remove(t, filepath.Join(l.Bundle(id), records.FileLogKey))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l, id := provisioned(t)
			test.change(t, l, id)
			if _, err := Open(l.Config(id), quiet()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func edit(t *testing.T, path, old, new string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(text, []byte(old)) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(text, []byte(old), []byte(new), 1), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Run holds log and segments, and lets go of both.
func TestRun(t *testing.T) {
	t.Parallel()
	l, id := provisioned(t)
	mustCreate(t, l, id)
	for range 2 {
		p, err := Open(l.Config(id), quiet())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		segments := filepath.Join(l.State(id), "segments")
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, err := os.Stat(segments); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("it makes no directory for segments")
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%v", err)
		}
	}
	// A second writer is refused, and everything is released.
	_, _, c, err := load(l.Config(id), quiet())
	if err != nil {
		t.Fatal(err)
	}
	held, err := translog.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(l.Config(id), quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); !errors.Is(err, translog.ErrLocked) {
		t.Errorf("%v", err)
	}
	if err := held.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	p, err = Open(l.Config(id), quiet())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// The recorder asks for all that is sealed and that policy lets it read, and for
// nothing that is public.
func TestFilters(t *testing.T) {
	t.Parallel()
	policy, err := policies.Parse(policies.Default())
	if err != nil {
		t.Fatal(err)
	}
	asked := filters("melb")
	for _, f := range policy.Rights(pki.Identity{Site: "melb", Role: pki.RoleRecorder, Name: "rec-1"}).Subscriptions() {
		if got, want := slices.Contains(asked, f), !strings.HasPrefix(f, "public"); got != want {
			t.Errorf("%s: asked for %v", f, got)
		}
	}
}

// A watermark that is no beginning of the log's own is somebody's evidence,
// even where the log beside it is empty.
func TestCreateKeepsAForeignWatermark(t *testing.T) {
	t.Parallel()
	l, id := provisioned(t)
	mustCreate(t, l, id)
	put(t, l.Watermark(id))
	if err := createAt(l, id); !errors.Is(err, translog.ErrExists) {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(l.Watermark(id)); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}
