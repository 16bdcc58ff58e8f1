package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"levee/internal/wire"
	"levee/policies"
	"levee/services/controller/journal"
)

// What the tests' policy grants.
const (
	testMaxTTL   = 10 * time.Minute
	testRenewals = 3
	testCoolDown = 10 * time.Second
)

var mon1 = wire.Topic{Kind: wire.KindCommand, Site: "melb", Role: "monitor", Name: "mon-1"}

// rig is a controller with a real journal, a fake load balancer and a record of
// what it published, within one synctest bubble.
type rig struct {
	t       *testing.T
	path    string
	room    int // journal entries of one sender; 0 means the default
	journal *journal.Journal
	broken  *brokenJournal // what the controller sees of the journal
	lb      *fakeBalancer
	policy  func(command string) (policies.Automatic, bool)
	c       *Controller

	mu        sync.Mutex
	published []published
	deaf      bool // Publish fails

	stop func()
}

type published struct {
	topic wire.Topic
	at    time.Time
	wire.Status
}

// bubble runs f with a controller that is running.
func bubble(t *testing.T, f func(r *rig)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, path: filepath.Join(dir, "commands.db"), lb: newFakeBalancer("web-1", "web-2"), policy: testPolicy}
		r.start()
		f(r)
		r.halt()
	})
}

func (r *rig) start() {
	r.t.Helper()
	var err error
	r.journal, err = journal.Open(journal.Config{Path: r.path, Margin: DefaultSkew, MaxPerSender: r.room})
	if err != nil {
		r.t.Fatal(err)
	}
	r.broken = &brokenJournal{Journal: r.journal}
	r.c, err = New(Config{
		Site: "melb", Name: "lb-1", Automatic: r.policy, Publish: r.publish,
		Actuator: r.lb, Journal: r.broken, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error)
	go func() { done <- r.c.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("Run: %v", err)
		}
	}
	synctest.Wait()
}

// halt stops the controller as SIGTERM would.
func (r *rig) halt() {
	r.t.Helper()
	r.stop()
	if err := r.journal.Close(); err != nil {
		r.t.Error(err)
	}
}

// restart stops the controller and starts another on the same journal, with a
// load balancer that has forgotten everything.
func (r *rig) restart(meanwhile func()) {
	r.t.Helper()
	r.halt()
	r.lb.forget()
	if meanwhile != nil {
		meanwhile()
	}
	r.start()
}

func (r *rig) publish(topic wire.Topic, payload any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deaf {
		return errors.New("the outbox is full")
	}
	if _, err := wire.Encode(payload); err != nil {
		r.t.Errorf("published what cannot be encoded: %v", err)
	}
	r.published = append(r.published, published{topic: topic, at: time.Now(), Status: *payload.(*wire.Status)})
	return nil
}

// sleep lets time pass, and the controller finish what that brings about.
func (r *rig) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// deafen makes Publish fail, or no longer.
func (r *rig) deafen(deaf bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deaf = deaf
}

// said returns what was published since the last call.
func (r *rig) said() []published {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	said := r.published
	r.published = nil
	return said
}

// expect requires exactly the given statuses since the last call, each spelt
// "command state reason", with the reason only where there is one.
func (r *rig) expect(want ...string) []published {
	r.t.Helper()
	said := r.said()
	var got []string
	for _, p := range said {
		text := p.Command + " " + p.State
		if p.Reason != "" {
			text += " " + p.Reason
		}
		got = append(got, text)
		success := p.State == wire.StateActive || p.State == wire.StateLapsed || p.State == wire.StateStopped
		if (p.Status.Status == wire.StatusSuccess) != success || (p.Until != 0) != (p.State == wire.StateActive) {
			r.t.Errorf("a status contradicts itself: %+v", p)
		}
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("published %q, want %q", got, want)
	}
	return said
}

// send hands a command over and waits until the controller is done with it.
func (r *rig) send(cmd wire.Command) {
	r.c.Handle(mon1, cmd, time.Now())
	synctest.Wait()
}

// entry returns what the journal holds of a command of mon-1.
func (r *rig) entry(id wire.ID) (journal.Entry, bool) {
	r.t.Helper()
	e, found, err := r.journal.Find(journal.Key{Sender: mon1.Sender(), ID: id})
	if err != nil {
		r.t.Fatal(err)
	}
	return e, found
}

func command(name string, ttl time.Duration) wire.Command {
	now := time.Now()
	return wire.Command{
		Timestamp: float64(now.UnixMilli()) / 1000, ID: wire.NewID(), Command: name, Controller: "lb-1", Server: "web-1",
		Issued: now.UnixMilli(), TTL: int64(ttl / time.Second), Cause: "cpu_usage",
		Incident: wire.NewID(), Sensors: []string{"web-1", "web-2"},
	}
}

func enable(ttl time.Duration) wire.Command {
	cmd := command(wire.EnableRateLimiting, ttl)
	cmd.Parameters = wire.Parameters{RatePerSecond: 5, Burst: 10}
	return cmd
}

func scaleUp(ttl time.Duration) wire.Command {
	cmd := command(wire.ScaleUpServers, ttl)
	cmd.Parameters = wire.Parameters{Servers: 3}
	return cmd
}

func testPolicy(command string) (policies.Automatic, bool) {
	a := policies.Automatic{
		Command: command, Causes: []string{"cpu_usage"}, MaxTTL: testMaxTTL,
		Renewals: testRenewals, CoolDown: testCoolDown, AllServers: true, MinSensors: 2,
	}
	switch command {
	case wire.EnableRateLimiting:
		a.Min = wire.Parameters{RatePerSecond: 1, Burst: 1}
		a.Max = wire.Parameters{RatePerSecond: 100, Burst: 100}
	case wire.ScaleUpServers:
		a.Min, a.Max = wire.Parameters{Servers: 1}, wire.Parameters{Servers: 5}
	case wire.DisableRateLimiting, wire.ScaleDownServers:
	default:
		return policies.Automatic{}, false
	}
	return a, true
}

// fakeBalancer remembers what is in force. It does not end anything by itself,
// so that what ends was ended by the controller.
type fakeBalancer struct {
	mu     sync.Mutex
	state  map[string]Wanted
	calls  []call
	fail   func(pool string, want Wanted) error
	before func()
	hang   bool // until the caller gives up
}

type call struct {
	at   time.Time
	pool string
	want Wanted
}

func newFakeBalancer(pools ...string) *fakeBalancer {
	f := &fakeBalancer{state: make(map[string]Wanted)}
	for _, p := range pools {
		f.state[p] = Wanted{}
	}
	return f
}

// set changes how the load balancer behaves.
func (f *fakeBalancer) set(change func(f *fakeBalancer)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// now returns what is in force in a pool.
func (f *fakeBalancer) now(pool string) Wanted {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state[pool]
}

// called returns every call so far.
func (f *fakeBalancer) called() []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func (f *fakeBalancer) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.state {
		f.state[p] = Wanted{}
	}
	f.calls = nil
}

func (f *fakeBalancer) Pools() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for p := range f.state {
		names = append(names, p)
	}
	slices.Sort(names)
	return names
}

func (f *fakeBalancer) Apply(ctx context.Context, pool string, want Wanted) error {
	f.mu.Lock()
	f.calls = append(f.calls, call{at: time.Now(), pool: pool, want: want})
	before, hang, fail := f.before, f.hang, f.fail
	f.mu.Unlock()
	if before != nil {
		before()
	}
	if hang {
		<-ctx.Done()
	}
	if fail != nil {
		if err := fail(pool, want); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.set(func(f *fakeBalancer) { f.state[pool] = want })
	return nil
}

// describe spells a state in few words: "limit 5/10, 3 servers".
func describe(w Wanted) string {
	text := "nothing"
	if w.RateLimit != nil {
		text = fmt.Sprintf("limit %g/%d", w.RateLimit.PerSecond, w.RateLimit.Burst)
	}
	if w.Scaling != nil {
		text += fmt.Sprintf(", %d servers", w.Scaling.Servers)
	}
	return text
}

// expectState requires what is in force in a pool.
func (r *rig) expectState(pool, want string) {
	r.t.Helper()
	synctest.Wait()
	if got := describe(r.lb.now(pool)); got != want {
		r.t.Errorf("in force in %s: %s, want %s", pool, got, want)
	}
}

// brokenJournal fails where it is told to.
type brokenJournal struct {
	Journal
	find, add, finish error
}

func (b *brokenJournal) Find(key journal.Key) (journal.Entry, bool, error) {
	if b.find != nil {
		return journal.Entry{}, false, b.find
	}
	return b.Journal.Find(key)
}

func (b *brokenJournal) Add(e journal.Entry) error {
	if b.add != nil {
		return b.add
	}
	return b.Journal.Add(e)
}

func (b *brokenJournal) Finish(key journal.Key, status []byte) error {
	if b.finish != nil {
		return b.finish
	}
	return b.Journal.Finish(key, status)
}
