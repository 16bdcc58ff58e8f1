package measure

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/wire"
)

// fakeCounter is a kernel counter whose packets the test sends.
type fakeCounter struct {
	method string
	total  uint64
	err    error
	closed bool
}

func (c *fakeCounter) Read() (uint64, error) { return c.total, c.err }
func (c *fakeCounter) Method() string        { return c.method }
func (c *fakeCounter) Close() error          { c.closed = true; return nil }

func works(c *fakeCounter) opener {
	return opener{c.method, func() (Counter, error) { return c, nil }}
}

func refused(method string, err error) opener {
	return opener{method, func() (Counter, error) { return nil, err }}
}

func config(root string, log *bytes.Buffer) Config {
	return Config{Site: "melb", Name: "web-1", Proc: root, Log: slog.New(slog.NewTextHandler(log, nil))}
}

// half is a level that the test sets.
func half(n *uint64) *level { return &level{walk: func() (uint64, error) { return *n, nil }} }

const tcpHeads = "Tcp: CurrEstab PassiveOpens\nTcp: "
const extHeads = "TcpExt: ListenDrops ListenOverflows SyncookiesSent\nTcpExt: "

func TestMeterReadsWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := procWith(t, map[string]string{
			"stat":        "cpu  100 0 0 100 0 0 0 0 0 0\n",
			"net/snmp":    tcpHeads + "50 1000\n",
			"net/netstat": extHeads + "10 20 30\n",
		})
		open := uint64(7)
		counter := &fakeCounter{method: wire.SYNNFTables, total: 400}
		m, err := start(t.Context(), config(root, new(bytes.Buffer)), []opener{works(counter)}, half(&open))
		if err != nil {
			t.Fatal(err)
		}
		write(t, root, "stat", "cpu  110 0 0 130 0 0 0 0 0 0\n")
		write(t, root, "net/snmp", tcpHeads+"60 1005\n")
		write(t, root, "net/netstat", extHeads+"11 22 33\n")
		open, counter.total = 9, 1100
		cpu, err := m.CPU()
		if want := (wire.CPU{Interval: 0.2, CPUUsage: 25}); err != nil || cpu != want {
			t.Errorf("%+v, %v, want %+v", cpu, err, want)
		}
		want := wire.Network{
			Interval: 0.2, ActiveTCPConnections: 60, SYNPacketCount: 700, SYNMethod: wire.SYNNFTables,
			ListenDrops: 1, ListenOverflows: 2, SyncookiesSent: 3, HalfOpen: 9,
		}
		if got, err := m.Network(); err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
		time.Sleep(5 * time.Second)
		if got, err := m.Network(); err != nil || got.Interval != 5 || got.SYNPacketCount != 0 || got.ListenDrops != 0 {
			t.Errorf("nothing happened, yet %+v, %v", got, err)
		}
		if err := m.Close(); err != nil || !counter.closed {
			t.Errorf("closing: %v, counter closed: %v", err, counter.closed)
		}
	})
}

// A reading that fails loses nothing: the next one covers its time as well.
func TestMeterAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := procWith(t, map[string]string{"net/netstat": extHeads + "10 20 30\n", "stat": "cpu  1 0 0 1 0 0 0 0\n"})
		var open uint64
		counter := &fakeCounter{method: wire.SYNNFTables}
		m, err := start(t.Context(), config(root, new(bytes.Buffer)), []opener{works(counter)}, half(&open))
		if err != nil {
			t.Fatal(err)
		}
		counter.total = 5
		for _, name := range []string{"stat", "meminfo", "net/netstat"} {
			write(t, root, name, "garbage\n")
		}
		time.Sleep(time.Second)
		if got, err := m.CPU(); err == nil {
			t.Errorf("CPU read %+v from garbage", got)
		}
		if got, err := m.RAM(); err == nil {
			t.Errorf("RAM read %+v from garbage", got)
		}
		if got, err := m.Network(); err == nil {
			t.Errorf("Network read %+v from garbage", got)
		}
		counter.total = 8
		write(t, root, "net/netstat", extHeads+"14 20 30\n")
		time.Sleep(time.Second)
		if got, err := m.Network(); err != nil || got.SYNPacketCount != 8 || got.ListenDrops != 4 || got.Interval != 2.2 {
			t.Errorf("%+v, %v", got, err)
		}
		// A counter that went backwards is no reading, and the next counts from it.
		write(t, root, "net/netstat", extHeads+"2 20 30\n")
		if got, err := m.Network(); err == nil {
			t.Errorf("ListenDrops went backwards, yet %+v", got)
		}
		write(t, root, "net/netstat", extHeads+"3 20 30\n")
		if got, err := m.Network(); err != nil || got.ListenDrops != 1 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestMeterLosesItsCounter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		root := procWith(t, map[string]string{"net/netstat": extHeads + "0 0 0\n"})
		var open uint64
		first := &fakeCounter{method: wire.SYNPacket, total: 90}
		second := &fakeCounter{method: wire.SYNPacket, total: 10}
		next, nextErr := first, error(nil)
		opens := opener{wire.SYNPacket, func() (Counter, error) { return next, nextErr }}
		m, err := start(t.Context(), config(root, &log), []opener{refused(wire.SYNNFTables, fs.ErrPermission), opens}, half(&open))
		if err != nil {
			t.Fatal(err)
		}
		step := func(name, method string, count uint64) {
			t.Helper()
			if got, err := m.Network(); err != nil || got.SYNMethod != method || got.SYNPacketCount != count {
				t.Errorf("%s: %+v, %v, want %d by %s", name, got, err, count, method)
			}
		}
		first.total = 100
		step("counting", wire.SYNPacket, 10)

		first.err, nextErr = errors.New("gone"), errors.New("still gone")
		write(t, root, "net/netstat", extHeads+"3 0 4\n")
		step("lost", wire.SYNEstimate, 7)
		if !first.closed {
			t.Error("the lost counter was not closed")
		}
		for range 20 {
			time.Sleep(time.Second)
			step("still lost", wire.SYNEstimate, 0)
		}
		if n := strings.Count(log.String(), "counter lost"); n != 1 || strings.Count(log.String(), "still gone") != 1 {
			t.Errorf("the loss is to be logged once:\n%s", log.String())
		}

		next, nextErr = second, nil
		step("opened again", wire.SYNEstimate, 0)
		second.total = 12
		step("counting again", wire.SYNPacket, 2)
		if !strings.Contains(log.String(), "open again") {
			t.Errorf("the end of the loss is not logged:\n%s", log.String())
		}
		// A counter that somebody reset.
		second.total = 11
		step("backwards", wire.SYNEstimate, 0)
	})
}

func TestStartRefuses(t *testing.T) {
	var open uint64
	for name, c := range map[string]struct {
		root    string
		syn     string
		methods []opener
		half    *level
	}{
		"no proc":           {t.TempDir(), Auto, nil, half(&open)},
		"no cpu":            {procWith(t, map[string]string{"stat": ""}), Auto, nil, half(&open)},
		"no level":          {fixtures, Auto, nil, &level{walk: func() (uint64, error) { return 0, errors.New("no") }}},
		"counter fails":     {fixtures, wire.SYNPacket, []opener{works(&fakeCounter{method: wire.SYNPacket, err: errors.New("no")})}, half(&open)},
		"method unknown":    {fixtures, "ebpf", []opener{works(&fakeCounter{method: wire.SYNPacket})}, half(&open)},
		"method impossible": {fixtures, wire.SYNPacket, []opener{refused(wire.SYNPacket, fs.ErrPermission)}, half(&open)},
	} {
		cfg := config(c.root, new(bytes.Buffer))
		cfg.SYN = c.syn
		if m, err := start(t.Context(), cfg, c.methods, c.half); err == nil {
			t.Errorf("%s: started, %v", name, m.SYN())
		}
	}
	// One that was not asked for by name is done without until it works.
	var log bytes.Buffer
	failing := &fakeCounter{method: wire.SYNPacket, err: errors.New("no")}
	m, err := start(t.Context(), config(fixtures, &log), []opener{works(failing)}, half(&open))
	if err != nil || !failing.closed || !strings.Contains(log.String(), "SYN counter lost") || strings.Contains(log.String(), "exact") {
		t.Errorf("%v\n%s", err, log.String())
	} else if n, err := m.Network(); err != nil || n.SYNMethod != wire.SYNEstimate {
		t.Errorf("%+v, %v", n, err)
	}
	counter := &fakeCounter{method: wire.SYNPacket}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := start(ctx, config(fixtures, new(bytes.Buffer)), []opener{works(counter)}, half(&open)); !errors.Is(err, context.Canceled) || !counter.closed {
		t.Errorf("cancelled: %v, counter closed: %v", err, counter.closed)
	}
}

func TestConfig(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]Config{
		"zero":        {},
		"no logger":   {Site: "melb", Name: "web-1"},
		"no site":     {Name: "web-1", Log: log},
		"public site": {Site: "public", Name: "web-1", Log: log},
		"bad name":    {Site: "melb", Name: "web_1", Log: log},
	} {
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func TestChoice(t *testing.T) {
	const unsupported = "protocol not supported"
	for _, c := range []struct {
		name    string
		syn     string
		methods []opener
		want    string
	}{
		{"best", Auto, []opener{works(&fakeCounter{method: wire.SYNNFTables}), refused(wire.SYNPacket, fs.ErrPermission)},
			"SYN count is exact, by nftables"},
		{"second", Auto, []opener{refused(wire.SYNNFTables, fs.ErrPermission), works(&fakeCounter{method: wire.SYNPacket})},
			"SYN count is exact, by af_packet"},
		{"asked for", wire.SYNPacket, []opener{works(&fakeCounter{method: wire.SYNNFTables}), works(&fakeCounter{method: wire.SYNPacket})},
			"SYN count is exact, by af_packet"},
		{"estimate asked for", wire.SYNEstimate, []opener{works(&fakeCounter{method: wire.SYNNFTables})},
			"SYN count is an estimate, as configured"},
		{"no privilege", Auto, []opener{refused(wire.SYNNFTables, fs.ErrPermission), refused(wire.SYNPacket, fs.ErrPermission)},
			"SYN count is an estimate: nftables: permission denied; af_packet: permission denied; " +
				"for the exact count give the sensor CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_ADMIN)"},
		{"kernel without nftables", Auto, []opener{refused(wire.SYNNFTables, errors.New(unsupported)), refused(wire.SYNPacket, fs.ErrPermission)},
			"SYN count is an estimate: nftables: " + unsupported + "; af_packet: permission denied; " +
				"for the exact count give the sensor CAP_NET_RAW (systemd: AmbientCapabilities=CAP_NET_RAW)"},
		{"nothing helps", Auto, []opener{refused(wire.SYNNFTables, errors.New(unsupported))},
			"SYN count is an estimate: nftables: " + unsupported},
	} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			var open uint64
			cfg := config(fixtures, &log)
			cfg.SYN = c.syn
			m, err := start(t.Context(), cfg, c.methods, half(&open))
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if got := m.SYN().String(); got != c.want {
				t.Errorf("%s: %q, want %q", c.name, got, c.want)
			}
			if want := map[bool]string{true: "level=INFO", false: "level=WARN"}[m.SYN().Exact()]; !strings.Contains(log.String(), want) {
				t.Errorf("%s: logged %q, want %s", c.name, log.String(), want)
			}
		})
	}
}

func TestEstimate(t *testing.T) {
	base := tcpCounters{established: 9, halfOpen: 100, passiveOpens: 100, listenDrops: 100, syncookiesSent: 100}
	for name, c := range map[string]struct {
		change func(*tcpCounters)
		want   uint64
	}{
		"nothing":             {func(*tcpCounters) {}, 0},
		"handshakes":          {func(c *tcpCounters) { c.passiveOpens += 5 }, 5},
		"dropped":             {func(c *tcpCounters) { c.listenDrops += 7 }, 7},
		"cookies":             {func(c *tcpCounters) { c.syncookiesSent += 11 }, 11},
		"queue grew":          {func(c *tcpCounters) { c.halfOpen += 13 }, 13},
		"queue shrank":        {func(c *tcpCounters) { c.halfOpen -= 13; c.passiveOpens += 5 }, 5},
		"all together":        {func(c *tcpCounters) { c.passiveOpens++; c.listenDrops++; c.syncookiesSent++; c.halfOpen++ }, 4},
		"a full accept queue": {func(c *tcpCounters) { c.listenOverflows += 50 }, 0},
		"more connections":    {func(c *tcpCounters) { c.established += 50 }, 0},
	} {
		after := base
		c.change(&after)
		if got := estimate(base, after); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// Walking the kernel's connections may take half a percent of the time.
func TestLevelIsAffordable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		walks := 0
		l := &level{walk: func() (uint64, error) {
			time.Sleep(20 * time.Millisecond)
			walks++
			return uint64(walks), nil
		}}
		began := time.Now()
		for time.Since(began) < time.Minute {
			if n, err := l.read(); err != nil || n != uint64(walks) {
				t.Fatalf("%d, %v after %d walks", n, err, walks)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if walks < 10 || walks > 15 {
			t.Errorf("%d walks of 20 ms within a minute, want 300 ms in all", walks)
		}
		failing := &level{walk: func() (uint64, error) { return 0, errors.New("no") }, last: 5}
		for range 2 {
			if n, err := failing.read(); err == nil {
				t.Errorf("a failing walk reads %d", n)
			}
		}
	})
}
