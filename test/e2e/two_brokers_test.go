package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/envelope"
	"levee/envelope/keys"
	"levee/internal/config"
	"levee/internal/provision"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/segment"
	"levee/test/processes"
)

// brokerKills is for how long brokers are killed in TestTwoBrokers.
var brokerKills = flag.Duration("kills", 30*time.Second, "for how long TestTwoBrokers kills a broker every 10 s")

// Two brokers, of which one is killed every 10 s and started again. Each reading
// reaches the monitors exactly once: every number of every sensor is in the
// record, none is given up, and the monitors have accepted the readings among
// them and nothing else. An alert is raised once, a command acts once.
func TestTwoBrokers(t *testing.T) {
	if !goOn(t) {
		return
	}
	sensors := []string{"web-1", "web-2", "web-3"}
	ports := steadyPorts(t, 3)
	brokers := []string{"broker-1", "broker-2"}
	b := newBank(t, func(inv *provision.Inventory) {
		melb := &inv.Sites[0]
		melb.Brokers = nil
		for i, name := range brokers {
			melb.Brokers = append(melb.Brokers, provision.Broker{Name: name, Listen: ports[i], Address: ports[i]})
		}
		melb.Sensors = nil
		for _, name := range sensors {
			melb.Sensors = append(melb.Sensors, provision.Sensor{Name: name})
		}
		melb.Monitors = append(melb.Monitors, provision.Monitor{Name: "mon-2"})
	})
	named := func(role pki.Role, name string) pki.Identity {
		id := b.ids[role]
		id.Name = name
		return id
	}
	run := func(role pki.Role, name string) *process {
		return start(t, "levee-"+string(role), "--config", b.layout.Config(named(role, name)))
	}
	for _, name := range sensors[1:] { // the first has it already
		processes.Edit(t, b.layout.Config(named(pki.RoleSensor, name)), "interval: 5s", "interval: 1s\ndigest_interval: 3s")
	}
	metricsOf := ports[2]
	b.configure(t, pki.RoleMonitor, "mode: act", "mode: act\nmetrics_listen: "+metricsOf)
	// This machine may be busy with other tests, whatever this one floods.
	b.configure(t, pki.RoleMonitor, "cpu_usage: 80", "cpu_usage: 99.9")
	b.configure(t, pki.RoleMonitor, "ram_usage: 80", "ram_usage: 99.9")

	alive := make(map[string]*process)
	for _, name := range brokers {
		alive[name] = run(pki.RoleBroker, name)
		alive[name].awaitLog(t, 0, entry{"msg": "broker listens"})
	}
	recorder, controller, monitor := b.daemon(t, pki.RoleRecorder), b.daemon(t, pki.RoleController), b.daemon(t, pki.RoleMonitor)
	for _, p := range []*process{recorder, controller, monitor} {
		for _, name := range brokers {
			p.awaitLog(t, 0, entry{"msg": "connected", "name": name})
		}
	}
	second := b.listenAs(t, named(pki.RoleMonitor, "mon-2"))
	await(t, 30*time.Second, "the second monitor is connected to both", func() bool { return second.brokers() == 2 })
	var speaking []*process
	for _, name := range sensors {
		speaking = append(speaking, run(pki.RoleSensor, name))
	}
	for _, p := range speaking {
		p.awaitLog(t, 0, entry{"msg": "connected"})
	}
	await(t, 60*time.Second, "the balancer answers 200", func() bool { return get(b.balancer).code == http.StatusOK })
	flood := exec.Command(filepath.Join(bin, "levee"), "drill", "flood", "--target", b.balancer, "--rate", "600", "--duration", "20s")
	flooded := make(chan error, 1)
	go func() { flooded <- flood.Run() }()

	for killed, end := 0, time.Now().Add(*brokerKills); time.Now().Before(end); killed++ {
		time.Sleep(10 * time.Second)
		name := brokers[killed%2]
		alive[name].Kill(t)
		alive[name] = run(pki.RoleBroker, name)
	}
	if err := <-flooded; err != nil {
		t.Errorf("the drill: %v", err)
	}
	// A sensor that is stopped while it has no broker gives up what it holds.
	time.Sleep(3 * time.Second)
	for _, p := range speaking {
		await(t, 30*time.Second, p.Name+" is connected again", func() bool { return p.connected() })
		p.Stop(t)
	}

	// What the record holds is what there was: it has every number of every
	// sensor from 1 on to that of the digest that says that there was no more.
	var kept map[string][]byte
	var missing error
	for range 100 { // until it has what they said last
		kept = b.record(t)
		if missing = whole(kept, sensors); missing == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if missing != nil {
		t.Error(missing)
	}
	said, statuses := make(map[string]bool), 0
	raised := make(map[wire.ID]int)
	for nonce, raw := range kept {
		m, err := envelope.Parse(raw, envelope.MaxBackfill)
		if err != nil {
			t.Fatal(err)
		}
		topic, err := wire.ParseTopic(string(m.Topic))
		if err != nil {
			t.Fatal(err)
		}
		switch topic.Kind {
		case wire.KindCPU, wire.KindRAM, wire.KindNetwork:
			said[nonce] = true
		case wire.KindRateLimiting, wire.KindScaling:
			statuses++
		case wire.KindAlert:
			var a wire.Alert
			if err := wire.Decode(m.Payload, &a); err != nil {
				t.Fatal(err)
			}
			if a.State == wire.StateRaised {
				raised[a.Incident]++
			}
		}
	}
	heard := second.all()
	for nonce, times := range heard {
		if times != 1 || !said[nonce] {
			t.Errorf("the second monitor accepted %s %d times; said: %v", nonce, times, said[nonce])
		}
	}
	for nonce := range said {
		if heard[nonce] == 0 {
			t.Errorf("the second monitor never had %s", nonce)
		}
	}
	// Of what brokers tell of presence, a monitor that is still on its way back
	// after a broker's start misses some: the next roster says the same.
	// What the recorder acknowledges it accepts as well.
	accepted, presences := figure(t, metricsOf, "levee_messages_accepted_total")-figure(t, metricsOf, "levee_outbox_acknowledgements_total"), 0
	for range 100 {
		if presences = b.presences(t); accepted <= len(said)+statuses+presences {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("%d readings, %d statuses, %d presences; the monitor accepted %d messages and met %d a second time", len(said), statuses, presences, accepted, figure(t, metricsOf, "levee_messages_duplicate_total"))
	if accepted < len(said)+statuses || accepted > len(said)+statuses+presences || presences == 0 || len(said) < len(sensors)*3*int(brokerKills.Seconds()/2) {
		t.Errorf("the monitor accepted %d messages; %d readings, %d statuses and %d presences were sent", accepted, len(said), statuses, presences)
	}
	acted := make(map[any]int)
	for _, line := range controller.logged(0, entry{"msg": "acting on a command"}) {
		acted[line["id"]]++
	}
	for what, counts := range map[string][]int{"incidents were raised": values(raised), "commands acted": values(acted)} {
		t.Logf("%d %s", len(counts), what)
		if len(counts) == 0 {
			t.Errorf("no %s: nothing is shown here", what)
		}
		for _, n := range counts {
			if n != 1 {
				t.Errorf("%s %d times", what, n)
			}
		}
	}
	if figure(t, metricsOf, "levee_messages_duplicate_total") == 0 {
		t.Error("nothing came by two brokers: nothing is shown here")
	}
	for _, p := range []*process{monitor, controller, recorder} {
		for _, level := range []string{"WARN", "ERROR"} {
			for _, line := range p.logged(0, entry{"msg": "message refused", "level": level}) {
				t.Errorf("%s: %v", p.Name, line)
			}
		}
	}

	for _, p := range []*process{monitor, controller, recorder} {
		p.Stop(t)
	}
	r := b.audited(t)
	t.Logf("the record: %d envelopes, %d missing, %d given up, %d digests incomplete", r.Envelopes, r.Missing, r.Declared, r.Incomplete)
	if r.Missing != 0 || r.Declared != 0 || r.Incomplete != 0 {
		t.Errorf("%d messages are missing, %d were given up, %d digests are incomplete: %v", r.Missing, r.Declared, r.Incomplete, r.Gaps)
	}
}

// connected reports whether a sensor's log says that it has a broker.
func (p *process) connected() bool {
	out := p.Output()
	return strings.LastIndex(out, `"msg":"connected"`) > strings.LastIndex(out, `"msg":"not connected"`)
}

func values[K comparable](counts map[K]int) (all []int) {
	for _, n := range counts {
		all = append(all, n)
	}
	return all
}

// listener is a monitor's session in this process, which notes the numbers of
// the readings that it accepted.
type listener struct {
	session *session.Session

	mu    sync.Mutex
	heard map[string]int // readings, by sender and nonce
}

func (b *bank) listenAs(t *testing.T, id pki.Identity) *listener {
	t.Helper()
	bundle, err := site.Open(site.Settings{Bundle: config.Path(b.layout.Bundle(id)), State: config.Path(b.layout.State(id)), Evaluation: true}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := keys.Load(bundle.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{heard: make(map[string]int)}
	l.session, err = session.New(session.Config{
		Bundle:  bundle,
		Ring:    ring,
		Filters: []string{wire.Filter(wire.KindCPU, id.Site), wire.Filter(wire.KindRAM, id.Site), wire.Filter(wire.KindNetwork, id.Site)},
		Handle: func(d session.Delivery) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.heard[number(&d.Message)]++
		},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.session.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l
}

// number names a message.
func number(m *envelope.Message) string {
	return fmt.Sprintf("%s %s-%d", m.Sender(), envelope.FormatBoot(m.Nonce.Boot), m.Nonce.Seq)
}

func (l *listener) brokers() (connected int) {
	for _, up := range l.session.Brokers() {
		if up {
			connected++
		}
	}
	return connected
}

func (l *listener) all() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	heard := make(map[string]int)
	for nonce, n := range l.heard {
		heard[nonce] = n
	}
	return heard
}

// record returns the envelopes that the recorder has kept, and fails if it has
// one twice.
func (b *bank) record(t *testing.T) map[string][]byte {
	t.Helper()
	kept := make(map[string][]byte)
	files, err := segment.List(filepath.Join(b.layout.State(b.ids[pki.RoleRecorder]), "segments"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		file, err := os.Open(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for r := segment.NewReader(file, f.Path); ; {
			record, err := r.Next()
			if errors.Is(err, io.EOF) || errors.Is(err, segment.ErrIncomplete) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			m, err := envelope.Parse(record.Envelope, envelope.MaxBackfill)
			if err != nil {
				t.Fatal(err)
			}
			nonce := number(&m)
			if _, twice := kept[nonce]; twice {
				t.Fatalf("the record has %s twice", nonce)
			}
			kept[nonce] = slices.Clone(record.Envelope) // the reader's until the next one
		}
	}
	return kept
}

// whole reports what is missing of the sensors, each of which had one start: it
// numbers from 1, and the last that it sends is a digest of the rest.
func whole(kept map[string][]byte, sensors []string) error {
	for _, name := range sensors {
		seqs := make(map[uint64]wire.Kind)
		var last uint64
		var digest wire.Digest
		for _, raw := range kept {
			m, err := envelope.Parse(raw, envelope.MaxBackfill)
			if err != nil {
				return err
			}
			if string(m.Sender()) != "melb/sensor/"+name {
				continue
			}
			topic, err := wire.ParseTopic(string(m.Topic))
			if err != nil {
				return err
			}
			seqs[m.Nonce.Seq] = topic.Kind
			if m.Nonce.Seq > last {
				last, digest = m.Nonce.Seq, wire.Digest{}
				if topic.Kind == wire.KindDigest {
					err = wire.DecodeExact(m.Payload, &digest)
				}
			}
			if err != nil {
				return err
			}
		}
		if last == 0 || seqs[last] != wire.KindDigest || digest.Last != last-1 || len(seqs) != int(last) {
			var gaps []uint64
			for seq := uint64(1); seq < last; seq++ {
				if _, ok := seqs[seq]; !ok {
					gaps = append(gaps, seq)
				}
			}
			return fmt.Errorf("%s: up to number %d, which is a %s up to %d, these are missing: %v", name, last, seqs[last], digest.Last, gaps)
		}
	}
	return nil
}

// figure reads a metric without labels.
func figure(t *testing.T, address, name string) int {
	t.Helper()
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(f)
		}
	}
	t.Fatalf("no %s", name)
	return 0
}
