package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"

	"levee/internal/daemon"
)

// exitVerification says that something was checked and found wrong, as opposed
// to a check that could not be made.
const exitVerification = 3

// defaultDir is the state directory of `levee up`.
const defaultDir = "levee-data"

// failure is an error with its own exit code.
type failure struct {
	code int
	error
}

func (f failure) Unwrap() error { return f.error }

// usage marks an error of the command line itself.
func usage(err error) error { return failure{daemon.ExitUsage, err} }

// noArgs refuses arguments, as a mistake of usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usage(err)
	}
	return nil
}

// incomplete shows what a command could be completed to.
func incomplete(cmd *cobra.Command, what string) error {
	fmt.Fprint(cmd.ErrOrStderr(), cmd.UsageString())
	return usage(errors.New(what))
}

// execute runs one command line and returns its exit code: 0 done, 1 failed,
// 2 wrong usage, 3 verified and found wrong.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:   "levee",
		Short: "watch bank servers for denial-of-service attacks and answer them",
		Long: `levee watches bank servers for denial-of-service attacks and answers them, over
a messaging stack that stays trustworthy when parts of it are captured.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 verified and found wrong.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return incomplete(cmd, "no command given")
		},
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.AddCommand(watchCommand(), drillCommand(), auditCommand(), pkiCommand(), siteCommand(), versionCommand())
	root.AddCommand(platformCommands()...)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return daemon.ExitOK
	}
	fmt.Fprintf(stderr, "levee: %v\n", err)
	var f failure
	if errors.As(err, &f) {
		return f.code
	}
	return daemon.ExitFailure
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "show what this binary was built from",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return errors.New("this binary holds no build information")
			}
			revision := "unknown revision"
			for _, s := range info.Settings {
				if s.Key == "vcs.revision" {
					revision = s.Value
				}
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "levee %s %s %s\n", info.Main.Version, revision, info.GoVersion)
			return err
		},
	}
}
