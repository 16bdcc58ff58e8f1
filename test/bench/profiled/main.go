// Command profiled is levee-broker with a CPU profile, for test/bench. It
// guarantees nothing and is never shipped.
package main

import (
	"log/slog"
	"os"
	"runtime/pprof"

	"levee/internal/daemon"
	"levee/services/broker"
)

func main() {
	file, err := os.Create(os.Getenv("LEVEE_BENCH_PROFILE"))
	if err == nil {
		err = pprof.StartCPUProfile(file)
	}
	if err != nil {
		slog.Error("profiling", slog.Any("error", err))
		os.Exit(1)
	}
	code := daemon.Main("levee-broker", os.Args[1:], os.Stderr, broker.Open)
	pprof.StopCPUProfile()
	if err := file.Close(); err != nil {
		slog.Error("profiling", slog.Any("error", err))
	}
	os.Exit(code)
}
