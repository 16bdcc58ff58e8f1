package e2e

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var tryControls = flag.Bool("controls", false, "switch off each control of docs/controls.md and see its test fail")

// root is the repository as this package's tests see it.
const root = "../.."

// control is a row of docs/controls.md.
type control struct {
	name  string
	edits []edit
	test  string // with its subtest, as go test -v prints it
	green bool   // another control holds: the test must not fail
}

// edit replaces one line, or a part of it, that stands in a file once.
type edit struct{ file, old, new string }

var (
	editForm = regexp.MustCompile("`([a-z0-9_/]+\\.go)`: `([^`]+)` → `([^`]*)`")
	testForm = regexp.MustCompile("`test/e2e\\.(Test[A-Za-z0-9]+)`([^<*]*)")
)

func readControls(t *testing.T) []control {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "controls.md"))
	if err != nil {
		t.Fatal(err)
	}
	var controls []control
	for line := range strings.Lines(string(page)) {
		const bar = "\x00" // a bar within a cell is escaped
		cells := strings.Split(strings.ReplaceAll(line, `\|`, bar), "|")
		if len(cells) != 6 || !editForm.MatchString(cells[2]) {
			continue
		}
		c := control{name: strings.TrimSpace(cells[1]), green: strings.Contains(cells[3], "**stays green**")}
		for _, m := range editForm.FindAllStringSubmatch(strings.ReplaceAll(cells[2], bar, "|"), -1) {
			c.edits = append(c.edits, edit{file: m[1], old: m[2], new: m[3]})
		}
		m := testForm.FindStringSubmatch(strings.ReplaceAll(cells[3], bar, "|"))
		if m == nil {
			t.Fatalf("the row of %q names no test", c.name)
		}
		c.test = m[1]
		for name := range strings.SplitSeq(strings.TrimSpace(m[2]), " / ") {
			if name != "" {
				c.test += "/" + strings.ReplaceAll(name, " ", "_")
			}
		}
		controls = append(controls, c)
	}
	return controls
}

// overlay writes the changed files and what -overlay wants to know of them.
func (c control) overlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for _, e := range c.edits {
		file, err := filepath.Abs(filepath.Join(root, e.file))
		if err != nil {
			t.Fatal(err)
		}
		from := file
		if changed, ok := replace[file]; ok {
			from = changed
		}
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), e.old); n != 1 {
			t.Fatalf("%s holds %q %d times: correct docs/controls.md", e.file, e.old, n)
		}
		to := filepath.Join(dir, strings.ReplaceAll(e.file, "/", "_"))
		if err := os.WriteFile(to, []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[file] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// docs/controls.md says of each control which line it hangs on. With -controls
// each is switched off, and its test must then fail.
func TestControls(t *testing.T) {
	controls := readControls(t)
	if len(controls) < 15 {
		t.Errorf("docs/controls.md has %d controls in a form that this test can read", len(controls))
	}
	passes := map[string]bool{} // tests that were seen to pass with all controls in place
	for _, c := range controls {
		t.Run(c.name, func(t *testing.T) {
			overlay := c.overlay(t)
			if !*tryControls {
				return
			}
			if !passes[c.test] {
				if failed, out := tryTest(t, c.test, ""); failed {
					t.Fatalf("with all controls in place:\n%s", out)
				}
				passes[c.test] = true
			}
			failed, out := tryTest(t, c.test, "-overlay="+overlay)
			if failed == c.green {
				t.Errorf("failed: %v, want %v", failed, !c.green)
			}
			t.Logf("%s\n%s", c.test, out)
		})
	}
}

// tryTest runs one test of this package against binaries built with a flag, and
// reports whether it failed. That it did not come to run is no such failure.
func tryTest(t *testing.T, test, flag string) (failed bool, output string) {
	t.Helper()
	var pattern []string
	for name := range strings.SplitSeq(test, "/") {
		pattern = append(pattern, "^"+regexp.QuoteMeta(name)+"$")
	}
	cmd := exec.Command("go", "test", "-count=1", "-v", "-run", strings.Join(pattern, "/"), "./test/e2e")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOFLAGS="+os.Getenv("GOFLAGS")+" "+flag)
	out, err := cmd.CombinedOutput()
	name, _, _ := strings.Cut(test, "/")
	failed = strings.Contains(string(out), "--- FAIL: "+name)
	passed := strings.Contains(string(out), "--- PASS: "+test+" ")
	if !failed && !passed || failed != (err != nil) {
		t.Fatalf("%s did not run: %v\n%s", test, err, out)
	}
	return failed, string(out)
}
