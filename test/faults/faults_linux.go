// Package faults makes the system calls of a child process go wrong: one after
// the other by an error or by the death of the process, and all together by a
// loss of power.
//
// It guarantees that no operation of the named kinds is left out where Every is
// set, whichever library it comes from: it sees what the kernel sees. The
// operations must come from one thread of the child, so that the nth is the same
// each time. What a fault may leave is for the caller to judge.
package faults

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"levee/test/programs"
)

// Every is the environment variable that leaves no operation out: minutes.
const Every = "LEVEE_TEST_EVERY_FAULT"

// What happens to an operation.
var kinds = []struct{ name, inject string }{
	{"fails", "error=EIO:when=%d"},
	{"and all after it fail", "error=ENOSPC:when=%d+"},
	{"kills", "signal=SIGKILL:when=%d"},
}

// Each runs what attempt returns, a command that has not started, with one
// fault after the other, in a subtest for each kind of operation and fault. calls
// has the names of operations and, where Every is not set, of how many of them
// one fails. check judges what a fault left; it is not called when there was
// none, and then the command must succeed.
func Each(t *testing.T, calls map[string]int, attempt func(t *testing.T) (cmd *exec.Cmd, check func(after string))) {
	strace := programs.Need(t, "strace", "apt-get install strace")
	count := counts(t, strace, slices.Collect(maps.Keys(calls)), attempt)
	for call, stride := range calls {
		if os.Getenv(Every) != "" {
			stride = 1
		}
		for _, kind := range kinds {
			t.Run(call+" "+kind.name, func(t *testing.T) {
				t.Parallel()
				injected := 0
				for n := 1; stride == 1 || n <= count[call]; n += stride {
					cmd, check := attempt(t)
					trace := filepath.Join(t.TempDir(), "trace")
					behind(cmd, strace, "-f", "-o", trace, "-e", "trace="+call, "-e", "inject="+call+":"+fmt.Sprintf(kind.inject, n))
					out, err := cmd.CombinedOutput()
					seen, reading := os.ReadFile(trace)
					if reading != nil {
						t.Fatalf("%v: %v\n%s", reading, err, out)
					}
					if !bytes.Contains(seen, []byte("INJECTED")) && !bytes.Contains(seen, []byte("killed by SIGKILL")) {
						if err != nil {
							t.Fatalf("without a fault: %v\n%s", err, out)
						}
						break
					}
					injected++
					check(fmt.Sprintf("%s %s, at %d", call, kind.name, n))
				}
				if injected == 0 {
					t.Errorf("no %s was seen", call)
				}
				t.Logf("%d faults", injected)
			})
		}
	}
}

// counts runs the command without a fault, and returns how many of each call the
// thread with most of them makes.
func counts(t *testing.T, strace string, calls []string, attempt func(t *testing.T) (*exec.Cmd, func(string))) map[string]int {
	t.Helper()
	cmd, _ := attempt(t)
	trace := filepath.Join(t.TempDir(), "trace")
	behind(cmd, strace, "-ff", "-o", trace, "-e", "trace="+strings.Join(calls, ","))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("without a fault: %v\n%s", err, out)
	}
	threads, err := filepath.Glob(trace + ".*")
	if err != nil {
		t.Fatal(err)
	}
	most := make(map[string]int)
	for _, thread := range threads {
		b, err := os.ReadFile(thread)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range calls {
			most[call] = max(most[call], bytes.Count(append([]byte("\n"), b...), []byte("\n"+call+"(")))
		}
	}
	return most
}

// behind makes cmd run behind a tracer.
func behind(cmd *exec.Cmd, strace string, args ...string) {
	cmd.Args = append(append([]string{strace, "-qq"}, args...), append([]string{cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path = strace
}
