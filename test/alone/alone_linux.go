// Package alone runs a test in a network namespace of its own.
//
// Sensors count what a whole machine receives, in a table named after them, so
// a test that floods would raise alerts in every other one. The package guarantees that a test which
// gets a namespace neither disturbs another nor is disturbed; where none can be
// had, which takes root, the test runs where it is and no other test of its
// package runs beside it.
package alone

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// name is the environment variable that tells a process which test it is for.
const name = "LEVEE_TEST_ALONE"

// Run reports whether the test is to go on here. If not, it has been run, as a
// process of its own, in a namespace of its own, to which env was added. It
// makes the test parallel where that disturbs nobody.
func Run(t *testing.T, env ...string) (here bool) {
	t.Helper()
	if os.Getenv(name) == t.Name() {
		if err := loopbackUp(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if err := within(exec.Command("true")).Run(); err != nil {
		t.Logf("no network namespace to be had: running by itself instead: %v", err)
		return true
	}
	t.Parallel()
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v"}
	for _, arg := range os.Args[1:] {
		if !strings.HasPrefix(arg, "-test.") || strings.HasPrefix(arg, "-test.timeout") || strings.HasPrefix(arg, "-test.short") {
			args = append(args, arg)
		}
	}
	cmd := within(exec.CommandContext(t.Context(), os.Args[0], args...))
	cmd.Env = append(append(os.Environ(), env...), name+"="+t.Name())
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()):
		t.Skip(string(out))
	case !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Errorf("it did not run:\n%s", out)
	}
	return false
}

func within(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	return cmd
}

// loopbackUp brings up the one interface that a new namespace has.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bringing up the loopback interface: %w", err)
	}
	return nil
}
