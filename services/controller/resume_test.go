package controller

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"levee/internal/wire"
	"levee/policies"
	"levee/services/controller/journal"
)

func TestRestart(t *testing.T) {
	bubble(t, func(r *rig) {
		short, long, up := enable(30*time.Second), enable(5*time.Minute), scaleUp(5*time.Minute)
		long.Server = "web-2"
		r.send(short)
		r.send(long)
		r.send(up)
		r.said()
		r.restart(func() { r.sleep(time.Minute) })
		// What is over is told, what is not is in force again until its own end.
		said := r.expect("enable_rate_limiting lapsed")
		if said[0].ID != short.ID {
			t.Error("the wrong command lapsed")
		}
		r.expectState("web-1", "nothing, 3 servers")
		r.expectState("web-2", "limit 5/10")
		if got := r.lb.now("web-2").RateLimit.Until.UnixMilli(); got != until(long) {
			t.Errorf("until %d, want %d", got, until(long))
		}
		r.send(up)
		r.expect("scale_up_servers active")
		if s := r.c.Stats(); s.Accepted != 0 || s.Repeated != 1 {
			t.Errorf("counted %+v", s)
		}
		r.sleep(4 * time.Minute)
		r.expect("scale_up_servers lapsed", "enable_rate_limiting lapsed")
		// What has been told is not told again.
		r.restart(nil)
		r.expect()
		r.expectState("web-1", "nothing")
	})
}

// TestRestartLateInALife crashes when a limit has only 3 s left: it is in force
// again for these 3 s, and no longer, and its end is told.
func TestRestartLateInALife(t *testing.T) {
	bubble(t, func(r *rig) {
		limit := enable(30 * time.Second)
		r.send(limit)
		r.expect("enable_rate_limiting active")
		r.sleep(26 * time.Second)
		r.restart(func() { r.sleep(time.Second) })
		r.expect()
		r.expectState("web-1", "limit 5/10")
		if got := r.lb.now("web-1").RateLimit.Until.UnixMilli(); got != until(limit) {
			t.Errorf("until %d, want %d", got, until(limit))
		}
		r.sleep(3*time.Second - time.Millisecond)
		r.expect()
		r.expectState("web-1", "limit 5/10")
		r.sleep(time.Millisecond)
		r.expect("enable_rate_limiting lapsed")
		r.expectState("web-1", "nothing")
	})
}

// TestRestartKeepsTheOrder restarts after renewals and ends, and compares the
// state with that of a controller that was never restarted.
func TestRestartKeepsTheOrder(t *testing.T) {
	bubble(t, func(r *rig) {
		first, second := enable(5*time.Minute), enable(5*time.Minute)
		second.Issued++
		second.Parameters.Burst = 20
		up := scaleUp(5 * time.Minute)
		down := command(wire.ScaleDownServers, 5*time.Minute)
		down.Issued = up.Issued + 1
		for _, cmd := range []wire.Command{first, second, up, down} {
			r.send(cmd)
		}
		r.said()
		r.restart(nil)
		r.expect()
		r.expectState("web-1", "limit 5/20")
		late := scaleUp(5 * time.Minute)
		late.Issued = down.Issued - 1
		r.send(late)
		r.expectRefused(late, ReasonSuperseded)
	})
}

// TestRestartEndsWhatNobodyRemembers starts beside a load balancer that kept a
// limit from another life.
func TestRestartEndsWhatNobodyRemembers(t *testing.T) {
	bubble(t, func(r *rig) {
		r.restart(func() {
			r.lb.set(func(f *fakeBalancer) { f.state["web-2"] = Wanted{RateLimit: &RateLimit{PerSecond: 1, Burst: 1}} })
		})
		r.expectState("web-2", "nothing")
	})
}

// TestRestartAfterFailure brings back what was in force when a later command
// failed, and not that later command.
func TestRestartAfterFailure(t *testing.T) {
	bubble(t, func(r *rig) {
		r.send(enable(5 * time.Minute))
		failure := func(_ string, want Wanted) error {
			if want.RateLimit.Burst == 20 {
				return context.DeadlineExceeded
			}
			return nil
		}
		r.lb.set(func(f *fakeBalancer) { f.fail = failure })
		second := enable(5 * time.Minute)
		second.Parameters.Burst = 20
		r.send(second)
		r.expect("enable_rate_limiting active", "enable_rate_limiting failed actuator_failed")
		r.restart(func() { r.lb.set(func(f *fakeBalancer) { f.fail = nil }) })
		r.expect()
		r.expectState("web-1", "limit 5/10")
	})
}

// TestRestartAfterPolicyChanged does not bring back what policy no longer lets
// automation do, or what has no pool any more.
func TestRestartAfterPolicyChanged(t *testing.T) {
	for _, test := range []struct {
		reason string
		change func(r *rig)
	}{
		{ReasonNotPermitted, func(r *rig) {
			r.policy = func(string) (policies.Automatic, bool) { return policies.Automatic{}, false }
		}},
		{ReasonUnknownPool, func(r *rig) { r.lb = newFakeBalancer("web-2") }},
	} {
		t.Run(test.reason, func(t *testing.T) {
			bubble(t, func(r *rig) {
				r.send(enable(5 * time.Minute))
				r.said()
				r.restart(func() { test.change(r) })
				r.expect("enable_rate_limiting stopped " + test.reason)
				r.expectState("web-1", "nothing")
				r.restart(nil)
				r.expect()
			})
		})
	}
}

// TestRestartAfterClockWasSetBack does not keep in force for an hour what was
// accepted, under a clock that was an hour ahead, for a minute.
func TestRestartAfterClockWasSetBack(t *testing.T) {
	bubble(t, func(r *rig) {
		r.restart(func() {
			cmd := enable(time.Minute)
			cmd.Issued += time.Hour.Milliseconds()
			command, err := canonical(cmd)
			if err != nil {
				t.Fatal(err)
			}
			j, err := journal.Open(journal.Config{Path: r.path, Margin: DefaultSkew})
			if err != nil {
				t.Fatal(err)
			}
			err = j.Add(journal.Entry{
				Key: journal.Key{Sender: mon1.Sender(), ID: cmd.ID}, Command: command,
				Seen: time.UnixMilli(cmd.Issued), Expires: time.UnixMilli(until(cmd)),
			})
			if err != nil {
				t.Fatal(err)
			}
			j.Close()
		})
		r.expect("enable_rate_limiting lapsed")
		r.expectState("web-1", "nothing")
	})
}

// TestRestartRefusesWhatItCannotRead does not act without its memory.
func TestRestartRefusesWhatItCannotRead(t *testing.T) {
	good := enable(time.Minute)
	command, err := canonical(good)
	if err != nil {
		t.Fatal(err)
	}
	unknown := good
	unknown.Command = "reboot"
	strange, err := canonical(unknown)
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]journal.Entry{
		"a command":         {Command: []byte("{}")},
		"a strange command": {Command: strange},
		"a status":          {Command: command, Status: []byte("{}")},
	} {
		j, err := journal.Open(journal.Config{Path: filepath.Join(t.TempDir(), "db"), Margin: DefaultSkew})
		if err != nil {
			t.Fatal(err)
		}
		e.Key = journal.Key{Sender: mon1.Sender(), ID: good.ID}
		if err := j.Add(e); err != nil {
			t.Fatal(err)
		}
		c, err := New(Config{
			Site: "melb", Name: "lb-1", Automatic: testPolicy, Publish: func(wire.Topic, any) error { return nil },
			Actuator: newFakeBalancer("web-1"), Journal: j, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Run(context.Background()); err == nil {
			t.Errorf("started without understanding %s", name)
		}
		j.Close()
	}
}

// TestWhateverHappensItEnds sends random commands to a controller whose load
// balancer fails at random and which restarts at random, and checks after each
// step that nothing is in force that should not be, and in the end that nothing
// is, and that every id has one acceptance at most and one last word.
func TestWhateverHappensItEnds(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		bubble(t, func(r *rig) {
			var sent []wire.Command
			verdicts := make(map[wire.ID]string)
			listen := func() {
				for _, s := range r.said() {
					if s.Reason == ReasonExpired {
						continue // repeated after it was forgotten
					}
					before := verdicts[s.ID]
					last := before == wire.StateRefused || before == wire.StateLapsed || before == wire.StateStopped
					if last && s.State != before {
						t.Errorf("seed %d: %s was %s and is now %s", seed, s.ID, before, s.State)
					}
					verdicts[s.ID] = s.State
				}
			}
			inForce := func() {
				for _, pool := range r.lb.Pools() {
					w := r.lb.now(pool)
					now := time.Now().Add(-2 * retryInterval) // an end may have to be tried again
					if w.RateLimit != nil && w.RateLimit.Until.Before(now) || w.Scaling != nil && w.Scaling.Until.Before(now) {
						t.Errorf("seed %d: %s in %s is over", seed, describe(w), pool)
					}
				}
			}
			names := []string{wire.EnableRateLimiting, wire.ScaleUpServers, wire.DisableRateLimiting, wire.ScaleDownServers}
			var failing atomic.Bool
			failure := func(string, Wanted) error {
				if failing.Load() {
					return context.DeadlineExceeded
				}
				return nil
			}
			r.lb.set(func(f *fakeBalancer) { f.fail = failure })
			for range 120 {
				r.sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
				switch n := rng.IntN(20); {
				case n == 0:
					r.restart(func() { r.sleep(time.Duration(rng.IntN(60)) * time.Second) })
				case n == 1:
					// One failure, shorter than the retry that follows it.
					failing.Store(true)
					r.send(enable(time.Duration(1+rng.IntN(60)) * time.Second))
					failing.Store(false)
				case n < 6 && len(sent) > 0:
					r.send(sent[rng.IntN(len(sent))])
				default:
					cmd := command(names[rng.IntN(len(names))], time.Duration(1+rng.IntN(120))*time.Second)
					switch cmd.Command {
					case wire.EnableRateLimiting:
						cmd.Parameters = wire.Parameters{RatePerSecond: 5, Burst: 1 + rng.IntN(100)}
					case wire.ScaleUpServers:
						cmd.Parameters = wire.Parameters{Servers: 1 + rng.IntN(5)}
					}
					cmd.Issued -= int64(rng.IntN(5000))
					cmd.Server = []string{"web-1", "web-2", wire.AllServers}[rng.IntN(3)]
					sent = append(sent, cmd)
					r.send(cmd)
				}
				listen()
				inForce()
			}
			r.sleep(testMaxTTL)
			listen()
			for _, pool := range r.lb.Pools() {
				r.expectState(pool, "nothing")
			}
			entries, err := r.journal.Entries()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				var s wire.Status
				if err := wire.DecodeExact(e.Status, &s); err != nil {
					t.Errorf("seed %d: no last word on %s: %v", seed, e.Key.ID, err)
				}
			}
			for _, cmd := range sent { // one journalled as active was replaced
				r.sleep(repeatEvery)
				r.send(cmd)
				for _, s := range r.said() {
					if s.State == wire.StateActive {
						t.Errorf("seed %d: said to be active: %s", seed, s.ID)
					}
				}
			}
		})
	}
}
