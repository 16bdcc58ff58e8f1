package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"levee/envelope/replay"
	"levee/internal/config"
	"levee/internal/site"
	"levee/pki"
)

// Settings are a broker's configuration file.
type Settings struct {
	site.Settings `yaml:",inline"`
	// Listen is the host:port to bind.
	Listen string `yaml:"listen"`
}

// Part is a broker with its replay windows, as a process runs it.
type Part struct {
	broker  *Broker
	windows *replay.Set
	skew    time.Duration
	log     *slog.Logger
}

// Open reads a broker's configuration file and everything that it names.
func Open(file string, log *slog.Logger) (*Part, error) {
	var settings Settings
	if err := config.Load(file, &settings); err != nil {
		return nil, err
	}
	bundle, err := site.Open(settings.Settings, time.Now())
	if err != nil {
		return nil, err
	}
	if role := bundle.Identity.Role; role != pki.RoleBroker {
		return nil, fmt.Errorf("opening a broker: the bundle is of a %s", role)
	}
	p := &Part{skew: bundle.Policy.Skew(), log: log}
	if p.windows, err = bundle.OpenWindows(time.Now()); err != nil {
		return nil, err
	}
	p.broker, err = New(Config{
		Site: bundle.Identity.Site, Address: settings.Listen, TLS: pki.ServerConfig(bundle.Credentials, bundle.Verifier),
		Verifier: bundle.Verifier, Policy: bundle.Policy, Windows: p.windows, Log: log,
	})
	if err != nil {
		return nil, errors.Join(err, p.windows.Close())
	}
	return p, nil
}

// Close releases what Open opened, for a part that will not run.
func (p *Part) Close() error { return p.windows.Close() }

// Ready is closed when the broker listens.
func (p *Part) Ready() <-chan struct{} { return p.broker.Ready() }

// Run serves until ctx ends.
func (p *Part) Run(ctx context.Context) error {
	done := make(chan struct{})
	var keeping sync.WaitGroup
	keeping.Go(func() { site.KeepWindows(done, p.windows, p.skew, p.log) })
	err := p.broker.Run(ctx)
	close(done)
	keeping.Wait()
	return errors.Join(err, p.windows.Close())
}
