// Command levee-controller runs one controller from its configuration file.
package main

import (
	"os"

	"levee/internal/daemon"
	"levee/services/controller/embedded"
)

func main() { os.Exit(daemon.Main("levee-controller", os.Args[1:], os.Stderr, embedded.Open)) }
