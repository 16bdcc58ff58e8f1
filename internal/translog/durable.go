package translog

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
)

// replaceSuffix ends the name of a file that is being written. In the log's
// directory it is one that proof.Leftovers knows.
const replaceSuffix = "0"

// writeNew writes a file that does not exist yet and returns when it is durable.
func writeNew(path string, content []byte, mode os.FileMode) error {
	return write(path, content, mode, os.O_EXCL, func() error { return nil })
}

// replace puts content in the place of a file at once, or leaves it as it was,
// and returns when it is durable. There must be no other writer.
func replace(path string, content []byte, mode os.FileMode) error {
	next := path + replaceSuffix
	return write(next, content, mode, os.O_TRUNC, func() error { return os.Rename(next, path) })
}

func write(path string, content []byte, mode os.FileMode, flag int, after func() error) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flag, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(path)))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := after(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it has no such call: a key may be made there, a log may not be kept
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
