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
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/audit"
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
		options          audit.Options
		dir, since       string
		asJSON, complete bool
	)
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "check log, signatures, certificates, MACs, segments and digests",
		Long: `Check what the recorder kept: the tree and its signed checkpoint, the signature
of every entry from the root, every certificate that signed against the journals
of what was issued and revoked, the MAC of every envelope with the recorder's
keys, the segments, and every digest that a sender signed against what was kept.
The recorder may be running.

What is wrong is named: an entry of the log, or the path of a file. A gap is
named too, and is not wrong by itself: a recorder that was down has seen nothing.
Findings about certificates have a kind, which --json shows as well:
certificate_not_issued (it signed a message, and no journal has it 15 minutes
later), signed_after_revocation, and journal (lines that are wrong, missing, or
contradict each other).

Exit codes: 0 nothing is wrong; 3 something is, or a file that belongs to the
record, or that the check rests on, was changed or is missing; 1 the check could
not be made, for example because a file may not be read.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if since != "" {
				if options.KeptSince, err = time.Parse(time.DateOnly, since); err != nil {
					return usage(fmt.Errorf("--kept-since %q is not a day like 2026-01-31", since))
				}
			}
			if options.Config == "" {
				if options.Config, err = findRecorder(dir); err != nil {
					return err
				}
			}
			report, err := verify(cmd, options)
			if err != nil {
				return err
			}
			if err := printReport(cmd.OutOrStdout(), report, asJSON, options.WithoutKeys); err != nil {
				return err
			}
			switch {
			case !report.OK():
				return failure{exitVerification, fmt.Errorf("%d findings", report.Found)}
			case complete && (report.Missing > 0 || report.Declared > 0):
				return failure{exitVerification, fmt.Errorf("%d messages are missing and %d declared undelivered", report.Missing, report.Declared)}
			default:
				return nil
			}
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "state `directory` of levee up, to find the recorder in")
	cmd.Flags().StringVar(&options.Config, "config", "", "a recorder's configuration `file`, in place of the one in --dir")
	cmd.Flags().StringVar(&options.Root, "root", "", "`file` with the root certificate that you trust; without it the recorder's own is believed")
	cmd.Flags().BoolVar(&options.WithoutKeys, "without-keys", false, "do not read the recorder's keys, nor check MACs: digests alone vouch for readings")
	cmd.Flags().StringVar(&since, "kept-since", "", "`day` before which segments may have been deleted, like 2026-01-31 (UTC)")
	cmd.Flags().BoolVar(&complete, "complete", false, "exit with 3 also when messages are missing or declared undelivered")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as one JSON object")
	return cmd
}

func verify(cmd *cobra.Command, options audit.Options) (*audit.Report, error) {
	c, err := audit.Open(options)
	var wrong audit.Finding
	if errors.As(err, &wrong) {
		return audit.Fail(wrong), nil
	}
	if err != nil {
		return nil, err
	}
	return audit.Verify(cmd.Context(), c)
}

// findRecorder returns the configuration file of the one recorder whose bundle
// is below dir.
func findRecorder(dir string) (string, error) {
	var found []string
	bundles := filepath.Join(dir, "bundles")
	sites, err := os.ReadDir(bundles)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, site := range sites {
		if !site.IsDir() {
			continue
		}
		recorders := filepath.Join(bundles, site.Name(), "recorder")
		names, err := os.ReadDir(recorders)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, name := range slices.DeleteFunc(names, func(e fs.DirEntry) bool { return !e.IsDir() }) {
			found = append(found, filepath.Join(recorders, name.Name(), "levee-recorder.yaml"))
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d recorders below %s; name one's configuration with --config, or another --dir", len(found), dir)
	}
	return found[0], nil
}

// maxShown bounds what a report for people lists.
const maxShown = 20

func printReport(out io.Writer, r *audit.Report, asJSON, withoutKeys bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	var b strings.Builder
	if r.Root != "" { // else the check ended before it began
		macs := fmt.Sprintf("%d verified with the recorder's keys", r.MACs)
		if withoutKeys {
			macs = "not checked: digests alone vouch for readings"
		}
		fmt.Fprintf(&b, `root        %s (SHA-256), site document %d
log         %s
tree        %d entries, root %s
signatures  %d verified from the root
issued      %d certificates, %d orders to revoke, %d to readmit, by the journals in the log
MACs        %s
segments    %d files, %d envelopes, of them %d signed and not in the log yet
digests     %d confirmed over %d messages, %d contradicted, %d incomplete
messages    %d missing, %d declared undelivered, %d unvouched, %d waiting for a digest
`, r.Root, r.Document, r.Origin, r.Entries, r.RootHash, r.Signatures,
			r.Issued, r.Revoked, r.Readmitted, macs, r.Segments, r.Envelopes, r.Unlogged,
			r.Confirmed, r.Vouched, r.Contradicted, r.Incomplete, r.Missing, r.Declared, r.Unvouched, r.Pending)
		if r.AwaitingIssuance > 0 {
			fmt.Fprintf(&b, "note: %d certificates began to sign so late that their journal may still be on its way\n", r.AwaitingIssuance)
		}
		for _, authority := range r.WithoutJournal {
			fmt.Fprintf(&b, "note: the log holds no journal of %s: whether that issued the certificates of its signers was not checked\n", inert(authority))
		}
	}
	for _, g := range r.Gaps[:min(len(r.Gaps), maxShown)] {
		fmt.Fprintf(&b, "  %s: %s %s-%d to %d%s\n", g.What, g.Sender, g.Boot, g.First, g.Last, between(g))
	}
	if n := len(r.Gaps) - maxShown; n > 0 {
		fmt.Fprintf(&b, "  and %d gaps more: --json lists them\n", n)
	}
	if r.OK() {
		b.WriteString("nothing is wrong\n")
	} else {
		b.WriteString("WRONG:\n")
	}
	for _, f := range r.Findings[:min(len(r.Findings), maxShown)] {
		what := f.What
		if f.Kind != "" {
			what = f.Kind + ": " + what
		}
		fmt.Fprintf(&b, "  %s: %s\n", inert(f.Where), inert(what))
	}
	if n := r.Found - maxShown; n > 0 {
		fmt.Fprintf(&b, "  and %d findings more: --json lists up to 1,000\n", n)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// between says when a gap was.
func between(g audit.Gap) string {
	at := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }
	switch {
	case g.After > 0 && g.Before > 0:
		return ", between " + at(g.After) + " and " + at(g.Before)
	case g.Before > 0:
		return ", before " + at(g.Before)
	case g.After > 0:
		return ", after " + at(g.After)
	default:
		return ""
	}
}

// inert keeps what a file, or its name, says from steering the terminal.
func inert(s string) string {
	if quoted := strconv.Quote(s); strings.ReplaceAll(s, `"`, `\"`) != quoted[1:len(quoted)-1] {
		return quoted
	}
	return s
}
