package session

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
)

// monitorTo opens a session of melb's monitor m1, which hears every broker.
func monitorTo(t testing.TB, log *logBuffer, r *recorder, brokers ...*fakeBroker) *Session {
	t.Helper()
	return openSession(t, identity("melb", pki.RoleMonitor, "m1"), func(c *Config) {
		toward(c, brokers...)
		c.Handle, c.Refused, c.Log = r.handle, r.refused, log.logger()
	})
}

var alertOfM1 = wire.Topic{Kind: wire.KindAlert, Site: "melb", Role: "monitor", Name: "m1"}

// raws returns what a broker was sent.
func (b *fakeBroker) raws() (all []string) {
	for _, p := range b.got() {
		all = append(all, string(p.raw))
	}
	return all
}

func TestWhoConnectsToEveryBroker(t *testing.T) {
	brokers := []site.Broker{{Name: "b1"}, {Name: "b2"}, {Name: "b3"}}
	for role, want := range map[pki.Role]int{
		pki.RoleMonitor: 3, pki.RoleController: 3, pki.RoleApprover: 3, pki.RoleIssuer: 3, pki.RoleRecorder: 3, pki.RoleConsole: 3,
		pki.RoleSensor: 1, pki.RoleOperator: 1, pki.RoleViewer: 1, pki.RoleAuditor: 1,
	} {
		lines := newLines(nil, role, brokers)
		if len(lines) != want || len(lines)*len(lines[0].brokers) != 3 {
			t.Errorf("a %s has %d lines, the first to %v", role, len(lines), lines[0].brokers)
		}
	}
}

// Who judges is connected to both brokers, says everything to both, byte for
// byte, and is online while one of them is there.
func TestTwoLines(t *testing.T) {
	a, b := melbBroker(t), melbBroker(t)
	a.start()
	b.start()
	log := new(logBuffer)
	s := monitorTo(t, log, new(recorder), a, b)
	stop := run(t, s)
	eventually(t, "both are connected", func() bool { return maps.Equal(s.Brokers(), map[string]bool{"b1": true, "b2": true}) })
	for range 3 {
		if err := s.Publish(alertOfM1, &ram); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "both have all", func() bool { return len(a.got()) == 3 && len(b.got()) == 3 })
	a.listener.Close()
	a.kick()
	eventually(t, "one is gone", func() bool { return maps.Equal(s.Brokers(), map[string]bool{"b1": false, "b2": true}) })
	if !s.Online() {
		t.Error("it is not online, and one broker is there")
	}
	if err := s.Publish(alertOfM1, &ram); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other has it", func() bool { return len(b.got()) == 4 })
	if first := b.raws(); !slices.Equal(a.raws(), first[:3]) || slices.Compact(slices.Sorted(slices.Values(first)))[0] == "" {
		t.Error("the two were told different things")
	}
	if lines := log.lines("not connected"); len(lines) == 0 || !strings.Contains(lines[0], "broker=b1") {
		t.Errorf("in the log: %v", lines)
	}
	stop()
	last := b.got()[len(b.got())-1]
	d := digestOf(t, outgoing{raw: last.raw})
	if d.First != 1 || d.Last != 4 || len(d.Dropped) != 0 || len(b.got()) != 5 || s.Online() {
		t.Errorf("at the end: %+v after %d messages, online %v", d, len(b.got()), s.Online())
	}
	if _, sent := s.Losses(); sent != 0 {
		t.Errorf("%d were given up", sent)
	}
}

// At its end it signs once, and says so to both.
func TestOneDigestAtTheEnd(t *testing.T) {
	a, b := melbBroker(t), melbBroker(t)
	a.start()
	b.start()
	s := monitorTo(t, new(logBuffer), new(recorder), a, b)
	stop := run(t, s)
	eventually(t, "both are connected", func() bool { return s.Brokers()["b1"] && s.Brokers()["b2"] })
	if err := s.Publish(alertOfM1, &ram); err != nil {
		t.Fatal(err)
	}
	stop()
	for _, broker := range []*fakeBroker{a, b} {
		if got := broker.got(); len(got) != 2 || got[1].topic != "melb/bank_server/digests/monitor/m1" {
			t.Errorf("%d messages", len(got))
		}
	}
}

// A broker that is down at the start keeps nobody waiting. When it comes it is
// told what is fresh, byte for byte.
func TestOneBrokerDownAtTheStart(t *testing.T) {
	a, late := melbBroker(t), melbBroker(t)
	a.start()
	s := monitorTo(t, new(logBuffer), new(recorder), a, late) // takes connections, and answers none
	run(t, s)
	<-s.Ready()
	for range 5 {
		if err := s.Publish(alertOfM1, &ram); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "one has all", func() bool { return len(a.got()) == 5 })
	late.start()
	eventually(t, "the other has all", func() bool { return len(late.got()) == 5 })
	if !slices.Equal(a.raws(), late.raws()) {
		t.Error("it was told something else")
	}
}

// A broker that takes everything in and acknowledges nothing costs its own line
// alone.
func TestPaho6Paho14SlowLine(t *testing.T) {
	a, slow := melbBroker(t), melbBroker(t)
	slow.puback = func(int, published) bool { return false }
	a.start()
	slow.start()
	s := monitorTo(t, new(logBuffer), new(recorder), a, slow)
	stop := run(t, s)
	eventually(t, "both are connected", func() bool { return s.Brokers()["b1"] && s.Brokers()["b2"] })
	for i := range 200 {
		if err := s.Publish(alertOfM1, &ram); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			eventually(t, "the slow one has the first", func() bool { return len(slow.got()) == 1 })
		}
	}
	eventually(t, "the other has all", func() bool { return len(a.got()) == 200 })
	if n := len(slow.got()); n != 1 {
		t.Errorf("the slow one was told %d before it answered", n)
	}
	slow.close() // else the end waits for its answer
	stop()
	d := digestOf(t, outgoing{raw: a.got()[200].raw})
	if _, sent := s.Losses(); d.Last != 200 || len(d.Dropped) != 0 || sent != 0 {
		t.Errorf("%+v, %d given up", d, sent)
	}
}

// A broker acknowledges before it delivers. One that dies in between has lost a
// reading to nobody: the next is told it again.
func TestBrokerDiesBetweenAcknowledgementAndDelivery(t *testing.T) {
	a, b := melbBroker(t), melbBroker(t)
	brokers := []*fakeBroker{a, b}
	for _, broker := range brokers {
		broker.start()
	}
	log := new(logBuffer)
	s := sensorTo(t, log, brokers...)
	run(t, s)
	<-s.Ready()
	if err := s.Publish(ramOfWeb1, &ram); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one has it", func() bool { return len(a.got())+len(b.got()) == 1 })
	eventually(t, "it is acknowledged", func() bool { return s.outbox.waiting() == 0 })
	if len(b.got()) == 1 {
		a, b = b, a
	}
	a.kick() // it comes back at once, and is asked last all the same
	eventually(t, "the other has it", func() bool { return len(b.got()) == 1 })
	if !bytes.Equal(a.got()[0].raw, b.got()[0].raw) {
		t.Error("it was told something else")
	}
	// It stays there.
	for range 3 {
		if err := s.Publish(ramOfWeb1, &ram); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the other has the rest", func() bool { return len(b.got()) == 4 })
	if len(a.seen()) != 1 || len(b.seen()) != 1 {
		t.Errorf("%d and %d connections", len(a.seen()), len(b.seen()))
	}
}

// After a loss the others are asked first, whichever was drawn at the start.
func TestLostBrokerComesLast(t *testing.T) {
	down, a, b := melbBroker(t), melbBroker(t), melbBroker(t)
	down.listener.Close()
	a.start()
	b.start()
	for range 4 { // one in three draws begins with the one that is down
		s := sensorTo(t, new(logBuffer), down, a, b)
		stop := run(t, s)
		<-s.Ready()
		lost, others := a, b
		if s.Brokers()["b3"] {
			lost, others = b, a
		}
		before, stayed := len(others.seen()), len(lost.seen())
		lost.kick()
		eventually(t, "it is with the other", func() bool { return len(others.seen()) > before })
		if len(lost.seen()) != stayed {
			t.Error("it went back to the one that it had lost")
		}
		stop()
	}
}

// Sensors spread over the brokers.
func TestSensorsSpread(t *testing.T) {
	a, b := melbBroker(t), melbBroker(t)
	a.start()
	b.start()
	for range 40 {
		s := sensorTo(t, new(logBuffer), a, b)
		stop := run(t, s)
		<-s.Ready()
		stop()
		if len(a.seen()) > 0 && len(b.seen()) > 0 {
			return
		}
	}
	t.Errorf("40 sensors: %d and %d", len(a.seen()), len(b.seen()))
}

// An address where nobody answers costs a sensor a second, not the time that
// dialling may take. Nor does it go back at once to the broker that it lost,
// where nobody may listen to it yet.
func TestDeadAddress(t *testing.T) {
	dead, alive := melbBroker(t), melbBroker(t) // one takes connections, and never answers
	alive.start()
	for i := range 2 { // whichever is drawn first
		s := sensorTo(t, new(logBuffer), dead, alive)
		stop := run(t, s)
		eventually(t, "it is connected", s.Online)
		if !s.Brokers()["b2"] || s.Brokers()["b1"] {
			t.Errorf("%v", s.Brokers())
		}
		if i == 1 {
			alive.kick()
			lost := time.Now()
			eventually(t, "it is connected again", func() bool { return len(alive.seen()) == 3 })
			if alive.seen()[2].at.Sub(lost) < lostHeadStart {
				t.Error("it went back before others had their time")
			}
		}
		stop()
	}
}

// What comes by a second broker is neither handled twice nor refused. A captured
// one that repeats, reorders, changes or invents changes nothing of what the
// other brings, and is told on.
func TestCapturedBrokerOfTwo(t *testing.T) {
	honest, captured := melbBroker(t), melbBroker(t)
	honest.start()
	captured.start()
	var r recorder
	s := monitorTo(t, new(logBuffer), &r, honest, captured)
	run(t, s)
	eventually(t, "both are connected", func() bool { return s.Brokers()["b1"] && s.Brokers()["b2"] })
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	var sent [][]byte
	for range 200 { // more than the windows have tags for
		sent = append(sent, web.message(ramTopic, &ram, time.Now()))
	}
	for _, raw := range sent[:150] {
		honest.send(ramTopic, raw)
	}
	eventually(t, "the honest ones are there", func() bool { return s.Accepted() == 150 })
	for _, raw := range slices.Backward(sent) { // the newest, withheld so far, come first
		captured.send(ramTopic, raw)
	}
	eventually(t, "all are there", func() bool { return s.Accepted() == 200 && s.Duplicates() == 150 })
	for _, raw := range sent {
		honest.send(ramTopic, raw)
	}
	eventually(t, "each was there", func() bool {
		return s.Duplicates() == 200 && s.Refusals()[envelope.Redelivered]+s.Refusals()[envelope.Replayed] == 150
	})
	captured.send(ramTopic, sent[199])
	eventually(t, "a broker that repeats itself is noticed", func() bool {
		return s.Refusals()[envelope.Redelivered]+s.Refusals()[envelope.Replayed] == 151
	})
	spoilt := slices.Clone(sent[199])
	spoilt[len(spoilt)-60] ^= 1
	captured.send(ramTopic, spoilt)
	captured.send("melb/bank_server/metrics/cpu/web-1", sent[199])
	eventually(t, "changes are refused", func() bool {
		return s.Refusals()[envelope.BadMAC] == 1 && s.Refusals()[envelope.BadTopic] == 1
	})
	deliveries, refusals := r.all()
	seen := make(map[uint64]int)
	for _, d := range deliveries {
		seen[d.Message.Nonce.Seq]++
	}
	if len(deliveries) != 200 || len(seen) != 200 || s.Duplicates() != 200 || len(refusals) != 153 {
		t.Errorf("%d deliveries of %d messages, %d duplicates, %d refusals", len(deliveries), len(seen), s.Duplicates(), len(refusals))
	}
}

// A broker that floods fills its own line's room.
func TestFloodOfOneBroker(t *testing.T) {
	s := monitorTo(t, new(logBuffer), new(recorder), melbBroker(t), melbBroker(t))
	for range 2 * maxInbox {
		s.lines[1].enqueue(ramTopic, nil)
	}
	lost, _ := s.Losses()
	for range maxInbox {
		s.lines[0].enqueue(ramTopic, nil)
	}
	if after, _ := s.Losses(); lost != maxInbox || after != lost {
		t.Errorf("%d lost of the flood, %d of the other broker's", lost, after-lost)
	}
}

// Two public messages of one text are two: nothing says that they are one.
func TestPublicMessagesAreNoDuplicates(t *testing.T) {
	a, b := melbBroker(t), melbBroker(t)
	a.start()
	b.start()
	var r recorder
	s := monitorTo(t, new(logBuffer), &r, a, b)
	run(t, s)
	eventually(t, "both are connected", func() bool { return s.Brokers()["b1"] && s.Brokers()["b2"] })
	a.send("public/x", []byte("text"))
	b.send("public/x", []byte("text"))
	eventually(t, "both are shown", func() bool { d, _ := r.all(); return len(d) == 2 })
	if s.Duplicates() != 0 {
		t.Errorf("%d duplicates", s.Duplicates())
	}
}

// A broker that is revoked loses its own line, and the other goes on.
func TestRevokedBrokerOfTwo(t *testing.T) {
	revoked, other := melbBroker2(t), melbBroker(t)
	revoked.start()
	other.start()
	log := new(logBuffer)
	s := monitorTo(t, log, new(recorder), revoked, other)
	run(t, s)
	eventually(t, "both are connected", func() bool { return s.Brokers()["b1"] && s.Brokers()["b2"] })
	other.send(revocationsTopic, newIssuer(t).list(wire.Revoked{Sender: "melb/broker/b2", Before: time.Now().UnixMilli()}))
	eventually(t, "it is left", func() bool { return !s.Brokers()["b1"] && len(log.lines("certificate revoked")) > 1 })
	if err := s.Publish(alertOfM1, &ram); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other has it", func() bool { return len(other.got()) == 1 })
	if len(other.seen()) != 1 || len(revoked.seen()) != 1 || len(revoked.got()) != 0 {
		t.Errorf("%d and %d connections, %d messages to the revoked one", len(other.seen()), len(revoked.seen()), len(revoked.got()))
	}
}

// Each line changes to the renewed certificate by itself, and nothing is said
// twice to a broker.
func TestHandOverOfTwoLines(t *testing.T) {
	a, b := melbBroker(t), melbBroker(t)
	a.start()
	b.start()
	log := new(logBuffer)
	s := monitorTo(t, log, new(recorder), a, b)
	run(t, s)
	eventually(t, "both are connected", func() bool { return s.Brokers()["b1"] && s.Brokers()["b2"] })
	publish := func() {
		if err := s.Publish(alertOfM1, &ram); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	renew(t, s, lease)
	for range 5 {
		publish()
	}
	for _, broker := range []*fakeBroker{a, b} {
		eventually(t, "a second connection", func() bool {
			return slices.Equal(broker.clientIDs(), []string{"melb_monitor_m1", "melb_monitor_m1_1"})
		})
		eventually(t, "the first says goodbye", func() bool { broker.mu.Lock(); defer broker.mu.Unlock(); return broker.goodbyes == 1 })
	}
	publish()
	for _, broker := range []*fakeBroker{a, b} {
		eventually(t, "all seven", func() bool { return len(broker.got()) == 7 })
		if all := slices.Sorted(slices.Values(broker.raws())); len(slices.Compact(all)) != 7 {
			t.Error("something was said twice")
		}
	}
	if n := s.online.Load(); n != 2 || len(log.lines("not connected")) != 0 {
		t.Errorf("%d lines are up; %v", n, log.lines("not connected"))
	}
}

func TestEchoes(t *testing.T) {
	at := time.Now()
	e := newEchoes(3, 30*time.Second)
	of := func(text string) sum { return e.sum(inbound{name: ramTopic, raw: []byte(text)}) }
	if e.known(of("a"), 0, at) {
		t.Error("knows what never came")
	}
	e.remember(of("a"), 0, at)
	for _, test := range []struct {
		text string
		line int
		at   time.Time
		want bool
		why  string
	}{
		{"a", 0, at, false, "the line that it came by"},
		{"b", 1, at, false, "another message"},
		{"a", 1, at.Add(31 * time.Second), false, "too late to be an echo"},
		{"a", 1, at.Add(30 * time.Second), true, "another line"},
		{"a", 1, at, false, "that line again"},
		{"a", 2, at, true, "a third line"},
	} {
		if got := e.known(of(test.text), test.line, test.at); got != test.want {
			t.Errorf("%s: %v", test.why, got)
		}
	}
	if e.sum(inbound{name: "ab", raw: []byte("c")}) == e.sum(inbound{name: "a", raw: []byte("bc")}) {
		t.Error("topic and message run into one another")
	}
	e.limit = 10
	for i := range 100 {
		e.remember(of(fmt.Sprint(i)), 0, at)
	}
	if len(e.met) != 10 || len(e.ring) != 10 || e.known(of("89"), 1, at) || !e.known(of("90"), 1, at) || !e.known(of("99"), 1, at) {
		t.Errorf("remembers %d, in a ring of %d", len(e.met), len(e.ring))
	}
	if one := newEchoes(1, time.Hour); one != nil || one.known(sum{}, 0, at) {
		t.Error("with one line there is nothing to remember")
	}
}
