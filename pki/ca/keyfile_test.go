package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"levee/pki"
	"levee/pki/seal"
)

// faulty is a file system on which the operation number fail does not happen.
// If it is a crash, nothing happens afterwards either, as after kill -9; if it
// is a loss of power, what was not synced is lost as well.
type faulty struct {
	disk
	fail       int
	crash      bool
	power      bool
	operations int
	unsynced   map[string]bool // files whose bytes are not on disk
	names      []string        // names that are not on disk
}

var errInjected = errors.New("injected")

// step counts one operation, and says whether it fails.
func (d *faulty) step() error {
	d.operations++
	if d.operations == d.fail || d.crash && d.operations > d.fail {
		return errInjected
	}
	return nil
}

func (d *faulty) ReadDir(directory string) ([]fs.DirEntry, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	return d.disk.ReadDir(directory)
}

func (d *faulty) CreateTemp(directory, pattern string) (file, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	f, err := d.disk.CreateTemp(directory, pattern)
	if err == nil {
		d.unsynced[f.Name()] = true
	}
	return &faultyFile{f, d}, err
}

func (d *faulty) Link(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	if d.unsynced[from] {
		d.unsynced[to] = true
	}
	d.names = append(d.names, to)
	return d.disk.Link(from, to)
}

func (d *faulty) Remove(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.disk.Remove(path)
}

func (d *faulty) SyncDir(directory string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.names = nil
	return d.disk.SyncDir(directory)
}

// off is the moment after the crash. A name that was not synced may be there
// or not; bytes that were not are zeros, as some file systems leave them.
func (d *faulty) off(t *testing.T, keepNames bool) {
	t.Helper()
	if !d.power {
		return
	}
	for path := range d.unsynced {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, info.Size()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range d.names {
		if err := os.Remove(path); !keepNames && err != nil {
			t.Fatal(err)
		}
	}
}

type faultyFile struct {
	file
	disk *faulty
}

// Write tears: half of it is written.
func (f *faultyFile) Write(b []byte) (int, error) {
	if err := f.disk.step(); err != nil {
		if f.disk.operations == f.disk.fail {
			n, _ := f.file.Write(b[:len(b)/2])
			return n, err
		}
		return 0, err
	}
	return f.file.Write(b)
}

func (f *faultyFile) Sync() error {
	if err := f.disk.step(); err != nil {
		return err
	}
	delete(f.disk.unsynced, f.Name())
	return f.file.Sync()
}

func (f *faultyFile) Close() error {
	err := f.file.Close() // the descriptor is gone, whatever is said
	if fault := f.disk.step(); fault != nil {
		return fault
	}
	return err
}

// TestWriteKeyFaults: wherever writing a key fails, is killed or loses its
// power, the next run has a key: this very one or, if nobody ever was told
// that it exists, a new one. And no second copy stays.
func TestWriteKeyFaults(t *testing.T) {
	p, err := seal.NewPassphrase([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewAuthorityKey()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := pki.MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := SealKey(key, p)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() (seal.Passphrase, error) { return p, nil }
	same := func(other crypto.Signer) bool { return key.(*ecdsa.PrivateKey).Equal(other) }

	whole := &faulty{disk: operatingSystem{}, unsynced: map[string]bool{}}
	if err := (keyFiles{whole}).write(filepath.Join(t.TempDir(), "root.key"), plain); err != nil {
		t.Fatal(err)
	}
	if whole.operations != 8 { // list, create, write, sync, close, link, remove, sync
		t.Fatalf("writing takes %d operations", whole.operations)
	}
	for name, kind := range map[string]faulty{
		"error": {}, "kill": {crash: true}, "power": {crash: true, power: true},
	} {
		for fail := 1; fail <= whole.operations; fail++ {
			for variant, data := range [][]byte{plain, plain, sealed} {
				if variant == 2 && (fail != 4 && fail != 7) { // sealing is slow and no different
					continue
				}
				t.Run(fmt.Sprintf("%s at %d, %d", name, fail, variant), func(t *testing.T) {
					directory := t.TempDir()
					path := filepath.Join(directory, "root.key")
					d := kind
					d.disk, d.fail, d.unsynced = operatingSystem{}, fail, map[string]bool{}
					if err := (keyFiles{&d}).write(path, data); !errors.Is(err, errInjected) {
						t.Fatalf("written although an operation failed: %v", err)
					}
					d.off(t, variant == 1)

					// The next run.
					got, err := OpenKey(path, ask)
					if errors.Is(err, fs.ErrNotExist) {
						if err = (keyFiles{operatingSystem{}}).write(path, data); err == nil {
							got, err = OpenKey(path, ask)
						}
					}
					if err != nil || !same(got) {
						t.Fatalf("not repaired: %v", err)
					}
					if left := names(t, directory); !slices.Equal(left, []string{"root.key"}) {
						t.Errorf("left behind: %v", left)
					}
				})
			}
		}
	}
}

func names(t *testing.T, directory string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}

// Two that make the same key at once: one wins, and the other learns of it.
func TestWriteKeyAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	const writers = 8
	errs := make(chan error, writers)
	keys := make([]crypto.Signer, writers)
	for i := range writers {
		key, err := pki.NewKey(pki.RoleSensor)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = key
		go func() { errs <- WriteKey(path, key, nil) }()
	}
	won := 0
	for range writers {
		if err := <-errs; err == nil {
			won++
		}
	}
	if won > 1 {
		t.Fatalf("%d wrote the one key", won)
	}
	key, err := OpenKey(path, nil)
	if won == 1 && err != nil {
		t.Fatal(err)
	}
	if err == nil && !slices.ContainsFunc(keys, func(k crypto.Signer) bool {
		return k.(interface{ Equal(crypto.PrivateKey) bool }).Equal(key)
	}) {
		t.Error("a key that nobody wrote")
	}
}

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
	made := func(name string, newKey func() (crypto.Signer, error), passphrase *seal.Passphrase) (crypto.Signer, string) {
		t.Helper()
		key, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(directory, name)
		if err := WriteKey(path, key, passphrase); err != nil {
			t.Fatal(err)
		}
		return key, path
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
	write := func(name string, data []byte, mode fs.FileMode) string {
		t.Helper()
		path := filepath.Join(directory, name)
		if err := errors.Join(os.WriteFile(path, data, mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
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
