package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/config"
	"levee/internal/daemon"
	"levee/internal/durable"
	"levee/internal/provision"
	"levee/internal/site"
	"levee/internal/stack"
	"levee/internal/translog"
	"levee/internal/watch"
	"levee/pki"
)

// upSession is the operator's session that `levee up` itself watches with.
const upSession = peopleSessions

func platformCommands() []*cobra.Command { return []*cobra.Command{upCommand(), brokerCommand()} }

// evaluation returns the inventory that `levee up` starts with.
func evaluation(broker, balancer, console, issuer string) provision.Inventory {
	return provision.Inventory{
		TrustDomain: "levee.internal",
		Evaluation:  true,
		Sites: []provision.Site{{
			Name:        "local",
			Networks:    []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Brokers:     []provision.Broker{{Name: "broker-1", Listen: broker, Address: broker}},
			Sensors:     []provision.Sensor{{Name: "server-1"}},
			Monitors:    []provision.Monitor{{Name: "monitor-1", Act: true}},
			Controllers: []provision.Controller{{Name: "balancer-1", Pools: []provision.Pool{{Server: "server-1", Listen: balancer}}}},
			Recorder:    "recorder-1",
			Issuers:     []provision.Issuer{{Name: "issuer-1", Listen: issuer, Address: issuer}},
			Consoles:    []provision.Console{{Name: "console-1", Listen: console}},
			Guests:      []provision.Guest{{Name: "guest-1"}},
			People:      []provision.Person{{Role: pki.RoleOperator, Name: "operator-1"}, {Role: pki.RoleViewer, Name: "viewer-1"}},
		}},
	}
}

func upCommand() *cobra.Command {
	var (
		dir, broker, balancer, console, issuer string
		quiet                                  bool
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "run the whole stack on this machine, for evaluation",
		Long: `Run the whole stack on this machine: real mTLS on loopback, one process, one
state directory. The first start makes everything for one site; later ones use
what is there. Ctrl-C drains.

The root is unsealed and lasts seven days: production refuses it. Run as root it
adds one counting rule to the host, in an nftables table of its own, and removes
it at the end.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, name := range []string{"broker", "balancer", "console", "issuer"} {
				if _, err := os.Lstat(filepath.Join(dir, provision.FileInventory)); err == nil && cmd.Flags().Changed(name) {
					return usage(fmt.Errorf("--%s counts at the first start, and %s is there already; choose another --dir", name, dir))
				}
			}
			// A closed terminal drains as well.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
			defer stop()
			return up(ctx, dir, evaluation(broker, balancer, console, issuer), quiet, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "state `directory`")
	cmd.Flags().StringVar(&broker, "broker", "127.0.0.1:8883", "`address:port` of the broker, at the first start")
	cmd.Flags().StringVar(&balancer, "balancer", "127.0.0.1:8080", "`address:port` of the load balancer, at the first start")
	cmd.Flags().StringVar(&console, "console", "127.0.0.1:8090", "`address:port` of the console's page, at the first start")
	cmd.Flags().StringVar(&issuer, "issuer", "127.0.0.1:8884", "`address:port` of the issuer, at the first start")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "do not show live messages")
	return cmd
}

func up(ctx context.Context, dir string, first provision.Inventory, quiet bool, stdout, stderr io.Writer) error {
	if err := ownDir(dir); err != nil {
		return err
	}
	unlock, taken, err := tryLock(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	if !taken {
		return fmt.Errorf("%s is in use by another levee up", dir)
	}
	defer unlock()
	inv, err := inventoryOf(dir, first)
	if err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(dir, "levee.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	log := slog.New(slog.NewMultiHandler(slog.NewJSONHandler(logFile, nil), daemon.NewQuietLog(stderr).Handler()))
	translog.RouteLibraryLogs(log)
	ids, err := provision.Apply(dir, inv, time.Now())
	if err != nil {
		return err
	}
	parts, err := stack.Open(dir, ids, log)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w; stop the program that has this address", err)
	}
	if err != nil {
		return err
	}
	return runWith(ctx, parts, func(ctx context.Context) error {
		announce(stdout, dir, inv)
		if quiet {
			return nil
		}
		return watchParts(ctx, dir, ids, stdout, stderr)
	})
}

// runWith runs the parts, and beside from when all of them run.
func runWith(ctx context.Context, parts *stack.Stack, beside func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		running sync.WaitGroup
		failure error
	)
	running.Go(func() {
		select {
		case <-parts.Ready():
			if failure = beside(ctx); failure != nil {
				cancel()
			}
		case <-ctx.Done():
		}
	})
	err := parts.Run(ctx)
	cancel()
	running.Wait()
	return errors.Join(err, failure)
}

// watchParts shows what any operator on another machine would see.
func watchParts(ctx context.Context, dir string, ids []pki.Identity, stdout, stderr io.Writer) error {
	i := slices.IndexFunc(ids, func(id pki.Identity) bool { return id.Role == pki.RoleOperator })
	if i < 0 {
		return nil
	}
	bundle := provision.Layout{Dir: dir}.Bundle(ids[i])
	b, err := site.Open(site.Settings{Bundle: config.Path(bundle), State: config.Path(filepath.Join(bundle, "state")), Evaluation: true}, time.Now())
	if err != nil {
		return err
	}
	s, err := watchSession(b, upSession, watch.New(stdout, false), stderr)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// inventoryOf reads the inventory of dir, and writes first there if it has none.
func inventoryOf(dir string, first provision.Inventory) (provision.Inventory, error) {
	path := filepath.Join(dir, provision.FileInventory)
	var inv provision.Inventory
	err := config.Load(path, &inv)
	if !errors.Is(err, fs.ErrNotExist) {
		return inv, err
	}
	if err := checkFree(first.Sites[0]); err != nil {
		return inv, err
	}
	b, err := config.Encode(first)
	if err != nil {
		return inv, err
	}
	return first, durable.WriteFile(path, b, 0o600)
}

// checkFree looks whether the addresses can be had before anything is made from
// them: after the first start they stand in configuration files.
func checkFree(s provision.Site) error {
	for flag, address := range map[string]string{"broker": s.Brokers[0].Listen, "balancer": s.Controllers[0].Pools[0].Listen, "console": s.Consoles[0].Listen,
		"issuer": s.Issuers[0].Listen} {
		parsed, err := netip.ParseAddrPort(address)
		if err != nil || !s.Networks[0].Contains(parsed.Addr()) || parsed.Port() == 0 {
			return usage(fmt.Errorf("--%s %s is not an address in %s and a port: levee up stays on this machine", flag, address, s.Networks[0]))
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("%w; choose another with --%s", err, flag)
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

func announce(out io.Writer, dir string, inv provision.Inventory) {
	s := inv.Sites[0]
	page := "none in this inventory"
	if len(s.Consoles) > 0 { // a directory of an earlier version has none
		page = "http://" + s.Consoles[0].Listen + "/"
	}
	renews := "none in this inventory"
	if len(s.Issuers) > 0 { // likewise
		renews = s.Issuers[0].Address
	}
	where := ""
	if dir != defaultDir {
		where = " --dir " + dir
	}
	fmt.Fprintf(out, `levee is up: site %[1]s, state in %[3]s (evaluation: unsealed root, seven days)

  broker        %[4]s   MQTT 3.1.1 over mTLS
  balancer      http://%[2]s/   pool of %[5]s
  sensor        this machine's counters, every 5 s
  monitor       thresholds in %[6]s
  recorder      log and segments in %[7]s
  issuer        %[11]s   renews certificates, publishes revocations
  console       %[8]s   the page for operators
  logs          %[10]s

next, in a second terminal:
  levee watch%[9]s           the messages, each with what vouches for it
  levee drill flood%[9]s     a bounded flood, so that the chain acts
  levee audit verify%[9]s    check the log and the segments
and in a third, while the flood lasts:
  curl -i http://%[2]s/    429, and 200 again after it

Ctrl-C drains and stops.

`, s.Name, s.Controllers[0].Pools[0].Listen, dir, s.Brokers[0].Address, s.Controllers[0].Pools[0].Server,
		filepath.Join(dir, "bundles", s.Name, "monitor", s.Monitors[0].Name, "levee-monitor.yaml"),
		filepath.Join(dir, "bundles", s.Name, "recorder", s.Recorder, "state"), page, where, filepath.Join(dir, "levee.log"), renews)
}
