// Package programs finds the programs that tests run beside levee's own.
//
// It guarantees that a test which lacks one is skipped with a line that says
// what to install, and that it fails instead where the environment says that
// nothing may be missing, as .ci/run does.
package programs

import (
	"os"
	"os/exec"
	"testing"
)

// Required is the environment variable that turns skips into failures.
const Required = "LEVEE_TESTS_NEED_ALL"

// Need returns the path of a program, or skips the test. source says where it
// comes from, such as "apt-get install mosquitto-clients".
func Need(t testing.TB, name, source string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, name, source)
	}
	return path
}

// Missing skips the test because what is not there.
func Missing(t testing.TB, what, source string) {
	t.Helper()
	if os.Getenv(Required) != "" {
		t.Fatalf("%s is missing, and %s is set: %s", what, Required, source)
	}
	t.Skipf("SKIPPED: %s is missing: %s", what, source)
}
