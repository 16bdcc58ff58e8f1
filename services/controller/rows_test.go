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

// TestRowsCountTogether checks that neither a second cause nor a second monitor
// begins a row of its own where one is under way, and that pools and kinds do.
func TestRowsCountTogether(t *testing.T) {
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
		r.expect("enable_rate_limiting active")
		other := enable(time.Minute)
		other.Cause = "syn_packet_count"
		r.send(other) // one reading that crosses two thresholds
		r.expectRefused(other, ReasonRenewals)
		mon2, theirs := mon1, enable(time.Minute)
		mon2.Name = "mon-2"
		r.c.Handle(mon2, theirs, time.Now())
		r.expectRefused(theirs, ReasonRenewals)
		r.send(scaleUp(time.Minute))
		r.expect("scale_up_servers active")
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

// A monitor's clock may run ahead of ours by the skew, honestly or not. That
// must not keep a mitigation alive past renewals and cool-down.
func TestRowsAreJudgedByOurClock(t *testing.T) {
	bubble(t, func(r *rig) {
		policy, _ := testPolicy(wire.EnableRateLimiting)
		limited := 0
		for second := range 600 {
			if second%11 == 0 {
				ahead := enable(time.Second)
				ahead.Issued += DefaultSkew.Milliseconds() - 100
				r.send(ahead)
			}
			r.sleep(time.Second)
			if r.lb.now("web-1").RateLimit != nil {
				limited++
			}
		}
		r.said()
		row := time.Duration(1+testRenewals) * (DefaultSkew + time.Second)
		if most := 600 * float64(row) / float64(row+policy.CoolDown); float64(limited) > most {
			t.Errorf("limited %d of 600 s, at most %.0f with %d renewals and a cool-down of %s", limited, most, testRenewals, policy.CoolDown)
		}
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
