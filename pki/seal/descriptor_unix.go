//go:build unix

package seal

import (
	"io/fs"
	"syscall"
)

// ofNoKind reports whether a descriptor is of none of the kinds that a shell
// hands over: the Go runtime's own descriptors are like that, and package os
// takes them for regular files.
func ofNoKind(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return !ok || stat.Mode&syscall.S_IFMT == 0
}
