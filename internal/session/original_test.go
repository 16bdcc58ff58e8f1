package session

import (
	"errors"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/wire"
	"levee/pki"
)

// openRecorder opens the session of melb's recorder, which acknowledges.
func openRecorder(t *testing.T) *Session {
	return openSession(t, identity("melb", pki.RoleRecorder, "rec-1"), func(c *Config) { c.Acks = ringOf(t, c.Bundle.KeyFile) })
}

// carried is the delivery of a backfill of a sender, received now.
func carried(s *sender) Delivery {
	return Delivery{Topic: wire.Topic{Kind: wire.KindBackfill, Site: s.kid.Site, Role: s.kid.Role, Name: s.kid.Name},
		Message: envelope.Message{Nonce: envelope.Nonce{Boot: s.boot, Seq: 1}}, Received: time.Now(), Via: "b1"}
}

// Everything is checked of an original but its age and the windows.
func TestOriginals(t *testing.T) {
	s := openRecorder(t)
	now := time.Now()
	yesterday := now.Add(-time.Minute)
	web, m1 := newSender(t, identity("melb", pki.RoleSensor, "web-1")), newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	other := newSender(t, identity("melb", pki.RoleSensor, "web-2"))
	for _, x := range []*sender{web, m1, other} {
		x.boot = uint64(yesterday.UnixMilli())
	}
	const alerts = "melb/bank_server/alerts/m1"
	text := map[string]string{"text": "x"}
	large := map[string]string{"text": strings.Repeat("x", 5000)}
	byWeb, byM1 := carried(web), carried(m1)
	later := byWeb // of a sender that has begun anew
	later.Message.Nonce.Boot = uint64(now.Add(time.Hour).UnixMilli())
	for _, test := range []struct {
		name string
		raw  []byte
		by   Delivery
		want envelope.Reason
	}{
		{"a reading", web.message(ramTopic, &ram, yesterday), byWeb, envelope.Accepted},
		{"signed without need", web.message(ramTopic, &ram, yesterday, web.signed), byWeb, envelope.Accepted},
		{"an alert", m1.message(alerts, text, yesterday, m1.signed), byM1, envelope.Accepted},

		{"no envelope", []byte("hello"), byWeb, envelope.BadSize},
		{"a changed byte", web.reseal(web.message(ramTopic, &ram, yesterday), `"ram_usage":`, `"ram_usage":1`)[1:], byWeb, envelope.BadKeyID},
		{"a wrong MAC", []byte(string(web.message(ramTopic, &ram, yesterday)[:150]) + string(web.message(ramTopic, &ram, yesterday)[150:])), byWeb, envelope.BadMAC},
		{"another's, by it", other.message(ramTopic2, &ram, yesterday), byWeb, envelope.BadSender},
		{"another's, on its topic", other.message(ramTopic, &ram, yesterday), byWeb, envelope.BadSender},
		{"a command of a sensor", web.message("melb/bank_server/control/command/sensor/web-1", text, yesterday, web.signed), byWeb, envelope.BadSender},
		{"on another's topic", web.message(ramTopic2, &ram, yesterday), byWeb, envelope.BadSender},
		{"where policy does not let it", web.message(alerts, text, yesterday, web.signed), byWeb, envelope.BadSender},
		{"a backfill", web.message("melb/bank_server/backfill/sensor/web-1", text, yesterday), byWeb, envelope.BadTopic},
		{"an acknowledgement", web.message("melb/bank_server/acks/web-1/sensor/web-1", text, yesterday), byWeb, envelope.BadTopic},
		{"public", web.message("public", text, yesterday), byWeb, envelope.BadTopic},
		{"of another site", web.message("perth/bank_server/metrics/ram/web-1", &ram, yesterday), byWeb, envelope.BadTopic},
		{"over its class's size", web.message(ramTopic, large, yesterday), byWeb, envelope.BadSize},
		{"an alert without a signature", m1.message(alerts, text, yesterday), byM1, envelope.Unsigned},
		{"a signature of another", m1.message(alerts, text, yesterday, signedBy(other.signer)), byM1, envelope.BadSender},
		{"a key that is not pinned", m1.message(alerts, text, now, signedBy(mint(t, identity("melb", pki.RoleMonitor, "m1")))), byM1, envelope.BadPin},
		{"from the future", web.message(ramTopic, &ram, now.Add(time.Hour)), byWeb, envelope.Future},
		{"of a later start than itself", web.message(ramTopic, &ram, yesterday, booted(uint64(now.UnixMilli()))), later, envelope.Future},
		{"of a later start than the backfill's", web.message(ramTopic, &ram, now, booted(web.boot+1)), byWeb, envelope.Future},
	} {
		// Again: no window knows it.
		for range 2 {
			d, err := s.OpenOriginal(test.raw, test.by)
			if got := envelope.ReasonOf(err); got != test.want || (err == nil) != (test.want == envelope.Accepted) {
				t.Errorf("%s: %s instead of %s", test.name, got, test.want)
			}
			if err != nil {
				continue
			}
			proof := ProofMAC
			if d.Message.Signed() {
				proof = ProofSignature
			}
			if d.Proof != proof || d.Via != "b1" || d.Received != test.by.Received || string(d.Message.Raw) != string(test.raw) || d.Topic.Sender() != test.by.Topic.Sender() {
				t.Errorf("%s: %+v", test.name, d)
			}
		}
	}
	if s.Windows().Senders != 0 {
		t.Error("originals are in the windows")
	}
}

const ramTopic2 = "melb/bank_server/metrics/ram/web-2"

// What was revoked after a message was signed does not undo it for the record; a
// serial number counts as revoked from its beginning.
func TestRevokedOriginals(t *testing.T) {
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	past, now := time.Now().Add(-time.Minute), time.Now()
	web.boot = uint64(past.UnixMilli())
	leaf := openBundle(t, identity("melb", pki.RoleSensor, "web-1")).Credentials.Current().Leaf()
	before, after := web.message(ramTopic, &ram, past, web.signed), web.message(ramTopic, &ram, now, web.signed)
	unsigned := web.message(ramTopic, &ram, past)
	between := past.Add(30 * time.Second).UnixMilli()
	for name, test := range map[string]struct {
		revoked       wire.Revoked
		before, after envelope.Reason
		unsigned      envelope.Reason
	}{
		"by identity":   {wire.Revoked{Sender: "melb/sensor/web-1", Before: between}, envelope.Accepted, envelope.Revoked, envelope.Accepted},
		"by serial":     {serial(leaf), envelope.Revoked, envelope.Revoked, envelope.Accepted},
		"by generation": {wire.Revoked{Sender: "melb/sensor/web-1", Before: between, Generation: 2}, envelope.UnknownKey, envelope.UnknownKey, envelope.UnknownKey},
	} {
		s := openRecorder(t)
		if changed, err := s.Revocations().Apply(newIssuer(t).list(test.revoked), now); err != nil || !changed {
			t.Fatal(err)
		}
		for _, m := range []struct {
			raw  []byte
			want envelope.Reason
		}{{before, test.before}, {after, test.after}, {unsigned, test.unsigned}} {
			if _, err := s.OpenOriginal(m.raw, carried(web)); envelope.ReasonOf(err) != m.want {
				t.Errorf("%s: %s instead of %s", name, envelope.ReasonOf(err), m.want)
			}
		}
	}
}

// An acknowledgement reaches its peer, and is under its key alone.
func TestAcknowledge(t *testing.T) {
	s := openRecorder(t)
	peer := envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1}
	want := wire.Ack{Timestamp: 1, Boot: envelope.FormatBoot(7), Seq: 5, Backfill: 2}
	if err := s.Acknowledge(peer, want); err != nil {
		t.Fatal(err)
	}
	c := s.outbox.join()
	out, ok := s.outbox.next(c, time.Now())
	if !ok || out.name != "melb/bank_server/acks/rec-1/sensor/web-1" {
		t.Fatalf("%v %q", ok, out.name)
	}
	for name, good := range map[string]bool{"web-1": true, "web-2": false} {
		ring := ringOf(t, openBundle(t, identity("melb", pki.RoleSensor, name)).KeyFile)
		m, err := ring.OpenAck(out.raw, envelope.MaxMessage)
		if (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := wire.ParseAck(m.Payload); good && (err != nil || got != want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// Nobody else has a use for its own key.
	ring := ringOf(t, openBundle(t, identity("melb", pki.RoleRecorder, "rec-1")).KeyFile)
	if _, err := ring.Open(out.raw, envelope.MaxMessage); !errors.Is(err, envelope.BadMAC) {
		t.Errorf("under the recorder's own key: %v", err)
	}

	for name, try := range map[string]func() error{
		"of another site": func() error {
			return s.Acknowledge(envelope.KeyID{Site: "perth", Role: "sensor", Name: "web-1", Generation: 1}, want)
		},
		"of a role without keys": func() error {
			return s.Acknowledge(envelope.KeyID{Site: "melb", Role: "console", Name: "c1", Generation: 1}, want)
		},
		"no sender": func() error {
			return s.Acknowledge(envelope.KeyID{Site: "melb", Role: "sensor", Name: "", Generation: 1}, want)
		},
		"no generation": func() error { return s.Acknowledge(envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1"}, want) },
		"by a sensor": func() error {
			return openSession(t, identity("melb", pki.RoleSensor, "web-1"), nil).Acknowledge(peer, want)
		},
		"by a monitor with the keys": func() error {
			return openSession(t, identity("melb", pki.RoleMonitor, "m1"), func(c *Config) { c.Acks = ringOf(t, c.Bundle.KeyFile) }).Acknowledge(peer, want)
		},
	} {
		if try() == nil {
			t.Errorf("acknowledged: %s", name)
		}
	}
}
