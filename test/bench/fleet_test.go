//go:build linux

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/envelope/keys"
	"levee/internal/config"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/test/processes"
)

var (
	fleetSize = flag.Int("sensors", 100, "how many sensors connect to one broker")
	fleetPart = flag.Int("process", 2500, "how many of them one process holds")
	fleetEach = flag.Duration("each", time.Second, "how often each of them reads")
	fleetLong = flag.Duration("steady", 2*time.Second, "how long each load lasts")
	fleetPace = flag.Int("pace", 100, "how many sensors begin to connect in a second")
	fleetMost = flag.Int("topics", 3, "on how many topics each reads in the heaviest load")
)

const (
	mostFleetMemory = 1536 << 20
	mostOutage      = 60 * time.Second
)

// TestTenThousandSensors holds as many sensors at one broker, each a session of its
// own, lets each send one reading each so often, then three, and kills the broker
// under that and starts it again.
//
// While the broker is there no reading may be missed. Around its end readings may
// be: those that were older than 15 s when their sensor was back, which it declares,
// and those that passed before the reader was.
func TestTenThousandSensors(t *testing.T) {
	s := newSite(t, plan{sensors: 1, together: true})
	metrics := "http://" + s.withMetrics(t) + "/metrics"
	address, command := s.prepare(t, "levee", filepath.Join(bin, "levee-broker"))
	b := s.start(t, "levee", address, command())
	s.leaveCore(t)
	f := s.fleet(t, b)
	r := s.read(t, b)

	began := time.Now()
	connecting := time.Duration(float64(time.Second) * float64(*fleetSize) / float64(*fleetPace))
	f.order("connect %s", connecting)
	f.await(t, connecting+2*time.Minute, "everybody is connected", func() bool { return f.online() == *fleetSize })
	t.Logf("%d sensors in %d processes connected in %s; %s", *fleetSize, len(f), time.Since(began).Round(time.Second), f.curve(began))
	for _, load := range []struct {
		text   string
		topics int
	}{{"one topic", 1}, {"all topics", *fleetMost}} {
		idle, late, from, before := used(t, b.process), waited(t, b.process), time.Now(), r.total()
		f.order("publish %d %s", load.topics, *fleetEach)
		time.Sleep(*fleetLong)
		sent := f.report(t)
		count, busy, late := r.total()-before, (used(t, b.process)-idle)*100/time.Since(from), (waited(t, b.process)-late)*100/time.Since(from)
		f.await(t, 15*time.Second, "what was sent has come", func() bool { return r.missing(nil, sent) == 0 })
		t.Logf("%s: %.0f readings/s; broker: %d %% of a core, for which it waited %d %% of the time, %d MiB at most; missed: %d, twice: %d; sensors behind by %.3f s, gave up %d",
			load.text, float64(count)/time.Since(from).Seconds(), busy, late, peak(t, b)>>20, r.missing(nil, sent), r.doubled(), f.behind(), f.dropped())
	}
	if n := f.dropped(); n > 0 {
		t.Errorf("sensors gave up %d messages while the broker was there", n)
	}

	before := f.report(t)
	f.await(t, 15*time.Second, "what was sent has come", func() bool { return r.missing(nil, before) == 0 })
	memory := peak(t, b)
	killed := time.Now()
	b.process.Kill(t)
	b = s.start(t, "levee", address, command())
	t.Logf("the broker listens %s after it was killed", time.Since(killed).Round(time.Millisecond))
	f.await(t, 3*mostOutage, "everybody is back", func() bool { return f.online() == *fleetSize && f.since(killed) >= *fleetSize })
	away := time.Since(killed)
	f.await(t, mostOutage, "readings of everybody flow", func() bool { return r.silent(killed) == 0 })
	flowing := time.Since(killed)
	busy, waited := used(t, b.process), waited(t, b.process)
	after := f.report(t)
	time.Sleep(*fleetLong)
	end := f.report(t)
	f.await(t, 15*time.Second, "what was sent has come", func() bool { return r.missing(after, end) == 0 })
	memory = max(memory, peak(t, b))
	t.Logf("all back after %s, readings of all after %s; broker: %s of processor, for which it waited %s, %d MiB at most\n%s\n%s\ncounted: %s",
		away.Round(100*time.Millisecond), flowing.Round(100*time.Millisecond), busy.Round(10*time.Millisecond), waited.Round(10*time.Millisecond), memory>>20,
		f.curve(killed), r.curve(killed), difference(nil, scrape(t, metrics)))
	t.Logf("of %d readings that were sent from its end until all were back %d are missed; sensors gave up %d messages, which they declare; twice: %d\nthe reader: %s",
		total(after)-total(before), r.missing(before, after), f.dropped(), r.doubled(), r.log)
	if names := append(r.lacks(nil, before), r.lacks(after, end)...); len(names) > 0 {
		t.Errorf("%d readings missed while the broker was there: %s", len(names), names[:min(len(names), 20)])
	}
	if n := r.doubled(); n > 0 {
		t.Errorf("%d readings were handled twice", n)
	}
	if away > mostOutage {
		t.Errorf("everybody was back after %s", away)
	}
	if memory >= mostFleetMemory {
		t.Errorf("the broker took %d MiB", memory>>20)
	}
}

// waited returns how long threads of a process that could run had no processor,
// because others had it (proc(5), schedstat).
func waited(t *testing.T, p *processes.Process) (all time.Duration) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		var ran, waits int64
		if _, errScan := fmt.Sscan(string(text), &ran, &waits); err == nil && errScan == nil { // it may have ended
			all += time.Duration(waits)
		}
	}
	return all
}

// fleet is the processes that hold the sensors.
type fleet []*crew

// crew is one process of them.
type crew struct {
	process *processes.Process
	orders  io.Writer
	read    int // bytes of its output
	seconds []second
	reports [][]int64
	made    bool
}

// second is a line that a process writes.
type second struct {
	Unix, Connected, Published int64
	Failed                     map[string]int64
	Online                     int
	Dropped                    uint64
	Behind                     float64
	Reports                    []int64
	Made                       bool
}

// fleet starts the processes, on the other core, and waits until they have made
// their sensors. What those keep is in memory if the machine has a place for that:
// the disk is no part of what is measured.
func (s *bankSite) fleet(t *testing.T, b broker) fleet {
	t.Helper()
	scratch, err := os.MkdirTemp("/dev/shm", "levee-fleet-*")
	if err != nil {
		scratch = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(scratch) })
	var f fleet
	for first := 0; first < *fleetSize; first += *fleetPart {
		dir := filepath.Join(scratch, strconv.Itoa(first))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(bin, "fleet"), "-authority", filepath.Join(s.layout.Authority(), siteName), "-bundle", s.layout.Bundle(s.broker),
			"-scratch", dir, "-address", b.address, "-first", strconv.Itoa(first), "-count", strconv.Itoa(min(*fleetPart, *fleetSize-first)))
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = in
		process := s.launch(t, 1, cmd)
		in.Close()
		t.Cleanup(func() { out.Close() }) // ends it
		f = append(f, &crew{process: process, orders: out})
	}
	f.await(t, 5*time.Minute, "the sensors are made", func() bool {
		return !slices.ContainsFunc(f, func(c *crew) bool { return !c.made })
	})
	return f
}

// order tells every process the same.
func (f fleet) order(format string, args ...any) {
	for _, c := range f {
		fmt.Fprintf(c.orders, format+"\n", args...)
	}
}

// await waits for what is to be seen in what the processes write.
func (f fleet) await(t *testing.T, most time.Duration, what string, seen func() bool) {
	t.Helper()
	for deadline := time.Now().Add(most); ; time.Sleep(50 * time.Millisecond) {
		for _, c := range f {
			c.listen(t)
		}
		if seen() {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("after %s it does not hold that %s: %d of %d online", most, what, f.online(), *fleetSize)
			return
		}
	}
}

// listen takes what the process has written since.
func (c *crew) listen(t *testing.T) {
	t.Helper()
	if err, ended := c.process.Ended(); ended {
		t.Fatalf("a process of the fleet ended: %v", err)
	}
	out := c.process.Output()[c.read:]
	for {
		line, rest, whole := strings.Cut(out, "\n")
		if !whole {
			return
		}
		c.read, out = c.read+len(line)+1, rest
		var s second
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Logf("a process of the fleet: %s", line)
			continue
		}
		switch {
		case s.Made:
			c.made = true
		case s.Reports != nil:
			c.reports = append(c.reports, s.Reports)
		default:
			c.seconds = append(c.seconds, s)
		}
	}
}

// report returns how many readings each sensor has sent.
func (f fleet) report(t *testing.T) (sent []int64) {
	t.Helper()
	for _, c := range f {
		c.reports = nil
	}
	f.order("report")
	f.await(t, time.Minute, "everybody reports", func() bool {
		return !slices.ContainsFunc(f, func(c *crew) bool { return c.reports == nil })
	})
	for _, c := range f {
		sent = append(sent, c.reports[len(c.reports)-1]...)
	}
	return sent
}

// last adds up what the processes said last.
func last[T int | uint64](f fleet, of func(second) T) (n T) {
	for _, c := range f {
		if len(c.seconds) > 0 {
			n += of(c.seconds[len(c.seconds)-1])
		}
	}
	return n
}

func (f fleet) online() int     { return last(f, func(s second) int { return s.Online }) }
func (f fleet) dropped() uint64 { return last(f, func(s second) uint64 { return s.Dropped }) }

// behind is how late publishing ever was, in seconds.
func (f fleet) behind() (most float64) {
	for _, c := range f {
		for _, s := range c.seconds {
			most = max(most, s.Behind)
		}
	}
	return most
}

// since returns how many connections were made from the second of a moment on.
func (f fleet) since(from time.Time) (n int) {
	for _, c := range f {
		for _, s := range c.seconds {
			if s.Unix >= from.Unix() {
				n += int(s.Connected)
			}
		}
	}
	return n
}

// curve lists the connections and the failures of each second from a moment on.
func (f fleet) curve(from time.Time) string {
	connected, failed := make(map[int64]int64), make(map[int64]int64)
	kinds := make(map[string]int64)
	for _, c := range f {
		for _, s := range c.seconds {
			if s.Unix < from.Unix() {
				continue
			}
			connected[s.Unix-from.Unix()] += s.Connected
			for kind, n := range s.Failed {
				failed[s.Unix-from.Unix()] += n
				kinds[kind] += n
			}
		}
	}
	return fmt.Sprintf("connections each second %s; failures each second %s; of these %v", series(connected), series(failed), kinds)
}

// series lists figures by second, up to the last that is not zero.
func series(of map[int64]int64) string {
	var b strings.Builder
	end := int64(-1)
	for at, n := range of {
		if n > 0 {
			end = max(end, at)
		}
	}
	for at := range end + 1 {
		fmt.Fprintf(&b, " %d", of[at])
	}
	return b.String()
}

func total(sent []int64) (n int64) {
	for _, one := range sent {
		n += one
	}
	return n
}

// tally is the reader, a monitor's session, and what it has of each sensor.
type tally struct {
	mu     sync.Mutex
	log    *strings.Builder // of its session
	of     []trail
	all    int64
	twice  int
	second map[int64]int64 // readings, by Unix second
}

// trail is what came of one sensor.
type trail struct {
	has  []uint64 // by number of reading
	last time.Time
}

// read lets the monitor read all readings until the test ends.
func (s *bankSite) read(t *testing.T, b broker) *tally {
	t.Helper()
	r := &tally{log: new(strings.Builder), of: make([]trail, *fleetSize), second: make(map[int64]int64)}
	bundle, err := site.Open(site.Settings{Bundle: config.Path(s.layout.Bundle(s.monitor)), State: config.Path(s.layout.State(s.monitor)), Evaluation: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	document := *bundle.Document
	document.Brokers = []site.Broker{{Name: document.Brokers[0].Name, Address: b.address}}
	bundle.Document = &document
	ring, err := keys.Load(bundle.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := session.New(session.Config{
		Bundle: bundle, Ring: ring, Handle: r.handle,
		Filters: []string{wire.Filter(wire.KindCPU, siteName), wire.Filter(wire.KindRAM, siteName), wire.Filter(wire.KindNetwork, siteName)},
		Log:     slog.New(slog.NewTextHandler(&locked{r: r}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := reader.Run(ctx); err != nil {
			t.Errorf("the reader: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	select {
	case <-reader.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("the reader does not connect")
	}
	return r
}

// locked writes the reader's log.
type locked struct{ r *tally }

func (l *locked) Write(p []byte) (int, error) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.r.log.Len() < 4000 {
		l.r.log.Write(p)
	}
	return len(p), nil
}

// handle counts one reading.
func (r *tally) handle(d session.Delivery) {
	number, err := strconv.Atoi(strings.TrimPrefix(d.Topic.Name, "fleet-"))
	_, text, found := bytes.Cut(d.Payload, []byte(`"reading":`))
	n, errRead := strconv.Atoi(strings.TrimSuffix(string(text), "}"))
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || errRead != nil || !found || number >= len(r.of) || n < 1 {
		fmt.Fprintf(r.log, "%s: %s\n", d.Name, d.Payload)
		return
	}
	one := &r.of[number]
	for n/64 >= len(one.has) {
		one.has = append(one.has, 0)
	}
	if one.holds(n) {
		r.twice++
	}
	one.has[n/64] |= 1 << (n % 64)
	one.last = d.Received
	r.all++
	r.second[d.Received.Unix()]++
}

func (one *trail) holds(n int) bool { return n/64 < len(one.has) && one.has[n/64]&(1<<(n%64)) != 0 }

func (r *tally) total() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

func (r *tally) doubled() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.twice
}

// missing returns how many of the readings after from, nil for all, up to to the
// reader has not had.
func (r *tally) missing(from, to []int64) int { return len(r.lacks(from, to)) }

// lacks names them.
func (r *tally) lacks(from, to []int64) (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for number, most := range to {
		first := int64(1)
		if from != nil {
			first = from[number] + 1
		}
		for n := first; n <= most; n++ {
			if !r.of[number].holds(int(n)) {
				names = append(names, fmt.Sprintf("fleet-%d/%d", number, n))
			}
		}
	}
	return names
}

// silent returns of how many sensors no reading came since.
func (r *tally) silent(since time.Time) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.of {
		if !r.of[i].last.After(since) {
			n++
		}
	}
	return n
}

// curve lists the readings of each second from a moment on.
func (r *tally) curve(from time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	after := make(map[int64]int64)
	for at, n := range r.second {
		if at >= from.Unix() {
			after[at-from.Unix()] = n
		}
	}
	return "readings each second " + series(after)
}
