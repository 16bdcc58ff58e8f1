//go:build !linux

package main

import "github.com/spf13/cobra"

// platformCommands: `up` and the daemons run on Linux.
func platformCommands() []*cobra.Command { return nil }
