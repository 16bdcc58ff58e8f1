package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"levee/pki"
)

func TestReadPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	write(t, path, []byte("0123456789"))
	if b, err := pki.ReadPrivate(path, 10); err != nil || string(b) != "0123456789" {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := pki.ReadPrivate(path, 9); err == nil || b != nil {
		t.Errorf("over the bound: %q", b)
	}
	if _, err := pki.ReadPrivate(path+"x", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := pki.ReadPrivate(filepath.Dir(path), 10); err == nil {
		t.Error("a directory was read")
	}
	if runtime.GOOS == "windows" {
		return
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if b, err := pki.ReadPrivate(path, 10); err == nil || b != nil {
			t.Errorf("mode %04o: read", mode)
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	link := path + "-link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if b, err := pki.ReadPrivate(link, 10); err == nil || b != nil {
		t.Error("through a symbolic link: read")
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can give a file to another user")
	}
	if err := os.Chown(path, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if b, err := pki.ReadPrivate(path, 10); err == nil || b != nil || !strings.Contains(err.Error(), "another user") {
		t.Errorf("of another user: %v", err)
	}
}

// What ReadKey refuses in a file (TestReadKey), ParseKey refuses in memory.
func TestParseKey(t *testing.T) {
	key := newKey(t, pki.RoleSensor)
	data, err := pki.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pki.ParseKey(data); err != nil || !got.Public().(ed25519.PublicKey).Equal(key.Public()) {
		t.Errorf("%v", err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.MarshalKey(p521)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "P-521": other, "two": append(bytes.Clone(data), data...), "cut": data[:len(data)/2],
		"too long": append(bytes.Clone(data), bytes.Repeat([]byte(" "), 8<<10)...),
	} {
		if got, err := pki.ParseKey(data); err == nil || got != nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
