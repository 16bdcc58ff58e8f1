package session

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"levee/envelope/keys"
	"levee/envelope/replay"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
	"levee/policies"
	"levee/test/vectors"
)

// receiverOf returns the real receiver in the state that a vector describes,
// under the default policy, asked for everything.
func receiverOf(t *testing.T, v vectors.Receiver, policy *policies.Policy) *receiver {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	r := &receiver{site: v.Site, filters: []string{"#"}, policy: policy, document: &site.Document{Site: v.Site},
		windows: replay.New(8), skew: time.Duration(v.Skew) * time.Millisecond}
	r.judges = v.Keys != nil
	if v.Keys != nil || v.Own != nil {
		file, err := v.KeyFile()
		must(err)
		path := filepath.Join(t.TempDir(), "keys")
		must(os.WriteFile(path, file, 0o600))
		r.keys, err = keys.Load(path)
		must(err)
	}
	if v.Root == nil { // a part always has a root; nobody is below this one
		key, err := ca.NewRootKey()
		must(err)
		root, err := ca.NewRoot(key, trustDomain, ca.RootOptions{Lifetime: 24 * time.Hour}, time.Now())
		must(err)
		v.Root = root.Certificate.Raw
	}
	root, err := x509.ParseCertificate(v.Root)
	must(err)
	verifier, err := pki.NewVerifier(pki.VerifierConfig{Root: root, TrustDomain: trustDomain})
	must(err)
	r.chains = newChains(verifier, root)
	for sender, spki := range v.Pins {
		r.document.Pins = append(r.document.Pins, site.Pin{Sender: sender, SPKI: spki})
	}
	for sender, minimum := range v.Minimum {
		r.document.Generations = append(r.document.Generations, site.Generation{Sender: sender, Minimum: minimum})
	}
	if v.Start != 0 {
		windows, err := replay.Open(filepath.Join(t.TempDir(), "windows"), 8, v.Start, r.skew)
		must(err)
		t.Cleanup(func() { windows.Close() })
		r.windows = windows
	}
	return r
}

// The vectors of test/vectors, through every check that a component makes.
func TestVectors(t *testing.T) {
	policy, err := policies.Parse(policies.Default())
	if err != nil {
		t.Fatal(err)
	}
	cases, err := vectors.All()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if c.Messages[0].Statement {
			continue // those come inside other documents, and not to a receiver
		}
		t.Run(c.Name, func(t *testing.T) {
			r := receiverOf(t, c.Receiver, policy)
			for i, m := range c.Messages {
				topic, err := wire.ParseTopic(m.Topic)
				if err != nil && m.Publisher != "" {
					t.Fatal(err)
				}
				if class := policy.Class(topic.Kind); err == nil && (m.Publisher != topic.Sender() || m.MaxBytes != class.MaxBytes || m.Signed != class.Signed) {
					t.Fatalf("message %d: the case says %s, %d bytes, signed %v of %s", i, m.Publisher, m.MaxBytes, m.Signed, m.Topic)
				}
				if d, got := verdict(r, m.Topic, m.Raw, time.UnixMilli(m.Now)); got.String() != m.Expect {
					t.Errorf("message %d, %s: %s instead of %s", i, c.Says, got.String(), m.Expect)
				} else if m.Expect != "accepted" && (d.Payload != nil || d.Proof != ProofNone) {
					t.Errorf("message %d, %s: refused, and handed out all the same", i, c.Says)
				}
			}
		})
	}
}
