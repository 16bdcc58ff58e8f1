package main

import "github.com/spf13/cobra"

func pkiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "certificates: who is who",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return incomplete(cmd, "what of the certificates?")
		},
	}
	cmd.AddCommand(initCommand(), planCommand(), applyCommand(), listCommand(), inspectCommand(), verifyBundleCommand(),
		csrCommand(), signIssuerCommand(), acceptCommand(), renewCommand(), revokeCommand(),
		readmitCommand(), tokenCommand(), joinCommand(), exportCommand())
	return cmd
}
