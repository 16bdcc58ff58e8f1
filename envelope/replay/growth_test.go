//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package replay

import (
	"fmt"
	"os"
	"sync"
	"testing"
)

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// admitted lets that many senders in.
func admitted(t *testing.T, s *Set, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		wantVerdict(t, s, named(fmt.Sprint("s", i), 2, 1, inTime), Fresh)
	}
}

// remembered checks that none of them is taken for new, and that each one's
// clone is noticed.
func remembered(t *testing.T, s *Set, n int) {
	t.Helper()
	for i := range n {
		wantVerdict(t, s, named(fmt.Sprint("s", i), 2, 1, inTime), Redelivery)
		wantVerdict(t, s, named(fmt.Sprint("s", i), 1, 9, inTime+1), Clone)
	}
}

// whole checks that the file was trusted.
func whole(t *testing.T, s *Set) {
	t.Helper()
	if st := s.Stats(); st.Damaged != 0 || st.Floor != testFloor {
		t.Errorf("%+v", st)
	}
}

// A file takes the room that its senders need, and loses none by growing.
func TestFileGrows(t *testing.T) {
	const senders = 3*growth + 5
	path := newPath(t)
	s := mustOpen(t, path, senders, testStart, "boot-1")
	if got, want := fileSize(t, path), int64(sizeOf(growth)); got != want {
		t.Errorf("a new file has %d bytes, want %d", got, want)
	}
	done := make(chan struct{})
	var syncing sync.WaitGroup
	syncing.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if err := s.Sync(); err != nil {
					t.Error(err)
				}
				s.Forget(1)
			}
		}
	})
	admitted(t, s, 0, senders)
	close(done)
	syncing.Wait()
	wantVerdict(t, s, named("one more", 1, 1, inTime), Full)
	if got, want := fileSize(t, path), int64(sizeOf(4*growth)); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
	remembered(t, s, senders)
	mustClose(t, s)

	s = mustOpen(t, path, senders, inTime+1_000_000, "boot-1")
	whole(t, s)
	if st := s.Stats(); st.Senders != senders || st.Capacity != senders {
		t.Errorf("%+v", st)
	}
	remembered(t, s, senders)
	mustClose(t, s)
}

// Another capacity makes the set forget nobody, and decides who is let in.
func TestCapacityMayChange(t *testing.T) {
	const senders = growth + 500
	path := newPath(t)
	s := mustOpen(t, path, senders, testStart, "boot-1")
	admitted(t, s, 0, senders)
	known := senders
	mustClose(t, s)
	for i, capacity := range []int{1, 5, senders, senders + 1, 4 * senders, MaxCapacity, senders - 1} {
		s := mustOpen(t, path, capacity, inTime+1_000_000, "boot-1")
		whole(t, s)
		if st := s.Stats(); st.Senders != known || st.Capacity != capacity {
			t.Errorf("capacity %d: %+v", capacity, st)
		}
		remembered(t, s, known)
		want := Full
		if known < capacity {
			want = Fresh
		}
		wantVerdict(t, s, named(fmt.Sprint("s", known), 2, 1, inTime), want)
		if want == Fresh {
			known++
		}
		// The other room's bound is its own, even in a set that is too full.
		wantVerdict(t, s, unproven("u", 1, uint64(i+1), inTime), Fresh)
		remembered(t, s, known)
		mustClose(t, s)
	}
}

// A kill in the middle of growing leaves a longer file of which the header
// knows nothing, and any part of a record at its end.
func TestGrowthCutShort(t *testing.T) {
	for _, more := range []int{1, recordSize - 1, recordSize, 7*recordSize + 100, growth * recordSize} {
		path := newPath(t)
		s := mustOpen(t, path, 4*growth, testStart, "boot-1")
		admitted(t, s, 0, growth)
		mustClose(t, s)
		if err := os.Truncate(path, int64(sizeOf(growth)+more)); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, path, 4*growth, inTime+1_000_000, "boot-1")
		whole(t, s)
		admitted(t, s, growth, 3*growth)
		remembered(t, s, 3*growth)
		mustClose(t, s)
		s = mustOpen(t, path, 4*growth, inTime+1_000_000, "boot-1")
		whole(t, s)
		remembered(t, s, 3*growth)
		mustClose(t, s)
	}
}

// The unproven are counted as such after a restart as well.
func TestUnprovenRoomAfterRestart(t *testing.T) {
	path := newPath(t)
	s := mustOpen(t, path, 8, testStart, "boot-1")
	for i := range 4 {
		wantVerdict(t, s, unproven(fmt.Sprint(i), 1, 1, inTime), Fresh)
	}
	wantVerdict(t, s, unproven("4", 1, 1, inTime), Full)
	mustClose(t, s)
	s = mustOpen(t, path, 8, inTime+1_000_000, "boot-1")
	whole(t, s)
	wantVerdict(t, s, unproven("4", 1, 1, inTime), Full)
	wantVerdict(t, s, unproven("3", 1, 1, inTime), Redelivery)
	admitted(t, s, 0, 8)
	wantVerdict(t, s, named("one more", 1, 1, inTime), Full)
	mustClose(t, s)
}
