package envelope_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"levee/envelope"
	"levee/envelope/replay"
)

// work is one way to make or check a message.
type work struct {
	name string
	run  func() error
}

// works returns everything that docs/envelope.md, section 12, sets beside the
// bare HMAC, all of it on one message of 300 bytes.
func works(b *testing.B) []work {
	b.Helper()
	secret := make([]byte, envelope.KeySize)
	for i := range secret {
		secret[i] = 0x2a
	}
	key := newKey(b, 0x2a)
	payload := []byte(`{"timestamp":1729697327.8,"server":"web-1","interval_seconds":5,"active_tcp_connections":84,"syn_packet_count":2}`)
	raw := seal(b, exampleHeader, payload, key, nil)
	if len(raw) != 300 {
		b.Fatalf("%d bytes", len(raw))
	}
	covered := raw[:len(raw)-53]
	prefix := []byte("levee/envelope/v1\x00")
	h := hmac.New(sha256.New, secret)
	sum := make([]byte, 0, sha256.Size)
	keyOf := find(key)
	buffer := make([]byte, 0, 512)

	windows := replay.New(1)
	now, seq := exampleHeader.Time, uint64(0)

	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, exampleClaims(payload)).SignedString(secret)
	if err != nil {
		b.Fatal(err)
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithStrictDecoding())

	return []work{
		{"HMAC", func() error {
			h.Reset()
			h.Write(prefix)
			h.Write(covered)
			sum = h.Sum(sum[:0])
			return nil
		}},
		{"Open", func() error {
			_, err := envelope.Open(raw, envelope.MaxMessage, keyOf)
			return err
		}},
		{"Append", func() error {
			_, err := envelope.Append(buffer, exampleHeader, payload, key, nil)
			return err
		}},
		{"Open-and-window", func() error {
			m, err := envelope.Open(raw, envelope.MaxMessage, keyOf)
			if err != nil {
				return err
			}
			if age := now - m.Time; age > 30000 || age < -30000 {
				return errors.New("stale")
			}
			seq++ // the same message as if it were the next one
			v := windows.Check(replay.Message{Sender: m.Sender(), Boot: m.Nonce.Boot, Seq: seq, Time: m.Time, Tag: m.Tag()})
			if v != replay.Fresh {
				return errors.New(v.String())
			}
			return nil
		}},
		{"json-read", func() error {
			var m exampleJSON
			if err := json.Unmarshal(raw, &m); err != nil {
				return err
			}
			h.Reset()
			h.Write(covered)
			sum = h.Sum(sum[:0])
			if base64.RawURLEncoding.EncodeToString(sum) == m.MAC {
				return errors.New("that MAC is without the prefix")
			}
			return nil
		}},
		{"json-write", func() error {
			m := exampleJSON{V: 1, KID: exampleHeader.KeyID.String(), TS: now, Nonce: "192b9fdc06e-42", Topic: exampleHeader.Topic, Payload: payload}
			body, err := json.Marshal(&m)
			if err != nil {
				return err
			}
			h.Reset()
			h.Write(body)
			m.MAC = base64.RawURLEncoding.EncodeToString(h.Sum(sum[:0]))
			_, err = json.Marshal(&m)
			return err
		}},
		{"JWS-read", func() error {
			_, err := parser.ParseWithClaims(token, &claims{}, func(*jwt.Token) (any, error) { return secret, nil })
			return err
		}},
		{"JWS-write", func() error {
			_, err := jwt.NewWithClaims(jwt.SigningMethodHS256, exampleClaims(payload)).SignedString(secret)
			return err
		}},
	}
}

// exampleJSON is the same message as encoding/json sees it.
type exampleJSON struct {
	V       int             `json:"v"`
	KID     string          `json:"kid"`
	TS      int64           `json:"ts"`
	Nonce   string          `json:"nonce"`
	Topic   string          `json:"topic"`
	Payload json.RawMessage `json:"payload"`
	MAC     string          `json:"mac,omitempty"`
}

// claims is the same message as the claims of a JWS.
type claims struct {
	KID     string          `json:"kid"`
	TS      int64           `json:"ts"`
	Nonce   string          `json:"nonce"`
	Topic   string          `json:"topic"`
	Payload json.RawMessage `json:"payload"`
	jwt.RegisteredClaims
}

func exampleClaims(payload []byte) *claims {
	return &claims{KID: exampleHeader.KeyID.String(), TS: exampleHeader.Time, Nonce: "192b9fdc06e-42", Topic: exampleHeader.Topic, Payload: payload}
}

// BenchmarkMessage times each way by itself, for a profile.
func BenchmarkMessage(b *testing.B) {
	for _, w := range works(b) {
		b.Run(w.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := w.run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRatio compares what a message costs with the bare HMAC over the same
// bytes: batches of each in turn, so that whatever else the machine does meets
// all of them alike, and of each the quickest tenth.
func BenchmarkRatio(b *testing.B) {
	const batch, warm = 200, 20 // the first of a batch find the caches full of another's
	all := works(b)
	took := make([][]time.Duration, len(all))
	for b.Loop() {
		for i, w := range all {
			var start time.Time
			for n := range warm + batch {
				if n == warm {
					start = time.Now()
				}
				if err := w.run(); err != nil {
					b.Fatal(err)
				}
			}
			took[i] = append(took[i], time.Since(start))
		}
	}
	var hmac float64
	for i, w := range all {
		slices.Sort(took[i])
		quick := float64(took[i][len(took[i])/10].Nanoseconds()) / batch
		if i == 0 {
			hmac = quick
		}
		b.ReportMetric(quick, w.name+"-ns")
		b.ReportMetric(quick/hmac, w.name+"/HMAC")
	}
	b.ReportMetric(0, "ns/op")
}
