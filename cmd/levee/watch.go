package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"levee/internal/config"
	"levee/internal/daemon"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/watch"
	"levee/pki"
)

// bundleFlags choose the person whose bundle a command uses.
type bundleFlags struct {
	dir, bundle string
	session     int
}

func (f *bundleFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "dir", defaultDir, "state `directory` of levee up, to find the operator's bundle in")
	cmd.Flags().StringVar(&f.bundle, "bundle", "", "a person's bundle `directory`, in place of the one in --dir")
	cmd.Flags().IntVar(&f.session, "session", -1, "which `number` of session this is, 0 to 2, where several machines share a bundle (default: one that nobody here uses)")
}

// open opens the chosen bundle, or the only operator's of --dir.
func (f *bundleFlags) open(now time.Time) (*site.Bundle, error) {
	dir := f.bundle
	if dir == "" {
		found, err := findBundles(f.dir, "operator", "")
		if err != nil {
			return nil, err
		}
		switch len(found) {
		case 0:
			return nil, fmt.Errorf("no operator's bundle below %s; start `levee up` there first, or give --bundle or --dir", f.dir)
		case 1:
			dir = found[0]
		default:
			return nil, fmt.Errorf("%d operators' bundles below %s; choose one with --bundle", len(found), f.dir)
		}
	}
	// Before anything is made in a bundle that is none of a person's.
	c, err := pki.LoadCredential(filepath.Join(dir, site.FileKey), filepath.Join(dir, site.FileChain))
	if err != nil {
		return nil, fmt.Errorf("opening bundle %s: %w", dir, err)
	}
	if uris := c.Leaf().URIs; len(uris) != 1 || !strings.HasPrefix(uris[0].Host, "ops.") {
		return nil, fmt.Errorf("%s is the bundle of a machine or a guest; this is for people, whose messages change nothing", dir)
	}
	// A person's tool accepts an evaluation root: it acts on nothing, and the
	// root is the one in the person's own bundle.
	return site.Open(site.Settings{Bundle: config.Path(dir), State: config.Path(filepath.Join(dir, "state")), Evaluation: true}, now)
}

// findBundles returns the bundles of a role below dir, or a file in each.
func findBundles(dir, role, file string) ([]string, error) {
	// Glob takes a directory that may not be read for an empty one.
	if _, err := os.ReadDir(filepath.Join(dir, "bundles")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "bundles", "*", role, "*", file))
}

// claim returns the number of a session that no other process on this machine
// uses: a second session with the same number would end the first, and the two
// would go on ending each other.
func (f *bundleFlags) claim(b *site.Bundle) (instance int, release func(), err error) {
	if f.session >= peopleSessions {
		return 0, nil, usage(fmt.Errorf("session %d is not 0 to %d", f.session, peopleSessions-1))
	}
	if f.session >= 0 {
		return f.session, func() {}, nil
	}
	for n := range peopleSessions {
		release, taken, err := claimSession(b, n)
		if err != nil || taken {
			return n, release, err
		}
	}
	return 0, nil, fmt.Errorf("all %d sessions of %s are in use on this machine", peopleSessions, b.Identity.Sender())
}

// peopleSessions are for people's terminals; the fourth is for levee up.
const peopleSessions = 3

func claimSession(b *site.Bundle, n int) (release func(), taken bool, err error) {
	return tryLock(filepath.Join(b.State, "session-"+strconv.Itoa(n)))
}

func watchCommand() *cobra.Command {
	var (
		flags  bundleFlags
		asJSON bool
		count  int
	)
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "show live messages with what vouches for each",
		Long: `Show live messages with what vouches for each:

  verified      signed by its sender, checked from the root
  unconfirmed   a reading, until its sender's signed digest covers it
  confirmed     a digest that matches every message it covers, byte for byte
  incomplete    a digest over messages that were not all seen here
  contradicted  a digest that does not match: alarm
  disowned      a digest that takes back messages that were seen here
  unverified    a public message: anybody's text
  refused       a message that failed a check, and which`,
		Example: "  levee watch\n  levee watch --json | jq 'select(.kind==\"alerts\")'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bundle, err := flags.open(time.Now())
			if err != nil {
				return err
			}
			instance, release, err := flags.claim(bundle)
			if err != nil {
				return err
			}
			defer release()
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			viewer := watch.New(&counted{Writer: cmd.OutOrStdout(), left: count, done: cancel}, asJSON)
			s, err := watchSession(bundle, instance, viewer, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			go func() { // who may read little waits long for the first line
				select {
				case <-s.Ready():
					fmt.Fprintf(cmd.ErrOrStderr(), "connected as %s%s; may read %s\n", bundle.Identity.Sender(), whichBroker(s.Brokers()), strings.Join(bundle.Policy.Rights(bundle.Identity).Subscriptions(), " "))
				case <-ctx.Done():
				}
			}()
			if err := s.Run(ctx); err != nil {
				return err
			}
			if err := viewer.Err(); err != nil && !errors.Is(err, errEnough) {
				return fmt.Errorf("writing: %w", err)
			}
			return nil
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	cmd.Flags().IntVar(&count, "count", 0, "stop after so many lines; 0 means never")
	return cmd
}

// whichBroker says which of several brokers a person is connected to: the
// readings of the others' sensors do not pass there.
func whichBroker(brokers map[string]bool) string {
	for name, connected := range brokers {
		if connected && len(brokers) > 1 {
			return fmt.Sprintf(" at %s, one of %d brokers: readings of the others' sensors are not shown", name, len(brokers))
		}
	}
	return ""
}

// watchSession opens a session that shows everything its role may read.
func watchSession(b *site.Bundle, instance int, viewer *watch.Viewer, stderr io.Writer) (*session.Session, error) {
	if b.Identity.Role.Class() != pki.ClassPerson {
		return nil, fmt.Errorf("%s is a machine; watch is for people, whose messages change nothing", b.Identity.Sender())
	}
	return session.New(session.Config{
		Bundle:   b,
		Filters:  b.Policy.Rights(b.Identity).Subscriptions(),
		Handle:   viewer.Deliver,
		Refused:  viewer.Refuse,
		Instance: instance,
		Log:      daemon.NewQuietLog(stderr),
	})
}

var errEnough = errors.New("enough lines")

// counted ends the command after so many lines.
type counted struct {
	io.Writer
	left int
	done func()
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	if err != nil {
		c.done()
		return n, err
	}
	if c.left > 0 {
		if c.left--; c.left == 0 {
			c.done()
			return n, errEnough
		}
	}
	return n, nil
}
