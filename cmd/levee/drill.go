package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/config"
	"levee/internal/drill"
	"levee/internal/provision"
)

func drillCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "attack the running system on this machine, within bounds",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return incomplete(cmd, "which drill?")
		},
	}
	cmd.AddCommand(floodCommand())
	return cmd
}

func floodCommand() *cobra.Command {
	var (
		flood drill.Flood
		dir   string
	)
	cmd := &cobra.Command{
		Use:   "flood",
		Short: "a bounded HTTP flood at the embedded load balancer",
		Long: `Flood the embedded load balancer over loopback, one connection a request, so
that the sensor counts the SYNs, the monitor raises an alert and commands the
controller, and the balancer begins to refuse. See it with levee watch. At most
2000 requests a second, two minutes, and 60000 requests in all.`,
		Example: "  levee drill flood\n  levee drill flood --duration 60s --rate 500",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			if flood.Target == "" {
				target, err := balancerOf(dir)
				if err != nil {
					return err
				}
				flood.Target = target
			}
			flood.Each = func(t drill.Tally) {
				fmt.Fprintf(out, "%5.1f s  sent %d  200: %d  429: %d  other: %d  failed: %d\n",
					t.Elapsed.Seconds(), t.Sent, t.OK, t.Limited, t.Other, t.Failed)
			}
			if err := flood.Check(); err != nil {
				return usage(err)
			}
			fmt.Fprintf(out, "flooding http://%s/ with %d requests a second for %s\n", flood.Target, flood.Rate, flood.Duration)
			t, err := flood.Run(cmd.Context())
			if err != nil {
				return err
			}
			if t.First == 0 {
				return errors.New("the flood was never limited: is levee up running, with mode act in the monitor's configuration?")
			}
			fmt.Fprintf(out, "first refusal after %.1f s; the limit ends by itself, see levee watch\n", t.First.Seconds())
			return nil
		},
	}
	cmd.Flags().StringVar(&flood.Target, "target", "", "`address:port` on loopback, in place of the balancer in --dir")
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "state `directory` of levee up")
	cmd.Flags().IntVar(&flood.Rate, "rate", 400, "requests a second")
	cmd.Flags().DurationVar(&flood.Duration, "duration", 20*time.Second, "how long")
	return cmd
}

// balancerOf finds the first pool's address in the inventory of dir.
func balancerOf(dir string) (string, error) {
	var inv provision.Inventory
	if err := config.Load(filepath.Join(dir, provision.FileInventory), &inv); err != nil {
		return "", fmt.Errorf("finding the balancer: %w; start levee up there first, or give --target", err)
	}
	for _, s := range inv.Sites {
		for _, c := range s.Controllers {
			for _, p := range c.Pools {
				return p.Listen, nil
			}
		}
	}
	return "", fmt.Errorf("finding the balancer: the inventory of %s has no pool; give --target", dir)
}
