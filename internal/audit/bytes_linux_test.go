package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"levee/internal/config"
	"levee/internal/records"
	"levee/internal/translog/proof"
)

// positions returns about n places in size bytes, the first and last among them.
func positions(size, n int) []int {
	var all []int
	step := max(1, size/n)
	for at := 0; at < size-1; at += step {
		all = append(all, at)
	}
	return append(all, size-1)
}

// files returns the files below dir.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// verifyAtRest is verify in a bubble, where the waits that a recorder at work is
// given take no time.
func (b *bank) verifyAtRest(t *testing.T) (r *Report) {
	t.Helper()
	c := b.open(t)
	synctest.Test(t, func(t *testing.T) { r = verifyWith(t, c) })
	return r
}

// flip changes one byte of a file and returns how to put it back.
func flip(t testing.TB, path string, at int, by byte) (restore func()) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	after := bytes.Clone(before)
	after[at] ^= by
	if err := os.WriteFile(path, after, info.Mode()); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.WriteFile(path, before, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
}

// entryAt returns the entry that a byte of a bundle belongs to.
func entryAt(t testing.TB, bundle []byte, first, at int) int {
	t.Helper()
	for i, from := first, 0; ; i++ {
		if from += 2 + int(binary.BigEndian.Uint16(bundle[from:])); at < from {
			return i
		}
	}
}

// One byte of the log changed: the entry is named. Of any other file: its path.
func TestOneChangedByte(t *testing.T) {
	t.Parallel()
	origin := newRecord(t)
	origin.sound(t)
	widest := ""
	for _, path := range files(t, origin.log()) {
		if strings.Contains(path, "entries") && (len(path) > len(widest) || len(path) == len(widest) && path > widest) {
			widest = path
		}
	}
	record := append(append(files(t, origin.log()), files(t, origin.segments())...), origin.watermark())
	if len(record) < 20 {
		t.Fatalf("a record of %d files only", len(record))
	}
	const workers = 4
	for w := range workers {
		t.Run(fmt.Sprint(w), func(t *testing.T) {
			t.Parallel()
			b := origin.copy(t)
			for i, path := range record {
				if i%workers != w {
					continue
				}
				rel, err := filepath.Rel(origin.Dir, path)
				if err != nil {
					t.Fatal(err)
				}
				b.flipEach(t, filepath.Join(b.Dir, rel), path == widest)
			}
			b.sound(t)
		})
	}
}

func (b *bank) flipEach(t *testing.T, path string, bundle bool) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(content) == 0 { // the library's locks
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.verifyAtRest(t).want(t, path)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	n := 6
	switch {
	case bundle:
		n = 60
	case strings.Contains(path, ".p/"):
		n = 2 // there are many alike
	}
	c := b.open(t)
	for i, at := range positions(len(content), n) {
		restore := flip(t, path, at, []byte{1, 0x20, 0x80}[i%3])
		var r *Report
		synctest.Test(t, func(t *testing.T) { r = verifyWith(t, c) })
		restore()
		want := path
		if bundle {
			want = fmt.Sprintf("entry %d", entryAt(t, content, 0, at))
		}
		if r.OK() || r.Findings[0].Where != want {
			t.Errorf("byte %d of %s: want %s, got %+v", at, path, want, r.Findings)
		}
	}
}

// A changed trust file never passes, wherever it was changed.
func TestOneChangedByteOfTheTrustFiles(t *testing.T) {
	t.Parallel()
	origin := newRecord(t)
	for _, name := range []string{"root.pem", "site.json", "policy.yaml", "envelope.keys", "SHA256SUMS"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := origin.copy(t)
			path := filepath.Join(b.Bundle(recorderID), name)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			for i, at := range positions(int(info.Size()), 120) {
				restore := flip(t, path, at, []byte{1, 0x20, 0x80}[i%3])
				_, err := Open(Options{Config: b.configFile()})
				restore()
				var wrong Finding
				if !errors.As(err, &wrong) || !strings.Contains(wrong.Error(), path) {
					t.Errorf("byte %d: %v", at, err)
				}
			}
			b.open(t)
		})
	}
}

// A changed configuration file is named, unless it says what it said.
func TestOneChangedByteOfTheConfiguration(t *testing.T) {
	t.Parallel()
	b := newRecord(t)
	path := b.configFile()
	load := func() (s records.Settings, err error) { return s, config.Load(path, &s) }
	before, err := load()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	same := 0
	for at := range int(info.Size()) {
		for _, by := range []byte{1, 0x20} {
			restore := flip(t, path, at, by)
			after, err := load()
			if err == nil && reflect.DeepEqual(after, before) {
				same++ // in a comment
			} else {
				c, err := Open(Options{Config: path})
				var wrong Finding
				switch {
				case err == nil:
					r, err := Verify(t.Context(), c)
					if err != nil {
						t.Fatal(err)
					}
					r.want(t, path)
				case !errors.As(err, &wrong) || !strings.Contains(wrong.Error(), path):
					t.Errorf("byte %d ^ %#x: %v", at, by, err)
				}
			}
			restore()
		}
	}
	if same == 0 || same > 2*int(info.Size())*9/10 {
		t.Errorf("%d of %d changes change nothing", same, 2*info.Size())
	}
}

// Every file of the record removed, in turn.
func TestOneFileRemoved(t *testing.T) {
	t.Parallel()
	origin := newRecord(t)
	record := append(append(files(t, origin.log()), files(t, origin.segments())...), origin.watermark())
	superseded := 0
	for _, path := range record {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		r := origin.verifyAtRest(t)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		switch {
		case r.OK() && len(content) == 0: // the library's locks come back by themselves
		case r.OK() && strings.Contains(path, ".p/"):
			superseded++ // a writer removes them itself
		case r.OK():
			t.Errorf("without %s nothing is wrong", path)
		case filepath.Dir(path) == origin.segments():
			r.want(t, origin.segments(), "are in no segment")
		default:
			r.want(t, path)
		}
	}
	if superseded == 0 {
		t.Error("no superseded tile was tried")
	}
	if _, err := os.Stat(filepath.Join(origin.log(), proof.CheckpointFile)); err != nil {
		t.Error(err)
	}
	origin.sound(t)
}
