package translog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/internal/translog/proof"
)

const testOrigin = "melb.bank.example/log"

// site is the place of a log: its directory, its watermark elsewhere, its key.
type site struct {
	root string
	cfg  Config
	log  *logLines
}

// logLines counts what is logged, by message.
type logLines struct {
	slog.Handler
	mu    sync.Mutex
	count map[string]int
}

func (l *logLines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count[r.Message]++
	return nil
}

func (l *logLines) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs keeps the counter.
func (l *logLines) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l *logLines) mentions(part string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for message := range l.count {
		if strings.Contains(message, part) {
			return true
		}
	}
	return false
}

func (l *logLines) seen(message string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count[message]
}

// libraryLines is where TestMain has routed what the libraries log.
var libraryLines = &logLines{Handler: slog.DiscardHandler, count: map[string]int{}}

func newSite(t testing.TB) *site {
	t.Helper()
	return siteAt(t, t.TempDir())
}

// siteAt makes a key where there is none, so that another process can come back.
func siteAt(t testing.TB, root string) *site {
	t.Helper()
	keyFile := filepath.Join(root, "log.key")
	if _, err := os.Stat(keyFile); err != nil {
		if _, err := GenerateKey(keyFile, testOrigin); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(root, "elsewhere"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	key, err := ReadKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	lines := &logLines{Handler: slog.DiscardHandler, count: map[string]int{}}
	return &site{root: root, log: lines, cfg: Config{
		Dir:       filepath.Join(root, "log"),
		Watermark: filepath.Join(root, "elsewhere", "watermark"),
		Origin:    testOrigin,
		Key:       key,
		Log:       slog.New(lines),
		BatchAge:  time.Millisecond,
		// Tests publish when they want to.
		CheckpointInterval: time.Hour,
	}}
}

// copy returns a site of its own with the same content.
func (s *site) copy(t testing.TB) *site {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS(s.root)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "log.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	return siteAt(t, root)
}

func (s *site) create(t testing.TB) {
	t.Helper()
	if err := Create(s.cfg); err != nil {
		t.Fatal(err)
	}
}

func (s *site) open(t testing.TB) *Log {
	t.Helper()
	l, err := Open(t.Context(), s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (s *site) close(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// extend opens the log, appends entries and closes it.
func (s *site) extend(t testing.TB, name string, batches ...int) {
	t.Helper()
	l := s.open(t)
	for b, n := range batches {
		if _, err := l.AppendAll(t.Context(), entries(fmt.Sprintf("%s %d", name, b), n)); err != nil {
			t.Fatal(err)
		}
	}
	s.close(t, l)
}

func entries(name string, n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = fmt.Appendf(nil, "%s entry %d", name, i)
	}
	return all
}

func (s *site) proofConfig() proof.Config {
	return proof.Config{FS: os.DirFS(s.cfg.Dir), Origin: testOrigin, VKey: s.cfg.Key.VKey()}
}

// verify checks the log with the independent verifier and returns its entries.
func (s *site) verify(t testing.TB) []string {
	t.Helper()
	var all []string
	if _, err := proof.Verify(t.Context(), s.proofConfig(), func(_ int64, entry []byte) error {
		all = append(all, string(entry))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// backup copies the log's directory; restore puts the copy in its place.
func (s *site) backup(t testing.TB) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(to, os.DirFS(s.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func (s *site) restore(t testing.TB, from string) {
	t.Helper()
	if err := os.RemoveAll(s.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(s.cfg.Dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// files returns every file of the log.
func (s *site) files(t testing.TB) []string {
	t.Helper()
	var names []string
	err := fs.WalkDir(os.DirFS(s.cfg.Dir), ".", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func write1(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read1(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
