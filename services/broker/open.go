package broker

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"levee/envelope/replay"
	"levee/internal/brokeradmin"
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
	// Also are the configuration files of further sites, one broker of each, that
	// are served at the same address: they say the same listen. Clients choose by
	// SNI.
	Also []config.Path `yaml:"also,omitempty"`
	// MetricsListen is the loopback address and port where GET /metrics is
	// answered; nothing listens if it is absent.
	MetricsListen string `yaml:"metrics_listen,omitempty"`
	// AdminSocket is the Unix socket at which levee broker asks and orders; there
	// is none if it is absent.
	AdminSocket config.Path `yaml:"admin_socket,omitempty"`
}

// Part is a broker as a process runs it, of one site or of several.
type Part struct {
	listen  string
	tenants []*tenant
}

// tenant is one site's broker with what belongs to it.
type tenant struct {
	settings    Settings
	bundle      *site.Bundle
	document    document
	broker      *Broker
	certified   func() (leaf, authority, root *x509.Certificate)
	windows     *replay.Set
	revocations *revocation.Set
	kernel      *clocks.Kernel
	renewal     *renewal.Renewal
	metrics     *metrics.Server
	admin       *brokeradmin.Server
	skew        time.Duration
	log         *slog.Logger

	reloading sync.Mutex
	seen      stamp // of the files that the site is judged by
}

// document is the site document in force.
type document struct{ atomic.Pointer[site.Document] }

// Pinned asks the site document in force.
func (d *document) Pinned(sender string, leaf *x509.Certificate) (match, pinned bool) {
	return d.Load().Pinned(sender, leaf)
}

// Open reads a broker's configuration file and everything that it names.
func Open(file string, log *slog.Logger) (*Part, error) {
	var settings Settings
	if err := config.Load(file, &settings); err != nil {
		return nil, err
	}
	p := &Part{listen: settings.Listen}
	if err := p.add(settings, log); err != nil {
		return nil, err
	}
	for _, also := range settings.Also {
		var further Settings
		err := config.Load(string(also), &further)
		switch {
		case err != nil:
		case further.Listen != p.listen:
			err = fmt.Errorf("%s listens at %q, %s at %q: sites of one broker share the address", also, further.Listen, file, p.listen)
		case len(further.Also) > 0:
			err = fmt.Errorf("%s: only the first configuration names others", also)
		default:
			err = p.add(further, log.With(slog.String("site", string(also))))
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("opening a further site: %w", err), p.Close())
		}
	}
	return p, nil
}

// add opens one more site.
func (p *Part) add(settings Settings, log *slog.Logger) error {
	s := &tenant{settings: settings, log: log, seen: stampOf(settings)}
	if settings.Listen == "" {
		return errors.New("opening a broker: no address to listen on")
	}
	bundle, err := site.Open(settings.Settings, time.Now())
	if err != nil {
		return err
	}
	if role := bundle.Identity.Role; role != pki.RoleBroker {
		return fmt.Errorf("opening a broker: the bundle is of a %s", role)
	}
	for _, other := range p.tenants {
		if other.bundle.Identity.Site == bundle.Identity.Site {
			return fmt.Errorf("opening a broker: site %s stands twice", bundle.Identity.Site)
		}
	}
	s.bundle, s.certified, s.kernel, s.skew = bundle, bundle.Certificates, clocks.NewKernel(log), bundle.Policy.Skew()
	s.document.Store(bundle.Document)
	if s.renewal, err = bundle.Renewal(log); err != nil {
		return err
	}
	s.revocations, err = revocation.Open(revocation.Config{
		Site: bundle.Identity.Site, Verifier: bundle.Verifier, Document: &s.document,
		File: filepath.Join(bundle.State, revocation.FileName), Skew: s.skew, Log: log,
	}, time.Now())
	if err != nil {
		return err
	}
	if s.windows, err = bundle.OpenWindows(time.Now()); err != nil {
		return err
	}
	verifier := bundle.Verifier.WithRevocations(s.revocations)
	s.broker, err = New(Config{
		Site: bundle.Identity.Site, Host: bundle.Identity.Host(), Address: settings.Listen, TLS: pki.ServerConfig(bundle.Credentials, verifier),
		Verifier: verifier, Policy: bundle.Policy, Windows: s.windows, Revocations: s.revocations, Log: log,
	})
	if err == nil {
		s.metrics, err = metrics.Open(metrics.Config{Listen: settings.MetricsListen, Source: source{s.broker, s}, More: s.broker.families(), Log: log})
	}
	if err == nil {
		s.admin, err = brokeradmin.Open(brokeradmin.Config{Path: string(settings.AdminSocket), Broker: administration{s.broker}, Log: log})
	}
	if err != nil {
		return errors.Join(err, s.metrics.Close(), s.windows.Close())
	}
	p.tenants = append(p.tenants, s)
	return nil
}

// Close releases what Open opened, for a part that will not run.
func (p *Part) Close() error {
	var errs []error
	for _, s := range p.tenants {
		errs = append(errs, s.admin.Close(), s.metrics.Close(), s.windows.Close())
	}
	return errors.Join(errs...)
}

// Ready is closed when the broker listens.
func (p *Part) Ready() <-chan struct{} { return p.tenants[0].broker.Ready() }

// Run serves until ctx ends.
func (p *Part) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	var keeping sync.WaitGroup
	brokers := make([]*Broker, 0, len(p.tenants))
	run := func(ctx context.Context) error { return Serve(ctx, p.listen, brokers...) }
	for _, s := range p.tenants {
		brokers = append(brokers, s.broker)
		keeping.Go(func() { site.KeepWindows(done, s.windows, s.skew, s.log) })
		keeping.Go(func() { s.revocations.Run(done) })
		keeping.Go(func() { s.kernel.Run(done) })
		keeping.Go(func() { s.renewal.Run(ctx) })
		keeping.Go(func() { s.watch(done) })
		keeping.Go(func() { s.herald(ctx) })
		inner := run
		run = func(ctx context.Context) error {
			return s.metrics.Around(ctx, func(ctx context.Context) error { return s.admin.Around(ctx, inner) })
		}
	}
	errs := []error{run(ctx)}
	cancel()
	close(done)
	keeping.Wait()
	for _, s := range p.tenants {
		errs = append(errs, s.windows.Close())
	}
	return errors.Join(errs...)
}
