package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"levee/envelope/keys"
	"levee/internal/audit"
	"levee/internal/config"
	"levee/internal/site"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "check what was recorded",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return incomplete(cmd, "what of the audit?")
		},
	}
	cmd.AddCommand(verifyCommand())
	return cmd
}

func verifyCommand() *cobra.Command {
	var (
		dir, file string
		asJSON    bool
	)
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "check log, signatures, MACs, segments and digests",
		Long: `Check what the recorder kept: the tree and its signed checkpoint, the signature
of every entry from the root, the MAC of every envelope with the recorder's
keys, the segments, and every digest that a sender signed against what was kept.

What is wrong is named: an entry of the log, or the path of a file. Exit code 3
says that something is.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				found, err := filepath.Glob(filepath.Join(dir, "bundles", "*", "recorder", "*", "levee-recorder.yaml"))
				if err != nil {
					return err
				}
				if len(found) != 1 {
					return fmt.Errorf("%d recorders below %s; name one's configuration with --config, or another --dir", len(found), dir)
				}
				file = found[0]
			}
			c, err := auditConfig(file, time.Now())
			if err != nil {
				return err
			}
			report, err := audit.Verify(cmd.Context(), c)
			if err != nil {
				return err
			}
			if err := printReport(cmd.OutOrStdout(), report, asJSON); err != nil {
				return err
			}
			if !report.OK() {
				return failure{exitVerification, fmt.Errorf("%d findings", len(report.Findings))}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "state `directory` of levee up, to find the recorder in")
	cmd.Flags().StringVar(&file, "config", "", "a recorder's configuration `file`, in place of the one in --dir")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as one JSON object")
	return cmd
}

// auditConfig reads what a recorder's configuration file names. Every error
// names the file that does not pass.
func auditConfig(file string, now time.Time) (audit.Config, error) {
	var c audit.Config
	if err := config.Load(file, &c.Files); err != nil {
		return c, err
	}
	// An auditor trusts the root that is given, evaluation or not.
	settings := c.Files.Settings
	settings.Evaluation = true
	trust, err := site.OpenTrust(settings, now)
	if err != nil {
		return c, err
	}
	c.Root, c.Verifier, c.Document, c.Policy = trust.Root, trust.Verifier, trust.Document, trust.Policy
	if c.Keys, err = keys.Load(filepath.Join(string(settings.Bundle), site.FileKeys)); err != nil {
		return c, err
	}
	return c, nil
}

func printReport(out io.Writer, r *audit.Report, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	verdict := "nothing is wrong"
	if !r.OK() {
		verdict = "WRONG:"
	}
	_, err := fmt.Fprintf(out, `log         %s
tree        %d entries, root %s
signatures  %d verified from the root
MACs        %d verified with the recorder's keys
segments    %d files, %d envelopes
digests     %d confirmed, %d contradicted, %d incomplete (%d messages were not kept)
            %d messages wait for a digest
%s
`, r.Origin, r.Entries, r.RootHash, r.Signatures, r.MACs, r.Segments, r.Envelopes,
		r.Confirmed, r.Contradicted, r.Incomplete, r.Missing, r.Pending, verdict)
	for _, f := range r.Findings {
		if err == nil {
			_, err = fmt.Fprintf(out, "  %s: %s\n", f.Where, f.What)
		}
	}
	return err
}
