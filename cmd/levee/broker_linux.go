package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/brokeradmin"
	"levee/internal/config"
	"levee/services/broker"
)

// brokerFlags choose the broker on this machine that a command is for.
type brokerFlags struct {
	dir, config string
	asJSON      bool
}

func (f *brokerFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "dir", defaultDir, "state `directory` of levee up, to find the broker in")
	cmd.Flags().StringVar(&f.config, "config", "", "the broker's configuration `file`, in place of the one in --dir")
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "one JSON object")
}

// client returns the running broker's administration.
func (f *brokerFlags) client() (brokeradmin.Client, error) {
	file := f.config
	if file == "" {
		found, err := findBundles(f.dir, "broker", "levee-broker.yaml")
		if err != nil {
			return brokeradmin.Client{}, err
		}
		switch len(found) {
		case 0:
			return brokeradmin.Client{}, fmt.Errorf("no broker below %s; give --config FILE, its configuration, or --dir", f.dir)
		case 1:
			file = found[0]
		default:
			return brokeradmin.Client{}, fmt.Errorf("%d brokers below %s; choose one with --config FILE", len(found), f.dir)
		}
	}
	var settings broker.Settings
	if err := config.Load(file, &settings); err != nil {
		return brokeradmin.Client{}, err
	}
	if settings.AdminSocket == "" {
		return brokeradmin.Client{}, fmt.Errorf("%s names no admin_socket; add one, such as admin_socket: state/admin.sock, and restart the broker", file)
	}
	return brokeradmin.Client{Path: string(settings.AdminSocket)}, nil
}

func brokerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "broker",
		Short: "see who is connected to this machine's broker, and send or keep away who should not be",
		Long: `Ask and order the broker that runs on this machine, through the socket that its
configuration names (admin_socket). It answers root and its own user alone, and
logs every order with the user who gave it.

Exit codes: 0 done, 1 the broker was not reached, 2 wrong usage, 3 the broker refuses.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return incomplete(cmd, "no command given")
		},
	}
	cmd.AddCommand(brokerSessionsCommand(), brokerKickCommand(), brokerBanCommand(), brokerUnbanCommand())
	return cmd
}

// ordered gives an error of the broker its exit code.
func ordered(err error) error {
	var refused *brokeradmin.Refused
	if errors.As(err, &refused) {
		return failure{exitVerification, err}
	}
	return err
}

func brokerSessionsCommand() *cobra.Command {
	var f brokerFlags
	var identity string
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "who is connected, and who is kept away",
		Long: `Show every session of the broker: whose it is, since when, how many messages and
bytes came, how long it was held back for being over its rates, what it has not
read yet, and what it subscribes to. Below it, who is banned until when, and why.

Exit codes: 0 shown, 1 the broker was not reached, 2 wrong usage, 3 the broker refuses.`,
		Example: "  levee broker sessions --config /etc/levee/broker/levee-broker.yaml\n  levee broker sessions --json | jq '.sessions[] | select(.held_back_ms > 0)'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if identity != "" {
				if _, err := brokeradmin.ParseIdentity(identity); err != nil {
					return usage(err)
				}
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			sessions, bans, err := client.Sessions(cmd.Context(), identity)
			if err != nil {
				return ordered(err)
			}
			if f.asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"sessions": sessions, "bans": bans})
			} else {
				err = writeSessions(cmd.OutOrStdout(), sessions, bans, time.Now())
			}
			if err != nil {
				return fmt.Errorf("writing: %w", err)
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&identity, "identity", "", "only of this `SITE/ROLE/NAME`")
	return cmd
}

// writeSessions writes tables for people.
func writeSessions(out io.Writer, sessions []brokeradmin.Session, bans []brokeradmin.Ban, now time.Time) error {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IDENTITY\tCLIENT\tREMOTE\tFOR\tMESSAGES\tBYTES\tHELD BACK\tUNREAD\tFILTERS")
	for _, s := range sessions {
		filters := strings.Join(s.Filters, " ")
		if more := s.FiltersHeld - len(s.Filters); more > 0 {
			filters += fmt.Sprintf(" and %d more", more)
		}
		client := s.Client
		if client == "" {
			client = "(not yet)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%d\t%s\n", shown(s.Identity), shown(client), shown(s.Remote), now.Sub(s.Since).Round(time.Second),
			s.Messages, s.Bytes, time.Duration(s.HeldBackMS)*time.Millisecond, s.Queued, shown(filters))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "%d sessions\n", len(sessions))
	if len(bans) > 0 {
		fmt.Fprintln(w, "\nBANNED\tUNTIL\tREASON")
		for _, ban := range bans {
			fmt.Fprintf(w, "%s\t%s\t%s\n", shown(ban.Who), ban.Until.UTC().Format(time.RFC3339), shown(ban.Reason))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	_, err := out.Write(b.Bytes())
	return err
}

// shown makes what a broker says fit for a terminal: it may be captured.
func shown(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

func brokerKickCommand() *cobra.Command {
	var f brokerFlags
	cmd := &cobra.Command{
		Use:   "kick SITE/ROLE/NAME",
		Short: "end the sessions of an identity",
		Long: `End all sessions of an identity. It may come back at once: to keep it away for a
time, ban it; for good, revoke its certificate (levee pki revoke).

Exit codes: 0 ended, 1 the broker was not reached, 2 wrong usage, 3 it has no session there.`,
		Example: "  levee broker kick melb/sensor/web-1",
		Args:    oneArg("whom? levee broker kick SITE/ROLE/NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := brokeradmin.ParseIdentity(args[0])
			if err != nil {
				return usage(err)
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			ended, err := client.Kick(cmd.Context(), who)
			if err != nil {
				return ordered(err)
			}
			return told(cmd.OutOrStdout(), f.asJSON, map[string]any{"target": who, "ended": ended}, "%s: %d sessions ended\n", who, ended)
		},
	}
	f.add(cmd)
	return cmd
}

func brokerBanCommand() *cobra.Command {
	var f brokerFlags
	var length time.Duration
	cmd := &cobra.Command{
		Use:   "ban SITE/ROLE/NAME | ADDRESS",
		Short: "keep an identity or an address away for a time",
		Long: `Keep an identity or an address away from this broker for a time, in place of any
ban that it has. The sessions of a banned identity end. Those from a banned address
go on, since others may share it: kick them as well, if they should not. Of an IPv6
address its /64 is banned. In one process of several sites an address is banned for
all of them.

A ban lives in this broker's memory: it ends with the process, and the site's other
brokers do not know of it. To keep a certificate away for good and everywhere, revoke
it (levee pki revoke).

Exit codes: 0 banned, 1 the broker was not reached, 2 wrong usage, 3 the broker refuses.`,
		Example: "  levee broker ban melb/sensor/web-1 --for 1h\n  levee broker ban 192.0.2.7",
		Args:    oneArg("whom? levee broker ban SITE/ROLE/NAME, or an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := brokeradmin.ParseTarget(args[0])
			if err != nil {
				return usage(err)
			}
			if length < time.Second || length > brokeradmin.LongestBan || length%time.Second != 0 {
				return usage(fmt.Errorf("--for %s is not whole seconds from 1s to %s; to keep a certificate away for good, revoke it", length, brokeradmin.LongestBan))
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			ended, err := client.Ban(cmd.Context(), who, length)
			if err != nil {
				return ordered(err)
			}
			until := time.Now().Add(length).UTC().Truncate(time.Second)
			return told(cmd.OutOrStdout(), f.asJSON, map[string]any{"target": who.String(), "until": until, "ended": ended},
				"%s is kept away until %s, or until the broker stops; %d sessions ended\n", who, until.Format(time.RFC3339), ended)
		},
	}
	f.add(cmd)
	cmd.Flags().DurationVar(&length, "for", 10*time.Minute, "`how long`, 24h at most")
	return cmd
}

func brokerUnbanCommand() *cobra.Command {
	var f brokerFlags
	cmd := &cobra.Command{
		Use:   "unban SITE/ROLE/NAME | ADDRESS",
		Short: "end a ban, whoever ordered it",
		Long: `End the ban of an identity or an address, be it an administrator's or the broker's
own, and forget what led to it.

Exit codes: 0 ended, 1 the broker was not reached, 2 wrong usage, 3 there is no such ban.`,
		Example: "  levee broker unban melb/sensor/web-1",
		Args:    oneArg("whom? levee broker unban SITE/ROLE/NAME, or an address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			who, err := brokeradmin.ParseTarget(args[0])
			if err != nil {
				return usage(err)
			}
			client, err := f.client()
			if err != nil {
				return err
			}
			if err := client.Unban(cmd.Context(), who); err != nil {
				return ordered(err)
			}
			return told(cmd.OutOrStdout(), f.asJSON, map[string]any{"target": who.String()}, "%s is no longer kept away\n", who)
		},
	}
	f.add(cmd)
	return cmd
}

// oneArg demands one argument, and says which is missing.
func oneArg(missing string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage(errors.New(missing))
		}
		return nil
	}
}
