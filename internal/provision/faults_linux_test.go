package provision

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"levee/internal/config"
	"levee/test/programs"
)

// applyIn is the environment variable that turns this test binary into a run of
// Apply over that directory.
const applyIn = "LEVEE_TEST_APPLY_IN"

// applyAt is the time of that run.
const applyAt = "LEVEE_TEST_APPLY_AT"

// everyFault is the environment variable that leaves no operation out: minutes.
const everyFault = "LEVEE_TEST_EVERY_FAULT"

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
	strace := programs.Need(t, "strace", "apt-get install strace")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"mkdirat", "openat", "write", "pwrite64", "fchmod", "fsync", "renameat", "unlinkat"} {
		for _, fault := range []string{"error=EIO", "error=ENOSPC", "signal=SIGKILL"} {
			if fault == "error=ENOSPC" && call != "write" && call != "pwrite64" {
				continue
			}
			t.Run(call+" "+fault, func(t *testing.T) {
				t.Parallel()
				injected := 0
				for n := 1; ; n += stride(call) {
					root := t.TempDir()
					dir, trace := filepath.Join(root, "bank"), filepath.Join(root, "trace")
					text, err := config.Encode(tiny())
					if err != nil {
						t.Fatal(err)
					}
					write(t, filepath.Join(root, FileInventory), text)
					cmd := exec.Command(strace, "-f", "-qq", "-o", trace, "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:%s:when=%d", call, fault, n),
						self, "-test.run=^TestApplyHere$")
					cmd.Env = append(os.Environ(), applyIn+"="+dir, applyAt+"="+noon.Format(time.RFC3339))
					out, err := cmd.CombinedOutput()
					seen := read(t, trace)
					if !bytes.Contains(seen, []byte("INJECTED")) && !bytes.Contains(seen, []byte("killed by SIGKILL")) {
						if err != nil {
							t.Fatalf("without a fault: %v\n%s", err, out)
						}
						break
					}
					injected++
					repaired(t, fmt.Sprintf("%s of %d", fault, n), dir)
				}
				if injected == 0 && call != "unlinkat" {
					t.Errorf("no %s was seen", call)
				}
			})
		}
	}
}

// stride keeps the whole short: of each kind of operation every so
// manyth.
func stride(call string) int {
	switch {
	case os.Getenv(everyFault) != "":
		return 1
	case call == "openat": // most only read
		return 291
	case call == "renameat": // where a file comes to be
		return 29
	default:
		return 67
	}
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
