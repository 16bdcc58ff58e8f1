//go:build unix

package issuance

import (
	"errors"
	"os"
	"syscall"
)

// lock makes this opening of the file the only one. The kernel releases it with
// the process.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrInUse
	}
	return err
}
