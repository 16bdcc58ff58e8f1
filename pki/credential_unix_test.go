//go:build unix

package pki_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"levee/pki"
)

// TestPipesAreNotOpened: opening a pipe that nobody writes to would hang a
// daemon at its start.
func TestPipesAreNotOpened(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.LoadCredential(pipe, pipe); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("LoadCredential: %v", err)
	}
	if _, err := pki.ReadCertificate(pipe); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("ReadCertificate: %v", err)
	}
}
