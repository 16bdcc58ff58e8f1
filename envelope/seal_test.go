package envelope_test

import (
	"bytes"
	"strings"
	"testing"

	"levee/envelope"
)

// What cannot be opened is not sealed, and nothing of it is left behind.
func TestSealingRefuses(t *testing.T) {
	key := newKey(t, 0x2a)
	for name, change := range map[string]func(*envelope.Header){
		"no site":             func(h *envelope.Header) { h.KeyID.Site = "" },
		"a site that is none": func(h *envelope.Header) { h.KeyID.Site = "public" },
		"a role in capitals":  func(h *envelope.Header) { h.KeyID.Role = "Sensor" },
		"a name with a slash": func(h *envelope.Header) { h.KeyID.Name = "web/1" },
		"generation 0":        func(h *envelope.Header) { h.KeyID.Generation = 0 },
		"ts 0":                func(h *envelope.Header) { h.Time = 0 },
		"ts below 0":          func(h *envelope.Header) { h.Time = -1 },
		"ts 2^53":             func(h *envelope.Header) { h.Time = 1 << 53 },
		"boot 0":              func(h *envelope.Header) { h.Nonce.Boot = 0 },
		"boot 2^44":           func(h *envelope.Header) { h.Nonce.Boot = 1 << 44 },
		"seq 0":               func(h *envelope.Header) { h.Nonce.Seq = 0 },
		"no topic":            func(h *envelope.Header) { h.Topic = "" },
		"a quote in a topic":  func(h *envelope.Header) { h.Topic = `melb/"` },
		"a topic too long":    func(h *envelope.Header) { h.Topic = strings.Repeat("a", 33) },
	} {
		h := exampleHeader
		change(&h)
		got, err := envelope.Append([]byte("before"), h, examplePayload, key, nil)
		if err == nil || !bytes.Equal(got, []byte("before")) {
			t.Errorf("%s: sealed: %s", name, got)
		}
	}
	for _, payload := range []string{``, `[]`, `{"a":null}`, `{"a":1} `, `{"a":1,"a":2}`, `{"A":1}`} {
		if got, err := envelope.Append(nil, exampleHeader, []byte(payload), key, nil); err == nil || len(got) != 0 {
			t.Errorf("%s: sealed", payload)
		}
	}
}
