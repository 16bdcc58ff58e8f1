// Package daemon is the shell of every part's main: flags, log, signals, exit
// code.
//
// It guarantees that a part stops by its context and not by the process: on
// SIGINT or SIGTERM the context ends, and the part drains; a second signal
// kills. A log that nobody reads stops no part. It does not know any part.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"
)

// Exit codes of every command.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2
)

// usage is what every part says of itself; the arguments are its name, and that
// without "levee-".
const usage = `usage: %[1]s --config FILE [--check]

Runs one %[2]s of a Levee site until it is told to stop. It logs on standard
error: JSON lines, or text on a terminal.

  --config FILE  its configuration (YAML), which levee pki apply has made
  --check        open everything that the configuration names, then exit. Run it
                 as the part's own user, and not beside the running part. If
                 this is the first start, it makes the state directory.
  --help         show this text

SIGTERM and SIGINT drain: what waits is sent or kept before it exits. A second
one kills. SIGHUP reloads what the part can take up while it runs.

Exit codes: 0 stopped, or the check is good; 1 failed; 2 wrong usage.
`

// Part runs until its context ends, and returns when it has stopped whole.
type Part interface {
	Run(ctx context.Context) error
}

// Reloader is a part that can take up what changed of its files while it runs.
type Reloader interface {
	// Reload returns why what was there before stays in force.
	Reload() error
}

// Main runs the part called name and returns the exit code. open builds the
// part from its configuration file; it may open files and listeners but starts
// nothing.
func Main[P Part](name string, args []string, stderr *os.File, open func(configFile string, log *slog.Logger) (P, error)) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	config := flags.String("config", "", "")
	check := flags.Bool("check", false, "")
	// The library would spell the options with one dash.
	flags.Usage = func() { fmt.Fprintf(stderr, usage, name, strings.TrimPrefix(name, "levee-")) }
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return ExitOK
		}
		return ExitUsage
	}
	if *config == "" || flags.NArg() != 0 {
		flags.Usage()
		return ExitUsage
	}
	written := newLines(stderr, NewLog(stderr, slog.LevelInfo))
	go written.run()
	defer written.finish()
	log := newLog(stderr, written, slog.LevelInfo)
	part, err := open(*config, log)
	if err != nil {
		log.Error("not started", slog.Any("error", err))
		return ExitFailure
	}
	if *check {
		if c, ok := any(part).(io.Closer); ok {
			if err := c.Close(); err != nil {
				log.Error("closing", slog.Any("error", err))
				return ExitFailure
			}
		}
		log.Info("configuration is good", slog.String("file", *config))
		return ExitOK
	}
	ctx, stop := Signals(context.Background())
	defer stop()
	defer reloads(part, log)()
	if err := part.Run(ctx); err != nil {
		log.Error("stopped", slog.Any("error", err))
		return ExitFailure
	}
	log.Info("stopped")
	return ExitOK
}

// Signals returns a context that ends at the first SIGINT or SIGTERM. From then
// on the signals have their usual effect: a second one kills.
func Signals(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// reloads has part reload at each SIGHUP, until the function that it returns is
// called. One that cannot is not ended by the signal, as it would be by itself.
func reloads(part Part, log *slog.Logger) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-hangups:
			}
			r, ok := part.(Reloader)
			if !ok {
				log.Warn("nothing reloaded: this part reads its files when it starts; certificates need no signal")
			} else if err := r.Reload(); err != nil {
				log.Error("not reloaded: what was there before stays in force", slog.Any("error", err))
			} else {
				log.Info("reloaded")
			}
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(done)
		<-ended
	}
}

// NewLog returns a logger for people on a terminal, and of JSON lines for
// everything else.
func NewLog(w *os.File, level slog.Level) *slog.Logger { return newLog(w, w, level) }

// newLog writes to w what is meant for f.
func newLog(f *os.File, w io.Writer, level slog.Level) *slog.Logger {
	if term.IsTerminal(int(f.Fd())) {
		return newText(w, level)
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

// NewQuietLog returns a logger for a person's command, whose own output is what
// they asked for: only warnings and errors show.
func NewQuietLog(w io.Writer) *slog.Logger {
	return newText(w, slog.LevelWarn)
}

// newText never colours: with colours on, the library puts back the terminal
// escapes that it found in a value, and values come from the network.
func newText(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly, NoColor: true}))
}
