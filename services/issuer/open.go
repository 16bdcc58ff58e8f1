package issuer

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"levee/envelope/ownkey"
	"levee/internal/config"
	"levee/internal/durable"
	"levee/internal/issuance"
	"levee/internal/metrics"
	"levee/internal/records"
	"levee/internal/session"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
	"levee/pki/seal"
)

// The issuer's files beside those of every bundle.
const (
	FileKey       = "machines.key" // of the site's machine authority, in the bundle
	FileJournal   = "journal"      // in the state directory
	FileWatermark = "newest"       // in the watermark's directory
)

// maxIssued bounds provisioning's journal in bytes.
const maxIssued = 256 << 20

// Settings are an issuer's configuration file.
type Settings struct {
	site.Settings `yaml:",inline"`
	// Listen is the address and port of the HTTP side.
	Listen string `yaml:"listen"`
	// Lifetime is that of every certificate; 720h, which is the longest, if
	// absent.
	Lifetime time.Duration `yaml:"lifetime,omitempty"`
	// Key is the private key of the site's machine authority, sealed or not;
	// machines.key in the bundle if absent. Its certificate lies beside it, and
	// ends in .pem instead of .key.
	Key config.Path `yaml:"key,omitempty"`
	// PassphraseCredential names the credential of systemd that opens the key;
	// absent for one that is not sealed.
	PassphraseCredential string `yaml:"passphrase_credential,omitempty"`
	// Watermark is a file that remembers how far the journal has come. It lies
	// where a copy of the state directory does not reach.
	Watermark config.Path `yaml:"watermark"`
	// Digest is the interval of digests; a minute if absent.
	Digest time.Duration `yaml:"digest_interval,omitempty"`
	// MetricsListen is the loopback address and port where GET /metrics is
	// answered; nothing listens if it is absent.
	MetricsListen string `yaml:"metrics_listen,omitempty"`
}

// Part is an issuer with its session, as a process runs it.
type Part struct {
	issuer  *Issuer
	server  *server
	socket  net.Listener
	journal *issuance.Journal
	session *session.Session
	metrics *metrics.Server
	log     *slog.Logger
}

// Open reads an issuer's configuration file and everything that it names, and
// listens. It answers nobody before Run.
func Open(file string, log *slog.Logger) (*Part, error) {
	var settings Settings
	if err := config.Load(file, &settings); err != nil {
		return nil, err
	}
	if settings.Lifetime == 0 {
		settings.Lifetime = pki.MaxMachineLifetime
	}
	if settings.Watermark == "" || settings.Listen == "" {
		return nil, errors.New("opening an issuer: the configuration names no listen or no watermark")
	}
	bundle, err := site.Open(settings.Settings, time.Now())
	if err != nil {
		return nil, err
	}
	if bundle.Identity.Role != pki.RoleIssuer {
		return nil, fmt.Errorf("opening an issuer: the bundle is of a %s", bundle.Identity.Role)
	}
	p := &Part{log: log}
	if err := p.open(settings, bundle); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Part) open(settings Settings, bundle *site.Bundle) error {
	now := time.Now()
	authority, err := settings.authority(bundle, now)
	if err != nil {
		return fmt.Errorf("opening an issuer: %w", err)
	}
	mark := &watermark{path: string(settings.Watermark), journal: bundle.Identity.Name}
	c := Config{Identity: bundle.Identity, Authority: authority, Root: bundle.Root, Verifier: bundle.Verifier, Pins: bundle.Document,
		Lifetime: settings.Lifetime, Seen: mark.write, Log: p.log, Credentials: bundle.Credentials,
		Key: func() (crypto.Signer, error) {
			return pki.ReadKey(filepath.Join(string(settings.Bundle), site.FileKey))
		}}
	issued := filepath.Join(string(settings.Bundle), records.FileMachines)
	c.More = func() ([]*x509.Certificate, error) { return readIssued(issued, c) }
	if p.issuer, err = New(c); err != nil {
		return err
	}
	p.journal, err = openJournal(issuance.Config{Path: filepath.Join(bundle.State, FileJournal), Name: bundle.Identity.Name,
		Key: authority.Signer, Issuer: authority.Certificate, Root: bundle.Root, Verifier: bundle.Verifier}, mark, p.issuer.Restore, p.log, now)
	if err != nil {
		return fmt.Errorf("opening an issuer: %w", err)
	}
	p.issuer.Continue(p.journal)
	ring, err := ownkey.Load(bundle.KeyFile)
	if err != nil {
		return fmt.Errorf("opening an issuer: %w", err)
	}
	p.session, err = session.New(session.Config{Bundle: bundle, Ring: ring, Digest: settings.Digest, Log: p.log})
	if err != nil {
		return err
	}
	if p.socket, err = net.Listen("tcp", settings.Listen); err != nil {
		return fmt.Errorf("opening an issuer: %w", err)
	}
	p.server = newServer(p.issuer, p.socket, bundle.Credentials)
	p.metrics, err = metrics.Open(metrics.Config{Listen: settings.MetricsListen, Source: p.session, More: p.issuer.families(), Log: p.log})
	return err
}

// authority opens the key and the certificate of the site's machine authority.
func (s Settings) authority(bundle *site.Bundle, now time.Time) (ca.Issuer, error) {
	path := string(s.Key)
	if path == "" {
		path = filepath.Join(string(s.Bundle), FileKey)
	}
	stem, ok := strings.CutSuffix(path, ".key")
	if !ok {
		return ca.Issuer{}, fmt.Errorf("key: %s does not end in .key", path)
	}
	var ask func() (seal.Passphrase, error) // nil refuses a sealed key
	if s.PassphraseCredential != "" {
		ask = func() (seal.Passphrase, error) { return seal.Ask(seal.Source{Credential: s.PassphraseCredential}) }
	}
	key, err := ca.OpenKey(path, ask)
	if err != nil {
		return ca.Issuer{}, err
	}
	cert, err := pki.ReadCertificate(stem + ".pem")
	if err != nil {
		return ca.Issuer{}, err
	}
	if is, err := bundle.Verifier.VerifyAuthority(cert, now); err != nil {
		return ca.Issuer{}, fmt.Errorf("%s.pem: %w", stem, err)
	} else if is != bundle.Identity.Authority() {
		return ca.Issuer{}, fmt.Errorf("%s.pem is the authority of %s, not of %s", stem, is.Host(), bundle.Identity.Host())
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(cert.PublicKey) {
		return ca.Issuer{}, fmt.Errorf("%s is not the key of %s.pem", path, stem)
	}
	return ca.Issuer{Certificate: cert, Signer: key}, nil
}

// readIssued returns the certificates in provisioning's journal, none if it is
// not in the bundle.
func readIssued(path string, c Config) ([]*x509.Certificate, error) {
	b, err := durable.ReadFile(path, maxIssued)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	check := issuance.NewChecker(c.Root, c.Verifier, c.Identity.Authority(), issuance.Deployer, issuance.Position{})
	for line := range strings.Lines(string(b)) {
		e, err := check.Next([]byte(strings.TrimSuffix(line, "\n")))
		if err != nil {
			return certs, err
		}
		if e.Certificate != nil {
			certs = append(certs, e.Certificate)
		}
	}
	return certs, nil
}

// Address returns where the issuer listens.
func (p *Part) Address() string { return p.socket.Addr().String() }

// Close releases what Open opened, for a part that will not run.
func (p *Part) Close() error {
	errs := []error{p.metrics.Close()}
	if p.socket != nil {
		errs = append(errs, p.socket.Close())
	}
	if p.session != nil {
		errs = append(errs, p.session.Close())
	}
	if p.journal != nil {
		errs = append(errs, p.journal.Close())
	}
	return errors.Join(errs...)
}

// Run issues and publishes until ctx ends. What was begun is finished, and what
// was revoked is published, before it returns.
func (p *Part) Run(ctx context.Context) error {
	p.issuer.tendOwn(time.Now()) // nobody could connect to one that has expired
	err := p.metrics.Around(ctx, func(ctx context.Context) error { return p.session.Around(ctx, p.run) })
	p.issuer.see()
	return errors.Join(err, p.journal.Close())
}

func (p *Part) run(ctx context.Context) error {
	p.log.Info("issuing", slog.String("listen", p.Address()), slog.Duration("lifetime", p.issuer.config.Lifetime),
		slog.Uint64("entries", p.journal.Position().Lines))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var workers sync.WaitGroup
	workers.Go(func() { p.issuer.publish(ctx, p.session) })
	workers.Go(func() { p.issuer.tend(ctx) })
	err := p.server.run(ctx)
	cancel()
	workers.Wait()
	return err
}
