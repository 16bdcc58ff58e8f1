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
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/config"
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
	Bundle   string    `json:"bundle"` // directory
	Carry    bool      `json:"carry"`  // it was made before, and has a new site document
	Edited   bool      `json:"edited"` // its configuration file is not what the inventory says
}

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
	result := applied{Out: out}
	for _, is := range after {
		b := appliedBundle{Identity: is.Identity.Sender(), Made: true, Expires: is.NotAfter.UTC(), Bundle: is.Dir, Edited: is.Edited}
		if i := slices.IndexFunc(before, func(b provision.Issued) bool { return b.Identity == is.Identity }); i >= 0 {
			b.Made, b.Carry = false, before[i].Document != is.Document
		}
		result.Bundles = append(result.Bundles, b)
	}
	if asJSON {
		return json.NewEncoder(stdout).Encode(result)
	}
	return result.print(stdout, inv, now)
}

func (a applied) print(stdout io.Writer, inv provision.Inventory, now time.Time) error {
	made, edited := 0, 0
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IDENTITY\tBUNDLE\tEXPIRES\t")
	for _, b := range a.Bundles {
		note := ""
		if b.Made {
			made++
			note = "new"
		}
		if b.Carry {
			note = "site.json is new: carry it, and start the part again"
		}
		if b.Edited {
			edited++
			note = "its configuration file is not what the inventory says"
		}
		if !b.Expires.After(now) {
			note = "EXPIRED: remove its tls.key and tls.pem and run this again"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", b.Identity, b.Bundle, b.Expires.Format(time.DateOnly), note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stdout, "\n%d bundles, %d of them new.", len(a.Bundles), made)
	if edited > 0 {
		fmt.Fprintf(stdout, " A configuration file is written once: remove one to have it written anew.")
	}
	fmt.Fprintf(stdout, `
Carry each bundle to where it is needed, then start its part there:
  levee-%[1]s --config BUNDLE/levee-%[1]s.yaml
%[2]s holds the keys of every authority, unsealed: it belongs on a machine that runs no part.
`, pki.RoleBroker, filepath.Join(a.Out, "authority"))
	if inv.Evaluation {
		fmt.Fprintln(stdout, "The root was made for evaluation: it lasts seven days, and production refuses it.")
	}
	return err
}
