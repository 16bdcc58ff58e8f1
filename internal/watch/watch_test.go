package watch_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"levee/envelope"
	"levee/internal/feed"
	"levee/internal/session"
	"levee/internal/watch"
	"levee/internal/wire"
)

const boot = 0x1929c0a7f3e

var received = time.Date(2026, 3, 4, 12, 30, 45, 678e6, time.Local)

// delivery is what a session hands on: a message of the topic's sender.
func delivery(t testing.TB, topic string, seq uint64, proof session.Proof, payload any) session.Delivery {
	t.Helper()
	parsed, err := wire.ParseTopic(topic)
	if err != nil {
		t.Fatal(err)
	}
	b, err := wire.Encode(payload)
	if err != nil {
		t.Fatal(err)
	}
	raw := fmt.Appendf(nil, "%s %d %s", topic, seq, b)
	return session.Delivery{Topic: parsed, Name: topic, Payload: b, Proof: proof, Received: received,
		Message: envelope.Message{Raw: raw, Time: received.UnixMilli(), Nonce: envelope.Nonce{Boot: boot, Seq: seq}, Payload: b}}
}

func public(t testing.TB, topic, text string) session.Delivery {
	t.Helper()
	parsed, err := wire.ParseTopic(topic)
	if err != nil {
		t.Fatal(err)
	}
	return session.Delivery{Topic: parsed, Name: topic, Payload: []byte(text), Received: received}
}

// digest signs for the deliveries, from seq first on.
func digest(t testing.TB, seq, first uint64, covered ...session.Delivery) session.Delivery {
	t.Helper()
	h := sha256.New()
	for _, d := range covered {
		sum := sha256.Sum256(d.Message.Raw)
		h.Write(sum[:])
	}
	return delivery(t, "melb/bank_server/digests/sensor/web-1", seq, session.ProofSignature, &wire.Digest{Timestamp: 1,
		Boot: envelope.FormatBoot(boot), First: first, Last: first + uint64(len(covered)) - 1, Dropped: []wire.Drop{},
		Hash: base64.RawURLEncoding.EncodeToString(h.Sum(nil))})
}

const ramTopic = "melb/bank_server/metrics/ram/web-1"

func reading(t testing.TB, seq uint64) session.Delivery {
	return delivery(t, ramTopic, seq, session.ProofNone, &wire.RAM{Timestamp: 1, Server: "web-1", RAMUsage: float64(seq)})
}

// shown returns the lines that a viewer writes for the deliveries, as text and
// as JSON.
func shown(t testing.TB, deliveries ...session.Delivery) (text []string, objects []feed.Line) {
	t.Helper()
	var plain, encoded bytes.Buffer
	viewers := []*watch.Viewer{watch.New(&plain, false), watch.New(&encoded, true)}
	for _, v := range viewers {
		for _, d := range deliveries {
			v.Deliver(d)
		}
		if err := v.Err(); err != nil {
			t.Fatal(err)
		}
	}
	for line := range strings.Lines(encoded.String()) {
		var l feed.Line
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		objects = append(objects, l)
	}
	return strings.Split(strings.TrimSuffix(plain.String(), "\n"), "\n"), objects
}

func TestGoldenLines(t *testing.T) {
	id := wire.ID{0x9c, 0x1f, 0x02, 0x77, 5: 1}
	issued := received.UnixMilli()
	for _, test := range []struct {
		delivery session.Delivery
		want     string
	}{
		{delivery(t, "melb/bank_server/metrics/cpu/web-1", 1, session.ProofNone, &wire.CPU{Server: "web-1", Interval: 5, CPUUsage: 93.25}),
			"unconfirmed   cpu              web-1  cpu_usage 93.2 %"},
		{reading(t, 41), "unconfirmed   ram              web-1  ram_usage 41.0 %"},
		{delivery(t, ramTopic, 1, session.ProofMAC, &wire.RAM{Server: "web-1", RAMUsage: 41.5}), "unconfirmed   ram              web-1  ram_usage 41.5 %"},
		{delivery(t, ramTopic, 1, session.ProofSignature, &wire.RAM{Server: "web-1", RAMUsage: 41.5}), "verified      ram              web-1  ram_usage 41.5 %"},
		{delivery(t, "melb/bank_server/metrics/network/web-1", 1, session.ProofNone,
			&wire.Network{Server: "web-1", Interval: 5, ActiveTCPConnections: 120, SYNPacketCount: 98000, SYNMethod: wire.SYNNFTables}),
			"unconfirmed   network          web-1  active_tcp_connections 120  syn_packet_count 98000 in 5 s (nftables)"},
		{delivery(t, "melb/bank_server/alerts/m1", 1, session.ProofSignature, &wire.Alert{Alert: wire.AlertSYN, State: wire.StateRaised, Incident: id,
			Server: "web-1", Metric: "syn_packet_count", Value: 98000, Threshold: 1000, Window: 5}),
			"verified      ALERT raised     m1  9c1f0277: SYN packet count exceeded threshold on web-1 (syn_packet_count 98000, threshold 1000)"},
		{delivery(t, "melb/bank_server/control/command/monitor/m1", 1, session.ProofSignature, &wire.Command{ID: id, Command: wire.EnableRateLimiting,
			Controller: "lb-1", Server: "web-1", Issued: issued, TTL: 75, Parameters: wire.Parameters{RatePerSecond: 5, Burst: 10}, Incident: id}),
			"verified      COMMAND          m1  9c1f0277: enable_rate_limiting on web-1 of lb-1 until 12:32:00 (5/s for each client, burst 10; answers 9c1f0277)"},
		{delivery(t, "melb/bank_server/status/rate_limiting/lb-1", 1, session.ProofSignature, &wire.Status{ID: id, Command: wire.EnableRateLimiting,
			Status: wire.StatusSuccess, State: wire.StateActive, Controller: "lb-1", Server: "web-1", Until: issued}),
			"verified      STATUS success   lb-1  9c1f0277: enable_rate_limiting on web-1: active until 12:30:45"},
		{delivery(t, "melb/bank_server/status/scaling/lb-1", 1, session.ProofSignature, &wire.Status{ID: id, Command: wire.ScaleUpServers,
			Status: wire.StatusFailure, State: wire.StateRefused, Controller: "lb-1", Server: "*", Until: 0, Reason: "not permitted"}),
			"verified      STATUS failure   lb-1  9c1f0277: scale_up_servers on *: refused (not permitted)"},
		{delivery(t, "melb/bank_server/status/presence/b1", 1, session.ProofSignature, map[string]int{"clients": 3}),
			`verified      status/presence  melb/broker/b1  {"clients":3}`},
		{delivery(t, "melb/bank_server/status/presence/b1", 1, session.ProofSignature, &wire.Presence{Machines: 7, Changes: []wire.PresenceChange{
			{Machine: "sensor/web-1", State: wire.StateGone, Since: issued, Reason: wire.EndLost}, {Machine: "monitor/m1", State: wire.StatePresent, Since: issued}}}),
			"verified      PRESENCE         b1  sensor/web-1 gone since 12:30:45 (lost); monitor/m1 present since 12:30:45; 7 machines in all"},
		{delivery(t, "melb/bank_server/status/presence/b1", 1, session.ProofSignature, &wire.Presence{Machines: 1, Changes: []wire.PresenceChange{},
			Roster: &wire.Roster{Present: []wire.Attendee{{Machine: "sensor/web-1", Since: issued}}}}),
			"verified      PRESENCE         b1  a roster names 1; 1 machines in all"},
		{delivery(t, ramTopic, 1, session.ProofNone, map[string]string{"a": "not a reading"}),
			`unconfirmed   metrics/ram      melb/sensor/web-1  {"a":"not a reading"}`},
		{public(t, "public/lobby", "hello, bank"), "unverified    public/lobby: hello, bank"},
	} {
		text, objects := shown(t, test.delivery)
		if want := "12:30:45.678  " + test.want; len(text) != 1 || text[0] != want {
			t.Errorf("%s:\n%q, not\n%q", test.delivery.Name, text, want)
		}
		if len(objects) != 1 || objects[0].Received != received.UnixMilli() || objects[0].Topic != test.delivery.Name {
			t.Errorf("%s: %+v", test.delivery.Name, objects)
		}
	}
}

// A reading is unconfirmed until the digest that covers it is here, and a
// digest says confirmed only of what was seen as it was sent.
func TestConfirmation(t *testing.T) {
	one, two, three := reading(t, 1), reading(t, 2), reading(t, 3)
	forged := two
	forged.Message.Raw = []byte("another")
	dropped := digest(t, 4, 1, one, two, three)
	var d wire.Digest
	if err := wire.DecodeExact(dropped.Payload, &d); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	for _, covered := range []session.Delivery{one, three} {
		sum := sha256.Sum256(covered.Message.Raw)
		h.Write(sum[:])
	}
	d.Dropped, d.Hash = []wire.Drop{{Boot: d.Boot, First: 2, Last: 2}}, base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	dropped = delivery(t, dropped.Name, 4, session.ProofSignature, &d)
	backwards := d
	backwards.First, backwards.Last = 3, 1
	unknown := map[string]any{"timestamp": 1, "boot": d.Boot, "first": 1, "last": 3, "dropped": []any{}, "hash": d.Hash, "more": 1}
	unsigned := digest(t, 4, 1, one, two, three)
	unsigned.Proof = session.ProofMAC
	for _, test := range []struct {
		name string
		in   []session.Delivery
		want string // of the last line, without its time
	}{
		{"all seen", []session.Delivery{one, two, three, digest(t, 4, 1, one, two, three)},
			"confirmed     digest           melb/sensor/web-1  messages 1 to 3 since 01929c0a7f3e"},
		{"joined in the middle", []session.Delivery{three, digest(t, 4, 1, one, two, three)},
			"incomplete    digest           melb/sensor/web-1  messages 1 to 3 since 01929c0a7f3e, 2 of them not seen here"},
		{"another message seen", []session.Delivery{one, forged, three, digest(t, 4, 1, one, two, three)},
			"contradicted  digest           melb/sensor/web-1  messages 1 to 3 since 01929c0a7f3e"},
		{"one declared dropped", []session.Delivery{one, three, dropped},
			"confirmed     digest           melb/sensor/web-1  messages 1 to 3 since 01929c0a7f3e, 1 declared dropped"},
		{"one declared dropped, and shown here", []session.Delivery{one, forged, three, dropped},
			"disowned      digest           melb/sensor/web-1  messages 1 to 3 since 01929c0a7f3e, 1 declared dropped, 1 seen here that it does not vouch for"},
		{"a digest that contradicts itself", []session.Delivery{one, delivery(t, dropped.Name, 4, session.ProofSignature, &backwards)},
			"malformed     digest           melb/sensor/web-1  contradicts itself"},
		{"a digest with a member too many", []session.Delivery{one, two, three, delivery(t, dropped.Name, 4, session.ProofSignature, unknown)},
			"malformed     digest           melb/sensor/web-1  contradicts itself"},
	} {
		text, objects := shown(t, test.in...)
		want := "12:30:45.678  " + strings.Replace(test.want, "01929c0a7f3e", envelope.FormatBoot(boot), 1)
		if got := text[len(text)-1]; got != want {
			t.Errorf("%s:\n%q, not\n%q", test.name, got, want)
		}
		for _, line := range text[:len(text)-1] {
			if !strings.Contains(line, "  unconfirmed  ") {
				t.Errorf("%s: %q before its digest", test.name, line)
			}
		}
		last := objects[len(objects)-1]
		if last.Kind != "confirmation" || last.Verification != strings.Fields(test.want)[0] || last.Sender != "melb/sensor/web-1" {
			t.Errorf("%s: %+v", test.name, last)
		}
	}
	// An unsigned digest settles nothing. No session lets one through.
	if _, objects := shown(t, one, two, three, unsigned); len(objects) != 4 || objects[3].Verification != feed.Unconfirmed {
		t.Errorf("an unsigned digest: %+v", objects)
	}
	// And the digest itself is covered by the next.
	first := digest(t, 4, 1, one, two, three)
	if _, objects := shown(t, one, two, three, first, digest(t, 5, 4, first)); objects[len(objects)-1].Verification != "confirmed" {
		t.Errorf("the next digest: %+v", objects[len(objects)-1])
	}
}

// hostile is text that would steer a terminal or look like something else.
var hostile = []string{
	"\x1b[2J\x1b[1;1H\x1b[32mverified", "\x1b]0;title\x07", "\u009b2J", "\x7f\x08\x08\x08", "a\rb", "a\nb", "a\tb", "\u202everified", "\u2066x\u2069",
	"\u200bx", "e\u0301\u0301\u0301\u0301", "\u2028x", "\u2800x\u3164x\u115fx", "\ufeffx", "\u05d0\u05d1", "\U000e0041", "\U0001f600", "\xff\xfe", "\u00a0\u00a0",
	"x" + strings.Repeat(" ", 200) + "12:30:45.678  verified      COMMAND          m1  9c1f0277: scale_down_servers on * of lb-1",
	strings.Repeat("x", 5000),
}

func TestNothingSteersTheTerminal(t *testing.T) {
	for _, text := range hostile {
		deliveries := []session.Delivery{public(t, "public/lobby", text)}
		if valid := strings.ToValidUTF8(text, "?"); len(text) < 500 {
			for topic, payload := range map[string]any{
				"melb/bank_server/metrics/network/web-1": &wire.Network{SYNMethod: valid},
				"melb/bank_server/alerts/m1":             &wire.Alert{Alert: valid, State: valid, Server: valid, Metric: valid, Incident: wire.NewID()},
				"melb/bank_server/control/command/m/m1":  &wire.Command{ID: wire.NewID(), Command: valid, Controller: valid, Server: valid},
				"melb/bank_server/status/scaling/lb-1":   &wire.Status{ID: wire.NewID(), Status: valid, Command: valid, Server: valid, State: valid, Reason: valid},
				ramTopic:                                 map[string]string{"a": valid},
			} {
				deliveries = append(deliveries, delivery(t, topic, 1, session.ProofNone, payload))
			}
		}
		for _, d := range deliveries {
			lines, objects := shown(t, d)
			if len(lines) != 1 || len(objects) != 1 {
				t.Errorf("%q on %s: %d lines, %d objects", text, d.Name, len(lines), len(objects))
			}
			checkInert(t, lines[0])
			if len(lines[0]) > 1500 {
				t.Errorf("%q on %s: a line of %d bytes", text, d.Name, len(lines[0]))
			}
			// No verdict stands in a line but its own, spaced as ours are.
			if n := strings.Count(lines[0], "  verified") + strings.Count(lines[0], "  confirmed"); n != 0 {
				t.Errorf("%q on %s: shown as %q", text, d.Name, lines[0])
			}
		}
	}
}

func checkInert(t *testing.T, line string) {
	t.Helper()
	for _, r := range line {
		if (r < ' ' || r > '~') && r != utf8.RuneError {
			t.Errorf("%q holds %U", line, r)
		}
	}
}

// JSON is one object a line, in printable ASCII, and loses nothing.
func TestJSONIsInertAndWhole(t *testing.T) {
	for _, text := range hostile {
		if !utf8.ValidString(text) {
			continue // JSON has no other text
		}
		var b bytes.Buffer
		v := watch.New(&b, true)
		v.Deliver(public(t, "public/lobby", text))
		if len(text) < 500 {
			v.Deliver(delivery(t, ramTopic, 1, session.ProofNone, map[string]string{"a": text}))
		}
		for i, c := range b.Bytes() {
			if (c < ' ' || c > '~') && c != '\n' {
				t.Fatalf("%q: byte %d is %#x", text, i, c)
			}
		}
		lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		var l feed.Line
		if err := json.Unmarshal([]byte(lines[0]), &l); err != nil || l.Text != text || l.Verification != feed.Unverified {
			t.Errorf("%q came back as %q, %v", text, l.Text, err)
		}
		if len(lines) > 1 {
			var payload map[string]string
			if err := errors.Join(json.Unmarshal([]byte(lines[1]), &l), json.Unmarshal(l.Payload, &payload)); err != nil || payload["a"] != text {
				t.Errorf("%q came back as %q, %v", text, payload["a"], err)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		var b bytes.Buffer
		v := watch.New(&b, asJSON)
		v.Refuse(session.Refusal{Name: ramTopic, Raw: []byte("secret"), Reason: envelope.Redelivered, Received: received})
		if b.Len() != 0 {
			t.Errorf("a redelivery is shown: %s", &b)
		}
		v.Refuse(session.Refusal{Name: "a\x1b[2J\n/verified", Raw: []byte("secret"), Reason: envelope.BadMAC, Received: received})
		if got := b.String(); strings.Contains(got, "secret") || strings.Count(got, "\n") != 1 || strings.Contains(got, "\x1b") || !strings.Contains(got, "refused") || !strings.Contains(got, "mac") {
			t.Errorf("%q", got)
		}
	}
	text := new(bytes.Buffer)
	watch.New(text, false).Refuse(session.Refusal{Name: ramTopic, Reason: envelope.Cloned, Received: received})
	if want := "12:30:45.678  refused       " + ramTopic + ": cloned\n"; text.String() != want {
		t.Errorf("%q", text)
	}
}

// A reader that went away is noticed once, and nothing more is written to it.
func TestWriteErrors(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		w := new(broken)
		v := watch.New(w, asJSON)
		v.Deliver(reading(t, 1))
		v.Deliver(reading(t, 2))
		v.Refuse(session.Refusal{Reason: envelope.BadMAC})
		if !errors.Is(v.Err(), errBroken) || w.writes != 1 {
			t.Errorf("%v after %d writes", v.Err(), w.writes)
		}
	}
}

var errBroken = errors.New("broken pipe")

type broken struct{ writes int }

func (b *broken) Write([]byte) (int, error) {
	b.writes++
	return 0, errBroken
}
