package broker

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"levee/envelope/replay"
	"levee/internal/clocks"
	"levee/internal/config"
	"levee/internal/metrics"
	"levee/internal/renewal"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/revocation"
)

// Settings are a broker's configuration file.
type Settings struct {
	site.Settings `yaml:",inline"`
	// Listen is the host:port to bind.
	Listen string `yaml:"listen"`
	// MetricsListen is the loopback address and port where GET /metrics is
	// answered; nothing listens if it is absent.
	MetricsListen string `yaml:"metrics_listen,omitempty"`
}

// Part is a broker with its replay windows, as a process runs it.
type Part struct {
	broker      *Broker
	certified   func() (leaf, authority, root *x509.Certificate)
	windows     *replay.Set
	revocations *revocation.Set
	kernel      *clocks.Kernel
	renewal     *renewal.Renewal
	metrics     *metrics.Server
	skew        time.Duration
	log         *slog.Logger
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
	p := &Part{certified: bundle.Certificates, kernel: clocks.NewKernel(log), skew: bundle.Policy.Skew(), log: log}
	if p.renewal, err = bundle.Renewal(log); err != nil {
		return nil, err
	}
	p.revocations, err = revocation.Open(revocation.Config{
		Site: bundle.Identity.Site, Verifier: bundle.Verifier, Document: bundle.Document,
		File: filepath.Join(bundle.State, revocation.FileName), Skew: p.skew, Log: log,
	}, time.Now())
	if err != nil {
		return nil, err
	}
	if p.windows, err = bundle.OpenWindows(time.Now()); err != nil {
		return nil, err
	}
	verifier := bundle.Verifier.WithRevocations(p.revocations)
	p.broker, err = New(Config{
		Site: bundle.Identity.Site, Address: settings.Listen, TLS: pki.ServerConfig(bundle.Credentials, verifier),
		Verifier: verifier, Policy: bundle.Policy, Windows: p.windows, Revocations: p.revocations, Log: log,
	})
	if err == nil {
		p.metrics, err = metrics.Open(metrics.Config{Listen: settings.MetricsListen, Source: source{p.broker, p}, More: p.broker.families(), Log: log})
	}
	if err != nil {
		return nil, errors.Join(err, p.windows.Close())
	}
	return p, nil
}

// Close releases what Open opened, for a part that will not run.
func (p *Part) Close() error { return errors.Join(p.metrics.Close(), p.windows.Close()) }

// Ready is closed when the broker listens.
func (p *Part) Ready() <-chan struct{} { return p.broker.Ready() }

// Run serves until ctx ends.
func (p *Part) Run(ctx context.Context) error {
	done := make(chan struct{})
	var keeping sync.WaitGroup
	keeping.Go(func() { site.KeepWindows(done, p.windows, p.skew, p.log) })
	keeping.Go(func() { p.revocations.Run(done) })
	keeping.Go(func() { p.kernel.Run(done) })
	keeping.Go(func() { p.renewal.Run(ctx) })
	err := p.metrics.Around(ctx, p.broker.Run)
	close(done)
	keeping.Wait()
	return errors.Join(err, p.windows.Close())
}
