//go:build !unix

package seal

import "golang.org/x/term"

// checkInherited cannot tell what was handed over.
func checkInherited(fd int) error {
	if term.IsTerminal(fd) {
		return errTerminal
	}
	return nil
}
