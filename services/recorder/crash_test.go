package recorder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/translog"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/internal/wire"
	"levee/services/recorder/segment"
	"levee/test/faults"
	"levee/test/programs"
)

// What tells the test binary to keep messages: the directory, and how many.
const (
	childKeeps = "LEVEE_TEST_KEEPER"
	childCount = "LEVEE_TEST_KEEPER_COUNT"
	childSpace = "LEVEE_TEST_KEEPER_SPACE" // bytes of a file system of its own for the segments
)

// TestChildKeeps is the process that goes wrong in the tests below.
func TestChildKeeps(t *testing.T) {
	dir := os.Getenv(childKeeps)
	if dir == "" {
		return // only as a child
	}
	count, err := strconv.ParseUint(os.Getenv(childCount), 10, 64)
	must(t, err)
	if space := os.Getenv(childSpace); space != "" {
		fillDisk(t, keeper{dir}, space, count)
		return
	}
	if err := (keeper{dir}).keep(t.Context(), count); err != nil {
		t.Fatal(err)
	}
}

// keeper is a directory with a log and segments.
type keeper struct{ dir string }

func newKeeper(t *testing.T) keeper {
	t.Helper()
	k := keeper{t.TempDir()}
	must(t, prepare(k))
	return k
}

// prepare makes a log, and room for segments.
func prepare(k keeper) error {
	for _, name := range []string{"segments", "mark"} {
		if err := os.Mkdir(k.path(name), 0o700); err != nil {
			return err
		}
	}
	if _, err := translog.GenerateKey(k.path("key"), origin); err != nil {
		return err
	}
	return translog.Create(k.log())
}

const origin = "melb.bank.example/recorder/rec-1"

func (k keeper) path(name string) string { return filepath.Join(k.dir, name) }

func (k keeper) log() translog.Config {
	key, err := translog.ReadKey(k.path("key"))
	if err != nil {
		panic(err)
	}
	return translog.Config{Dir: k.path("log"), Watermark: filepath.Join(k.path("mark"), "watermark"), Origin: origin, Key: key, Log: slog.New(slog.DiscardHandler)}
}

// teller stands for the session and tells what was acknowledged, in a file.
type teller struct {
	path  string
	acked chan uint64
}

func (s teller) Acknowledge(_ envelope.KeyID, a wire.Ack) error {
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%d\n", a.Seq); err != nil {
		return err
	}
	s.acked <- a.Seq
	return nil
}

func (teller) OpenOriginal(raw []byte, by session.Delivery) (session.Delivery, error) {
	return original(raw, by)
}

func (teller) RefuseContent(session.Delivery) {}

// nth is the message of a number: each fifth is signed.
func nth(seq uint64) string {
	if seq%5 == 0 {
		return alert(seq)
	}
	return ram(seq)
}

// keep keeps messages from where the last process ended until count of them are
// acknowledged, or for ever: those that come live, and in between some by
// backfill.
func (k keeper) keep(ctx context.Context, count uint64) (err error) {
	quiet := slog.New(slog.DiscardHandler)
	w, err := segment.OpenWriter(segment.Config{Dir: k.path("segments"), Log: quiet, MaxSize: 4000})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	transparency, err := translog.Open(ctx, k.log())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, transparency.Close(context.Background())) }()
	head, err := transparency.Checkpoint(ctx)
	if err != nil {
		return err
	}
	held, err := Restore(ctx, Restoring{Note: k.path("held"), Segments: k.path("segments"), Records: k.path("log"), Size: head.Tree.N, Transparency: transparency, Logger: quiet})
	if err != nil {
		return err
	}
	began := upTo(held)
	s := teller{k.path("acked"), make(chan uint64, 1000)}
	r, err := New(Config{Site: "melb", Transparency: transparency, Segments: w, Session: s, Held: held, Note: k.path("held"), Log: quiet})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for seq := began; ; {
		for range 5 {
			seq++
			r.Deliver(sent(nth(seq)))
		}
		seq++
		r.Deliver(backfill(seq, 1, nth(seq-1), nth(seq))) // one of them is held
		for acked := uint64(0); acked < seq; {
			select {
			case acked = <-s.acked:
			case err := <-done:
				cancel()
				return err
			}
		}
		if count > 0 && seq-began >= count {
			cancel()
			return <-done
		}
	}
}

// acked returns up to which number the processes told that it is acknowledged.
func (k keeper) acked(t *testing.T) (acked uint64) {
	t.Helper()
	b, err := os.ReadFile(k.path("acked"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if n, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64); err == nil && strings.HasSuffix(line, "\n") {
			acked = max(acked, n)
		}
	}
	return acked
}

// check holds what was acknowledged to what is kept: each message once and
// whole, in segments, and in the log where it is signed.
func (k keeper) check(t *testing.T, after string) (acked uint64) {
	t.Helper()
	acked = k.acked(t)
	kept := make(map[string]int)
	p := place{t: t, dir: k.dir}
	for _, text := range p.kept() {
		_, text, _ = strings.Cut(text, " ")
		kept[text]++
	}
	logged := make(map[string]int)
	raw, err := os.ReadFile(filepath.Join(k.path("log"), filepath.FromSlash(proof.TreeStateFile)))
	must(t, err)
	tree, err := proof.ParseTreeState(raw)
	must(t, err)
	must(t, readLog(k.path("log"), tree.N, func(l leaf.Leaf) { logged[string(l.Data)]++ }))
	for seq := uint64(1); seq <= acked; seq++ {
		text := nth(seq)
		if kept[text] != 1 {
			t.Errorf("%s: %d is acknowledged, and %d times in segments (up to %d)", after, seq, kept[text], acked)
		}
		if seq%5 == 0 && logged[text] == 0 {
			t.Errorf("%s: %d is acknowledged, signed, and not in the log", after, seq)
		}
	}
	for text, n := range kept {
		if n > 1 {
			t.Errorf("%s: kept %d times: %s", after, n, text)
		}
	}
	for text := range logged {
		if kept[text] == 0 {
			t.Errorf("%s: logged, and in no segment: %s", after, text)
		}
	}
	return acked
}

// child is a process that keeps count messages.
func (k keeper) child(count int, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildKeeps$", "-test.count=1")
	cmd.Env = append(append(os.Environ(), childKeeps+"="+k.dir, childCount+"="+strconv.Itoa(count), "GOMAXPROCS=1"), env...)
	return cmd
}

// TestKilledWhileKeeping kills a recorder (SIGKILL) at any moments: nothing that
// it had acknowledged is lost, or kept twice.
func TestKilledWhileKeeping(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	var acked uint64
	for round := range 6 {
		cmd := k.child(0)
		must(t, cmd.Start())
		for deadline := time.Now().Add(time.Minute); k.acked(t) < acked+12 && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Duration(round) * 17 * time.Millisecond)
		must(t, cmd.Process.Kill())
		if exit := new(exec.ExitError); !errors.As(cmd.Wait(), &exit) || exit.Exited() {
			t.Fatal("the recorder ended by itself")
		}
		acked = k.check(t, fmt.Sprint("killed, round ", round))
	}
	if out, err := k.child(12).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if last := k.check(t, "at the end"); last < acked+12 {
		t.Errorf("%d are acknowledged after %d", last, acked)
	}
}

// TestFileOperationsFailWhileKeeping has every kind of file operation fail, or end
// the process: what was acknowledged is there, and the next run goes on.
func TestFileOperationsFailWhileKeeping(t *testing.T) {
	t.Parallel()
	faults.Each(t, map[string]int{"write": 9, "fsync": 8, "renameat": 4}, func(t *testing.T) (*exec.Cmd, func(string)) {
		k := newKeeper(t)
		return k.child(12), func(after string) {
			acked := k.check(t, after)
			if out, err := k.child(6).CombinedOutput(); err != nil {
				t.Fatalf("%s: the next run: %v\n%s", after, err, out)
			}
			if again := k.check(t, after+", and another run"); again < acked+6 {
				t.Errorf("%s: %d are acknowledged after %d", after, again, acked)
			}
		}
	})
}

// TestDiskFull has segments on a file system that fills up: the recorder stops
// with an error that says so, acknowledges nothing that it could not keep, and
// goes on when there is room again.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		programs.Missing(t, "the right to mount a file system", "run as root")
	}
	t.Parallel()
	k := newKeeper(t)
	cmd := k.child(60, childSpace+"=65536")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// fillDisk is the child of TestDiskFull: what it mounts nobody else sees.
func fillDisk(t *testing.T, k keeper, space string, count uint64) {
	must(t, syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	must(t, syscall.Mount("none", k.path("segments"), "tmpfs", 0, "size="+space))
	defer syscall.Unmount(k.path("segments"), 0)
	filler := filepath.Join(k.path("segments"), "filler")
	must(t, os.WriteFile(filler, make([]byte, 40<<10), 0o600))
	if err := k.keep(t.Context(), 100*count); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a full disk: %v", err)
	}
	acked := k.check(t, "the disk is full")
	if acked == 0 {
		t.Fatal("nothing was acknowledged before")
	}
	if err := k.keep(t.Context(), count); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a disk that is full still: %v", err)
	}
	if again := k.check(t, "the disk is full still"); again != acked {
		t.Errorf("%d are acknowledged after %d", again, acked)
	}
	must(t, os.Remove(filler))
	must(t, k.keep(t.Context(), count))
	if again := k.check(t, "there is room again"); again < acked+count {
		t.Errorf("%d are acknowledged after %d", again, acked)
	}
}
