package recorder

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"levee/envelope"
	"levee/internal/session"
	"levee/internal/translog"
	"levee/internal/wire"
	"levee/services/recorder/segment"
)

// BenchmarkKeep keeps messages of 1,000 senders as fast as it can: the MAC, the
// grammar, the ledger, segments on this disk, and the log for one in 37, which is
// a sensor's share of digests. TLS, the broker and the windows are not in it, nor
// the signatures' verification. It fails if anything is not kept.
func BenchmarkKeep(b *testing.B) {
	const senders = 1000
	k := keeper{b.TempDir()}
	if err := prepare(k); err != nil {
		b.Fatal(err)
	}
	w, err := segment.OpenWriter(segment.Config{Dir: k.path("segments"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	transparency, err := translog.Open(b.Context(), k.log())
	if err != nil {
		b.Fatal(err)
	}
	defer transparency.Close(context.Background())
	r, err := New(Config{Site: "melb", Transparency: transparency, Segments: w, Session: teller{k.path("acked"), make(chan uint64, 1<<20)},
		Note: k.path("held"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()

	secret := sha256.Sum256(nil)
	key, err := envelope.NewKey(secret[:])
	if err != nil {
		b.Fatal(err)
	}
	payload := []byte(`{"timestamp":1729697327.822,"server":"web-1","interval_seconds":5,"active_tcp_connections":1234,"syn_packet_count":567,"syn_method":"nftables"}`)
	b.ResetTimer()
	began := time.Now()
	for i := range b.N {
		name := fmt.Sprint("web-", i%senders)
		topic := wire.Topic{Kind: wire.KindNetwork, Site: "melb", Role: "sensor", Name: name}
		raw, err := envelope.Append(nil, envelope.Header{KeyID: envelope.KeyID{Site: "melb", Role: "sensor", Name: name, Generation: 1}, Time: 1_700_000_000_000,
			Nonce: envelope.Nonce{Boot: 1_600_000_000_000, Seq: uint64(i/senders) + 1}, Topic: topic.String()}, payload, key, nil)
		if err != nil {
			b.Fatal(err)
		}
		m, err := envelope.Open(raw, envelope.MaxMessage, func([]byte) *envelope.Key { return key })
		if err != nil {
			b.Fatal(err)
		}
		d := session.Delivery{Topic: topic, Message: m, Payload: m.Payload, Proof: session.ProofMAC, Received: time.Now(), Via: "b1"}
		if i%37 == 36 {
			d.Proof = session.ProofSignature
		}
		for len(r.queue.messages) > maxQueue/2 {
			time.Sleep(time.Millisecond)
		}
		r.Deliver(d)
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	if kept, lost := r.Counts(); kept != uint64(b.N) || lost != 0 {
		b.Fatalf("%d of %d are kept, %d were lost", kept, b.N, lost)
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "messages/s")
}
