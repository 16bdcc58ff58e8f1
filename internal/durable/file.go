// Package durable writes files that a crash leaves whole: the old content or
// the new, never a mixture.
//
// It guarantees that a nil error means "on disk, under that name", and that what
// a crash leaves beside the file bears a name that Leftover knows. It does not
// order writes to different files.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
)

// WriteFile replaces path with b.
func WriteFile(path string, b []byte, mode os.FileMode) error {
	temporary, err := writeBeside(path, b, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		os.Remove(temporary)
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// WriteNew writes a file that must not exist yet, and is fs.ErrExist where one
// does: for keys, which cannot be made again. The file system must have hard links.
func WriteNew(path string, b []byte, mode os.FileMode) error {
	temporary, err := writeBeside(path, b, mode)
	if err != nil {
		return err
	}
	// Unlike a renaming it fails where there is a file already.
	err = os.Link(temporary, path)
	if err = errors.Join(err, os.Remove(temporary)); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// writeBeside writes b, for path, to a new file whose name Leftover knows.
func writeBeside(path string, b []byte, mode os.FileMode) (temporary string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return "", fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Name(), nil
}

var leftover = regexp.MustCompile(`^\.(.+)-[0-9]+$`)

// Leftover returns the name of the file that was being written, if a WriteFile
// or WriteNew that was cut short left a file of this name in its directory: a
// part of what it should hold, or all of it, and nobody uses it.
func Leftover(name string) (of string, ok bool) {
	match := leftover.FindStringSubmatch(name)
	if match == nil {
		return "", false
	}
	return match[1], true
}

// CreateFile writes a file that must not exist yet, on any file system. A crash
// may leave a part of it.
func CreateFile(path string, b []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("creating file: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("creating %s: %w", path, err)
	}
	return SyncDir(filepath.Dir(path))
}

// Remove removes a file for good. Where there is none it does nothing.
func Remove(path string) error {
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the directory's entries durable. Windows has no such call.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// ReadFile reads a file of at most max bytes.
func ReadFile(path string, max int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not make us wait
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("reading %s: not a regular file", path), err)
	}
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("reading %s: larger than %d bytes", path, max)
	}
	return b, nil
}
