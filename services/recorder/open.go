package recorder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"levee/internal/config"
	"levee/internal/enrol"
	"levee/internal/metrics"
	"levee/internal/records"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/translog"
	"levee/internal/wire"
	"levee/pki"
	"levee/services/recorder/journals"
	"levee/services/recorder/segment"
)

// Part is a recorder with its session, log and segments, as a process runs it.
type Part struct {
	session      *session.Session
	journals     *journals.Importer
	metrics      *metrics.Server
	segments     string // their directory
	transparency translog.Config
	recorder     *Recorder // made by Run, before the session runs
	log          *slog.Logger
}

// Open reads a recorder's configuration file and everything that it names but
// the log, which Run opens: checking it takes as long as it is large. It makes
// the log of a recorder that never had one.
func Open(file string, log *slog.Logger) (*Part, error) {
	settings, bundle, transparency, err := load(file, log)
	if err != nil {
		return nil, err
	}
	if err := createOnce(filepath.Join(string(settings.Bundle), records.FileNewLog), transparency); err != nil {
		return nil, err
	}
	p := &Part{segments: settings.Segments(), transparency: transparency, log: log}
	if p.journals, err = newImporter(settings, bundle, log); err != nil {
		return nil, err
	}
	p.session, err = session.New(session.Config{
		Bundle:  bundle,
		Filters: filters(bundle.Identity.Site),
		Handle:  func(d session.Delivery) { p.recorder.Deliver(d) },
		Log:     log,
	})
	if err != nil {
		return nil, err
	}
	p.metrics, err = metrics.Open(metrics.Config{Listen: settings.MetricsListen, Source: p.session, More: p.journals.Metrics(), Log: log})
	if err != nil {
		return nil, errors.Join(err, p.session.Close())
	}
	return p, nil
}

// newImporter returns what imports the deployer's journals and, where the
// configuration names an issuer, the issuer's.
func newImporter(settings records.Settings, bundle *site.Bundle, log *slog.Logger) (*journals.Importer, error) {
	c := journals.Config{Site: bundle.Identity.Site, Root: bundle.Root, Verifier: bundle.Verifier, Bundle: string(settings.Bundle),
		Log: settings.Log(), State: settings.Imported(), Logger: log}
	if settings.Issuer != "" {
		client, err := enrol.New(enrol.Config{Address: settings.Issuer, Verifier: bundle.Verifier, Host: bundle.Identity.Host(), Store: bundle.Credentials})
		if err != nil {
			return nil, err
		}
		c.Issuer = client
	}
	return journals.New(c)
}

// filters are everything that is sealed, but acknowledgements and backfill,
// which this version does not exchange.
func filters(site string) []string {
	var all []string
	for _, k := range []wire.Kind{wire.KindCPU, wire.KindRAM, wire.KindNetwork, wire.KindAlert, wire.KindCommand, wire.KindScaling,
		wire.KindRateLimiting, wire.KindPresence, wire.KindStatements, wire.KindRevocations, wire.KindDigest} {
		all = append(all, wire.Filter(k, site))
	}
	return all
}

// Close releases what Open opened, for a part that will not run.
func (p *Part) Close() error { return errors.Join(p.metrics.Close(), p.session.Close()) }

// Run keeps messages until ctx ends. The recorder outlives its session, so that
// everything received is kept.
func (p *Part) Run(ctx context.Context) error { return p.metrics.Around(ctx, p.run) }

func (p *Part) run(ctx context.Context) (err error) {
	transparency, err := translog.Open(ctx, p.transparency)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return p.session.Close() // asked to stop before it had begun
	}
	if err != nil {
		return errors.Join(err, p.session.Close())
	}
	defer func() { err = errors.Join(err, closeLog(ctx, transparency)) }()
	segments, err := p.openSegments()
	if err != nil {
		return errors.Join(err, p.session.Close())
	}
	defer func() { err = errors.Join(err, segments.Close()) }()
	if p.recorder, err = New(Config{Transparency: transparency, Segments: segments, Log: p.log}); err != nil {
		return errors.Join(err, p.session.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var (
		running sync.WaitGroup
		failure error
	)
	running.Go(func() {
		defer cancel() // what cannot be kept must not be received either
		failure = p.recorder.Run(keeping)
	})
	running.Go(func() { p.journals.Run(ctx, transparency) })
	err = p.session.Run(ctx)
	cancel()
	stop()
	running.Wait()
	return errors.Join(err, failure)
}

// load reads the configuration file and what it names.
func load(file string, log *slog.Logger) (settings records.Settings, bundle *site.Bundle, c translog.Config, err error) {
	if err = config.Load(file, &settings); err != nil {
		return settings, nil, c, err
	}
	if bundle, err = site.Open(settings.Settings, time.Now()); err != nil {
		return settings, nil, c, err
	}
	if role := bundle.Identity.Role; role != pki.RoleRecorder {
		return settings, nil, c, fmt.Errorf("opening a recorder: the bundle is of a %s", role)
	}
	key, err := translog.ReadKey(settings.LogKey())
	if err != nil {
		return settings, nil, c, err
	}
	if key.VKey() != bundle.Document.LogKey {
		return settings, nil, c, errors.New("opening a recorder: its log key is not the one that the site document names")
	}
	return settings, bundle, translog.Config{Dir: settings.Log(), Watermark: string(settings.Watermark),
		Origin: key.Origin(), Key: key, Log: log}, nil
}

func (p *Part) openSegments() (*segment.Writer, error) {
	if err := os.MkdirAll(p.segments, 0o700); err != nil {
		return nil, err
	}
	return segment.OpenWriter(segment.Config{Dir: p.segments, Log: p.log})
}

// closeTimeout bounds what closing the log may take: what waits is written and
// a last checkpoint is signed.
const closeTimeout = 10 * time.Second

func closeLog(ctx context.Context, l *translog.Log) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return l.Close(ctx)
}
