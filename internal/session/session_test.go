package session

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"levee/envelope"
	"levee/envelope/ownkey"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
)

var ramOfWeb1 = wire.Topic{Kind: wire.KindRAM, Site: "melb", Role: "sensor", Name: "web-1"}

// run runs s until the test ends or stop is called, which waits for it.
func run(t testing.TB, s *Session) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		cancel()
		if !stopped {
			if err := <-done; err != nil {
				t.Errorf("running: %v", err)
			}
			stopped = true
		}
	}
	t.Cleanup(stop)
	return stop
}

func sensorTo(t testing.TB, log *logBuffer, brokers ...*fakeBroker) *Session {
	t.Helper()
	return openSession(t, identity("melb", pki.RoleSensor, "web-1"), func(c *Config) {
		toward(c, brokers...)
		c.Filters, c.Handle, c.Log = nil, nil, log.logger()
	})
}

func TestConfigIsChecked(t *testing.T) {
	sensor := openBundle(t, identity("melb", pki.RoleSensor, "web-1"))
	person := openBundle(t, identity("melb", pki.RoleOperator, "ann"))
	with := func(change func(*site.Bundle)) *site.Bundle {
		b := *sensor
		document := *b.Document
		b.Document = &document
		change(&b)
		return &b
	}
	handle := func(Delivery) {}
	ring := ringOf(t, sensor.KeyFile)
	other := ringOf(t, worldLayout(t).Bundle(identity("melb", pki.RoleSensor, "web-2"))+"/"+site.FileKeys)
	monitor := openBundle(t, identity("melb", pki.RoleMonitor, "m1"))
	text, err := os.ReadFile(monitor.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	first := func(size int) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "keys")
		if err := os.WriteFile(path, text[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	short := ringOf(t, first(bytes.LastIndex(text, []byte("-----BEGIN"))))
	alone, err := ownkey.Load(first(bytes.Index(text, []byte("-----BEGIN LEVEE ROLE"))))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Config{
		"no bundle":                           {Ring: ring, Log: quiet()},
		"no logger":                           {Bundle: sensor, Ring: ring},
		"filters without a handler":           {Bundle: sensor, Ring: ring, Log: quiet(), Filters: []string{"public/#"}},
		"a filter that policy does not grant": {Bundle: sensor, Ring: ring, Log: quiet(), Handle: handle, Filters: []string{"melb/bank_server/metrics/ram/+"}},
		"another site's":                      {Bundle: sensor, Ring: ring, Log: quiet(), Handle: handle, Filters: []string{"syd/bank_server/revocations/+"}},
		"all there is":                        {Bundle: person, Log: quiet(), Handle: handle, Filters: []string{"#"}},
		"digests faster than a second":        {Bundle: sensor, Ring: ring, Log: quiet(), Digest: time.Millisecond},
		"a machine's second session":          {Bundle: sensor, Ring: ring, Log: quiet(), Instance: 1},
		"a person's fifth session":            {Bundle: person, Log: quiet(), Instance: 4},
		"a person's session below the first":  {Bundle: person, Log: quiet(), Instance: -1},
		"no envelope keys":                    {Bundle: sensor, Log: quiet()},
		"a person with envelope keys":         {Bundle: person, Ring: ring, Log: quiet()},
		"another sender's keys":               {Bundle: sensor, Ring: other, Log: quiet()},
		"a role key less than policy grants":  {Bundle: monitor, Ring: short, Log: quiet()},
		"no role key at all":                  {Bundle: monitor, Ring: alone, Log: quiet()},
		"a generation that nobody accepts": {Ring: ring, Bundle: with(func(b *site.Bundle) {
			b.Document.Generations = []site.Generation{{Sender: "melb/sensor/web-1", Minimum: 2}}
		}), Log: quiet()},
		"a state directory that does not open": {Ring: ring, Bundle: with(func(b *site.Bundle) { b.State += "/gone" }), Log: quiet()},
	} {
		if s, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
			s.Close()
		}
	}
	// None of them left the windows locked, or counted a start.
	s, err := New(Config{Bundle: sensor, Ring: ring, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// A start that fails after the windows were opened lets go of them.
func TestFailedStartReleasesTheWindows(t *testing.T) {
	b := openBundle(t, identity("melb", pki.RoleSensor, "web-1"))
	boot := b.State + "/boot"
	if err := os.WriteFile(boot, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Bundle: b, Ring: ringOf(t, b.KeyFile), Log: quiet()}); err == nil {
		t.Fatal("a damaged boot counter was accepted")
	}
	if err := os.Remove(boot); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Bundle: b, Ring: ringOf(t, b.KeyFile), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestPublishRefusesWhatWouldNotArrive(t *testing.T) {
	s := sensorTo(t, new(logBuffer), melbBroker(t))
	for name, test := range map[string]struct {
		topic   wire.Topic
		payload any
	}{
		"another sensor's topic":  {wire.Topic{Kind: wire.KindRAM, Site: "melb", Role: "sensor", Name: "web-2"}, &ram},
		"another site's":          {wire.Topic{Kind: wire.KindRAM, Site: "syd", Role: "sensor", Name: "web-1"}, &ram},
		"another role's":          {wire.Topic{Kind: wire.KindAlert, Site: "melb", Role: "monitor", Name: "web-1"}, &ram},
		"a command":               {wire.Topic{Kind: wire.KindCommand, Site: "melb", Role: "sensor", Name: "web-1"}, &ram},
		"a public topic":          {wire.Topic{Kind: wire.KindPublic}, &ram},
		"no topic":                {wire.Topic{}, &ram},
		"a payload that is none":  {ramOfWeb1, []int{1}},
		"a payload over the size": {ramOfWeb1, map[string]string{"a": strings.Repeat("x", 4096)}},
	} {
		if err := s.Publish(test.topic, test.payload); err == nil {
			t.Errorf("%s: queued", name)
		}
	}
	ann := openSession(t, identity("melb", pki.RoleOperator, "ann"), nil)
	if err := ann.Publish(ramOfWeb1, &ram); err == nil {
		t.Error("a person published")
	}
	if s.outbox.waiting() != 0 {
		t.Error("something waits to be sent")
	}
}

// The handler sees what passed, refusals are told and counted, and neither sees
// what nobody subscribed to.
func TestReceiving(t *testing.T) {
	b := melbBroker(t)
	b.start()
	r := new(recorder)
	s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), func(c *Config) {
		toward(c, b)
		c.Handle, c.Refused = r.handle, r.refused
		c.Filters = []string{"melb/bank_server/metrics/ram/+", "melb/bank_server/metrics/cpu/+"}
	})
	stop := run(t, s)
	<-s.Ready()
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	m2 := newSender(t, identity("melb", pki.RoleMonitor, "m2"))
	now := time.Now()
	good := web.message(ramTopic, &ram, now)
	alerts := "melb/bank_server/alerts/m2"
	b.mu.Lock()
	c := b.conns[0]
	b.mu.Unlock()
	c.send(publish(ramTopic, good), publish(ramTopic, good), publish(ramTopic, good[1:]),
		publish(alerts, m2.message(alerts, &ram, now, m2.signed)), // valid, and never asked for
		publish("public/x", []byte("text")), publish("", nil), publish("\x1b[31m", []byte("x")))
	eventually(t, "everything is judged", func() bool {
		d, refusals := r.all()
		return len(d)+len(refusals) == 7
	})
	stop()
	deliveries, refusals := r.all()
	if len(deliveries) != 1 || string(deliveries[0].Message.Raw) != string(good) || deliveries[0].Proof != ProofMAC {
		t.Errorf("%d deliveries", len(deliveries))
	}
	counts := s.Refusals()
	if counts[envelope.Redelivered] != 1 || counts[envelope.BadKeyID] != 1 || counts[envelope.BadTopic] != 4 || len(refusals) != 6 {
		t.Errorf("counted %v", counts)
	}
	s.RefuseContent(deliveries[0])
	if _, refusals := r.all(); refusals[6].Reason != envelope.BadContent || string(refusals[6].Raw) != string(good) || s.Refusals()[envelope.BadContent] != 1 {
		t.Errorf("content: %+v", refusals[6])
	}
}

// A sensor subscribes to nothing and has no handler; a captured broker can send
// it messages all the same.
func TestUnaskedMessagesToASensor(t *testing.T) {
	b := melbBroker(t)
	log := new(logBuffer)
	b.connected = func(_ int, c *fakeConn) { c.send(publish("public/x", []byte("text")), publish(ramTopic, []byte("{}"))) }
	b.start()
	s := sensorTo(t, log, b)
	run(t, s)
	eventually(t, "they are refused", func() bool { return s.Refusals()[envelope.BadTopic] == 2 })
}

// Public messages, which anybody may send, leave most of the room to what a
// part works with.
func TestPublicMessagesDoNotCrowdOutReadings(t *testing.T) {
	s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil)
	for range maxInbox {
		s.lines[0].enqueue("public", nil)
		s.lines[0].enqueue("public/a", nil)
	}
	if n := len(s.lines[0].inbox.messages); n != maxInbox/4 {
		t.Errorf("%d public messages wait, want %d", n, maxInbox/4)
	}
	for range maxInbox / 2 {
		s.lines[0].enqueue(ramTopic, nil)
	}
	if lost, _ := s.Losses(); lost != 2*maxInbox-maxInbox/4 {
		t.Errorf("%d lost: readings are among them", lost)
	}
	big := openSession(t, identity("melb", pki.RoleMonitor, "m2"), nil)
	for range 2 * maxInboxBytes / 4096 {
		big.lines[0].enqueue("public", make([]byte, 4096))
	}
	if held := big.lines[0].inbox.held.Load(); held > maxInboxBytes/4 {
		t.Errorf("public messages hold %d bytes", held)
	}
}

// A flood of messages fills its bounded room and no more, and the loss is
// counted and logged.
func TestPaho5InboxIsBounded(t *testing.T) {
	log := new(logBuffer)
	s := openSession(t, identity("melb", pki.RoleMonitor, "m1"), func(c *Config) { c.Log = log.logger() })
	for range maxInbox + 5 {
		s.lines[0].enqueue("a", nil)
	}
	if lost, _ := s.Losses(); lost != 5 || len(s.lines[0].inbox.messages) != maxInbox {
		t.Errorf("%d lost, %d wait", lost, len(s.lines[0].inbox.messages))
	}
	big := openSession(t, identity("melb", pki.RoleMonitor, "m2"), nil)
	for range 1000 {
		big.lines[0].enqueue("a", make([]byte, envelope.MaxBackfill))
	}
	if n := len(big.lines[0].inbox.messages); n > maxInboxBytes/envelope.MaxBackfill {
		t.Errorf("%d messages of 64 KiB wait", n)
	}
	for len(big.lines[0].inbox.messages) > 0 {
		big.lines[0].accept(<-big.lines[0].inbox.messages)
	}
	if big.lines[0].inbox.held.Load() != 0 {
		t.Errorf("%d bytes are counted of nothing", big.lines[0].inbox.held.Load())
	}
	if len(log.lines("faster than they can be checked")) != 3 { // at 1, 2 and 4
		t.Errorf("in the log: %q", log.lines("faster"))
	}
}

// Around keeps the session until inner has returned, and ends inner with it.
func TestAround(t *testing.T) {
	b := melbBroker(t)
	b.start()
	s := sensorTo(t, new(logBuffer), b)
	ctx, cancel := context.WithCancel(context.Background())
	failure := errors.New("inner")
	var late atomic.Bool
	err := s.Around(ctx, func(ctx context.Context) error {
		<-s.Ready()
		cancel()
		<-ctx.Done()
		late.Store(s.Online())
		if err := s.Publish(ramOfWeb1, &ram); err != nil { // at its very end
			t.Error(err)
		}
		return failure
	})
	if !errors.Is(err, failure) || !late.Load() {
		t.Errorf("%v, online at the end %v", err, late.Load())
	}
	if got := b.got(); len(got) != 2 || got[0].topic != ramTopic || got[1].topic != digestTopic {
		t.Errorf("%d messages", len(got))
	}
}

// Policy gives the recorder no digests: it must not try, for the broker would
// end its session each minute.
func TestRecorderSignsNoDigests(t *testing.T) {
	b := melbBroker(t)
	b.start()
	s := openSession(t, identity("melb", pki.RoleRecorder, "rec-1"), func(c *Config) { toward(c, b) })
	ack := wire.Topic{Kind: wire.KindAck, Site: "melb", Role: "recorder", Name: "rec-1", PeerRole: "sensor", PeerName: "web-1"}
	if err := s.Publish(ack, &ram); err != nil {
		t.Fatal(err)
	}
	stop := run(t, s)
	eventually(t, "the acknowledgement is sent", func() bool { return len(b.got()) == 1 })
	stop()
	if got := b.got(); len(got) != 1 {
		t.Errorf("it sent %d messages, the last on %s", len(got), got[len(got)-1].topic)
	}
}

// A person's further sessions have client identifiers of their own.
func TestInstances(t *testing.T) {
	b := melbBroker(t)
	b.start()
	for i, want := range []string{"melb_operator_ann", "melb_operator_ann_1", "melb_operator_ann_2", "melb_operator_ann_3"} {
		s := openSession(t, identity("melb", pki.RoleOperator, "ann"), func(c *Config) {
			toward(c, b)
			c.Instance = i
		})
		stop := run(t, s)
		<-s.Ready()
		if got := b.seen()[i].id; got != want {
			t.Errorf("session %d is %s", i, got)
		}
		stop()
	}
}
