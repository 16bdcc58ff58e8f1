//go:build linux

package bench

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"levee/envelope"
	"levee/envelope/keys"
	"levee/internal/site"
	"levee/test/rawmqtt"
)

var (
	attack = flag.Duration("attack", 3*time.Second, "how long the broker is attacked; a third of that it is measured in peace, before")
	storm  = flag.Int("storm", 64, "connections at once that each of two guests begins again and again")
	judge  = flag.Bool("judge", false, "require of the deliveries' p99 under attack what docs/figures.md promises")
)

const (
	honestSensors = 50 // at one message a second
	guests        = 8
	mostMemory    = 512 << 20
	mostLatency   = 100 * time.Millisecond
	mostSlower    = 3 // than in peace
)

// TestGuestsDoTheirWorst attacks a broker under the default policy, with eight
// guests' certificates, while fifty sensors publish. Whoever bans guests may not
// cost a sensor anything.
//
// The broker has one core. The attacker has the other, with the sensors and their
// reader, who come before it by nice: what they are measured to wait is the
// broker's doing.
func TestGuestsDoTheirWorst(t *testing.T) {
	s := newSite(t, plan{sensors: honestSensors, guests: guests})
	metrics := "http://" + s.withMetrics(t) + "/metrics"
	b := s.levee(t, "levee", filepath.Join(bin, "levee-broker"))
	s.leaveCore(t)
	h := s.honest(t, b)

	quiet := h.measure(t, *attack/3, func() {})
	before, idle := scrape(t, metrics), used(t, b.process)
	began := time.Now()
	args := []string{"-n", "10", filepath.Join(bin, "attacker"), "-address", b.address, "-host", s.broker.Host(),
		"-for", attack.String(), "-storm", strconv.Itoa(*storm)}
	for _, id := range s.guests {
		args = append(args, id.ClientID()+"="+s.layout.Bundle(id))
	}
	attacker := s.launch(t, 1, exec.Command("nice", args...))
	busy, worst := time.Duration(0), make(map[string]float64)
	attacked := h.measure(t, *attack, func() {
		busy = (used(t, b.process) - idle) * 100 / time.Since(began)
		worst = scrape(t, metrics)
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if err, ended := attacker.Ended(); ended {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the attacker does not end")
		}
	}

	memory := peak(t, b)
	t.Logf("in peace %s\nattacked %s\nbroker: %d %% of its core, %d MiB at most; %d bans of identities, %d of addresses\nattacker: %scounted: %s\nsent/received: %s",
		quiet, attacked, busy, memory>>20, strings.Count(b.process.Output(), "identity banned"), strings.Count(b.process.Output(), "address banned"),
		attacker.Output(), difference(before, worst), h)
	if n := h.lost(); n > 0 || h.twice.Load() > 0 {
		t.Errorf("%d messages of honest sensors lost, %d came twice", n, h.twice.Load())
	}
	if n := h.dropped.Load(); n > 0 {
		t.Errorf("%d honest sessions ended", n)
	}
	if memory >= mostMemory {
		t.Errorf("the broker took %d MiB", memory>>20)
	}
	if worst[`levee_broker_refused_total{reason="packet"}`] == 0 || !strings.Contains(attacker.Output(), "sessions") {
		t.Errorf("the attack did not happen")
	}
	if p99 := attacked.p99; *judge && (p99 > mostLatency || p99 > mostSlower*quiet.p99) {
		t.Errorf("p99 %s under attack, %s in peace", p99, quiet.p99)
	}
}

// withMetrics lets the broker serve its metrics, and returns where.
func (s *bankSite) withMetrics(t *testing.T) string {
	t.Helper()
	address := freePort(t)
	file, err := os.OpenFile(s.layout.Config(s.broker), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := fmt.Fprintf(file, "\nmetrics_listen: %s\n", address); err != nil {
		t.Fatal(err)
	}
	return address
}

// honest are the sensors and their reader.
type honest struct {
	boot    uint64
	order   []*witness
	topics  map[string]*witness
	arrived atomic.Int64
	twice   atomic.Int64
	dropped atomic.Int64 // sessions that ended
}

// witness is one sensor, and what the reader has of it.
type witness struct {
	*publisher
	name     string
	from     int            // of the first message of what is measured
	received []atomic.Int64 // when, by number
}

// honest connects everybody, until the test ends.
func (s *bankSite) honest(t *testing.T, b broker) *honest {
	t.Helper()
	h := &honest{boot: uint64(time.Now().UnixMilli()), topics: make(map[string]*witness)}
	var reading sync.WaitGroup
	var leaving atomic.Bool
	var clients []*rawmqtt.Client
	watch := func(c *rawmqtt.Client, read func() error) {
		clients = append(clients, c)
		reading.Go(func() {
			if err := read(); !leaving.Load() {
				h.dropped.Add(1)
				t.Logf("an honest session ended: %v", err)
			}
		})
	}
	most := 2*int(attack.Seconds()) + 10
	for _, id := range s.sensors {
		ring, err := keys.Load(filepath.Join(s.layout.Bundle(id), site.FileKeys))
		if err != nil {
			t.Fatal(err)
		}
		w := &witness{name: id.Name, received: make([]atomic.Int64, most)}
		w.publisher = &publisher{topic: topicOf(id), client: s.connect(t, b, id), seq: firstSeq, sent: make([]atomic.Int64, most)}
		w.key, w.keyID = ring.Own()
		h.order, h.topics[w.topic] = append(h.order, w), w
		watch(w.client, func() error {
			_, err := io.Copy(io.Discard, w.client.Conn) // acknowledgements
			return err
		})
	}
	reader := s.connect(t, b, s.monitor)
	if codes, err := reader.Subscribe(1, 1, readerFilter); err != nil || len(codes) != 1 || codes[0] != 1 {
		t.Fatalf("SUBACK %x, %v", codes, err)
	}
	_ = reader.Conn.SetDeadline(time.Time{})
	watch(reader, func() error { return h.receive(reader.Conn.(*tls.Conn)) })
	t.Cleanup(func() {
		leaving.Store(true)
		for _, c := range clients {
			c.Close()
		}
		reading.Wait()
	})
	return h
}

// receive reads and acknowledges deliveries until the connection ends.
func (h *honest) receive(conn *tls.Conn) error {
	r := bufio.NewReader(conn)
	body := make([]byte, 1024)
	for {
		first, err := r.ReadByte()
		if err != nil {
			return err
		}
		length, err := binary.ReadUvarint(r)
		if err != nil || length > uint64(len(body)) || first>>4 != rawmqtt.TypePublish {
			return fmt.Errorf("a packet of type %d, %d bytes: %v", first>>4, length, err)
		}
		if _, err := io.ReadFull(r, body[:length]); err != nil {
			return err
		}
		now := time.Now().UnixNano()
		p, err := rawmqtt.Packet{Type: first >> 4, Flags: first & 0xf, Body: body[:length]}.Message()
		if err != nil {
			return err
		}
		m, err := envelope.Parse(p.Payload, size)
		if err != nil {
			return err
		}
		w, n := h.topics[p.Topic], int(m.Nonce.Seq)-firstSeq-1
		if w == nil || n < 0 || n >= len(w.received) {
			return fmt.Errorf("topic %q, number %d", p.Topic, m.Nonce.Seq)
		}
		if _, err := conn.Write(rawmqtt.Ack(rawmqtt.TypePuback, p.ID)); err != nil {
			return err
		}
		if !w.received[n].CompareAndSwap(0, now) {
			h.twice.Add(1)
		}
		h.arrived.Add(1)
	}
}

// delay is how long deliveries took.
type delay struct{ p50, p99, most time.Duration }

func (d delay) String() string {
	return fmt.Sprintf("p50 %s, p99 %s, most %s", d.p50.Round(10*time.Microsecond), d.p99.Round(10*time.Microsecond), d.most.Round(10*time.Microsecond))
}

// measure publishes for a while, one sensor after the other, calls then, and waits
// for what has not arrived. What is lost counts as a delay without end.
func (h *honest) measure(t *testing.T, while time.Duration, then func()) delay {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, w := range h.order {
		w.from = int(w.seq) - firstSeq
	}
	start, before := time.Now(), h.arrived.Load()
	total := int(while.Seconds() * honestSensors)
	for n := range total {
		if wait := time.Until(start.Add(time.Duration(n) * time.Second / honestSensors)); wait > 0 {
			pause := unix.NsecToTimespec(wait.Nanoseconds())
			_ = unix.Nanosleep(&pause, nil)
		}
		if err := h.order[n%honestSensors].publish(h.boot, 1); err != nil {
			t.Errorf("publishing: %v", err)
			break
		}
	}
	then()
	for deadline := time.Now().Add(20 * time.Second); h.arrived.Load()-before < int64(total) && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	var delays []time.Duration
	for _, w := range h.order {
		for n := w.from; n < int(w.seq)-firstSeq; n++ {
			d := time.Duration(math.MaxInt64)
			if at := w.received[n].Load(); at > 0 {
				d = time.Duration(at - w.sent[n].Load())
			}
			delays = append(delays, d)
		}
	}
	slices.Sort(delays)
	return delay{p50: median(delays), p99: delays[len(delays)*99/100], most: delays[len(delays)-1]}
}

// count returns how many messages were sent and received.
func (w *witness) count() (sent, received int) {
	sent = int(w.seq) - firstSeq
	for n := range sent {
		if w.received[n].Load() > 0 {
			received++
		}
	}
	return sent, received
}

func (h *honest) lost() (n int) {
	for _, w := range h.order {
		sent, received := w.count()
		n += sent - received
	}
	return n
}

func (h *honest) String() string {
	var b strings.Builder
	for _, w := range h.order {
		sent, received := w.count()
		fmt.Fprintf(&b, "%s %d/%d ", w.name, sent, received)
	}
	return b.String()
}

// peak returns the most memory that a process has had (proc(5), VmHWM).
func peak(t *testing.T, b broker) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.process.PID()))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Fatal("no VmHWM")
	}
	kib, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// scrape reads the broker's counters.
func scrape(t *testing.T, url string) map[string]float64 {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second}
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	values := make(map[string]float64)
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil && strings.Contains(name, "_total") {
			values[name] = v
		}
	}
	return values
}

// difference lists what was counted in between.
func difference(before, after map[string]float64) string {
	var all []string
	for name, v := range after {
		if n := v - before[name]; n > 0 {
			all = append(all, fmt.Sprintf("%s %.0f", strings.TrimPrefix(name, "levee_"), n))
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
