package monitor

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"levee/internal/wire"
	"levee/pki"
	"levee/services/monitor/detect"
)

// Mode says whether the monitor acts. The zero value does not.
type Mode uint8

// The modes.
const (
	ModeObserve Mode = iota // alerts only; what would have been done is logged
	ModeAct
)

// String returns "observe" or "act".
func (m Mode) String() string {
	if m == ModeAct {
		return "act"
	}
	return "observe"
}

// Publisher seals a payload and sends it. Publish is called from Run, and
// should not block for longer than it takes to hand the message over; an error
// means that it was not handed over.
type Publisher interface {
	Publish(topic wire.Topic, payload any) error
}

// Automatic is a command that policy allows the monitor to issue by itself.
type Automatic struct {
	// Command is wire.EnableRateLimiting or wire.ScaleUpServers. No other
	// command answers an incident.
	Command string
	// Causes are the metrics whose incidents it answers, by the report's names.
	Causes []string
	// Parameters are what it asks for.
	Parameters wire.Parameters
	// TTL is the time to live asked for, in whole seconds, at least 2 s and at
	// most MaxTTL, which is policy's bound.
	TTL, MaxTTL time.Duration
	// CoolDown is how long after the last command of a run the next may begin.
	CoolDown time.Duration
	// Renewals is how many further commands a run may have.
	Renewals int
}

// Controller says which servers' pools a controller serves.
type Controller struct {
	Name    string
	Servers []string
}

// Config is what a monitor is made of.
type Config struct {
	Site, Name string // the monitor's own identity
	Mode       Mode
	Detect     detect.Config
	Automatic  []Automatic
	// Controllers may serve one server together; each is then told.
	Controllers []Controller
	Publisher   Publisher
	Log         *slog.Logger
	// Queue is how many readings wait for Run at most; 16,384 if zero.
	Queue int
}

const (
	defaultQueue = 16_384
	minTTL       = 2 * time.Second // the shortest that can be renewed in time, at one look each second
)

// check fills what c leaves zero and refuses what cannot be meant.
func (c Config) check() (Config, error) {
	switch {
	case !pki.ValidSite(c.Site):
		return c, fmt.Errorf("%q is no site", c.Site)
	case !pki.ValidName(c.Name):
		return c, fmt.Errorf("%q is no name", c.Name)
	case c.Mode > ModeAct:
		return c, fmt.Errorf("mode %d is unknown", c.Mode)
	case c.Publisher == nil:
		return c, errors.New("no publisher")
	case c.Log == nil:
		return c, errors.New("no log")
	case c.Queue < 0:
		return c, fmt.Errorf("a queue of %d", c.Queue)
	}
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	answers := make(map[[2]string]bool)
	for _, a := range c.Automatic {
		if err := a.check(); err != nil {
			return c, fmt.Errorf("automatic command %q: %w", a.Command, err)
		}
		for _, cause := range a.Causes {
			pair := [2]string{a.Command, cause}
			if answers[pair] {
				return c, fmt.Errorf("automatic command %q: cause %q is listed twice", a.Command, cause)
			}
			answers[pair] = true
		}
	}
	names := make(map[string]bool)
	for _, x := range c.Controllers {
		if err := x.check(); err != nil {
			return c, fmt.Errorf("controller %q: %w", x.Name, err)
		}
		if names[x.Name] {
			return c, fmt.Errorf("controller %q: listed twice", x.Name)
		}
		names[x.Name] = true
	}
	return c, nil
}

func (a Automatic) check() error {
	p := a.Parameters
	switch a.Command {
	case wire.EnableRateLimiting:
		if !(p.RatePerSecond > 0) || math.IsInf(p.RatePerSecond, 0) || p.Burst < 1 || p.Servers != 0 {
			return errors.New("it needs a rate and a burst, both positive, and nothing else")
		}
	case wire.ScaleUpServers:
		if p.Servers < 1 || p.RatePerSecond != 0 || p.Burst != 0 {
			return errors.New("it needs a positive number of servers, and nothing else")
		}
	default:
		return errors.New("it is no answer to an incident")
	}
	switch {
	case a.TTL < minTTL || a.TTL%time.Second != 0:
		return fmt.Errorf("its time to live, %s, is not whole seconds, %s at least", a.TTL, minTTL)
	case a.TTL > a.MaxTTL:
		return fmt.Errorf("its time to live, %s, is above policy's %s", a.TTL, a.MaxTTL)
	case a.CoolDown <= 0:
		return errors.New("it has no cool-down")
	case a.Renewals < 0:
		return fmt.Errorf("%d renewals", a.Renewals)
	case len(a.Causes) == 0:
		return errors.New("it has no cause")
	}
	for _, cause := range a.Causes {
		if _, ok := detect.ParseMetric(cause); !ok {
			return fmt.Errorf("cause %q is no metric", cause)
		}
	}
	return nil
}

func (c Controller) check() error {
	if !pki.ValidName(c.Name) {
		return errors.New("not a name")
	}
	seen := make(map[string]bool)
	for _, server := range c.Servers {
		if !pki.ValidName(server) {
			return fmt.Errorf("server %q is no name", server)
		}
		if seen[server] {
			return fmt.Errorf("server %q is listed twice", server)
		}
		seen[server] = true
	}
	return nil
}
