//go:build unix

package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A descriptor that the caller did not hand over is a mistake of usage, said
// before anything is read or made: it could be one of levee's own files, whose
// text would seal the keys.
func TestPassphraseDescriptorIsNotTheCallers(t *testing.T) {
	dir := t.TempDir()
	own, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_CREATE|os.O_RDWR, 0o600) // as levee opens its own
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if _, err := own.WriteString("a journal's first line\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := own.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	inventory, out, number := filepath.Join(dir, "inventory.yaml"), filepath.Join(dir, "bank"), strconv.Itoa(int(own.Fd()))
	for _, args := range []string{
		"pki apply --inventory " + inventory + " --out " + out,
		"pki csr --inventory " + inventory + " --out " + out + " --site perth",
		"pki sign-issuer --authority " + dir + " --request request.pem --to answer.pem",
		"site sign --inventory " + inventory + " --out " + out + " --site melb",
		"pki revoke --bundle " + out + " --authority " + dir + " --reason stolen melb/sensor/web-1",
	} {
		for _, value := range []string{number, "root=" + number, "root=250", "250"} {
			_, fd, named := strings.Cut(value, "=")
			if !named {
				fd = value
			}
			var stdout, stderr bytes.Buffer
			code := execute(t.Context(), append(strings.Fields(args), "--passphrase-fd", value), &stdout, &stderr)
			if want := "levee: --passphrase-fd: file descriptor " + fd + " is not open\n"; code != 2 || stderr.String() != want || stdout.Len() > 0 {
				t.Errorf("%s --passphrase-fd %s: exit code %d, %q, want %q", args, value, code, stderr.String(), want)
			}
		}
	}
	if at, err := own.Seek(0, 1); at != 0 || err != nil {
		t.Errorf("the file of ours is read to %d, %v", at, err)
	}
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}
