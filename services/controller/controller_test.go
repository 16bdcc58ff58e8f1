package controller

import (
	"errors"
	"testing"
	"time"

	"levee/internal/wire"
)

func TestActsThenLapses(t *testing.T) {
	bubble(t, func(r *rig) {
		started := time.Now()
		cmd := enable(30 * time.Second)
		r.send(cmd)
		said := r.expect("enable_rate_limiting active")
		s := said[0]
		if s.ID != cmd.ID || s.Until != cmd.Issued+30_000 || s.Server != "web-1" || s.Controller != "lb-1" || s.Parameters != cmd.Parameters {
			t.Errorf("status %+v", s)
		}
		if want := (wire.Topic{Kind: wire.KindRateLimiting, Site: "melb", Role: "controller", Name: "lb-1"}); s.topic != want {
			t.Errorf("published on %v, want %v", s.topic, want)
		}
		want := Wanted{RateLimit: &RateLimit{PerSecond: 5, Burst: 10, Until: time.UnixMilli(s.Until)}}
		if got := r.lb.now("web-1"); *got.RateLimit != *want.RateLimit || got.Scaling != nil {
			t.Errorf("applied %+v, want %+v", got.RateLimit, want.RateLimit)
		}
		r.expectState("web-2", "nothing")

		r.sleep(30*time.Second - time.Millisecond)
		r.expect()
		r.expectState("web-1", "limit 5/10")
		r.sleep(time.Millisecond)
		said = r.expect("enable_rate_limiting lapsed")
		if at := said[0].at.Sub(started); at != 30*time.Second {
			t.Errorf("lapsed after %v", at)
		}
		r.expectState("web-1", "nothing")
		// Whoever repeats it now hears how it ended.
		r.sleep(time.Second)
		r.send(cmd)
		r.expect("enable_rate_limiting lapsed")
	})
}

func TestScalingHasItsOwnTopicAndEnd(t *testing.T) {
	bubble(t, func(r *rig) {
		r.send(enable(10 * time.Second))
		r.send(scaleUp(20 * time.Second))
		said := r.expect("enable_rate_limiting active", "scale_up_servers active")
		if said[1].topic.Kind != wire.KindScaling {
			t.Errorf("published on %v", said[1].topic)
		}
		r.expectState("web-1", "limit 5/10, 3 servers")
		r.sleep(10 * time.Second)
		r.expect("enable_rate_limiting lapsed")
		r.expectState("web-1", "nothing, 3 servers")
		r.sleep(10 * time.Second)
		r.expect("scale_up_servers lapsed")
		r.expectState("web-1", "nothing")
	})
}

func TestAllServers(t *testing.T) {
	bubble(t, func(r *rig) {
		all := enable(20 * time.Second)
		all.Server = wire.AllServers
		r.send(all)
		said := r.expect("enable_rate_limiting active")
		if said[0].Server != wire.AllServers {
			t.Errorf("server %q", said[0].Server)
		}
		r.expectState("web-1", "limit 5/10")
		r.expectState("web-2", "limit 5/10")

		// One pool's later command leaves the other to the first.
		r.sleep(time.Second)
		one := enable(time.Minute)
		one.Parameters.Burst = 20
		r.send(one)
		r.expect("enable_rate_limiting active")
		r.expectState("web-2", "limit 5/10")
		r.sleep(19 * time.Second)
		said = r.expect("enable_rate_limiting lapsed")
		if said[0].ID != all.ID {
			t.Error("the wrong command lapsed")
		}
		r.expectState("web-1", "limit 5/20")
		r.expectState("web-2", "nothing")
	})
}

// TestRenewalHasNoGap renews a limit before its end and looks at every state
// that the load balancer was ever given.
func TestRenewalHasNoGap(t *testing.T) {
	bubble(t, func(r *rig) {
		first := enable(30 * time.Second)
		r.send(first)
		r.sleep(20 * time.Second)
		renewal := enable(30 * time.Second)
		r.send(renewal)
		r.expect("enable_rate_limiting active", "enable_rate_limiting active")
		r.sleep(30*time.Second - 1)
		r.expect() // the first one's end is nobody's business any more
		for _, call := range r.lb.called()[2:] {
			if call.want.RateLimit == nil {
				t.Errorf("a gap at %v", call.at)
			}
		}
		// Whoever still repeats the first hears what is in force instead of it.
		r.send(first)
		said := r.expect("enable_rate_limiting active superseded")
		if said[0].ID != first.ID || said[0].Until != until(renewal) {
			t.Errorf("answered %+v", said[0])
		}
		r.sleep(1)
		if said := r.expect("enable_rate_limiting lapsed"); said[0].ID != renewal.ID {
			t.Error("the wrong command lapsed")
		}
		r.sleep(repeatEvery)
		r.send(first)
		r.expect("enable_rate_limiting stopped superseded")
	})
}

func TestRepeatsActOnceAndAreAnsweredOnceASecond(t *testing.T) {
	bubble(t, func(r *rig) {
		cmd := enable(time.Minute)
		r.send(cmd)
		first := r.expect("enable_rate_limiting active")
		calls := len(r.lb.called())
		for range 50 {
			r.send(cmd)
			r.sleep(100 * time.Millisecond)
		}
		said := r.said()
		if len(said) != 5 {
			t.Errorf("%d answers within 5 s, want 5", len(said))
		}
		for _, s := range said {
			if s.Status != first[0].Status {
				t.Errorf("answered %+v, want the journalled %+v", s.Status, first[0].Status)
			}
		}
		if len(r.lb.called()) != calls {
			t.Errorf("acted %d times more", len(r.lb.called())-calls)
		}
		if s := r.c.Stats(); s.Accepted != 1 || s.Repeated != 50 {
			t.Errorf("counted %+v", s)
		}
	})
}

func TestRefusalsAreAnsweredOnceASecond(t *testing.T) {
	bubble(t, func(r *rig) {
		cmd := enable(time.Minute)
		cmd.Server = "web-9"
		for range 50 {
			r.send(cmd)
			r.sleep(100 * time.Millisecond)
		}
		if said := r.said(); len(said) != 5 {
			t.Errorf("%d answers within 5 s, want 5", len(said))
		}
	})
}

func TestEndedByACommand(t *testing.T) {
	bubble(t, func(r *rig) {
		began := enable(5 * time.Minute)
		r.send(began)
		r.send(scaleUp(5 * time.Minute))
		r.said()
		r.sleep(time.Second)
		stop := command(wire.DisableRateLimiting, time.Minute)
		r.send(stop)
		said := r.expect("disable_rate_limiting stopped", "enable_rate_limiting stopped")
		if said[0].ID != stop.ID || said[1].ID != began.ID {
			t.Errorf("the wrong commands: %+v", said)
		}
		r.expectState("web-1", "nothing, 3 servers")
		// A command that was under way for long cannot begin it again.
		late := enable(5 * time.Minute)
		late.Issued = stop.Issued - 1
		r.send(late)
		r.expectRefused(late, ReasonSuperseded)
		// Ending what is not in force is no failure: the state is as wanted.
		r.sleep(time.Second)
		r.send(command(wire.DisableRateLimiting, time.Minute))
		r.expect("disable_rate_limiting stopped")
		r.send(command(wire.ScaleDownServers, time.Minute))
		said = r.expect("scale_down_servers stopped", "scale_up_servers stopped")
		if said[0].topic.Kind != wire.KindScaling {
			t.Errorf("published on %v", said[0].topic)
		}
		r.expectState("web-1", "nothing")
		// The end of an end's time to live is the end of nothing.
		r.sleep(10 * time.Minute)
		r.expect()
	})
}

func TestAllServersEndsPoolByPool(t *testing.T) {
	bubble(t, func(r *rig) {
		all := enable(5 * time.Minute)
		all.Server = wire.AllServers
		r.send(all)
		r.said()
		for _, server := range []string{"web-1", "web-2"} {
			r.sleep(time.Second)
			stop := command(wire.DisableRateLimiting, time.Minute)
			stop.Server = server
			r.send(stop)
			r.expectState(server, "nothing")
			want := []string{"disable_rate_limiting stopped"}
			if server == "web-2" { // now the first command is in force nowhere
				want = append(want, "enable_rate_limiting stopped")
			}
			r.expect(want...)
		}
	})
}

func TestActuatorFailsToBegin(t *testing.T) {
	bubble(t, func(r *rig) {
		first := enable(30 * time.Second)
		r.send(first)
		r.expect("enable_rate_limiting active")
		r.sleep(time.Second)
		failure := func(_ string, want Wanted) error {
			if want.RateLimit != nil && want.RateLimit.Burst == 20 {
				return errors.New("no")
			}
			return nil
		}
		r.lb.set(func(f *fakeBalancer) { f.fail = failure })
		second := enable(time.Minute)
		second.Parameters.Burst = 20
		r.send(second)
		r.expect("enable_rate_limiting failed actuator_failed")
		// What was in force before still is, until its own end.
		r.expectState("web-1", "limit 5/10")
		r.send(second)
		r.expect("enable_rate_limiting failed actuator_failed")
		r.sleep(29 * time.Second)
		if said := r.expect("enable_rate_limiting lapsed"); said[0].ID != first.ID {
			t.Error("the wrong command lapsed")
		}
	})
}

func TestAllServersOrNone(t *testing.T) {
	bubble(t, func(r *rig) {
		failure := func(pool string, want Wanted) error {
			if pool == "web-2" && want.RateLimit != nil {
				return errors.New("no")
			}
			return nil
		}
		r.lb.set(func(f *fakeBalancer) { f.fail = failure })
		all := enable(30 * time.Second)
		all.Server = wire.AllServers
		r.send(all)
		r.expect("enable_rate_limiting failed actuator_failed")
		r.expectState("web-1", "nothing")
		r.expectState("web-2", "nothing")
		r.sleep(time.Minute)
		r.expect()
	})
}

// TestActuatorFailsToEnd checks that an end is tried until it has come.
func TestActuatorFailsToEnd(t *testing.T) {
	for _, byCommand := range []bool{false, true} {
		bubble(t, func(r *rig) {
			began := enable(10 * time.Second)
			r.send(began)
			r.expect("enable_rate_limiting active")
			r.lb.set(func(f *fakeBalancer) { f.fail = func(string, Wanted) error { return errors.New("no") } })
			want := []string{"enable_rate_limiting lapsed"}
			if byCommand {
				r.sleep(5 * time.Second)
				r.send(command(wire.DisableRateLimiting, time.Minute))
				r.expect("disable_rate_limiting failed actuator_failed", "enable_rate_limiting failed actuator_failed")
				want = []string{"disable_rate_limiting stopped", "enable_rate_limiting stopped"}
			} else {
				r.sleep(10 * time.Second)
				r.expect("enable_rate_limiting failed actuator_failed")
			}
			calls := len(r.lb.called())
			r.sleep(10 * time.Second)
			r.send(began)
			r.expect() // whoever repeats it now will hear how it ended
			if n := len(r.lb.called()) - calls; n != 10 {
				t.Errorf("tried %d times in 10 s, want 10", n)
			}
			r.expectState("web-1", "limit 5/10")
			r.lb.set(func(f *fakeBalancer) { f.fail = nil })
			r.sleep(time.Second)
			r.expect(want...)
			r.expectState("web-1", "nothing")
			calls = len(r.lb.called())
			r.sleep(time.Minute)
			if len(r.lb.called()) != calls {
				t.Error("tried again without need")
			}
		})
	}
}

// TestHangingActuatorIsCutOff checks that a load balancer that never answers
// does not hold the controller for longer than one timeout.
func TestHangingActuatorIsCutOff(t *testing.T) {
	bubble(t, func(r *rig) {
		r.lb.set(func(f *fakeBalancer) { f.hang = true })
		started := time.Now()
		r.c.Handle(mon1, enable(time.Minute), time.Now())
		r.sleep(applyTimeout)
		said := r.said()
		if len(said) != 1 || said[0].State != wire.StateFailed || said[0].at.Sub(started) != applyTimeout {
			t.Errorf("published %+v", said)
		}
		r.lb.set(func(f *fakeBalancer) { f.hang = false })
		r.sleep(2 * applyTimeout)
		r.expectState("web-1", "nothing")
	})
}

// TestPublishingFails checks that a status that cannot be sent is not lost: the
// command's repetition is answered with it.
func TestPublishingFails(t *testing.T) {
	bubble(t, func(r *rig) {
		r.deafen(true)
		cmd := enable(time.Minute)
		r.send(cmd)
		r.deafen(false)
		r.expect()
		r.expectState("web-1", "limit 5/10")
		r.send(cmd)
		r.expect("enable_rate_limiting active")
		if s := r.c.Stats(); s.Unpublished != 1 {
			t.Errorf("counted %+v", s)
		}
	})
}

// TestOutcomeCannotBeJournalled checks that a disk that fills up after acting
// neither stops the act from being told nor from ending.
func TestOutcomeCannotBeJournalled(t *testing.T) {
	bubble(t, func(r *rig) {
		r.broken.finish = errors.New("no space left on device")
		cmd := enable(10 * time.Second)
		r.send(cmd)
		r.send(cmd)
		r.expect("enable_rate_limiting active", "enable_rate_limiting active")
		r.sleep(10 * time.Second)
		r.expect("enable_rate_limiting lapsed")
		r.expectState("web-1", "nothing")
	})
}

// TestStopLeavesTheRest stops a controller with commands in its queue: they are
// neither acted on nor journalled, and their sender repeats them.
func TestStopLeavesTheRest(t *testing.T) {
	bubble(t, func(r *rig) {
		r.lb.set(func(f *fakeBalancer) { f.hang = true })
		first, second := enable(time.Minute), scaleUp(time.Minute)
		r.c.Handle(mon1, first, time.Now())
		r.c.Handle(mon1, second, time.Now())
		r.said()
		r.restart(func() { r.lb.set(func(f *fakeBalancer) { f.hang = false }) })
		// The first was journalled before the end, so the next start took it up.
		r.expect("enable_rate_limiting active")
		r.expectState("web-1", "limit 5/10")
		if _, found := r.entry(second.ID); found {
			t.Error("a command from the queue was journalled after the end")
		}
		r.send(second)
		r.expect("scale_up_servers active")
	})
}
