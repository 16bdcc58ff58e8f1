package session

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errDown = errors.New("down")

// A test of race: each attempt takes so long, and succeeds or not.
type runner struct {
	takes time.Duration
	err   error
	deaf  bool // it does not hear that it is called off
}

func TestRace(t *testing.T) {
	const never = time.Hour
	for name, test := range map[string]struct {
		runners   []runner
		at        int
		took      time.Duration
		discarded []int
		failures  []bool
		lost      bool // the last
	}{
		"one":                               {[]runner{{takes: 5 * time.Second}}, 0, 5 * time.Second, nil, []bool{false}, false},
		"the first answers in time":         {[]runner{{takes: headStart - 1}, {}}, 0, headStart - 1, nil, []bool{false, false}, false},
		"the first is dead":                 {[]runner{{takes: never}, {takes: 10 * time.Millisecond}}, 1, headStart + 10*time.Millisecond, nil, []bool{false, false}, false},
		"the first fails at once":           {[]runner{{err: errDown}, {takes: 10 * time.Millisecond}}, 1, 10 * time.Millisecond, nil, []bool{true, false}, false},
		"two are dead":                      {[]runner{{takes: never}, {takes: never}, {}}, 2, 2 * headStart, nil, []bool{false, false, false}, false},
		"the first is slow, and wins still": {[]runner{{takes: headStart + 2}, {takes: headStart}}, 0, headStart + 2, nil, []bool{false, false}, false},
		"one fails while another hangs":     {[]runner{{takes: never}, {takes: time.Millisecond, err: errDown}, {}}, 2, headStart + time.Millisecond, nil, []bool{false, true, false}, false},
		"a winner that comes too late":      {[]runner{{takes: headStart + 5, deaf: true}, {takes: 1}}, 1, headStart + 1, []int{0}, []bool{false, false}, false},
		"the lost one gets its time last":   {[]runner{{takes: never}, {}}, 1, lostHeadStart, nil, []bool{false, false}, true},
		"but not when the others fail":      {[]runner{{err: errDown}, {}}, 1, 0, nil, []bool{true, false}, true},
		"the only one was lost":             {[]runner{{}}, 0, 0, nil, []bool{false}, true},
		"all fail":                          {[]runner{{takes: 3 * headStart, err: errDown}, {err: errDown}}, -1, 3 * headStart, nil, []bool{true, true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var running sync.WaitGroup
				var mu sync.Mutex
				var discarded []int
				made, at, failures := race(t.Context(), headStarts(len(test.runners), test.lost), &running, func(ctx context.Context, i int) (int, error) {
					r := test.runners[i]
					called := ctx.Done()
					if r.deaf {
						called = nil
					}
					select {
					case <-time.After(r.takes):
						return i, r.err
					case <-called:
						return 0, ctx.Err()
					}
				}, func(i int) { mu.Lock(); defer mu.Unlock(); discarded = append(discarded, i) })
				if took := time.Since(began); at != test.at || took != test.took || at >= 0 && made != at {
					t.Errorf("%d made %d after %s", at, made, took)
				}
				running.Wait()
				if !slices.Equal(discarded, test.discarded) {
					t.Errorf("discarded %v", discarded)
				}
				for i, err := range failures {
					if (err != nil) != test.failures[i] {
						t.Errorf("failures %v", failures)
					}
				}
			})
		})
	}
}

// The end calls everything off.
func TestRaceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), headStart/2)
		defer cancel()
		var running sync.WaitGroup
		began := time.Now()
		_, at, _ := race(ctx, headStarts(3, false), &running, func(ctx context.Context, _ int) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}, func(int) { t.Error("discarded nothing") })
		running.Wait()
		if at != -1 || time.Since(began) != headStart/2 {
			t.Errorf("%d after %s", at, time.Since(began))
		}
	})
}
