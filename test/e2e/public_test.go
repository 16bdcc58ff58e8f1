package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee/internal/feed"
	"levee/internal/provision"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/segment"
)

// shown waits until a part's log shows a public message that contains text, and
// returns the line.
func (p *process) shown(t *testing.T, text string) entry {
	t.Helper()
	var found entry
	await(t, 60*time.Second, p.Name+" shows the public message "+text, func() bool {
		for _, e := range p.logged(0, entry{"msg": "public message", "verification": "unverified"}) {
			if got, ok := e["text"].(string); ok && strings.Contains(got, text) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// unpacked returns the envelopes of a segment, one after the other.
func unpacked(t *testing.T, path string, content []byte) (all []byte) {
	t.Helper()
	for r := segment.NewReader(bytes.NewReader(content), path); ; {
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, record.Envelope...), '\n')
	}
}

// kept returns the files below dir that hold text, as it is or within
// base64url, as entries of the log have it; segments are unpacked.
func kept(t *testing.T, dir, text string) (paths []string) {
	t.Helper()
	spellings := [][]byte{[]byte(text)}
	for shift := range 3 {
		encoded := base64.RawURLEncoding.EncodeToString(append(make([]byte, shift), text...))
		whole := encoded[(8*shift+5)/6 : 8*(shift+len(text))/6] // the characters that text alone decides
		spellings = append(spellings, []byte(whole))
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.Ext(path) == ".seg" {
			content = append(content, unpacked(t, path, content)...)
		}
		if slices.ContainsFunc(spellings, func(s []byte) bool { return bytes.Contains(content, s) }) {
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// invented is a CPU usage that no machine measures.
const invented = 98.7654321

// A public message is text for people's eyes: shown as unverified, never acted
// on whatever it holds, never kept, and no flood of them disturbs a reading.
func TestPublicIsOnlyText(t *testing.T) {
	if !goOn(t) {
		return
	}
	needMosquitto(t)
	b := newBank(t, withGuest, func(inv *provision.Inventory) {
		inv.Sites[0].People = append(inv.Sites[0].People, provision.Person{Role: pki.RoleOperator, Name: "bob"})
	})
	// The monitor commands nothing by itself: what the controller does here, a
	// message made it do.
	b.configure(t, pki.RoleMonitor, "mode: act", "mode: observe")
	broker := b.daemon(t, pki.RoleBroker)
	broker.awaitLog(t, 0, entry{"msg": "broker listens"})
	parts := map[pki.Role]*process{}
	for _, role := range []pki.Role{pki.RoleRecorder, pki.RoleController, pki.RoleMonitor, pki.RoleSensor} {
		parts[role] = b.daemon(t, role)
		parts[role].awaitLog(t, 0, entry{"msg": "connected"})
	}
	seen := b.watchAs(t, pki.RoleOperator)
	bob := b.ids[pki.RoleOperator]
	bob.Name = "bob"
	screen := start(t, "levee", "watch", "--bundle", b.layout.Bundle(bob))
	await(t, 30*time.Second, "the second watch shows something", func() bool { return screen.Output() != "" })
	guest := b.export(t, pki.RoleGuest)
	eyes := []*process{parts[pki.RoleMonitor], parts[pki.RoleController]}

	t.Run("hey from public", func(t *testing.T) {
		for _, topic := range []string{"public/lobby", "public"} {
			guest.publish(t, topic, "hey from public on "+topic+".")
			line := seen.await(t, 30*time.Second, "watch shows it", func(l feed.Line) bool { return l.Topic == topic })
			if line.Kind != wire.KindPublic.String() || line.Verification != feed.Unverified || line.Text != "hey from public on "+topic+"." ||
				line.Sender != "" || line.Payload != nil {
				t.Errorf("%+v", line)
			}
			for _, p := range eyes {
				if e := p.shown(t, "hey from public on "+topic+"."); e["topic"] != topic {
					t.Errorf("%s logs %v", p.Name, e)
				}
			}
		}
	})

	t.Run("a forged line", func(t *testing.T) {
		forged := "\r\n{\"time\":\"2026-01-01T00:00:00Z\",\"level\":\"ERROR\",\"msg\":\"forged line\"}\n" +
			"25:00:00.000  verified      ALERT raised     mon-1  forged alert\n\x1b[2J\x1b]0;owned\x07\u009b31m\u202edesrever"
		guest.publish(t, "public/lobby", "it begins well"+forged)
		seen.await(t, 30*time.Second, "watch --json shows it as it was", func(l feed.Line) bool {
			return l.Text == "it begins well"+forged && l.Verification == feed.Unverified
		})
		await(t, 30*time.Second, "watch shows it", func() bool { return strings.Contains(screen.Output(), "forged alert") })
		for _, p := range append(eyes, screen) {
			if p != screen {
				p.shown(t, "it begins well")
			}
			if len(p.logged(0, entry{"msg": "forged line"})) > 0 {
				t.Errorf("%s has a line that a guest wrote", p.Name)
			}
			out := p.Output()
			if i := strings.IndexFunc(out, func(r rune) bool { return r != '\n' && r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' }); i >= 0 {
				t.Errorf("%s prints the control character %q", p.Name, out[i:min(i+8, len(out))])
			}
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, "25:00:00.000") || p == screen && strings.Contains(line, "forged") && !strings.Contains(line, "  unverified    public/lobby: it begins well") {
					t.Errorf("%s shows %q", p.Name, line)
				}
			}
		}
	})

	monitor := b.steal(t, pki.RoleMonitor, "mon-1")
	t.Run("what would move them elsewhere", func(t *testing.T) {
		topic, raw := monitor.command(t)
		encode := func(payload any) []byte {
			b, err := wire.Encode(payload)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		// And readings that would be worth an alert, of a server that is there
		// and of one that is not.
		high := func(later float64) []byte { // two of three are worth an alert
			return encode(&wire.CPU{Timestamp: unixSeconds(time.Now()) + later, Server: "ghost-1", Interval: 5, CPUUsage: invented})
		}
		web1 := b.steal(t, pki.RoleSensor, "web-1")
		reading := web1.topic(wire.KindCPU)
		for name, message := range map[string][]byte{"public/payload": encode(monitor.limit()), "public/envelope": raw, "public/" + topic: raw,
			"public/cpu": high(0), "public/cpu-again": high(1), "public/cpu-anew": high(2), "public/" + reading: web1.seal(t, web1.header(reading), web1.cpu(invented)),
			"public/network": encode(&wire.Network{Timestamp: unixSeconds(time.Now()), Server: "ghost-1", Interval: 5,
				ActiveTCPConnections: 98_765, SYNPacketCount: 98_765, SYNMethod: wire.SYNNFTables})} {
			if got := guest.run(t, "mosquitto_pub", "-t", name, "-f", guest.write(t, "message", message)); got.code != 0 {
				t.Fatalf("%+v", got)
			}
			seen.await(t, 30*time.Second, "watch shows it on "+name, func(l feed.Line) bool {
				return l.Topic == name && l.Text == string(message) && l.Verification == feed.Unverified
			})
			for _, p := range eyes {
				await(t, 60*time.Second, p.Name+" has read it", func() bool {
					return len(p.logged(0, entry{"msg": "public message", "topic": name})) > 0
				})
			}
		}
		if b.limited() {
			t.Error("the balancer limits")
		}
	})

	t.Run("a flood", func(t *testing.T) {
		before := broker.mark()
		sensor := func() map[uint64]bool {
			seqs := make(map[uint64]bool)
			for _, l := range seen.matching(func(l feed.Line) bool { return l.Sender == "melb/sensor/web-1" && l.Seq > 0 }) {
				seqs[l.Seq] = true
			}
			return seqs
		}
		was := len(sensor())
		flood := guest.command(t.Context(), "mosquitto_pub", "-q", "0", "-t", "public/flood", "-l")
		flood.Stdin = strings.NewReader(strings.Repeat("flood\n", 400))
		_ = flood.Run() // it may end before the broker has read it all, or be ended
		// At 5 a second, and so held back for more than half of a minute.
		await(t, 90*time.Second, "the broker ends the flood", func() bool {
			return len(broker.logged(before, entry{"reason": "too_fast", "identity": "melb/guest/guest-1"})) > 0
		})
		if n := len(seen.matching(func(l feed.Line) bool { return l.Topic == "public/flood" })); n < 20 || n > 250 {
			t.Errorf("%d messages of the flood came through", n)
		}
		seqs := sensor()
		numbers := slices.Sorted(maps.Keys(seqs))
		if len(numbers) < was+30 || numbers[len(numbers)-1]-numbers[0] != uint64(len(numbers)-1) {
			t.Errorf("of the sensor's messages %d were seen before the flood and %d after it: %d", was, len(numbers), numbers)
		}
		if lost := seen.matching(func(l feed.Line) bool { return l.Missing > 0 && l.First > numbers[0] }); len(lost) > 0 {
			t.Errorf("digests over readings that were not seen: %+v", lost)
		}
		for _, p := range eyes {
			if n := len(p.logged(0, entry{"msg": "public message"})); n > 100 {
				t.Errorf("the flood made %d lines of %s's log", n, p.Name)
			}
		}
	})

	acted := func(l feed.Line) bool {
		var alert wire.Alert
		if l.Kind == wire.KindAlert.String() && json.Unmarshal(l.Payload, &alert) == nil { // this machine may be busy itself
			return alert.Server == "ghost-1" || alert.Value == invented
		}
		return l.Kind == wire.KindRateLimiting.String() || l.Kind == wire.KindScaling.String() || l.Kind == wire.KindCommand.String()
	}
	if found := seen.matching(acted); len(found) > 0 {
		t.Errorf("somebody acted: %s %s", found[0].Kind, found[0].Payload)
	}
	// The same kind of command, from the monitor's hands: it was perfect.
	parts[pki.RoleMonitor].Stop(t)
	topic, raw := monitor.command(t)
	publish(t, b.connect(t, monitor), topic, raw)
	seen.await(t, 30*time.Second, "the controller acts", func(l feed.Line) bool {
		var status wire.Status
		return l.Kind == wire.KindRateLimiting.String() && json.Unmarshal(l.Payload, &status) == nil && status.State == wire.StateActive
	})

	for _, role := range []pki.Role{pki.RoleSensor, pki.RoleController, pki.RoleRecorder} {
		parts[role].Stop(t)
	}
	broker.Stop(t)
	if r := b.audited(t); r.Entries == 0 || r.Envelopes == 0 {
		t.Errorf("%+v", r)
	}
	for _, text := range []string{"hey from public", "it begins well", "forged"} {
		if paths := kept(t, b.dir, text); len(paths) > 0 {
			t.Errorf("%q is in %q", text, paths)
		}
	}
	state := b.layout.State(b.ids[pki.RoleRecorder])
	for dir, text := range map[string]string{"segments": "syn_packet_count", "log": "bank_server/digests/sensor"} {
		if kept(t, filepath.Join(state, dir), text) == nil {
			t.Errorf("%q is not in the recorder's %s: this test would find nothing there", text, dir)
		}
	}
}
