package session

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"levee/internal/renewal"
)

// Three brokers in a row that answer and let nobody in make a certificate be
// renewed early; an address where nobody answers does not, nor what was up.
func TestTurnedAwayAgainAndAgain(t *testing.T) {
	away := fmt.Errorf("connecting: %w", turnedAway{errors.New("EOF")})
	gone := errors.New("dialling: refused")
	type attempt struct {
		err error
		up  time.Duration
	}
	for name, test := range map[string]struct {
		attempts []attempt
		want     int // of manyTurnedAway, what counts at the end
	}{
		"turned away twice":      {[]attempt{{away, 0}, {away, 0}}, 2},
		"three times":            {[]attempt{{away, 0}, {away, 0}, {away, 0}}, 0},
		"put out at once":        {[]attempt{{gone, time.Millisecond}, {away, 0}}, 2},
		"nobody answers":         {[]attempt{{gone, 0}, {gone, 0}, {gone, 0}, {gone, 0}}, 0},
		"nobody answers between": {[]attempt{{away, 0}, {gone, 0}, {away, 0}}, 2},
		"up meanwhile":           {[]attempt{{away, 0}, {away, 0}, {gone, time.Minute}, {away, 0}}, 1},
	} {
		l := &line{session: &Session{renewal: new(renewal.Renewal)}}
		for _, a := range test.attempts {
			l.hurry([]error{gone, a.err}, a.up)
		}
		if l.away != test.want {
			t.Errorf("%s: %d count, want %d", name, l.away, test.want)
		}
	}
}
