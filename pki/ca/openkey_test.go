package ca

import (
	"bytes"
	"crypto"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"levee/pki"
	"levee/pki/seal"
)

func TestOpenKey(t *testing.T) {
	p, err := seal.NewPassphrase([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := seal.NewPassphrase([]byte("battery staple"))
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	write := func(name string, data []byte, mode fs.FileMode) string {
		t.Helper()
		path := filepath.Join(directory, name)
		if err := errors.Join(os.WriteFile(path, data, mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	made := func(name string, newKey func() (crypto.Signer, error), passphrase *seal.Passphrase) (crypto.Signer, string) {
		t.Helper()
		key, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		data, err := pki.MarshalKey(key)
		if passphrase != nil {
			data, err = SealKey(key, *passphrase)
		}
		if err != nil {
			t.Fatal(err)
		}
		return key, write(name, data, 0o600)
	}
	asked := 0
	give := func(p seal.Passphrase) func() (seal.Passphrase, error) {
		return func() (seal.Passphrase, error) { asked++; return p, nil }
	}
	equal := func(a, b crypto.Signer) bool {
		return b != nil && a.(interface{ Equal(crypto.PrivateKey) bool }).Equal(b)
	}

	plainKey, plain := made("plain.key", NewRootKey, nil)
	if key, err := OpenKey(plain, nil); err != nil || !equal(plainKey, key) {
		t.Errorf("plain: %v", err)
	}
	if _, err := OpenKey(plain, give(p)); err != nil || asked != 0 {
		t.Errorf("plain, asked %d times: %v", asked, err)
	}
	sealedKey, sealed := made("sealed.key", NewAuthorityKey, &p)
	if key, err := OpenKey(sealed, give(p)); err != nil || !equal(sealedKey, key) || asked != 1 {
		t.Errorf("sealed, asked %d times: %v", asked, err)
	}
	data, err := os.ReadFile(sealed)
	if err != nil || !seal.Is(data) || bytes.Contains(data, []byte("PRIVATE")) {
		t.Errorf("the sealed file begins %.40q, %v", data, err)
	}
	asSite, err := seal.Seal([]byte("x"), p, "site key")
	if err != nil {
		t.Fatal(err)
	}
	noKey, err := seal.Seal([]byte("no key at all"), p, purpose)
	if err != nil {
		t.Fatal(err)
	}
	errAsking := errors.New("interrupted")
	for name, try := range map[string]struct {
		path string
		ask  func() (seal.Passphrase, error)
		want error
	}{
		"none":                {filepath.Join(directory, "none"), give(p), fs.ErrNotExist},
		"wrong passphrase":    {sealed, give(other), seal.ErrOpen},
		"nobody to ask":       {sealed, nil, nil},
		"who is asked leaves": {sealed, func() (seal.Passphrase, error) { return seal.Passphrase{}, errAsking }, errAsking},
		"no passphrase":       {sealed, give(seal.Passphrase{}), seal.ErrOpen},
		"changed":             {write("changed", bytes.Replace(data, []byte("A"), []byte("B"), 1), 0o600), give(p), nil},
		"cut":                 {write("cut", data[:len(data)/2], 0o600), give(p), seal.ErrFormat},
		"empty":               {write("empty", nil, 0o600), give(p), nil},
		"sealed as other":     {write("other", asSite, 0o600), give(p), seal.ErrOpen},
		"sealed, no key":      {write("nokey", noKey, 0o600), give(p), nil},
		"two":                 {write("two", append(bytes.Clone(data), data...), 0o600), give(p), seal.ErrFormat},
		"a directory":         {directory, give(p), nil},
	} {
		if key, err := OpenKey(try.path, try.ask); err == nil || key != nil || try.want != nil && !errors.Is(err, try.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if runtime.GOOS == "windows" {
		return
	}
	for _, path := range []string{plain, sealed} {
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKey(path, give(p)); err == nil || !strings.Contains(err.Error(), "0640") {
			t.Errorf("%s of mode 0640: %v", path, err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() != 0 {
			continue
		}
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKey(path, give(p)); err == nil || !strings.Contains(err.Error(), "another user") {
			t.Errorf("%s of another user: %v", path, err)
		}
	}
}
