package segment

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// logCount counts messages.
type logCount struct {
	slog.Handler
	count map[string]int
}

func (l logCount) Enabled(context.Context, slog.Level) bool { return true }

func (l logCount) Handle(_ context.Context, r slog.Record) error {
	l.count[r.Message]++
	return nil
}

func testConfig(dir string) (Config, map[string]int) {
	lines := map[string]int{}
	return Config{Dir: dir, Log: slog.New(logCount{slog.DiscardHandler, lines})}, lines
}

func openWriter(t testing.TB, cfg Config) *Writer {
	t.Helper()
	w, err := OpenWriter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *Writer) mustAppend(t testing.TB, envelopes ...string) {
	t.Helper()
	for _, envelope := range envelopes {
		if err := w.Append(Record{Received: 7, Envelope: []byte(envelope)}); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *Writer) mustSync(t testing.TB) {
	t.Helper()
	if err := w.Sync(); err != nil {
		t.Fatal(err)
	}
}

func (w *Writer) mustClose(t testing.TB) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// contents returns the envelopes of each file, which must all end well.
func contents(t testing.TB, dir string) [][]string {
	t.Helper()
	files, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]string
	for _, file := range files {
		f, err := os.Open(file.Path)
		if err != nil {
			t.Fatal(err)
		}
		envelopes, err := readAll(NewReader(f, file.Path))
		f.Close()
		if err != io.EOF {
			t.Fatal(err)
		}
		all = append(all, envelopes)
	}
	return all
}

func TestWriteAndReadBack(t *testing.T) {
	cfg, _ := testConfig(t.TempDir())
	w := openWriter(t, cfg)
	w.mustSync(t)
	if got := contents(t, cfg.Dir); len(got) != 0 {
		t.Fatalf("nothing was appended, but there is %q", got)
	}
	w.mustAppend(t, "a", "b")
	if got := contents(t, cfg.Dir); len(got) != 0 {
		t.Fatalf("nothing was flushed, but there is %q", got)
	}
	w.mustSync(t)
	w.mustAppend(t, "c")
	w.mustSync(t)
	if got := contents(t, cfg.Dir); !reflect.DeepEqual(got, [][]string{{"a", "b", "c"}}) {
		t.Fatalf("got %q", got)
	}
	w.mustAppend(t, "d")
	w.mustClose(t) // makes it durable too
	w = openWriter(t, cfg)
	w.mustAppend(t, "e")
	w.mustClose(t)
	if got := contents(t, cfg.Dir); !reflect.DeepEqual(got, [][]string{{"a", "b", "c", "d"}, {"e"}}) {
		t.Fatalf("got %q", got)
	}
}

func TestAppendRefusesAndGoesOn(t *testing.T) {
	cfg, _ := testConfig(t.TempDir())
	w := openWriter(t, cfg)
	w.mustAppend(t, "a")
	for _, envelope := range [][]byte{nil, make([]byte, MaxEnvelope+1)} {
		if err := w.Append(Record{Envelope: envelope}); err == nil {
			t.Fatalf("%d bytes were appended", len(envelope))
		}
	}
	w.mustAppend(t, "b")
	w.mustClose(t)
	if got := contents(t, cfg.Dir); !reflect.DeepEqual(got, [][]string{{"a", "b"}}) {
		t.Fatalf("got %q", got)
	}
}

func TestTheBufferIsBounded(t *testing.T) {
	cfg, _ := testConfig(t.TempDir())
	w := openWriter(t, cfg)
	big := strings.Repeat("x", MaxEnvelope)
	for range 40 {
		w.mustAppend(t, big)
		if len(w.buf) > maxBuffer+MaxEnvelope+offsetPeer+1 {
			t.Fatalf("%d bytes are kept", len(w.buf))
		}
	}
	w.mustClose(t)
	if got := contents(t, cfg.Dir); len(got) != 1 || len(got[0]) != 40 {
		t.Fatalf("got %d files", len(got))
	}
}

func TestRotationBySize(t *testing.T) {
	cfg, _ := testConfig(t.TempDir())
	cfg.MaxSize = 1100
	w := openWriter(t, cfg)
	for range 10 {
		w.mustAppend(t, incompressible(300))
		w.mustSync(t)
	}
	w.mustClose(t)
	got := contents(t, cfg.Dir)
	if len(got) != 4 || len(got[0]) != 3 || len(got[3]) != 1 {
		t.Fatalf("got %d files", len(got))
	}
}

// incompressible returns n bytes that stay as long as they are.
func incompressible(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return string(b)
}

func TestRotationByAgeAndNames(t *testing.T) {
	cfg, _ := testConfig(t.TempDir())
	cfg.MaxAge = time.Minute
	synctest.Test(t, func(t *testing.T) {
		w := openWriter(t, cfg)
		for _, envelope := range []string{"0 s", "59 s", "118 s", "177 s"} {
			w.mustAppend(t, envelope)
			w.mustSync(t)
			time.Sleep(59 * time.Second)
		}
		w.mustClose(t)
	})
	if got := contents(t, cfg.Dir); !reflect.DeepEqual(got, [][]string{{"0 s", "59 s"}, {"118 s", "177 s"}}) {
		t.Fatalf("got %q", got)
	}
	files, err := List(cfg.Dir)
	if err != nil || filepath.Base(files[0].Path) != "20000101T000000.000Z.seg" || files[1].Start-files[0].Start != 118_000 {
		t.Fatalf("%v, %v", files, err)
	}
	// The clock is set back: the order of the names stays that of the writing.
	for _, envelope := range []string{"a", "b"} {
		synctest.Test(t, func(t *testing.T) {
			w := openWriter(t, cfg)
			w.mustAppend(t, envelope)
			w.mustClose(t)
		})
	}
	if got := contents(t, cfg.Dir); !reflect.DeepEqual(got[2:], [][]string{{"a"}, {"b"}}) {
		t.Fatalf("got %q", got)
	}
}

func TestListPassesOverOtherFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"notes.txt", "20241023T152847.822Z.seg", "20231023T152847.822Z.seg", "x.seg"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "20221023T152847.822Z.seg"), 0o700); err != nil {
		t.Fatal(err)
	}
	files, err := List(dir)
	if err != nil || len(files) != 2 || filepath.Base(files[0].Path) != "20231023T152847.822Z.seg" {
		t.Fatalf("%v, %v", files, err)
	}
}

// What a crash can leave at the end of the newest file, and what becomes of it.
func TestTornTailIsCut(t *testing.T) {
	content, starts := file(t, "first", "second", "third")
	type tail struct {
		name    string
		content []byte
		kept    int // bytes; -1: the file goes
		logged  string
	}
	const cut, damaged = "cut the torn tail of a segment off", "a segment is damaged and was left as it is"
	tails := []tail{
		{"whole", content, len(content), ""},
		{"only a header", content[:8], 8, ""},
		{"zeros", append(bytes.Clone(content), make([]byte, 4096)...), len(content), cut},
		{"only zeros", make([]byte, 4096), -1, cut},
		{"a changed byte", flipped(content, starts[2]+18), len(content), damaged},
		{"a changed byte before whole records", flipped(content, starts[0]+18), len(content), damaged},
		{"a length of zero before whole records", flipped(content, starts[1]+3), len(content), damaged},
		{"another file", []byte("#!/bin/sh\n"), 10, damaged},
	}
	for n := range content {
		tc := tail{name: fmt.Sprint("cut at ", n), content: content[:n], kept: 8, logged: cut}
		switch {
		case n < 8:
			tc.kept = -1
		case n >= starts[2]:
			tc.kept = starts[2]
		case n >= starts[1]:
			tc.kept = starts[1]
		}
		if n == tc.kept {
			tc.logged = ""
		}
		tails = append(tails, tc)
	}
	for _, tc := range tails {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			older, newest := filepath.Join(dir, fileName(1000)), filepath.Join(dir, fileName(2000))
			for path, b := range map[string][]byte{older: content[:len(content)-1], newest: tc.content} {
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cfg, lines := testConfig(dir)
			w := openWriter(t, cfg)
			w.mustAppend(t, "after")
			w.mustClose(t)
			got, err := os.ReadFile(newest)
			switch {
			case tc.kept < 0 && !errors.Is(err, os.ErrNotExist):
				t.Fatalf("still there: %x, %v", got, err)
			case tc.kept >= 0 && (err != nil || !bytes.Equal(got, tc.content[:tc.kept])):
				t.Fatalf("%d bytes are left of %d, want %d: %v", len(got), len(tc.content), tc.kept, err)
			}
			if b, err := os.ReadFile(older); err != nil || len(b) != len(content)-1 {
				t.Fatalf("an older file was changed: %v", err)
			}
			wantLines := 0
			if tc.logged != "" {
				wantLines = 1
			}
			if len(lines) != wantLines || lines[tc.logged] != wantLines {
				t.Fatalf("logged %v", lines)
			}
			files, err := List(dir)
			if err != nil || files[len(files)-1].Path <= newest {
				t.Fatalf("%v, %v", files, err)
			}
		})
	}
}

func flipped(content []byte, at int) []byte {
	content = bytes.Clone(content)
	content[at] = 0
	return content
}

func TestASecondWriterIsRefused(t *testing.T) {
	cfg, _ := testConfig(t.TempDir())
	w := openWriter(t, cfg)
	if _, err := OpenWriter(cfg); !errors.Is(err, ErrLocked) {
		t.Fatalf("got %v", err)
	}
	w.mustClose(t)
	openWriter(t, cfg).mustClose(t)
}

func TestConfigIsChecked(t *testing.T) {
	good, _ := testConfig(t.TempDir())
	for name, change := range map[string]func(*Config){
		"no directory":     func(c *Config) { c.Dir = "" },
		"no logger":        func(c *Config) { c.Log = nil },
		"negative size":    func(c *Config) { c.MaxSize = -1 },
		"negative age":     func(c *Config) { c.MaxAge = -1 },
		"absent directory": func(c *Config) { c.Dir += "/nowhere" },
	} {
		cfg := good
		change(&cfg)
		if _, err := OpenWriter(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestAFailedWriteStopsTheWriter(t *testing.T) {
	cfg, _ := testConfig(t.TempDir())
	w := openWriter(t, cfg)
	w.mustAppend(t, "a")
	w.mustSync(t)
	w.file.Close() // stands for any error of write(2)
	w.mustAppend(t, "b")
	if err := w.Sync(); !errors.Is(err, ErrStopped) {
		t.Fatalf("Sync: %v", err)
	}
	if err := w.Sync(); !errors.Is(err, ErrStopped) {
		t.Fatalf("Sync again: %v", err)
	}
	if err := w.Append(Record{Envelope: []byte("c")}); !errors.Is(err, ErrStopped) {
		t.Fatalf("Append: %v", err)
	}
	if err := w.Close(); err == nil {
		t.Fatal("Close says nothing of the file")
	}
	if err := w.Close(); !errors.Is(err, ErrClosed) {
		t.Fatalf("Close again: %v", err)
	}
	if err := w.Append(Record{Envelope: []byte("c")}); !errors.Is(err, ErrClosed) {
		t.Fatalf("Append: %v", err)
	}
	openWriter(t, cfg).mustClose(t)
}

// crashDir tells the test binary that it is to be the process that is killed.
const crashDir = "SEGMENT_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// writeUntilKilled prints how many records are durable.
func writeUntilKilled(dir string) error {
	cfg, _ := testConfig(dir)
	cfg.MaxSize = 20_000
	w, err := OpenWriter(cfg)
	if err != nil {
		return err
	}
	for i := 1; ; i++ {
		if err := w.Append(Record{Envelope: fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", i*37%900))}); err != nil {
			return err
		}
		if i%9 == 0 {
			if err := w.Sync(); err != nil {
				return err
			}
			fmt.Println(i)
		}
	}
}

func TestKilledUnderLoad(t *testing.T) {
	for round := range 4 {
		cfg, _ := testConfig(t.TempDir())
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+cfg.Dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		durable, killed := 0, false
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			if durable, err = strconv.Atoi(scanner.Text()); err != nil {
				t.Fatalf("the child says %q", scanner.Text())
			}
			if !killed && durable > 300+100*round {
				killed = true
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || !killed {
			t.Fatalf("the child was not killed: %v", err)
		}
		openWriter(t, cfg).mustClose(t)
		got := slices.Concat(contents(t, cfg.Dir)...)
		if len(got) < durable {
			t.Fatalf("%d records of %d durable ones", len(got), durable)
		}
		for i, envelope := range got {
			if number, _, _ := strings.Cut(envelope, " "); number != strconv.Itoa(i+1) {
				t.Fatalf("record %d is %q", i, envelope)
			}
		}
	}
}

func BenchmarkWriter(b *testing.B) {
	cfg, _ := testConfig(b.TempDir())
	w := openWriter(b, cfg)
	envelope := make([]byte, 300)
	b.SetBytes(int64(len(envelope)))
	for i := 0; b.Loop(); i++ {
		if err := w.Append(Record{Received: 1, Envelope: envelope}); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 999 {
			w.mustSync(b)
		}
	}
	w.mustClose(b)
}
