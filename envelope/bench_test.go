package envelope_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	"levee/envelope"
)

// bench is a message of 300 bytes and what it is made of.
func bench(b *testing.B) (key *envelope.Key, payload, raw []byte) {
	b.Helper()
	key = newKey(b, 0x2a)
	payload = []byte(`{"timestamp":1729697327.822,"server":"web-1","ram_usage":41.5,"note":""}`)
	raw = seal(b, exampleHeader, payload, key, nil)
	payload = bytes.Replace(payload, []byte(`""`), []byte(`"`+strings.Repeat("x", 300-len(raw))+`"`), 1)
	if raw = seal(b, exampleHeader, payload, key, nil); len(raw) != 300 {
		b.Fatalf("%d bytes", len(raw))
	}
	return key, payload, raw
}

// BenchmarkMessage sets opening and sealing one message of 300 bytes beside the
// bare HMAC over the same bytes, and beside the same work with encoding/json.
func BenchmarkMessage(b *testing.B) {
	key, payload, raw := bench(b)
	b.Run("HMAC", func(b *testing.B) {
		h := hmac.New(sha256.New, bytes.Repeat([]byte{0x2a}, 32))
		sum := make([]byte, 0, sha256.Size)
		prefix := []byte("levee/envelope/v1\x00")
		signed := raw[:len(raw)-53]
		b.ReportAllocs()
		for b.Loop() {
			h.Reset()
			h.Write(prefix)
			h.Write(signed)
			sum = h.Sum(sum[:0])
		}
	})
	b.Run("Open", func(b *testing.B) {
		keyOf := find(key)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := envelope.Open(raw, envelope.MaxMessage, keyOf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Append", func(b *testing.B) {
		buffer := make([]byte, 0, 512)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := envelope.Append(buffer, exampleHeader, payload, key, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json and HMAC, read", func(b *testing.B) {
		h := hmac.New(sha256.New, bytes.Repeat([]byte{0x2a}, 32))
		b.ReportAllocs()
		for b.Loop() {
			var m struct {
				V       int             `json:"v"`
				KID     string          `json:"kid"`
				TS      int64           `json:"ts"`
				Nonce   string          `json:"nonce"`
				Topic   string          `json:"topic"`
				Payload json.RawMessage `json:"payload"`
				MAC     string          `json:"mac"`
			}
			if err := json.Unmarshal(raw, &m); err != nil {
				b.Fatal(err)
			}
			h.Reset()
			h.Write(raw[:len(raw)-53])
			h.Sum(nil)
		}
	})
}
