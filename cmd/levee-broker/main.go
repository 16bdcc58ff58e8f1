// Command levee-broker runs one broker from its configuration file.
package main

import (
	"os"

	"levee/internal/daemon"
	"levee/services/broker"
)

func main() { os.Exit(daemon.Main("levee-broker", os.Args[1:], os.Stderr, broker.Open)) }
