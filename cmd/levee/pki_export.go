package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/export"
	"levee/internal/site"
)

func exportCommand() *cobra.Command {
	var (
		options export.Options
		to      string
		number  int
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:   "export",
		Short: "hand a person's or guest's certificate to another program, or a bundle to a machine that joins",
		Long: `Write a person's or guest's certificate and key for another program:

  --to mosquitto   mosquitto_sub, mosquitto_pub and, by its README.txt, any other MQTT client
  --to mqttx       MQTTX: a file of connections to import
  --to pkcs12      browsers: people only; the passphrase of the file is shown once, and kept nowhere

or, from the deployer's own copy, the bundle of a sensor, console or guest without key and certificate:

  --to join        a machine that makes its key itself, and joins with a token (levee pki join)

For mosquitto it writes what mosquitto_sub, mosquitto_pub or any other client of MQTT 3.1.1 needs to
use the certificate of a person or a guest: ca.crt, client.crt, client.key, an
options file for each broker, and README.txt, which says what to enter and what
policy lets that identity read and publish.

The new directory holds a private key without a password. Parts of the site
other than guests are refused: each has one session, and a second client with
its key would end that. What is written for a machine that joins holds no key of a
certificate, but its envelope keys: keep that to yourself as well.`,
		Example: "  levee pki export --bundle levee-data/bundles/local/guest/guest-1 --to mosquitto --out guest-1",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case options.Bundle == "":
				return usage(fmt.Errorf("whose? give --bundle the directory of a person's or guest's bundle, or of a machine that joins"))
			case options.Out == "":
				return usage(fmt.Errorf("where to? give --out a directory that does not exist yet"))
			case !slices.Contains([]string{"mosquitto", "mqttx", "pkcs12", "join"}, to):
				return usage(fmt.Errorf("--to %q is no client known here; --to mosquitto also writes README.txt for any other", to))
			}
			if cmd.Flags().Changed("session") {
				if to == "join" {
					return usage(fmt.Errorf("a machine has one session: leave --session out"))
				}
				if number < 0 || number >= export.Sessions {
					return usage(fmt.Errorf("session %d is not 0 to %d", number, export.Sessions-1))
				}
				options.Session = &number
			}
			switch to {
			case "join":
				r, err := export.ForJoining(options, time.Now())
				if err != nil {
					return err
				}
				return told(cmd.OutOrStdout(), asJSON, r, `%[1]s without key and certificate is in %[2]s
carry it to its machine: it holds %[3]s, which nobody else may read; then, there:
  levee pki join DIRECTORY
`, r.Identity, r.Dir, site.FileKeys)
			case "pkcs12":
				r, passphrase, err := export.PKCS12(options, time.Now())
				if err != nil {
					return err
				}
				return told(cmd.OutOrStdout(), asJSON, shownOnce{r, passphrase.Reveal()}, `%s is exported to %s
  certificate until  %s
  passphrase         %s
The passphrase is shown this once and kept nowhere. Import the file, then remove it.
`, r.Identity, filepath.Join(r.Dir, export.FilePKCS12), r.NotAfter.Format(time.RFC3339), passphrase.Reveal())
			case "mqttx":
				r, err := export.MQTTX(options, time.Now())
				if err != nil {
					return err
				}
				return printExport(cmd.OutOrStdout(), r, asJSON)
			default:
				r, err := export.Mosquitto(options, time.Now())
				if err != nil {
					return err
				}
				return printExport(cmd.OutOrStdout(), r, asJSON)
			}
		},
	}
	cmd.Flags().StringVar(&options.Bundle, "bundle", "", "the `directory` of the bundle to export")
	cmd.Flags().StringVar(&to, "to", "", "what to export to, a `program`: mosquitto, mqttx or pkcs12; or join")
	cmd.Flags().StringVar(&options.Out, "out", "", "the `directory` to make; it may exist if it is empty")
	cmd.Flags().IntVar(&number, "session", export.Sessions-1, "which `number` of a person's sessions the client is, 0 to 2; not for guests")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// shownOnce is what --to pkcs12 --json prints.
type shownOnce struct {
	*export.Result
	Passphrase string `json:"passphrase"`
}

func printExport(out io.Writer, r *export.Result, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	_, err := fmt.Fprintf(out, `%s is exported to %s
  client identifier  %s: one session, a new connection ends an older one
  certificate until  %s
  private key        %s, without a password: keep the directory to yourself
  other clients      %s says what to enter

try it:
  %s
`, r.Identity, r.Dir, r.ClientID, r.NotAfter.Format(time.RFC3339), export.FileKey, export.FileReadme, strings.Join(r.Try, "\n  "))
	return err
}
