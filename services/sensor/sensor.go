// Package sensor publishes what one bank server measures of itself: three
// messages, for CPU, RAM and network, at once at the start and then on a steady
// grid.
//
// It guarantees that a message is published only for a measurement that
// succeeded, under the sensor's own name, and that one that fails keeps back
// neither the other two nor the next round. A round that comes too late for its
// place on the grid is left out, never made up for.
//
// It does not measure (package measure), seal, sign or deliver (the Publisher),
// nor judge what it reads.
package sensor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"levee/internal/wire"
	"levee/pki"
)

// DefaultInterval is the time between two readings, MinInterval the least:
// ten ticks of the kernel's processor times.
const (
	DefaultInterval = 5 * time.Second
	MinInterval     = 100 * time.Millisecond
)

// Meter measures this server. What it returns lacks Timestamp and Server. Each
// call covers the time since the one before it.
type Meter interface {
	CPU() (wire.CPU, error)
	RAM() (wire.RAM, error)
	Network() (wire.Network, error)
}

// Publisher takes a payload for its topic. It must not wait for the network,
// or the readings come late.
type Publisher interface {
	Publish(topic wire.Topic, payload any) error
}

// Config is what a sensor needs. All fields but Interval are required.
type Config struct {
	Name      string        // of the sensor, and so of the server it reports
	Site      string        // where it stands
	Interval  time.Duration // between two readings; DefaultInterval if zero
	Meter     Meter
	Publisher Publisher
	Log       *slog.Logger
}

// Sensor reports one server.
type Sensor struct {
	config   Config
	troubles [kinds]trouble
}

// The measurements, in the order in which they are made.
const (
	cpu = iota
	ram
	network
	kinds
)

// New checks the configuration.
func New(config Config) (*Sensor, error) {
	if !pki.ValidSite(config.Site) || !pki.ValidName(config.Name) {
		return nil, fmt.Errorf("configuring the sensor: %q/%q is no sensor", config.Site, config.Name)
	}
	if config.Interval == 0 {
		config.Interval = DefaultInterval
	}
	if config.Interval < MinInterval {
		return nil, fmt.Errorf("configuring the sensor: interval %s is below %s", config.Interval, MinInterval)
	}
	if config.Meter == nil || config.Publisher == nil || config.Log == nil {
		return nil, errors.New("configuring the sensor: it needs a meter, a publisher and a logger")
	}
	return &Sensor{config: config}, nil
}

// Run reads and publishes until ctx ends, and then returns nil. Only one Run
// may be at work.
func (s *Sensor) Run(ctx context.Context) error {
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		s.round(ctx, time.Now())
		// To the next place on the grid that is still ahead. A ticker would
		// follow a round that took too long by one at no interval at all.
		timer.Reset(s.config.Interval - time.Since(began)%s.config.Interval)
	}
}

// round makes the three measurements. Their messages share one timestamp.
func (s *Sensor) round(ctx context.Context, now time.Time) {
	stamp := float64(now.UnixMicro()) / 1e6

	c, err := s.config.Meter.CPU()
	c.Timestamp, c.Server = stamp, s.config.Name
	s.publish(ctx, now, cpu, wire.KindCPU, c, err)

	r, err := s.config.Meter.RAM()
	r.Timestamp, r.Server = stamp, s.config.Name
	s.publish(ctx, now, ram, wire.KindRAM, r, err)

	n, err := s.config.Meter.Network()
	n.Timestamp, n.Server = stamp, s.config.Name
	s.publish(ctx, now, network, wire.KindNetwork, n, err)
}

// publish hands on one payload, unless measuring it failed.
func (s *Sensor) publish(ctx context.Context, now time.Time, kind int, topic wire.Kind, payload any, err error) {
	if err != nil {
		err = fmt.Errorf("measuring: %w", err)
	} else if err = s.config.Publisher.Publish(s.topic(topic), payload); err != nil {
		err = fmt.Errorf("publishing: %w", err)
	}
	s.troubles[kind].note(ctx, s.config.Log, now, topic.String(), err)
}

func (s *Sensor) topic(kind wire.Kind) wire.Topic {
	return wire.Topic{Kind: kind, Site: s.config.Site, Role: string(pki.RoleSensor), Name: s.config.Name}
}

// quiet is the least time between two log lines about one kind of message.
const quiet = time.Minute

// trouble logs that messages of one kind are missing: the first at once, then
// at most once within quiet, and that none was missing for that long.
type trouble struct {
	missing int       // messages since the last log line
	logged  time.Time // when that was; zero while all is well
	last    time.Time // when a message was last missing
}

func (t *trouble) note(ctx context.Context, log *slog.Logger, now time.Time, messages string, err error) {
	if err == nil {
		if !t.logged.IsZero() && now.Sub(t.last) >= quiet {
			log.LogAttrs(ctx, slog.LevelInfo, "readings are back", slog.String("messages", messages),
				slog.Int("missing", t.missing))
			*t = trouble{}
		}
		return
	}
	t.missing++
	t.last = now
	if !t.logged.IsZero() && now.Sub(t.logged) < quiet {
		return
	}
	log.LogAttrs(ctx, slog.LevelError, "readings are missing", slog.String("messages", messages),
		slog.Int("missing", t.missing), slog.Any("error", err))
	t.missing, t.logged = 0, now
}
