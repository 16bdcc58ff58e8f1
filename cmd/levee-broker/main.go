// Command levee-broker runs one broker from its configuration file.
package main

import (
	"os"
	"runtime"

	"levee/internal/daemon"
	"levee/services/broker"
)

func main() {
	idle := make([]byte, collectAbove)
	code := daemon.Main("levee-broker", os.Args[1:], os.Stderr, broker.Open)
	runtime.KeepAlive(idle)
	os.Exit(code)
}

// collectAbove is memory that is never touched, and so never taken from the
// machine, but counts as live to the garbage collector. Without it a broker of
// few connections would collect several times a second; to one of many it makes
// no difference (docs/figures.md). GOGC and GOMEMLIMIT keep their meaning.
const collectAbove = 8 << 20
