// Command levee-console serves one console's page from its configuration file.
package main

import (
	"os"

	"levee/internal/daemon"
	"levee/services/console"
)

func main() { os.Exit(daemon.Main("levee-console", os.Args[1:], os.Stderr, console.Open)) }
