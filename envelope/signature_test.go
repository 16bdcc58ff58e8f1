package envelope_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"math/big"
	"testing"
	"time"

	"levee/envelope"
	"levee/pki"
	"levee/pki/ca"
)

func ed25519Key(t testing.TB) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func p256Key(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func parsed(t *testing.T, raw []byte) envelope.Message {
	t.Helper()
	m, err := envelope.Parse(raw, envelope.MaxMessage)
	if err != nil {
		t.Fatalf("%v (%v)", err, envelope.ReasonOf(err))
	}
	return m
}

func TestSignatureNeedsNoSecret(t *testing.T) {
	a := newAuthority(t)
	for name, key := range map[string]crypto.Signer{"Ed25519": ed25519Key(t), "P-256": p256Key(t)} {
		for range 8 { // P-256: both halves of s must come out low
			m := parsed(t, seal(t, exampleHeader, examplePayload, newKey(t, 0x2a), a.signer(t, "sensor", "web-1", key)))
			id, leaf, err := m.VerifySignature(a.verifier, exampleTime)
			if err != nil {
				t.Fatalf("%s: %v", name, envelope.ReasonOf(err))
			}
			if id.Sender() != "melb/sensor/web-1" || leaf == nil {
				t.Errorf("%s: verified as %v", name, id)
			}
		}
	}
}

func TestSignatureRefusals(t *testing.T) {
	a, foreign := newAuthority(t), newAuthority(t)
	own := a.signer(t, "sensor", "web-1", ed25519Key(t))
	key := newKey(t, 0x2a)
	good := seal(t, exampleHeader, examplePayload, key, own)
	edit := func(from, to string) []byte {
		return envelope.Reseal(key, bytes.Replace(good, []byte(from), []byte(to), 1))
	}
	for _, test := range []struct {
		name string
		raw  []byte
		at   time.Time
		want envelope.Reason
	}{
		{"as signed", good, exampleTime, envelope.Accepted},
		{"unsigned", seal(t, exampleHeader, examplePayload, key, nil), exampleTime, envelope.Unsigned},
		{"payload changed", edit("41.5", "41.6"), exampleTime, envelope.BadSignature},
		{"ts changed", edit(`"ts":1729697327822`, `"ts":1729697327823`), exampleTime, envelope.BadSignature},
		{"nonce changed", edit("-42", "-43"), exampleTime, envelope.BadSignature},
		{"topic changed", edit("metrics/ram", "metrics/cpu"), exampleTime, envelope.BadSignature},
		{"another sender's certificate", seal(t, exampleHeader, examplePayload, key, a.signer(t, "sensor", "web-2", ed25519Key(t))), exampleTime, envelope.BadSender},
		{"another role's certificate", seal(t, exampleHeader, examplePayload, key, a.signer(t, "monitor", "web-1", ed25519Key(t))), exampleTime, envelope.BadSender},
		{"below another root", seal(t, exampleHeader, examplePayload, key, foreign.signer(t, "sensor", "web-1", ed25519Key(t))), exampleTime, envelope.BadSignature},
		{"after the certificate's end", good, exampleTime.Add(48 * time.Hour), envelope.BadSignature},
		{"before its beginning", good, exampleTime.Add(-2 * time.Hour), envelope.BadSignature},
	} {
		m := parsed(t, test.raw)
		_, _, err := m.VerifySignature(a.verifier, test.at)
		if got := envelope.ReasonOf(err); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// (r, n-s) is as valid as (r, s) to ECDSA; only one of them is our spelling.
func TestHighSIsRefused(t *testing.T) {
	a := newAuthority(t)
	key := newKey(t, 0x2a)
	raw := seal(t, exampleHeader, examplePayload, key, a.signer(t, "sensor", "web-1", p256Key(t)))
	m := parsed(t, raw)
	sig, err := base64.RawURLEncoding.DecodeString(string(m.Sig))
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(sig[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(sig[32:])
	changed := bytes.Replace(raw, m.Sig, []byte(base64.RawURLEncoding.EncodeToString(sig)), 1)
	m = parsed(t, envelope.Reseal(key, changed))
	if _, _, err := m.VerifySignature(a.verifier, exampleTime); envelope.ReasonOf(err) != envelope.BadSignature {
		t.Errorf("high s: %v", envelope.ReasonOf(err))
	}
}

// What a chain has no room for would be refused by everybody.
func TestSignersOfLongCertificates(t *testing.T) {
	a, key := newAuthority(t), ed25519Key(t)
	leaf, err := ca.IssueLeaf(a.machines, pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: pki.RoleSensor, Name: "web-1"},
		key.Public(), ca.Names{}, time.Hour, exampleTime)
	if err != nil {
		t.Fatal(err)
	}
	for room, ok := range map[int]bool{0: true, 1: false} {
		issuer := *a.machines.Certificate
		issuer.Raw = make([]byte, 8192-len(leaf.Raw)+room)
		signer, err := envelope.NewSigner(key, leaf, &issuer)
		if (err == nil) != ok {
			t.Fatalf("%d bytes of issuer: %v", len(issuer.Raw), err)
		}
		if ok {
			parsed(t, seal(t, exampleHeader, examplePayload, newKey(t, 0x2a), signer))
		}
	}
}

func TestStatements(t *testing.T) {
	a := newAuthority(t)
	signer := a.signer(t, "sensor", "web-1", ed25519Key(t))
	header := exampleHeader
	header.Nonce = envelope.StatementNonce(header.Time)
	raw, err := envelope.AppendStatement(nil, header, examplePayload, signer)
	if err != nil {
		t.Fatal(err)
	}
	m, err := envelope.ParseStatement(raw, envelope.MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.VerifySignature(a.verifier, exampleTime); err != nil {
		t.Errorf("refused: %v", envelope.ReasonOf(err))
	}
	for i := range raw {
		changed := bytes.Clone(raw)
		changed[i] ^= 1
		m, err := envelope.ParseStatement(changed, envelope.MaxMessage)
		if err != nil {
			continue
		}
		if _, _, err := m.VerifySignature(a.verifier, exampleTime); err == nil {
			t.Fatalf("accepted with byte %d changed", i)
		}
	}
	if _, err := envelope.Parse(raw, envelope.MaxMessage); err == nil {
		t.Error("a statement passed as a message")
	}
	if _, err := envelope.AppendStatement(nil, exampleHeader, examplePayload, signer); err == nil {
		t.Error("a statement was made with a message's nonce")
	}
	if _, err := envelope.AppendStatement(nil, header, examplePayload, nil); err == nil {
		t.Error("a statement was made without a signer")
	}
	message := seal(t, header, examplePayload, newKey(t, 0x2a), signer)
	if _, err := envelope.ParseStatement(message, envelope.MaxMessage); err == nil {
		t.Error("a message passed as a statement")
	}
	if sealed := parsed(t, message); sealed.Digest() != m.Digest() {
		t.Error("the digest of signed bytes depends on the MAC")
	}
}
