package feed_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/feed"
	"levee/internal/session"
	"levee/internal/wire"
)

const (
	boot     = 0x1929c0a7f3e
	ramTopic = "melb/bank_server/metrics/ram/web-1"
)

var received = time.Date(2026, 3, 4, 12, 30, 45, 678e6, time.UTC)

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
	return session.Delivery{Topic: parsed, Name: topic, Payload: b, Proof: proof, Received: received,
		Message: envelope.Message{Raw: fmt.Appendf(nil, "%s %d %s", topic, seq, b), Time: received.UnixMilli(), Nonce: envelope.Nonce{Boot: boot, Seq: seq}, Payload: b}}
}

func reading(t testing.TB, seq uint64) session.Delivery {
	t.Helper()
	return delivery(t, ramTopic, seq, session.ProofNone, &wire.RAM{Server: "web-1", RAMUsage: float64(seq)})
}

// digest signs for the deliveries, from seq first on.
func digest(t testing.TB, seq, first uint64, covered ...session.Delivery) session.Delivery {
	t.Helper()
	h := sha256.New()
	for _, d := range covered {
		sum := sha256.Sum256(d.Message.Raw)
		h.Write(sum[:])
	}
	return delivery(t, "melb/bank_server/digests/sensor/web-1", seq, session.ProofSignature, &wire.Digest{Boot: envelope.FormatBoot(boot),
		First: first, Last: first + uint64(len(covered)) - 1, Dropped: []wire.Drop{}, Hash: base64.RawURLEncoding.EncodeToString(h.Sum(nil))})
}

// "verified" is what a signature proves, and nothing else.
func TestVerification(t *testing.T) {
	for proof, want := range map[session.Proof]string{session.ProofNone: feed.Unconfirmed, session.ProofMAC: feed.Unconfirmed, session.ProofSignature: feed.Verified} {
		d := delivery(t, ramTopic, 1, proof, &wire.RAM{Server: "web-1"})
		lines := feed.New().Deliver(d)
		if len(lines) != 1 || lines[0].Verification != want || lines[0].Sender != "melb/sensor/web-1" || lines[0].Kind != "metrics/ram" {
			t.Errorf("proof %d: %+v", proof, lines)
		}
	}
	topic, err := wire.ParseTopic("public/lobby")
	if err != nil {
		t.Fatal(err)
	}
	// A public message is nobody's, whatever else stands in its delivery.
	lines := feed.New().Deliver(session.Delivery{Topic: topic, Name: "public/lobby", Payload: []byte("hello"), Proof: session.ProofSignature, Received: received})
	if want := (feed.Line{Received: received.UnixMilli(), Verification: feed.Unverified, Kind: "public", Topic: "public/lobby", Text: "hello"}); len(lines) != 1 || !same(t, lines[0], want) {
		t.Errorf("a public message: %+v", lines)
	}
}

func same(t testing.TB, a, b feed.Line) bool {
	t.Helper()
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	if errX != nil || errY != nil {
		t.Fatal(errX, errY)
	}
	return string(x) == string(y)
}

func TestMembers(t *testing.T) {
	d := reading(t, 7)
	want := feed.Line{Received: received.UnixMilli(), Verification: "unconfirmed", Kind: "metrics/ram", Topic: ramTopic, Sender: "melb/sensor/web-1",
		Time: received.UnixMilli(), Boot: envelope.FormatBoot(boot), Seq: 7, Payload: d.Payload}
	if got := feed.New().Deliver(d); len(got) != 1 || !same(t, got[0], want) {
		t.Errorf("%+v", got)
	}
}

// A signed digest is followed by what it settles, and by nothing if unsigned.
func TestConfirmation(t *testing.T) {
	one, two := reading(t, 1), reading(t, 2)
	forged := two
	forged.Message.Raw = []byte("another")
	unsigned := digest(t, 3, 1, one, two)
	unsigned.Proof = session.ProofMAC
	early := digest(t, 2, 1, one, two) // speaks for itself, which no sender does
	more := delivery(t, early.Name, 3, session.ProofSignature, map[string]any{"timestamp": 0, "boot": envelope.FormatBoot(boot), "first": 1, "last": 2, "dropped": []int{}, "hash": "", "more": 1})
	for _, test := range []struct {
		name string
		in   []session.Delivery
		want string // the confirmation's outcome
	}{
		{"all seen", []session.Delivery{one, two, digest(t, 3, 1, one, two)}, "confirmed"},
		{"one not seen", []session.Delivery{two, digest(t, 3, 1, one, two)}, "incomplete"},
		{"another seen", []session.Delivery{one, forged, digest(t, 3, 1, one, two)}, "contradicted"},
		{"a digest over itself", []session.Delivery{one, early}, "malformed"},
		{"a member too many", []session.Delivery{one, two, more}, "malformed"},
		{"unsigned", []session.Delivery{one, two, unsigned}, ""},
	} {
		f := feed.New()
		var last []feed.Line
		for _, d := range test.in {
			last = f.Deliver(d)
		}
		if test.want == "" {
			if len(last) != 1 || last[0].Verification != feed.Unconfirmed {
				t.Errorf("%s: %+v", test.name, last)
			}
			continue
		}
		if len(last) != 2 || last[0].Verification != feed.Verified || last[1].Kind != feed.KindConfirmation || last[1].Verification != test.want || last[1].Sender != "melb/sensor/web-1" {
			t.Errorf("%s: %+v", test.name, last)
		}
	}
	f := feed.New()
	first := digest(t, 3, 1, one, two)
	for _, d := range []session.Delivery{one, two, first} {
		f.Deliver(d)
	}
	if last := f.Deliver(digest(t, 4, 3, first)); last[1].Verification != "confirmed" {
		t.Errorf("the next digest does not cover this one: %+v", last)
	}
}

// Two different messages under one number: a line says so at once, and the digest
// that covers the number confirms nothing.
func TestContradiction(t *testing.T) {
	one, invented := reading(t, 1), reading(t, 2)
	withheld := digest(t, 2, 1, one) // under the number that was made up
	restarted := reading(t, 1)
	restarted.Message.Nonce.Boot++
	for _, in := range [][]session.Delivery{{one, invented, withheld}, {one, withheld, invented}, {one, invented, restarted, withheld}} {
		f := feed.New()
		var last []feed.Line
		for _, d := range in {
			last = f.Deliver(d)
		}
		want := feed.Line{Received: received.UnixMilli(), Verification: "contradicted", Kind: "contradiction", Sender: "melb/sensor/web-1",
			Boot: envelope.FormatBoot(boot), First: 2, Last: 2, Seen: 2}
		if got := last[len(last)-1]; !same(t, got, want) {
			t.Errorf("%+v", last)
		}
		if last := f.Deliver(digest(t, 3, 2, withheld)); last[1].Verification != "contradicted" {
			t.Errorf("the next digest: %+v", last)
		}
	}
	// Backfill has numbers of its own.
	f := feed.New()
	f.Deliver(one)
	f.Deliver(delivery(t, "melb/bank_server/backfill/sensor/web-1", 2, session.ProofMAC, map[string]any{"envelopes": []string{}}))
	f.Deliver(reading(t, 2))
	if last := f.Deliver(digest(t, 3, 1, one, reading(t, 2))); last[1].Verification != "confirmed" {
		t.Errorf("after backfill: %+v", last)
	}
}

func TestRefusals(t *testing.T) {
	f := feed.New()
	if l, ok := f.Refuse(session.Refusal{Name: ramTopic, Reason: envelope.Redelivered, Received: received}); ok {
		t.Errorf("a redelivery has a line: %+v", l)
	}
	l, ok := f.Refuse(session.Refusal{Name: ramTopic, Raw: []byte("secret"), Reason: envelope.BadMAC, Received: received})
	if want := (feed.Line{Received: received.UnixMilli(), Verification: feed.Refused, Kind: feed.KindRefusal, Topic: ramTopic, Reason: "mac"}); !ok || !same(t, l, want) {
		t.Errorf("%+v", l)
	}
}
