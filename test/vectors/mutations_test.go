package vectors_test

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var tryMutations = flag.Bool("mutations", false, "make each mistake of mutations.md in a copy of the module and see a test go red")

// module is the module's root as this package's tests see it.
const module = "../.."

// mutation is a row of mutations.md.
type mutation struct {
	mistake        string
	file, old, new string
	pkg, test      string
}

var mutationRow = regexp.MustCompile("^\\| (.+?) \\| `([a-z0-9_/]+\\.go)`: `(.+?)` → `(.*?)` \\| `([a-z0-9/]+)\\.(Test[A-Za-z0-9]+)` \\|$")

func readMutations(t *testing.T) []mutation {
	t.Helper()
	page, err := os.ReadFile("mutations.md")
	if err != nil {
		t.Fatal(err)
	}
	var all []mutation
	for line := range strings.Lines(string(page)) {
		const bar = "\x00" // a bar within a cell is escaped
		m := mutationRow.FindStringSubmatch(strings.TrimSpace(strings.ReplaceAll(line, `\|`, bar)))
		if m == nil {
			if strings.Contains(line, "→") {
				t.Errorf("mutations.md has a row that this test cannot read: %s", line)
			}
			continue
		}
		for i := range m {
			m[i] = strings.ReplaceAll(m[i], bar, "|")
		}
		all = append(all, mutation{m[1], m[2], m[3], m[4], m[5], m[6]})
	}
	return all
}

// mutations.md names mistakes of one line. Each line stands in its file, once,
// so that the page cannot fall behind the code. With -mutations each mistake is
// made, and its test must then fail.
func TestMutations(t *testing.T) {
	all := readMutations(t)
	if len(all) < 25 {
		t.Errorf("mutations.md has %d mistakes in a form that this test can read", len(all))
	}
	root := module
	if *tryMutations {
		root = copyModule(t)
	}
	passes := make(map[string]bool) // tests that were seen to pass without a mistake
	for _, m := range all {
		t.Run(m.mistake, func(t *testing.T) {
			path := filepath.Join(root, m.file)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), m.old); n != 1 {
				t.Fatalf("%s holds %q %d times: correct mutations.md", m.file, m.old, n)
			}
			if !*tryMutations {
				return
			}
			if name := m.pkg + "." + m.test; !passes[name] {
				if failed, out := m.try(t, root); failed {
					t.Fatalf("without a mistake:\n%s", out)
				}
				passes[name] = true
			}
			if err := os.WriteFile(path, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}()
			if failed, out := m.try(t, root); !failed {
				t.Errorf("%s stays green:\n%s", m.test, out)
			}
		})
	}
}

// try runs the test, and reports whether it failed. That it did not come to run
// is no such failure.
func (m mutation) try(t *testing.T, root string) (failed bool, output string) {
	t.Helper()
	cmd := exec.Command("go", "test", "-count=1", "-v", "-vet=off", "-run", "^"+m.test+"$", "./"+m.pkg)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	failed = strings.Contains(string(out), "--- FAIL: "+m.test+" ")
	if passed := strings.Contains(string(out), "--- PASS: "+m.test+" "); failed == passed || failed != (err != nil) {
		t.Fatalf("%s did not run: %v\n%.4000s", m.test, err, out)
	}
	return failed, string(out)
}

// copyModule returns a copy of the module, without what Go does not need.
func copyModule(t *testing.T) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(filepath.Clean(path), filepath.Clean(module)))
		switch {
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}
