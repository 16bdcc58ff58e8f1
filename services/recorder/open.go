package recorder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"levee/envelope/keys"
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
	witnessing   *witnessing
	outward      *outward // nil: there is no SIEM
	metrics      *metrics.Server
	settings     records.Settings
	site         string
	figures      *Figures
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
	if settings.Retention != 0 && settings.Retention < records.LeastRetention {
		return nil, fmt.Errorf("opening a recorder: retention: %s is less than %s", settings.Retention, records.LeastRetention)
	}
	outward, err := openOutward(settings.SIEM, bundle.Identity, log)
	if err != nil {
		return nil, fmt.Errorf("opening a recorder: %w", err)
	}
	// Errors are told of, but for the session's: what it refuses is told as that.
	transparency.Log = outward.logger(log)
	p := &Part{settings: settings, site: bundle.Identity.Site, figures: new(Figures), transparency: transparency, outward: outward, log: transparency.Log}
	if p.journals, err = newImporter(settings, bundle, p.log); err != nil {
		return nil, err
	}
	ring, err := keys.Load(bundle.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("opening a recorder: %w", err)
	}
	p.session, err = session.New(session.Config{
		Bundle:  bundle,
		Ring:    ring,
		Filters: filters(bundle.Identity.Site),
		Handle:  func(d session.Delivery) { p.recorder.Deliver(d) },
		Refused: func(r session.Refusal) { p.recorder.Refuse(r) },
		Acks:    ring,
		Log:     log,
	})
	if err != nil {
		return nil, err
	}
	verifier := bundle.Verifier
	if revoked := p.session.Revocations(); revoked != nil {
		verifier = verifier.WithRevocations(revoked)
	}
	if p.witnessing, err = openWitnessing(settings, bundle, verifier, transparency); err != nil {
		return nil, errors.Join(err, p.session.Close())
	}
	p.metrics, err = metrics.Open(metrics.Config{Listen: settings.MetricsListen, Source: p.session,
		More: slices.Concat(p.journals.Metrics(), p.figures.Metrics(), p.witnessing.families(), outward.families()), Log: log})
	if err != nil {
		return nil, errors.Join(err, p.witnessing.close(), p.session.Close())
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

// filters are everything that is sealed, but acknowledgements.
func filters(site string) []string {
	var all []string
	for _, k := range []wire.Kind{wire.KindCPU, wire.KindRAM, wire.KindNetwork, wire.KindAlert, wire.KindCommand, wire.KindScaling,
		wire.KindRateLimiting, wire.KindPresence, wire.KindStatements, wire.KindRevocations, wire.KindDigest, wire.KindBackfill} {
		all = append(all, wire.Filter(k, site))
	}
	return all
}

// Close releases what Open opened, for a part that will not run.
func (p *Part) Close() error {
	return errors.Join(p.metrics.Close(), p.witnessing.close(), p.session.Close())
}

// Run keeps messages until ctx ends. The recorder outlives its session, so that
// everything received is kept.
func (p *Part) Run(ctx context.Context) error {
	return p.outward.around(ctx, func(ctx context.Context) error {
		return p.metrics.Around(ctx, func(ctx context.Context) error { return p.witnessing.around(ctx, p.run) })
	})
}

func (p *Part) run(ctx context.Context) (err error) {
	if err := p.witnessing.ask(ctx); err != nil {
		return errors.Join(err, p.session.Close())
	}
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
	logged := p.outward.log(transparency)
	if p.recorder, err = p.restore(ctx, logged, segments); err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			err = nil
		}
		return errors.Join(err, p.session.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var (
		running      sync.WaitGroup
		failure      error
		contradicted error
	)
	running.Go(func() {
		defer cancel() // what cannot be kept must not be received either
		failure = p.recorder.Run(keeping)
	})
	running.Go(func() { p.journals.Run(ctx, logged) })
	running.Go(func() {
		if contradicted = p.witnessing.run(ctx, transparency); contradicted != nil {
			cancel() // what it records belongs to no log
		}
	})
	err = p.session.Run(ctx)
	cancel()
	stop()
	running.Wait()
	return errors.Join(err, failure, contradicted)
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
	if err := os.MkdirAll(p.settings.Segments(), 0o700); err != nil {
		return nil, err
	}
	return segment.OpenWriter(segment.Config{Dir: p.settings.Segments(), Log: p.log})
}

// restore makes the recorder, which knows what is held.
func (p *Part) restore(ctx context.Context, transparency journals.Log, segments *segment.Writer) (*Recorder, error) {
	head, err := transparency.Checkpoint(ctx) // of everything that a crash left in the tree
	if err != nil {
		return nil, err
	}
	held, err := Restore(ctx, Restoring{Note: p.settings.Held(), Segments: p.settings.Segments(), Records: p.settings.Log(),
		Size: head.Tree.N, Transparency: transparency, Logger: p.log})
	if err != nil {
		return nil, err
	}
	return New(Config{Site: p.site, Transparency: transparency, Segments: segments, Session: p.session, Held: held, Note: p.settings.Held(),
		Retention: p.settings.Retention, Deletions: p.settings.Deletions(), Figures: p.figures, Evidence: p.outward.evidence(), Log: p.log})
}

// closeTimeout bounds what closing the log may take: what waits is written and
// a last checkpoint is signed.
const closeTimeout = 10 * time.Second

func closeLog(ctx context.Context, l *translog.Log) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return l.Close(ctx)
}
