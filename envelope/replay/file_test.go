//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package replay

import (
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const (
	testStart = int64(1_000_000)
	testSkew  = 30 * time.Second
	testFloor = testStart + 30_000
	inTime    = testFloor // the earliest time that a new file accepts
)

func mustOpen(t rapid.TB, path string, capacity int, start int64, boot string) *Set {
	t.Helper()
	s, err := Open(path, capacity, start, testSkew, BootID(boot))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t rapid.TB, s *Set) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantVerdict(t rapid.TB, s *Set, m Message, want Verdict) {
	t.Helper()
	if got := s.Check(m); got != want {
		t.Fatalf("boot %d seq %d time %d: %v, want %v", m.Boot, m.Seq, m.Time, got, want)
	}
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "windows") }

func TestNewFileRefusesWhatCameBefore(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, 4, testStart, "boot-1")
	wantVerdict(t, s, message(1, 1, testStart), BeforeStart)
	wantVerdict(t, s, message(1, 1, testFloor-1), BeforeStart)
	wantVerdict(t, s, message(1, 1, testFloor), Fresh)
	wantVerdict(t, s, message(1, 1, testFloor), Redelivery)
	wantVerdict(t, s, message(1, 2, testFloor-1), BeforeStart)
	if got := s.Stats(); got != (Stats{Senders: 1, Capacity: 4, Floor: testFloor}) {
		t.Errorf("stats %+v", got)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 || info.Size() != int64(sizeOf(bothRooms(4))) {
		t.Errorf("mode %v, size %d", info.Mode(), info.Size())
	}
	mustClose(t, s)
}

func TestRestartForgetsNothing(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, 2, testStart, "boot-1")
	wantVerdict(t, s, message(1, 1, inTime), Fresh)
	wantVerdict(t, s, message(2, 500, inTime+1), Fresh)
	wantVerdict(t, s, message(2, 400, inTime+1), Fresh)
	mustClose(t, s)

	// Much later, so that a wrongly renewed floor would show.
	s = mustOpen(t, path, 2, inTime+1_000_000, "boot-1")
	wantVerdict(t, s, message(2, 500, inTime+1), Redelivery)
	wantVerdict(t, s, forged(2, 500, inTime+1), Collision)
	wantVerdict(t, s, message(2, 400, inTime+1), Repeat)
	wantVerdict(t, s, message(1, 1, inTime), Late)
	wantVerdict(t, s, message(1, 2, inTime+2), Clone)
	wantVerdict(t, s, message(2, 501, inTime+2), Fresh)
	other := message(1, 1, inTime+2)
	other.Sender = []byte("melb/sensor/web-2")
	wantVerdict(t, s, other, Fresh)
	other.Sender = []byte("melb/sensor/web-3")
	wantVerdict(t, s, other, Full)
	if got := s.Stats().Damaged; got != 0 {
		t.Errorf("%d damaged", got)
	}
	mustClose(t, s)
}

func TestRebootRefusesWhatCameBefore(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, 2, testStart, "boot-1")
	wantVerdict(t, s, message(1, 1, inTime), Fresh)
	wantVerdict(t, s, message(1, 2, inTime+100), Fresh)
	mustClose(t, s)

	start := inTime + 1000
	floor := start + 30_000
	s = mustOpen(t, path, 2, start, "boot-2")
	wantVerdict(t, s, message(1, 2, inTime+100), BeforeStart)
	wantVerdict(t, s, message(1, 3, floor-1), BeforeStart)
	mustClose(t, s)

	// The process alone starts again, still within the skew. The file now
	// bears the new boot, but what the reboot lost stays lost.
	s = mustOpen(t, path, 2, start+10_000, "boot-2")
	wantVerdict(t, s, message(1, 3, floor-1), BeforeStart)
	wantVerdict(t, s, message(1, 3, floor), Fresh)
	// What the file did remember still counts: no clock is needed for it.
	wantVerdict(t, s, message(1, 2, floor), Redelivery)
	mustClose(t, s)
}

func TestUnknownBootCountsAsReboot(t *testing.T) {
	path := newPath(t)
	for i := range int64(3) {
		s := mustOpen(t, path, 2, testStart+i*100_000, "")
		wantVerdict(t, s, message(1, 1, testFloor+i*100_000-1), BeforeStart)
		mustClose(t, s)
	}
}

func TestFloorOfAClockThatRanAheadIsLowered(t *testing.T) {
	path := newPath(t)
	mustClose(t, mustOpen(t, path, 2, testStart*1000, "boot-1"))
	s := mustOpen(t, path, 2, testStart, "boot-1")
	wantVerdict(t, s, message(1, 1, testFloor-1), BeforeStart)
	wantVerdict(t, s, message(1, 1, testFloor), Fresh)
	mustClose(t, s)
}

func TestReclaimedSendersStayReclaimedAcrossRestart(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, 1, testStart, "boot-1")
	wantVerdict(t, s, message(1, 1, inTime+500), Fresh)
	if got := s.Forget(math.MaxInt64); got != 1 {
		t.Fatalf("reclaimed %d", got)
	}
	mustClose(t, s)
	s = mustOpen(t, path, 1, testStart, "boot-1")
	wantVerdict(t, s, message(1, 1, inTime+500), Late)
	wantVerdict(t, s, message(1, 2, inTime+501), Fresh)
	mustClose(t, s)
}

func TestKernelBootIsTheDefault(t *testing.T) {
	if kernelBootID() == "" {
		t.Skip("this kernel has no boot identifier")
	}
	path := newPath(t)
	for i := range int64(2) {
		s, err := Open(path, 1, testStart+i*1000, testSkew)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Stats().Floor; got != testFloor {
			t.Errorf("open %d: floor %d, want %d", i, got, testFloor)
		}
		mustClose(t, s)
	}
}

func TestLock(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, 1, testStart, "boot-1")
	wantVerdict(t, s, message(1, 1, inTime), Fresh)
	if _, err := Open(path, 1, testStart, testSkew, BootID("boot-2")); !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v, want %v", err, ErrLocked)
	}
	wantVerdict(t, s, message(1, 1, inTime), Redelivery)
	wantVerdict(t, s, message(1, 2, inTime), Fresh)
	mustClose(t, s)
	mustClose(t, mustOpen(t, path, 1, testStart, "boot-1"))
}

func TestOpenRefuses(t *testing.T) {
	valid := func(t *testing.T) string {
		path := newPath(t)
		mustClose(t, mustOpen(t, path, 4, testStart, "boot-1"))
		return path
	}
	// edit changes one byte of a valid file.
	edit := func(at int64) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := valid(t)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[at] ^= 0x10
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	content := func(b string) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := newPath(t)
			if err := os.WriteFile(path, []byte(b), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	resize := func(by int64) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := valid(t)
			if err := os.Truncate(path, int64(sizeOf(bothRooms(4)))+by); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	// start is the beginning of a file, which may be a sparse one, and its length.
	start := func(t *testing.T, path string) (string, int64) {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return string(b), info.Size()
	}
	tests := []struct {
		name string
		make func(t *testing.T) string
		says string // the advice in the error
	}{
		{"another file", content("#!/bin/sh\n"), "remove the file"},
		{"one byte", content("x"), "remove the file"},
		{"magic", edit(3), "remove the file"},
		{"record size", edit(16), "damaged"},
		{"capacity", edit(24), "damaged"},
		{"floor", edit(33), "damaged"},
		{"boot", edit(50), "damaged"},
		{"checksum", edit(headerSum), "damaged"},
		{"rest of the header", edit(300), "damaged"},
		{"cut short by a byte", resize(-1), "bytes long"},
		{"cut short to the header", resize(int64(headerSize - sizeOf(bothRooms(4)))), "bytes long"},
		{"cut short within the header", resize(int64(20 - sizeOf(bothRooms(4)))), "remove the file"},
		{"longer than any", resize(int64(sizeOf(bothRooms(MaxCapacity)))), "bytes long"},
		{"open to the group", func(t *testing.T) string {
			path := valid(t)
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
			return path
		}, "chmod 600"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := test.make(t)
			before, length := start(t, path)
			_, err := Open(path, 4, testStart, testSkew, BootID("boot-1"))
			if !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want %v with %q", err, ErrUnusable, test.says)
			}
			if after, now := start(t, path); after != before || now != length {
				t.Error("the refused file was changed")
			}
		})
	}

	t.Run("symbolic link", func(t *testing.T) {
		path, target := newPath(t), newPath(t)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, 4, testStart, testSkew); err == nil {
			t.Error("accepted")
		}
		if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
			t.Error("made a file where the link points")
		}
	})
	t.Run("directory", func(t *testing.T) {
		if _, err := Open(t.TempDir(), 4, testStart, testSkew); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("no such directory", func(t *testing.T) {
		if _, err := Open(filepath.Join(newPath(t), "x"), 4, testStart, testSkew); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("arguments", func(t *testing.T) {
		path := newPath(t)
		for _, a := range []struct {
			capacity int
			start    int64
			skew     time.Duration
		}{
			{0, testStart, testSkew}, {-1, testStart, testSkew}, {MaxCapacity + 1, testStart, testSkew},
			{4, 0, testSkew}, {4, -5, testSkew}, {4, testStart, 0}, {4, testStart, -time.Second},
		} {
			if _, err := Open(path, a.capacity, a.start, a.skew); err == nil {
				t.Errorf("%+v accepted", a)
			}
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Error("a refused open left a file behind")
		}
	})
}

func TestFloor(t *testing.T) {
	for _, test := range []struct {
		start int64
		skew  time.Duration
		want  int64
	}{
		{1000, time.Second, 2000},
		{1000, 1, 1001}, // never below start + skew
		{1000, time.Millisecond + 1, 1002},
		{math.MaxInt64, time.Second, math.MaxInt64},
		{math.MaxInt64 - 1000, time.Second, math.MaxInt64},
	} {
		if got := floorOf(test.start, test.skew); got != test.want {
			t.Errorf("start %d, skew %v: %d, want %d", test.start, test.skew, got, test.want)
		}
	}
}

// TestUnfinishedCreationStartsAgain: a first start that was killed before the
// header leaves zeros, which must not need an operator.
func TestUnfinishedCreationStartsAgain(t *testing.T) {
	for _, size := range []int64{0, 1, headerSize, recordOffset + 100, recordOffset + 4*recordSize, 1 << 20} {
		path := newPath(t)
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		s := mustOpen(t, path, 4, testStart, "boot-1")
		wantVerdict(t, s, message(1, 1, testFloor-1), BeforeStart)
		wantVerdict(t, s, message(1, 1, testFloor), Fresh)
		if got := s.Stats().Damaged; got != 0 {
			t.Errorf("size %d: %d damaged", size, got)
		}
		mustClose(t, s)
	}
}

// TestCutShortWhileOpen: the page behind the mapping is gone, as it is when a
// disk fails to read it. That must not kill the process, nor accept anything.
func TestCutShortWhileOpen(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, 4, testStart, "boot-1")
	wantVerdict(t, s, message(1, 1, inTime), Fresh)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq < 4; seq++ {
		wantVerdict(t, s, message(1, seq, inTime), Unavailable)
	}
	if err := s.Sync(); err == nil || errors.Is(err, errClosed) {
		t.Errorf("sync: %v", err)
	}
	if s.Forget(math.MaxInt64) != 0 {
		t.Error("reclaimed")
	}
	if _, ok := s.Lookup([]byte("melb/sensor/web-1")); ok {
		t.Error("found")
	}
	if err := s.release(); err != nil {
		t.Error(err)
	}
}

func TestFaultInEachMethod(t *testing.T) {
	for name, touch := range map[string]func(s *Set){
		"forget": func(s *Set) { s.Forget(math.MaxInt64) },
		"lookup": func(s *Set) { s.Lookup([]byte("melb/sensor/web-1")) },
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			s := mustOpen(t, path, 1, testStart, "boot-1")
			wantVerdict(t, s, message(1, 1, inTime), Fresh)
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
			touch(s)
			if s.Sync() == nil {
				t.Error("the fault went unnoticed")
			}
			wantVerdict(t, s, message(1, 2, inTime), Unavailable)
			if err := s.release(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOtherPanicsGoOn(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a fault of the program was swallowed")
		}
	}()
	s := New(1)
	s.state = nil
	s.Check(message(1, 1, 1000))
}

func TestCheckInAFileDoesNotAllocate(t *testing.T) {
	s := mustOpen(t, newPath(t), 2, testStart, "boot-1")
	m := message(1, 1, inTime)
	s.Check(m)
	if n := testing.AllocsPerRun(100, func() { m.Seq++; s.Check(m) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	mustClose(t, s)
}

// TestCloseAmidTraffic: the mapping goes away under checks and syncs.
func TestCloseAmidTraffic(t *testing.T) {
	for range 20 {
		s := mustOpen(t, newPath(t), 4, testStart, "boot-1")
		var wg sync.WaitGroup
		for w := range uint64(3) {
			wg.Go(func() {
				for seq := uint64(1); ; seq++ {
					switch v := s.Check(message(1, seq*3+w, inTime)); v {
					case Fresh, Late, Repeat, Redelivery:
					case Unavailable:
						return
					default:
						t.Error(v)
					}
				}
			})
		}
		wg.Go(func() {
			for s.Sync() == nil {
				s.Forget(inTime)
				s.Stats()
				s.Lookup([]byte("melb/sensor/web-1"))
			}
		})
		time.Sleep(2 * time.Millisecond)
		mustClose(t, s)
		wg.Wait()
	}
}

// TestFileAgainstModel restarts and reboots in the middle of hostile traffic.
func TestFileAgainstModel(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "windows")
		defer os.Remove(path)
		const capacity = 3
		boot, start := "a", int64(1)
		open := func() *Set {
			s, err := Open(path, capacity, start, time.Second, BootID(boot))
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s, d := open(), newModel(capacity)
		defer func() { s.Close() }()
		d.floor = start + 1000
		t.Repeat(map[string]func(*rapid.T){
			"check": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "messages") {
					d.compare(t, s, d.next(t))
				}
			},
			"forget": func(t *rapid.T) { d.forget(t, s, rapid.Int64Range(0, 6000).Draw(t, "before")) },
			"reopen": func(t *rapid.T) {
				mustClose(t, s)
				start += rapid.Int64Range(0, 300).Draw(t, "pause")
				if rapid.Bool().Draw(t, "reboot") {
					boot += "'"
					d.floor = start + 1000
				}
				s = open()
			},
		})
	})
}
