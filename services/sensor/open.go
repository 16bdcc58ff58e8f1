package sensor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"levee/envelope/ownkey"
	"levee/internal/config"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/sensor/measure"
)

// Settings are a sensor's configuration file.
type Settings struct {
	site.Settings `yaml:",inline"`
	// Interval is the time between two readings, from MinInterval to
	// MaxInterval; DefaultInterval if absent.
	Interval time.Duration `yaml:"interval"`
	// SYNMethod is how received SYNs are counted: auto (the best that the
	// privileges allow; the default), nftables, af_packet or estimate.
	SYNMethod string `yaml:"syn_method"`
	// Digest is the interval of digests; a minute if absent.
	Digest time.Duration `yaml:"digest_interval,omitempty"`
}

// MaxInterval is the longest interval: a monitor calls a server silent from
// which it has heard nothing for a minute.
const MaxInterval = time.Minute

// synMethods are what syn_method may be, the default first.
var synMethods = []string{"auto", wire.SYNNFTables, wire.SYNPacket, wire.SYNEstimate}

// check refuses what measures nothing, or not what was asked for.
func (s *Settings) check() error {
	if s.Interval < MinInterval || s.Interval > MaxInterval {
		return fmt.Errorf("interval: %s is not from %s to %s", s.Interval, MinInterval, MaxInterval)
	}
	if !slices.Contains(synMethods, s.SYNMethod) {
		return fmt.Errorf("syn_method: %q is none of %s", s.SYNMethod, strings.Join(synMethods, ", "))
	}
	return nil
}

// Part is a sensor with its session, as a process runs it.
type Part struct {
	settings Settings
	bundle   *site.Bundle
	session  *session.Session
	log      *slog.Logger
}

// Open reads a sensor's configuration file and everything that it names.
func Open(file string, log *slog.Logger) (*Part, error) {
	p := &Part{log: log, settings: Settings{Interval: DefaultInterval, SYNMethod: synMethods[0]}}
	if err := config.Load(file, &p.settings); err != nil {
		return nil, err
	}
	if err := p.settings.check(); err != nil {
		return nil, fmt.Errorf("reading configuration %s: %w", file, err)
	}
	if p.settings.SYNMethod == synMethods[0] {
		p.settings.SYNMethod = measure.Auto
	}
	var err error
	if p.bundle, err = site.Open(p.settings.Settings, time.Now()); err != nil {
		return nil, err
	}
	if role := p.bundle.Identity.Role; role != pki.RoleSensor {
		return nil, fmt.Errorf("opening a sensor: the bundle is of a %s", role)
	}
	ring, err := ownkey.Load(p.bundle.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("opening a sensor: %w", err)
	}
	p.session, err = session.New(session.Config{Bundle: p.bundle, Ring: ring, Digest: p.settings.Digest, Log: log})
	return p, err
}

// Close releases what Open opened, for a part that will not run.
func (p *Part) Close() error { return p.session.Close() }

// Run measures and publishes until ctx ends.
func (p *Part) Run(ctx context.Context) (err error) {
	id := p.bundle.Identity
	meter, err := measure.Open(ctx, measure.Config{Site: id.Site, Name: id.Name, SYN: p.settings.SYNMethod, Log: p.log})
	if stopped := context.Cause(ctx); stopped != nil && errors.Is(err, stopped) {
		return p.session.Close() // asked to stop before it had begun
	}
	if err != nil {
		return errors.Join(err, p.session.Close())
	}
	defer func() { err = errors.Join(err, meter.Close()) }()
	s, err := New(Config{Name: id.Name, Site: id.Site, Interval: p.settings.Interval, Meter: meter, Publisher: p.session, Log: p.log})
	if err != nil {
		return errors.Join(err, p.session.Close())
	}
	return p.session.Around(ctx, s.Run)
}
