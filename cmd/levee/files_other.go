//go:build !unix

package main

import "os"

// tryLock takes nothing: where files cannot be locked, people who watch twice
// at once say so with --session.
func tryLock(string) (unlock func(), taken bool, err error) { return func() {}, true, nil }

// ownDir makes a directory for authorities. Whose it is, its access list says.
func ownDir(dir string) error { return os.MkdirAll(dir, 0o700) }
