package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

var (
	namedTest = regexp.MustCompile("`([a-z0-9/]+)\\.(Test[A-Za-z0-9_]+)`")
	// A package between bars or after a colon stands where a test belongs.
	barePackage = regexp.MustCompile("[|:,] `(?:pki|envelope|policies|services|internal|test)[a-z0-9/]*`(?: [|,;]|;|,)")
	realTest    = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9_]+)\(`)
)

// These pages claim that tests prove what they say. A test that was renamed or
// deleted proves nothing.
func TestSecurityNamesRealTests(t *testing.T) {
	for _, page := range []string{"../../SECURITY.md", "../../docs/controls.md", "../../docs/broker.md"} {
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

// Each known defect of the two libraries has a test that bears its number:
// TestP6SlowReader is of mochi's P6, TestPaho3Refused of paho's third pitfall.
// docs/broker.md says what they are.
func TestEveryKnownDefectHasATest(t *testing.T) {
	for _, library := range []struct {
		pkg, prefix string
		defects     int
	}{{"services/broker", "P", 29}, {"internal/session", "Paho", 14}} {
		numbers := regexp.MustCompile("^Test((?:" + library.prefix + "[0-9]+)+)")
		each := regexp.MustCompile(library.prefix + "([0-9]+)")
		tested := make(map[string]bool)
		for test := range testsOf(t, library.pkg) {
			if m := numbers.FindStringSubmatch(test); m != nil {
				for _, n := range each.FindAllStringSubmatch(m[1], -1) {
					tested[n[1]] = true
				}
			}
		}
		for n := 1; n <= library.defects; n++ {
			if !tested[strconv.Itoa(n)] {
				t.Errorf("no test of %s bears the number %s%d", library.pkg, library.prefix, n)
			}
		}
	}
}
