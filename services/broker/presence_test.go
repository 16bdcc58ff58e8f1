package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/rawmqtt"
)

const presenceTopic = "melb/bank_server/status/presence/broker-1"

var broker1 = identity("melb", pki.RoleBroker, "broker-1")

// someone is a session of an identity, as presence looks at it.
func someone(role pki.Role, name string) *session {
	return &session{identity: identity("melb", role, name)}
}

// told returns what a broker's presence has to say, in one line each.
func told(p *presence, limit int) (all []string) {
	for _, m := range p.changes(limit) {
		for _, c := range m.Changes {
			all = append(all, strings.TrimSpace(fmt.Sprint(c.Machine, " ", c.State, " ", c.Since, " ", c.Reason)))
		}
	}
	return all
}

func TestPresenceKeepsTheNewest(t *testing.T) {
	web, at := someone(pki.RoleSensor, "web-1"), func(ms int64) time.Time { return time.UnixMilli(ms) }
	for name, test := range map[string]struct {
		do   func(p *presence)
		want []string
	}{
		"came":          {func(p *presence) { p.arrive(web, at(1)) }, []string{"sensor/web-1 present 1"}},
		"came and went": {func(p *presence) { p.arrive(web, at(1)); p.depart(web, wire.EndLost, at(2)) }, []string{"sensor/web-1 gone 2 lost"}},
		"came back before it was told": {func(p *presence) {
			p.arrive(web, at(1))
			told(p, 1)
			p.depart(web, wire.EndSlow, at(2))
			p.arrive(web, at(3))
		}, []string{"sensor/web-1 present 3 slow"}},
		"went while its certificate was renewed": {func(p *presence) {
			p.arrive(web, at(1))
			told(p, 1)
			p.arrive(web, at(2))
			p.depart(web, wire.EndReplaced, at(3))
		}, nil},
		"went twice": {func(p *presence) {
			p.arrive(web, at(1))
			p.arrive(web, at(2))
			p.depart(web, wire.EndReplaced, at(3))
			p.depart(web, wire.EndLeft, at(4))
		}, []string{"sensor/web-1 gone 4 left"}},
		"departures first": {func(p *presence) {
			p.arrive(web, at(1))
			p.arrive(someone(pki.RoleMonitor, "m1"), at(2))
			p.arrive(someone(pki.RoleController, "lb-1"), at(3))
			p.depart(someone(pki.RoleController, "lb-1"), wire.EndLeft, at(9))
		}, []string{"controller/lb-1 gone 9 left", "sensor/web-1 present 1", "monitor/m1 present 2"}},
		"nobody else's business": {func(p *presence) {
			for _, role := range []pki.Role{pki.RoleOperator, pki.RoleViewer, pki.RoleAuditor, pki.RoleGuest, pki.RoleBroker} {
				p.arrive(someone(role, "x"), at(1))
				p.depart(someone(role, "x"), wire.EndLeft, at(2))
			}
		}, nil},
	} {
		p := newPresence()
		test.do(p)
		if got := told(p, 1); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
		if again := told(p, 1); again != nil {
			t.Errorf("%s: told twice: %q", name, again)
		}
	}
}

// A storm costs so many messages at a time and no more, each machine's newest
// state is told once, and everything said passes its readers' checks.
func TestPresenceInAStorm(t *testing.T) {
	const machines = 10_000
	p := newPresence()
	for round := range 3 {
		for i := range machines {
			s := someone(pki.RoleSensor, fmt.Sprintf("web-%05d", i))
			if round > 0 {
				p.depart(s, wire.EndLost, time.UnixMilli(int64(round*1000)))
			}
			p.arrive(s, time.UnixMilli(int64(round*1000+1)))
		}
	}
	check := func(m wire.Presence) {
		t.Helper()
		b, err := wire.Encode(&m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := wire.ParsePresence(b); err != nil || m.Machines != machines {
			t.Fatalf("%.200s: %v", b, err)
		}
	}
	seen := make(map[string]bool)
	for turn := range machines / (mostAtOnce * wire.MaxPresenceChanges) * 2 {
		messages := p.changes(mostAtOnce)
		if len(messages) > mostAtOnce {
			t.Fatalf("turn %d: %d messages at once", turn, len(messages))
		}
		for _, m := range messages {
			check(m)
			for _, c := range m.Changes {
				if seen[c.Machine] || c.Since != 2001 || c.State != wire.StatePresent {
					t.Fatalf("%+v", c)
				}
				seen[c.Machine] = true
			}
		}
	}
	if len(seen) != machines || len(p.untold) != 0 {
		t.Fatalf("%d machines told of, %d left", len(seen), len(p.untold))
	}
	pages := p.roster()
	if len(pages) != machines/wire.MaxRosterPage {
		t.Errorf("%d pages", len(pages))
	}
	covered, after := 0, ""
	for i, m := range pages {
		check(m)
		if m.Roster.After != after || (m.Roster.Through == "") != (i == len(pages)-1) {
			t.Fatalf("page %d is from %q to %q, behind %q", i, m.Roster.After, m.Roster.Through, after)
		}
		covered, after = covered+len(m.Roster.Present), m.Roster.Through
	}
	if covered != machines {
		t.Errorf("%d machines in the roster", covered)
	}
	if empty := newPresence().roster(); len(empty) != 1 || empty[0].Roster.After != "" || empty[0].Roster.Through != "" || len(empty[0].Roster.Present) != 0 {
		t.Errorf("nobody is there: %+v", empty)
	}
}

// While nothing can be told, who is gone takes bounded room, and who is there is
// not forgotten for it.
func TestPresenceIsBounded(t *testing.T) {
	p := newPresence()
	stays := someone(pki.RoleMonitor, "m1")
	p.arrive(stays, time.UnixMilli(1))
	for i := range maxDeparted + 100 {
		s := someone(pki.RoleSensor, fmt.Sprint("x", i))
		p.arrive(s, time.UnixMilli(2))
		p.depart(s, wire.EndLost, time.UnixMilli(3))
	}
	if len(p.machines) != maxDeparted+1 || p.missed != 100 || p.count() != 1 {
		t.Fatalf("%d machines kept, %d missed, %d present", len(p.machines), p.missed, p.count())
	}
	for len(p.changes(mostAtOnce)) > 0 {
	}
	if len(p.machines) != 1 || p.departed != 0 || p.count() != 1 {
		t.Errorf("%d machines left, %d of them gone", len(p.machines), p.departed)
	}
}

// Every reason has a word, and only contained defects share one with the unknown.
func TestEveryEndHasAWord(t *testing.T) {
	notSessions := []Reason{TooMany, TooManyPending, TooManyAddress, BadHandshake, BadCertificate, NoSite, Silent, Outdated, TakeoverTimeout, NotSubscriber, NotReceiver}
	for r := None; r < reasons; r++ {
		word := (&session{}).endedBy(r)
		if word == wire.EndFault && r != Panicked && !slices.Contains(notSessions, r) {
			t.Errorf("%s has no word", r)
		}
		if _, err := wire.ParsePresence(fmt.Appendf(nil, `{"timestamp":1,"machines":0,"changes":[{"machine":"sensor/x","state":"gone","since":1,"reason":"%s"}]}`, word)); err != nil {
			t.Errorf("%s: readers refuse %q", r, word)
		}
	}
	if got := (&session{goodbye: true}).endedBy(None); got != wire.EndLeft {
		t.Errorf("after a goodbye: %s", got)
	}
	if got := (&session{crashed: true}).endedBy(None); got != wire.EndFault {
		t.Errorf("after a panic: %s", got)
	}
}

// What the broker says of sessions over real sockets.
func TestPresenceOfSessions(t *testing.T) {
	s := open(t, rules(t, bounded("min_keep_alive: 1s")))
	expect := func(what string, want ...string) {
		t.Helper()
		var got []string
		for deadline := time.Now().Add(30 * time.Second); len(got) < len(want) && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			for _, m := range s.broker.presence.changes(9) {
				for _, c := range m.Changes {
					got = append(got, strings.TrimSpace(c.Machine+" "+c.State+" "+c.Reason))
					if since := time.Since(time.UnixMilli(c.Since)); since < -time.Second || since > time.Minute {
						t.Errorf("%s: %s since %s", what, c.Machine, since)
					}
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	a := s.connect(web1)
	expect("it came", "sensor/web-1 present")
	s.connect(web1)
	s.closed(a)
	expect("another of it came", "sensor/web-1 present replaced")
	b := s.connect(web2)
	expect("another one came", "sensor/web-2 present")
	if err := b.Send(rawmqtt.Disconnect()); err != nil {
		t.Fatal(err)
	}
	s.closed(b)
	expect("it said goodbye", "sensor/web-2 gone left")
	b = s.connect(web2)
	expect("it came again", "sensor/web-2 present")
	b.Close()
	expect("it was killed", "sensor/web-2 gone lost")
	b = s.connect(web2)
	expect("it came again", "sensor/web-2 present")
	if err := b.Send(pub("syd/bank_server/metrics/cpu/web-2", nil, 0)); err != nil {
		t.Fatal(err)
	}
	s.closed(b)
	expect("it broke the rules", "sensor/web-2 gone misconduct")
	administration{s.broker}.Kick(web1.Sender())
	expect("it was kicked", "sensor/web-1 gone removed")
	c := s.dial(web1)
	if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: web1.ClientID(), KeepAlive: 1}); err != nil || code != rawmqtt.Accepted {
		t.Fatalf("code %d, %v", code, err)
	}
	expect("it came", "sensor/web-1 present")
	expect("it fell silent", "sensor/web-1 gone silent")
	d := s.dial(web1) // no session of it was opened: nothing was ever said
	d.Close()
	e := s.connect(operator)
	e.Close()
	s.connect(guest)
	s.counted("sessions_opened", 8)
	if more := s.broker.presence.changes(9); more != nil {
		t.Errorf("%+v", more)
	}
	if n := s.broker.presence.count(); n != 0 {
		t.Errorf("%d machines present", n)
	}
}

// voice records what is published.
type voice struct {
	mu     sync.Mutex
	online bool
	err    error
	said   []wire.Presence
	topics []string
}

func (v *voice) Online() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.online
}

func (v *voice) Publish(topic wire.Topic, payload any) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err != nil {
		return v.err
	}
	v.said, v.topics = append(v.said, *payload.(*wire.Presence)), append(v.topics, topic.String())
	return nil
}

func (v *voice) take() []wire.Presence {
	v.mu.Lock()
	defer v.mu.Unlock()
	said := v.said
	v.said = nil
	return said
}

func (v *voice) set(online bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.online, v.err = online, err
}

// When what is told: changes after a second, everybody each minute, and nothing
// while nobody hears it.
func TestTell(t *testing.T) {
	log := &logBuffer{}
	synctest.Test(t, func(t *testing.T) {
		b := &Broker{site: "melb", presence: newPresence(), reporter: newReporter(slog.New(slog.NewTextHandler(log, nil)))}
		to := &voice{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.tell(ctx, broker1, to) }()
		web := someone(pki.RoleSensor, "web-1")
		b.presence.arrive(web, time.Now())
		to.set(true, nil)
		time.Sleep(9500 * time.Millisecond)
		if said := to.take(); said != nil {
			t.Errorf("there is no recorder, and it said %+v", said)
		}
		to.set(false, nil)
		time.Sleep(time.Second)
		if said := to.take(); said != nil {
			t.Errorf("nobody hears it, and it said %+v", said)
		}
		to.set(true, nil)
		time.Sleep(1500 * time.Millisecond)
		if said := to.take(); len(said) != 1 || said[0].Changes[0].Machine != "sensor/web-1" || said[0].Roster != nil || said[0].Machines != 1 || said[0].Timestamp < 946684800 {
			t.Errorf("%+v", said)
		}
		time.Sleep(40 * time.Second)
		if said := to.take(); said != nil {
			t.Errorf("nothing happened, and it said %+v", said)
		}
		time.Sleep(20 * time.Second)
		if said := to.take(); len(said) != 1 || said[0].Roster == nil || said[0].Roster.Present[0].Machine != "sensor/web-1" {
			t.Errorf("%+v", said)
		}
		to.set(true, errors.New("the clock went back"))
		b.presence.depart(web, wire.EndLost, time.Now())
		time.Sleep(2 * time.Second)
		to.set(true, nil)
		time.Sleep(time.Minute)
		if said := to.take(); len(said) != 1 || said[0].Roster == nil || len(said[0].Roster.Present) != 0 {
			t.Errorf("%+v", said)
		}
		for _, topic := range to.topics {
			if topic != presenceTopic {
				t.Errorf("said on %s", topic)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}

		b.presence = newPresence()
		b.presence.arrive(web, time.Now())
		ctx, cancel = context.WithCancel(t.Context())
		go func() { done <- b.tell(ctx, broker1, to) }()
		time.Sleep(1500 * time.Millisecond)
		b.presence.arrive(someone(pki.RoleRecorder, "rec-1"), time.Now())
		time.Sleep(time.Second)
		if said := to.take(); said != nil {
			t.Errorf("the recorder has just come, and it said %+v", said)
		}
		time.Sleep(time.Second)
		if said := to.take(); len(said) != 1 || len(said[0].Changes) != 2 {
			t.Errorf("the recorder is there, and it said %+v", said)
		}
		cancel()
		<-done
		for _, other := range []pki.Identity{identity("syd", pki.RoleBroker, "broker-1"), web1} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if err := b.tell(ctx, other, to); err == nil {
				t.Errorf("told in the name of %s", other)
			}
			cancel()
		}
	})
	if !strings.Contains(log.String(), "was not told") {
		t.Errorf("an error is not logged:\n%s", log)
	}
}

// Nobody but that broker of that site speaks on its presence topic, and a broker
// nowhere else.
func TestPresenceIsItsOwnBrokersAlone(t *testing.T) {
	s := open(t)
	reader := s.connect(monitor)
	s.subscribe(reader, 0, "melb/bank_server/status/presence/+")
	for _, id := range []pki.Identity{web1, monitor, operator, guest, issuer1, identity("melb", pki.RoleController, "lb-1"), identity("melb", pki.RoleRecorder, "rec-1"),
		identity("melb", pki.RoleBroker, "broker-2")} {
		c, from := s.dial(id), s.sender(id)
		if id == monitor {
			continue // it reads
		}
		if code, err := c.Connect(rawmqtt.ConnectOptions{ClientID: id.ClientID(), KeepAlive: 30}); err != nil || code != rawmqtt.Accepted {
			t.Fatalf("%s: code %d, %v", id, code, err)
		}
		if err := c.Send(pub(presenceTopic, from.sealWith(from.header(presenceTopic), []byte(`{"timestamp":1,"machines":0,"changes":[]}`), from.signer), 0)); err != nil {
			t.Fatal(err)
		}
		s.closed(c)
	}
	s.counted("refused_not_publisher", 7)
	c, from := s.connect(broker1), s.sender(broker1)
	for _, topic := range []string{"syd/bank_server/status/presence/broker-1", "melb/bank_server/status/presence/broker-2", cpuTopic} {
		if err := c.Send(pub(topic, from.sealWith(from.header(topic), []byte(`{"timestamp":1,"machines":0,"changes":[]}`), from.signer), 0)); err != nil {
			t.Fatal(err)
		}
		s.closed(c)
		c = s.connect(broker1)
	}
	s.counted("refused_not_publisher", 10)
	unsigned := from.sealWith(from.header(presenceTopic), []byte(`{"timestamp":1,"machines":0,"changes":[]}`), nil)
	if err := c.Send(pub(presenceTopic, unsigned, 0)); err != nil {
		t.Fatal(err)
	}
	s.ping(c)
	s.counted("envelope_"+envelope.Unsigned.String(), 1)
	s.silent(reader)
	good := from.sealWith(from.header(presenceTopic), []byte(`{"timestamp":1,"machines":0,"changes":[]}`), from.signer)
	if err := c.Send(pub(presenceTopic, good, 0)); err != nil {
		t.Fatal(err)
	}
	if got := s.message(reader); got.Topic != presenceTopic || string(got.Payload) != string(good) {
		t.Errorf("delivered %s", got.Topic)
	}
	for _, id := range []pki.Identity{operator, web1, guest} {
		if codes, err := s.connect(id).Subscribe(7, 0, "melb/bank_server/status/presence/+"); err != nil || !slices.Equal(codes, []byte{0x80}) {
			t.Errorf("%s reads of presence: %x, %v", id, codes, err)
		}
	}
}
