package envelope_test

import (
	"bytes"
	"crypto"
	"testing"
	"time"

	"levee/envelope"
	"levee/pki"
	"levee/pki/ca"
)

var (
	exampleTime   = time.UnixMilli(1729697327822)
	exampleHeader = envelope.Header{
		KeyID: envelope.KeyID{Site: "melb", Role: "sensor", Name: "web-1", Generation: 1},
		Time:  exampleTime.UnixMilli(), Nonce: envelope.Nonce{Boot: 0x192b9fdc06e, Seq: 42},
		Topic: "melb/bank_server/metrics/ram/web-1",
	}
	examplePayload = []byte(`{"timestamp":1729697327.822,"server":"web-1","ram_usage":41.5}`)
)

func newKey(t testing.TB, fill byte) *envelope.Key {
	t.Helper()
	key, err := envelope.NewKey(bytes.Repeat([]byte{fill}, envelope.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func seal(t testing.TB, h envelope.Header, payload []byte, key *envelope.Key, signer *envelope.Signer) []byte {
	t.Helper()
	raw, err := envelope.Append(nil, h, payload, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// authority is a root and one site's machine CA below it.
type authority struct {
	root, machines ca.Issuer
	verifier       *pki.Verifier
}

const trustDomain = "bank.example"

func newAuthority(t testing.TB) *authority {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	now := exampleTime.Add(-time.Hour)
	key, err := ca.NewRootKey()
	must(err)
	root, err := ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 365 * 24 * time.Hour}, now)
	must(err)
	machineKey, err := ca.NewAuthorityKey()
	must(err)
	cert, err := ca.IssueAuthority(root, pki.Authority{TrustDomain: trustDomain, Site: "melb", Class: pki.ClassMachine},
		machineKey.Public(), ca.Zones{}, 300*24*time.Hour, now)
	must(err)
	v, err := pki.NewVerifier(pki.VerifierConfig{Root: root.Certificate, TrustDomain: trustDomain})
	must(err)
	return &authority{root: root, machines: ca.Issuer{Certificate: cert, Signer: machineKey}, verifier: v}
}

// signer issues a certificate and returns a signer with it.
func (a *authority) signer(t testing.TB, role pki.Role, name string, key crypto.Signer) *envelope.Signer {
	t.Helper()
	id := pki.Identity{TrustDomain: trustDomain, Site: "melb", Role: role, Name: name}
	leaf, err := ca.IssueLeaf(a.machines, id, key.Public(), ca.Names{}, 24*time.Hour, exampleTime.Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	s, err := envelope.NewSigner(key, leaf, a.machines.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
