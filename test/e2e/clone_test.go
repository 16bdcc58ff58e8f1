package e2e

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/provision"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

const twin = "melb/sensor/web-1"

// clone is a second process with the identity of the bank's sensor: a copy of
// its whole directory, what it remembers included, as an image of the machine
// would make it.
func (b *bank) clone(t *testing.T) *process {
	t.Helper()
	id := b.ids[pki.RoleSensor]
	dir := filepath.Join(t.TempDir(), "clone")
	if out, err := exec.Command("cp", "-a", b.layout.Bundle(id), dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return start(t, "levee-sensor", "--config", filepath.Join(dir, filepath.Base(b.layout.Config(id))))
}

// byTwins returns what both have said, as it came.
func byTwins(all []rawmqtt.Message) []envelope.Message {
	var found []envelope.Message
	for _, m := range all {
		e, err := envelope.Parse(m.Payload, envelope.MaxMessage)
		if err == nil && string(e.Sender()) == twin {
			found = append(found, e)
		}
	}
	return found
}

func (c *captured) all() []rawmqtt.Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]rawmqtt.Message(nil), c.published...)
}

// A receiver reports two processes with one identity within two messages: of
// the one that was started last, any, and of the other, the first that it seals
// afterwards. Nothing here stands between the two and the receiver: the broker
// is captured and lets both in.
func TestCloneReachesAReceiver(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t)
	b.configure(t, pki.RoleSensor, "syn_method: auto", "syn_method: estimate") // the counters are the machine's, not the process's
	c := b.capture(t)
	id := b.ids[pki.RoleMonitor]
	monitor := b.daemon(t, pki.RoleMonitor)
	c.awaitClient(t, id)
	b.daemon(t, pki.RoleSensor)
	alarms := func() int {
		return len(monitor.logged(0, entry{"msg": "message refused", "level": "ERROR", "reason": "cloned"}))
	}
	passed := 0
	// pass hands one more message on.
	pass := func() envelope.Message {
		await(t, 30*time.Second, "a message comes", func() bool { return len(byTwins(c.all())) > passed })
		m := byTwins(c.all())[passed]
		passed++
		c.tell(t, id, string(m.Topic), m.Raw)
		return m
	}
	// settled waits until the monitor has judged what it was told: it judges in
	// order, and this message it refuses.
	settled := func() {
		topic := wire.Topic{Kind: wire.KindCPU, Site: "melb", Role: "sensor", Name: "web-1"}.String()
		before := monitor.refused(envelope.BadKeyID)
		await(t, 30*time.Second, "the monitor has judged everything", func() bool {
			c.tell(t, id, topic, bytes.Repeat([]byte("x"), 200))
			time.Sleep(200 * time.Millisecond)
			return monitor.refused(envelope.BadKeyID) > before
		})
	}

	var original uint64
	for range 6 {
		original = pass().Nonce.Boot
	}
	b.clone(t)
	var first envelope.Message
	for first.Nonce.Boot == 0 {
		if m := pass(); m.Nonce.Boot != original {
			first = m
		}
	}
	settled()
	if first.Nonce.Boot < original || alarms() != 0 {
		t.Fatalf("boot %d after %d: %d alarms before the original has spoken again", first.Nonce.Boot, original, alarms())
	}
	spoken := 1
	for {
		m := pass()
		if m.Nonce.Boot != original {
			spoken++
			continue
		}
		if m.Time <= first.Time { // sealed before: late, and nobody's fault
			continue
		}
		await(t, 10*time.Second, "the first message that the original seals afterwards raises the alarm", func() bool { return alarms() > 0 })
		break
	}
	t.Logf("the clone had said %d messages", spoken)
	if n := len(monitor.logged(0, entry{"msg": "message refused", "level": "ERROR"})); n != alarms() {
		t.Errorf("%d alarms, of which %d say cloned", n, alarms())
	}
}

// At a broker the two evict each other. It reports them as soon as the original
// is back with something new, and passes on nothing that the original has sealed
// since the clone first spoke.
func TestCloneReachesTheBroker(t *testing.T) {
	if !goOn(t) {
		return
	}
	b := newBank(t, func(inv *provision.Inventory) {
		inv.Sites[0].Sensors = append(inv.Sites[0].Sensors, provision.Sensor{Name: "web-3"})
	})
	b.configure(t, pki.RoleSensor, "syn_method: auto", "syn_method: estimate")
	a := &arena{bank: b, process: b.daemon(t, pki.RoleBroker)}
	a.process.awaitLog(t, 0, entry{"msg": "broker listens"})
	a.tap, a.fence = b.tap(t), b.fence(t, "web-3")
	b.daemon(t, pki.RoleSensor)
	shown := func() []envelope.Message {
		return byTwins(a.tap.matching(func(rawmqtt.Message) bool { return true }))
	}
	await(t, 30*time.Second, "the original speaks", func() bool { return len(shown()) >= 6 })
	original := shown()[0].Nonce.Boot
	a.fence.pass(t, a.tap)
	if n := len(a.process.logged(0, entry{"reason": "cloned"})); n != 0 {
		t.Fatalf("%d alarms before there is a clone", n)
	}
	b.clone(t)
	a.process.awaitLog(t, 0, entry{"msg": "message refused", "level": "ERROR", "reason": "cloned", "identity": twin})
	a.fence.pass(t, a.tap)
	var first envelope.Message
	for _, m := range shown() {
		switch {
		case first.Nonce.Boot == 0 && m.Nonce.Boot != original:
			first = m
		case first.Nonce.Boot != 0 && m.Nonce.Boot == original && m.Time > first.Time:
			t.Errorf("the broker passes on number %d of the original, sealed after the clone first spoke", m.Nonce.Seq)
		}
	}
	if first.Nonce.Boot <= original {
		t.Errorf("the clone's boot is %d, the original's %d", first.Nonce.Boot, original)
	}
}

// The same nonce over other bytes is an alarm, at the broker and at a receiver;
// the same bytes again are none, however often they come.
func TestCollisionIsAnAlarm(t *testing.T) {
	t.Parallel()
	redelivered := entry{"msg": "message refused", "reason": "redelivered", "level": "INFO"}
	collision := entry{"msg": "message refused", "reason": "nonce_collision", "level": "ERROR"}
	alarm := entry{"msg": "message refused", "level": "ERROR"}
	// judged tells the part first the truth, then the same again, then another
	// message under its nonce.
	judged := func(t *testing.T, p *process, web1 *party, tell func(topic string, raw []byte)) {
		t.Helper()
		topic := web1.topic(wire.KindCPU)
		h := web1.header(topic)
		truth, other := web1.seal(t, h, web1.cpu(3)), web1.seal(t, h, web1.cpu(99))
		tell(topic, truth)
		for range 30 {
			tell(topic, truth)
		}
		p.awaitLog(t, 0, redelivered)
		tell(topic, web1.seal(t, web1.header(topic), web1.cpu(4))) // and the sender goes on
		if found := p.logged(0, alarm); len(found) > 0 {
			t.Errorf("a redelivery is an alarm: %v", found)
		}
		tell(topic, other)
		p.awaitLog(t, 0, collision)
		if found := p.logged(0, alarm); len(found) != len(p.logged(0, collision)) {
			t.Errorf("other alarms: %v", found)
		}
	}
	t.Run("at the broker", func(t *testing.T) {
		a := newArena(t)
		web1 := a.steal(t, pki.RoleSensor, "web-1")
		client := a.connect(t, web1)
		var told [][]byte
		judged(t, a.process, web1, func(topic string, raw []byte) {
			publish(t, client, topic, raw)
			told = append(told, raw)
		})
		a.fence.pass(t, a.tap)
		if truth, other := a.tap.saw(told[0]), a.tap.saw(told[len(told)-1]); truth != 1 || other != 0 {
			t.Errorf("the operator has seen the truth %d times, the other bytes %d times", truth, other)
		}
	})
	t.Run("at a receiver", func(t *testing.T) {
		b := newBank(t)
		c := b.capture(t)
		id := b.ids[pki.RoleMonitor]
		monitor := b.daemon(t, pki.RoleMonitor)
		c.awaitClient(t, id)
		judged(t, monitor, b.steal(t, pki.RoleSensor, "web-1"), func(topic string, raw []byte) { c.tell(t, id, topic, raw) })
	})
}
