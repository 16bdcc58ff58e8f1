package journal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"levee/internal/wire"
)

const margin = 30 * time.Second

var start = time.UnixMilli(1_700_000_000_000)

func key(n int) Key {
	var id wire.ID
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return Key{Sender: "melb/monitor/mon-1", ID: id}
}

func entry(n int) Entry {
	return Entry{
		Key: key(n), Command: fmt.Appendf(nil, `{"n":%d,"text":"<&>"}`, n),
		Seen: start, Expires: start.Add(time.Minute), Row: n,
	}
}

func open(t *testing.T, cfg Config) *Journal {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "commands.db")
	}
	cfg.Margin = margin
	j, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func add(t *testing.T, j *Journal, e Entry) {
	t.Helper()
	if err := j.Add(e); err != nil {
		t.Fatal(err)
	}
}

func TestEntriesSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "commands.db")
	j := open(t, Config{Path: path})
	// The keys sort against the order in which they are added.
	for _, n := range []int{3, 2, 1} {
		add(t, j, entry(n))
	}
	if err := j.Finish(key(2), []byte("done")); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	j = open(t, Config{Path: path})
	entries, err := j.Entries()
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Fatalf("%d entries, want 3", len(entries))
	}
	for i, n := range []int{3, 2, 1} {
		got, want := entries[i], entry(n)
		if got.Key != want.Key || !bytes.Equal(got.Command, want.Command) ||
			!got.Seen.Equal(want.Seen) || got.Row != want.Row || !got.Expires.Equal(want.Expires) {
			t.Errorf("entry %d: got %+v, want %+v", i, got, want)
		}
		if got := string(got.Status); (n == 2) != (got == "done") {
			t.Errorf("entry %d: status %q", n, got)
		}
	}
	if err := j.Add(entry(2)); !errors.Is(err, ErrExists) {
		t.Errorf("adding again after reopening: %v, want ErrExists", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestOneKeyIsAddedOnce(t *testing.T) {
	j := open(t, Config{})
	add(t, j, entry(1))
	other := entry(1)
	other.Command = []byte(`{"other":true}`)
	for _, e := range []Entry{entry(1), other} {
		if err := j.Add(e); !errors.Is(err, ErrExists) {
			t.Errorf("adding again: %v, want ErrExists", err)
		}
	}
	got, found, err := j.Find(key(1))
	if err != nil || !found || !bytes.Equal(got.Command, entry(1).Command) {
		t.Errorf("the first entry changed: %+v %v %v", got, found, err)
	}
	// The same identifier of another sender is another command.
	other.Key.Sender = "melb/monitor/mon-2"
	add(t, j, other)
	if _, found, err := j.Find(key(2)); found || err != nil {
		t.Errorf("found what was never added: %v", err)
	}
}

func TestAddRefuses(t *testing.T) {
	j := open(t, Config{})
	for name, spoil := range map[string]func(*Entry){
		"a large command":   func(e *Entry) { e.Command = make([]byte, MaxBytes+1) },
		"a large status":    func(e *Entry) { e.Status = make([]byte, MaxBytes+1) },
		"a large sender":    func(e *Entry) { e.Key.Sender = strings.Repeat("a", maxSender+1) },
		"no command":        func(e *Entry) { e.Command = nil },
		"no sender":         func(e *Entry) { e.Key.Sender = "" },
		"an ambiguous name": func(e *Entry) { e.Key.Sender = "a\x00b" },
	} {
		e := entry(1)
		spoil(&e)
		if err := j.Add(e); err == nil {
			t.Errorf("%s was added", name)
		}
	}
	if err := j.Finish(key(1), []byte("done")); !errors.Is(err, ErrUnknown) {
		t.Errorf("finishing what was never added: %v, want ErrUnknown", err)
	}
	add(t, j, entry(1))
	if err := j.Finish(key(1), make([]byte, MaxBytes+1)); !errors.Is(err, ErrSize) {
		t.Errorf("finishing with a large status: %v, want ErrSize", err)
	}
}

func TestBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "commands.db")
	cfg := Config{Path: path, MaxEntries: 5, MaxPerSender: 3}
	j := open(t, cfg)
	for n := range 3 {
		add(t, j, entry(n))
	}
	if err := j.Add(entry(3)); !errors.Is(err, ErrFull) {
		t.Fatalf("one sender's fourth: %v, want ErrFull", err)
	}
	// A sender that fills its share takes nothing from another.
	for n := range 2 {
		e := entry(n)
		e.Key.Sender = "melb/monitor/mon-2"
		add(t, j, e)
	}
	last := entry(9)
	last.Key.Sender = "melb/monitor/mon-3"
	if err := j.Add(last); !errors.Is(err, ErrFull) {
		t.Fatalf("the sixth of all: %v, want ErrFull", err)
	}
	// The bounds hold after a restart too.
	j.Close()
	j = open(t, cfg)
	if err := j.Add(last); !errors.Is(err, ErrFull) {
		t.Fatalf("the sixth of all after reopening: %v, want ErrFull", err)
	}
	if n, err := j.Forget(start.Add(time.Hour), nil); n != 5 || err != nil {
		t.Fatalf("forgot %d, %v, want 5", n, err)
	}
	add(t, j, last)
	for n := range 3 {
		add(t, j, entry(n))
	}
}

func TestForgetWaitsForExpiryAndMargin(t *testing.T) {
	j := open(t, Config{})
	add(t, j, entry(1))
	add(t, j, entry(2))
	expires := entry(1).Expires
	for _, now := range []time.Time{start, expires, expires.Add(margin)} {
		if n, err := j.Forget(now, nil); n != 0 || err != nil {
			t.Fatalf("at %v: forgot %d, %v, want none", now.Sub(start), n, err)
		}
	}
	over := expires.Add(margin + time.Millisecond)
	keep := func(k Key) bool { return k == key(2) }
	if n, err := j.Forget(over, keep); n != 1 || err != nil {
		t.Fatalf("forgot %d, %v, want 1", n, err)
	}
	if _, found, _ := j.Find(key(1)); found {
		t.Error("a forgotten entry was found")
	}
	if _, found, _ := j.Find(key(2)); !found {
		t.Error("an entry that was to be kept was forgotten")
	}
}

func TestOpenRefuses(t *testing.T) {
	write := func(t *testing.T, mode os.FileMode, content string) string {
		path := filepath.Join(t.TempDir(), "commands.db")
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := map[string]func(t *testing.T) Config{
		"no path":            func(*testing.T) Config { return Config{Margin: margin} },
		"no margin":          func(t *testing.T) Config { return Config{Path: write(t, 0o600, "")} },
		"a negative bound":   func(t *testing.T) Config { return Config{Path: write(t, 0o600, ""), Margin: margin, MaxEntries: -1} },
		"readable by others": func(t *testing.T) Config { return Config{Path: write(t, 0o644, ""), Margin: margin} },
		"not a journal": func(t *testing.T) Config {
			return Config{Path: write(t, 0o600, strings.Repeat("x", 1<<16)), Margin: margin}
		},
		"no such directory":    func(t *testing.T) Config { return Config{Path: filepath.Join(t.TempDir(), "no", "db"), Margin: margin} },
		"a directory":          func(t *testing.T) Config { return Config{Path: t.TempDir(), Margin: margin} },
		"an entry of nonsense": spoiled([]byte("not json"), key(1).bytes()),
		"an empty entry":       spoiled([]byte("{}"), key(1).bytes()),
		"a key of nonsense":    spoiled([]byte("{}"), []byte("short")),
	}
	for name, config := range tests {
		t.Run(name, func(t *testing.T) {
			if j, err := Open(config(t)); err == nil {
				j.Close()
				t.Error("opened")
			}
		})
	}
	// A person is told what holds it, and not only that it took too long.
	if _, err := Open(open(t, Config{}).cfg); !errors.Is(err, ErrInUse) {
		t.Errorf("held by another: %v", err)
	}
	t.Run("a symbolic link", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(write(t, 0o600, ""), link); err != nil {
			t.Fatal(err)
		}
		if j, err := Open(Config{Path: link, Margin: margin}); err == nil {
			j.Close()
			t.Error("opened")
		}
	})
}

// spoiled makes a journal with one entry that no journal would write.
func spoiled(value, key []byte) func(t *testing.T) Config {
	return func(t *testing.T) Config {
		j := open(t, Config{})
		err := j.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketName).Put(key, value) })
		if err := errors.Join(err, j.Close()); err != nil {
			t.Fatal(err)
		}
		return j.cfg
	}
}

// TestAddSurvivesKill kills a process that adds entries as fast as it can and
// says after each that it is there. What it said must be true, in order and
// without a gap, and the one that was under way is there whole or not at all.
func TestAddSurvivesKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "commands.db")
	next := 0
	for round := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestChildAddsForever$")
		cmd.Env = append(os.Environ(), childVar+"="+path, fmt.Sprintf("%s=%d", childFrom, next))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := next
		for lines := bufio.NewScanner(out); said < next+20 && lines.Scan(); said++ {
			if want := fmt.Sprintf("added %d", said); lines.Text() != want {
				t.Fatalf("the child said %q, want %q", lines.Text(), want)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()

		j := open(t, Config{Path: path})
		entries, err := j.Entries()
		if err != nil {
			t.Fatal(err)
		}
		if said == next || len(entries) < said {
			t.Fatalf("round %d: %d entries, but the child said %d", round, len(entries), said)
		}
		for n, e := range entries {
			if e.Key != key(n) || !bytes.Equal(e.Command, entry(n).Command) {
				t.Fatalf("round %d: entry %d is %+v", round, n, e)
			}
			if err := j.Add(entry(n)); !errors.Is(err, ErrExists) {
				t.Fatalf("round %d: adding entry %d again: %v", round, n, err)
			}
		}
		next = len(entries)
		j.Close()
	}
}

const (
	childVar  = "LEVEE_TEST_JOURNAL"
	childFrom = "LEVEE_TEST_JOURNAL_FROM"
)

// TestChildAddsForever is the process that TestAddSurvivesKill kills.
func TestChildAddsForever(t *testing.T) {
	path := os.Getenv(childVar)
	if path == "" {
		return // only as a child of TestAddSurvivesKill
	}
	var n int
	fmt.Sscan(os.Getenv(childFrom), &n)
	j := open(t, Config{Path: path, MaxEntries: 1 << 20, MaxPerSender: 1 << 20})
	for ; ; n++ {
		add(t, j, entry(n))
		fmt.Printf("added %d\n", n)
	}
}
