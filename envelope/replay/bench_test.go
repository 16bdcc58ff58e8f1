package replay

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// benchSets runs a benchmark over a set in memory and one in a file.
func benchSets(b *testing.B, capacity int, run func(b *testing.B, s *Set)) {
	b.Run("memory", func(b *testing.B) { run(b, New(capacity)) })
	b.Run("file", func(b *testing.B) {
		s, err := Open(filepath.Join(b.TempDir(), "windows"), capacity, 1, time.Millisecond)
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		run(b, s)
	})
}

// BenchmarkCheckInOrder is the common case: the next message of a known sender.
func BenchmarkCheckInOrder(b *testing.B) {
	benchSets(b, 8, func(b *testing.B, s *Set) {
		m := Message{Sender: []byte("melb/sensor/web-1"), Boot: 1, Seq: 1, Time: 1000}
		s.Check(m)
		b.ReportAllocs()
		for b.Loop() {
			m.Seq++
			binary.NativeEndian.PutUint64(m.Tag[:], m.Seq)
			if v := s.Check(m); v != Fresh {
				b.Fatal(v)
			}
		}
	})
}

// BenchmarkCheckRedelivery is the same message over and over.
func BenchmarkCheckRedelivery(b *testing.B) {
	benchSets(b, 8, func(b *testing.B, s *Set) {
		m := Message{Sender: []byte("melb/sensor/web-1"), Boot: 1, Seq: 1, Time: 1000}
		s.Check(m)
		b.ReportAllocs()
		for b.Loop() {
			if v := s.Check(m); v != Redelivery {
				b.Fatal(v)
			}
		}
	})
}

// fleet is how many senders a receiver is built for.
const fleet = 100_000

func fleetNames() [][]byte {
	names := make([][]byte, fleet)
	for i := range names {
		names[i] = fmt.Appendf(nil, "melb/sensor/web-%d", i)
	}
	return names
}

// BenchmarkCheckManySenders goes round 100,000 senders, so that every record
// comes from main memory.
func BenchmarkCheckManySenders(b *testing.B) {
	names := fleetNames()
	benchSets(b, 1<<18, func(b *testing.B, s *Set) {
		for _, name := range names {
			s.Check(Message{Sender: name, Boot: 1, Seq: 1, Time: 1000})
		}
		b.ReportAllocs()
		i, seq := 0, uint64(1)
		for b.Loop() {
			if i = (i + 7919) % fleet; i == 0 {
				seq++
			}
			if v := s.Check(Message{Sender: names[i], Boot: 1, Seq: seq + 1, Time: 1000}); v != Fresh {
				b.Fatal(v)
			}
		}
	})
}

// BenchmarkFleet has 100,000 senders arrive, each new, and says what one costs:
// on the disk, in the mapping, and in the heap.
func BenchmarkFleet(b *testing.B) {
	names, dir := fleetNames(), b.TempDir()
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	n := 0
	for b.Loop() {
		n++
		path, before := filepath.Join(dir, fmt.Sprint(n)), heap()
		s, err := Open(path, 1<<18, 1, time.Millisecond)
		if err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		for _, name := range names {
			if v := s.Check(Message{Sender: name, Boot: 1, Seq: 1, Time: 1000}); v != Fresh {
				b.Fatal(v)
			}
		}
		took := time.Since(begin)
		if err := s.Sync(); err != nil {
			b.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(took.Nanoseconds())/fleet, "ns/new-sender")
		b.ReportMetric(float64(info.Size())/fleet, "file-B/sender")
		b.ReportMetric(float64(heap()-before)/fleet, "heap-B/sender")
		s.Close()
		os.Remove(path)
	}
}

// BenchmarkSyncFleet is one second's Sync while every sender speaks each second.
func BenchmarkSyncFleet(b *testing.B) {
	names := fleetNames()
	s, err := Open(filepath.Join(b.TempDir(), "windows"), 1<<18, 1, time.Millisecond)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for seq := uint64(1); b.Loop(); seq++ {
		b.StopTimer()
		for _, name := range names {
			s.Check(Message{Sender: name, Boot: 1, Seq: seq, Time: 1000})
		}
		b.StartTimer()
		if err := s.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheckParallel shows what the one lock costs.
func BenchmarkCheckParallel(b *testing.B) {
	benchSets(b, 64, func(b *testing.B, s *Set) {
		var workers atomic.Int64
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			m := Message{Sender: fmt.Appendf(nil, "melb/sensor/web-%d", workers.Add(1)), Boot: 1, Time: 1000}
			for pb.Next() {
				m.Seq++
				if v := s.Check(m); v != Fresh {
					b.Error(v)
					return
				}
			}
		})
	})
}

// BenchmarkOpen is a first start and a restart for 100,000 senders.
func BenchmarkOpen(b *testing.B) {
	const senders = fleet
	b.Run("new", func(b *testing.B) {
		dir, n := b.TempDir(), 0
		for b.Loop() {
			n++
			s, err := Open(filepath.Join(dir, fmt.Sprint(n%2)), senders, 1, time.Millisecond)
			if err != nil {
				b.Fatal(err)
			}
			s.Close()
		}
	})
	b.Run("full", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "windows")
		s, err := Open(path, senders, 1, time.Millisecond)
		if err != nil {
			b.Fatal(err)
		}
		for i := range senders {
			s.Check(Message{Sender: fmt.Appendf(nil, "melb/sensor/web-%d", i), Boot: 1, Seq: 1, Time: 1000})
		}
		s.Close()
		for b.Loop() {
			s, err := Open(path, senders, 1, time.Millisecond)
			if err != nil {
				b.Fatal(err)
			}
			if n := s.Stats().Senders; n != senders {
				b.Fatal(n)
			}
			s.Close()
		}
	})
}
