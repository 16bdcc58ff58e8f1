package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"levee/envelope"
	"levee/internal/config"
	"levee/internal/durable"
	"levee/internal/enrol"
	"levee/internal/issuance"
	"levee/internal/provision"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/pki/ca"
)

// orderTaker is who takes orders; *enrol.Client is one.
type orderTaker interface {
	Order(ctx context.Context, statement []byte) ([]byte, error)
}

// ordering is what the commands that order an issuer have in common.
type ordering struct {
	bundle bundleFlags
	issuer string
	to     string
	asJSON bool
	order  issuance.Order
	life   time.Duration

	authority   string // a deployer's directory, to sign with the people's authority
	passphrases passphraseFlags
}

func (o *ordering) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.bundle.dir, "dir", defaultDir, "state `directory` of levee up, to find the operator's bundle in")
	cmd.Flags().StringVar(&o.bundle.bundle, "bundle", "", "an operator's bundle `directory`, in place of the one in --dir")
	cmd.Flags().StringVar(&o.issuer, "issuer", "", "the issuer's `host:port`, in place of the one in the bundle's configuration file")
	cmd.Flags().StringVar(&o.order.Reason, "reason", "", "`why`, for those who read the record; required")
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "one JSON object")
}

// sign returns the signed order, and the bundle of who signs.
func (o *ordering) sign(kind issuance.OrderKind, now time.Time) ([]byte, *site.Bundle, error) {
	if o.order.Reason == "" {
		return nil, nil, usage(errors.New("why? give --reason: it is kept for good"))
	}
	b, err := o.bundle.open(now)
	if err != nil {
		return nil, nil, err
	}
	signer, sender, err := o.signer(b, now)
	if err != nil {
		return nil, nil, err
	}
	o.order.ID, o.order.Expires = wire.NewID(), now.Add(o.life).UnixMilli()
	statement, err := issuance.SignOrder(kind, o.order, sender, signer, now)
	if err != nil {
		return nil, nil, err
	}
	// As its issuer will: what it would refuse is said here, where it can be put right.
	machines := pki.Authority{TrustDomain: b.Identity.TrustDomain, Site: b.Identity.Site, Class: pki.ClassMachine}
	if _, err := issuance.ParseOrder(statement, b.Root, b.Verifier, machines); err != nil {
		return nil, nil, usage(err)
	}
	return statement, b, nil
}

// signer returns who signs: the person, or the people's authority of the site.
func (o *ordering) signer(b *site.Bundle, now time.Time) (*envelope.Signer, string, error) {
	if o.authority == "" {
		s, err := b.Signer()
		return s, b.Identity.Sender(), err
	}
	s, err := provision.Config{Dir: o.authority, Passphrase: o.passphrases.ask}.PeopleSigner(b.Identity.Site, now)
	return s, b.Identity.Site + "/ca/people", err
}

// client returns the issuer of the bundle's site.
func (o *ordering) client(b *site.Bundle) (*enrol.Client, error) {
	address := o.issuer
	if address == "" {
		dir := filepath.Dir(b.KeyFile)
		var settings site.Settings
		if err := config.Load(filepath.Join(dir, "levee-"+string(b.Identity.Role)+".yaml"), &settings); err != nil {
			return nil, fmt.Errorf("finding the issuer: %w; give --issuer host:port", err)
		}
		address = settings.Issuer
	}
	if address == "" {
		return nil, usage(errors.New("the bundle names no issuer: give --issuer host:port"))
	}
	machines := pki.Authority{TrustDomain: b.Identity.TrustDomain, Site: b.Identity.Site, Class: pki.ClassMachine}
	return enrol.New(enrol.Config{Address: address, Verifier: b.Verifier, Host: machines.Host(), Store: b.Credentials})
}

// give signs an order, hands it to the issuer, and shows what that says.
func (o *ordering) give(ctx context.Context, out io.Writer, kind issuance.OrderKind) error {
	statement, b, err := o.sign(kind, time.Now())
	if err != nil {
		return err
	}
	client, err := o.client(b)
	if err != nil {
		return err
	}
	return send(ctx, client, out, statement, o.asJSON, o.advice(kind))
}

// advice says what a person has to know who gave an order, or "".
func (o *ordering) advice(kind issuance.OrderKind) string {
	if kind != issuance.Revoke || len(o.order.Targets) == 0 {
		return ""
	}
	return "what was made for them within a minute after this order is revoked as well: make a new bundle later than that\n"
}

func send(ctx context.Context, to orderTaker, out io.Writer, statement []byte, asJSON bool, advice string) error {
	answer, err := to.Order(ctx, statement)
	if err != nil {
		var refused *enrol.Refused
		if errors.As(err, &refused) {
			return failure{exitVerification, err}
		}
		return err
	}
	var said map[string]any
	if err := json.Unmarshal(answer, &said); err != nil {
		return errors.New("the issuer's answer is not JSON")
	}
	if asJSON {
		return json.NewEncoder(out).Encode(said)
	}
	_, err = fmt.Fprintf(out, "done: %s\n%s", answer, advice)
	return err
}

func revokeCommand() *cobra.Command {
	o := ordering{life: 5 * time.Minute}
	cmd := &cobra.Command{
		Use:   "revoke [SITE/ROLE/NAME…]",
		Short: "revoke machines, or single certificates",
		Long: `Revoke every certificate that the machines named have, and, with --serial, single
certificates. Their sessions end within a second, and nothing brings them back but
a new bundle, made more than a minute after this order. The order is signed with the operator's certificate and stands in
the issuer's journal before it takes effect.

An operator may revoke machines. The deployer may revoke people as well: with
--authority DIRECTORY the order is signed by the people's authority, and the
bundle only carries it to the issuer.

Exit codes: 0 revoked, 1 the issuer was not reached, 2 wrong usage, 3 the issuer refuses.`,
		Example: "  levee pki revoke --bundle ann melb/sensor/web-1 --reason 'stolen disk'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args)+len(o.order.Serials) == 0 {
				return usage(errors.New("whom? levee pki revoke SITE/ROLE/NAME…, or --serial NUMBER"))
			}
			if err := o.passphrases.check(); err != nil {
				return err
			}
			o.order.Targets = args
			return o.give(cmd.Context(), cmd.OutOrStdout(), issuance.Revoke)
		},
	}
	o.add(cmd)
	o.passphrases.add(cmd)
	cmd.Flags().StringVar(&o.authority, "authority", "", "sign with the people's authority of this deployer's `directory`")
	cmd.Flags().StringArrayVar(&o.order.Serials, "serial", nil, "revoke the certificate with this serial `number`: 32 hexadecimal digits, as levee pki inspect shows it")
	cmd.Flags().Uint32Var(&o.order.Generation, "generation", 0, "refuse the targets' messages below this `generation` of keys as well")
	return cmd
}

func readmitCommand() *cobra.Command {
	o := ordering{life: 5 * time.Minute}
	cmd := &cobra.Command{
		Use:   "readmit [SITE/ROLE/NAME…]",
		Short: "let machines renew whose certificates have expired",
		Long: `Let the machines named, or with --all every machine that is not revoked, renew
once within a day although their certificates have expired: after an outage of
the issuer that lasted longer than their certificates. A revoked machine needs a
new bundle instead.

Exit codes: 0 readmitted, 1 the issuer was not reached, 2 wrong usage, 3 the issuer refuses.`,
		Example: "  levee pki readmit --bundle ann --all --reason 'the issuer was down for a month'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.order.All == (len(args) > 0) {
				return usage(errors.New("whom? levee pki readmit SITE/ROLE/NAME…, or --all"))
			}
			o.order.Targets = args
			return o.give(cmd.Context(), cmd.OutOrStdout(), issuance.Readmit)
		},
	}
	o.add(cmd)
	cmd.Flags().BoolVar(&o.order.All, "all", false, "every machine that is not revoked")
	return cmd
}

func tokenCommand() *cobra.Command {
	o := ordering{life: issuance.MaxOrderLife}
	var request, key string
	cmd := &cobra.Command{
		Use:   "token SITE/ROLE/NAME",
		Short: "sign a one-time token with which a machine enrols",
		Long: `Sign a token with which the holder of one key, and nobody else, gets its first
certificate from the issuer, once, within fifteen minutes. The key is the one that
levee pki join showed on that machine (--key), or that of a certificate request
(--request, PKCS#10, PEM or DER; its names mean nothing). A request that somebody
carried could have been swapped: with both, they must agree.

Exit codes: 0 signed, 1 failed, 2 wrong usage, 3 the request is for another key.`,
		Example: "  levee pki token --bundle ann melb/sensor/web-9 --key KEY --to web-9.token --reason 'new server'",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(errors.New("for whom? levee pki token SITE/ROLE/NAME"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if request == "" && key == "" || o.to == "" {
				return usage(errors.New("give --key KEY or --request FILE, and --to FILE"))
			}
			spki, err := keyOf(request, key)
			if err != nil {
				return err
			}
			o.order.Targets, o.order.SPKI = args, spki
			statement, _, err := o.sign(issuance.Join, time.Now())
			if err != nil {
				return err
			}
			if err := durable.CreateFile(o.to, statement, 0o600); err != nil {
				return err
			}
			return told(cmd.OutOrStdout(), o.asJSON, map[string]any{"file": o.to, "target": args[0], "spki": o.order.SPKI, "expires": time.UnixMilli(o.order.Expires).UTC()},
				"%s lets the holder of key %s enrol as %s, once, until %s\n", o.to, o.order.SPKI, args[0], time.UnixMilli(o.order.Expires).UTC().Format(time.RFC3339))
		},
	}
	o.add(cmd)
	cmd.Flags().StringVar(&key, "key", "", "the machine's `key`, 43 characters, as levee pki join shows it")
	cmd.Flags().StringVar(&request, "request", "", "the machine's certificate request, a `file`")
	cmd.Flags().StringVar(&o.to, "to", "", "the `file` to write the token to")
	return cmd
}

// keyOf returns the key that a token is for: as it was shown, or that of the
// request in a file.
func keyOf(request, shown string) (string, error) {
	if request == "" {
		return shown, nil // whether it is one, sign asks
	}
	text, err := durable.ReadFile(request, maxCarried)
	if err != nil {
		return "", err
	}
	asked, err := ca.ParseRequest(derOf(text, "CERTIFICATE REQUEST"))
	if err != nil {
		return "", fmt.Errorf("%s: %w", request, err)
	}
	spki := issuance.SPKIText(asked.RawSubjectPublicKeyInfo)
	if shown != "" && shown != spki {
		return "", failure{exitVerification, fmt.Errorf("%s is for key %s: somebody swapped it, or it is another machine's", request, spki)}
	}
	return spki, nil
}

func renewCommand() *cobra.Command {
	var issuer string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "renew BUNDLE",
		Short: "renew a machine's certificate now",
		Long: `Renew the certificate of a machine's bundle with the site's issuer, now: for a
guest, which runs no part of ours, or for a part that is not running. A running
part renews by itself. The new credential goes to the state directory that the
bundle's configuration names, or to BUNDLE/state; the bundle's own files stay.

Exit codes: 0 renewed, 1 failed, 2 wrong usage, 3 the issuer refuses.`,
		Example: "  levee pki renew /etc/levee/sensor",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(errors.New("which bundle? levee pki renew DIRECTORY"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			until, who, err := renew(cmd.Context(), args[0], issuer, time.Now())
			var refused *enrol.Refused
			if errors.As(err, &refused) {
				return failure{exitVerification, err}
			}
			if err != nil {
				return err
			}
			return told(cmd.OutOrStdout(), asJSON, map[string]any{"identity": who, "expires": until}, "%s has a certificate until %s\n", who, until.Format(time.RFC3339))
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "the issuer's `host:port`, in place of the one in the bundle's configuration file")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}
