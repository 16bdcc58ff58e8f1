package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"levee/internal/durable"
	"levee/test/faults"
)

const (
	childIn   = "LEVEE_TEST_DURABLE_IN"
	childDoes = "LEVEE_TEST_DURABLE_DOES"
	old, new_ = "old content\n", "the new content, which is longer\n"
)

var writers = map[string]func(path string) error{
	"WriteFile": func(path string) error { return durable.WriteFile(path, []byte(new_), 0o600) },
	"WriteNew":  func(path string) error { return durable.WriteNew(path, []byte(new_), 0o600) },
	"Remove":    durable.Remove,
}

// TestWriteHere is the process that the faults are injected into.
func TestWriteHere(t *testing.T) {
	dir := os.Getenv(childIn)
	if dir == "" {
		t.Skip("only as a child")
	}
	runtime.LockOSThread()
	if err := writers[os.Getenv(childDoes)](filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
}

func child(t *testing.T, does string) (dir string, cmd *exec.Cmd) {
	t.Helper()
	dir = t.TempDir()
	if does != "WriteNew" {
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte(old), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd = exec.Command(os.Args[0], "-test.run=^TestWriteHere$")
	cmd.Env = append(os.Environ(), childIn+"="+dir, childDoes+"="+does)
	return dir, cmd
}

// whole wants what was there, what should be, and nothing else but leftovers.
func whole(t *testing.T, does, after, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "f"))
	is := string(b)
	if errors.Is(err, fs.ErrNotExist) {
		is, err = "none", nil
	}
	may := map[string][]string{"WriteFile": {old, new_}, "WriteNew": {"none", new_}, "Remove": {old, "none"}}
	if err != nil || !slices.Contains(may[does], is) {
		t.Errorf("%s, %s: the file holds %q, %v", does, after, b, err)
	}
	for _, name := range names(t, dir) {
		if of, ok := durable.Leftover(name); name != "f" && (!ok || of != "f") {
			t.Errorf("%s, %s: %s was left, and nobody knows it", does, after, name)
		}
	}
}

func TestFaults(t *testing.T) {
	for does, calls := range map[string]string{"WriteFile": "openat write fchmod fsync close renameat", "WriteNew": "openat write fchmod fsync close linkat unlinkat", "Remove": "unlinkat fsync"} {
		t.Run(does, func(t *testing.T) {
			each := make(map[string]int)
			for name := range strings.FieldsSeq(calls) {
				each[name] = 1
			}
			faults.Each(t, each, func(t *testing.T) (*exec.Cmd, func(string)) {
				dir, cmd := child(t, does)
				return cmd, func(after string) { whole(t, does, after, dir) }
			})
		})
	}
}

func TestPowerLoss(t *testing.T) {
	for does := range writers {
		t.Run(does, func(t *testing.T) {
			dir, cmd := child(t, does)
			faults.PowerLoss(t, dir, cmd, func(after, dir string, _ bool) { whole(t, does, after, dir) })
		})
	}
}
