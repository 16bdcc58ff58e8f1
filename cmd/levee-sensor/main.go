// Command levee-sensor runs one sensor from its configuration file.
package main

import (
	"os"

	"levee/internal/daemon"
	"levee/services/sensor"
)

func main() { os.Exit(daemon.Main("levee-sensor", os.Args[1:], os.Stderr, sensor.Open)) }
