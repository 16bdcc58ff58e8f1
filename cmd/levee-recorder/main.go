// Command levee-recorder runs one recorder from its configuration file.
package main

import (
	"log/slog"
	"os"

	"levee/internal/daemon"
	"levee/internal/translog"
	"levee/services/recorder"
)

func main() {
	os.Exit(daemon.Main("levee-recorder", os.Args[1:], os.Stderr, func(file string, log *slog.Logger) (*recorder.Part, error) {
		translog.RouteLibraryLogs(log)
		return recorder.Open(file, log)
	}))
}
