package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/config"
	"levee/internal/durable"
	"levee/internal/provision"
)

func initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init FILE",
		Short: "write an inventory to begin with",
		Long: `Write an inventory to begin with: two sites with two sensors each, which run on
one machine. It is commented; edit it, then run levee pki apply.`,
		Example: "  levee pki init inventory.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(errors.New("which file to write? levee pki init inventory.yaml"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s is there already; levee pki apply --inventory %s uses it", args[0], args[0])
			}
			if err != nil {
				return err
			}
			_, err = f.Write(provision.Example())
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s; edit it, then: levee pki apply --inventory %s --out DIRECTORY\n", args[0], args[0])
			return err
		},
	}
}

// place is a deployer's directory and the inventory that it is made from.
type place struct {
	inventory, out string
	asJSON         bool
}

func (p *place) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.inventory, "inventory", "", "the inventory `file` (YAML)")
	cmd.Flags().StringVar(&p.out, "out", "", "the deployer's `directory`, with authority and bundles")
	cmd.Flags().BoolVar(&p.asJSON, "json", false, "one JSON object")
}

// load returns what to provision.
func (p *place) load() (provision.Config, error) {
	if p.inventory == "" || p.out == "" {
		return provision.Config{}, usage(errors.New("give --inventory FILE and --out DIRECTORY; levee pki init inventory.yaml writes one to begin with"))
	}
	c := provision.Config{Dir: p.out}
	if err := config.Load(p.inventory, &c.Inventory); err != nil {
		return c, err
	}
	return c, c.Inventory.Check()
}

func planCommand() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "show what apply would do",
		Long: `Show what levee pki apply would make, change and refuse, and do nothing. It needs
no passphrase.

Exit codes: 0 nothing to do, 3 there is something to do or to look at.`,
		Example: "  levee pki plan --inventory inventory.yaml --out bank",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			return plan(cmd.OutOrStdout(), c, p.asJSON, time.Now())
		},
	}
	p.add(cmd)
	return cmd
}

func applyCommand() *cobra.Command {
	var (
		p           place
		passphrases passphraseFlags
		unsealed    bool
		dry         bool
	)
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "issue everything that an inventory names",
		Long: `Issue everything that an inventory names, before any of it runs: the root, the
two authorities of each site, and for each component and person a bundle
directory with key, certificate, site document, policy, envelope keys and a
ready configuration file.

A bundle is all that its part needs, wherever it is carried. Running apply again
makes what is missing and changes nothing else; a certificate is made anew where
both tls.key and tls.pem were removed.

The keys of the authorities are sealed under passphrases: one for the root, one
for the sites' authorities, one for the copies that issuers get. They are asked
for on a terminal, or come from a descriptor or a systemd credential, and only
when a key is made or signs. Once the root has made every authority,
DIRECTORY/authority/root.key may be taken away.

Exit codes: 0 everything is as the inventory says, 1 failed, 3 something is not
as the inventory says, and apply does not put it right by itself.`,
		Example: `  levee pki init inventory.yaml
  levee pki apply --inventory inventory.yaml --out bank
  levee pki apply --inventory inventory.yaml --out bank --passphrase-fd root=3 --passphrase-fd 4 3<root.txt 4<sites.txt`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := passphrases.check(); err != nil {
				return err
			}
			c, err := p.load()
			if err != nil {
				return err
			}
			if dry {
				return plan(cmd.OutOrStdout(), c, p.asJSON, time.Now())
			}
			c.Passphrase, c.Unsealed = passphrases.ask, unsealed
			return apply(cmd.OutOrStdout(), c, p.asJSON, time.Now())
		},
	}
	p.add(cmd)
	passphrases.add(cmd)
	cmd.Flags().BoolVar(&unsealed, "unsealed", false, "write the keys of new authorities without a passphrase: for evaluation")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "as levee pki plan")
	return cmd
}

// planned is what `levee pki plan --json` prints.
type planned struct {
	Out     string             `json:"out"`
	Changes []provision.Change `json:"changes"`
	Drift   []provision.Drift  `json:"drift"`
}

func plan(stdout io.Writer, c provision.Config, asJSON bool, now time.Time) error {
	result, err := c.Plan(now)
	if err != nil {
		return err
	}
	p := planned{c.Dir, append([]provision.Change{}, result.Changes...), append([]provision.Drift{}, result.Drift...)}
	if asJSON {
		err = json.NewEncoder(stdout).Encode(p)
	} else {
		_, err = stdout.Write(p.text())
	}
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	switch {
	case len(p.Drift) > 0:
		return failure{exitVerification, fmt.Errorf("%d things are not as the inventory says", len(p.Drift))}
	case len(p.Changes) > 0:
		return failure{exitVerification, fmt.Errorf("%d files to write: levee pki apply", len(p.Changes))}
	default:
		return nil
	}
}

// applied is what `levee pki apply --json` prints.
type applied struct {
	Out          string              `json:"out"`
	Bundles      []appliedBundle     `json:"bundles"`
	Certificates []provision.Expiry  `json:"certificates"`
	Changes      []provision.Change  `json:"changes"`
	Drift        []provision.Drift   `json:"drift"`
	Inventory    provision.Inventory `json:"-"`
}

type appliedBundle struct {
	Identity string    `json:"identity"` // site/role/name
	Made     bool      `json:"made"`     // by this run
	Expires  time.Time `json:"expires"`
	Bundle   string    `json:"bundle"`           // directory
	Carry    bool      `json:"carry"`            // it is new, or changed since it was last told of
	Edited   bool      `json:"edited,omitempty"` // its configuration file is not what the inventory says
	Orphan   bool      `json:"orphan,omitempty"` // the inventory does not name it
}

// fileTold notes of each bundle which content the deployer was told to carry:
// a run that was interrupted, or whose output went nowhere, is made good by the
// next one.
const fileTold = "told.json"

func apply(stdout io.Writer, c provision.Config, asJSON bool, now time.Time) error {
	out, inv := c.Dir, c.Inventory
	if err := inv.Check(); err != nil { // before there is a directory
		return err
	}
	if err := c.Ready(now); err != nil { // likewise: without its passphrases nothing is begun
		return err
	}
	unlock, err := hold(out)
	if err != nil {
		return err
	}
	defer unlock()
	told := make(map[string]string)
	text, err := durable.ReadFile(filepath.Join(out, fileTold), 64<<20)
	if err == nil {
		err = json.Unmarshal(text, &told)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading what was told of earlier: %w; remove %s to be told of everything", err, filepath.Join(out, fileTold))
	}
	done, err := c.Apply(now)
	if errors.Is(err, provision.ErrDrift) {
		return failure{exitVerification, fmt.Errorf("%w\nnothing was made; levee pki inspect FILE says what a file is", err)}
	}
	if err != nil {
		return err
	}
	after, err := provision.Survey(out, inv)
	if err != nil {
		return err
	}
	orphans, err := provision.Orphans(out, inv)
	if err != nil {
		return err
	}
	result, news := applied{Out: out, Changes: append([]provision.Change{}, done.Changes...), Drift: append([]provision.Drift{}, done.Drift...), Inventory: inv}, make(map[string]string)
	if result.Certificates, err = provision.Expiries(out, inv); err != nil {
		return err
	}
	for _, is := range after {
		sender := is.Identity.Sender()
		result.Bundles = append(result.Bundles, appliedBundle{Identity: sender, Made: done.Made(is.Identity), Expires: is.NotAfter.UTC(), Bundle: is.Dir,
			Carry: told[sender] != is.Content, Edited: is.Edited})
		news[sender] = is.Content
	}
	for _, is := range orphans {
		result.Bundles = append(result.Bundles, appliedBundle{Identity: is.Identity.Sender(), Expires: is.NotAfter.UTC(), Bundle: is.Dir, Orphan: true})
	}
	if asJSON {
		err = json.NewEncoder(stdout).Encode(result)
	} else {
		err = result.print(stdout, now)
	}
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if text, err = json.Marshal(news); err != nil {
		return err
	}
	if old, err := durable.ReadFile(filepath.Join(out, fileTold), 64<<20); err != nil || string(old) != string(text) {
		if err := durable.WriteFile(filepath.Join(out, fileTold), text, 0o600); err != nil {
			return err
		}
	}
	if len(result.Drift) > 0 {
		return failure{exitVerification, fmt.Errorf("%d things are not as the inventory says", len(result.Drift))}
	}
	return nil
}

// hold makes a deployer's directory if there is none, and keeps others away from
// it.
func hold(out string) (unlock func(), err error) {
	if err := ownDir(out); err != nil {
		return nil, err
	}
	unlock, taken, err := tryLock(filepath.Join(out, "lock"))
	if err == nil && !taken {
		err = fmt.Errorf("%s is in use by another levee", out)
	}
	return unlock, err
}

// notes says what is to be done with a bundle.
func (b appliedBundle) notes() string {
	var all []string
	switch {
	case b.Orphan:
		all = append(all, "not in the inventory: it stays valid until then")
	case b.Made:
		all = append(all, "new")
	case b.Carry:
		all = append(all, "changed: carry it again, and start its part again")
	}
	if b.Edited {
		all = append(all, "its configuration file is not what the inventory says")
	}
	return strings.Join(all, "; ")
}

func (a applied) count(what func(appliedBundle) bool) (n int) {
	for _, b := range a.Bundles {
		if what(b) {
			n++
		}
	}
	return n
}

// sealed reports whether every authority's key that is there is sealed.
func sealed(all []provision.Expiry) bool {
	return !slices.ContainsFunc(all, func(e provision.Expiry) bool { return e.Key == provision.KeyPlain })
}
