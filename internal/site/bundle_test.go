package site_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee/envelope/replay"
	"levee/internal/config"
	"levee/internal/site"
	"levee/pki"
	"levee/policies"
)

func TestOpen(t *testing.T) {
	l := layout(t, false)
	for _, id := range []pki.Identity{identity("melb", pki.RoleSensor, "web-1"), identity("melb", pki.RoleOperator, "ann")} {
		s := settings(t, l, id)
		b, err := site.Open(s, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if b.Identity != id || b.Document.Site != "melb" || b.Policy.Skew() != 30*time.Second {
			t.Errorf("%+v of %s", b.Identity, b.Document.Site)
		}
		info, err := os.Stat(b.State)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("state: %v, %v", info, err)
		}
		signer, err := b.Signer()
		if err != nil || signer == nil {
			t.Errorf("signer: %v", err)
		}
		if _, err := site.Open(s, time.Now()); err != nil {
			t.Errorf("opened again: %v", err)
		}
	}
}

// The outbox has a bound that makes sense, or none is configured.
func TestOutboxBytes(t *testing.T) {
	l := layout(t, false)
	for n, ok := range map[int64]bool{0: true, site.MinOutbox: true, site.MaxOutbox: true, -1: false, 1: false, site.MinOutbox - 1: false, site.MaxOutbox + 1: false} {
		s := settings(t, l, identity("melb", pki.RoleSensor, "web-1"))
		s.OutboxBytes = n
		b, err := site.Open(s, time.Now())
		if (err == nil) != ok || ok && b.OutboxBytes != n || !ok && !strings.Contains(err.Error(), "outbox_bytes") {
			t.Errorf("%d: %v", n, err)
		}
	}
}

// What is missing is named, and with it what to do.
func TestAFileIsMissing(t *testing.T) {
	for name, joins := range map[string]bool{site.FileKey: true, site.FileChain: true, site.FileRoot: false, site.FileDocument: false, site.FilePolicy: false} {
		s := settings(t, layout(t, false), identity("melb", pki.RoleSensor, "web-1"))
		if err := os.Remove(filepath.Join(string(s.Bundle), name)); err != nil {
			t.Fatal(err)
		}
		_, err := site.Open(s, time.Now())
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "; carry the bundle here again") ||
			strings.Contains(err.Error(), "levee pki join") != joins {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

// The public part opens without a key or a state directory, for auditors.
func TestOpenTrust(t *testing.T) {
	s := settings(t, layout(t, false), identity("melb", pki.RoleSensor, "web-1"))
	for _, name := range []string{site.FileKey, site.FileKeys} {
		if err := os.Remove(filepath.Join(string(s.Bundle), name)); err != nil {
			t.Fatal(err)
		}
	}
	s.State = ""
	trust, err := site.OpenTrust(s, time.Now())
	if err != nil || trust.Document.Site != "melb" {
		t.Errorf("%+v, %v", trust, err)
	}
	if _, err := site.Open(s, time.Now()); err == nil {
		t.Error("a bundle without a key was opened")
	}
}

func TestBundlesThatDoNotBelongTogether(t *testing.T) {
	l, evaluation := layout(t, false), layout(t, true)
	sensor := identity("melb", pki.RoleSensor, "web-1")
	from := func(l string, id pki.Identity, name string) func(*testing.T, site.Settings) {
		return func(t *testing.T, s site.Settings) {
			b, err := os.ReadFile(filepath.Join(l, "bundles", id.Site, string(id.Role), id.Name, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(string(s.Bundle), name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write := func(name, text string) func(*testing.T, site.Settings) {
		return func(t *testing.T, s site.Settings) {
			if err := os.WriteFile(filepath.Join(string(s.Bundle), name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(name string) func(*testing.T, site.Settings) {
		return func(t *testing.T, s site.Settings) {
			if err := os.Remove(filepath.Join(string(s.Bundle), name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	chmod := func(name string, mode os.FileMode) func(*testing.T, site.Settings) {
		return func(t *testing.T, s site.Settings) {
			if err := os.Chmod(filepath.Join(string(s.Bundle), name), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	policy := string(policies.Default())
	for name, change := range map[string]func(*testing.T, site.Settings){
		"another root":                          from(evaluation.Dir, sensor, site.FileRoot),
		"another root's certificate":            from(evaluation.Dir, sensor, site.FileChain),
		"another sensor's key":                  from(l.Dir, identity("syd", pki.RoleSensor, "web-1"), site.FileKey),
		"another root's site document":          from(evaluation.Dir, sensor, site.FileDocument),
		"another site's document":               from(l.Dir, identity("syd", pki.RoleSensor, "web-1"), site.FileDocument),
		"a policy with another skew":            write(site.FilePolicy, strings.Replace(policy, "skew: 30s", "skew: 60s", 1)),
		"a policy with a comment more":          write(site.FilePolicy, policy+"# harmless\n"),
		"no policy":                             remove(site.FilePolicy),
		"no policy at all":                      write(site.FilePolicy, ""),
		"a policy over the bound":               write(site.FilePolicy, strings.Repeat("#", 1<<20+1)),
		"no site document":                      remove(site.FileDocument),
		"an empty site document":                write(site.FileDocument, ""),
		"no root":                               remove(site.FileRoot),
		"no key":                                remove(site.FileKey),
		"no certificate":                        remove(site.FileChain),
		"a key that the group may read":         chmod(site.FileKey, 0o640),
		"a key that everybody may read":         chmod(site.FileKey, 0o604),
		"a bundle that the group may write to":  chmod(".", 0o770),
		"a bundle that everybody may write to":  chmod(".", 0o707),
		"a root that is a link to another":      link(site.FileRoot, filepath.Join(evaluation.Bundle(sensor), site.FileRoot)),
		"a site document from before the reset": func(t *testing.T, s site.Settings) { accepted(t, s, "3\n") },
		"a number that is none":                 func(t *testing.T, s site.Settings) { accepted(t, s, "x\n") },
		"an empty number":                       func(t *testing.T, s site.Settings) { accepted(t, s, "") },
		"a state directory for everybody": func(t *testing.T, s site.Settings) {
			accepted(t, s, "1\n")
			if err := os.Chmod(string(s.State), 0o777); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings(t, l, sensor)
			change(t, s)
			if b, err := site.Open(s, time.Now()); err == nil || b != nil {
				t.Error("opened")
			} else if !strings.Contains(err.Error(), string(s.Bundle)) {
				t.Errorf("the error does not say which bundle: %v", err)
			}
		})
	}
	s := settings(t, l, sensor)
	for name, s := range map[string]site.Settings{"no settings": {}, "no state": {Bundle: s.Bundle}, "no bundle": {State: s.State}} {
		if _, err := site.Open(s, time.Now()); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	if _, err := site.Open(s, time.Now().Add(11*365*24*time.Hour)); err == nil {
		t.Error("opened after everything expired")
	}
}

func link(name, target string) func(*testing.T, site.Settings) {
	return func(t *testing.T, s site.Settings) {
		path := filepath.Join(string(s.Bundle), name)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
}

// accepted notes text as the number of a site document accepted before.
func accepted(t *testing.T, s site.Settings, text string) {
	t.Helper()
	if err := os.MkdirAll(string(s.State), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(string(s.State), "site-document"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A lower number than one accepted before is refused, also after a restart; a
// higher one counts from when it was opened.
func TestSiteDocumentIsNeverOlder(t *testing.T) {
	l := layout(t, false)
	root, people := authority(t, l, "root"), authority(t, l, "melb/people-ca")
	s := settings(t, l, identity("melb", pki.RoleSensor, "web-1"))
	first, err := site.Open(s, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	install := func(number uint64, policyHash string) {
		d := *first.Document
		d.Number, d.PolicyHash = number, policyHash
		raw, err := site.Sign(d, people.Signer, people.Certificate, root.Certificate, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(string(s.Bundle), site.FileDocument), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hash := first.Document.PolicyHash
	for _, step := range []struct {
		number uint64
		hash   string
		ok     bool
	}{{1, hash, true}, {5, hash, true}, {5, hash, true}, {4, hash, false}, {1, hash, false},
		{9, site.HashText([32]byte{}), false}, // refused for its policy, and so not accepted
		{5, hash, true}, {1<<32 - 1, hash, true}, {5, hash, false}} {
		install(step.number, step.hash)
		if _, err := site.Open(s, time.Now()); (err == nil) != step.ok {
			t.Errorf("number %d: %v", step.number, err)
		}
	}
}

// A root that was made for evaluation opens only where that is said.
func TestEvaluation(t *testing.T) {
	s := settings(t, layout(t, true), identity("melb", pki.RoleSensor, "web-1"))
	if _, err := site.Open(s, time.Now()); err == nil || !strings.Contains(err.Error(), "evaluation") {
		t.Errorf("in production: %v", err)
	}
	if _, err := os.Stat(string(s.State)); err == nil {
		t.Error("a refused bundle left a state directory")
	}
	s.Evaluation = true
	if _, err := site.Open(s, time.Now()); err != nil {
		t.Errorf("where it is said: %v", err)
	}
}

// Windows of a component that never ran accept at once; lost ones wait.
func TestWindows(t *testing.T) {
	s := settings(t, layout(t, false), identity("melb", pki.RoleSensor, "web-1"))
	now := time.Now()
	check := func(want replay.Verdict) {
		t.Helper()
		b, err := site.Open(s, now)
		if err != nil {
			t.Fatal(err)
		}
		w, err := b.OpenWindows(now)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		m := replay.Message{Sender: []byte("melb/sensor/web-2"), Boot: 1, Seq: 1, Time: now.UnixMilli()}
		if got := w.Check(m); got != want {
			t.Errorf("%v instead of %v", got, want)
		}
	}
	if err := site.NewState(string(s.State)); err != nil {
		t.Fatal(err)
	}
	check(replay.Fresh)
	if err := site.NewState(string(s.State)); err != nil { // where it exists it changes nothing
		t.Fatal(err)
	}
	check(replay.Redelivery)
	if err := os.Remove(filepath.Join(string(s.State), "windows")); err != nil {
		t.Fatal(err)
	}
	if err := site.NewState(string(s.State)); err != nil {
		t.Fatal(err)
	}
	check(replay.BeforeStart)
	entries, err := os.ReadDir(filepath.Dir(string(s.State)))
	if err != nil || len(entries) != 2 { // bundle and state
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// The first start of a machine makes its state directory, and no later one
// does: what it remembered would be accepted again.
func TestFirstStart(t *testing.T) {
	l := layout(t, false)
	s := settings(t, l, identity("melb", pki.RoleSensor, "web-1"))
	note := filepath.Join(string(s.Bundle), site.FileFirstStart)
	open := func() error {
		_, err := site.Open(s, time.Now())
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(note); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the note is still there: %v", err)
	}
	windows := filepath.Join(string(s.State), "windows")
	if err := os.WriteFile(windows, []byte("used"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The deployer's copy of the bundle was copied over the used one.
	if err := os.WriteFile(note, site.FirstStart(time.Now()), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(windows); err != nil || string(b) != "used" {
		t.Errorf("the windows are now %q, %v", b, err)
	}
	if _, err := os.Stat(note); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the note is there again: %v", err)
	}
	if err := os.RemoveAll(string(s.State)); err != nil {
		t.Fatal(err)
	}
	if err := open(); err == nil || !strings.Contains(err.Error(), "is gone") || !strings.Contains(err.Error(), string(s.State)) {
		t.Errorf("without state: %v", err)
	}
	if _, err := os.Stat(string(s.State)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was made anew: %v", err)
	}
	// Neither does the deployer's copy, which brings the note and its own
	// configuration: the component has run, with another state.
	if err := os.WriteFile(note, site.FirstStart(time.Now()), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := open(); err == nil || !strings.Contains(err.Error(), "is gone") {
		t.Errorf("without state, with a note: %v", err)
	}
	other := s
	other.State = config.Path(t.TempDir())
	for _, made := range []bool{true, false} {
		if _, err := site.Open(other, time.Now()); err == nil || !strings.Contains(err.Error(), "was started before with the state in") {
			t.Errorf("with another state: %v", err)
		}
		if made {
			if err := os.Remove(string(other.State)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := os.Stat(string(other.State)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another state was made: %v", err)
	}
	// A note that came back later, to a new disk, lets state be made, but what was
	// accepted before is not accepted again.
	for _, text := range [][]byte{site.FirstStart(time.Now().Add(-time.Hour)), site.FirstStart(time.Now().Add(time.Hour)), nil} {
		if err := errors.Join(os.Remove(filepath.Join(string(s.Bundle), site.FileStarted)), os.WriteFile(note, text, 0o644)); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		b, err := site.Open(s, now)
		if err != nil {
			t.Fatal(err)
		}
		w, err := b.OpenWindows(now)
		if err != nil {
			t.Fatal(err)
		}
		if v := w.Check(replay.Message{Sender: []byte("melb/sensor/web-2"), Boot: 1, Seq: 1, Time: now.UnixMilli()}); v != replay.BeforeStart {
			t.Errorf("after the note %q: %v", text, v)
		}
		if err := errors.Join(w.Close(), os.RemoveAll(string(s.State))); err != nil {
			t.Fatal(err)
		}
	}
	person := settings(t, l, identity("melb", pki.RoleOperator, "ann"))
	for range 2 {
		if _, err := site.Open(person, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(string(person.State)); err != nil {
			t.Fatal(err)
		}
	}
}

// What others may write to is refused: whoever can change a root decides whom
// this part believes.
func TestFilesOfOthers(t *testing.T) {
	s := settings(t, layout(t, false), identity("melb", pki.RoleSensor, "web-1"))
	if _, err := site.Open(s, time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{string(s.Bundle), string(s.State), filepath.Join(string(s.Bundle), site.FileRoot),
		filepath.Join(string(s.Bundle), site.FileDocument), filepath.Join(string(s.Bundle), site.FilePolicy)} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, bit := range []os.FileMode{0o020, 0o002} {
			if err := os.Chmod(path, info.Mode().Perm()|bit); err != nil {
				t.Fatal(err)
			}
			if _, err := site.Open(s, time.Now()); err == nil || !strings.Contains(err.Error(), "chmod go-w "+path) {
				t.Errorf("%s with %04o: %v", path, bit, err)
			}
		}
		if err := os.Chmod(path, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() != 0 {
			continue // nobody else may give a file away
		}
		if err := os.Chown(path, 65534, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := site.Open(s, time.Now()); err == nil || !strings.Contains(err.Error(), "chown 0 "+path) {
			t.Errorf("%s of another user: %v", path, err)
		}
		if err := os.Chown(path, 0, -1); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNewStateMakesParents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "state")
	if err := site.NewState(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if err := site.NewState(filepath.Join(dir, "windows", "x")); err == nil {
		t.Error("a state directory inside a file")
	}
}

// KeepWindows makes windows durable each second, says when it cannot, forgets
// nobody who could still be replayed, and ends.
func TestKeepWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w := replay.New(1)
		done := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			site.KeepWindows(done, w, 30*time.Second, slog.New(slog.NewTextHandler(&log, nil)))
			close(ended)
		}()
		now := time.Now()
		if v := w.Check(replay.Message{Sender: []byte("a"), Boot: 1, Seq: 1, Time: now.UnixMilli()}); v != replay.Fresh {
			t.Fatal(v)
		}
		time.Sleep(60*time.Second - time.Millisecond)
		if _, known := w.Lookup([]byte("a")); !known {
			t.Error("forgotten while its message could be fresh to another clock")
		}
		time.Sleep(3 * time.Second)
		if _, known := w.Lookup([]byte("a")); known {
			t.Error("never forgotten")
		}
		if log.Len() > 0 {
			t.Errorf("logged %s", &log)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if !strings.Contains(log.String(), "not durable") {
			t.Error("windows that are not durable are no word worth")
		}
		close(done)
		<-ended
	})
}
