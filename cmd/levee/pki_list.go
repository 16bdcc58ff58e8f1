package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/provision"
)

func listCommand() *cobra.Command {
	var p place
	cmd := &cobra.Command{
		Use:   "list",
		Short: "all certificates: whose, until when, and when to renew them",
		Long: `List all certificates of a deployer's directory, the earliest to renew first:
whose they are, until when they last, and by when they should be renewed (thirty
days before the end of an authority, with a third of its life left anything else).
Machines that an issuer renews have newer ones than their bundles, and are not late.
One that is not valid yet was made by a clock that was ahead.

Exit codes: 0 all are in time, 3 one is late, or not valid yet.`,
		Example: "  levee pki list --inventory inventory.yaml --out bank",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			all, err := provision.Expiries(c.Dir, c.Inventory)
			if err != nil {
				return err
			}
			now, late := time.Now(), 0
			for _, e := range all {
				if e.Late(now) || e.Early(now) {
					late++
				}
			}
			if p.asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"certificates": all})
			} else {
				var b bytes.Buffer
				if err = writeExpiries(&b, all, now); err == nil {
					_, err = cmd.OutOrStdout().Write(b.Bytes())
				}
			}
			if err != nil {
				return fmt.Errorf("writing: %w", err)
			}
			if late > 0 {
				return failure{exitVerification, fmt.Errorf("%d certificates are to be renewed now, or are not valid yet", late)}
			}
			return nil
		},
	}
	p.add(cmd)
	return cmd
}
