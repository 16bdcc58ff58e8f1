package translog

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"levee/internal/translog/proof"
)

func TestOpenNeverCreates(t *testing.T) {
	s := newSite(t)
	if _, err := Open(t.Context(), s.cfg); !errors.Is(err, ErrNotCreated) {
		t.Fatalf("got %v", err)
	}
	if err := os.Mkdir(s.cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), s.cfg); !errors.Is(err, ErrNotCreated) {
		t.Fatalf("got %v", err)
	}
	for _, path := range []string{s.cfg.Dir, filepath.Dir(s.cfg.Watermark)} {
		if found, err := os.ReadDir(path); err != nil || len(found) > 0 {
			t.Fatalf("%s holds %v, %v", path, found, err)
		}
	}
}

func TestCreateRefusesWhatExists(t *testing.T) {
	s := newSite(t)
	s.create(t)
	before := string(read1(t, s.cfg.Watermark))
	if err := Create(s.cfg); !errors.Is(err, ErrExists) {
		t.Fatalf("a second time: %v", err)
	}
	if err := os.RemoveAll(s.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := Create(s.cfg); !errors.Is(err, ErrExists) {
		t.Fatalf("with a watermark: %v", err)
	}
	if string(read1(t, s.cfg.Watermark)) != before {
		t.Fatal("the watermark was changed")
	}
	if err := os.Remove(s.cfg.Watermark); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.cfg.Dir, "tile"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Create(s.cfg); !errors.Is(err, ErrExists) {
		t.Fatalf("with a file: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(s.cfg.Dir, "tile")); err != nil {
		t.Fatal(err)
	}
	s.create(t) // an empty directory will do
	s.verify(t)
}

// Everything that may be lost, put back or replaced, and what is said of it.
func TestOpenRefuses(t *testing.T) {
	foreign, _, err := note.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	remove := func(name string) func(*testing.T, *site, string) {
		return func(t *testing.T, s *site, _ string) {
			if err := os.RemoveAll(filepath.Join(s.cfg.Dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	flip := func(name string, at int) func(*testing.T, *site, string) {
		return func(t *testing.T, s *site, _ string) {
			path := filepath.Join(s.cfg.Dir, name)
			content := read1(t, path)
			content[(at+len(content))%len(content)] ^= 1
			write1(t, path, content)
		}
	}
	base := newSite(t)
	base.create(t)
	base.extend(t, "first", 300)
	old := base.backup(t)
	base.extend(t, "second", 120)
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, s *site, old string) // old: a backup at 300 of the 420 entries
		want error
		says string
	}{
		{"state directory deleted", remove(".state"), ErrLostState, "second history"},
		{"tree state deleted", remove(".state/treeState"), ErrLostState, "second history"},
		{"checkpoint deleted", remove("checkpoint"), ErrLostState, "copy the watermark"},
		{"all deleted", remove("."), ErrLostState, "restore"},
		{"watermark deleted", func(t *testing.T, s *site, _ string) {
			if err := os.Remove(s.cfg.Watermark); err != nil {
				t.Fatal(err)
			}
		}, ErrLostState, "put the newest checkpoint that you trust"},
		{"old backup restored", func(t *testing.T, s *site, old string) { s.restore(t, old) }, ErrRollback, "older copy"},
		{"old backup restored and continued elsewhere", func(t *testing.T, s *site, old string) {
			s.restore(t, old)
			kept := s.cfg.Watermark
			s.cfg.Watermark = filepath.Join(s.root, "stand-in")
			write1(t, s.cfg.Watermark, read1(t, filepath.Join(old, "checkpoint")))
			s.extend(t, "another history", 200)
			s.verify(t) // on its own nothing is wrong with it
			s.cfg.Watermark = kept
		}, ErrFork, "does not continue"},
		{"as long as before, with another history", func(t *testing.T, s *site, old string) {
			s.restore(t, old)
			kept := s.cfg.Watermark
			s.cfg.Watermark = filepath.Join(s.root, "stand-in")
			write1(t, s.cfg.Watermark, read1(t, filepath.Join(old, "checkpoint")))
			s.extend(t, "another history", 120)
			s.cfg.Watermark = kept
		}, ErrFork, "does not continue"},
		{"only the tree state put back", func(t *testing.T, s *site, old string) {
			write1(t, filepath.Join(s.cfg.Dir, ".state/treeState"), read1(t, filepath.Join(old, ".state/treeState")))
		}, ErrRollback, "older copy"},
		{"checkpoint signed by another key", func(t *testing.T, s *site, _ string) {
			signer, err := note.NewSigner(foreign)
			if err != nil {
				t.Fatal(err)
			}
			text, _, _ := strings.Cut(string(read1(t, filepath.Join(s.cfg.Dir, "checkpoint"))), "\n\n")
			signed, err := note.Sign(&note.Note{Text: text + "\n"}, signer)
			if err != nil {
				t.Fatal(err)
			}
			write1(t, filepath.Join(s.cfg.Dir, "checkpoint"), signed)
		}, ErrDamaged, "not signed with this log's key"},
		{"watermark changed", func(t *testing.T, s *site, _ string) {
			content := read1(t, s.cfg.Watermark)
			content[len(testOrigin)+2] ^= 1
			write1(t, s.cfg.Watermark, content)
		}, ErrDamaged, "put the newest checkpoint that you trust"},
		{"watermark emptied", func(t *testing.T, s *site, _ string) { write1(t, s.cfg.Watermark, nil) }, ErrDamaged, "watermark"},
		{"root of the tree state changed", func(t *testing.T, s *site, _ string) {
			path := filepath.Join(s.cfg.Dir, ".state/treeState")
			tree, err := proof.ParseTreeState(read1(t, path))
			if err != nil {
				t.Fatal(err)
			}
			tree.Hash[5] ^= 1
			state, err := proof.TreeState(tree)
			if err != nil {
				t.Fatal(err)
			}
			write1(t, path, state)
		}, ErrDamaged, "against the root"},
		{"newest entry changed", flip("tile/entries/001.p/164", -1), ErrDamaged, "entry 419"},
		{"newest tile changed", flip("tile/0/001.p/164", 7), ErrDamaged, "against the root"},
		{"upper tile changed", flip("tile/1/000.p/1", 7), ErrDamaged, "against the root"},
		{"newest bundle deleted", remove("tile/entries/001.p/164"), ErrDamaged, "tile/entries/001.p/164"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := base.copy(t)
			tc.do(t, s, old)
			before := s.files(t)
			l, err := Open(t.Context(), s.cfg)
			if err == nil {
				s.close(t, l)
			}
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("got %v", err)
			}
			if after := s.files(t); strings.Join(after, " ") != strings.Join(before, " ") {
				t.Fatalf("refusing changed the files: %v, then %v", before, after)
			}
		})
	}
}

// A crash between the watermark and the checkpoint leaves the watermark ahead;
// one after appending leaves the tree ahead of both.
func TestOpenAcceptsWhatACrashLeaves(t *testing.T) {
	s := newSite(t)
	s.create(t)
	s.extend(t, "first", 300)
	older := read1(t, filepath.Join(s.cfg.Dir, "checkpoint"))
	s.extend(t, "second", 50)
	write1(t, filepath.Join(s.cfg.Dir, "checkpoint"), older)
	s.extend(t, "third", 50)
	write1(t, filepath.Join(s.cfg.Dir, "checkpoint"), older)
	write1(t, s.cfg.Watermark, older)
	s.extend(t, "fourth", 50)
	if n := len(s.verify(t)); n != 450 {
		t.Fatalf("%d entries", n)
	}
}

// While the log is open somebody puts an older copy in its place.
func TestAnOpenLogDoesNotSignARollback(t *testing.T) {
	s := newSite(t)
	s.create(t)
	s.extend(t, "first", 300)
	old := s.backup(t)
	s.extend(t, "second", 100)
	for _, tc := range []struct {
		name string
		more int
		want error
	}{{"shorter", 20, ErrRollback}, {"longer", 150, ErrFork}} {
		t.Run(tc.name, func(t *testing.T) {
			now := s.backup(t)
			l := s.open(t)
			signed := read1(t, s.cfg.Watermark)
			for _, path := range []string{"tile", ".state/treeState"} {
				if err := os.RemoveAll(filepath.Join(s.cfg.Dir, path)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.CopyFS(filepath.Join(s.cfg.Dir, "tile"), os.DirFS(filepath.Join(old, "tile"))); err != nil {
				t.Fatal(err)
			}
			write1(t, filepath.Join(s.cfg.Dir, ".state/treeState"), read1(t, filepath.Join(old, ".state/treeState")))
			if _, err := l.AppendAll(t.Context(), entries("another history", tc.more)); err != nil {
				t.Fatal(err)
			}
			if _, err := l.Checkpoint(t.Context()); !errors.Is(err, tc.want) {
				t.Fatalf("got %v", err)
			}
			if _, err := l.Append(t.Context(), []byte("x")); !errors.Is(err, ErrStopped) {
				t.Fatalf("appending went on: %v", err)
			}
			if err := l.Close(t.Context()); !errors.Is(err, tc.want) {
				t.Fatalf("got %v", err)
			}
			if string(read1(t, s.cfg.Watermark)) != string(signed) {
				t.Fatal("another checkpoint was signed")
			}
			if _, err := Open(t.Context(), s.cfg); !errors.Is(err, tc.want) {
				t.Fatalf("got %v", err)
			}
			s.restore(t, now)
		})
	}
}

func TestASecondWriterIsRefused(t *testing.T) {
	s := newSite(t)
	s.create(t)
	l := s.open(t)
	if _, err := Open(t.Context(), s.cfg); !errors.Is(err, ErrLocked) {
		t.Fatalf("got %v", err)
	}
	// A copy of the log against the same watermark.
	copied := s.cfg
	copied.Dir = s.backup(t)
	if _, err := Open(t.Context(), copied); !errors.Is(err, ErrLocked) {
		t.Fatalf("a copy: %v", err)
	}
	// The same log against a copy of the watermark.
	other := s.cfg
	other.Watermark += "2"
	write1(t, other.Watermark, read1(t, s.cfg.Watermark))
	if _, err := Open(t.Context(), other); !errors.Is(err, ErrLocked) {
		t.Fatalf("a second watermark: %v", err)
	}
	s.close(t, l)
	s.close(t, s.open(t))
}

func TestConfigIsChecked(t *testing.T) {
	for name, change := range map[string]func(*site){
		"no directory":        func(s *site) { s.cfg.Dir = "" },
		"no watermark":        func(s *site) { s.cfg.Watermark = "" },
		"no logger":           func(s *site) { s.cfg.Log = nil },
		"no key":              func(s *site) { s.cfg.Key = Key{} },
		"another origin":      func(s *site) { s.cfg.Origin = "syd.bank.example/log" },
		"a negative batch":    func(s *site) { s.cfg.BatchSize = -1 },
		"a negative interval": func(s *site) { s.cfg.CheckpointInterval = -1 },
		"watermark inside":    func(s *site) { s.cfg.Watermark = filepath.Join(s.cfg.Dir, "watermark") },
		"watermark in a link": func(s *site) {
			link := filepath.Join(s.root, "link")
			if err := os.Symlink(s.cfg.Dir, link); err != nil {
				panic(err)
			}
			s.cfg.Watermark = filepath.Join(link, "watermark")
		},
		"watermark in no directory": func(s *site) { s.cfg.Watermark = filepath.Join(s.root, "nowhere", "watermark") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.create(t)
			change(s)
			if l, err := Open(t.Context(), s.cfg); err == nil || !strings.Contains(err.Error(), "configuring log") {
				if err == nil {
					s.close(t, l)
				}
				t.Fatalf("got %v", err)
			}
			if err := Create(s.cfg); err == nil {
				t.Fatal("created")
			}
		})
	}
}
