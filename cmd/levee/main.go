// Command levee is the tool of deployers, operators and auditors.
package main

import (
	"context"
	"os"

	"levee/internal/daemon"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := daemon.Signals(context.Background())
	defer stop()
	return execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
}
