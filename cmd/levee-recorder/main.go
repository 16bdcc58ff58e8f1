// Command levee-recorder runs one recorder from its configuration file.
package main

import (
	"os"

	"levee/internal/daemon"
	"levee/services/recorder"
)

func main() { os.Exit(daemon.Main("levee-recorder", os.Args[1:], os.Stderr, recorder.Open)) }
