package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/durable"
	"levee/internal/provision"
)

// maxCarried bounds a file that somebody carried here.
const maxCarried = 1 << 20

// asked is what csr and sign-issuer print with --json.
type asked struct {
	File        string           `json:"file"`
	Digest      string           `json:"digest"`
	Authorities []askedAuthority `json:"authorities"`
}

type askedAuthority struct {
	Site     string   `json:"site"`
	Class    string   `json:"class"`
	Host     string   `json:"host"`
	Networks []string `json:"networks"`
	DNS      []string `json:"dns"`
	Key      string   `json:"key"` // SHA-256
}

func askedOf(file string, q *provision.Requests) asked {
	a := asked{File: file, Digest: q.Digest}
	for _, r := range q.Authorities {
		one := askedAuthority{Site: r.Authority.Site, Class: r.Authority.Class.String(), Host: r.Authority.Host(),
			Networks: []string{}, DNS: append([]string{}, r.Zones.DNS...), Key: fmt.Sprintf("%x", r.Key)}
		for _, n := range r.Zones.Networks {
			one.Networks = append(one.Networks, n.String())
		}
		a.Authorities = append(a.Authorities, one)
	}
	return a
}

func (a asked) text() []byte {
	var b bytes.Buffer
	for _, r := range a.Authorities {
		fmt.Fprintf(&b, "authority of the %s class of site %s\n  host      %s\n  networks  %v\n  DNS       %v\n  key       %s\n", r.Class, r.Site, r.Host, r.Networks, r.DNS, r.Key)
	}
	fmt.Fprintf(&b, "digest of all of this: %s\n", a.Digest)
	return b.Bytes()
}

func csrCommand() *cobra.Command {
	var (
		p           place
		passphrases passphraseFlags
		site        string
		unsealed    bool
	)
	cmd := &cobra.Command{
		Use:   "csr",
		Short: "ask an offline root for the authorities of a new site",
		Long: `Make the keys of a new site's two authorities, and a request for their
certificates, without the root's key:

  here          levee pki csr --inventory inventory.yaml --out bank --site perth
  at the root   levee pki sign-issuer --authority DIRECTORY --request request.pem --to answer.pem
  here          levee pki accept --inventory inventory.yaml --out bank --site perth answer.pem
  here          levee pki apply --inventory inventory.yaml --out bank

The keys never leave this machine. Compare the digest at both ends: who carries
the request could have swapped it. Running it again asks for the same.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := passphrases.check(); err != nil {
				return err
			}
			c, err := p.load()
			if err != nil {
				return err
			}
			if site == "" {
				return usage(errors.New("which site? give --site NAME, as in the inventory"))
			}
			unlock, err := hold(c.Dir)
			if err != nil {
				return err
			}
			defer unlock()
			c.Passphrase, c.Unsealed = passphrases.ask, unsealed
			requests, file, err := c.Request(site, time.Now())
			if err != nil {
				return found(err)
			}
			a := askedOf(file, requests)
			if p.asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(a)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%scarry %s to where the root is, and there: levee pki sign-issuer\n", a.text(), file)
			return err
		},
	}
	p.add(cmd)
	passphrases.add(cmd)
	cmd.Flags().StringVar(&site, "site", "", "the `name` of the site")
	cmd.Flags().BoolVar(&unsealed, "unsealed", false, "write the keys without a passphrase: for evaluation")
	return cmd
}

// found gives drift its exit code.
func found(err error) error {
	if errors.Is(err, provision.ErrDrift) {
		return failure{exitVerification, err}
	}
	return err
}

func signIssuerCommand() *cobra.Command {
	var (
		passphrases            passphraseFlags
		authority, request, to string
		yes                    string
		asJSON                 bool
	)
	cmd := &cobra.Command{
		Use:   "sign-issuer",
		Short: "sign a new site's authorities, where the root is",
		Long: `Show what levee pki csr asks for, and sign it with the root, after a person has
agreed: on a terminal, or with --yes and the digest that levee pki csr showed.

Exit codes: 0 signed, 1 failed, 2 nobody to ask, 3 the request is another one.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := passphrases.check(); err != nil {
				return err
			}
			if authority == "" || request == "" || to == "" {
				return usage(errors.New("give --authority DIRECTORY with root.key and root.pem, --request FILE and --to FILE"))
			}
			text, err := durable.ReadFile(request, maxCarried)
			if err != nil {
				return err
			}
			trustDomain, err := provision.RootDomain(authority)
			if err != nil {
				return err
			}
			requests, err := provision.ParseRequests(text, trustDomain)
			if err != nil {
				return fmt.Errorf("%s: %w", request, err)
			}
			a := askedOf(to, requests)
			if !asJSON {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "to be signed by the root of %s:\n%s", trustDomain, a.text()); err != nil {
					return err
				}
			}
			if err := confirm(cmd.OutOrStdout(), a.Digest, yes); err != nil {
				return err
			}
			answer, err := provision.Config{Passphrase: passphrases.ask}.SignRequests(authority, requests, time.Now())
			if err != nil {
				return err
			}
			if err := durable.CreateFile(to, answer, 0o644); err != nil {
				if errors.Is(err, fs.ErrExist) {
					return fmt.Errorf("%s is there already", to)
				}
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(a)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "signed: carry %s back, and there: levee pki accept\n", to)
			return err
		},
	}
	cmd.Flags().StringVar(&authority, "authority", "", "the `directory` with root.key and root.pem")
	cmd.Flags().StringVar(&request, "request", "", "the `file` that levee pki csr wrote")
	cmd.Flags().StringVar(&to, "to", "", "the `file` to write")
	cmd.Flags().StringVar(&yes, "yes", "", "sign the request with this `digest` without asking")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	passphrases.add(cmd)
	return cmd
}

func acceptCommand() *cobra.Command {
	var (
		p    place
		site string
	)
	cmd := &cobra.Command{
		Use:   "accept FILE",
		Short: "take the authorities that the root signed for a new site",
		Long: `Take what levee pki sign-issuer wrote. Every certificate must be for the key that
was asked with, of the site, class and networks of the inventory, below this
directory's root.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(errors.New("which file? name the one that levee pki sign-issuer wrote"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			if site == "" {
				return usage(errors.New("which site? give --site NAME, as in the inventory"))
			}
			text, err := durable.ReadFile(args[0], maxCarried)
			if err != nil {
				return err
			}
			if _, err := os.Stat(c.Dir); err != nil {
				return err
			}
			unlock, err := hold(c.Dir)
			if err != nil {
				return err
			}
			defer unlock()
			paths, err := c.Accept(site, text, time.Now())
			if err != nil {
				return failure{exitVerification, err}
			}
			return told(cmd.OutOrStdout(), p.asJSON, map[string]any{"files": paths}, "accepted %v; next: levee pki apply\n", paths)
		},
	}
	p.add(cmd)
	cmd.Flags().StringVar(&site, "site", "", "the `name` of the site")
	return cmd
}

// told prints one thing, as JSON or as text.
func told(out io.Writer, asJSON bool, value any, format string, args ...any) error {
	var err error
	if asJSON {
		err = json.NewEncoder(out).Encode(value)
	} else {
		_, err = fmt.Fprintf(out, format, args...)
	}
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
