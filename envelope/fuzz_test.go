package envelope_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"io"
	"strings"
	"testing"

	"levee/envelope"
)

// messageSeeds are the messages of the test vectors and some that only a
// parser could love.
func messageSeeds(f *testing.F) {
	for _, m := range corpus(f) {
		if len(m.Raw) <= 16<<10 { // the vectors' own tests have those that try the size
			f.Add(m.Raw)
		}
	}
	f.Add(seal(f, exampleHeader, examplePayload, newKey(f, 0x2a), nil))
	tail := `,"mac":"` + strings.Repeat("A", 43) + `"}`
	for _, body := range []string{
		``, `{"v":1,"kid":"`, `{"v":1,"kid":"melb/sensor/web-1/1","ts":0,"nonce":"00000000001-1","topic":"a","payload":{}`, `{"v":1,"kid":"a/a/a/1"`, `{"v":1,"kid":"melb/sensor/web-1/1","ts":1,"nonce":"00000000001-1","topic":"a","payload":{}`,
		`{"v":1,"kid":"melb/sensor/web-1/1","ts":1,"nonce":"00000000001-1","topic":"a","chain":"AAAA","payload":{"a":[1,-0.5e+3,"\ud83d\ude00"]}`,
		`{"v":1,"kid":"melb/sensor/web-1/1","ts":1,"nonce":"00000000001-1","topic":"a","chain":"AAAA","payload":{},"sig":"` + strings.Repeat("A", 86) + `"`,
		`{"v":1,"kid":"melb/sensor/web-1/1","ts":1,"nonce":"00000000001-1","topic":"a","chain":"AAAA","payload":{},"sig":"` + strings.Repeat("A", 85) + `B"`,
		`{"v":1,"kid":"melb/sensor/web-1/1","ts":1,"nonce":"00000000001-1","topic":"a","chain":"AB","payload":{},"sig":"` + strings.Repeat("A", 86) + `"`,
		`{"v":1,"kid":"melb/sensor/web-1/1","ts":1,"nonce":"00000000001-1","topic":"a","chain":"AAAAA","payload":{},"sig":"` + strings.Repeat("A", 86) + `"`,
		`{"v":1,"kid":"melb/sensor/web-1/1","ts":1,"nonce":"00000000001-1","topic":"a","chain":"AAAA","payload":,"sig":"` + strings.Repeat("A", 86) + `"`,
	} {
		f.Add([]byte(body + tail))
	}
}

// Whatever the bytes, a message is read as the page says, by us and by
// encoding/json alike, and what is accepted is what Append makes of it: no
// message has two spellings.
func FuzzOpen(f *testing.F) {
	key, other := newKey(f, 0x2a), newKey(f, 0x2b)
	messageSeeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		const bound = envelope.MaxMessage
		m, err := envelope.Parse(raw, bound)
		judge(t, m, err, raw, bound, false)

		sealed := sealedAgain(fuzzSecret, raw)
		m, err = envelope.Open(sealed, bound, find(key))
		judge(t, m, err, sealed, bound, false)
		if err == nil && !m.Signed() { // a signature cannot be made again
			h := envelope.Header{KeyID: m.KeyID(), Time: m.Time, Nonce: m.Nonce, Topic: string(m.Topic)}
			again, err := envelope.Append(nil, h, m.Payload, key, nil)
			if err != nil || !bytes.Equal(again, sealed) {
				t.Fatalf("accepted %q, sealed again %q (%v)", sealed, again, err)
			}
		}

		if _, err := envelope.Open(sealed, len(sealed)-1, find(key)); envelope.ReasonOf(err) != envelope.BadSize {
			t.Fatalf("%s, one byte over the bound: %q", envelope.ReasonOf(err).String(), sealed)
		}

		// Without the key, under another one, or under its own MAC as it came,
		// nothing is said but which of the checks before the grammar refused.
		for _, test := range []struct {
			raw  []byte
			key  *envelope.Key
			want envelope.Reason
		}{{sealed, nil, envelope.UnknownKey}, {sealed, other, envelope.BadMAC}, {raw, key, envelope.BadMAC}} {
			if bytes.Equal(test.raw, sealed) && test.key == key {
				continue
			}
			if _, err := envelope.ScanKeyID(test.raw); len(test.raw) > bound {
				test.want = envelope.BadSize
			} else if err != nil {
				test.want = envelope.ReasonOf(err)
			}
			if m, err := envelope.Open(test.raw, bound, find(test.key)); envelope.ReasonOf(err) != test.want || m.Raw != nil {
				t.Fatalf("%s instead of %s: %q", envelope.ReasonOf(err).String(), test.want.String(), test.raw)
			}
		}
	})
}

// FuzzStatement is FuzzOpen for what is not published by itself.
func FuzzStatement(f *testing.F) {
	messageSeeds(f)
	for _, m := range corpus(f) { // what is signed, without its MAC
		if at := len(m.Raw) - 53; at > 0 && bytes.Contains(m.Raw, []byte(`,"sig":"`)) {
			f.Add(append(bytes.Clone(m.Raw[:at]), '}'))
		}
	}
	statement, err := envelope.AppendStatement(nil, statementHeader, examplePayload, newAuthority(f).signer(f, "sensor", "web-1", ed25519Key(f)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(statement)
	f.Fuzz(func(t *testing.T, raw []byte) {
		const bound = envelope.MaxMessage
		m, err := envelope.ParseStatement(raw, bound)
		judge(t, m, err, raw, bound, true)
		if err != nil {
			return
		}
		if _, err := envelope.Parse(raw, bound); err == nil {
			t.Fatalf("a statement and a message at once: %q", raw)
		}
		// Where the chain holds the certificate of an Ed25519 key, sealing makes
		// the same bytes. (Of P-256 it would choose the low s.)
		leaf, issuer, err := m.Certificates()
		if err != nil || leaf.PublicKeyAlgorithm != x509.Ed25519 {
			return
		}
		sig, err := base64.RawURLEncoding.DecodeString(string(m.Sig))
		if err != nil {
			t.Fatal(err)
		}
		signer, err := envelope.NewSigner(oldSignature{leaf.PublicKey, sig}, leaf, issuer)
		if err != nil {
			t.Fatal(err)
		}
		h := envelope.Header{KeyID: m.KeyID(), Time: m.Time, Nonce: m.Nonce, Topic: string(m.Topic)}
		again, err := envelope.AppendStatement(nil, h, m.Payload, signer)
		if err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("accepted %q, made again %q (%v)", raw, again, err)
		}
	})
}

// oldSignature is a key that knows one signature.
type oldSignature struct {
	public crypto.PublicKey
	sig    []byte
}

func (o oldSignature) Public() crypto.PublicKey { return o.public }

func (o oldSignature) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return o.sig, nil }
