package translog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/translog/proof"
)

func TestAppendedEntriesAreVerified(t *testing.T) {
	s := newSite(t)
	s.create(t)
	l := s.open(t)
	want := map[uint64]string{}
	for b, n := range []int{1, 2, 252, 1, 1, 300, 700, 1} {
		batch := entries(fmt.Sprint("batch ", b), n)
		indexes, err := l.AppendAll(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		for i, index := range indexes {
			want[index] = string(batch[i])
		}
	}
	cp, err := l.Checkpoint(t.Context())
	if err != nil || cp.Tree.N != 1258 {
		t.Fatalf("checkpoint of %d entries: %v", cp.Tree.N, err)
	}
	got := s.verify(t)
	s.close(t, l)
	if again := s.verify(t); !slices.Equal(again, got) {
		t.Fatal("closing changed the log")
	}
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i, entry := range got {
		if want[uint64(i)] != entry {
			t.Fatalf("entry %d is %q, want %q", i, entry, want[uint64(i)])
		}
	}
}

func TestInclusionProofs(t *testing.T) {
	s := newSite(t)
	s.create(t)
	l := s.open(t)
	defer s.close(t, l)
	if _, err := l.AppendAll(t.Context(), entries("before", 300)); err != nil {
		t.Fatal(err)
	}
	index, err := l.Append(t.Context(), []byte("a command"))
	if err != nil {
		t.Fatal(err)
	}
	// The checkpoint covers what was appended before it, at once.
	cp, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	reader := tlog.TileHashReader(cp.Tree, proof.Tiles(os.DirFS(s.cfg.Dir)))
	p, err := tlog.ProveRecord(cp.Tree.N, int64(index), reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.CheckRecord(p, cp.Tree.N, cp.Tree.Hash, int64(index), tlog.RecordHash([]byte("a command"))); err != nil {
		t.Fatal(err)
	}
	if tlog.CheckRecord(p, cp.Tree.N, cp.Tree.Hash, int64(index), tlog.RecordHash([]byte("another"))) == nil {
		t.Fatal("the proof holds for another entry")
	}
}

func TestCheckpointsArePublishedByThemselves(t *testing.T) {
	s := newSite(t)
	s.create(t)
	s.cfg.CheckpointInterval = 10 * time.Millisecond
	l := s.open(t)
	defer s.close(t, l)
	if _, err := l.Append(t.Context(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	for t.Context().Err() == nil {
		if strings.HasPrefix(string(read1(t, filepath.Join(s.cfg.Dir, "checkpoint"))), testOrigin+"\n1\n") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestTheLogIsContinued(t *testing.T) {
	s := newSite(t)
	s.create(t)
	for i := range 4 {
		s.extend(t, fmt.Sprint("run ", i), 100, 30)
	}
	if n := len(s.verify(t)); n != 520 {
		t.Fatalf("%d entries", n)
	}
}

func TestSupersededTilesAreCollected(t *testing.T) {
	s := newSite(t)
	s.create(t)
	l := s.open(t)
	for i := range 6 {
		if _, err := l.AppendAll(t.Context(), entries(fmt.Sprint(i), 100)); err != nil {
			t.Fatal(err)
		}
	}
	partial := func() []string {
		return slices.DeleteFunc(s.files(t), func(name string) bool { return !strings.Contains(name, ".p/") })
	}
	if len(partial()) < 10 {
		t.Fatalf("only %v", partial())
	}
	crashed := s.backup(t)
	s.close(t, l)
	want := []string{"tile/0/002.p/88", "tile/1/000.p/1", "tile/1/000.p/2", "tile/entries/002.p/88"}
	if got := partial(); !slices.Equal(got, want) {
		t.Fatalf("still there: %v", got)
	}
	s.verify(t)
	// The next writer collects what one that was killed had not.
	s.restore(t, crashed)
	s.verify(t)
	s.extend(t, "after", 1)
	for _, name := range partial() {
		if strings.Contains(name, "/000.p/") && !strings.HasPrefix(name, "tile/1/") || strings.Contains(name, "/001.p/") {
			t.Errorf("still there: %s", name)
		}
	}
	s.verify(t)
}

// The verifier runs while the log grows, is published and collected.
func TestVerifyWhileTheLogGrows(t *testing.T) {
	s := newSite(t)
	s.create(t)
	s.cfg.CheckpointInterval = 10 * time.Millisecond
	l := s.open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := l.AppendAll(context.WithoutCancel(ctx), entries(fmt.Sprint(w, " ", i), 1+i%90)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	cfg := s.proofConfig()
	cfg.Grace = 10 * time.Second
	runs, size := 0, int64(0)
	for ctx.Err() == nil {
		cp, err := proof.Verify(t.Context(), cfg, func(int64, []byte) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		runs, size = runs+1, cp.Tree.N
	}
	writers.Wait()
	s.close(t, l)
	s.verify(t)
	t.Logf("%d verifications, the last of %d entries", runs, size)
	if runs < 2 || size < 300 {
		t.Fatal("the log did not grow while it was verified")
	}
}

func TestEntriesOutsideTheBoundsAreRefused(t *testing.T) {
	s := newSite(t)
	s.create(t)
	l := s.open(t)
	defer s.close(t, l)
	for _, entry := range [][]byte{nil, {}, make([]byte, MaxEntry+1)} {
		if _, err := l.Append(t.Context(), entry); err == nil {
			t.Errorf("%d bytes were appended", len(entry))
		}
	}
	if index, err := l.Append(t.Context(), make([]byte, MaxEntry)); err != nil || index != 0 {
		t.Errorf("the longest entry: %d, %v", index, err)
	}
	if indexes, err := l.AppendAll(t.Context(), nil); err != nil || len(indexes) != 0 {
		t.Errorf("no entries: %v, %v", indexes, err)
	}
}

func TestAppendTakesACopy(t *testing.T) {
	s := newSite(t)
	s.create(t)
	s.cfg.BatchAge = 300 * time.Millisecond
	l := s.open(t)
	entry := []byte("before")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := l.Append(ctx, entry); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	copy(entry, "after!")
	s.close(t, l) // waits for the entry although its caller has gone
	if got := s.verify(t); !slices.Equal(got, []string{"before"}) {
		t.Fatalf("got %q", got)
	}
}

func TestAClosedLogRefuses(t *testing.T) {
	s := newSite(t)
	s.create(t)
	l := s.open(t)
	s.close(t, l)
	if _, err := l.Append(t.Context(), []byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("Append: %v", err)
	}
	if _, err := l.Checkpoint(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Checkpoint: %v", err)
	}
	if err := l.Close(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Close: %v", err)
	}
}

// A directory in the place of the next bundle stands for any write that fails.
func TestAFailedWriteStopsTheLog(t *testing.T) {
	s := newSite(t)
	s.create(t)
	s.extend(t, "before", 10)
	l := s.open(t)
	block := filepath.Join(s.cfg.Dir, "tile/0/000.p/11")
	if err := os.MkdirAll(filepath.Join(block, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), []byte("lost")); !errors.Is(err, ErrStopped) {
		t.Fatalf("got %v", err)
	}
	if err := os.RemoveAll(block); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(t.Context(), []byte("too early")); !errors.Is(err, ErrStopped) {
		t.Fatalf("got %v", err)
	}
	if s.log.seen("log stopped: nothing more is appended until it is opened again") != 1 {
		t.Error("the stop was not logged once")
	}
	if !libraryLines.mentions("Integrate failed") {
		t.Error("what Tessera says of it did not reach the logger")
	}
	s.close(t, l)
	s.extend(t, "after", 1)
	if got := s.verify(t); len(got) != 11 || got[10] != "after 0 entry 0" {
		t.Fatalf("got %q", got)
	}
}

// What a writer that was killed left behind goes at the next opening; what
// nobody of ours can have left stays, for the verifier to name.
func TestLeftoversAreRemoved(t *testing.T) {
	s := newSite(t)
	s.create(t)
	s.extend(t, "before", 300)
	for _, name := range []string{
		"tile/entries/001.p/60", "tile/entries/002", "tile/0/002", "tile/0/001.p/441804289383", "tile/entries/002.p/77",
		".state/treeState1234", "checkpoint0",
	} {
		path := filepath.Join(s.cfg.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		write1(t, path, []byte("half"))
	}
	s.extend(t, "after", 10)
	if n := len(s.verify(t)); n != 310 {
		t.Fatalf("%d entries", n)
	}
	write1(t, filepath.Join(s.cfg.Dir, "tile/foreign"), nil)
	s.extend(t, "more", 1)
	var file *proof.FileError
	if _, err := proof.Verify(t.Context(), s.proofConfig(), nil); !errors.As(err, &file) || file.Path != "tile/foreign" {
		t.Fatalf("got %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	s := newSite(b)
	s.create(b)
	s.cfg.BatchAge = DefaultBatchAge
	s.cfg.CheckpointInterval = time.Second
	l := s.open(b)
	entry := make([]byte, 700)
	b.SetParallelism(512)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := l.Append(b.Context(), entry); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	s.close(b, l)
}
