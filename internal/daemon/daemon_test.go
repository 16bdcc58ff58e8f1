package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/internal/daemon"
)

// part is what daemon.Main runs in these tests.
type part struct {
	run    func(ctx context.Context) error
	close  func() error
	ran    bool
	closed bool
}

func (p *part) Run(ctx context.Context) error {
	p.ran = true
	return p.run(ctx)
}

func (p *part) Close() error {
	p.closed = true
	return p.close()
}

// The child of TestSignals: a daemon that drains until it is told to go on.
func TestMain(m *testing.M) {
	if os.Getenv("DAEMON_TEST_CHILD") != "" {
		open := func(string, *slog.Logger) (*part, error) {
			return &part{run: func(ctx context.Context) error {
				fmt.Println("running")
				<-ctx.Done()
				fmt.Println("draining")
				if os.Getenv("DAEMON_TEST_CHILD") == "stuck" {
					select {}
				}
				fmt.Println("drained")
				return nil
			}}, nil
		}
		switch os.Getenv("DAEMON_TEST_CHILD") {
		case "reload":
			os.Exit(daemon.Main("levee-test", os.Args[1:], os.Stderr, reloading(open, nil)))
		case "refuse":
			os.Exit(daemon.Main("levee-test", os.Args[1:], os.Stderr, reloading(open, errors.New("the file is wrong"))))
		}
		os.Exit(daemon.Main("levee-test", os.Args[1:], os.Stderr, open))
	}
	os.Exit(m.Run())
}

// reloader is a part that reloads.
type reloader struct {
	*part
	err error
}

func (r reloader) Reload() error { return r.err }

func reloading(open func(string, *slog.Logger) (*part, error), answer error) func(string, *slog.Logger) (reloader, error) {
	return func(file string, log *slog.Logger) (reloader, error) {
		p, err := open(file, log)
		return reloader{p, answer}, err
	}
}

// run calls Main in this process and returns what it wrote.
func run(t *testing.T, args []string, open func(string, *slog.Logger) (*part, error)) (code int, stderr string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stderr")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	code = daemon.Main("levee-test", args, f, open)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return code, string(b)
}

func TestUsage(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		code int
	}{
		"nothing":             {nil, daemon.ExitUsage},
		"no file":             {[]string{"--check"}, daemon.ExitUsage},
		"an empty file":       {[]string{"--config", ""}, daemon.ExitUsage},
		"an argument":         {[]string{"--config", "f", "more"}, daemon.ExitUsage},
		"an unknown flag":     {[]string{"--config", "f", "--password", "x"}, daemon.ExitUsage},
		"a flag without file": {[]string{"--config"}, daemon.ExitUsage},
		"help":                {[]string{"--help"}, daemon.ExitOK},
	} {
		code, stderr := run(t, test.args, func(string, *slog.Logger) (*part, error) {
			t.Errorf("%s: it was opened", name)
			return nil, errors.New("opened")
		})
		if code != test.code || !strings.Contains(stderr, "usage: levee-test --config FILE [--check]\n") || strings.Contains(stderr, "%!") {
			t.Errorf("%s: code %d, %q", name, code, stderr)
		}
	}
}

// The help says what a part is for, and what --check does beyond reading.
func TestHelp(t *testing.T) {
	_, text := run(t, []string{"--help"}, nil)
	for _, said := range []string{"Runs one test of a Levee site", "\n  --config FILE ", "\n  --check ", "as the part's own user", "not beside the running part",
		"makes the state directory", "SIGTERM", "drain", "Exit codes: 0 ", "; 1 failed; 2 wrong usage"} {
		if !strings.Contains(text, said) {
			t.Errorf("it does not say %q: %s", said, text)
		}
	}
}

func TestExitCodes(t *testing.T) {
	broken := errors.New("broken")
	good := func(context.Context) error { return nil }
	for name, test := range map[string]struct {
		args     []string
		open     error
		run      error
		close    error
		code     int
		message  string
		ran, end bool
	}{
		"runs and ends":               {args: []string{"--config", "f"}, code: daemon.ExitOK, message: "stopped", ran: true},
		"does not open":               {args: []string{"--config", "f"}, open: broken, code: daemon.ExitFailure, message: "not started"},
		"does not open, checked":      {args: []string{"--config", "f", "--check"}, open: broken, code: daemon.ExitFailure, message: "not started"},
		"fails":                       {args: []string{"--config", "f"}, run: broken, code: daemon.ExitFailure, message: "broken", ran: true},
		"is checked":                  {args: []string{"--check", "--config", "f"}, code: daemon.ExitOK, message: "configuration is good", end: true},
		"is checked, does not close":  {args: []string{"--check", "--config", "f"}, close: broken, code: daemon.ExitFailure, message: "broken", end: true},
		"does not check but to close": {args: []string{"--config", "f"}, close: broken, code: daemon.ExitOK, message: "stopped", ran: true},
	} {
		p := &part{run: good, close: func() error { return test.close }}
		if test.run != nil {
			p.run = func(context.Context) error { return test.run }
		}
		code, stderr := run(t, test.args, func(file string, _ *slog.Logger) (*part, error) {
			if file != "f" {
				t.Errorf("%s: opened %q", name, file)
			}
			return p, test.open
		})
		if code != test.code || !strings.Contains(stderr, test.message) || p.ran != test.ran || p.closed != test.end {
			t.Errorf("%s: code %d, ran %v, closed %v, %q", name, code, p.ran, p.closed, stderr)
		}
	}
}

func TestMissingConfiguration(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.yaml")
	code, stderr := run(t, []string{"--config", missing}, func(file string, _ *slog.Logger) (*part, error) {
		_, err := os.Open(file)
		return nil, err
	})
	if code != daemon.ExitFailure || !strings.Contains(stderr, missing) {
		t.Errorf("code %d, %q", code, stderr)
	}
}

// A log that nobody reads holds up neither the part nor its end, and what was
// lost is told once somebody does.
func TestALogThatHangs(t *testing.T) {
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	const written = 20_000 // far more than the pipe and the queue hold
	logged, read := make(chan struct{}), make(chan struct{})
	ended := make(chan int, 1)
	go func() {
		ended <- daemon.Main("levee-test", []string{"--config", "f"}, theirs, func(_ string, log *slog.Logger) (*part, error) {
			return &part{run: func(context.Context) error {
				for i := range written {
					log.Info("a line", slog.Int("number", i), slog.String("text", strings.Repeat("x", 100)))
				}
				close(logged)
				<-read
				return nil
			}}, nil
		})
		theirs.Close()
	}()
	select {
	case <-logged:
	case <-time.After(time.Minute):
		t.Fatal("the part waits for its log")
	}
	var lines, lost int
	scanner := bufio.NewScanner(ours)
	for scanner.Scan() {
		var line struct {
			Msg  string
			Lost int
		}
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			t.Fatalf("%q: %v", scanner.Text(), err)
		}
		if line.Msg == "a line" {
			lines++
		}
		if line.Lost > 0 && lost == 0 {
			close(read)
		}
		lost += line.Lost
	}
	if lines+lost != written || lost == 0 {
		t.Errorf("%d lines and %d lost of %d", lines, lost, written)
	}
	if code := <-ended; code != daemon.ExitOK {
		t.Errorf("code %d", code)
	}
	// And one that is never read.
	stuck, unread, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	go func() {
		ended <- daemon.Main("levee-test", []string{"--config", "f"}, unread, func(_ string, log *slog.Logger) (*part, error) {
			return &part{run: func(context.Context) error {
				for i := range written {
					log.Info("a line", slog.Int("number", i), slog.String("text", strings.Repeat("x", 100)))
				}
				return nil
			}}, nil
		})
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the end waits for the log")
	}
}

// SIGHUP reloads a part that can, and ends none.
func TestHangUp(t *testing.T) {
	for mode, want := range map[string]string{"drain": "nothing reloaded", "reload": "reloaded", "refuse": "the file is wrong"} {
		t.Run(mode, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "--config", "f")
			cmd.Env = append(os.Environ(), "DAEMON_TEST_CHILD="+mode)
			log, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			bufio.NewScanner(out).Scan() // it is running
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(log)
			if !lines.Scan() || !strings.Contains(lines.Text(), want) {
				t.Errorf("logged %q", lines.Text())
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			for lines.Scan() {
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// The first signal ends the context and no more; a second one kills.
func TestSignals(t *testing.T) {
	for name, test := range map[string]struct {
		mode   string
		first  os.Signal
		second os.Signal
	}{
		"SIGTERM":         {"drain", syscall.SIGTERM, nil},
		"SIGINT":          {"drain", os.Interrupt, nil},
		"a second signal": {"stuck", syscall.SIGTERM, syscall.SIGTERM},
		"another second":  {"stuck", syscall.SIGTERM, os.Interrupt},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "--config", "f")
			cmd.Env = append(os.Environ(), "DAEMON_TEST_CHILD="+test.mode)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			lines := bufio.NewScanner(out)
			expect := func(want string) {
				t.Helper()
				if !lines.Scan() || lines.Text() != want {
					t.Fatalf("it said %q, not %q", lines.Text(), want)
				}
			}
			expect("running")
			if err := cmd.Process.Signal(test.first); err != nil {
				t.Fatal(err)
			}
			expect("draining")
			if test.second == nil {
				expect("drained")
				if err := cmd.Wait(); err != nil {
					t.Errorf("it ended with %v", err)
				}
				return
			}
			killed := make(chan error, 1)
			go func() { killed <- cmd.Wait() }()
			// Taking the handler down follows the context's end; a signal in
			// between would be taken for the first. So it is sent until it kills.
			for {
				select {
				case <-killed:
					status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
					if !ok || !status.Signaled() || status.Signal() != test.second {
						t.Errorf("it ended with %v", cmd.ProcessState)
					}
					return
				case <-time.After(time.Millisecond):
					_ = cmd.Process.Signal(test.second) // it may be gone
				}
			}
		})
	}
}

// What is not a terminal gets JSON lines.
func TestLogOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log := daemon.NewLog(f, slog.LevelInfo)
	log.Debug("not shown")
	log.Info("shown", slog.String("topic", "a\nb\x1b[2J"))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var line struct{ Level, Msg, Topic string }
	if err := json.Unmarshal(b, &line); err != nil || line.Level != "INFO" || line.Msg != "shown" || line.Topic != "a\nb\x1b[2J" {
		t.Errorf("%q, %v", b, err)
	}
	if bytes.Count(b, []byte("\n")) != 1 || bytes.ContainsRune(b, 0x1b) {
		t.Errorf("%q", b)
	}
}

// A person's terminal gets one line a message, and nothing from the network
// acts on it.
func TestTextLogIsInert(t *testing.T) {
	var b bytes.Buffer
	log := daemon.NewQuietLog(&b)
	log.Info("not shown")
	for _, value := range []string{"\x1b[2J", `\x1b[2J`, "a\nb", "a\rb", "\u009b2J", "\u202ex"} {
		b.Reset()
		log.Warn("refused", slog.String("topic", value), slog.Any("error", errors.New(value)))
		for _, r := range strings.TrimSuffix(b.String(), "\n") {
			if r < ' ' || r >= 0x80 && r < 0xa0 || r == 0x202e {
				t.Errorf("%q is shown as %q", value, b.String())
				break
			}
		}
	}
}
