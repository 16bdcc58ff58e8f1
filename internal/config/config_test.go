package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"levee/internal/config"
)

// Common is embedded, as site.Settings is.
type Common struct {
	Bundle config.Path `yaml:"bundle"`
}

type settings struct {
	Common   `yaml:",inline"`
	Name     string        `yaml:"name"`
	Count    int           `yaml:"count"`
	On       bool          `yaml:"on"`
	Interval time.Duration `yaml:"interval"`
	Pools    []pool        `yaml:"pools"`
	Files    []config.Path `yaml:"files"`
}

type pool struct {
	Server string      `yaml:"server"`
	Key    config.Path `yaml:"key"`
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "levee.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	path := write(t, "bundle: here\nname: n\ncount: 3\non: true\ninterval: 5s\npools:\n  - server: s\n    key: ../k\n  - server: t\nfiles: [a/b, /c]\n# a comment\n")
	dir := filepath.Dir(path)
	var got settings
	if err := config.Load(path, &got); err != nil {
		t.Fatal(err)
	}
	want := settings{Name: "n", Count: 3, On: true, Interval: 5 * time.Second,
		Pools: []pool{{"s", config.Path(filepath.Join(filepath.Dir(dir), "k"))}, {"t", ""}},
		Files: []config.Path{config.Path(filepath.Join(dir, "a/b")), "/c"}}
	want.Bundle = config.Path(filepath.Join(dir, "here"))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

// A path is relative to its file, wherever the process stands and however the
// file was named.
func TestRelativePaths(t *testing.T) {
	path := write(t, "bundle: here\n")
	t.Chdir(filepath.Dir(filepath.Dir(path)))
	var got settings
	if err := config.Load(filepath.Join(filepath.Base(filepath.Dir(path)), "levee.yaml"), &got); err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(filepath.Dir(path), "here"); string(got.Bundle) != want {
		t.Errorf("%s instead of %s", got.Bundle, want)
	}
}

func TestNoSettingsAtAll(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n"} {
		var got settings
		if err := config.Load(write(t, text), &got); err != nil || !reflect.DeepEqual(got, settings{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, text := range map[string]string{
		"an unknown key":                "nmae: n\n",
		"an unknown key inside":         "pools:\n  - server: s\n    sever: t\n",
		"a key in capitals":             "Name: n\n",
		"a key twice":                   "name: a\nname: b\n",
		"a key twice inside":            "pools:\n  - server: s\n    server: t\n",
		"an inlined key twice":          "bundle: a\nbundle: b\n",
		"two documents":                 "name: a\n---\nname: b\n",
		"a second document, empty":      "name: a\n---\n",
		"two documents, the first none": "---\n---\nname: b\n",
		"something after the end":       "name: a\n...\nname: b\n",
		"a list":                        "- a\n",
		"a text":                        "name\n",
		"a wrong type":                  "count: many\n",
		"a duration without a unit":     "interval: 5 seconds\n",
		"an empty value":                "name:\n",
		"a null":                        "name: ~\n",
		"an anchor":                     "name: &a n\n",
		"an alias":                      "name: &a n\nbundle: *a\n",
		"a merge":                       "pools:\n  - {<<: {server: s}}\n",
		"a tag":                         "name: !!str 5\n",
		"a tag of its own":              "name: !x n\n",
		"no YAML":                       "name: [\n",
		"a tab":                         "name:\n\t- a\n",
		"not UTF-8":                     "name: \xff\n",
		"too large":                     "# " + strings.Repeat("x", 256<<10) + "\n",
	} {
		got := settings{}
		if err := config.Load(write(t, text), &got); err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
	}
	if err := config.Load(filepath.Join(t.TempDir(), "missing.yaml"), new(settings)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if err := config.Load(t.TempDir(), new(settings)); err == nil {
		t.Error("a directory was read")
	}
}

func TestErrorsNameFileAndLine(t *testing.T) {
	path := write(t, "name: a\nnmae: b\n")
	err := config.Load(path, new(settings))
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("%v", err)
	}
}

func TestEncodeIsWhatLoadReads(t *testing.T) {
	want := settings{Name: "n: #x", Interval: time.Minute, Pools: []pool{{"s", "/k"}}, Files: []config.Path{"/a"}}
	want.Bundle = "/b"
	b, err := config.Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	var got settings
	if err := config.Load(write(t, string(b)), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v from\n%s", got, err, b)
	}
}

// What is accepted comes back from Encode, and nothing panics.
func FuzzLoad(f *testing.F) {
	for _, seed := range []string{"name: n\n", "bundle: /a\npools: [{server: s, key: /k}]\n", "a: &a [*a]\n", "---\n---\n", "? a\n: b\n"} {
		f.Add(seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "f.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var first, second settings
		if config.Load(path, &first) != nil {
			return
		}
		b, err := config.Encode(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := config.Load(path, &second); err != nil {
			t.Fatalf("%q became %q: %v", text, b, err)
		}
	})
}
