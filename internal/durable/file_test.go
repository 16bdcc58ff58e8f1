package durable_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"levee/internal/durable"
)

// names returns what is in dir.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestWriteFileReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for i, test := range []struct {
		content string
		mode    os.FileMode
	}{{"first, which is longer", 0o644}, {"second", 0o600}, {"", 0o600}} {
		if err := durable.WriteFile(path, []byte(test.content), test.mode); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil || string(b) != test.content {
			t.Errorf("%d: holds %q, %v", i, b, err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != test.mode {
			t.Errorf("%d: mode %v, %v", i, info.Mode(), err)
		}
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

// A link is replaced, not followed.
func TestWriteFileReplacesALink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(target, []byte("old"), 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(target); string(b) != "old" {
		t.Errorf("the target holds %q", b)
	}
	if b, _ := os.ReadFile(link); string(b) != "new" {
		t.Errorf("the link holds %q", b)
	}
}

// What fails leaves the old content, and nothing beside it.
func TestWriteFileFails(t *testing.T) {
	dir := t.TempDir()
	if err := durable.WriteFile(filepath.Join(dir, "missing", "f"), []byte("x"), 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a directory that is missing: %v", err)
	}
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(taken, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if got := names(t, dir); len(got) != 1 || got[0] != "taken" {
		t.Errorf("left behind: %v", got)
	}
}

func TestCreateFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := durable.CreateFile(path, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := durable.CreateFile(path, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created twice: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "first" || err != nil {
		t.Errorf("holds %q, %v", b, err)
	}
	link := filepath.Join(filepath.Dir(path), "link")
	if err := os.Symlink(filepath.Join(filepath.Dir(path), "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if err := durable.CreateFile(link, []byte("x"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("created through a link: %v", err)
	}
}

func TestWriteNew(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := durable.WriteNew(path, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := durable.WriteNew(path, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("written over another: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "first" || err != nil {
		t.Errorf("holds %q, %v", b, err)
	}
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteNew(filepath.Join(dir, "link"), []byte("x"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("written through a link: %v", err)
	}
	if err := durable.WriteNew(filepath.Join(dir, "missing", "f"), []byte("x"), 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into a directory that is missing: %v", err)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"f", "link"}) {
		t.Errorf("left behind: %v", got)
	}
}

// Of two that make the same file at once, one wins, and the other learns of it.
func TestWriteNewAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	const writers = 8
	errs := make(chan error, writers)
	for range writers {
		go func() { errs <- durable.WriteNew(path, []byte("x"), 0o600) }()
	}
	won := 0
	for range writers {
		if err := <-errs; err == nil {
			won++
		} else if !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d wrote the one file", won)
	}
}

func TestLeftover(t *testing.T) {
	for name, of := range map[string]string{".tls.key-123": "tls.key", ".a-1-2": "a-1", "tls.key-123": "", ".tls.key": "", ".tls.key-": "", ".-1": "", ".tls.key-1x": ""} {
		if got, ok := durable.Leftover(name); got != of || ok != (of != "") {
			t.Errorf("%s is of %q, %v", name, got, ok)
		}
	}
}

func TestReadFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := durable.ReadFile(path, 100); len(b) != 100 || err != nil {
		t.Errorf("at the bound: %d bytes, %v", len(b), err)
	}
	if b, err := durable.ReadFile(path, 99); b != nil || err == nil {
		t.Errorf("over the bound: %d bytes, %v", len(b), err)
	}
	if _, err := durable.ReadFile(path+"x", 99); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestSyncDir(t *testing.T) {
	if err := durable.SyncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := durable.SyncDir(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}
