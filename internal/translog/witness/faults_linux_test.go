package witness

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"levee/test/faults"
)

// childIn is the environment variable that turns this test binary into a witness
// that cosigns one checkpoint: prepared lies in that directory.
const childIn = "LEVEE_TEST_WITNESS_IN"

// TestCosignHere is the process that the faults are injected into. It hands the
// cosignature out on the descriptor that a loss of power is held against, and to a
// file.
func TestCosignHere(t *testing.T) {
	in := os.Getenv(childIn)
	if in == "" {
		t.Skip("only as a child")
	}
	runtime.LockOSThread()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(in, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key, err := ParseKey(read("key"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := Open(Config{Key: key, Dir: filepath.Join(in, "state"), Logs: []string{string(read("vkey"))}, Silence: time.Hour, Log: quiet()}, noon)
	if err != nil {
		t.Fatal(err)
	}
	a := w.add(t.Context(), read("request"), anybody, noon)
	if a.outcome != Cosigned {
		t.Fatal(a)
	}
	if f := os.NewFile(faults.Told, "told"); f != nil && os.Getenv("LEVEE_TEST_WITNESS_TELLS") != "" {
		if _, err := f.WriteString(a.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(in, "told"), []byte(a.body), 0o600); err != nil {
		t.Fatal(err)
	}
}

// prepared is a witness that has cosigned ten entries, and the request for twenty.
type prepared struct {
	in         string
	log        *book
	key        Key
	ten, other []byte // checkpoints: of ten, and of twenty others
}

func prepare(t *testing.T) prepared {
	t.Helper()
	file, err := GenerateKey(perth)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseKey(file)
	if err != nil {
		t.Fatal(err)
	}
	p := prepared{in: t.TempDir(), log: newBook(t, melb).grow("a", 10), key: key}
	newPost(t, filepath.Join(p.in, "state"), key, p.log).want(p.log.from(0), Cosigned)
	p.ten = p.log.note()
	p.other = p.log.copied().grow("b", 10).from(10).marshal()
	for name, content := range map[string][]byte{"key": file, "vkey": []byte(p.log.vkey), "request": p.log.grow("a", 10).from(10).marshal()} {
		if err := os.WriteFile(filepath.Join(p.in, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p prepared) child(tells string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestCosignHere$")
	cmd.Env = append(os.Environ(), childIn+"="+p.in, "LEVEE_TEST_WITNESS_TELLS="+tells)
	return cmd
}

// sound wants a state that opens and that no cosignature which left contradicts:
// then another tree of twenty gets none.
func (p prepared) sound(t *testing.T, after, state string, told bool) {
	t.Helper()
	w := newPost(t, state, p.key, p.log)
	held := w.Held(melb)
	if !bytes.Equal(held, p.ten) && !bytes.Equal(held, p.log.note()) {
		t.Errorf("%s: held is\n%s", after, held)
	}
	if told && bytes.Equal(held, p.ten) {
		t.Errorf("%s: the cosignature left, and the checkpoint is not on disk", after)
	}
	a := w.add(t.Context(), p.other, anybody, noon)
	if told && a.outcome == Cosigned {
		t.Errorf("%s: two trees of twenty were cosigned", after)
	}
}

// Each file operation fails, or is the last one of the process, in turn.
func TestFaults(t *testing.T) {
	t.Parallel()
	faults.Each(t, map[string]int{"openat": 1, "write": 1, "fchmod": 1, "fsync": 1, "renameat": 1}, func(t *testing.T) (*exec.Cmd, func(string)) {
		p := prepare(t)
		return p.child(""), func(after string) {
			told, err := os.ReadFile(filepath.Join(p.in, "told"))
			p.sound(t, after, filepath.Join(p.in, "state"), err == nil && len(told) > 0)
		}
	})
}

// Whatever a loss of power leaves, what was cosigned is known.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	p := prepare(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd := p.child("yes")
	cmd.ExtraFiles = []*os.File{w}
	faults.PowerLoss(t, filepath.Join(p.in, "state"), cmd, func(after, dir string, told bool) { p.sound(t, after, dir, told) })
}
