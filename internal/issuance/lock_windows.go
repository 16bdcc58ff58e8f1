package issuance

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lock makes this opening of the file the only one. The lock is far behind the
// end of any journal, because Windows would keep others from reading it.
func lock(f *os.File) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
		0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrInUse
	}
	return err
}
