package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/audit"
)

// errShownEnough ends what is shown.
var errShownEnough = errors.New("enough")

func showCommand() *cobra.Command {
	var (
		r                 record
		f                 audit.Filter
		entries, from, to string
		limit             int
		asJSON            bool
	)
	cmd := &cobra.Command{
		Use:   "show",
		Short: "show entries of the log, or what is in the segments",
		Long: `Show entries of the log in their order, each held against the signed tree, or
with --readings what is in the segments. Whether they are right otherwise is for
levee audit verify.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the log is not what was signed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if f.First, f.End, err = parseRange(entries); err != nil {
				return usage(err)
			}
			for text, at := range map[*string]*time.Time{&from: &f.From, &to: &f.To} {
				if *text == "" {
					continue
				}
				if *at, err = parseTime(*text); err != nil {
					return usage(err)
				}
			}
			c, err := r.openPublic()
			if err != nil {
				return err
			}
			shown := 0
			err = audit.Show(cmd.Context(), c, f, func(s audit.Shown) error {
				if shown == limit {
					return errShownEnough
				}
				shown++
				return printShown(cmd, s, asJSON)
			})
			if errors.Is(err, errShownEnough) {
				fmt.Fprintf(cmd.ErrOrStderr(), "levee: there is more: raise --limit\n")
				return nil
			}
			return notSigned(err)
		},
	}
	r.flags(cmd, true)
	cmd.Flags().StringVar(&entries, "entries", "", "`range` of entries, like 17 or 17-42")
	cmd.Flags().StringVar(&f.Sender, "sender", "", "only of this `sender`, site/role/name")
	cmd.Flags().StringVar(&f.Kind, "kind", "", "only of this `kind`: metrics/cpu, alerts, control/command, digests, issuance, revocation, …")
	cmd.Flags().StringVar(&from, "from", "", "only what was received from this `time` on, like 2026-01-31 or 2026-01-31T14:00:00Z")
	cmd.Flags().StringVar(&to, "to", "", "only what was received before this `time`")
	cmd.Flags().BoolVar(&f.Readings, "readings", false, "show the segments in place of the log")
	cmd.Flags().IntVar(&limit, "limit", 1000, "show this `many` at most")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object for each")
	return cmd
}

// notSigned gives a log that is not what was signed its exit code.
func notSigned(err error) error {
	if audit.IsWrong(err) {
		return failure{exitVerification, err}
	}
	return err
}

func printShown(cmd *cobra.Command, s audit.Shown, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
	}
	signed := ""
	if s.Signed {
		signed = " signed"
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s %s %s %s %s%s\n    %s\n", inert(s.Where), time.UnixMilli(s.Received).UTC().Format("2006-01-02T15:04:05.000Z"),
		inert(s.Verdict), inert(s.Kind), inert(s.Sender), s.Nonce, signed, inert(s.Payload))
	return err
}

func parseRange(s string) (first, end int64, err error) {
	if s == "" {
		return 0, 0, nil
	}
	a, b, both := strings.Cut(s, "-")
	if !both {
		b = a
	}
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	if err1 != nil || err2 != nil || first < 0 || last < first {
		return 0, 0, fmt.Errorf("--entries %q is no range like 17 or 17-42", s)
	}
	return first, last + 1, nil
}

func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time like 2026-01-31 or 2026-01-31T14:00:00Z", s)
}
