package e2e

import (
	"encoding/json"
	"sync"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

// replays is a captured broker that tells one client again and again what it
// was told before, whichever connection it has: some hundred messages a second,
// from the moment at which the client has subscribed.
type replays struct {
	c  *captured
	to pki.Identity

	mu      sync.Mutex
	kept    []rawmqtt.Message
	carried int // by a connection, since the last restart
}

func (c *captured) keepReplaying(t *testing.T, to pki.Identity) *replays {
	t.Helper()
	r := &replays{c: c, to: to}
	done := make(chan struct{})
	var replaying sync.WaitGroup
	replaying.Go(func() {
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for next := 0; ; next++ {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			r.mu.Lock()
			if len(r.kept) > 0 && r.send(r.kept[next%len(r.kept)]) {
				r.carried++
			}
			r.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		close(done)
		replaying.Wait()
	})
	return r
}

// send delivers a message, and reports whether there was a connection for it.
func (r *replays) send(m rawmqtt.Message) bool {
	r.c.mu.Lock()
	link := r.c.links[r.to.ClientID()]
	r.c.mu.Unlock()
	return link != nil && link.Send(rawmqtt.Publish(m)) == nil
}

// tell delivers a message for the first time, or tries to, and keeps it.
func (r *replays) tell(topic string, raw []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := rawmqtt.Message{Topic: topic, Payload: raw}
	r.send(m)
	r.kept = append(r.kept, m)
}

// crash kills the receiver, starts it again and waits until it has been told
// enough of the past to have refused a good deal of it for nothing but its nonce.
func (r *replays) crash(t *testing.T, p *process, role pki.Role, b *bank) *process {
	t.Helper()
	p.Kill(t)
	r.c.forget(r.to)
	r.mu.Lock()
	r.carried = 0
	r.mu.Unlock()
	p = b.daemon(t, role)
	r.c.awaitClient(t, r.to)
	await(t, 30*time.Second, "a few hundred replays arrive", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.carried > 400
	})
	for _, reason := range []envelope.Reason{envelope.Redelivered, envelope.Replayed} {
		await(t, 30*time.Second, p.Name+" refuses the past: "+reason.String(), func() bool { return p.refused(reason) > 50 })
	}
	return p
}

// refused returns how many messages a part says that it has refused for a reason.
func (p *process) refused(reason envelope.Reason) float64 {
	var most float64
	for _, e := range p.logged(0, entry{"msg": "message refused", "reason": reason.String()}) {
		if count, ok := e["count"].(float64); ok {
			most = max(most, count)
		}
	}
	return most
}

// A controller that is killed in the middle of a replay attack, and of honest
// commands, takes each command once at most, and the honest ones that follow.
func TestControllerCrashesUnderReplay(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t)
	c := b.capture(t)
	id := b.ids[pki.RoleController]
	controller := b.daemon(t, pki.RoleController)
	monitor := b.steal(t, pki.RoleMonitor, "mon-1")
	c.awaitClient(t, id)
	attack := c.keepReplaying(t, id)
	var commands []wire.ID
	say := func() wire.ID {
		topic := monitor.topic(wire.KindCommand)
		command := monitor.limit()
		attack.tell(topic, monitor.sign(t, monitor.header(topic), command))
		commands = append(commands, command.ID)
		return command.ID
	}
	answered := func(id wire.ID) bool { return c.answers()[id] > 0 }

	const before, crashes = 5, 3
	for range before {
		id := say()
		await(t, 10*time.Second, "an honest command is answered", func() bool { return answered(id) })
	}
	monitor.seq += 100 // of those above the window knows no tag any more
	inFlight := make(map[wire.ID]bool)
	for range crashes {
		id := say()
		await(t, 10*time.Second, "an honest command is answered under attack", func() bool { return answered(id) })
		time.Sleep(100 * time.Millisecond) // and the controller has noted that it has answered
		for range 4 {
			inFlight[say()] = true // or not sent at all
		}
		controller = attack.crash(t, controller, pki.RoleController, b)
	}
	honest := say()
	await(t, 10*time.Second, "an honest command is answered after the crashes", func() bool { return answered(honest) })
	time.Sleep(1500 * time.Millisecond) // an answer to a repeat may wait a second
	// What it was about to note in a crash, a controller tells twice.
	twice := 0
	for id, n := range c.answers() {
		switch {
		case n == 2 && inFlight[id]:
			twice++
		case n != 1:
			t.Errorf("command %s was answered %d times", id, n)
		}
	}
	if twice > crashes {
		t.Errorf("%d commands were answered twice in %d crashes", twice, crashes)
	}
	if n := len(c.answers()); n > len(commands) || n < before+crashes+1 {
		t.Errorf("%d of %d commands were answered", n, len(commands))
	}
	for _, e := range controller.logged(0, entry{"msg": "message refused", "level": "ERROR"}) {
		t.Errorf("a replay is taken for something worse: %v", e)
	}
}

// answers returns how many statuses each command has got.
func (c *captured) answers() map[wire.ID]int {
	answers := make(map[wire.ID]int)
	c.payloads(wire.KindRateLimiting, func(payload []byte) {
		var status wire.Status
		if json.Unmarshal(payload, &status) == nil {
			answers[status.ID]++
		}
	})
	return answers
}

// raised returns how many alerts have been raised.
func (c *captured) raised() int {
	n := 0
	c.payloads(wire.KindAlert, func(payload []byte) {
		var alert wire.Alert
		if json.Unmarshal(payload, &alert) == nil && alert.State == wire.StateRaised {
			n++
		}
	})
	return n
}

// payloads shows what clients have published on topics of a kind, byte for byte
// the same message once.
func (c *captured) payloads(k wire.Kind, show func(payload []byte)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := make(map[string]bool)
	for _, m := range c.published {
		topic, err := wire.ParseTopic(m.Topic)
		if err != nil || topic.Kind != k || seen[string(m.Payload)] {
			continue
		}
		seen[string(m.Payload)] = true
		if e, err := envelope.Parse(m.Payload, envelope.MaxMessage); err == nil {
			show(e.Payload)
		}
	}
}

// A monitor that is killed in the middle of a replay attack takes no reading a
// second time. A crash has it forget its incidents, so that one old reading of
// a flood would raise its alerts again; and honest readings do.
func TestMonitorCrashesUnderReplay(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t)
	c := b.capture(t)
	id := b.ids[pki.RoleMonitor]
	monitor := b.daemon(t, pki.RoleMonitor)
	sensor := b.steal(t, pki.RoleSensor, "web-1")
	c.awaitClient(t, id)
	attack := c.keepReplaying(t, id)
	calm := func() { attack.tell(sensor.reading(t)) }
	flood := func() {
		topic := sensor.topic(wire.KindNetwork)
		attack.tell(topic, sensor.seal(t, sensor.header(topic), &wire.Network{Timestamp: unixSeconds(time.Now()), Server: "web-1", Interval: 5,
			ActiveTCPConnections: 5000, SYNPacketCount: 5000, SYNMethod: wire.SYNPacket}))
	}
	const each = 2 // alerts of one flood: SYNs and connections
	const crashes = 3
	for life := 0; ; life++ {
		for range 80 { // more than the window has tags for
			calm()
		}
		if n := c.raised(); n != life*each {
			t.Fatalf("after %d crashes %d alerts have been raised, want %d: an old reading was believed", life, n, life*each)
		}
		flood()
		await(t, 10*time.Second, "an honest reading is believed", func() bool { return c.raised() == (life+1)*each })
		if life == crashes {
			break
		}
		for range 10 {
			calm() // in flight, or not sent at all
		}
		monitor = attack.crash(t, monitor, pki.RoleMonitor, b)
	}
	for _, e := range monitor.logged(0, entry{"msg": "message refused", "level": "ERROR"}) {
		t.Errorf("a replay is taken for something worse: %v", e)
	}
}
