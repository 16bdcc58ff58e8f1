package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockDir keeps a second `levee up` out of the same state directory. The lock
// goes with the process, however it ends.
func lockDir(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is in use by another levee up", dir)
	}
	return func() { f.Close() }, nil
}
