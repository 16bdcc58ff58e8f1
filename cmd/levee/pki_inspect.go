package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/provision"
	"levee/internal/provision/explain"
	"levee/pki"
)

func inspectCommand() *cobra.Command {
	var (
		root   string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "inspect FILE…",
		Short: "say what a certificate, key, request or other file of levee's is",
		Long: `Say in plain words what files are: certificates and chains, private keys (their
kind, nothing else), sealed keys, requests, revocation lists, site documents,
orders and tokens, journals; what their holder may do with them, and why a part
would refuse them now. They are judged by --root, or by the root that lies beside
them or in a directory above.

Exit codes: 0 nothing would be refused, 1 a file is none of levee's, 3 a part would refuse one.`,
		Example: "  levee pki inspect bank/bundles/melb/sensor/web-1/tls.pem",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(errors.New("which file? levee pki inspect FILE…"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []*explain.Explanation
			good := true
			for _, path := range args {
				e, err := inspect(path, root, time.Now())
				if err != nil {
					return err
				}
				good = good && e.Good()
				all = append(all, e)
			}
			if asJSON {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"files": all}); err != nil {
					return fmt.Errorf("writing: %w", err)
				}
			} else {
				for _, e := range all {
					if _, err := cmd.OutOrStdout().Write(explained(e)); err != nil {
						return fmt.Errorf("writing: %w", err)
					}
				}
			}
			if !good {
				return failure{exitVerification, errors.New("a part would refuse this")}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "judge by the root in this `file`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}

func inspect(path, root string, now time.Time) (*explain.Explanation, error) {
	var cert *x509.Certificate
	if root == "" {
		cert = explain.FindRoot(path)
	} else {
		var err error
		if cert, err = pki.ReadCertificate(root); err != nil {
			return nil, err
		}
	}
	t, err := explain.NewTrust(cert, now)
	if err != nil {
		return nil, err
	}
	return explain.File(path, t)
}

func explained(e *explain.Explanation) []byte {
	var b bytes.Buffer
	for _, item := range e.Items {
		fmt.Fprintf(&b, "%s: %s\n", e.File, item.Kind)
		for _, f := range item.Facts {
			fmt.Fprintf(&b, "  %-18s %s\n", f.Name, f.Value)
		}
		for _, may := range item.May {
			fmt.Fprintf(&b, "  may: %s\n", may)
		}
		for _, why := range item.Refused {
			fmt.Fprintf(&b, "  REFUSED: %s\n", why)
		}
		if item.Unverified {
			fmt.Fprintln(&b, "  not verified: no root at hand, or it is not all there")
		}
	}
	return b.Bytes()
}

func verifyBundleCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify BUNDLE",
		Short: "check that a bundle is whole and would be accepted",
		Long: `Check a bundle as its part will: root, site document, policy, certificate and
key, envelope keys, and for some roles what they hold besides. Nothing is
written. What a part remembers, such as the number of an older site document or a
revocation, is not known here.

Exit codes: 0 good, 3 something is wrong.`,
		Example: "  levee pki verify bank/bundles/melb/sensor/web-1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage(errors.New("which bundle? levee pki verify DIRECTORY"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			checks := provision.VerifyBundle(args[0], time.Now())
			bad := 0
			for _, c := range checks {
				if c.Wrong != "" {
					bad++
				}
			}
			if asJSON {
				if err := json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"bundle": args[0], "checks": checks, "good": bad == 0}); err != nil {
					return fmt.Errorf("writing: %w", err)
				}
			} else {
				var b bytes.Buffer
				for _, c := range checks {
					word := "good "
					if c.Wrong != "" {
						word = "WRONG"
					}
					fmt.Fprintf(&b, "%s  %-16s %s%s\n", word, c.What, c.Is, c.Wrong)
				}
				if _, err := cmd.OutOrStdout().Write(b.Bytes()); err != nil {
					return fmt.Errorf("writing: %w", err)
				}
			}
			if bad > 0 {
				return failure{exitVerification, fmt.Errorf("%s: %d things are wrong", args[0], bad)}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return cmd
}
