package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"levee/internal/config"
	"levee/internal/enrol"
	"levee/internal/renewal"
	"levee/internal/site"
	"levee/pki"
)

// renew renews the certificate of a machine's bundle, and returns until when and
// for whom. A key that the site document pins is kept.
func renew(ctx context.Context, bundle, address string, now time.Time) (time.Time, string, error) {
	trust, err := site.OpenTrust(site.Settings{Bundle: config.Path(bundle), Evaluation: true}, now)
	if err != nil {
		return time.Time{}, "", err
	}
	c, err := pki.LoadCredential(filepath.Join(bundle, site.FileKey), filepath.Join(bundle, site.FileChain))
	if err != nil {
		return time.Time{}, "", err
	}
	id, err := trust.Verifier.Verify(c.Leaf(), c.Issuer(), pki.UsageClient, c.Leaf().NotBefore)
	if err != nil {
		return time.Time{}, "", err
	}
	if id.Role.Class() != pki.ClassMachine {
		return time.Time{}, "", fmt.Errorf("%s is a person, whose certificates are the deployer's to renew", id.Sender())
	}
	settings, err := partSettings(bundle, id)
	if err != nil {
		return time.Time{}, "", err
	}
	if address == "" {
		address = settings.Issuer
	}
	if address == "" {
		return time.Time{}, "", usage(errors.New("the bundle names no issuer: give --issuer host:port"))
	}
	if err := os.MkdirAll(string(settings.State), 0o700); err != nil {
		return time.Time{}, "", err
	}
	store, err := pki.OpenRenewable(filepath.Join(bundle, site.FileKey), filepath.Join(bundle, site.FileChain),
		filepath.Join(string(settings.State), site.FileRenewed), trust.Verifier)
	if err != nil {
		return time.Time{}, "", err
	}
	client, err := enrol.New(enrol.Config{Address: address, Verifier: trust.Verifier, Host: id.Host(), Store: store})
	if err != nil {
		return time.Time{}, "", err
	}
	_, pinned := trust.Document.Pinned(id.Sender(), store.Current().Leaf())
	r, err := renewal.New(renewal.Config{Store: store, Issuer: client, KeepKey: pinned, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return time.Time{}, "", err
	}
	if err := r.Now(ctx); err != nil {
		return time.Time{}, "", err
	}
	return store.Current().Leaf().NotAfter.UTC(), id.Sender(), nil
}

// partSettings returns what every configuration file says. A guest has none.
func partSettings(bundle string, id pki.Identity) (site.Settings, error) {
	s := struct {
		site.Settings `yaml:",inline"`
		Rest          map[string]any `yaml:",inline"` // what only that part knows
	}{}
	err := config.Load(filepath.Join(bundle, "levee-"+string(id.Role)+".yaml"), &s)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return site.Settings{}, err
	}
	if s.State == "" {
		s.State = config.Path(filepath.Join(bundle, "state"))
	}
	return s.Settings, nil
}

// derOf returns the DER of a file that is PEM of one type, or DER.
func derOf(text []byte, kind string) []byte {
	if block, _ := pem.Decode(text); block != nil && block.Type == kind {
		return block.Bytes
	}
	return text
}
