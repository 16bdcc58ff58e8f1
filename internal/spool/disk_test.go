package spool

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// running runs the spool until stop is called.
func running(s *Spool) (stop func()) {
	done := make(chan struct{})
	var w sync.WaitGroup
	w.Go(func() { s.Run(done) })
	return sync.OnceFunc(func() { close(done); w.Wait() })
}

// broken is a directory that cannot be made, whoever asks: a file is in its way.
// repair takes it away.
func broken(t testing.TB) (dir string, repair func()) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(file, "outbox"), func() {
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	}
}

// A disk that takes nothing is an alarm, once; messages are held in memory, within
// a bound, and on disk as soon as it takes them again.
func TestDiskThatTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, repair := broken(t)
		log := new(logBuffer)
		s := open(t, dir, testBoot, logsTo(log), func(c *Config) { c.Max = noLimit })
		stop := running(s)
		defer stop()
		var seq, next uint64 = 1, 1
		for range 10 {
			s.add(t, seq, seq+99, 8000)
			seq += 100
			for {
				loss, ok := s.Excess()
				if !ok {
					break
				}
				if loss.Drops[0] != drop(testBoot, next, next+uint64(loss.Messages)-1) {
					t.Fatalf("gives up %v, not from %d", loss.Drops, next)
				}
				next += uint64(loss.Messages)
				s.GiveUp(loss)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if s.memory > maxMemory {
				t.Fatalf("%d bytes in memory", s.memory)
			}
		}
		if next == 1 {
			t.Error("nothing was given up")
		}
		if !s.Stats().Failed || log.count("cannot be kept on disk") != 1 {
			t.Errorf("failed: %v, said %d times", s.Stats().Failed, log.count("cannot be kept on disk"))
		}
		if b, err := s.Oldest(noLimit, 3, 1<<60, plain); err != nil || len(b.Envelopes) != 3 {
			t.Errorf("from memory: %d, %v", len(b.Envelopes), err)
		}
		repair()
		time.Sleep(retryEvery + syncEvery)
		synctest.Wait()
		if s.Stats().Failed || log.count("on disk again") != 1 || s.memory != 0 {
			t.Errorf("failed: %v, said %d times, %d bytes in memory", s.Stats().Failed, log.count("on disk again"), s.memory)
		}
		wants(t, "the next start", open(t, dir, testBoot+1, func(c *Config) { c.Max = noLimit }).rest(t), testBoot, next, seq-1)
	})
}

// A disk that fails is not asked again for each message.
func TestFailingDiskIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, _ := broken(t)
		s := open(t, dir, testBoot)
		stop := running(s)
		defer stop()
		s.add(t, 1, 1, 0)
		synctest.Wait()
		first := s.retry()
		if !first.Equal(time.Now().Add(retryEvery)) {
			t.Errorf("it is asked again at %s", first)
		}
		for seq := uint64(2); seq < 9; seq++ {
			time.Sleep(time.Second)
			s.add(t, seq, seq, 0)
			synctest.Wait()
		}
		if !s.retry().Equal(first) {
			t.Error("it was asked again")
		}
	})
}

// What cannot be removed is tried again.
func TestRemovalThatFails(t *testing.T) {
	dir := fresh(t)
	s := open(t, dir, testBoot)
	s.add(t, 1, 40, 8000)
	s.add(t, 41, 41, 0)
	s.stored()
	path := s.chunks[0].path(dir)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	inTheWay := filepath.Join(path, "x") // a directory that is not empty
	if err := os.MkdirAll(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	s.Release(testBoot, 41)
	s.stored()
	if !s.Stats().Failed || len(s.removals) != 1 {
		t.Errorf("%+v, %d to remove", s.Stats(), len(s.removals))
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	s.writer.retry = time.Time{}
	s.stored()
	if s.Stats().Failed || len(s.removals) != 0 || len(files(t, dir)) != 1 {
		t.Errorf("%+v, %d to remove, %v", s.Stats(), len(s.removals), files(t, dir))
	}
}

// dirty returns how many files are not synced.
func (s *Spool) dirty() int {
	s.writer.mu.Lock()
	defer s.writer.mu.Unlock()
	return len(s.writer.dirty)
}

// retry returns when the disk is asked again.
func (s *Spool) retry() time.Time {
	s.writer.mu.Lock()
	defer s.writer.mu.Unlock()
	return s.writer.retry
}

// A disk is synced only when the recorder is slow, and at the end.
func TestSyncing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.UnixMilli(testBoot + 1)))
		s := open(t, fresh(t), testBoot)
		stop := running(s)
		s.add(t, 1, 1, 0)
		time.Sleep(syncAge - time.Second)
		synctest.Wait()
		if s.dirty() != 1 {
			t.Error("synced before its time")
		}
		time.Sleep(syncEvery + time.Second)
		synctest.Wait()
		if s.dirty() != 0 {
			t.Error("not synced in time")
		}
		s.add(t, 2, 2, 0)
		s.Release(testBoot, 1)
		time.Sleep(time.Millisecond)
		stop()
		if s.dirty() != 0 || s.memory != 0 {
			t.Error("not synced at the end")
		}
	})
}

// Who adds, releases and reads, and who writes, do not disturb each other.
func TestAtTheSameTime(t *testing.T) {
	dir := fresh(t)
	s := open(t, dir, testBoot)
	stop := running(s)
	var w sync.WaitGroup
	const last = 3000
	w.Go(func() {
		for seq := uint64(1); seq <= last; seq += 10 {
			s.add(t, seq, seq+9, 1000)
			if loss, ok := s.Excess(); ok {
				t.Errorf("gives up %v", loss.Drops)
			}
		}
	})
	w.Go(func() {
		for next := uint64(1); next <= last; {
			b, err := s.Oldest(48<<10, 256, 1<<60, plain)
			if err != nil {
				t.Error(err)
				return
			}
			for _, raw := range b.Envelopes {
				if !bytes.Contains(raw, fmt.Appendf(nil, `-%d","topic"`, next)) {
					t.Errorf("not message %d: %.100s", next, raw)
					return
				}
				next++
			}
			if len(b.Envelopes) > 0 {
				s.ReleaseTo(b.Last)
			}
			s.Stats()
		}
	})
	w.Wait()
	stop()
	if st := s.Stats(); st.Messages != 0 || len(files(t, dir)) > 1 {
		t.Errorf("%+v, %v", st, files(t, dir))
	}
}

// Nothing that stands in a file makes it hold more than that file, or what is not
// this sender's next message.
func FuzzOpen(f *testing.F) {
	line := func(seq uint64) string { return string(sealed(f, testBoot, seq, testBoot, 0)) + "\n" }
	raw, _ := digestOver(f, testBoot, 2, 1, 1, drop(testBoot-1, 1, 9))
	for _, seed := range []string{"", line(1), line(1) + line(2), line(1) + string(raw) + "\n", line(1) + line(1), line(2), strings.TrimSuffix(line(1), "\n"), "\n", line(1) + "\x00\n"} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	path := (&chunk{boot: testBoot, first: 1}).path(dir)
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, testBoot+1)
		read := s.bytes
		all := s.rest(t)
		wants(t, "read", all, testBoot, 1, uint64(len(all)))
		if read > int64(len(b)) || len(all) > bytes.Count(b, []byte("\n")) {
			t.Fatalf("%d messages, %d bytes", len(all), read)
		}
	})
}
