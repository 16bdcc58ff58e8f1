package seal_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"levee/pki/seal"
)

const line = "correct horse"

func TestCredential(t *testing.T) {
	directory := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", directory)
	write := func(name, text string, mode fs.FileMode) {
		t.Helper()
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	// systemd writes 0400, and 0440 where an access list lets the unit's user read.
	for name, mode := range map[string]fs.FileMode{"ca": 0o400, "ca-of-a-user": 0o440, "CA_1.key": 0o600} {
		write(name, line+"\n", mode)
		if got, err := seal.Ask(seal.Source{Credential: name}); err != nil || !seal.Equal(got, passphrase(t, line)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if runtime.GOOS != "windows" {
		for name, mode := range map[string]fs.FileMode{"world": 0o404, "world-writes": 0o402, "group-writes": 0o420, "runs": 0o410} {
			write(name, line, mode)
			if _, err := seal.Ask(seal.Source{Credential: name}); err == nil || !strings.Contains(err.Error(), "mode 0") {
				t.Errorf("mode %04o: %v", mode, err)
			}
		}
		if err := os.Symlink(filepath.Join(directory, "ca"), filepath.Join(directory, "link")); err != nil {
			t.Fatal(err)
		}
	}
	makePipe(t, filepath.Join(directory, "pipe")) // which nobody writes to
	if err := os.Mkdir(filepath.Join(directory, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	write("empty", "", 0o400)
	write("short", "abcdefghijk\n", 0o400)
	write("long", strings.Repeat("x", 2000), 0o400)
	write(".hidden", line, 0o400)
	for _, name := range []string{"none", "link", "pipe", "directory", "empty", "short", "long", ".", "..", ".hidden", "../ca", "/etc/passwd", "a b", "ca\n", strings.Repeat("x", 65)} {
		if _, err := seal.Ask(seal.Source{Credential: name}); err == nil {
			t.Errorf("%q: accepted", name)
		}
	}
	for _, directory := range []string{"", ".", "credentials"} {
		t.Setenv("CREDENTIALS_DIRECTORY", directory)
		if _, err := seal.Ask(seal.Source{Credential: "ca"}); err == nil || !strings.Contains(err.Error(), "CREDENTIALS_DIRECTORY") {
			t.Errorf("directory %q: %v", directory, err)
		}
	}
}

// pipe returns the number of a descriptor that holds text, as a shell would
// hand it over; who reads it closes it.
func pipe(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(openRaw(t, path))
}

func TestDescriptor(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("descriptors are handles there")
	}
	for _, text := range []string{line, line + "\n", line + "\r\n"} {
		if got, err := seal.Ask(seal.Source{Descriptor: pipe(t, text)}); err != nil || !seal.Equal(got, passphrase(t, line)) {
			t.Errorf("%q: %v", text, err)
		}
	}
	once := pipe(t, line)
	if _, err := seal.Ask(seal.Source{Descriptor: once, New: true}); err != nil {
		t.Errorf("a new one is asked for twice where nobody types: %v", err)
	}
	for name, number := range map[string]string{
		"read before": once, "empty": pipe(t, ""), "short": pipe(t, "abcdefghijk\n"), "two lines": pipe(t, line+"\n"+line+"\n"),
		"a directory": strconv.Itoa(openRaw(t, t.TempDir())), "a device": strconv.Itoa(openRaw(t, os.DevNull)),
		"standard output": "1", "standard error": "2", "not open": "250", "no number": "x", "negative": "-1",
		"leading zero": "03", "plus": "+3", "too large": "256", "blank": " 3",
	} {
		if _, err := seal.Ask(seal.Source{Descriptor: number}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := seal.Ask(seal.Source{Descriptor: pipe(t, line), Credential: "ca"}); err == nil {
		t.Error("two sources: accepted")
	}
}

// Nobody is asked where nobody can answer, and the error says what to do.
func TestNoTerminal(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for name, source := range map[string]seal.Source{"nothing": {}, "no terminal": {Terminal: file, Prompt: "root key"}} {
		_, err := seal.Ask(source)
		if err == nil || !strings.Contains(err.Error(), "--passphrase-fd") || !strings.Contains(err.Error(), "--passphrase-credential") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
