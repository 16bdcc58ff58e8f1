//go:build unix

package seal

import (
	"errors"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// checkInherited refuses a descriptor that was not handed to this program, or
// that gives nothing to read. What is handed over is not closed on exec;
// everything that Go opens is.
func checkInherited(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC != 0 {
		return errNotOpen
	}
	mode, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return errNotOpen
	}
	if mode&unix.O_ACCMODE == unix.O_WRONLY {
		return errors.New("is not open for reading")
	}
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return errNotOpen
	}
	switch info.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
		return nil
	}
	if term.IsTerminal(fd) {
		return errTerminal
	}
	return errKind
}
