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

// What stands in the buffer before a message is no part of it, nor of what its
// MAC and its signature cover.
func TestSealingBehindOtherBytes(t *testing.T) {
	a := newAuthority(t)
	key, signer := newKey(t, 0x2a), a.signer(t, "sensor", "web-1", ed25519Key(t))
	statement := exampleHeader
	statement.Nonce = envelope.StatementNonce(statement.Time)
	for name, appends := range map[string]func([]byte) ([]byte, error){
		"unsigned": func(dst []byte) ([]byte, error) { return envelope.Append(dst, exampleHeader, examplePayload, key, nil) },
		"signed": func(dst []byte) ([]byte, error) {
			return envelope.Append(dst, exampleHeader, examplePayload, key, signer)
		},
		"statement": func(dst []byte) ([]byte, error) {
			return envelope.AppendStatement(dst, statement, examplePayload, signer)
		},
	} {
		alone, err := appends(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, before := range []string{"x", `{"v":1,"kid":"`, string(alone)} {
			got, err := appends([]byte(before))
			if err != nil || string(got) != before+string(alone) {
				t.Errorf("%s behind %.20q: %v, %s", name, before, err, got)
			}
		}
	}
}

// A statement that nobody could read is not made.
func TestStatementsThatAreNone(t *testing.T) {
	signer := newAuthority(t).signer(t, "sensor", "web-1", ed25519Key(t))
	good := exampleHeader
	good.Nonce, good.Topic = envelope.StatementNonce(good.Time), "melb/bank_server/statement/request"
	for name, change := range map[string]func(*envelope.Header, **envelope.Signer){
		"nobody signs": func(_ *envelope.Header, s **envelope.Signer) { *s = nil },
		"boot":         func(h *envelope.Header, _ **envelope.Signer) { h.Nonce.Boot++ },
		"seq":          func(h *envelope.Header, _ **envelope.Signer) { h.Nonce.Seq = 2 },
		"generation":   func(h *envelope.Header, _ **envelope.Signer) { h.KeyID.Generation = 2 },
	} {
		h, s := good, signer
		change(&h, &s)
		if got, err := envelope.AppendStatement([]byte("before"), h, examplePayload, s); err == nil || string(got) != "before" {
			t.Errorf("%s: made: %s", name, got)
		}
	}
	site := good
	site.KeyID.Generation, site.Topic = 7, "melb/bank_server/statement/site"
	raw, err := envelope.AppendStatement(nil, site, examplePayload, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := envelope.ParseStatement(raw, envelope.MaxMessage); err != nil {
		t.Errorf("the site document's generation: %v", err)
	}
}
