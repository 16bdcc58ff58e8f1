package ca

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"levee/pki"
	"levee/pki/seal"
)

// OpenKey reads a key file that WriteKey wrote or that holds what SealKey or
// pki.MarshalKey returned: of mode 0600 or stricter, ours or root's. ask is called
// if the file is sealed, and only then; nil refuses sealed files. A file that
// is missing is fs.ErrNotExist. What a WriteKey that a crash interrupted left
// beside the file is removed.
func OpenKey(path string, ask func() (seal.Passphrase, error)) (crypto.Signer, error) {
	return keyFiles{operatingSystem{}}.open(path, ask)
}

// WriteKey writes the key, sealed unless passphrase is nil, to a new file of
// mode 0600, and returns when file and name are on disk. It never writes over
// a file: a key that is lost cannot be made again. The name appears with the
// whole file or not at all, so that whoever calls again after an error or a
// crash either opens this very key or may write another.
func WriteKey(path string, key crypto.Signer, passphrase *seal.Passphrase) error {
	var data []byte
	var err error
	if passphrase == nil {
		data, err = pki.MarshalKey(key)
	} else {
		data, err = SealKey(key, *passphrase)
	}
	if err != nil {
		return err
	}
	return keyFiles{operatingSystem{}}.write(path, data)
}

// disk is what writing a key does to a file system. Tests make each operation
// fail, or the power with it.
type disk interface {
	ReadDir(directory string) ([]fs.DirEntry, error)
	CreateTemp(directory, pattern string) (file, error)
	Link(from, to string) error
	Remove(path string) error
	SyncDir(directory string) error
}

type file interface {
	io.WriteCloser
	Name() string
	Sync() error
}

type keyFiles struct{ disk disk }

func (k keyFiles) open(path string, ask func() (seal.Passphrase, error)) (crypto.Signer, error) {
	data, err := pki.ReadPrivate(path, seal.MaxSealed)
	if err != nil {
		return nil, fmt.Errorf("reading private key: %w", err)
	}
	key, err := parseKey(data, ask)
	if err != nil {
		return nil, fmt.Errorf("reading private key %s: %w", path, err)
	}
	// A second name of a key outlives the removal of the first. Where it
	// cannot be removed now, it is no reason not to work.
	_ = k.sweep(path)
	return key, nil
}

func (k keyFiles) write(path string, data []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing key: %w", err)
		}
	}()
	if err := k.sweep(path); err != nil {
		return err
	}
	directory := filepath.Dir(path)
	temporary, err := k.disk.CreateTemp(directory, temporaryName(path)+"*") // mode 0600
	if err != nil {
		return err
	}
	_, err = temporary.Write(data)
	if err == nil {
		err = temporary.Sync()
	}
	if closing := temporary.Close(); err == nil {
		err = closing
	}
	if err == nil {
		// Unlike a renaming it fails where there is a file already.
		err = k.disk.Link(temporary.Name(), path)
	}
	if removing := k.disk.Remove(temporary.Name()); err == nil {
		err = removing
	}
	if err == nil {
		err = k.disk.SyncDir(directory)
	}
	return err
}

// sweep removes what an interrupted write of path left. Beside a key that is
// there such a file is of no more use; where there is none, another process
// that writes the same key at this moment fails, and loses nothing.
func (k keyFiles) sweep(path string) error {
	directory := filepath.Dir(path)
	entries, err := k.disk.ReadDir(directory)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), temporaryName(path)) {
			continue
		}
		if err := k.disk.Remove(filepath.Join(directory, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func temporaryName(path string) string { return "." + filepath.Base(path) + ".new-" }

type operatingSystem struct{}

func (operatingSystem) ReadDir(directory string) ([]fs.DirEntry, error) { return os.ReadDir(directory) }

func (operatingSystem) CreateTemp(directory, pattern string) (file, error) {
	return os.CreateTemp(directory, pattern)
}

func (operatingSystem) Link(from, to string) error { return os.Link(from, to) }

func (operatingSystem) Remove(path string) error { return os.Remove(path) }

// SyncDir makes a new name survive a loss of power. Windows cannot sync a
// directory.
func (operatingSystem) SyncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}
