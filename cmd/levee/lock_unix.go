//go:build unix

package main

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes the lock file at path, or reports that another process holds
// it. The lock goes with the process, however it ends.
func tryLock(path string) (unlock func(), taken bool, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, false, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return func() { f.Close() }, true, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, false, nil
	}
	return nil, false, err
}
