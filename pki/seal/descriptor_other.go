//go:build !unix

package seal

import "io/fs"

// ofNoKind cannot tell.
func ofNoKind(fs.FileInfo) bool { return false }
