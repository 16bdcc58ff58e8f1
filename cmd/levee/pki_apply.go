package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/config"
	"levee/internal/durable"
	"levee/internal/provision"
	"levee/pki"
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

func applyCommand() *cobra.Command {
	var (
		inventory, out string
		asJSON         bool
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
both tls.key and tls.pem were removed. The keys of the authorities are not
sealed: keep DIRECTORY/authority on a machine that runs no part.`,
		Example: "  levee pki init inventory.yaml\n  levee pki apply --inventory inventory.yaml --out bank",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if inventory == "" || out == "" {
				return usage(errors.New("give --inventory FILE and --out DIRECTORY; levee pki init inventory.yaml writes one to begin with"))
			}
			var inv provision.Inventory
			if err := config.Load(inventory, &inv); err != nil {
				return err
			}
			return apply(cmd.OutOrStdout(), inv, out, asJSON, time.Now())
		},
	}
	cmd.Flags().StringVar(&inventory, "inventory", "", "the inventory `file` (YAML)")
	cmd.Flags().StringVar(&out, "out", "", "the `directory` to make everything in")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}

// applied is what `levee pki apply --json` prints.
type applied struct {
	Out     string          `json:"out"`
	Bundles []appliedBundle `json:"bundles"`
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

func apply(stdout io.Writer, inv provision.Inventory, out string, asJSON bool, now time.Time) error {
	if err := inv.Check(); err != nil { // before there is a directory
		return err
	}
	if err := ownDir(out); err != nil {
		return err
	}
	unlock, taken, err := tryLock(filepath.Join(out, "lock"))
	if err != nil {
		return err
	}
	if !taken {
		return fmt.Errorf("%s is in use by another levee", out)
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
	before, err := provision.Survey(out, inv)
	if err != nil {
		return err
	}
	if _, err := provision.Apply(out, inv, now); err != nil {
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
	result, news := applied{Out: out}, make(map[string]string)
	for _, is := range after {
		sender := is.Identity.Sender()
		made := !slices.ContainsFunc(before, func(b provision.Issued) bool { return b.Identity == is.Identity })
		result.Bundles = append(result.Bundles, appliedBundle{Identity: sender, Made: made, Expires: is.NotAfter.UTC(), Bundle: is.Dir,
			Carry: told[sender] != is.Content, Edited: is.Edited})
		news[sender] = is.Content
	}
	for _, is := range orphans {
		result.Bundles = append(result.Bundles, appliedBundle{Identity: is.Identity.Sender(), Expires: is.NotAfter.UTC(), Bundle: is.Dir, Orphan: true})
	}
	if asJSON {
		err = json.NewEncoder(stdout).Encode(result)
	} else {
		err = result.print(stdout, inv, now)
	}
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if text, err = json.Marshal(news); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(out, fileTold), text, 0o600)
}

// notes says what is to be done with a bundle.
func (b appliedBundle) notes(now time.Time) string {
	var all []string
	switch {
	case b.Orphan:
		all = append(all, "not in the inventory: it stays valid until then, nothing revokes it yet")
	case b.Made:
		all = append(all, "new")
	case b.Carry:
		all = append(all, "changed: carry it again, and start its part again")
	}
	if b.Edited {
		all = append(all, "its configuration file is not what the inventory says")
	}
	if !b.Expires.After(now) {
		all = append(all, "EXPIRED: remove its tls.key and tls.pem and run this again")
	}
	return strings.Join(all, "; ")
}

func (a applied) print(stdout io.Writer, inv provision.Inventory, now time.Time) error {
	made, carry, edited := 0, 0, 0
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IDENTITY\tBUNDLE\tEXPIRES\t")
	for _, b := range a.Bundles {
		switch {
		case b.Made:
			made++
		case b.Carry:
			carry++
		}
		if b.Edited {
			edited++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", b.Identity, b.Bundle, b.Expires.Format(time.DateOnly), b.notes(now))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&text, "\n%d bundles, %d of them new, %d changed.", len(a.Bundles), made, carry)
	if edited > 0 {
		fmt.Fprintf(&text, " A configuration file is written once: remove one to have it written anew.")
	}
	fmt.Fprintf(&text, `
Carry each bundle to where it is needed, then start its part there:
  levee-%[1]s --config BUNDLE/levee-%[1]s.yaml
%[2]s holds the keys of every authority, unsealed: it belongs on a machine that runs no part.
`, pki.RoleBroker, filepath.Join(a.Out, "authority"))
	for _, s := range inv.Sites {
		if len(s.Brokers) > 1 {
			fmt.Fprintf(&text, "Site %s has %d brokers. They do not exchange messages, and in this version a part uses one at a time:\nrun one, and the next when it is gone for good.\n", s.Name, len(s.Brokers))
		}
	}
	if inv.Evaluation {
		fmt.Fprintln(&text, "The root was made for evaluation: it lasts seven days, and production refuses it.")
	}
	_, err := stdout.Write(text.Bytes())
	return err
}
