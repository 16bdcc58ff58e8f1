package vectors_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee/envelope"
	"levee/envelope/keys"
	"levee/envelope/replay"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/test/vectors"
)

const trustDomain = "bank.example"

// receiver makes the checks of section 7 out of the exported parts. The
// receiver of package session makes them for the same vectors, in its tests.
type receiver struct {
	vectors.Receiver
	ring     *keys.Ring
	root     *x509.Certificate
	verifier *pki.Verifier
	document site.Document
	windows  *replay.Set
}

func newReceiver(t testing.TB, v vectors.Receiver) *receiver {
	t.Helper()
	r := &receiver{Receiver: v, windows: replay.New(8)}
	file, err := v.KeyFile()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if r.ring, err = keys.Load(path); err != nil {
		t.Fatal(err)
	}
	if v.Root != nil {
		if r.root, err = x509.ParseCertificate(v.Root); err != nil {
			t.Fatal(err)
		}
		if r.verifier, err = pki.NewVerifier(pki.VerifierConfig{Root: r.root, TrustDomain: trustDomain}); err != nil {
			t.Fatal(err)
		}
	}
	for sender, spki := range v.Pins {
		r.document.Pins = append(r.document.Pins, site.Pin{Sender: sender, SPKI: spki})
	}
	for sender, minimum := range v.Minimum {
		r.document.Generations = append(r.document.Generations, site.Generation{Sender: sender, Minimum: minimum})
	}
	if v.Start != 0 {
		windows, err := replay.Open(filepath.Join(t.TempDir(), "windows"), 8, v.Start, time.Duration(v.Skew)*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { windows.Close() })
		r.windows = windows
	}
	return r
}

func (r *receiver) receive(v vectors.Message) envelope.Reason {
	topic, err := wire.ParseTopic(v.Topic)
	if !v.Statement && err != nil || !strings.HasPrefix(v.Topic, r.Site+"/") {
		return envelope.BadTopic // before anything of the message is looked at
	}
	m, sealed, err := r.open(v, topic)
	if err != nil {
		return envelope.ReasonOf(err)
	}
	switch {
	case string(m.Topic) != v.Topic:
		return envelope.BadTopic
	case string(m.Sender()) != v.Publisher:
		return envelope.BadSender
	case m.KeyID().Generation < r.document.MinimumGeneration(v.Publisher):
		return envelope.UnknownKey
	case v.Signed && !m.Signed():
		return envelope.Unsigned
	}
	if m.Signed() {
		if reason := r.signature(&m); reason != envelope.Accepted {
			return reason
		}
	}
	if v.Statement {
		return envelope.Accepted
	}
	if !m.Signed() && r.Keys != nil && !sealed {
		return envelope.UnknownKey // who judges does not take what only waits for a digest
	}
	switch {
	case m.Time < v.Now-r.Skew:
		return envelope.Stale
	case m.Time > v.Now+r.Skew, int64(m.Nonce.Boot) > m.Time+r.Skew:
		return envelope.Future
	}
	return verdicts[r.windows.Check(replay.Message{Sender: wire.Window(topic.Kind, m.Sender()), Unproven: !m.Signed() && !sealed,
		Boot: m.Nonce.Boot, Seq: m.Nonce.Seq, Time: m.Time, Arrival: v.Now, Tag: m.Tag()})]
}

func (r *receiver) open(v vectors.Message, topic wire.Topic) (m envelope.Message, sealed bool, err error) {
	switch {
	case v.Statement:
		m, err = envelope.ParseStatement(v.Raw, v.MaxBytes)
		return m, false, err
	case topic.Kind == wire.KindAck && r.Own != nil && strings.HasPrefix(r.Own.KID, topic.Site+"/"+topic.PeerRole+"/"+topic.PeerName+"/"):
		m, err = r.ring.OpenAck(v.Raw, v.MaxBytes)
		return m, true, err
	case topic.Kind == wire.KindAck:
		m, err = envelope.Open(v.Raw, v.MaxBytes, func([]byte) *envelope.Key { return nil })
		return m, true, err
	case r.ring.Holds(roleOf(v)):
		m, err = envelope.Open(v.Raw, v.MaxBytes, r.ring.Find)
		return m, true, err
	default:
		m, err = envelope.Parse(v.Raw, v.MaxBytes)
		return m, false, err
	}
}

// roleOf returns the role of who may publish on the message's topic.
func roleOf(v vectors.Message) pki.Role {
	return pki.Role(strings.Split(v.Publisher, "/")[1])
}

func (r *receiver) signature(m *envelope.Message) envelope.Reason {
	if r.verifier == nil {
		return envelope.BadSignature
	}
	if id := m.KeyID(); id.Role == "ca" {
		if _, err := site.ParseDocument(m.Raw, r.root, r.verifier, time.UnixMilli(m.Time)); err != nil {
			return envelope.BadSignature
		}
		return envelope.Accepted
	}
	id, leaf, err := m.VerifySignature(r.verifier, time.UnixMilli(m.Time))
	if err != nil {
		return envelope.ReasonOf(err)
	}
	match, pinned := r.document.Pinned(id.Sender(), leaf)
	if !match && (pinned || id.Role == pki.RoleMonitor || id.Role == pki.RoleApprover) {
		return envelope.BadPin
	}
	return envelope.Accepted
}

var verdicts = map[replay.Verdict]envelope.Reason{
	replay.Fresh: envelope.Accepted, replay.Redelivery: envelope.Redelivered, replay.Collision: envelope.NonceCollision,
	replay.Clone: envelope.Cloned, replay.BeforeStart: envelope.BeforeStart, replay.Full: envelope.WindowsFull,
	replay.Unavailable: envelope.WindowsFailed, replay.Repeat: envelope.Replayed, replay.Late: envelope.Replayed, replay.Refused: envelope.Replayed,
}
