package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/provision"
	"levee/internal/provision/explain"
	"levee/internal/site"
)

func siteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "site",
		Short: "the site document: what every part of a site believes",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return incomplete(cmd, "what of the site document?")
		},
	}
	cmd.AddCommand(siteShowCommand(), siteSignCommand())
	return cmd
}

func siteShowCommand() *cobra.Command {
	var (
		root   string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:     "show FILE|BUNDLE",
		Short:   "show a site document, verified",
		Long:    "Show a site document: the file, or the one in a bundle.\n\nExit codes: 0 good, 3 a part would refuse it.",
		Example: "  levee site show bank/bundles/melb/sensor/web-1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(errors.New("which document? levee site show FILE, or the directory of a bundle"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			path := args[0]
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				path = filepath.Join(path, site.FileDocument)
			}
			e, err := inspect(path, root, time.Now())
			if err != nil {
				return err
			}
			if len(e.Items) != 1 || e.Items[0].Kind != explain.KindDocument {
				return fmt.Errorf("%s is no site document; levee pki inspect says what it is", path)
			}
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(e)
			} else {
				_, err = cmd.OutOrStdout().Write(explained(e))
			}
			if err == nil && !e.Good() {
				err = failure{exitVerification, errors.New("a part would refuse this")}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "judge by the root in this `file`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}

func siteSignCommand() *cobra.Command {
	var (
		p           place
		passphrases passphraseFlags
		name, yes   string
		generations []string
		edit        provision.Edit
	)
	cmd := &cobra.Command{
		Use:   "sign",
		Short: "sign the next site document, after showing what changes",
		Long: `Sign the next document of a site, with the next number, and give it to every
bundle. What follows from the inventory and the policy file is in it; flags change
the rest. What changes is shown first, and signed when a person agrees: on a
terminal, or with --yes and the digest of the change. Where nothing changes
nothing is signed. Parts refuse a document with a lower number than they have seen.

Exit codes: 0 signed, 1 failed or nothing would change, 2 nobody to ask, 3 drift, or the change is another one.`,
		Example: "  levee site sign --inventory inventory.yaml --out bank --site melb --generation melb/sensor/web-1=2",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := passphrases.check(); err != nil {
				return err
			}
			c, err := p.load()
			if err != nil {
				return err
			}
			if name == "" {
				return usage(errors.New("which site? give --site NAME"))
			}
			if edit.Generations, err = parseGenerations(generations); err != nil {
				return usage(err)
			}
			if _, err := os.Stat(c.Dir); err != nil {
				return err
			}
			unlock, err := hold(c.Dir)
			if err != nil {
				return err
			}
			defer unlock()
			c.Passphrase = passphrases.ask
			proposal, err := c.Propose(name, edit, time.Now())
			if err != nil {
				return found(err)
			}
			digest := digestOf(name, proposal)
			if p.asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"site": name, "digest": digest, "difference": proposal.Difference, "files": proposal.Files})
			} else {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "the next document of site %s:\n%s\ndigest of this change: %s\n", name, strings.Join(proposal.Difference, "\n"), digest)
			}
			if err != nil {
				return fmt.Errorf("writing: %w", err)
			}
			if err := confirm(cmd.ErrOrStderr(), digest, yes); err != nil {
				return err
			}
			if err := c.Sign(name, edit, proposal, time.Now()); err != nil {
				return found(err)
			}
			if p.asJSON {
				return nil
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "signed; %d files changed: levee pki apply says which bundles to carry\n", len(proposal.Files))
			return err
		},
	}
	p.add(cmd)
	passphrases.add(cmd)
	cmd.Flags().StringVar(&name, "site", "", "the `name` of the site")
	cmd.Flags().StringVar(&yes, "yes", "", "sign the change with this `digest` without asking")
	cmd.Flags().StringArrayVar(&generations, "generation", nil, "the lowest generation of a sender's keys that counts, `SENDER=NUMBER`; it only rises")
	cmd.Flags().StringVar(&edit.GrantKey, "grant-key", "", "the approver's `key` for grants")
	cmd.Flags().StringArrayVar(&edit.WitnessKeys, "witness-key", nil, "a witness's verifier `key`; all that count must be given")
	return cmd
}

func parseGenerations(all []string) (parsed []site.Generation, err error) {
	for _, text := range all {
		sender, number, ok := strings.Cut(text, "=")
		n, err := strconv.ParseUint(number, 10, 32)
		if !ok || err != nil || n == 0 {
			return nil, fmt.Errorf("%q is not SENDER=NUMBER", text)
		}
		parsed = append(parsed, site.Generation{Sender: sender, Minimum: uint32(n)})
	}
	return parsed, nil
}

// digestOf names a change of a site's document, for whoever agrees to it.
func digestOf(name string, p *provision.Proposal) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n", name)
	for _, line := range p.Difference {
		fmt.Fprintf(&b, "%s\n", line)
	}
	sum := sha256.Sum256(b.Bytes())
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:16]
}
