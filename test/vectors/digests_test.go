package vectors_test

import (
	"strconv"
	"strings"
	"testing"

	"levee/envelope"
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
	own, seq, _ := strings.Cut(c.Nonce, "-")
	number, err := strconv.ParseUint(seq, 10, 64)
	if err != nil {
		t.Fatalf("the case has no nonce: %v", err)
	}
	if d.Boot != own || d.Last >= number { // it speaks for what came before it
		return confirm.Malformed, 0
	}
	tracker := confirm.NewTracker()
	for _, m := range c.Seen {
		if boot, ok := envelope.ParseBoot(m.Boot); ok && m.Boot == d.Boot {
			tracker.Add("melb/sensor/web-1", envelope.Nonce{Boot: boot, Seq: m.Seq}, m.Raw, false)
		}
	}
	r := tracker.Settle("melb/sensor/web-1", d)
	return r.Outcome, r.Missing
}
