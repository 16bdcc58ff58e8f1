//go:build unix

package seal_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"levee/pki/seal"
)

// openRaw opens a file as a shell does: it would survive an exec, and there is
// no finalizer that would close it a second time.
func openRaw(t *testing.T, path string) int {
	t.Helper()
	fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// What this program opened by itself, and what cannot be read, is refused
// without a byte read; what was handed over is still whole after the check.
func TestCheckDescriptor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(path string, flags int) string {
		t.Helper()
		fd, err := syscall.Open(path, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Close(fd) })
		return strconv.Itoa(fd)
	}
	for _, test := range []struct{ name, number, want string }{
		{"not open", "250", "is not open"},
		{"of this program", open(path, syscall.O_RDONLY|syscall.O_CLOEXEC), "is not open"},
		{"for writing", open(path, syscall.O_WRONLY), "is not open for reading"},
		{"a directory", open(t.TempDir(), syscall.O_RDONLY), "neither a file nor a pipe"},
		{"a device", open(os.DevNull, syscall.O_RDONLY), "neither a file nor a pipe"},
		{"standard output", "1", "is no file descriptor to read from"},
	} {
		if err := seal.CheckDescriptor(test.number); err == nil || !strings.HasSuffix(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
		if _, err := seal.Ask(seal.Source{Descriptor: test.number}); err == nil || !strings.HasSuffix(err.Error(), test.want) {
			t.Errorf("%s, asked: %v", test.name, err)
		}
	}
	good := pipe(t, line)
	for range 2 {
		if err := seal.CheckDescriptor(good); err != nil {
			t.Error(err)
		}
	}
	if got, err := seal.Ask(seal.Source{Descriptor: good}); err != nil || !seal.Equal(got, passphrase(t, line)) {
		t.Errorf("after the check: %v", err)
	}
}

func makePipe(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}
