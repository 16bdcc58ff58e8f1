package vectors_test

import (
	"crypto/sha256"
	"testing"

	"levee/internal/confirm"
	"levee/internal/wire"
	"levee/test/vectors"
)

func TestDigestVectors(t *testing.T) {
	cases, err := vectors.Digests()
	if err != nil {
		t.Fatal(err)
	}
	expected := make(map[string]int)
	for _, c := range cases {
		expected[c.Expect]++
		t.Run(c.Name, func(t *testing.T) {
			outcome, missing := settle(t, c)
			if outcome.String() != c.Expect || missing != c.Missing {
				t.Errorf("%s: %s and %d missing, instead of %s and %d", c.Says, outcome, missing, c.Expect, c.Missing)
			}
		})
	}
	for outcome := confirm.Malformed; outcome <= confirm.Disowned; outcome++ {
		if expected[outcome.String()] == 0 {
			t.Errorf("no case expects %s", outcome)
		}
	}
	t.Log(expected)
}

// settle does as the parts do that read digests.
func settle(t *testing.T, c vectors.DigestCase) (confirm.Outcome, int) {
	t.Helper()
	if err := wire.CheckObject([]byte(c.Payload)); err != nil {
		t.Fatalf("the case is no payload: %v", err)
	}
	var d wire.Digest
	if wire.DecodeExact([]byte(c.Payload), &d) != nil {
		return confirm.Malformed, 0
	}
	r := confirm.Check(d, func(seq uint64) ([sha256.Size]byte, bool) {
		for _, m := range c.Seen {
			if m.Boot == d.Boot && m.Seq == seq {
				return sha256.Sum256(m.Raw), true
			}
		}
		return [sha256.Size]byte{}, false
	})
	return r.Outcome, r.Missing
}
