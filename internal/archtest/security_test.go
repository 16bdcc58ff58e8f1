package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var (
	namedTest = regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9_]+)`")
	// A package between bars or after a colon stands where a test belongs.
	barePackage = regexp.MustCompile("[|:,] `(?:pki|envelope|policies|services|internal|test)[a-z0-9/]*`(?: [|,;]|;|,)")
	realTest    = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(`)
)

// SECURITY.md claims that tests prove its controls. A test that was renamed or
// deleted proves nothing.
func TestSecurityNamesRealTests(t *testing.T) {
	for _, page := range []string{"../../SECURITY.md", "../../docs/controls.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		found := namedTest.FindAllStringSubmatch(string(text), -1)
		if bare := barePackage.FindString(string(text)); bare != "" {
			t.Errorf("%s names the package %s as if it were a test", page, bare)
		}
		if len(found) == 0 {
			t.Errorf("%s names no test", page)
		}
		for _, m := range found {
			if !testsOf(t, m[1])[m[2]] {
				t.Errorf("%s names %s.%s, which does not exist", page, m[1], m[2])
			}
		}
	}
}

func testsOf(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string]bool)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range realTest.FindAllStringSubmatch(string(text), -1) {
			tests[m[1]] = true
		}
	}
	return tests
}
