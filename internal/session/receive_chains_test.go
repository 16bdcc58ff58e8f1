package session

import (
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"levee/envelope"
	"levee/pki"
	"levee/pki/ca"
)

// counting is a verifier that counts what it is asked.
type counting struct {
	envelope.ChainVerifier
	asked int
}

func (c *counting) Verify(leaf, issuer *x509.Certificate, usage pki.Usage, at time.Time) (pki.Identity, error) {
	c.asked++
	return c.ChainVerifier.Verify(leaf, issuer, usage, at)
}

// counted returns an empty memory of chains, and what counts its verifications.
func counted(t testing.TB) (*chains, *counting) {
	t.Helper()
	b := openBundle(t, identity("melb", pki.RoleController, "lb-1"))
	count := &counting{ChainVerifier: b.Verifier}
	return newChains(count, b.Root), count
}

// signedCommand returns a parsed command of m1 as of a time.
func signedCommand(t testing.TB, m1 *sender, by *envelope.Signer, at time.Time) *envelope.Message {
	t.Helper()
	m, err := envelope.Parse(m1.message(commandTopic, &ram, at, signedBy(by)), envelope.MaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	return &m
}

// lasting issues a signer for m1 whose certificate is valid from a minute ago
// for as long.
func lasting(t testing.TB, life time.Duration, now time.Time) (*envelope.Signer, *x509.Certificate) {
	t.Helper()
	issuer := machineCA(t, "melb")
	key, err := pki.NewKey(pki.RoleMonitor)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueLeaf(issuer, identity("melb", pki.RoleMonitor, "m1"), key.Public(), ca.Names{}, life, now)
	if err != nil {
		t.Fatal(err)
	}
	s, err := envelope.NewSigner(key, leaf, issuer.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return s, leaf
}

func TestChainsAreVerifiedOnce(t *testing.T) {
	now := time.Now()
	c, count := counted(t)
	m1 := newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	short, leaf := lasting(t, time.Hour, now)
	spoilt := signedCommand(t, m1, m1.signer, now)
	spoilt.Sig = append([]byte{}, signedCommand(t, m1, m1.signer, now).Sig...)
	for _, step := range []struct {
		name  string
		m     *envelope.Message
		want  envelope.Reason
		asked int // in all
	}{
		{"the first", signedCommand(t, m1, m1.signer, now), envelope.Accepted, 1},
		{"another of the same chain", signedCommand(t, m1, m1.signer, now.Add(time.Second)), envelope.Accepted, 1},
		{"with the signature of another", spoilt, envelope.BadSignature, 1},
		{"with another's chain", signedCommand(t, m1, web.signer, now), envelope.BadSender, 2},
		{"and again", signedCommand(t, m1, web.signer, now), envelope.BadSender, 2},
		{"that one's own", signedCommand(t, web, web.signer, now), envelope.Accepted, 2},
		{"of another site", signedCommand(t, m1, mint(t, identity("syd", pki.RoleMonitor, "m1")), now), envelope.BadSender, 3},
		{"a second certificate", signedCommand(t, m1, short, now), envelope.Accepted, 4},
		{"at its end", signedCommand(t, m1, short, leaf.NotAfter), envelope.Accepted, 4},
		{"a millisecond later", signedCommand(t, m1, short, leaf.NotAfter.Add(time.Millisecond)), envelope.BadSignature, 5},
		{"and again", signedCommand(t, m1, short, leaf.NotAfter.Add(time.Millisecond)), envelope.BadSignature, 6},
		{"at its beginning", signedCommand(t, m1, short, leaf.NotBefore), envelope.Accepted, 6},
		{"a millisecond earlier", signedCommand(t, m1, short, leaf.NotBefore.Add(-time.Millisecond)), envelope.BadSignature, 7},
	} {
		id, by, err := c.verify(step.m)
		if got := envelope.ReasonOf(err); got != step.want || count.asked != step.asked {
			t.Errorf("%s: %s after %d verifications, not %s after %d", step.name, got.String(), count.asked, step.want.String(), step.asked)
		} else if err == nil != (by != nil && id.Name != "") {
			t.Errorf("%s: %v and %v", step.name, id, by)
		}
	}
}

// A full memory gives up what was not met lately, and goes on.
func TestChainsAreBounded(t *testing.T) {
	now := time.Now()
	c, count := counted(t)
	c.limit = 2
	m1 := newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	var signers []*envelope.Signer
	for range 3 {
		s, _ := lasting(t, time.Hour, now)
		signers = append(signers, s)
	}
	for i, step := range []struct{ signer, asked int }{{0, 1}, {1, 2}, {0, 2}, {2, 3}, {0, 3}, {2, 3}, {1, 4}} {
		if _, _, err := c.verify(signedCommand(t, m1, signers[step.signer], now)); err != nil || count.asked != step.asked {
			t.Errorf("step %d: %v after %d verifications, not %d", i, err, count.asked, step.asked)
		}
	}
	if len(c.met) != 2 || len(c.clock) != 2 {
		t.Errorf("it holds %d and %d", len(c.met), len(c.clock))
	}
}

func TestChainsFromManyGoroutines(t *testing.T) {
	now := time.Now()
	b := openBundle(t, identity("melb", pki.RoleController, "lb-1"))
	c := newChains(b.Verifier, b.Root)
	c.limit = 2
	m1 := newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	var messages []*envelope.Message
	for range 3 {
		s, _ := lasting(t, time.Hour, now)
		messages = append(messages, signedCommand(t, m1, s, now))
	}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for j := range 12 {
				if _, _, err := c.verify(messages[(i+j)%3]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if len(c.met) != 2 || len(c.clock) != 2 {
		t.Errorf("it holds %d and %d", len(c.met), len(c.clock))
	}
}

// What a command costs whose chain is known, or is not.
func BenchmarkChains(b *testing.B) {
	c, _ := counted(b)
	m1 := newSender(b, identity("melb", pki.RoleMonitor, "m1"))
	m := signedCommand(b, m1, m1.signer, time.Now())
	for name, forget := range map[string]bool{"known": false, "new": true} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if forget {
					clear(c.met)
					c.clock = nil
				}
				if _, _, err := c.verify(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What a flood of good messages costs beside its cryptography: a few short texts,
// and for a signature its input.
func TestAllocations(t *testing.T) {
	now := time.Now()
	controller := &openSession(t, identity("melb", pki.RoleController, "lb-1"), nil).receiver
	monitor := &openSession(t, identity("melb", pki.RoleMonitor, "m1"), nil).receiver
	m1 := newSender(t, identity("melb", pki.RoleMonitor, "m1"))
	web := newSender(t, identity("melb", pki.RoleSensor, "web-1"))
	for _, test := range []struct {
		name     string
		receiver *receiver
		topic    string
		next     func() []byte
		most     float64
	}{
		{"a known sender's reading", monitor, ramTopic, func() []byte { return web.message(ramTopic, &ram, now) }, 4},
		{"a command with a known chain", controller, commandTopic, func() []byte { return m1.message(commandTopic, &ram, now, m1.signed) }, 7},
	} {
		const runs = 50
		var raws [][]byte
		for range runs + 2 { // AllocsPerRun warms up
			raws = append(raws, test.next())
		}
		if _, got := verdict(test.receiver, test.topic, raws[runs+1], now); got != envelope.Accepted {
			t.Fatalf("%s: %s", test.name, got.String())
		}
		i := 0
		n := testing.AllocsPerRun(runs, func() {
			if _, err := test.receiver.open(test.topic, raws[i], now); err != nil {
				t.Fatalf("%s: %s", test.name, envelope.ReasonOf(err).String())
			}
			i++
		})
		if n > test.most {
			t.Errorf("%s: %v allocations, more than %v", test.name, n, test.most)
		}
	}
}
