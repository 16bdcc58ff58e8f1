// Package drill attacks a running system on its own machine, within bounds, so
// that people can see it answer.
//
// It guarantees that nothing leaves the loopback interface, and that a drill
// ends by itself: at most MaxRequests, at most MaxDuration.
package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Bounds of a flood, whatever is asked for.
const (
	MaxRequests = 60_000
	MaxDuration = 2 * time.Minute
	MaxRate     = 2_000 // requests per second
	workers     = 32
)

// Flood is an HTTP flood: each request opens a connection of its own, so that
// it costs the target a SYN, a connection and an answer.
type Flood struct {
	Target   string // host:port on loopback
	Rate     int    // requests per second
	Duration time.Duration
	// Each is told once a second, and at the end, what came back so far.
	Each func(Tally)
}

// Tally counts the answers of a flood.
type Tally struct {
	Elapsed time.Duration
	Sent    int
	OK      int           // 200
	Limited int           // 429
	Other   int           // any other status
	Failed  int           // no answer
	First   time.Duration // when the first 429 came; 0 if none has
}

// Run floods until it is done or ctx ends, or for a second if nothing answers.
func (f Flood) Run(ctx context.Context) (Tally, error) {
	if err := f.Check(); err != nil {
		return Tally{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.Duration)
	defer cancel()
	var (
		began = time.Now()
		mu    sync.Mutex
		tally Tally
		pace  = make(chan struct{})
		wg    sync.WaitGroup
	)
	snapshot := func() Tally {
		mu.Lock()
		defer mu.Unlock()
		t := tally
		t.Elapsed = time.Since(began)
		return t
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: (&net.Dialer{Timeout: time.Second}).DialContext}}
	for range workers {
		wg.Go(func() {
			for range pace {
				status, err := get(client, f.Target)
				mu.Lock()
				tally.count(status, err, time.Since(began))
				mu.Unlock()
			}
		})
	}
	err := f.keepPace(ctx, pace, snapshot)
	close(pace)
	wg.Wait()
	final := snapshot()
	if err == nil {
		f.Each(final)
	}
	return final, err
}

// Check reports why a flood will not be made.
func (f Flood) Check() error {
	if err := f.check(); err != nil {
		return fmt.Errorf("flooding: %w", err)
	}
	return nil
}

func (f Flood) check() error {
	address, err := netip.ParseAddrPort(f.Target)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not address:port", f.Target)
	case !address.Addr().IsLoopback():
		return fmt.Errorf("%s is not on the loopback interface", address.Addr())
	case f.Rate < 1 || f.Rate > MaxRate:
		return fmt.Errorf("a rate of %d is not 1 to %d requests per second", f.Rate, MaxRate)
	case f.Duration <= 0 || f.Duration > MaxDuration:
		return fmt.Errorf("a duration of %s is not within %s", f.Duration, MaxDuration)
	case f.Rate*int(f.Duration.Seconds()) > MaxRequests:
		return fmt.Errorf("more than %d requests", MaxRequests)
	case f.Each == nil:
		return errors.New("nobody to tell")
	}
	return nil
}

// keepPace hands out work at the rate. What all workers are too busy for is
// not made up later: a drill is no benchmark.
func (f Flood) keepPace(ctx context.Context, pace chan<- struct{}, snapshot func() Tally) error {
	tick := time.NewTicker(time.Second / time.Duration(f.Rate))
	defer tick.Stop()
	report := time.NewTicker(time.Second)
	defer report.Stop()
	for sent := 0; sent < MaxRequests; {
		select {
		case <-ctx.Done():
			return nil
		case <-report.C:
			t := snapshot()
			if t.Failed > 0 && t.Failed == t.Sent {
				return fmt.Errorf("flooding: nothing answers at %s", f.Target)
			}
			f.Each(t)
		case <-tick.C:
			select {
			case pace <- struct{}{}:
				sent++
			default:
			}
		}
	}
	return nil
}

func get(client *http.Client, target string) (int, error) {
	response, err := client.Get("http://" + target + "/")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	return response.StatusCode, err
}

func (t *Tally) count(status int, err error, at time.Duration) {
	t.Sent++
	switch {
	case err != nil:
		t.Failed++
	case status == http.StatusOK:
		t.OK++
	case status == http.StatusTooManyRequests:
		t.Limited++
		if t.First == 0 {
			t.First = at
		}
	default:
		t.Other++
	}
}
