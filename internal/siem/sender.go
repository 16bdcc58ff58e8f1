package siem

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"
)

// Config is what a sender needs.
type Config struct {
	Settings Settings
	Host     string // of the syslog messages
	Version  string // of the product
	// Log must not lead back to Tell: it says that the SIEM is away.
	Log *slog.Logger
}

// Sender delivers events. It is safe for concurrent use.
type Sender struct {
	config Config
	origin origin
	run    string // tells this start's events from those of others
	queue  queue
	pace   pace

	sent      atomic.Uint64
	connected atomic.Bool

	// Run's alone.
	sequence uint64
	again    []line // that may have been lost with the last connection
}

// pace is how long things take.
type pace struct {
	first, most time.Duration // between attempts to connect
	connect     time.Duration // for connection and handshake
	write       time.Duration // for one write, after which the receiver counts as stuck
	repeat      time.Duration // lines that were written so long before a connection ended are written again
	last        time.Duration // for what waits at the end
}

// New checks the configuration. It connects to nothing.
func New(c Config) (*Sender, error) {
	var err error
	switch {
	case c.Log == nil || c.Version == "" || !validHost(c.Host):
		return nil, errors.New("configuring a SIEM: no logger, no version or no name of a host")
	}
	if c.Settings, err = c.Settings.check(); err != nil {
		return nil, fmt.Errorf("configuring a SIEM: %w", err)
	}
	run := make([]byte, 8)
	rand.Read(run) // never fails
	return &Sender{config: c, origin: origin{c.Host, c.Version}, run: hex.EncodeToString(run), queue: newQueue(), pace: pace{
		first: time.Second, most: time.Minute, connect: 10 * time.Second, write: 15 * time.Second, repeat: 15 * time.Second, last: 3 * time.Second}}, nil
}

// Tell takes an event. It does not wait; what finds no room is counted, and
// declared later.
func (s *Sender) Tell(e Event) {
	if _, ok := kinds[e.ID]; !ok || !validTime(e.Time) {
		s.config.Log.Error("an event that is none was not sent", slog.String("event", string(e.ID)))
		return
	}
	s.queue.put(e.settle())
}

// Sent returns how many events were sent, Dropped how many found no room.
func (s *Sender) Sent() uint64 { return s.sent.Load() }

// Dropped is described at Sent.
func (s *Sender) Dropped() uint64 { return s.queue.lost.Load() }

// Connected reports whether the receiver is there.
func (s *Sender) Connected() bool { return s.connected.Load() }

// Run sends until ctx ends, and then, for a short time, what waits. It connects
// again by itself, ever more seldom while that fails. It is called once.
func (s *Sender) Run(ctx context.Context) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(s.pace.last, end) })()
	for wait := s.pace.first; ; wait = min(2*wait, s.pace.most) {
		final := ctx.Err() != nil
		if final && s.queue.waiting() == 0 && len(s.again) == 0 {
			break
		}
		began := time.Now()
		err := s.connect(ctx, life)
		if err == nil || final || life.Err() != nil {
			break // everything is sent, or there is no time left
		}
		if time.Since(began) > s.pace.most {
			wait = s.pace.first
		}
		pause := wait/2 + mathrand.N(wait/2+1)
		s.config.Log.Warn("the SIEM is not connected; events wait", slog.String("address", s.config.Settings.Address), slog.Any("error", err),
			slog.Int("waiting", s.queue.waiting()+len(s.again)), slog.Uint64("dropped", s.Dropped()), slog.Duration("again_in", pause.Round(time.Millisecond)))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	if n := s.queue.waiting() + len(s.again); n > 0 {
		s.config.Log.Warn("events were not sent before the end; the log has what they told of", slog.Int("events", n))
	}
}

// line is one frame, as it is written, and again if need be.
type line struct {
	frame   []byte
	written time.Time // when it was last tried
	sent    bool      // it was counted
}

// next returns the next lines.
func (s *Sender) next() []line {
	events := s.queue.take(time.Now())
	lines := make([]line, len(events))
	for i, e := range events {
		s.sequence++
		lines[i].frame = appendFrame(nil, e, s.config.Settings.Format, s.origin, s.run+"-"+strconv.FormatUint(s.sequence, 10), s.sequence)
	}
	return lines
}
