package archtest

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
)

//go:generate go test -run TestLinkedModules -count=1 . -args -update

var update = flag.Bool("update", false, "write the golden list anew")

const golden = "testdata/linked.txt"

// Every module that a binary links is somebody else's code inside a bank. The
// list is reviewed when it changes.
func TestLinkedModules(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the list is that of the Linux build")
	}
	var list bytes.Buffer
	for _, binary := range []string{"levee", "levee-broker", "levee-sensor", "levee-monitor", "levee-controller", "levee-recorder", "levee-console", "levee-issuer"} {
		out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "levee/cmd/"+binary).Output()
		if err != nil {
			t.Fatal(err)
		}
		modules := strings.Fields(string(out))
		slices.Sort(modules)
		list.WriteString(binary + "\n")
		for _, m := range slices.Compact(modules) {
			if m != "levee" {
				list.WriteString("\t" + m + "\n")
			}
		}
	}
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, list.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(list.Bytes(), want) {
		t.Errorf("the binaries link other modules than %s says; review, then run: go generate ./internal/archtest\n%s", golden, &list)
	}
}
