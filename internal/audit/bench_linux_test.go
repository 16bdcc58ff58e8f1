package audit

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/translog"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/segment"
)

// What the benchmark's site is like.
const (
	benchSenders = 1000
	benchRounds  = 12 // of three readings for each digest: one each 5 s
)

// BenchmarkVerify audits a record of readings without keys: digests vouch for
// them. readings/s and the peak of the heap are what it is for.
// LEVEE_AUDIT_READINGS=10000000 is opt-in: 4 GB on disk.
func BenchmarkVerify(b *testing.B) {
	sizes := []int{100_000, 3_000_000}
	if text := os.Getenv("LEVEE_AUDIT_READINGS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		sizes = []int{n}
	}
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			site := newBank(b)
			readings := site.generate(b, n)
			c, err := Open(Options{Config: site.configFile(), WithoutKeys: true})
			if err != nil {
				b.Fatal(err)
			}
			runtime.GC()
			peak := watchHeap(b)
			b.ResetTimer()
			before := processorTime(b)
			for b.Loop() {
				r := verifyWith(b, c)
				if !r.OK() || !r.Whole() || r.Envelopes != readings+int(r.Entries) || r.Pending > 0 {
					b.Fatalf("%+v", r)
				}
			}
			b.ReportMetric(float64(readings)*float64(b.N)/b.Elapsed().Seconds(), "readings/s")
			b.ReportMetric((processorTime(b)-before).Seconds()*1e6/float64(readings)/float64(b.N), "cpu-us/reading")
			b.ReportMetric(float64(peak.Load())/(1<<20), "peak-MiB")
		})
	}
}

// processorTime is what this process has used: on a busy machine it says more
// than the clock.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// watchHeap follows the largest heap from now on.
func watchHeap(b *testing.B) *atomic.Uint64 {
	var peak atomic.Uint64
	stop := make(chan struct{})
	go func() {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				metrics.Read(sample)
				peak.Store(max(peak.Load(), sample[0].Value.Uint64()))
			}
		}
	}()
	b.Cleanup(func() { close(stop) })
	return &peak
}

// generate writes a record of at least n readings, as long as it takes to end
// with a digest of each sender, and returns how many there are.
func (b *bank) generate(t testing.TB, n int) (readings int) {
	t.Helper()
	key, err := translog.ReadKey(filepath.Join(b.Bundle(recorderID), "log.key"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := translog.Open(t.Context(), translog.Config{Dir: b.log(), Watermark: b.watermark(), Origin: key.Origin(), Key: key,
		Log: quiet(), BatchSize: benchSenders, BatchAge: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(b.segments(), 0o700); err != nil {
		t.Fatal(err)
	}
	segments, err := segment.OpenWriter(segment.Config{Dir: b.segments(), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	senders := b.crowd(t)
	now := b.made.Add(time.Second)
	keep := func(raw []byte) {
		if err := segments.Append(segment.Record{Received: now.UnixMilli() + 20, Envelope: raw}); err != nil {
			t.Fatal(err)
		}
	}
	for readings < n {
		for range benchRounds {
			for _, s := range senders {
				s.now = now
				for _, kind := range []wire.Kind{wire.KindCPU, wire.KindRAM, wire.KindNetwork} {
					keep(s.fast(kind))
					readings++
				}
			}
			now = now.Add(5 * time.Second)
		}
		var entries [][]byte
		for _, s := range senders {
			s.now = now
			m := s.digest()
			m.received = now.Add(20 * time.Millisecond)
			keep(m.raw)
			entries = append(entries, m.leaf(t))
		}
		if err := segments.Sync(); err != nil {
			t.Fatal(err)
		}
		if _, err := log.AppendAll(t.Context(), entries); err != nil {
			t.Fatal(err)
		}
	}
	if err := segments.Close(); err != nil {
		t.Fatal(err)
	}
	if err := log.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return readings
}

// crowd is many sensors. Their keys for MACs are no real ones: nobody who has no
// key checks them.
func (b *bank) crowd(t testing.TB) []*sender {
	t.Helper()
	key, err := envelope.NewKey(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	var all []*sender
	for i := range benchSenders {
		id := identity(pki.RoleSensor, fmt.Sprintf("web-%d", i+1))
		s := &sender{t: t, id: id, key: key, kid: envelope.KeyID{Site: id.Site, Role: string(id.Role), Name: id.Name, Generation: 1},
			signer: b.mint(t, id, 30*24*time.Hour, b.made), now: b.made, first: 1}
		s.boot = uint64(b.made.UnixMilli())
		all = append(all, s)
	}
	return all
}

// payloads are readings as long as real ones.
var payloads = map[wire.Kind]string{
	wire.KindCPU:     `{"timestamp":1729697327.822,"server":"web-1","interval_seconds":5,"cpu_usage":41.53}`,
	wire.KindRAM:     `{"timestamp":1729697327.822,"server":"web-1","ram_usage":63.25}`,
	wire.KindNetwork: `{"timestamp":1729697327.822,"server":"web-1","interval_seconds":5,"active_tcp_connections":1834,"syn_packet_count":412,"syn_method":"nftables","listen_drops":0,"listen_overflows":0,"syncookies_sent":0,"half_open":12}`,
}

// fast seals a reading.
func (s *sender) fast(k wire.Kind) []byte {
	s.seq++
	raw, err := envelope.Append(nil, envelope.Header{KeyID: s.kid, Time: s.now.UnixMilli(), Nonce: envelope.Nonce{Boot: s.boot, Seq: s.seq}, Topic: s.topic(k)},
		[]byte(payloads[k]), s.key, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	s.sums = append(s.sums, sum[:]...)
	return raw
}
