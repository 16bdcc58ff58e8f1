package monitor

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/wire"
)

func stopped(t testing.TB, change func(*Config)) *Monitor {
	t.Helper()
	c := settled(&outbox{start: time.Now()})
	if change != nil {
		change(&c)
	}
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRefusedReadings(t *testing.T) {
	type reading struct {
		from    wire.Topic
		network wire.Network
	}
	for name, test := range map[string]struct {
		change func(*reading)
		want   Counter
	}{
		"another server's": {func(r *reading) { r.network.Server = "web-2" }, RefusedServer},
		"no server":        {func(r *reading) { r.network.Server = "" }, RefusedServer},
		"all servers":      {func(r *reading) { r.network.Server = wire.AllServers }, RefusedServer},
		"another site":     {func(r *reading) { r.from.Site = "syd" }, RefusedTopic},
		"another role":     {func(r *reading) { r.from.Role = "console" }, RefusedTopic},
		"another kind":     {func(r *reading) { r.from.Kind = wire.KindCPU }, RefusedTopic},
		"no kind":          {func(r *reading) { r.from = wire.Topic{} }, RefusedTopic},
		"no name":          {func(r *reading) { r.from.Name, r.network.Server = "", "" }, RefusedTopic},
		"interval NaN":     {func(r *reading) { r.network.Interval = math.NaN() }, RefusedRange},
		"interval infinite": {func(r *reading) {
			r.network.Interval = math.Inf(1)
		}, RefusedRange},
		"interval negative":   {func(r *reading) { r.network.Interval = -1 }, RefusedRange},
		"timestamp NaN":       {func(r *reading) { r.network.Timestamp = math.NaN() }, RefusedRange},
		"timestamp in ms":     {func(r *reading) { r.network.Timestamp *= 1000 }, RefusedRange},
		"count beyond exact":  {func(r *reading) { r.network.SYNPacketCount = math.MaxUint64 }, RefusedRange},
		"second count beyond": {func(r *reading) { r.network.ActiveTCPConnections = math.MaxUint64 }, RefusedRange},
	} {
		t.Run(name, func(t *testing.T) {
			m := stopped(t, nil)
			r := reading{sensor(wire.KindNetwork, "web-1"), wire.Network{
				Timestamp: 1.8e9, Server: "web-1", Interval: 5, SYNPacketCount: 9000, ActiveTCPConnections: 9000,
			}}
			test.change(&r)
			m.ObserveNetwork(r.from, r.network, time.Now())
			m.takeSamples()
			if m.Count(test.want) != 1 || m.Count(Judged) != 0 || m.Count(Raised) != 0 {
				t.Fatalf("%s %d, judged %d, raised %d", test.want, m.Count(test.want), m.Count(Judged), m.Count(Raised))
			}
		})
	}
}

func TestRefusedLevels(t *testing.T) {
	for name, v := range map[string]float64{
		"NaN": math.NaN(), "infinite": math.Inf(1), "minus infinite": math.Inf(-1), "negative": -0.1, "above 100": 100.1,
	} {
		t.Run(name, func(t *testing.T) {
			m := stopped(t, nil)
			now := time.Now()
			for i := range 3 {
				at := seconds(now) + float64(i)
				m.ObserveCPU(sensor(wire.KindCPU, "web-1"), wire.CPU{Timestamp: at, Server: "web-1", Interval: 5, CPUUsage: v}, now)
				m.ObserveRAM(sensor(wire.KindRAM, "web-1"), wire.RAM{Timestamp: at, Server: "web-1", RAMUsage: v}, now)
			}
			m.takeSamples()
			if m.Count(RefusedRange) != 6 || m.Count(Judged) != 0 {
				t.Fatalf("refused %d, judged %d", m.Count(RefusedRange), m.Count(Judged))
			}
		})
	}
}

func TestLateAndTooMany(t *testing.T) {
	m := stopped(t, func(c *Config) { c.Detect.Servers = 1 })
	now := time.Now()
	ram := func(server string, at float64) {
		m.ObserveRAM(sensor(wire.KindRAM, server), wire.RAM{Timestamp: at, Server: server, RAMUsage: 1}, now)
	}
	ram("web-1", 100)
	ram("web-1", 100)
	ram("web-2", 100)
	m.takeSamples()
	for c, want := range map[Counter]uint64{Judged: 1, Late: 1, RefusedFull: 1} {
		if got := m.Count(c); got != want {
			t.Errorf("%s: %d, want %d", c, got, want)
		}
	}
}

// TestFullQueueKeepsTheNewest: nothing takes from the queue here, and yet
// nothing blocks.
func TestFullQueueKeepsTheNewest(t *testing.T) {
	m := stopped(t, func(c *Config) { c.Queue = 4 })
	now := time.Now()
	for i := range 10 {
		m.ObserveRAM(sensor(wire.KindRAM, "web-1"), wire.RAM{Timestamp: float64(i), Server: "web-1", RAMUsage: float64(i)}, now)
	}
	if got := m.Count(LostReadings); got != 6 {
		t.Errorf("%d lost, want 6", got)
	}
	for want := 6.0; want < 10; want++ {
		s, ok := m.samples.pop()
		if !ok || s.reading.Value != want {
			t.Fatalf("%v, %v, want %v", s.reading.Value, ok, want)
		}
	}
	if _, ok := m.samples.pop(); ok {
		t.Error("there is more")
	}
	from := wire.Topic{Kind: wire.KindScaling, Site: "melb", Role: "controller", Name: "lb-1"}
	for range maxReports + 2 {
		m.ObserveStatus(from, wire.Status{})
	}
	if got := m.Count(LostStatuses); got != 2 {
		t.Errorf("%d statuses lost, want 2", got)
	}
}

// TestManyObservers runs receivers against Run, for the race detector, and
// holds that a queue longer than one batch is emptied.
func TestManyObservers(t *testing.T) {
	m := stopped(t, nil)
	ctx, stop := context.WithCancel(t.Context())
	var receivers, monitor sync.WaitGroup
	const each = 2000
	for _, server := range []string{"web-1", "web-2", "web-3", "web-4"} {
		receivers.Go(func() {
			for i := range each {
				now := time.Now()
				m.ObserveRAM(sensor(wire.KindRAM, server), wire.RAM{Timestamp: float64(i), Server: server, RAMUsage: 99}, now)
				m.ObserveStatus(wire.Topic{Kind: wire.KindScaling, Site: "melb", Role: "controller", Name: "lb-1"}, wire.Status{})
				m.Count(Judged)
			}
		})
	}
	receivers.Wait()
	monitor.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for m.Count(Judged) < 4*each {
		time.Sleep(time.Millisecond)
	}
	stop()
	monitor.Wait()
	if m.Count(Raised) != 4 || m.Count(LostReadings) != 0 {
		t.Errorf("raised %d, lost %d", m.Count(Raised), m.Count(LostReadings))
	}
}

// TestRefusalsAreLoggedAsSums: a sensor that sends nonsense cannot fill a disk.
func TestRefusalsAreLoggedAsSums(t *testing.T) {
	var log strings.Builder
	inBubble(t, func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(io.Writer(&log), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}, func(s *branch) {
		s.sleepUntil(0.25)
		for range 1000 {
			s.m.ObserveRAM(sensor(wire.KindRAM, "web-1"), wire.RAM{Server: "web-2"}, time.Now())
		}
		s.sleepUntil(60)
	})
	if got := strings.Count(log.String(), "\n"); got != 1 || !strings.Contains(log.String(), "refused_server=1000") {
		t.Errorf("%d lines: %s", got, log.String())
	}
}

func TestEveryCounterHasItsName(t *testing.T) {
	seen := make(map[string]bool)
	for c := range countersNumber {
		if name := c.String(); name == "" || name == "none" || seen[name] {
			t.Errorf("counter %d: %q", c, name)
		} else {
			seen[name] = true
		}
	}
	m := stopped(t, nil)
	if countersNumber.String() != "none" || m.Count(countersNumber) != 0 {
		t.Error("what is no counter counts")
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := stopped(t, nil)
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := m.Run(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzReading: no payload that decodes can raise but by a number above its
// threshold, and none crashes.
func FuzzReading(f *testing.F) {
	f.Add([]byte(`{"timestamp":1,"server":"web-1","interval_seconds":5,"cpu_usage":99}`))
	f.Add([]byte(`{"timestamp":1,"server":"web-1","interval_seconds":-5,"cpu_usage":1e308}`))
	f.Add([]byte(`{"timestamp":-1,"server":"web-2","interval_seconds":0,"cpu_usage":-99}`))
	f.Add([]byte(`{"timestamp":1,"server":"web-1","interval_seconds":1e-300,"syn_packet_count":700,"active_tcp_connections":400,` +
		`"syn_method":"estimate","listen_drops":0,"listen_overflows":0,"syncookies_sent":0,"half_open":0}`))
	f.Add([]byte(`{"timestamp":1,"server":"web-1","interval_seconds":1,"syn_packet_count":18446744073709551615,` +
		`"active_tcp_connections":0,"syn_method":"","listen_drops":0,"listen_overflows":0,"syncookies_sent":0,"half_open":0}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := stopped(t, func(c *Config) { c.Queue = 8 })
		now := time.Now()
		var high bool
		var cpu wire.CPU
		if json.Unmarshal(b, &cpu) == nil {
			m.ObserveCPU(sensor(wire.KindCPU, "web-1"), cpu, now)
			cpu.Timestamp++
			m.ObserveCPU(sensor(wire.KindCPU, "web-1"), cpu, now)
			high = high || cpu.CPUUsage > 80
		}
		var network wire.Network
		if json.Unmarshal(b, &network) == nil {
			m.ObserveNetwork(sensor(wire.KindNetwork, "web-1"), network, now)
			high = high || network.ActiveTCPConnections > 400 || network.SYNPacketCount > 140
		}
		m.takeSamples()
		if m.Count(Raised) > 0 && !high {
			t.Fatal("raised by nothing high")
		}
	})
}
