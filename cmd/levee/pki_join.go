package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/envelope/keys"
	"levee/internal/config"
	"levee/internal/durable"
	"levee/internal/enrol"
	"levee/internal/issuance"
	"levee/internal/site"
	"levee/pki"
	"levee/pki/ca"
)

// fileRequest is what an operator signs a token for, in the bundle that joins.
const fileRequest = "join.csr"

// joinTaker is who lets machines join; *enrol.Client is one.
type joinTaker interface {
	Join(ctx context.Context, request, token []byte) (leaf, issuer *x509.Certificate, err error)
}

// joining is a bundle without a certificate.
type joining struct {
	dir   string
	trust *site.Trust
	id    pki.Identity // as its envelope keys say
}

func openJoining(dir string, now time.Time) (*joining, error) {
	trust, err := site.OpenTrust(site.Settings{Bundle: config.Path(dir), Evaluation: true}, now)
	if err != nil {
		return nil, err
	}
	ring, err := keys.Load(filepath.Join(dir, site.FileKeys))
	if err != nil {
		return nil, fmt.Errorf("%w; envelope keys come with the bundle, from the deployer: no issuer has them", err)
	}
	_, kid := ring.Own()
	if kid.Site != trust.Document.Site {
		return nil, fmt.Errorf("opening bundle %s: the envelope keys are of site %q, the site document of %q", dir, kid.Site, trust.Document.Site)
	}
	j := &joining{dir: dir, trust: trust, id: pki.Identity{TrustDomain: trust.Verifier.TrustDomain(), Site: kid.Site, Role: pki.Role(kid.Role), Name: kid.Name}}
	return j, j.vacant()
}

// vacant refuses a bundle that has a certificate: it is never written over.
func (j *joining) vacant() error {
	switch _, err := os.Lstat(j.file(site.FileChain)); {
	case err == nil:
		return fmt.Errorf("%s has a certificate already: levee pki renew %s renews it", j.id.Sender(), j.dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

func (j *joining) file(name string) string { return filepath.Join(j.dir, name) }

// ask makes the machine's key, once, and a request for it. It returns the key as
// tokens name it.
func (j *joining) ask() (spki string, err error) {
	if err := j.sweep(); err != nil {
		return "", err
	}
	key, err := pki.ReadKey(j.file(site.FileKey))
	if errors.Is(err, fs.ErrNotExist) {
		key, err = j.makeKey()
	}
	if err != nil {
		return "", err
	}
	der, spki, err := j.request(key)
	if err != nil {
		return "", err
	}
	return spki, durable.WriteFile(j.file(fileRequest), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), 0o644)
}

// makeKey returns a new key that is on disk.
func (j *joining) makeKey() (crypto.Signer, error) {
	key, err := pki.NewKey(j.id.Role)
	if err != nil {
		return nil, err
	}
	text, err := pki.MarshalKey(key)
	if err != nil {
		return nil, err
	}
	return key, durable.WriteNew(j.file(site.FileKey), text, 0o600)
}

// sweep removes what a run that was cut short left of its files: a whole key,
// perhaps, that nobody uses.
func (j *joining) sweep() error {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		of, ok := durable.Leftover(e.Name())
		if !ok || !e.Type().IsRegular() || of != site.FileKey && of != site.FileChain && of != fileRequest {
			continue
		}
		if err := durable.Remove(j.file(e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// request returns a PKCS#10 for the key, DER, and the key as tokens name it. Its
// name is for people: the identity is the token's.
func (j *joining) request(key crypto.Signer) (der []byte, spki string, err error) {
	der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: j.id.ClientID()}}, key)
	if err != nil {
		return nil, "", fmt.Errorf("making the request: %w", err)
	}
	request, err := ca.ParseRequest(der)
	if err != nil {
		return nil, "", fmt.Errorf("making the request: %w", err)
	}
	return der, issuance.SPKIText(request.RawSubjectPublicKeyInfo), nil
}

// readToken returns the token of a file, if it is for this bundle and its key.
// Whether it is fresh, the issuer says.
func (j *joining) readToken(path, spki string) ([]byte, error) {
	token, err := durable.ReadFile(path, issuance.MaxOrder+2)
	if err != nil {
		return nil, err
	}
	token = bytes.TrimSpace(token) // an editor's newline
	order, err := issuance.ParseOrder(token, j.trust.Root, j.trust.Verifier, j.id.Authority())
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case order.Kind != issuance.Join:
		return nil, fmt.Errorf("%s is no token: it orders to %s", path, order.Kind)
	case order.Identities[0] != j.id:
		return nil, fmt.Errorf("%s is for %s, and this bundle is %s's", path, order.Identities[0].Sender(), j.id.Sender())
	case order.SPKI != spki:
		return nil, fmt.Errorf("%s is for key %s, and the key here is %s: have one signed for that", path, order.SPKI, spki)
	}
	return token, nil
}

// join trades the token for a certificate, and keeps that when it is this
// machine's. Until then nothing changes: asked again with the same token, the
// issuer gives the same certificate.
func (j *joining) join(ctx context.Context, issuer joinTaker, path string) (*x509.Certificate, error) {
	key, err := pki.ReadKey(j.file(site.FileKey))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usage(fmt.Errorf("%s holds no key that a token could be for: begin with levee pki join %s", j.dir, j.dir))
	}
	if err != nil {
		return nil, err
	}
	der, spki, err := j.request(key)
	if err != nil {
		return nil, err
	}
	token, err := j.readToken(path, spki)
	if err != nil {
		return nil, failure{exitVerification, err}
	}
	leaf, by, err := issuer.Join(ctx, der, token)
	if err != nil {
		return nil, j.refused(err)
	}
	keyPEM, chain, err := pki.MarshalCredential(key, leaf, by)
	if err == nil {
		_, err = pki.ParseCredential(keyPEM, chain)
	}
	if err == nil {
		var is pki.Identity
		if is, err = j.trust.Verifier.Verify(leaf, by, pki.UsageSign, time.Now()); err == nil && is != j.id {
			err = fmt.Errorf("it is of %s", is.Sender())
		}
	}
	if err != nil {
		return nil, failure{exitVerification, fmt.Errorf("the issuer's certificate is not kept: %w", err)}
	}
	if err := durable.WriteNew(j.file(site.FileChain), chain, 0o644); errors.Is(err, fs.ErrExist) {
		return nil, j.vacant()
	} else if err != nil {
		return nil, err
	}
	_ = durable.Remove(j.file(fileRequest)) // one that stays is of no harm
	return leaf, nil
}

// refused says what to do about an issuer's refusal.
func (j *joining) refused(err error) error {
	why, ok := errors.AsType[*enrol.Refused](err)
	if !ok {
		return fmt.Errorf("%w; nothing is lost: the same token may be used again while it lasts", err)
	}
	reason, _, _ := strings.Cut(why.Text, ":")
	switch {
	case why.RetryAfter > 0:
		err = fmt.Errorf("%w; ask again in %s", err, why.RetryAfter)
	case reason == "order", reason == "revoked":
		err = fmt.Errorf("%w; have a new token signed: levee pki token", err)
	case reason == "key":
		err = fmt.Errorf("%w; if no certificate of it came here, remove %s and begin anew: levee pki join %s", err, j.file(site.FileKey), j.dir)
	}
	return failure{exitVerification, err}
}

func joinCommand() *cobra.Command {
	var token, issuer string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "join BUNDLE",
		Short: "enrol this machine with a one-time token",
		Long: `Give a machine its first certificate, for a key that never leaves it. The bundle
is one without key and certificate (levee pki export --to join):

  the deployer  levee pki export --to join --bundle bank/bundles/melb/sensor/web-9 --out web-9
  here          levee pki join /etc/levee/sensor
  an operator   levee pki token melb/sensor/web-9 --key KEY --to web-9.token --reason 'new server'
  here          levee pki join /etc/levee/sensor --token web-9.token

The first join makes the key and shows it as KEY; the second hands in the token.
Run both as the user that the part will run as. If an answer is lost, run the
second again: the issuer gives the same certificate while the token lasts. A
certificate that is there is never written over.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the token is not for this machine, or the issuer refuses.`,
		Example: "  levee pki join /etc/levee/sensor --token web-9.token",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(errors.New("which bundle? levee pki join DIRECTORY"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			j, err := openJoining(args[0], time.Now())
			if err != nil {
				return err
			}
			who, out := j.id.Sender(), cmd.OutOrStdout()
			if token == "" {
				spki, err := j.ask()
				if err != nil {
					return err
				}
				return told(out, asJSON, map[string]any{"identity": who, "key": spki, "request": j.file(fileRequest)},
					"%[1]s has the key %[2]s, which stays in %[3]s\nnow an operator: levee pki token %[1]s --key %[2]s --to FILE --reason WHY\nthen here:       levee pki join %[4]s --token FILE\n",
					who, spki, j.file(site.FileKey), j.dir)
			}
			settings, err := partSettings(j.dir, j.id)
			if err != nil {
				return err
			}
			if issuer == "" {
				issuer = settings.Issuer
			}
			if issuer == "" {
				return usage(errors.New("the bundle names no issuer: give --issuer host:port"))
			}
			client, err := enrol.New(enrol.Config{Address: issuer, Verifier: j.trust.Verifier, Host: j.id.Host()})
			if err != nil {
				return err
			}
			leaf, err := j.join(cmd.Context(), client, token)
			if err != nil {
				return err
			}
			return told(out, asJSON, map[string]any{"identity": who, "expires": leaf.NotAfter.UTC()}, "%s has a certificate until %s\n", who, leaf.NotAfter.UTC().Format(time.RFC3339))
		},
	}
	cmd.Flags().StringVar(&token, "token", "", "the `file` that levee pki token wrote")
	cmd.Flags().StringVar(&issuer, "issuer", "", "the issuer's `host:port`, in place of the one in the bundle's configuration file")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}
