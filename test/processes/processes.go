// Package processes builds levee's binaries for tests and runs them, each as a
// process of its own.
//
// It guarantees that a process which a test started does not outlive it, that
// it must end well when it is asked to, and that its output is shown when the
// test fails.
package processes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Binaries is the environment variable that says where the binaries are, to a
// process that need not build them again.
const Binaries = "LEVEE_TEST_BINARIES"

// Run builds the binaries into a directory, tells use where that is, runs the
// tests and returns their exit code. A name without a slash is one below cmd.
func Run(m *testing.M, use func(dir string), binaries ...string) int {
	if dir := os.Getenv(Binaries); dir != "" {
		use(dir)
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "levee-test-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	for _, name := range binaries {
		if !strings.Contains(name, "/") {
			name = "cmd/" + name
		}
		args = append(args, "levee/"+name)
	}
	build := exec.Command("go", args...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the binaries:", err)
		return 1
	}
	use(dir)
	return m.Run()
}

// Process is a running binary.
type Process struct {
	Name string // its command line

	cmd  *exec.Cmd
	done chan error

	mu  sync.Mutex
	out bytes.Buffer // standard output and error
}

// Start runs a command until the test ends.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Name: strings.Join(cmd.Args, " "), cmd: cmd, done: make(chan error, 1)}
	cmd.Stdout, cmd.Stderr = p, p
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- cmd.Wait() }()
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			out := p.Output()
			t.Logf("%s:\n%s", p.Name, out[max(0, len(out)-6000):])
		}
	})
	return p
}

// Write takes what the process writes.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// PID returns the process's identifier.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output returns what the process has written.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Ended reports whether the process has ended, and how.
func (p *Process) Ended() (err error, ended bool) {
	select {
	case err := <-p.done:
		p.done <- err
		return err, true
	default:
		return nil, false
	}
}

// Stop asks the process to end, and requires that it ends well.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	if p.cmd.Process.Signal(syscall.SIGTERM) != nil {
		return // it has ended
	}
	select {
	case err := <-p.done:
		p.done <- err
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() != 0 {
			t.Errorf("%s ended with %v", p.Name, err)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("%s did not end", p.Name)
		p.cmd.Process.Kill()
	}
}

// Kill ends the process as a crash would.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.done <- <-p.done
}

// Edit replaces old, which must be there, in a file such as a part's
// configuration.
func Edit(t *testing.T, path, old, new string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%s does not hold %q", path, old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), old, new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}
