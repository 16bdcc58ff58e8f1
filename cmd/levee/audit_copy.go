package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"levee/internal/audit"
	"levee/internal/durable"
)

func auditExportCommand() *cobra.Command {
	var (
		r      record
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "export DIR",
		Short: "copy the record for somebody who verifies it elsewhere",
		Long: `Copy log, segments, site document and policy to a directory, for a USB stick.
No key is among them. The recorder may be running. The directory must not exist,
or be empty; an export that was not finished is continued.

levee audit verify --export DIR --root FILE accepts the copy on any machine. The
root certificate must get there another way.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the log, or what it rests on, is not
what was signed.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(errors.New("name one directory to write"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := r.openPublic()
			if err != nil {
				return err
			}
			done, err := audit.Export(cmd.Context(), c, args[0])
			if err != nil {
				return notSigned(err)
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(done)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d entries, %d segments, %d files (%d of them were there), %d bytes\n",
				args[0], done.Entries, done.Segments, done.Files, done.Reused, done.Bytes)
			return err
		},
	}
	r.flags(cmd, false)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print what was copied as one JSON object")
	return cmd
}

func proveCommand() *cobra.Command {
	var (
		r                  record
		out, sender, nonce string
		entry              int64
	)
	cmd := &cobra.Command{
		Use:   "prove",
		Short: "write one entry, or one reading, as a file that proves itself",
		Long: `Write one entry of the log, or one reading, as a file that levee audit verify
FILE accepts on another machine, with the root certificate and nothing else: the
entry, its inclusion proof, the signed checkpoint with its cosignatures, the site
document and the policy; of a reading also the digest that vouches for it.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the log, or what it rests on, is not
what was signed.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (entry < 0) == (sender == "") || (sender == "") != (nonce == "") {
				return usage(errors.New("name an entry with --entry, or a reading with --sender and --nonce"))
			}
			c, err := r.openPublic()
			if err != nil {
				return err
			}
			var p *audit.Proof
			if entry >= 0 {
				p, err = audit.ProveEntry(cmd.Context(), c, entry)
			} else {
				p, err = audit.ProveReading(cmd.Context(), c, sender, nonce)
			}
			if err != nil {
				return notSigned(err)
			}
			raw, err := p.Marshal()
			if err != nil {
				return err
			}
			if out == "" {
				_, err = cmd.OutOrStdout().Write(raw)
				return err
			}
			return durable.WriteNew(out, raw, 0o644)
		},
	}
	r.flags(cmd, true)
	cmd.Flags().Int64Var(&entry, "entry", -1, "`number` of the entry")
	cmd.Flags().StringVar(&sender, "sender", "", "site/role/name of the reading's `sender`")
	cmd.Flags().StringVar(&nonce, "nonce", "", "the reading's `nonce`, like 1929c0a7f3e-42")
	cmd.Flags().StringVar(&out, "out", "", "new `file` to write; standard output without it")
	return cmd
}
