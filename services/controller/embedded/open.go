// Package embedded is a controller with the embedded load balancer, as a
// process runs it: it reads the configuration file and joins session, journal,
// controller and balancer.
//
// It guarantees that the controller hears a command only after the session has
// verified it: signature, pin, freshness and nonce. It decides nothing itself.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"levee/envelope/keys"
	"levee/internal/bulletin"
	"levee/internal/config"
	"levee/internal/metrics"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/controller"
	"levee/services/controller/balancer"
	"levee/services/controller/journal"
)

// Settings are a controller's configuration file.
type Settings struct {
	site.Settings `yaml:",inline"`
	Pools         []struct {
		Server   string `yaml:"server"`   // the sensor's name
		Listen   string `yaml:"listen"`   // loopback address and port
		Backends int    `yaml:"backends"` // demonstration backends without scaling
	} `yaml:"pools"`
	// Digest is the interval of digests; a minute if absent.
	Digest time.Duration `yaml:"digest_interval,omitempty"`
	// MetricsListen is the loopback address and port where GET /metrics is
	// answered; nothing listens if it is absent.
	MetricsListen string `yaml:"metrics_listen,omitempty"`
}

// Part is the assembled controller.
type Part struct {
	controller *controller.Controller
	balancer   *balancer.Balancer
	journal    *journal.Journal
	session    *session.Session
	metrics    *metrics.Server
	board      *bulletin.Board
	log        *slog.Logger
}

// Open reads a controller's configuration file and everything that it names,
// and takes the balancer's addresses.
func Open(file string, log *slog.Logger) (*Part, error) {
	var settings Settings
	if err := config.Load(file, &settings); err != nil {
		return nil, err
	}
	bundle, err := site.Open(settings.Settings, time.Now())
	if err != nil {
		return nil, err
	}
	if role := bundle.Identity.Role; role != pki.RoleController {
		return nil, fmt.Errorf("opening a controller: the bundle is of a %s", role)
	}
	p := &Part{log: log}
	if err := p.open(settings, bundle); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Part) open(settings Settings, bundle *site.Bundle) (err error) {
	id := bundle.Identity
	if p.board, err = bulletin.New(p.log); err != nil {
		return err
	}
	if p.journal, err = journal.Open(journal.Config{Path: filepath.Join(bundle.State, "journal"), Margin: 2 * bundle.Policy.Skew()}); err != nil {
		return err
	}
	ring, err := keys.Load(bundle.KeyFile)
	if err != nil {
		return fmt.Errorf("opening a controller: %w", err)
	}
	p.session, err = session.New(session.Config{
		Bundle:  bundle,
		Ring:    ring,
		Filters: []string{wire.Filter(wire.KindCommand, id.Site), wire.Public},
		Handle:  p.deliver,
		Digest:  settings.Digest,
		Log:     p.log,
	})
	if err != nil {
		return err
	}
	var pools []balancer.Pool
	for _, x := range settings.Pools {
		pools = append(pools, balancer.Pool{Name: x.Server, Listen: x.Listen, Servers: x.Backends})
	}
	if p.balancer, err = balancer.New(balancer.Config{Pools: pools, Log: p.log}); err != nil {
		return err
	}
	p.controller, err = controller.New(controller.Config{
		Site: id.Site, Name: id.Name, Automatic: bundle.Policy.Automatic, Publish: p.session.Publish,
		Actuator: p.balancer, Journal: p.journal, Log: p.log, Skew: bundle.Policy.Skew(),
	})
	if err != nil {
		return err
	}
	p.metrics, err = metrics.Open(metrics.Config{Listen: settings.MetricsListen, Source: p.session, Log: p.log})
	return err
}

// Close releases what Open opened, for a part that will not run.
func (p *Part) Close() error {
	errs := []error{p.metrics.Close()}
	if p.session != nil {
		errs = append(errs, p.session.Close())
	}
	if p.balancer != nil {
		errs = append(errs, p.balancer.Close())
	}
	if p.journal != nil {
		errs = append(errs, p.journal.Close())
	}
	return errors.Join(errs...)
}

// Run acts on commands until ctx ends. The balancer outlives the controller,
// which may still have something to apply.
func (p *Part) Run(ctx context.Context) error {
	err := p.metrics.Around(ctx, p.run)
	return errors.Join(err, p.journal.Close())
}

func (p *Part) run(ctx context.Context) error {
	return p.session.Around(ctx, func(ctx context.Context) error {
		serving, stop := context.WithCancel(context.WithoutCancel(ctx))
		defer stop()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var (
			running sync.WaitGroup
			failure error
		)
		running.Go(func() {
			defer cancel()
			failure = p.balancer.Run(serving)
		})
		err := p.controller.Run(ctx)
		stop()
		running.Wait()
		return errors.Join(err, failure)
	})
}

// deliver hands a checked command to the controller, which does not block. A
// public message, whatever it holds, is for people's eyes alone.
func (p *Part) deliver(d session.Delivery) {
	switch d.Topic.Kind {
	case wire.KindCommand:
		var cmd wire.Command
		if err := wire.DecodeExact(d.Payload, &cmd); err != nil {
			p.session.RefuseContent(d)
			return
		}
		p.controller.Handle(d.Topic, cmd, d.Received)
	case wire.KindPublic:
		p.board.Show(d.Name, d.Payload, d.Received)
	}
}
