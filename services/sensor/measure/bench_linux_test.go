package measure

import (
	"log/slog"
	"net"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"levee/internal/wire"
)

// ownNamespace moves this goroutine, with a thread that ends with it, into a
// fresh network namespace. Its net files are those of DefaultProc/thread-self,
// so benchmarks of files measure the namespace of the process instead.
func ownNamespace(b *testing.B) {
	b.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Skipf("SKIPPED: no network namespace: %v", err)
	}
}

// BenchmarkReading is one whole reading, by each method and at several numbers
// of established connections, both of whose ends are on this host. It walks the
// half-open connections each time, which a sensor does at most as often as it
// can afford. cpu-ns/op is the time of a processor, whatever else runs.
func BenchmarkReading(b *testing.B) {
	for _, connections := range []int{0, 4000} {
		for _, method := range []string{wire.SYNNFTables, wire.SYNPacket, wire.SYNEstimate} {
			b.Run(method+"/"+strconv.Itoa(2*connections), func(b *testing.B) { benchmarkReading(b, method, connections) })
		}
	}
}

func benchmarkReading(b *testing.B, method string, connections int) {
	hold(b, connections)
	// The counter lives elsewhere: this machine gets no rule of ours.
	ownNamespace(b)
	m, err := Open(b.Context(), Config{Site: "melb", Name: "bench", SYN: method, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Skipf("SKIPPED: %v", err)
	}
	defer m.Close()
	b.ReportAllocs()
	began := threadTime(b)
	for b.Loop() {
		m.halfOpen.next = m.tcpAt
		// That no tick has passed is an error here, but costs the same.
		_, _ = m.CPU()
		if _, err := m.RAM(); err != nil {
			b.Fatal(err)
		}
		if n, err := m.Network(); err != nil || n.SYNMethod != method {
			b.Fatalf("%+v, %v", n, err)
		}
	}
	b.ReportMetric(float64(threadTime(b)-began)/float64(b.N), "cpu-ns/op")
}

// threadTime is the processor time of this thread, in ns.
func threadTime(b *testing.B) int64 {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &used); err != nil {
		b.Fatal(err)
	}
	return unix.TimevalToNsec(used.Utime) + unix.TimevalToNsec(used.Stime)
}

// BenchmarkHalfOpen compares the two ways of counting half-open connections.
func BenchmarkHalfOpen(b *testing.B) {
	for _, connections := range []int{0, 4000} {
		hold(b, connections)
		buffer := make([]byte, diagBuffer)
		for name, walk := range map[string]func() (uint64, error){
			"sock_diag": func() (uint64, error) { return diagHalfOpen(buffer) },
			"tables":    func() (uint64, error) { return tableHalfOpen(DefaultProc) },
		} {
			b.Run(name+"/"+strconv.Itoa(2*connections), func(b *testing.B) {
				for b.Loop() {
					if _, err := walk(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// hold keeps n connections over loopback until the benchmark ends.
func hold(b *testing.B, n int) {
	b.Helper()
	if n == 0 {
		return
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for range n {
		for _, open := range []func() (net.Conn, error){
			func() (net.Conn, error) { return net.Dial("tcp4", l.Addr().String()) },
			l.Accept,
		} {
			c, err := open()
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { c.Close() })
		}
	}
}
