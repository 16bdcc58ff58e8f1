//go:build !unix

package site

import "io/fs"

// ownedByUs says yes: whose a file is, its access list says.
func ownedByUs(fs.FileInfo) bool { return true }
