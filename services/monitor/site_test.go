package monitor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/wire"
)

// outbox is a publisher that keeps what it is given, and when.
type outbox struct {
	mu       sync.Mutex
	start    time.Time
	alerts   []wire.Alert
	commands []sent
	topics   []string
	fail     error
	// answer, if set, makes the controller's answer to a command.
	answer func(wire.Command)
}

type sent struct {
	at      float64 // seconds since the start
	command wire.Command
}

func (o *outbox) Publish(topic wire.Topic, payload any) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return o.fail
	}
	if _, err := wire.Encode(payload); err != nil {
		return err
	}
	o.topics = append(o.topics, topic.String())
	switch p := payload.(type) {
	case *wire.Alert:
		o.alerts = append(o.alerts, *p)
	case *wire.Command:
		o.commands = append(o.commands, sent{time.Since(o.start).Seconds(), *p})
		if o.answer != nil {
			o.answer(*p)
		}
	default:
		return errors.New("neither alert nor command")
	}
	return nil
}

func (o *outbox) sent() []sent {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.commands)
}

func (o *outbox) alerted() []wire.Alert {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.alerts)
}

func (o *outbox) published() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.topics)
}

func (o *outbox) failWith(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = err
}

func (o *outbox) answerWith(f func(wire.Command)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answer = f
}

// times returns when commands were sent, and issued when each new one was.
func (o *outbox) times() (times []float64) {
	for _, s := range o.sent() {
		times = append(times, s.at)
	}
	return times
}

func (o *outbox) issued() (times []float64) {
	seen := make(map[wire.ID]bool)
	for _, s := range o.sent() {
		if !seen[s.command.ID] {
			seen[s.command.ID] = true
			times = append(times, s.at)
		}
	}
	return times
}

func limiting() Automatic {
	return Automatic{
		Command:    wire.EnableRateLimiting,
		Causes:     []string{"syn_packet_count"},
		Parameters: wire.Parameters{RatePerSecond: 20, Burst: 40},
		TTL:        20 * time.Second,
		MaxTTL:     time.Minute,
		CoolDown:   30 * time.Second,
		Renewals:   2,
	}
}

func settled(o *outbox) Config {
	return Config{
		Site:        "melb",
		Name:        "mon-1",
		Mode:        ModeAct,
		Automatic:   []Automatic{limiting()},
		Controllers: []Controller{{Name: "lb-1", Servers: []string{"web-1", "web-2"}}},
		Publisher:   o,
		Log:         slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// branch is a monitor that runs in a bubble, a quarter of a second off its tick.
type branch struct {
	*outbox
	m *Monitor
	t *testing.T
}

func inBubble(t *testing.T, change func(*Config), body func(*branch)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o := &outbox{start: time.Now()}
		c := settled(o)
		if change != nil {
			change(&c)
		}
		m, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		body(&branch{o, m, t})
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func sensor(kind wire.Kind, name string) wire.Topic {
	return wire.Topic{Kind: kind, Site: "melb", Role: "sensor", Name: name}
}

// syn observes one network reading over 5 s and waits until it is judged.
func (s *branch) syn(server string, count uint64) {
	s.m.ObserveNetwork(sensor(wire.KindNetwork, server), wire.Network{
		Timestamp: seconds(time.Now()), Server: server, Interval: 5, SYNPacketCount: count,
	}, time.Now())
	synctest.Wait()
}

// until observes a reading each 5 s, beginning now, and returns at the given
// second since the start.
func (s *branch) until(second float64, server string, count uint64) {
	end := s.start.Add(time.Duration(second * float64(time.Second)))
	for time.Now().Before(end) {
		s.syn(server, count)
		time.Sleep(min(5*time.Second, time.Until(end)))
	}
	synctest.Wait()
}

func (s *branch) sleepUntil(second float64) {
	time.Sleep(time.Until(s.start.Add(time.Duration(second * float64(time.Second)))))
	synctest.Wait()
}

// status answers command with what is given, from lb-1.
func (s *branch) status(c wire.Command, status, state string) {
	s.m.ObserveStatus(wire.Topic{Kind: wire.KindRateLimiting, Site: "melb", Role: "controller", Name: "lb-1"}, wire.Status{
		ID: c.ID, Command: c.Command, Status: status, State: state, Controller: "lb-1", Server: c.Server,
	})
}

func (s *branch) succeed() {
	s.answerWith(func(c wire.Command) { s.status(c, wire.StatusSuccess, wire.StateActive) })
}

func (s *branch) counted(want map[Counter]uint64) {
	s.t.Helper()
	for c, n := range want {
		if got := s.m.Count(c); got != n {
			s.t.Errorf("%s: %d, want %d", c, got, n)
		}
	}
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}
