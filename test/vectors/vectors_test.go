package vectors_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"levee/envelope"
	"levee/envelope/replay"
	"levee/internal/wire"
	"levee/test/vectors"
)

func all(t testing.TB) []vectors.Case {
	t.Helper()
	cases, err := vectors.All()
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

func byName(t testing.TB, name string) vectors.Case {
	t.Helper()
	for _, c := range all(t) {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no case is called %s", name)
	return vectors.Case{}
}

func TestVectors(t *testing.T) {
	for _, c := range all(t) {
		t.Run(c.Name, func(t *testing.T) {
			r := newReceiver(t, c.Receiver)
			for i, m := range c.Messages {
				if got := r.receive(m); got.String() != m.Expect {
					t.Errorf("message %d, %s: %s instead of %s: %.300q", i, c.Says, got.String(), m.Expect, m.Raw)
				}
			}
		})
	}
}

// The set is worth as much as what it covers.
func TestEveryReasonIsExpected(t *testing.T) {
	// What a machine's memory and disk, docs/topics.md, or a list of revocations
	// decides.
	elsewhere := []envelope.Reason{envelope.WindowsFull, envelope.WindowsFailed, envelope.BadContent, envelope.Revoked}
	labels := map[string]bool{envelope.Accepted.String(): true}
	for _, r := range envelope.Reasons() {
		labels[r.String()] = true
	}
	expected := make(map[string]int)
	for _, c := range all(t) {
		for _, m := range c.Messages {
			if !labels[m.Expect] {
				t.Errorf("%s expects %q, which is no reason", c.Name, m.Expect)
			}
			expected[m.Expect]++
		}
	}
	for _, r := range append(envelope.Reasons(), envelope.Accepted) {
		if n := expected[r.String()]; n == 0 && !slices.Contains(elsewhere, r) {
			t.Errorf("no case expects %s", r.String())
		} else {
			t.Logf("%4d %s", n, r.String())
		}
	}
}

// What is refused as content elsewhere cannot be what these cases accept.
func TestAcceptedReadingsAreReadings(t *testing.T) {
	for _, c := range all(t) {
		for _, m := range c.Messages {
			if m.Expect != "accepted" || !strings.Contains(m.Topic, "/metrics/ram/") {
				continue
			}
			parsed, err := envelope.Parse(m.Raw, m.MaxBytes)
			if err != nil {
				t.Errorf("%s: %v", c.Name, err)
				continue
			}
			var reading wire.RAM
			if err := wire.Decode(parsed.Payload, &reading); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	}
}

// oldSignature is a key that knows one signature.
type oldSignature struct {
	public crypto.PublicKey
	sig    []byte
}

func (o oldSignature) Public() crypto.PublicKey { return o.public }

func (o oldSignature) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	if _, ok := o.public.(*ecdsa.PublicKey); ok {
		return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(o.sig[:32]), new(big.Int).SetBytes(o.sig[32:])})
	}
	return o.sig, nil
}

// A message has one spelling: what is accepted is what sealing makes of what
// was read.
func TestAcceptedMessagesAreSealedAgainTheSame(t *testing.T) {
	signed := 0
	for _, c := range all(t) {
		r := newReceiver(t, c.Receiver)
		for i, v := range c.Messages {
			if v.Expect != "accepted" {
				continue
			}
			topic, err := wire.ParseTopic(v.Topic)
			if err != nil && !v.Statement {
				t.Fatal(err)
			}
			m, _, err := r.open(v, topic)
			if err != nil {
				t.Errorf("%s: message %d: %v", c.Name, i, err)
				continue
			}
			again, err := sealAgain(&m, r.ring.Find(m.KID))
			if err != nil {
				t.Errorf("%s: message %d: %v", c.Name, i, err)
				continue
			}
			want := v.Raw
			if m.MAC != nil && r.ring.Find(m.KID) == nil { // nobody's key: the MAC cannot be made
				again, want = again[:len(again)-53], want[:len(want)-53]
			}
			if !bytes.Equal(again, want) {
				t.Errorf("%s: message %d: sealed again\n%s\ninstead of\n%s", c.Name, i, again, want)
			}
			if m.Signed() {
				signed++
			}
		}
	}
	if signed == 0 {
		t.Error("no signed message was among them")
	}
}

func sealAgain(m *envelope.Message, key *envelope.Key) ([]byte, error) {
	var signer *envelope.Signer
	if m.Signed() {
		leaf, issuer, err := m.Certificates()
		if err != nil {
			return nil, err
		}
		sig, err := base64.RawURLEncoding.DecodeString(string(m.Sig))
		if err != nil {
			return nil, err
		}
		if signer, err = envelope.NewSigner(oldSignature{leaf.PublicKey, sig}, leaf, issuer); err != nil {
			return nil, err
		}
	}
	h := envelope.Header{KeyID: m.KeyID(), Time: m.Time, Nonce: m.Nonce, Topic: string(m.Topic)}
	if m.MAC == nil {
		return envelope.AppendStatement(nil, h, m.Payload, signer)
	}
	if key == nil {
		var err error
		if key, err = envelope.NewKey(make([]byte, envelope.KeySize)); err != nil {
			return nil, err
		}
	}
	return envelope.Append(nil, h, m.Payload, key, signer)
}

// No bit of an accepted message is free, and no beginning of it is a message.
func TestEveryBitFlipAndTruncationIsRejected(t *testing.T) {
	for _, test := range []struct {
		name string
		bits int // of each byte; signatures take long to verify
		free int // the MAC's characters, where this receiver cannot check them
	}{
		{"honest-reading", 8, 0}, {"honest-signed-reading", 8, 0}, {"honest-status-p256", 8, 0},
		{"honest-person-command", 1, 43}, {"statement-accepted", 1, 0},
	} {
		c := byName(t, test.name)
		r := newReceiver(t, c.Receiver)
		rejected := func(raw []byte, what string) {
			t.Helper()
			changed := c.Messages[0]
			changed.Raw = raw
			r.windows = replay.New(1)
			if got := r.receive(changed); got == envelope.Accepted {
				t.Errorf("%s: accepted with %s: %q", test.name, what, raw)
			}
		}
		raw := c.Messages[0].Raw
		for i := range raw {
			rejected(raw[:i], fmt.Sprintf("its first %d bytes alone", i))
			for bit := range test.bits {
				if end := len(raw) - len(`"}`); i >= end-test.free && i < end {
					continue
				}
				changed := bytes.Clone(raw)
				changed[i] ^= 1 << ((i + bit) % 8)
				rejected(changed, fmt.Sprintf("a bit of byte %d flipped", i))
			}
		}
	}
}

// The README is the format for whoever writes another implementation.
func TestReadmeNamesEveryMember(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	member := regexp.MustCompile(`^ {4}( *)"([a-z_]+)":`)
	shown := make(map[int][]string) // by indentation
	for line := range strings.Lines(string(page)) {
		if m := member.FindStringSubmatch(line); m != nil {
			shown[len(m[1])] = append(shown[len(m[1])], m[2])
		}
	}
	for indent, types := range map[int][]any{2: {vectors.Case{}, vectors.DigestCase{}}, 4: {vectors.Receiver{}}, 6: {vectors.Message{}}} {
		var want []string
		for _, of := range types {
			typ := reflect.TypeOf(of)
			for i := range typ.NumField() {
				name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
				want = append(want, name)
			}
		}
		if !slices.Equal(shown[indent], want) {
			t.Errorf("%T: the README shows %q instead of %q", types[0], shown[indent], want)
		}
	}
}
