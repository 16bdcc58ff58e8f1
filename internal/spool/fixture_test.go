package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"levee/envelope"
	"levee/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	sender   = "melb/sensor/web-1"
	ramTopic = "melb/bank_server/metrics/ram/web-1"
	digests  = "melb/bank_server/digests/sensor/web-1"
	testBoot = 1_700_000_000_000
	noLimit  = 1 << 30
)

// sealed returns a message of a boot with some bytes of payload.
func sealed(t testing.TB, boot, seq uint64, at int64, pad int) []byte {
	t.Helper()
	return seal(t, sender+"/1", ramTopic, boot, seq, at, fmt.Appendf(nil, `{"a":"%s"}`, strings.Repeat("x", pad)))
}

func seal(t testing.TB, kid, topic string, boot, seq uint64, at int64, payload []byte) []byte {
	t.Helper()
	key, err := envelope.NewKey(make([]byte, envelope.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	id, err := envelope.ParseKeyID([]byte(kid))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := envelope.Append(nil, envelope.Header{KeyID: id, Time: at, Nonce: envelope.Nonce{Boot: boot, Seq: seq}, Topic: topic}, payload, key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// digestOver returns a digest as seq, over [first, last], that declares drops.
func digestOver(t testing.TB, boot, seq, first, last uint64, drops ...wire.Drop) ([]byte, *wire.Digest) {
	t.Helper()
	d := &wire.Digest{Boot: envelope.FormatBoot(boot), First: first, Last: last, Dropped: append([]wire.Drop{}, drops...),
		Hash: base64.RawURLEncoding.EncodeToString(make([]byte, sha256.Size))}
	payload, err := wire.Encode(d)
	if err != nil {
		t.Fatal(err)
	}
	return seal(t, sender+"/1", digests, boot, seq, testBoot, payload), d
}

func drop(boot, first, last uint64) wire.Drop {
	return wire.Drop{Boot: envelope.FormatBoot(boot), First: first, Last: last}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// logBuffer is a log that tests read.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) count(part string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), part)
}

func open(t testing.TB, dir string, boot uint64, change ...func(*Config)) *Spool {
	t.Helper()
	c := Config{Dir: dir, Sender: sender, Boot: boot, Max: MinMax, Log: quiet()}
	for _, f := range change {
		f(&c)
	}
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func logsTo(b *logBuffer) func(*Config) {
	return func(c *Config) { c.Log = slog.New(slog.NewTextHandler(b, nil)) }
}

// stored has the spool do what Run would.
func (s *Spool) stored() { s.write(false) }

// add adds the messages of this boot from first to last; the first begins a range.
func (s *Spool) add(t testing.TB, first, last uint64, pad int) {
	t.Helper()
	for seq := first; seq <= last; seq++ {
		at := testBoot + int64(seq)
		s.Add(Message{Seq: seq, Time: at, Raw: sealed(t, s.config.Boot, seq, at, pad), Begins: seq == first})
	}
}

func plain(n int) int { return n }

// rest returns everything that is held, as it comes, and releases it.
func (s *Spool) rest(t testing.TB) (all []envelope.Nonce) {
	t.Helper()
	for {
		b, err := s.Oldest(64<<10, 100, 1<<60, plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Envelopes) == 0 {
			return all
		}
		for _, raw := range b.Envelopes {
			m, err := envelope.Parse(raw, envelope.MaxMessage)
			if err != nil {
				t.Fatal(err)
			}
			if m.Nonce.Boot != b.Last.Boot || string(m.Topic) == ramTopic && !bytes.Equal(raw, sealed(t, m.Nonce.Boot, m.Nonce.Seq, m.Time, len(m.Payload)-len(`{"a":""}`))) {
				t.Fatalf("another message: %s", raw)
			}
			all = append(all, m.Nonce)
		}
		if all[len(all)-1] != b.Last {
			t.Fatalf("it ends with %v, and says %v", all[len(all)-1], b.Last)
		}
		if n := s.ReleaseTo(b.Last); n != len(b.Envelopes) {
			t.Fatalf("%d released of %d", n, len(b.Envelopes))
		}
	}
}

// wants fails unless all are the messages of boot from first to last.
func wants(t testing.TB, what string, all []envelope.Nonce, boot, first, last uint64) {
	t.Helper()
	for i, n := range all {
		if n != (envelope.Nonce{Boot: boot, Seq: first + uint64(i)}) {
			t.Fatalf("%s: message %d is %v", what, i, n)
		}
	}
	if uint64(len(all)) != last+1-first {
		t.Fatalf("%s: %d messages from %d", what, len(all), first)
	}
}

func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func fresh(t testing.TB) string { return filepath.Join(t.TempDir(), "outbox") }
