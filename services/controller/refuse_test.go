package controller

import (
	"errors"
	"log/slog"
	"math"
	"testing"
	"time"

	"levee/internal/wire"
	"levee/pki"
	"levee/services/controller/journal"
)

// TestRefusals breaks one rule in each row. Nothing may change at the load
// balancer, and the answer names the rule.
func TestRefusals(t *testing.T) {
	type testCase struct {
		name   string
		from   func(*wire.Topic)
		change func(*wire.Command)
		as     func() wire.Command // another command than enable_rate_limiting
		late   time.Duration       // between receiving and judging
		want   string              // empty: no answer at all
	}
	tests := []testCase{
		// Who may command.
		{name: "another site", from: func(f *wire.Topic) { f.Site = "sydn" }},
		{name: "another controller", change: func(c *wire.Command) { c.Controller = "lb-2" }},
		{name: "an approver", from: func(f *wire.Topic) { f.Role = "approver" }, want: ReasonGrantsUnsupported},
		{name: "an operator", from: func(f *wire.Topic) { f.Role = "operator" }, want: ReasonRole},
		{name: "a sensor", from: func(f *wire.Topic) { f.Role = "sensor" }, want: ReasonRole},
		{name: "a monitor on another topic", from: func(f *wire.Topic) { f.Kind = wire.KindAlert }, want: ReasonRole},
		{name: "automation holding automation", change: func(c *wire.Command) { c.Command = wire.HoldAutomation }, want: ReasonPeopleOnly},

		// What is a command.
		{name: "an unknown command", change: func(c *wire.Command) { c.Command = "reboot" }, want: ReasonUnknownCommand},
		{name: "no command", change: func(c *wire.Command) { c.Command = "" }, want: ReasonUnknownCommand},
		{name: "no id", change: func(c *wire.Command) { c.ID = wire.ID{} }},
		{name: "never issued", change: func(c *wire.Command) { c.Issued = 0 }, want: ReasonMalformed},
		{name: "issued before the epoch", change: func(c *wire.Command) { c.Issued = -1 }, want: ReasonMalformed},
		{name: "issued at the end of time", change: func(c *wire.Command) { c.Issued = math.MaxInt64 }, want: ReasonMalformed},
		{name: "no time to live", change: func(c *wire.Command) { c.TTL = 0 }, want: ReasonMalformed},
		{name: "a negative time to live", change: func(c *wire.Command) { c.TTL = -60 }, want: ReasonMalformed},
		{name: "more than a day", change: func(c *wire.Command) { c.TTL = maxTTL + 1 }, want: ReasonMalformed},
		{name: "a time to live that overflows", change: func(c *wire.Command) { c.TTL = math.MaxInt64 / 1000 }, want: ReasonMalformed},
		{name: "no rate", change: func(c *wire.Command) { c.Parameters.RatePerSecond = 0 }, want: ReasonMalformed},
		{name: "a rate that is no number", change: func(c *wire.Command) { c.Parameters.RatePerSecond = math.NaN() }, want: ReasonMalformed},
		{name: "an infinite rate", change: func(c *wire.Command) { c.Parameters.RatePerSecond = math.Inf(1) }, want: ReasonMalformed},
		{name: "no burst", change: func(c *wire.Command) { c.Parameters.Burst = 0 }, want: ReasonMalformed},
		{name: "a parameter too many", change: func(c *wire.Command) { c.Parameters.Servers = 3 }, want: ReasonMalformed},
		{name: "no servers", as: func() wire.Command { c := scaleUp(time.Minute); c.Parameters.Servers = 0; return c }, want: ReasonMalformed},
		{name: "a rate for servers", as: func() wire.Command { c := scaleUp(time.Minute); c.Parameters.Burst = 1; return c }, want: ReasonMalformed},
		{name: "parameters of an end", as: func() wire.Command {
			c := command(wire.DisableRateLimiting, time.Minute)
			c.Parameters.Burst = 1
			return c
		}, want: ReasonMalformed},
		{name: "too large to remember", change: func(c *wire.Command) { c.Cause = string(make([]byte, journal.MaxBytes)) }, want: ReasonMalformed},

		// When.
		{name: "just expired", change: func(c *wire.Command) { c.Issued -= 60_000 }, want: ReasonExpired},
		{name: "expired long ago", change: func(c *wire.Command) { c.Issued -= 1e9 }, want: ReasonExpired},
		{name: "expired in the queue", late: time.Minute, want: ReasonExpired},
		{name: "from the future", change: func(c *wire.Command) { c.Issued += DefaultSkew.Milliseconds() + 1 }, want: ReasonFuture},
		{name: "from the future, in the queue until then", late: 2 * time.Second,
			change: func(c *wire.Command) { c.Issued += DefaultSkew.Milliseconds() + 1000 }, want: ReasonFuture},

		// Where, and within policy.
		{name: "an unknown pool", change: func(c *wire.Command) { c.Server = "web-9" }, want: ReasonUnknownPool},
		{name: "no pool", change: func(c *wire.Command) { c.Server = "" }, want: ReasonUnknownPool},
		{name: "too long", change: func(c *wire.Command) { c.TTL = int64(testMaxTTL/time.Second) + 1 }, want: ReasonNotPermitted},
		{name: "too strict", change: func(c *wire.Command) { c.Parameters.RatePerSecond = 0.5 }, want: ReasonNotPermitted},
		{name: "another's server", change: func(c *wire.Command) { c.Sensors = []string{"web-2"} }, want: ReasonNotPermitted},
		{name: "all servers for one sensor", change: func(c *wire.Command) { c.Server, c.Sensors = "*", c.Sensors[:1] }, want: ReasonNotPermitted},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, func(r *rig) {
				calls := len(r.lb.called())
				from, cmd := mon1, enable(time.Minute)
				if test.as != nil {
					cmd = test.as()
				}
				if test.from != nil {
					test.from(&from)
				}
				if test.change != nil {
					test.change(&cmd)
				}
				received := time.Now()
				r.sleep(test.late)
				r.c.Handle(from, cmd, received)
				if test.want == "" {
					r.expect()
				} else {
					r.expectRefused(cmd, test.want)
				}
				if len(r.lb.called()) != calls {
					t.Errorf("the load balancer was called: %+v", r.lb.called()[calls:])
				}
				if entries, err := r.journal.Entries(); err != nil || len(entries) != 0 {
					t.Errorf("the journal holds %d entries, %v", len(entries), err)
				}
				if s := r.c.Stats(); s.Refused+s.Ignored != 1 || s.Accepted != 0 {
					t.Errorf("counted %+v", s)
				}
				// The rule stands between the command and the act, and nothing
				// else does: the unspoilt command acts.
				r.send(enable(time.Minute))
				r.expect("enable_rate_limiting active")
			})
		})
	}
}

// expectRefused requires one status that refuses cmd for the reason.
func (r *rig) expectRefused(cmd wire.Command, reason string) {
	r.t.Helper()
	said := r.said()
	if len(said) != 1 {
		r.t.Fatalf("%d statuses, want one: %+v", len(said), said)
	}
	s := said[0]
	if s.ID != cmd.ID || s.Status.Status != wire.StatusFailure || s.State != wire.StateRefused || s.Reason != reason ||
		s.Until != 0 || s.Controller != "lb-1" || s.Parameters != (wire.Parameters{}) {
		r.t.Errorf("status %+v, want refused: %s", s.Status, reason)
	}
	kind := wire.KindRateLimiting
	if cmd.Command == wire.ScaleUpServers || cmd.Command == wire.ScaleDownServers {
		kind = wire.KindScaling
	}
	if want := (wire.Topic{Kind: kind, Site: "melb", Role: "controller", Name: "lb-1"}); s.topic != want {
		r.t.Errorf("published on %v, want %v", s.topic, want)
	}
}

// TestRefusalsEchoNothing checks that what a captured sender writes does not
// travel on under the controller's signature.
func TestRefusalsEchoNothing(t *testing.T) {
	bubble(t, func(r *rig) {
		cmd := enable(time.Minute)
		cmd.Command, cmd.Server = "<script>", "<script>"
		r.send(cmd)
		said := r.expect("unknown refused unknown_command")
		if said[0].Server != "" {
			t.Errorf("echoed %q", said[0].Server)
		}
	})
}

func TestAnotherSendersIDIsAnotherCommand(t *testing.T) {
	bubble(t, func(r *rig) {
		first := enable(time.Minute)
		// A captured monitor hurries ahead with the id of another's command.
		stolen := first
		stolen.Server, stolen.Sensors = "web-2", []string{"web-2"}
		mon2 := mon1
		mon2.Name = "mon-2"
		r.c.Handle(mon2, stolen, time.Now())
		r.send(first)
		r.expect("enable_rate_limiting active", "enable_rate_limiting active")
		r.expectState("web-1", "limit 5/10")
	})
}

func TestOneIDOneCommand(t *testing.T) {
	changes := map[string]func(*wire.Command){
		"command":    func(c *wire.Command) { *c = with(command(wire.DisableRateLimiting, time.Minute), c.ID) },
		"server":     func(c *wire.Command) { c.Server = "web-2" },
		"parameters": func(c *wire.Command) { c.Parameters.Burst++ },
		"issued":     func(c *wire.Command) { c.Issued++ },
		"ttl":        func(c *wire.Command) { c.TTL++ },
		"cause":      func(c *wire.Command) { c.Cause = "ram_usage" },
		"incident":   func(c *wire.Command) { c.Incident = wire.NewID() },
		"sensors":    func(c *wire.Command) { c.Sensors = append(c.Sensors, "web-3") },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(r *rig) {
				cmd := enable(time.Minute)
				r.send(cmd)
				r.expect("enable_rate_limiting active")
				calls := len(r.lb.called())
				other := cmd
				change(&other)
				r.send(other)
				r.expectRefused(other, ReasonReusedID)
				if len(r.lb.called()) != calls {
					t.Error("the second command acted")
				}
				// The first one's verdict stands.
				r.sleep(repeatEvery)
				r.send(cmd)
				r.expect("enable_rate_limiting active")
			})
		})
	}
	t.Run("but a new timestamp is a repetition", func(t *testing.T) {
		bubble(t, func(r *rig) {
			cmd := enable(time.Minute)
			r.send(cmd)
			cmd.Timestamp++
			r.send(cmd)
			r.expect("enable_rate_limiting active", "enable_rate_limiting active")
		})
	})
}

func with(cmd wire.Command, id wire.ID) wire.Command {
	cmd.ID = id
	return cmd
}

func TestJournalFirst(t *testing.T) {
	bubble(t, func(r *rig) {
		cmd := enable(time.Minute)
		before := func() {
			if e, found := r.entry(cmd.ID); !found || e.Status != nil {
				t.Errorf("while acting the journal holds %v %+v, want an entry without outcome", found, e)
			}
		}
		r.lb.set(func(f *fakeBalancer) { f.before = before })
		r.send(cmd)
		r.lb.set(func(f *fakeBalancer) { f.before = nil })
		r.expect("enable_rate_limiting active")
		e, _ := r.entry(cmd.ID)
		var s wire.Status
		if err := wire.DecodeExact(e.Status, &s); err != nil || s.State != wire.StateActive || s.Until != until(cmd) {
			t.Errorf("journalled %+v, %v", s, err)
		}
	})
}

func TestWithoutJournalNothingActs(t *testing.T) {
	broken := errors.New("no space left on device")
	for reason, breaks := range map[string]func(*brokenJournal){
		ReasonJournalFailed: func(b *brokenJournal) { b.add = broken },
		"reading":           func(b *brokenJournal) { b.find = broken },
		ReasonJournalFull:   func(b *brokenJournal) { b.add = journal.ErrFull },
	} {
		t.Run(reason, func(t *testing.T) {
			bubble(t, func(r *rig) {
				calls := len(r.lb.called())
				breaks(r.broken)
				cmd := enable(time.Minute)
				r.send(cmd)
				if reason == "reading" {
					reason = ReasonJournalFailed
				}
				r.expectRefused(cmd, reason)
				if len(r.lb.called()) != calls {
					t.Error("acted without a journal")
				}
				// Nothing was decided, so a repeat may succeed.
				r.broken.add, r.broken.find = nil, nil
				r.send(cmd)
				r.expect("enable_rate_limiting active")
			})
		})
	}
}

func TestNewRefuses(t *testing.T) {
	good := func() Config {
		return Config{
			Site: "melb", Name: "lb-1", Automatic: testPolicy, Publish: func(wire.Topic, any) error { return nil },
			Actuator: newFakeBalancer("web-1"), Journal: &brokenJournal{}, Log: slog.New(slog.DiscardHandler),
		}
	}
	if _, err := New(good()); err != nil {
		t.Fatal(err)
	}
	many := make([]string, maxPools+1)
	for i := range many {
		many[i] = "web-" + time.Duration(i).String()
	}
	for name, spoil := range map[string]func(*Config){
		"no site":           func(c *Config) { c.Site = "" },
		"a site of nobody":  func(c *Config) { c.Site = "public" },
		"no name":           func(c *Config) { c.Name = "" },
		"no policy":         func(c *Config) { c.Automatic = nil },
		"no publishing":     func(c *Config) { c.Publish = nil },
		"no actuator":       func(c *Config) { c.Actuator = nil },
		"no journal":        func(c *Config) { c.Journal = nil },
		"no log":            func(c *Config) { c.Log = nil },
		"a negative skew":   func(c *Config) { c.Skew = -1 },
		"no pools":          func(c *Config) { c.Actuator = newFakeBalancer() },
		"too many pools":    func(c *Config) { c.Actuator = newFakeBalancer(many...) },
		"a pool called all": func(c *Config) { c.Actuator = newFakeBalancer(wire.AllServers) },
		"a pool twice":      func(c *Config) { c.Actuator = twice{newFakeBalancer()} },
	} {
		cfg := good()
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

type twice struct{ *fakeBalancer }

func (twice) Pools() []string { return []string{"web-1", "web-1"} }

// FuzzCheckForm checks that what is taken for a command has an end, bounded
// parameters, and one spelling.
func FuzzCheckForm(f *testing.F) {
	for _, cmd := range []wire.Command{
		enable(time.Minute), scaleUp(time.Hour), command(wire.DisableRateLimiting, time.Second), command(wire.HoldAutomation, time.Second),
	} {
		b, err := wire.Encode(&cmd)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var cmd wire.Command
		if wire.DecodeExact(b, &cmd) != nil {
			return
		}
		if checkForm(cmd) != "" {
			return
		}
		if end := until(cmd); end <= cmd.Issued || end-cmd.Issued > maxTTL*1000 {
			t.Errorf("ends at %d", end)
		}
		p := cmd.Parameters
		if p.RatePerSecond < 0 || p.RatePerSecond > maxRate || p.Burst < 0 || p.Burst > maxBurst || p.Servers < 0 || p.Servers > maxServers {
			t.Errorf("parameters %+v", p)
		}
		if !pki.ValidName(cmd.Server) && cmd.Server != wire.AllServers {
			if s := (&state{pools: []*pool{{name: "web-1"}}}); len(s.of(cmd.Server)) != 0 {
				t.Errorf("%q is a pool", cmd.Server)
			}
		}
		first, err := canonical(cmd)
		if err != nil {
			t.Fatal(err)
		}
		var again wire.Command
		if err := wire.DecodeExact(first, &again); err != nil {
			t.Fatalf("the journal could not read %s: %v", first, err)
		}
		if second, err := canonical(again); err != nil || string(first) != string(second) {
			t.Errorf("two spellings: %s and %s", first, second)
		}
	})
}
