package monitor

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"levee/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOneAlertForAnIncident(t *testing.T) {
	inBubble(t, nil, func(s *branch) {
		s.sleepUntil(0.25)
		s.until(30.25, "web-1", 1500)
		s.until(60.25, "web-1", 10)
		if len(s.alerted()) != 2 {
			t.Fatalf("%d alerts, want 2: %v", len(s.alerted()), s.alerted())
		}
		began, ended := s.alerted()[0], s.alerted()[1]
		want := wire.Alert{
			Timestamp: seconds(s.start) + 0.25, Alert: "SYN packet count exceeded threshold", State: wire.StateRaised,
			Incident: began.Incident, Server: "web-1", Metric: "syn_packet_count", Value: 1500, Threshold: 700, Window: 5,
		}
		equal(t, "raised", began, want)
		want.State, want.Value, want.Timestamp = wire.StateEnded, 10, seconds(s.start)+45.25
		equal(t, "ended", ended, want)
		if began.Incident.IsZero() {
			t.Error("the incident has no identifier")
		}
		equal(t, "topic", s.published()[0], "melb/bank_server/alerts/mon-1")
		s.counted(map[Counter]uint64{Raised: 1, Ended: 1, Judged: 24})
	})
}

func TestObserveModeOnlyAlerts(t *testing.T) {
	inBubble(t, func(c *Config) { c.Mode = ModeObserve }, func(s *branch) {
		s.sleepUntil(0.25)
		s.until(50.25, "web-1", 1500)
		if len(s.alerted()) != 1 || len(s.sent()) != 0 {
			t.Fatalf("%d alerts and %d commands, want 1 and 0", len(s.alerted()), len(s.sent()))
		}
		// As it would have been: at 0.25, and two renewals.
		s.counted(map[Counter]uint64{Withheld: 3, Issued: 0, Repeated: 0, Unanswered: 0})
	})
}

func TestZeroModeObserves(t *testing.T) {
	var c Config
	if c.Mode != ModeObserve || c.Mode.String() != "observe" || ModeAct.String() != "act" {
		t.Fatal("the zero mode acts")
	}
}

func TestCommand(t *testing.T) {
	inBubble(t, nil, func(s *branch) {
		s.sleepUntil(0.25)
		s.syn("web-1", 1500)
		if len(s.sent()) != 1 {
			t.Fatalf("%d commands, want 1", len(s.sent()))
		}
		got := s.sent()[0].command
		want := wire.Command{
			Timestamp: seconds(s.start) + 0.25, ID: got.ID, Command: "enable_rate_limiting", Controller: "lb-1",
			Server: "web-1", Parameters: wire.Parameters{RatePerSecond: 20, Burst: 40},
			Issued: s.start.UnixMilli() + 250, TTL: 20, Cause: "syn_packet_count",
			Incident: s.alerted()[0].Incident, Sensors: []string{"web-1"},
		}
		equal(t, "command", got, want)
		if got.ID.IsZero() {
			t.Error("the command has no identifier")
		}
		equal(t, "topics", s.published(), []string{"melb/bank_server/alerts/mon-1", "melb/bank_server/control/command/monitor/mon-1"})
	})
}

func TestCommandIsRepeatedUntilItsStatus(t *testing.T) {
	for _, status := range []string{wire.StatusSuccess, wire.StatusFailure} {
		t.Run(status, func(t *testing.T) {
			inBubble(t, nil, func(s *branch) {
				s.sleepUntil(0.25)
				s.syn("web-1", 1500)
				s.sleepUntil(3.5)
				s.status(s.sent()[0].command, status, "")
				s.sleepUntil(9)
				equal(t, "times", s.times(), []float64{0.25, 1, 2, 3})
				for _, c := range s.sent() {
					equal(t, "repetition", c.command, s.sent()[0].command)
				}
				s.counted(map[Counter]uint64{Issued: 1, Repeated: 3, Succeeded: s.m.Count(Succeeded)})
			})
		})
	}
}

func TestCommandIsRepeatedUntilItExpires(t *testing.T) {
	inBubble(t, func(c *Config) { c.Automatic[0].Renewals = 0 }, func(s *branch) {
		s.sleepUntil(0.25)
		s.until(60.25, "web-1", 1500)
		want := []float64{0.25}
		for second := 1.0; second <= 20; second++ {
			want = append(want, second)
		}
		// It lapsed at 20.25; the cool-down is over at 50.25.
		want = append(want, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60)
		equal(t, "times", s.times(), want)
		equal(t, "issued", s.issued(), []float64{0.25, 51})
		s.counted(map[Counter]uint64{Unanswered: 1, Issued: 2})
	})
}

func TestUnansweredCommandIsFollowedByTheNext(t *testing.T) {
	inBubble(t, nil, func(s *branch) {
		s.sleepUntil(0.25)
		s.until(110.25, "web-1", 1500)
		// Each is repeated to its end; the run of three lapses at 61, and is
		// over at 91.
		equal(t, "issued", s.issued(), []float64{0.25, 21, 41, 91})
	})
}

func TestRenewals(t *testing.T) {
	inBubble(t, nil, func(s *branch) {
		s.succeed()
		s.sleepUntil(0.25)
		s.until(80.25, "web-1", 1500)
		// Renewed at half of the 20 s, twice; the third lapses at 41, and the
		// cool-down of 30 s ends at 71.
		equal(t, "times", s.times(), []float64{0.25, 11, 21, 71})
		ids := make(map[wire.ID]bool)
		for _, c := range s.sent() {
			ids[c.command.ID] = true
			equal(t, "incident", c.command.Incident, s.alerted()[0].Incident)
			if c.at > 1 {
				equal(t, "issued", c.command.Issued, s.start.UnixMilli()+int64(c.at*1000))
			}
		}
		if len(ids) != 4 {
			t.Errorf("%d identifiers for 4 commands", len(ids))
		}
		s.counted(map[Counter]uint64{Issued: 4, Repeated: 0, Succeeded: 4, Raised: 1})
	})
}

func TestNothingIsRenewedAfterTheEnd(t *testing.T) {
	inBubble(t, nil, func(s *branch) {
		s.succeed()
		s.sleepUntil(0.25)
		s.syn("web-1", 1500)
		s.sleepUntil(3.25)
		s.until(100, "web-1", 10) // ends at 18.25
		equal(t, "times", s.times(), []float64{0.25, 11})
		s.counted(map[Counter]uint64{Ended: 1})
	})
}

// TestPulses: attacks that come and go are answered at once, from the same
// run, until it is used up.
func TestPulses(t *testing.T) {
	inBubble(t, func(c *Config) { c.Detect.Hold = time.Second }, func(s *branch) {
		s.succeed()
		for _, begin := range []float64{0.25, 20.25, 40.25, 60.25, 80.25, 120.25} {
			s.until(begin, "web-1", 10)
			s.syn("web-1", 1500)
			time.Sleep(time.Second)
		}
		// The run's three commands; the last lapses at 60.25, and the cool-down
		// ends at 90.25.
		equal(t, "issued", s.issued(), []float64{0.25, 20.25, 40.25, 120.25})
		s.counted(map[Counter]uint64{Raised: 6, Issued: 4})
		if s.sent()[0].command.Incident == s.sent()[1].command.Incident {
			t.Error("two incidents have one identifier")
		}
	})
}

func TestFailureCoolsDown(t *testing.T) {
	inBubble(t, nil, func(s *branch) {
		s.answerWith(func(c wire.Command) { s.status(c, wire.StatusFailure, wire.StateRefused) })
		s.sleepUntil(0.25)
		s.until(70.25, "web-1", 1500)
		equal(t, "times", s.times(), []float64{0.25, 31, 61})
		s.counted(map[Counter]uint64{Failed: 3, Succeeded: 0, Repeated: 0})
	})
}

func TestFailedRenewalCoolsDown(t *testing.T) {
	inBubble(t, nil, func(s *branch) {
		s.succeed()
		s.sleepUntil(0.25)
		s.until(10.25, "web-1", 1500)
		s.answerWith(func(c wire.Command) { s.status(c, wire.StatusFailure, wire.StateFailed) })
		s.until(40.25, "web-1", 1500)
		equal(t, "times", s.times(), []float64{0.25, 11})
		s.until(41.25, "web-1", 1500)
		equal(t, "times", s.times(), []float64{0.25, 11, 41})
	})
}

// TestLateStatusOfARenewedCommand: what comes of a command that has been
// followed by another changes nothing, and is not remembered for ever.
func TestLateStatusOfARenewedCommand(t *testing.T) {
	inBubble(t, nil, func(s *branch) {
		s.succeed()
		s.sleepUntil(0.25)
		s.until(15.25, "web-1", 1500)
		s.status(s.sent()[0].command, wire.StatusFailure, wire.StateFailed)
		s.until(25.25, "web-1", 1500)
		equal(t, "times", s.times(), []float64{0.25, 11, 21})
		s.counted(map[Counter]uint64{Failed: 0})
		s.until(150, "web-1", 10)
		if n := len(s.m.responder.sent) + len(s.m.responder.runs); n != 0 {
			t.Errorf("%d commands and runs are remembered", n)
		}
	})
}

// TestOverruled: when somebody ends the mitigation, the monitor does not begin
// it again before the cool-down.
func TestOverruled(t *testing.T) {
	inBubble(t, nil, func(s *branch) {
		s.succeed()
		s.sleepUntil(0.25)
		s.until(5.25, "web-1", 1500)
		for range 2 { // the second must not begin the cool-down again
			s.status(s.sent()[0].command, wire.StatusSuccess, wire.StateStopped)
			s.until(10.25, "web-1", 1500)
		}
		s.until(40.25, "web-1", 1500)
		equal(t, "times", s.times(), []float64{0.25, 36})
		s.counted(map[Counter]uint64{Overruled: 1})
	})
}

func TestSilenceStopsRenewal(t *testing.T) {
	inBubble(t, func(c *Config) {
		c.Detect.Silence = 8 * time.Second
		c.Automatic[0].CoolDown = 5 * time.Minute
	}, func(s *branch) {
		s.succeed()
		s.sleepUntil(0.25)
		s.syn("web-1", 1500)
		s.sleepUntil(60)
		equal(t, "times", s.times(), []float64{0.25})
		s.counted(map[Counter]uint64{Silenced: 1, Ended: 0})
		s.sleepUntil(60.25)
		s.until(62, "web-1", 1500) // it speaks again: the incident lasts
		equal(t, "times", s.times(), []float64{0.25, 61})
		s.counted(map[Counter]uint64{Raised: 1})
		equal(t, "alerts", len(s.alerted()), 1)
	})
}

func TestSensorAffectsItsOwnServerAlone(t *testing.T) {
	inBubble(t, func(c *Config) {
		c.Controllers = append(c.Controllers, Controller{Name: "lb-2", Servers: []string{"web-2"}})
	}, func(s *branch) {
		s.sleepUntil(0.25)
		for _, server := range []string{"web-1", "web-2", "db-1"} {
			s.syn(server, 1500)
		}
		var got []string
		for _, c := range s.sent() {
			got = append(got, c.command.Controller+" "+c.command.Server+" "+strings.Join(c.command.Sensors, ","))
		}
		slices.Sort(got)
		equal(t, "commands", got, []string{"lb-1 web-1 web-1", "lb-1 web-2 web-2", "lb-2 web-2 web-2"})
		s.counted(map[Counter]uint64{Raised: 3, Unserved: 1})
	})
}

func TestOnlyItsCauses(t *testing.T) {
	inBubble(t, func(c *Config) {
		c.Automatic = append(c.Automatic, Automatic{
			Command: wire.ScaleUpServers, Causes: []string{"cpu_usage", "active_tcp_connections"},
			Parameters: wire.Parameters{Servers: 3}, TTL: 5 * time.Minute, MaxTTL: time.Hour, CoolDown: time.Minute,
		})
	}, func(s *branch) {
		s.sleepUntil(0.25)
		observe := func() {
			now := time.Now()
			s.m.ObserveRAM(sensor(wire.KindRAM, "web-1"), wire.RAM{Timestamp: seconds(now), Server: "web-1", RAMUsage: 99}, now)
			s.m.ObserveCPU(sensor(wire.KindCPU, "web-1"), wire.CPU{Timestamp: seconds(now), Server: "web-1", Interval: 5, CPUUsage: 99}, now)
			synctest.Wait()
		}
		observe()
		time.Sleep(5 * time.Second)
		observe()
		if len(s.alerted()) != 2 || len(s.sent()) != 1 {
			t.Fatalf("%d alerts and %d commands, want 2 and 1", len(s.alerted()), len(s.sent()))
		}
		c := s.sent()[0].command
		if c.Command != wire.ScaleUpServers || c.Cause != "cpu_usage" || c.Parameters != (wire.Parameters{Servers: 3}) {
			t.Errorf("%+v", c)
		}
		// A status of scaling ends it, one of rate limiting does not.
		from := wire.Topic{Kind: wire.KindRateLimiting, Site: "melb", Role: "controller", Name: "lb-1"}
		status := wire.Status{ID: c.ID, Command: c.Command, Status: wire.StatusSuccess, Controller: "lb-1", Server: "web-1"}
		s.m.ObserveStatus(from, status)
		synctest.Wait()
		s.counted(map[Counter]uint64{RefusedStatus: 1, Succeeded: 0})
		from.Kind = wire.KindScaling
		s.m.ObserveStatus(from, status)
		synctest.Wait()
		s.counted(map[Counter]uint64{RefusedStatus: 1, Succeeded: 1})
	})
}

// TestForeignStatuses: only the controller that a command is for ends its
// repetition.
func TestForeignStatuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*wire.Topic, *wire.Status)
		count  Counter
		n      uint64
	}{
		"another controller's topic": {func(f *wire.Topic, s *wire.Status) { f.Name = "lb-2" }, RefusedStatus, 1},
		"another controller":         {func(f *wire.Topic, s *wire.Status) { f.Name, s.Controller = "lb-2", "lb-2" }, RefusedStatus, 1},
		"another name in it":         {func(f *wire.Topic, s *wire.Status) { s.Controller = "lb-2" }, RefusedStatus, 1},
		"another server":             {func(f *wire.Topic, s *wire.Status) { s.Server = "web-2" }, RefusedStatus, 1},
		"another command":            {func(f *wire.Topic, s *wire.Status) { s.Command = wire.ScaleUpServers }, RefusedStatus, 1},
		"another kind of topic":      {func(f *wire.Topic, s *wire.Status) { f.Kind = wire.KindScaling }, RefusedStatus, 1},
		"an unknown word":            {func(f *wire.Topic, s *wire.Status) { s.Status = "SUCCESS" }, RefusedStatus, 1},
		"no word":                    {func(f *wire.Topic, s *wire.Status) { s.Status = "" }, RefusedStatus, 1},
		"another site":               {func(f *wire.Topic, s *wire.Status) { f.Site = "syd" }, RefusedTopic, 1},
		"another role":               {func(f *wire.Topic, s *wire.Status) { f.Role = "sensor" }, RefusedTopic, 1},
		"no status topic":            {func(f *wire.Topic, s *wire.Status) { f.Kind = wire.KindAlert }, RefusedTopic, 1},
		"another id":                 {func(f *wire.Topic, s *wire.Status) { s.ID = wire.NewID() }, RefusedStatus, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(s *branch) {
				s.sleepUntil(0.25)
				s.syn("web-1", 1500)
				c := s.sent()[0].command
				from := wire.Topic{Kind: wire.KindRateLimiting, Site: "melb", Role: "controller", Name: "lb-1"}
				status := wire.Status{
					ID: c.ID, Command: c.Command, Status: wire.StatusSuccess, State: wire.StateActive,
					Controller: "lb-1", Server: "web-1", Reason: strings.Repeat("x", 1000),
				}
				test.change(&from, &status)
				s.m.ObserveStatus(from, status)
				s.sleepUntil(2.5)
				equal(t, "times", s.times(), []float64{0.25, 1, 2})
				s.counted(map[Counter]uint64{test.count: test.n, Succeeded: 0, Failed: 0})
			})
		})
	}
}

// TestAlertsWaitForTheBroker: an alert that cannot be sent is sent later, in
// its order, and what is due by command does not wait for it.
func TestAlertsWaitForTheBroker(t *testing.T) {
	inBubble(t, func(c *Config) { c.Detect.Hold = time.Second }, func(s *branch) {
		s.sleepUntil(0.25)
		s.failWith(errors.New("not connected"))
		s.syn("web-1", 1500)
		time.Sleep(time.Second)
		s.syn("web-1", 10)
		time.Sleep(time.Second)
		s.syn("web-1", 10)
		s.sleepUntil(2.5)
		s.failWith(nil)
		s.sleepUntil(3.5)
		if len(s.alerted()) != 2 || s.alerted()[0].State != wire.StateRaised || s.alerted()[1].State != wire.StateEnded {
			t.Fatalf("%v", s.alerted())
		}
		equal(t, "times", s.times(), []float64{3})
		s.counted(map[Counter]uint64{LostAlerts: 0, Issued: 1})
		if s.m.Count(UnsentMessages) == 0 {
			t.Error("what could not be sent was not counted")
		}
	})
}

func TestWaitingAlertsAreBounded(t *testing.T) {
	inBubble(t, nil, func(s *branch) {
		s.sleepUntil(0.25)
		s.failWith(errors.New("not connected"))
		for i := range maxAlerts + 3 {
			s.syn("web-"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676)), 1500)
		}
		s.counted(map[Counter]uint64{Raised: maxAlerts + 3, LostAlerts: 3})
		if len(s.m.alerts) != maxAlerts {
			t.Errorf("%d alerts wait", len(s.m.alerts))
		}
	})
}
