package e2e

import (
	"testing"
	"time"

	"levee/internal/wire"
	"levee/pki"
)

// replay kills everything while a limit is in force and lets an attacker who
// has the monitor's bundle, and heard every command, take its place.
func (s *survival) replay(t *testing.T) {
	t.Helper()
	server := s.load.attacked()
	for _, role := range s.shuffled() {
		s.archive.read(t)
		s.alive[role].Kill(t)
	}
	s.archive.read(t)
	began := time.Now()
	s.start(t, pki.RoleBroker, pki.RoleRecorder, pki.RoleController, pki.RoleSensor)
	s.alive[pki.RoleBroker].awaitLog(t, 0, entry{"msg": "broker listens"})
	s.load.victim.Store(nil)
	s.limitedAgain(t, server)
	thief := &thief{survival: s, party: s.steal(t, pki.RoleMonitor, "mon-1"), heard: s.ear.matching(aCommand)}
	thief.strike(t)
	s.recovered(t, began, []pki.Role{pki.RoleBroker, pki.RoleRecorder, pki.RoleController, pki.RoleSensor}, nil)

	// Until its end, whenever in its life its controller dies, and not beyond:
	// not after a crash that comes later, nor because somebody says it again.
	until := s.ear.until(server)
	for _, left := range []time.Duration{14 * time.Second, 7500 * time.Millisecond} {
		time.Sleep(time.Until(until.Add(-left)))
		s.restart(t, pki.RoleController)
		s.limitedAgain(t, server)
	}
	time.Sleep(time.Until(until))
	for _, server := range victims {
		s.free(t, server)
	}
	s.crash(t, []pki.Role{pki.RoleController})
	newest := time.UnixMilli(thief.heard[len(thief.heard)-1].ts)
	time.Sleep(time.Until(newest.Add(31 * time.Second)))
	thief.strike(t)
	for _, server := range victims {
		s.free(t, server)
	}
}

// limitedAgain requires that a limit is in force once its controller is up
// again. How long that takes does not count, but it has to leave time to see it.
func (s *survival) limitedAgain(t *testing.T, server string) {
	t.Helper()
	s.alive[pki.RoleController].awaitLog(t, 0, entry{"msg": "connected"})
	left := time.Until(s.ear.until(server))
	limited := s.stillLimited(t, server)
	t.Logf("the controller is up again %s before the limit's end: limited %v", left, limited)
	if !limited && left > 5*time.Second {
		t.Errorf("the pool of %s was not limited again", server)
	}
}

// thief publishes commands that it has heard with the monitor's own bundle.
type thief struct {
	*survival
	party *party
	heard []heard
}

// strike publishes every command again, first the bytes that were heard, until
// the broker has counted a refusal for each, and then as the monitor itself
// would say it again: under a new nonce. The broker passes those on, and the
// controller has an answer to each, and acts on none.
func (a *thief) strike(t *testing.T) {
	t.Helper()
	broker, controller := a.alive[pki.RoleBroker], a.alive[pki.RoleController]
	client := a.connect(t, a.party)
	defer client.Close()
	before := broker.mark()
	refused := 0
	for range 10 {
		for _, m := range a.heard {
			publish(t, client, m.topic, m.raw)
		}
		refused = 0
		for _, line := range broker.logged(before, entry{"msg": "message refused", "identity": a.party.id.Sender()}) {
			skipped, _ := line["skipped"].(float64) // a line for each reason once a second at most
			refused += 1 + int(skipped)
			if reason := line["reason"]; reason != "redelivered" && reason != "replayed" && reason != "stale" {
				t.Errorf("a replayed command was refused as %v", reason)
			}
		}
		if refused >= len(a.heard) {
			break
		}
		time.Sleep(1100 * time.Millisecond)
	}
	if refused < len(a.heard) {
		t.Errorf("the broker has counted %d refusals of %d replayed commands", refused, len(a.heard))
	}

	acted, since := controller.mark(), time.Now()
	topic := a.party.topic(wire.KindCommand)
	for _, m := range a.heard {
		publish(t, client, topic, a.party.sign(t, a.party.header(topic), m.command))
		time.Sleep(60 * time.Millisecond) // within what the controller takes of one sender
	}
	for _, m := range a.heard {
		await(t, patience, "an answer to a command that was said again", func() bool { return a.ear.answered(m.command.ID, since) })
	}
	for _, line := range controller.logged(acted, entry{"msg": "acting on a command"}) {
		t.Errorf("an old command acts: %v", line)
	}
	if again := a.ear.matching(func(m heard) bool { return aCommand(m) && m.times != 1 }); len(again) > 0 {
		t.Errorf("the broker has passed on %d commands more than once", len(again))
	}
}

// checkWaits checks that the parts did not come back in step.
func (s *survival) checkWaits(t *testing.T) {
	t.Helper()
	var waits []float64
	different := make(map[float64]bool)
	for _, role := range killed {
		for _, life := range s.lives[role] {
			for _, line := range life.logged(0, entry{"msg": "not connected"}) {
				wait, ok := line["retry_in"].(float64)
				if !ok || wait <= 0 {
					t.Errorf("a %s retries in no time: %v", role, line)
				}
				waits = append(waits, wait)
				different[wait] = true
			}
		}
	}
	t.Logf("%d waits before a connection was tried again, %d of them different", len(waits), len(different))
	if len(waits) < 30 || 2*len(different) < len(waits) {
		t.Errorf("%d waits, %d of them different", len(waits), len(different))
	}
}

// checkCommands checks what became of each command, over all lives of the
// controller: by its own logs, by what the operator heard, and by the log.
func (s *survival) checkCommands(t *testing.T) {
	t.Helper()
	began := make(map[string]int)
	for _, life := range s.lives[pki.RoleController] {
		for _, line := range life.logged(0, entry{"msg": "acting on a command"}) {
			if id, _ := line["id"].(string); id != "" {
				began[id]++
			}
		}
	}
	for id, times := range began {
		if times != 1 {
			t.Errorf("command %s began to act %d times", id, times)
		}
	}
	t.Logf("%d commands have acted, and %d times a limit was in force again after a crash before anything was commanded", len(began), s.resumed)
	if len(began) < 15 || s.resumed < 3 {
		t.Errorf("%d commands have acted, and %d times a limit was in force again", len(began), s.resumed)
	}
	over := make(map[wire.ID]string)
	for _, m := range s.archive.statuses(t, s.ear.matching(aStatus)) {
		switch id := m.status.ID; m.status.State {
		case wire.StateLapsed, wire.StateStopped, wire.StateFailed:
			over[id] = m.status.State
		case wire.StateActive: // with a reason it says that another one is in force
			if over[id] != "" && m.status.Reason == "" {
				t.Errorf("command %s is %s, and then active again", id, over[id])
			}
		}
	}
	if len(over) == 0 {
		t.Error("no command has ended")
	}
}
