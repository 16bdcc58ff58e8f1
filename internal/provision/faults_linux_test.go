package provision

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"levee/internal/config"
	"levee/test/faults"
)

// applyIn is the environment variable that turns this test binary into a run of
// Apply over that directory.
const applyIn = "LEVEE_TEST_APPLY_IN"

// applyAt is the time of that run.
const applyAt = "LEVEE_TEST_APPLY_AT"

// TestApplyHere is the process that the faults are injected into. Its file
// operations come from one thread, so that the nth is the same one each time.
func TestApplyHere(t *testing.T) {
	dir := os.Getenv(applyIn)
	if dir == "" {
		t.Skip("only as a child of TestFaults")
	}
	runtime.LockOSThread()
	var inv Inventory
	if err := config.Load(filepath.Join(filepath.Dir(dir), FileInventory), &inv); err != nil {
		t.Fatal(err)
	}
	now, err := time.Parse(time.RFC3339, os.Getenv(applyAt))
	if err == nil {
		_, err = Apply(dir, inv, now)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Each operation that changes the file system fails, or is the last one of the
// process, in turn; the next run repairs what that left, and nothing is lost: a
// certificate that was in a bundle stays, and is in the journal.
func TestFaults(t *testing.T) {
	t.Parallel()
	text, err := config.Encode(tiny())
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]int{"mkdirat": 131, "openat": 571, "write": 131, "pwrite64": 131, "fchmod": 131, "fsync": 131,
		"linkat": 13, "renameat": 29, "unlinkat": 13} // most of openat only read
	faults.Each(t, calls, func(t *testing.T) (*exec.Cmd, func(string)) {
		root := t.TempDir()
		dir := filepath.Join(root, "bank")
		write(t, filepath.Join(root, FileInventory), text)
		cmd := exec.Command(os.Args[0], "-test.run=^TestApplyHere$")
		cmd.Env = append(os.Environ(), applyIn+"="+dir, applyAt+"="+noon.Format(time.RFC3339))
		return cmd, func(after string) { repaired(t, after, dir) }
	})
}

// repaired runs Apply again on what a fault left.
func repaired(t *testing.T, after, dir string) {
	t.Helper()
	chains := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".pem" && !strings.HasPrefix(d.Name(), ".") {
			chains[path] = read(t, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	now := noon
	c := Config{Dir: dir, Inventory: tiny(), Unsealed: true}
	result, err := c.Apply(now)
	if err != nil {
		t.Errorf("after %s: %v", after, err)
		return
	}
	plan, err := c.Plan(now)
	if err != nil || len(plan.Changes)+len(plan.Drift) > 0 {
		t.Errorf("after %s it is not whole: %v, %v", after, plan, err)
	}
	for path, chain := range chains {
		if !bytes.Equal(read(t, path), chain) {
			t.Errorf("after %s %s was replaced", after, path)
		}
	}
	if d := check(t, dir, result.Identities); d != nil && d.Number != 1 {
		t.Errorf("after %s the document has number %d", after, d.Number)
	}
	for path := range tree(t, dir) {
		if strings.HasPrefix(filepath.Base(path), ".") {
			t.Errorf("after %s: %s was left", after, path)
		}
	}
}
