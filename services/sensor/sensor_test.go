package sensor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/wire"
)

// fakeMeter counts its readings, takes time over the first of a round, and
// fails where told to.
type fakeMeter struct {
	readings int
	takes    time.Duration
	cpu, ram error
	network  error
}

var errMeter = errors.New("no such file")

func (m *fakeMeter) CPU() (wire.CPU, error) {
	m.readings++
	time.Sleep(m.takes)
	return wire.CPU{Interval: 5, CPUUsage: float64(m.readings)}, m.cpu
}

func (m *fakeMeter) RAM() (wire.RAM, error) { return wire.RAM{RAMUsage: 50}, m.ram }

func (m *fakeMeter) Network() (wire.Network, error) {
	return wire.Network{Interval: 5, SYNPacketCount: 700, SYNMethod: wire.SYNEstimate}, m.network
}

// sent is one published message and when that was, since the start.
type sent struct {
	at      time.Duration
	topic   string
	payload any
}

type fakePublisher struct {
	began time.Time
	sent  []sent
	err   error
}

func (p *fakePublisher) Publish(topic wire.Topic, payload any) error {
	if p.err != nil {
		return p.err
	}
	p.sent = append(p.sent, sent{time.Since(p.began), topic.String(), payload})
	return nil
}

// times returns when messages went out on a topic.
func (p *fakePublisher) times(topic string) []time.Duration {
	var all []time.Duration
	for _, s := range p.sent {
		if s.topic == topic {
			all = append(all, s.at)
		}
	}
	return all
}

const (
	cpuTopic     = "melb/bank_server/metrics/cpu/web-1"
	ramTopic     = "melb/bank_server/metrics/ram/web-1"
	networkTopic = "melb/bank_server/metrics/network/web-1"
)

// run runs a sensor for as long as body takes, and returns its log.
func run(t *testing.T, interval time.Duration, meter *fakeMeter, publisher *fakePublisher, body func()) string {
	t.Helper()
	var log bytes.Buffer
	publisher.began = time.Now()
	s, err := New(Config{
		Name: "web-1", Site: "melb", Interval: interval, Meter: meter, Publisher: publisher,
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	body()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	return log.String()
}

func TestReadings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{}
		log := run(t, 0, &fakeMeter{}, publisher, func() { time.Sleep(12 * time.Second) })
		if log != "" {
			t.Errorf("logged %s", log)
		}
		const began = 946684800 // when a bubble begins: 2000-01-01
		var want []sent
		for round, at := range []float64{0, 5, 10} {
			passed := time.Duration(at) * time.Second
			want = append(want,
				sent{passed, cpuTopic, wire.CPU{Timestamp: began + at, Server: "web-1", Interval: 5, CPUUsage: float64(round + 1)}},
				sent{passed, ramTopic, wire.RAM{Timestamp: began + at, Server: "web-1", RAMUsage: 50}},
				sent{passed, networkTopic, wire.Network{
					Timestamp: began + at, Server: "web-1", Interval: 5, SYNPacketCount: 700, SYNMethod: wire.SYNEstimate,
				}})
		}
		if !slices.Equal(publisher.sent, want) {
			t.Errorf("published\n%+v\nwant\n%+v", publisher.sent, want)
		}
	})
}

func TestGrid(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name  string
		takes time.Duration
		want  []time.Duration // of the RAM messages, which follow the slow reading
	}{
		{"no drift", 30 * ms, []time.Duration{30 * ms, 130 * ms, 230 * ms, 330 * ms, 430 * ms, 530 * ms}},
		{"too slow", 150 * ms, []time.Duration{150 * ms, 350 * ms, 550 * ms}},
		{"just too slow", 100 * ms, []time.Duration{100 * ms, 300 * ms, 500 * ms}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				publisher := &fakePublisher{}
				run(t, MinInterval, &fakeMeter{takes: c.takes}, publisher, func() { time.Sleep(590 * ms) })
				if got := publisher.times(ramTopic); !slices.Equal(got, c.want) {
					t.Errorf("published at %v, want %v", got, c.want)
				}
			})
		})
	}
}

// A measurement that fails keeps back its own message alone.
func TestFailingMeasurement(t *testing.T) {
	for topic, meter := range map[string]*fakeMeter{
		cpuTopic:     {cpu: errMeter},
		ramTopic:     {ram: errMeter},
		networkTopic: {network: errMeter},
	} {
		synctest.Test(t, func(t *testing.T) {
			publisher := &fakePublisher{}
			log := run(t, 0, meter, publisher, func() { time.Sleep(11 * time.Second) })
			for _, other := range []string{cpuTopic, ramTopic, networkTopic} {
				want := 3
				if other == topic {
					want = 0
				}
				if got := len(publisher.times(other)); got != want {
					t.Errorf("%d messages on %s while %s fails, want %d", got, other, topic, want)
				}
			}
			parsed, err := wire.ParseTopic(topic)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Count(log, "\n") != 1 || !strings.Contains(log, errMeter.Error()) || !strings.Contains(log, parsed.Kind.String()) {
				t.Errorf("want one line about %s, logged:\n%s", parsed.Kind, log)
			}
		})
	}
}

// Whatever fails and however often, a kind of message is worth one line a minute.
func TestTroubleIsLoggedRarely(t *testing.T) {
	epoch := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name  string
		fails func(second int) bool
		want  string // second, what, how many were missing
	}{
		{"never", func(int) bool { return false }, ""},
		{"always", func(int) bool { return true }, "0 missing 1, 60 missing 12, 120 missing 12, 180 missing 12, 240 missing 12"},
		{"once", func(s int) bool { return s == 50 }, "50 missing 1, 110 back 0"},
		{"two minutes", func(s int) bool { return s <= 125 }, "0 missing 1, 60 missing 12, 120 missing 12, 185 back 1"},
		{"every other", func(s int) bool { return s%10 == 0 }, "0 missing 1, 60 missing 6, 120 missing 6, 180 missing 6, 240 missing 6"},
		{"again after a while", func(s int) bool { return s == 0 || s == 200 }, "0 missing 1, 60 back 0, 200 missing 1, 260 back 0"},
	} {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		var tr trouble
		var got []string
		for second := 0; second < 300; second += 5 {
			var err error
			if c.fails(second) {
				err = errMeter
			}
			log.Reset()
			tr.note(t.Context(), logger, epoch.Add(time.Duration(second)*time.Second), "metrics/cpu", err)
			for _, what := range []string{"missing", "back"} {
				if strings.Contains(log.String(), "readings are "+what) {
					_, missing, _ := strings.Cut(log.String(), " missing=")
					got = append(got, fmt.Sprintf("%d %s %s", second, what, strings.Fields(missing)[0]))
				}
			}
		}
		if got := strings.Join(got, ", "); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}

// A publisher that refuses stops nothing, and is logged for each kind.
func TestFailingPublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter := &fakeMeter{}
		log := run(t, 0, meter, &fakePublisher{err: errors.New("the outbox is full")}, func() { time.Sleep(11 * time.Second) })
		if meter.readings != 3 || strings.Count(log, "the outbox is full") != 3 {
			t.Errorf("%d rounds, logged:\n%s", meter.readings, log)
		}
	})
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		publisher := &fakePublisher{}
		run(t, time.Hour, &fakeMeter{}, publisher, func() { synctest.Wait() })
		if passed := time.Since(publisher.began); passed != 0 {
			t.Errorf("stopping took %s", passed)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s, err := New(Config{Name: "web-1", Site: "melb", Meter: &fakeMeter{}, Publisher: publisher, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(ctx); err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	good := Config{Name: "web-1", Site: "melb", Meter: &fakeMeter{}, Publisher: &fakePublisher{}, Log: slog.New(slog.DiscardHandler)}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"no name":         func(c *Config) { c.Name = "" },
		"name of a topic": func(c *Config) { c.Name = "web/1" },
		"no site":         func(c *Config) { c.Site = "" },
		"public site":     func(c *Config) { c.Site = "public" },
		"too often":       func(c *Config) { c.Interval = MinInterval - 1 },
		"negative":        func(c *Config) { c.Interval = -time.Second },
		"no meter":        func(c *Config) { c.Meter = nil },
		"no publisher":    func(c *Config) { c.Publisher = nil },
		"no logger":       func(c *Config) { c.Log = nil },
	} {
		c := good
		spoil(&c)
		if s, err := New(c); err == nil || s != nil {
			t.Errorf("%s: accepted as %s", name, fmt.Sprint(s))
		}
	}
}
