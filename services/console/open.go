package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"levee/envelope/ownkey"
	"levee/internal/config"
	"levee/internal/metrics"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
)

// Settings are a console's configuration file.
type Settings struct {
	site.Settings `yaml:",inline"`
	// Listen is the loopback address and port of the page.
	Listen string `yaml:"listen"`
	// MetricsListen is the loopback address and port where GET /metrics is
	// answered; nothing listens if it is absent.
	MetricsListen string `yaml:"metrics_listen,omitempty"`
}

// Part is a console with its session, as a process runs it.
type Part struct {
	page    *page
	session *session.Session
	metrics *metrics.Server
}

// Open reads a console's configuration file and everything that it names, and
// listens. It answers nobody before Run.
func Open(file string, log *slog.Logger) (*Part, error) {
	var settings Settings
	if err := config.Load(file, &settings); err != nil {
		return nil, err
	}
	// The page asks nobody who they are.
	address, err := config.Loopback(settings.Listen)
	if err != nil {
		return nil, fmt.Errorf("opening a console: listen: %w", err)
	}
	bundle, err := site.Open(settings.Settings, time.Now())
	if err != nil {
		return nil, err
	}
	id := bundle.Identity
	if id.Role != pki.RoleConsole {
		return nil, fmt.Errorf("opening a console: the bundle is of a %s", id.Role)
	}
	ring, err := ownkey.Load(bundle.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("opening a console: %w", err)
	}
	hub := newHub(id.Site, id.Name, time.Now(), log)
	p := new(Part)
	p.session, err = session.New(session.Config{
		Bundle:  bundle,
		Ring:    ring,
		Filters: filters(id.Site),
		Handle: func(d session.Delivery) {
			if !hub.deliver(d) {
				p.session.RefuseContent(d)
			}
		},
		Refused: hub.refuse,
		Log:     log,
	})
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		return nil, fmt.Errorf("opening a console: %w", errors.Join(err, p.session.Close()))
	}
	p.metrics, err = metrics.Open(metrics.Config{Listen: settings.MetricsListen, Source: p.session, Log: log})
	if err != nil {
		return nil, errors.Join(err, listener.Close(), p.session.Close())
	}
	p.page = newPage(listener, hub, p.session, log)
	return p, nil
}

// filters are what the six views show, the digests that confirm readings, and
// nothing else that policy would let a console read.
func filters(site string) []string {
	shown := []wire.Kind{wire.KindCPU, wire.KindRAM, wire.KindNetwork, wire.KindAlert, wire.KindCommand,
		wire.KindScaling, wire.KindRateLimiting, wire.KindPresence, wire.KindDigest}
	var all []string
	for _, k := range shown {
		all = append(all, wire.Filter(k, site))
	}
	return append(all, wire.Public)
}

// Address returns where the page is.
func (p *Part) Address() string { return p.page.listener.Addr().String() }

// Ready is closed when the page answers, whether or not a broker does.
func (p *Part) Ready() <-chan struct{} { return p.page.ready }

// Close releases what Open opened, for a part that will not run.
func (p *Part) Close() error {
	return errors.Join(p.metrics.Close(), p.page.listener.Close(), p.session.Close())
}

// Run shows the site until ctx ends. It is called once.
func (p *Part) Run(ctx context.Context) error {
	return p.metrics.Around(ctx, func(ctx context.Context) error { return p.session.Around(ctx, p.page.run) })
}
