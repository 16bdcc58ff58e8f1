// Command levee-monitor runs one monitor from its configuration file.
package main

import (
	"os"

	"levee/internal/daemon"
	"levee/services/monitor"
)

func main() { os.Exit(daemon.Main("levee-monitor", os.Args[1:], os.Stderr, monitor.Open)) }
