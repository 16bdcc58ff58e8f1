package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/audit"
	"levee/internal/durable"
)

// The exit codes of an audit beside those of every command. Where several kinds
// of findings come together, the lowest counts: it is the worst.
const (
	exitUnauthorised = 4 // something was done that nobody was entitled to
	exitLate         = 5 // something was received when it was not fresh
	exitMissing      = 6 // nothing is wrong, and something is missing: with --complete
)

const verifyHelp = `Check what the recorder kept: the tree and its signed checkpoint, the signature
of every entry from the root, every certificate that signed against the journals
of what was issued and revoked, the MAC of every envelope with the recorder's
keys, the segments, every digest that a sender signed against what was kept, and
what controllers did against what they were told. The recorder may be running.

With --export nothing but the copy, the root certificate and, if you have it, the
site document is needed, and no key is used. With FILE one proof is checked that
levee audit prove wrote.

What is wrong is named: an entry of the log, or the path of a file, with the kind
of the finding. Gaps and silence are named too, and are not wrong by themselves:
a recorder that was down has seen nothing. Certificates have kinds of their own:
certificate_not_issued (it signed a message, and no journal has it 15 minutes
later), signed_after_revocation, and journal (lines that are wrong, missing, or
contradict each other).

With --state the audit goes on where the last one with that file ended, and
names a log that is older than it was then, or another one.

Exit codes: 0 nothing is wrong; 3 something is, or a file that belongs to the
record, or that the check rests on, was changed or is missing; 4 the record is
whole and shows what nobody was entitled to (a certificate that was not issued, or
was revoked; an execution without a command); 5 something was received too late
to be taken; 6, with --complete, messages are missing, declared undelivered, or a
sender was silent; 1 the check could not be made, for example because a file may
not be read. Of several the lowest.`

// verification is one run of levee audit verify.
type verification struct {
	record
	since, state, html string
	silence            time.Duration
	asJSON, complete   bool
}

func verifyCommand() *cobra.Command {
	var v verification
	cmd := &cobra.Command{
		Use:   "verify [FILE]",
		Short: "check log, signatures, certificates, MACs, segments and digests, or one proof",
		Long:  verifyHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(fmt.Errorf("unknown command %q: one proof at a time", args[1]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return v.proof(cmd, args[0])
			}
			return v.run(cmd)
		},
	}
	v.flags(cmd, true)
	cmd.Flags().BoolVar(&v.options.WithoutKeys, "without-keys", false, "do not read the recorder's keys, nor check MACs: digests alone vouch for readings")
	cmd.Flags().StringVar(&v.since, "kept-since", "", "`day` before which segments may have been deleted, like 2026-01-31 (UTC)")
	cmd.Flags().DurationVar(&v.silence, "silence", audit.DefaultSilence, "name senders that were not heard for this long while others were")
	cmd.Flags().StringVar(&v.state, "state", "", "your own `file`: check what came since it was written, and write it anew if nothing was changed")
	cmd.Flags().StringVar(&v.html, "html", "", "write the report as a page to this `file` as well")
	cmd.Flags().BoolVar(&v.complete, "complete", false, "exit with 6 when nothing is wrong but messages are missing")
	cmd.Flags().BoolVar(&v.asJSON, "json", false, "print the report as one JSON object")
	return cmd
}

func (v *verification) run(cmd *cobra.Command) error {
	if v.since != "" {
		since, err := time.Parse(time.DateOnly, v.since)
		if err != nil {
			return usage(fmt.Errorf("--kept-since %q is not a day like 2026-01-31", v.since))
		}
		v.options.KeptSince = since
	}
	if v.silence <= 0 {
		return usage(fmt.Errorf("--silence %s is no time", v.silence))
	}
	report, err := v.verify(cmd)
	if err != nil {
		return err
	}
	if err := printReport(cmd.OutOrStdout(), report, v.asJSON, v.options.WithoutKeys || v.options.Export != ""); err != nil {
		return err
	}
	if v.html != "" {
		if err := writeHTML(v.html, report); err != nil {
			return err
		}
	}
	return v.outcome(report)
}

// outcome is the exit code of a report.
func (v *verification) outcome(r *audit.Report) error {
	found := fmt.Errorf("%d findings", r.Found)
	switch {
	case r.Severity() == audit.Unauthorised:
		return failure{exitUnauthorised, found}
	case r.Severity() == audit.Late:
		return failure{exitLate, found}
	case !r.OK():
		return failure{exitVerification, found}
	case v.complete && !r.Whole():
		return failure{exitMissing, fmt.Errorf("%d messages are missing and %d declared undelivered, %d senders were silent", r.Missing, r.Declared, r.Silent)}
	default:
		return nil
	}
}

func (v *verification) verify(cmd *cobra.Command) (*audit.Report, error) {
	c, err := v.open()
	var wrong audit.Finding
	if errors.As(err, &wrong) {
		return audit.Fail(wrong), nil
	}
	if err != nil {
		return nil, err
	}
	c.Silence = v.silence
	bar := newBar(cmd.ErrOrStderr())
	c.Progress = bar.progress()
	defer bar.end()
	var earlier *audit.State
	if v.state != "" {
		if earlier, err = audit.ReadState(v.state); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	report, next, err := audit.VerifySince(cmd.Context(), c, earlier)
	if err != nil || next == nil || v.state == "" {
		return report, err
	}
	return report, audit.WriteState(v.state, next)
}

func writeHTML(path string, r *audit.Report) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if err := r.WriteHTML(f, time.Now()); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

// proof checks one proof.
func (v *verification) proof(cmd *cobra.Command, path string) error {
	if v.options.Root == "" {
		return usage(errors.New("a proof holds no root certificate: name the one that you trust with --root"))
	}
	p, err := audit.ReadProof(path)
	if err != nil {
		return err
	}
	if v.options.Document != "" {
		own, err := durable.ReadFile(v.options.Document, audit.MaxProof)
		if err != nil {
			return err
		}
		p.Document = own
	}
	proven, err := p.Check(path, v.options.Root)
	if err != nil {
		return verified(err)
	}
	if v.asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(proven)
	}
	return printProven(cmd.OutOrStdout(), proven)
}
