package records

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestDeletions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deleted")
	if all, err := ReadDeletions(path); err != nil || len(all) != 0 {
		t.Errorf("of no file: %v, %v", all, err)
	}
	want := []Deletion{{"20241023T152847.822Z.seg", 5, 7}, {"20241023T162847.822Z.seg", 6, 7}}
	for _, d := range append(want, want[0]) { // the last after a crash
		if err := Declare(path, d); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := ReadDeletions(path); err != nil || !slices.Equal(all, want) {
		t.Errorf("%v, %v", all, err)
	}
	const good = `{"file":"x","ended":1,"at":2}` + "\n"
	for _, text := range []string{"x", "\n", good + "\n", `{"file":"","ended":1,"at":2}`, `{"file":"x","ended":3,"at":2}`, `{"file":"x","ended":-1,"at":2}`,
		`{"file":"x","ended":1}`, `{"file":"x","ended":1,"at":2,"more":1}`, good[:9]} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if all, err := ReadDeletions(path); err == nil {
			t.Errorf("%q declares %v", text, all)
		}
		if err := Declare(path, want[0]); err == nil {
			t.Errorf("%q was added to", text)
		}
	}
}

func FuzzDeletions(f *testing.F) {
	f.Add([]byte(`{"file":"20241023T152847.822Z.seg","ended":5,"at":7}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseDeletions("x", b)
		for _, d := range all {
			if d.File == "" || d.Ended < 0 || d.At < d.Ended {
				t.Fatalf("%+v", d)
			}
		}
		if err != nil && all != nil {
			t.Fatal("an error, and deletions")
		}
	})
}
