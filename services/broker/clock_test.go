package broker

import (
	"fmt"
	"testing"
	"time"
)

func TestClockDoubt(t *testing.T) {
	type voice struct {
		sender string
		side   side
		after  time.Duration // since the voice before
	}
	tests := []struct {
		name   string
		voices []voice
		want   bool
	}{
		{"nobody but one", []voice{{"a", tooOld, 0}}, false},
		{"two of two are no majority of three", []voice{{"a", tooOld, 0}, {"b", tooOld, 0}}, false},
		{"three of three", []voice{{"a", tooOld, 0}, {"b", tooOld, 0}, {"c", tooOld, 0}}, true},
		{"three of three the other way", []voice{{"a", tooNew, 0}, {"b", tooNew, 0}, {"c", tooNew, 0}}, true},
		{"two of three", []voice{{"a", tooOld, 0}, {"b", inTime, 0}, {"c", tooOld, 0}}, true},
		{"one of three", []voice{{"a", tooOld, 0}, {"b", inTime, 0}, {"c", inTime, 0}}, false},
		{"half of four is not most", []voice{{"a", tooOld, 0}, {"b", tooOld, 0}, {"c", inTime, 0}, {"d", inTime, 0}}, false},
		{"in both directions", []voice{{"a", tooOld, 0}, {"b", tooNew, 0}, {"c", tooOld, 0}, {"d", tooNew, 0}}, false},
		{"one loud sender has one voice", []voice{{"a", tooOld, 0}, {"a", tooOld, 0}, {"a", tooOld, 0}, {"b", inTime, 0}, {"c", inTime, 0}}, false},
		{"the latest voice counts", []voice{{"a", tooOld, 0}, {"b", tooOld, 0}, {"c", tooOld, 0}, {"a", inTime, 0}, {"b", inTime, 0}}, false},
		{"a voice of the period before counts", []voice{{"a", tooOld, 0}, {"b", tooOld, 0}, {"c", tooOld, voicePeriod}}, true},
		{"an old voice does not", []voice{{"a", tooOld, 0}, {"b", tooOld, 0}, {"c", tooOld, 3 * voicePeriod}}, false},
		{"nor one that two periods have passed over", []voice{
			{"a", tooOld, 0}, {"b", tooOld, 0}, {"d", inTime, voicePeriod}, {"c", tooOld, voicePeriod}, {"c", tooOld, 0},
		}, false},
		{"a clock that goes back forgets nothing", []voice{{"a", tooOld, 0}, {"b", tooOld, 0}, {"c", tooOld, -time.Hour}}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var c clock
			now, before, got := time.Unix(1_700_000_000, 0), false, false
			for i, v := range test.voices {
				now = now.Add(v.after)
				var changed bool
				got, changed = c.hear(v.sender, v.side, now)
				if changed != (got != before) {
					t.Errorf("voice %d: changed = %v from %v to %v", i, changed, before, got)
				}
				before = got
			}
			if got != test.want {
				t.Errorf("doubt = %v, want %v", got, test.want)
			}
		})
	}
}

// The counts must stay those of the two maps, whatever happens.
func TestClockCounts(t *testing.T) {
	var c clock
	now := time.Unix(1_700_000_000, 0)
	for i := range 10_000 {
		now = now.Add(time.Duration(i*7919%1500) * time.Millisecond)
		c.hear(fmt.Sprint(i*31%97), side(i*17%int(sides)), now)
		var want [sides]int
		for _, m := range []map[string]side{c.recent, c.former} {
			for _, s := range m {
				want[s]++
			}
		}
		if c.count != want {
			t.Fatalf("step %d: counts %v, want %v", i, c.count, want)
		}
	}
}
