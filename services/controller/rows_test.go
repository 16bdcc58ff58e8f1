package controller

import (
	"testing"
	"time"

	"levee/internal/wire"
	"levee/policies"
)

// TestRows holds automation to policy's renewals and cool-down.
func TestRows(t *testing.T) {
	bubble(t, func(r *rig) {
		// A command and its renewals, with and without a gap before them.
		for n := range 1 + testRenewals {
			r.send(enable(20 * time.Second))
			r.sleep(10 * time.Second)
			if n == 1 {
				r.sleep(10*time.Second + testCoolDown - time.Millisecond)
				r.expect("enable_rate_limiting active", "enable_rate_limiting active", "enable_rate_limiting lapsed")
			}
		}
		r.expect("enable_rate_limiting active", "enable_rate_limiting active")
		cmd := enable(20 * time.Second)
		r.send(cmd)
		r.expectRefused(cmd, ReasonRenewals)

		// What is in force runs out, and then automation has to pause.
		r.sleep(10 * time.Second)
		r.expect("enable_rate_limiting lapsed")
		r.sleep(testCoolDown - time.Millisecond)
		cmd = enable(20 * time.Second)
		r.send(cmd)
		r.expectRefused(cmd, ReasonCoolingDown)
		r.sleep(time.Millisecond)
		r.send(enable(20 * time.Second))
		r.expect("enable_rate_limiting active")
		// The verdict on the id that came too early stays.
		r.sleep(time.Second)
		r.send(cmd)
		r.expectRefused(cmd, ReasonCoolingDown)
	})
}

// TestRowsAreNotShortenedByEnding alternates between beginning and ending,
// which must not be a way round policy's renewals.
func TestRowsAreNotShortenedByEnding(t *testing.T) {
	bubble(t, func(r *rig) {
		began, refused := 0, 0
		for range 8 { // shorter than the cool-down after the fourth
			r.send(enable(20 * time.Second))
			r.sleep(time.Second)
			r.send(command(wire.DisableRateLimiting, time.Minute)) // never held back
			r.sleep(time.Second)
			r.expectState("web-1", "nothing")
			for _, s := range r.said() {
				switch {
				case s.State == wire.StateActive:
					began++
				case s.Reason == ReasonCoolingDown:
					refused++
				}
			}
		}
		if began != 1+testRenewals || refused != 8-began {
			t.Errorf("began %d times, refused %d", began, refused)
		}
		r.sleep(testCoolDown)
		r.send(enable(20 * time.Second)) // the last one ended long before its time to live
		r.expect("enable_rate_limiting active")
	})
}

// TestRowsAreApart checks whose renewals count together: those of one monitor
// for one cause, as the monitor counts them.
func TestRowsAreApart(t *testing.T) {
	bubble(t, func(r *rig) {
		r.restart(func() {
			r.policy = func(command string) (policies.Automatic, bool) {
				a, ok := testPolicy(command)
				a.Causes = append(a.Causes, "syn_packet_count")
				a.Renewals = 0
				return a, ok
			}
		})
		r.send(enable(time.Minute))
		other := enable(time.Minute)
		other.Cause = "syn_packet_count"
		r.send(other) // one reading that crosses two thresholds
		r.expect("enable_rate_limiting active", "enable_rate_limiting active")
		r.send(scaleUp(time.Minute))
		r.expect("scale_up_servers active")
		r.sleep(time.Second)
		mon2 := mon1
		mon2.Name = "mon-2"
		r.c.Handle(mon2, enable(time.Minute), time.Now())
		r.expect("enable_rate_limiting active")
		pool2 := enable(time.Minute)
		pool2.Server = "web-2"
		r.send(pool2)
		r.expect("enable_rate_limiting active")
		all := enable(time.Minute)
		all.Server = wire.AllServers
		r.send(all)
		r.expectRefused(all, ReasonRenewals)
	})
}

func TestRowsSurviveRestart(t *testing.T) {
	bubble(t, func(r *rig) {
		for range 1 + testRenewals {
			r.send(enable(30 * time.Second))
			r.sleep(10 * time.Second)
		}
		r.said()
		r.restart(nil)
		cmd := enable(30 * time.Second)
		r.send(cmd)
		r.expectRefused(cmd, ReasonRenewals)
		r.sleep(20 * time.Second)
		r.expect("enable_rate_limiting lapsed")
		r.restart(nil)
		cmd = enable(30 * time.Second)
		r.send(cmd)
		r.expectRefused(cmd, ReasonCoolingDown)
		r.sleep(testCoolDown)
		r.send(enable(30 * time.Second))
		r.expect("enable_rate_limiting active")
	})
}

// TestLongCoolDownSurvivesForgetting restarts in the middle of a pause that is
// longer than the journal keeps what is over, and that another cause's command
// has followed.
func TestLongCoolDownSurvivesForgetting(t *testing.T) {
	bubble(t, func(r *rig) {
		r.restart(func() {
			r.policy = func(command string) (policies.Automatic, bool) {
				a, ok := testPolicy(command)
				a.Causes = append(a.Causes, "syn_packet_count")
				a.Renewals, a.CoolDown = 0, time.Hour
				return a, ok
			}
		})
		r.send(enable(10 * time.Second))
		other := enable(20 * time.Second)
		other.Cause = "syn_packet_count"
		r.send(other)
		r.sleep(30 * time.Minute)
		r.said()
		r.restart(nil)
		cmd := enable(10 * time.Second)
		r.send(cmd)
		r.expectRefused(cmd, ReasonCoolingDown)
	})
}
