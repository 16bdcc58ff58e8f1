package clocks

import (
	"fmt"
	"testing"
	"time"
)

func TestVoices(t *testing.T) {
	type voice struct {
		sender string
		side   Side
		after  time.Duration // since the voice before
	}
	tests := []struct {
		name   string
		voices []voice
		want   Side
	}{
		{"nobody but one", []voice{{"a", Behind, 0}}, InTime},
		{"two of two are no majority of three", []voice{{"a", Behind, 0}, {"b", Behind, 0}}, InTime},
		{"three of three", []voice{{"a", Behind, 0}, {"b", Behind, 0}, {"c", Behind, 0}}, Behind},
		{"three of three the other way", []voice{{"a", Ahead, 0}, {"b", Ahead, 0}, {"c", Ahead, 0}}, Ahead},
		{"two of three", []voice{{"a", Behind, 0}, {"b", InTime, 0}, {"c", Behind, 0}}, Behind},
		{"one of three", []voice{{"a", Behind, 0}, {"b", InTime, 0}, {"c", InTime, 0}}, InTime},
		{"half of four is not most", []voice{{"a", Behind, 0}, {"b", Behind, 0}, {"c", InTime, 0}, {"d", InTime, 0}}, InTime},
		{"in both directions", []voice{{"a", Behind, 0}, {"b", Ahead, 0}, {"c", Behind, 0}, {"d", Ahead, 0}}, InTime},
		{"one loud sender has one voice", []voice{{"a", Behind, 0}, {"a", Behind, 0}, {"a", Behind, 0}, {"b", InTime, 0}, {"c", InTime, 0}}, InTime},
		{"the latest voice counts", []voice{{"a", Behind, 0}, {"b", Behind, 0}, {"c", Behind, 0}, {"a", InTime, 0}, {"b", InTime, 0}}, InTime},
		{"a voice of the period before counts", []voice{{"a", Behind, 0}, {"b", Behind, 0}, {"c", Behind, Period}}, Behind},
		{"an old voice does not", []voice{{"a", Behind, 0}, {"b", Behind, 0}, {"c", Behind, 3 * Period}}, InTime},
		{"nor one that two periods have passed over", []voice{
			{"a", Behind, 0}, {"b", Behind, 0}, {"d", InTime, Period}, {"c", Behind, Period}, {"c", Behind, 0},
		}, InTime},
		{"a clock that goes back forgets nothing", []voice{{"a", Behind, 0}, {"b", Behind, 0}, {"c", Behind, -time.Hour}}, Behind},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var v Voices
			now, before, got := time.Unix(1_700_000_000, 0), InTime, InTime
			for i, x := range test.voices {
				now = now.Add(x.after)
				var changed bool
				got, changed = v.Hear(x.sender, x.side, now)
				if changed != (got != before) {
					t.Errorf("voice %d: changed = %v from %v to %v", i, changed, before, got)
				}
				before = got
			}
			if got != test.want {
				t.Errorf("verdict = %v, want %v", got, test.want)
			}
		})
	}
}

// The counts must stay those of the two maps, whatever happens.
func TestVoicesCount(t *testing.T) {
	var v Voices
	now := time.Unix(1_700_000_000, 0)
	for i := range 10_000 {
		now = now.Add(time.Duration(i*7919%1500) * time.Millisecond)
		v.Hear(fmt.Sprint(i*31%97), Side(i*17%int(sides)), now)
		var want [sides]int
		for _, m := range []map[string]Side{v.recent, v.former} {
			for _, s := range m {
				want[s]++
			}
		}
		if v.count != want {
			t.Fatalf("step %d: counts %v, want %v", i, v.count, want)
		}
	}
}
