package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"levee/internal/wire"
	"levee/pki"
	"levee/policies"
	"levee/services/controller/journal"
)

// Journal remembers commands on stable storage; see package journal, whose
// errors it returns.
type Journal interface {
	Find(journal.Key) (journal.Entry, bool, error)
	Add(journal.Entry) error
	Finish(key journal.Key, status []byte) error
	Entries() ([]journal.Entry, error)
	Forget(now time.Time, keep func(journal.Key) bool) (int, error)
}

// Config is what a controller needs. Everything but Skew is required.
type Config struct {
	Site string // the only site whose commands are heard
	Name string // of this controller

	// Automatic returns how far policy lets automation go with a command, and
	// false for not at all. It is called from one goroutine.
	Automatic func(command string) (policies.Automatic, bool)
	// Publish sends a payload on a topic of this controller. It must not wait
	// for the network: the end of a mitigation would wait with it.
	Publish func(topic wire.Topic, payload any) error

	Actuator Actuator
	Journal  Journal
	Log      *slog.Logger

	// Skew is how far the clocks of a site may differ; 0 means DefaultSkew.
	Skew time.Duration
}

// DefaultSkew is the skew that Config leaves at zero.
const DefaultSkew = 30 * time.Second

const (
	maxPools      = 64
	queueLength   = 256
	applyTimeout  = 5 * time.Second  // for one call of the actuator
	retryInterval = time.Second      // between calls for one pool that fail
	forgetEvery   = 10 * time.Second // how often the journal is cleaned
	repeatEvery   = time.Second      // at most one answer to repeats of one id
	logEvery      = time.Second      // at most one line about messages that were dropped
)

// Stats counts what a controller did with what it was handed.
type Stats struct {
	Accepted    uint64 // acted on, or tried to
	Repeated    uint64 // seen before
	Refused     uint64 // answered with a reason
	Ignored     uint64 // for another site or controller
	Throttled   uint64 // over the rate of one sender
	Overflowed  uint64 // no room in the queue
	Unpublished uint64 // statuses that Publish would not take
}

// Controller acts on the commands for one load balancer.
type Controller struct {
	cfg       Config
	log       *slog.Logger
	queue     chan message
	admission admission

	accepted, repeated, refused, ignored, throttled, overflowed, unpublished atomic.Uint64
	dropLog                                                                  rate.Sometimes

	// Owned by Run.
	state   state
	pending []outcome
	answers answers
	forget  time.Time // when to clean the journal next
}

// message is one command as it was received.
type message struct {
	from     wire.Topic
	cmd      wire.Command
	received time.Time
}

// New checks cfg. The controller does nothing until Run is called.
func New(cfg Config) (*Controller, error) {
	switch {
	case !pki.ValidSite(cfg.Site):
		return nil, fmt.Errorf("controller: %q is no site", cfg.Site)
	case !pki.ValidName(cfg.Name):
		return nil, fmt.Errorf("controller: %q is no name", cfg.Name)
	case cfg.Automatic == nil, cfg.Publish == nil, cfg.Actuator == nil, cfg.Journal == nil, cfg.Log == nil:
		return nil, errors.New("controller: Automatic, Publish, Actuator, Journal and Log are required")
	case cfg.Skew < 0:
		return nil, fmt.Errorf("controller: the skew %v is negative", cfg.Skew)
	}
	if cfg.Skew == 0 {
		cfg.Skew = DefaultSkew
	}
	c := &Controller{
		cfg: cfg, log: cfg.Log,
		queue:   make(chan message, queueLength),
		dropLog: rate.Sometimes{Interval: logEvery},
	}
	names := cfg.Actuator.Pools()
	if len(names) == 0 || len(names) > maxPools {
		return nil, fmt.Errorf("controller: the actuator has %d pools, not 1 to %d", len(names), maxPools)
	}
	for _, name := range names {
		if !pki.ValidName(name) || c.state.of(name) != nil {
			return nil, fmt.Errorf("controller: the pool's name %q is not a server's, or stands twice", name)
		}
		c.state.pools = append(c.state.pools, &pool{name: name})
	}
	return c, nil
}

// Handle takes up a command that from published and whose envelope, signature,
// pin, freshness and nonce the caller has verified. It never blocks: what Run
// cannot keep up with is counted, logged and dropped, and its sender repeats it.
// It may be called concurrently.
func (c *Controller) Handle(from wire.Topic, cmd wire.Command, received time.Time) {
	if from.Site != c.cfg.Site || cmd.Controller != c.cfg.Name {
		c.ignored.Add(1) // every controller of a site hears every command
		return
	}
	if !c.admission.admits(from.Sender(), time.Now()) {
		c.throttled.Add(1)
		c.dropLog.Do(func() {
			c.log.Warn("commands dropped: too many from one sender",
				slog.String("sender", from.Sender()), slog.Uint64("dropped", c.throttled.Load()))
		})
		return
	}
	select {
	case c.queue <- message{from: from, cmd: cmd, received: received}:
	default:
		c.overflowed.Add(1)
		c.dropLog.Do(func() {
			c.log.Warn("commands dropped: the queue is full", slog.Uint64("dropped", c.overflowed.Load()))
		})
	}
}

// Stats returns the counters. It may be called concurrently.
func (c *Controller) Stats() Stats {
	return Stats{
		Accepted: c.accepted.Load(), Repeated: c.repeated.Load(), Refused: c.refused.Load(),
		Ignored: c.ignored.Load(), Throttled: c.throttled.Load(), Overflowed: c.overflowed.Load(),
		Unpublished: c.unpublished.Load(),
	}
}

// Run brings back what the journal says is still in force, then acts on what
// Handle takes up, and ends what is over, until ctx ends. It leaves what is in
// force to the actuator's own clock and to the next start. It must be called
// once, and returns an error only if it could not read the journal.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.resume(ctx); err != nil {
		return fmt.Errorf("resuming from the journal: %w", err)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case m := <-c.queue:
			c.process(ctx, m)
		case <-timer.C:
		}
		c.settle(ctx)
		timer.Reset(time.Until(c.state.next(c.forget)))
	}
	return nil
}
