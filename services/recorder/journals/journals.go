// Package journals puts what was issued and revoked into the transparency log:
// the deployer's journals from the recorder's bundle, and the issuer's over
// HTTPS. docs/records.md, section 1.7, specifies it.
//
// It guarantees that a line which it appends was verified from the root and
// continues what the log has of its journal, that no crash makes it append a
// line twice or leave one out, and that a journal which is shorter or another
// one than what was imported of it is refused whole. It says so, loudly, and
// goes on asking: it stops nothing, and no message waits for it. Nor does one
// journal that has no end keep it from the others.
//
// It does not guarantee that a journal is complete: whoever holds an
// authority's key can issue and write nothing down. The audit finds what such a
// certificate signed.
package journals

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"levee/internal/issuance"
	"levee/internal/records"
	"levee/internal/translog/proof"
	"levee/pki"
)

const (
	every    = time.Minute // how often sources are looked at
	maxBatch = 64          // lines that share one write of the log
)

// Log is the transparency log; *translog.Log is one.
type Log interface {
	// AppendAll returns when the entries are durable and part of the tree. If it
	// fails, each of them may be, or not.
	AppendAll(ctx context.Context, entries [][]byte) (indices []uint64, err error)
	// Checkpoint covers everything that AppendAll acknowledged before.
	Checkpoint(ctx context.Context) (proof.Checkpoint, error)
}

// Issuer answers with lines of its journal; *enrol.Client is one.
type Issuer interface {
	Journal(ctx context.Context, name string, from uint64) ([][]byte, error)
}

// Config is what an importer needs. All but Issuer is required.
type Config struct {
	Site     string
	Root     *x509.Certificate
	Verifier *pki.Verifier
	Bundle   string // directory with the deployer's journals
	Log      string // directory of the transparency log
	State    string // file that notes how far the import has come
	Issuer   Issuer // nil: the site has none
	Logger   *slog.Logger
}

// Importer imports one site's journals.
type Importer struct {
	config Config
	log    Log // while Run runs

	machines, people file
	issuer           source

	// What the log has. It is known once it was read from there.
	known  bool
	tracks map[key]*track
	noted  note // what the state file holds

	// name is the issuer's, by the deployer's journal; "" if not known.
	name string
}

// New checks the configuration.
func New(c Config) (*Importer, error) {
	if !pki.ValidSite(c.Site) || c.Root == nil || c.Verifier == nil || c.Bundle == "" || c.Log == "" || c.State == "" || c.Logger == nil {
		return nil, errors.New("importing journals: site, root, verifier, bundle, log, state or logger is missing")
	}
	i := &Importer{config: c}
	i.machines.name, i.machines.class = records.FileMachines, pki.ClassMachine
	i.people.name, i.people.class = records.FilePeople, pki.ClassPerson
	i.issuer.name = "issuer"
	return i, nil
}

func (i *Importer) sources() []*source {
	return []*source{&i.machines.source, &i.people.source, &i.issuer}
}

func (i *Importer) authority(class pki.Class) pki.Authority {
	return pki.Authority{TrustDomain: i.config.Verifier.TrustDomain(), Site: i.config.Site, Class: class}
}

// Run imports into log until ctx ends. It is called once.
func (i *Importer) Run(ctx context.Context, log Log) {
	i.log = log
	now := time.Now()
	for _, s := range i.sources() {
		s.begin(now, s != &i.issuer || i.config.Issuer != nil)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		i.round(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// round looks at each source once.
func (i *Importer) round(ctx context.Context) {
	err := i.learn(ctx)
	i.settle(ctx, &i.machines.source, i.after(err, func() error { return i.importFile(ctx, &i.machines) }))
	i.settle(ctx, &i.people.source, i.after(err, func() error { return i.importFile(ctx, &i.people) }))
	if i.config.Issuer != nil {
		i.settle(ctx, &i.issuer, i.after(err, func() error { return i.importIssuer(ctx) }))
	}
	if !i.known {
		return
	}
	if err := i.remember(ctx); err != nil && ctx.Err() == nil {
		i.config.Logger.Warn("how far the journals were imported was not noted; the next start reads more of the log", slog.Any("error", err))
	}
}

// after calls next unless something went wrong before, or what the log has is
// not known any more.
func (i *Importer) after(err error, next func() error) error {
	if err != nil {
		return err
	}
	if !i.known {
		return errors.New("importing: what the log holds is not known")
	}
	return next()
}

// settle takes note of how an import went.
func (i *Importer) settle(ctx context.Context, s *source, err error) {
	if ctx.Err() != nil {
		return // asked to stop
	}
	absent := errors.Is(err, errAbsent)
	if absent && !s.expected {
		return // said before
	}
	s.settle(time.Now(), err, absent, i.config.Logger)
}

// errAbsent says that the bundle holds no such journal, and that none was ever
// imported.
var errAbsent = fmt.Errorf("the bundle holds no such journal: %w", fs.ErrNotExist)

// defect is a journal that is not what it must be. Nothing of it is imported but,
// of one that has no end, what came before it was found out.
type defect struct{ error }

func defectf(format string, args ...any) error { return defect{fmt.Errorf(format, args...)} }

func (d defect) Unwrap() error { return d.error }

// deployers is the key of the deployer's journal of a class.
func deployers(class pki.Class) key { return key{class, issuance.Deployer} }
