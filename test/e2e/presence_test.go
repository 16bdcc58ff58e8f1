package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/provision"
	"levee/internal/translog/leaf"
	"levee/internal/translog/proof"
	"levee/internal/wire"
	"levee/pki"
)

// A sensor is killed. Its broker says so, signed: the monitor tells people, the
// console shows it, and the log holds it, which verifies by public keys alone. It
// comes back, and so does that.
func TestPresence(t *testing.T) {
	if !goOn(t) {
		return
	}
	desk := freePort(t)
	b := newBank(t, func(inv *provision.Inventory) {
		inv.Sites[0].Consoles = []provision.Console{{Name: "desk-1", Listen: desk}}
	})
	broker := b.daemon(t, pki.RoleBroker)
	broker.awaitLog(t, 0, entry{"msg": "broker listens"})
	recorder, monitor, console, sensor := b.daemon(t, pki.RoleRecorder), b.daemon(t, pki.RoleMonitor), b.daemon(t, pki.RoleConsole), b.daemon(t, pki.RoleSensor)
	for _, p := range []*process{recorder, monitor, console, sensor} {
		p.awaitLog(t, 0, entry{"msg": "connected"})
	}
	shown := b.show(t, desk)
	archive := newArchive(t, b)
	recorded := func(what string, want wire.PresenceChange) {
		t.Helper()
		await(t, 30*time.Second, "the log holds "+what, func() bool {
			for _, c := range archive.presence(t) {
				if want.Since = c.Since; c == want {
					return true
				}
			}
			return false
		})
	}
	present, gone := wire.PresenceChange{Machine: "sensor/web-1", State: wire.StatePresent}, wire.PresenceChange{Machine: "sensor/web-1", State: wire.StateGone, Reason: wire.EndLost}
	recorded("the sensor's arrival", present)
	await(t, 30*time.Second, "the console shows where the sensor is", func() bool { return shown.has(`"state":"present","brokers":["broker-1"]`) })

	at := monitor.mark()
	sensor.Kill(t)
	monitor.awaitLog(t, at, entry{"msg": "machines are connected to no broker"})
	if l := monitor.logged(at, entry{"msg": "machines are connected to no broker"}); !strings.Contains(fmt.Sprint(l[0]["among_them"]), "sensor/web-1 (connected nowhere since ") ||
		!strings.HasSuffix(fmt.Sprint(l[0]["among_them"]), ": lost)") {
		t.Errorf("%v", l)
	}
	recorded("its departure", gone)
	await(t, 30*time.Second, "the console shows that it is gone", func() bool { return shown.has(`"machine":"sensor/web-1","state":"gone"`) })

	at = monitor.mark()
	sensor = b.daemon(t, pki.RoleSensor)
	monitor.awaitLog(t, at, entry{"msg": "machines are connected again"})

	at = monitor.mark()
	sensor.Stop(t)
	monitor.awaitLog(t, at, entry{"msg": "machines are connected to no broker"})
	recorded("that it was stopped", wire.PresenceChange{Machine: "sensor/web-1", State: wire.StateGone, Reason: wire.EndLeft})
	for _, p := range []*process{recorder, monitor, console, broker} {
		for _, level := range []string{"WARN", "ERROR"} {
			for _, line := range p.logged(0, entry{"msg": "message refused", "level": level}) {
				t.Errorf("%s: %v", p.Name, line)
			}
		}
	}
	for _, p := range []*process{console, monitor, recorder, broker} {
		p.Stop(t)
	}
	if code, out := b.auditVerify(t, "--without-keys"); code != 0 {
		t.Errorf("levee audit verify ends with %d:\n%s", code, out)
	}
}

// presence returns all that brokers said of sessions, as the log holds it: nothing,
// if the recorder is just writing to what is read.
func (a *archive) presence(t *testing.T) (all []wire.PresenceChange) {
	t.Helper()
	config := proof.Config{FS: os.DirFS(a.log), Origin: a.origin, VKey: a.key}
	_, err := proof.Verify(t.Context(), config, func(_ int64, entry []byte) error {
		l, err := leaf.Parse(entry)
		if err != nil || l.Kind != leaf.KindMessage {
			return err
		}
		m, err := envelope.Parse(l.Data, envelope.MaxMessage)
		if err != nil {
			return err
		}
		if topic, err := wire.ParseTopic(string(m.Topic)); err != nil || topic.Kind != wire.KindPresence {
			return err
		}
		p, err := wire.ParsePresence(m.Payload)
		if err != nil || !m.Signed() || string(m.Sender()) != "melb/broker/broker-1" {
			t.Errorf("presence of %s, signed %v: %v", m.Sender(), m.Signed(), err)
		}
		all = append(all, p.Changes...)
		return nil
	})
	if err != nil {
		return nil
	}
	return all
}

// presences returns how many messages of presence the recorder has kept.
func (b *bank) presences(t *testing.T) (n int) {
	t.Helper()
	for _, raw := range b.record(t) {
		m, err := envelope.Parse(raw, envelope.MaxBackfill)
		if err != nil {
			t.Fatal(err)
		}
		if topic, err := wire.ParseTopic(string(m.Topic)); err == nil && topic.Kind == wire.KindPresence {
			n++
		}
	}
	return n
}

// display is what a console's stream has said.
type display struct {
	mu   sync.Mutex
	text strings.Builder
}

func (d *display) has(part string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Contains(d.text.String(), part)
}

// show reads a console's stream until the test ends.
func (b *bank) show(t *testing.T, address string) *display {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", response, err)
	}
	d, done := new(display), make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewReader(response.Body); ; {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok && json.Valid([]byte(data)) {
				d.mu.Lock()
				d.text.WriteString(line)
				d.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		response.Body.Close()
	})
	return d
}
