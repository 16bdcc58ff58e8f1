package policies

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"levee/internal/wire"
	"levee/pki"
)

// Automatic is one command that a monitor may give by itself, and how far. The
// zero value permits nothing.
type Automatic struct {
	Command string
	Causes  []string // payload members whose crossed threshold may cause it

	TTL      time.Duration // what the monitor asks for
	MaxTTL   time.Duration // what a controller grants at most
	Renewals int           // how often the monitor may renew it in a row
	CoolDown time.Duration // from the end of such a row to the first command of the next

	AllServers bool // "*" may be automatic,
	MinSensors int  // caused by that many sensors at least

	Ask      wire.Parameters // what the monitor asks for
	Min, Max wire.Parameters // what a controller grants; both zero where the command has no such parameter
}

// Bounds that no policy exceeds: an automatic act stays short and small.
const (
	maxAutomaticTTL = time.Hour
	maxCoolDown     = 24 * time.Hour
	maxRenewals     = 1000
	maxRate         = 1e6
	maxBurst        = 1_000_000
	maxServers      = 1000
)

// What can cross a threshold: the members of readings that alerts name.
const (
	metricCPU         = "cpu_usage"
	metricRAM         = "ram_usage"
	metricSYN         = "syn_packet_count"
	metricConnections = "active_tcp_connections"
)

// automatable lists the commands that a policy may make automatic, with the
// parameters of each and what may cause it. Memory in use says nothing of
// load, so it never starts a server; and holding automation is for people.
var automatable = map[string]struct {
	limits, servers bool // which parameters it has
	causes          []string
}{
	wire.EnableRateLimiting:  {limits: true, causes: []string{metricCPU, metricRAM, metricSYN, metricConnections}},
	wire.DisableRateLimiting: {causes: []string{metricCPU, metricRAM, metricSYN, metricConnections}},
	wire.ScaleUpServers:      {servers: true, causes: []string{metricCPU, metricSYN, metricConnections}},
	wire.ScaleDownServers:    {causes: []string{metricCPU, metricSYN, metricConnections}},
}

// Permits reports whether c, which must be given as automatic, lies within a:
// its command, time to live, parameters and cause; and its server, because one
// sensor affects its own server alone. The error says what does not, for logs
// and for the status that refuses it. Who signed c, when, and how often are
// for the caller to check.
func (a Automatic) Permits(c wire.Command) error {
	switch {
	case c.Command != a.Command:
		return fmt.Errorf("command %q is not the automatic %q", c.Command, a.Command)
	case !slices.Contains(a.Causes, c.Cause):
		return fmt.Errorf("cause %q is not one that policy lists", c.Cause)
	case c.TTL < 1 || c.TTL > int64(a.MaxTTL/time.Second):
		return fmt.Errorf("time to live of %d s is outside 1 to %d s", c.TTL, int64(a.MaxTTL/time.Second))
	case !within(a.Min.RatePerSecond, c.Parameters.RatePerSecond, a.Max.RatePerSecond):
		return fmt.Errorf("rate_per_second %g is outside %g to %g", c.Parameters.RatePerSecond, a.Min.RatePerSecond, a.Max.RatePerSecond)
	case !within(a.Min.Burst, c.Parameters.Burst, a.Max.Burst):
		return fmt.Errorf("burst %d is outside %d to %d", c.Parameters.Burst, a.Min.Burst, a.Max.Burst)
	case !within(a.Min.Servers, c.Parameters.Servers, a.Max.Servers):
		return fmt.Errorf("servers %d is outside %d to %d", c.Parameters.Servers, a.Min.Servers, a.Max.Servers)
	}
	return a.permitsServer(c.Server, c.Sensors)
}

func (a Automatic) permitsServer(server string, sensors []string) error {
	for i, name := range sensors {
		if !pki.ValidName(name) {
			return fmt.Errorf("sensor %q has no valid name", name)
		}
		if slices.Contains(sensors[:i], name) {
			return fmt.Errorf("sensor %q stands twice", name)
		}
	}
	switch {
	case server == wire.AllServers && !a.AllServers:
		return errors.New("all servers at once are never automatic")
	case server == wire.AllServers && len(sensors) < max(2, a.MinSensors):
		return fmt.Errorf("all servers at once need %d sensors, not %d", max(2, a.MinSensors), len(sensors))
	case server == wire.AllServers:
		return nil
	case !slices.Contains(sensors, server):
		return fmt.Errorf("server %q is none of the sensors that caused it", server)
	}
	return nil
}

// within is false for a number that is not one (NaN).
func within[T int | float64](least, n, most T) bool { return least <= n && n <= most }

func compileAutomatic(files map[string]automaticFile) (map[string]Automatic, error) {
	commands := make(map[string]Automatic, len(files))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		a, err := compileCommand(name, files[name])
		if err != nil {
			return nil, fmt.Errorf("automatic: %q: %w", name, err)
		}
		commands[name] = a
	}
	return commands, nil
}

func compileCommand(name string, f automaticFile) (Automatic, error) {
	able, ok := automatable[name]
	if !ok {
		return Automatic{}, errors.New("not a command that may be automatic")
	}
	if len(f.Causes) == 0 {
		return Automatic{}, errors.New("no causes")
	}
	for i, cause := range f.Causes {
		if !slices.Contains(able.causes, cause) {
			return Automatic{}, fmt.Errorf("%q may not cause it", cause)
		}
		if slices.Contains(f.Causes[:i], cause) {
			return Automatic{}, fmt.Errorf("cause %q stands twice", cause)
		}
	}
	a := Automatic{
		Command:  name,
		Causes:   f.Causes,
		TTL:      time.Duration(f.TTL),
		MaxTTL:   time.Duration(f.MaxTTL),
		Renewals: int(f.Renewals),
		CoolDown: time.Duration(f.CoolDown),
		Ask:      parameters(f.Parameters.RatePerSecond.Ask, f.Parameters.Burst.Ask, f.Parameters.Servers.Ask),
		Min:      parameters(f.Parameters.RatePerSecond.Min, f.Parameters.Burst.Min, f.Parameters.Servers.Min),
		Max:      parameters(f.Parameters.RatePerSecond.Max, f.Parameters.Burst.Max, f.Parameters.Servers.Max),
	}
	if f.AllServers != nil {
		a.AllServers, a.MinSensors = true, int(f.AllServers.MinSensors)
	}
	switch {
	case a.TTL%time.Second != 0 || a.MaxTTL%time.Second != 0:
		return Automatic{}, errors.New("a time to live is not whole seconds")
	case a.TTL < time.Second || a.TTL > a.MaxTTL || a.MaxTTL > maxAutomaticTTL:
		return Automatic{}, fmt.Errorf("times to live must rise from 1s over ttl and max_ttl to %s", maxAutomaticTTL)
	case a.CoolDown < time.Second || a.CoolDown > maxCoolDown:
		return Automatic{}, fmt.Errorf("cool_down %s is outside 1s to %s", a.CoolDown, maxCoolDown)
	case a.Renewals < 0 || a.Renewals > maxRenewals:
		return Automatic{}, fmt.Errorf("renewals %d is outside 0 to %d", a.Renewals, maxRenewals)
	case a.AllServers && (a.MinSensors < 2 || a.MinSensors > maxServers):
		return Automatic{}, fmt.Errorf("min_sensors %d is outside 2 to %d", a.MinSensors, maxServers)
	}
	for _, err := range []error{
		f.Parameters.RatePerSecond.lint("rate_per_second", able.limits, maxRate),
		f.Parameters.Burst.lint("burst", able.limits, maxBurst),
		f.Parameters.Servers.lint("servers", able.servers, maxServers),
	} {
		if err != nil {
			return Automatic{}, err
		}
	}
	return a, nil
}

func parameters(rate decimal, burst, servers integer) wire.Parameters {
	return wire.Parameters{RatePerSecond: float64(rate), Burst: int(burst), Servers: int(servers)}
}

func (b bounds[T]) lint(name string, used bool, most T) error {
	switch {
	case !used && b != bounds[T]{}:
		return fmt.Errorf("%s is no parameter of it", name)
	case used && (b.Min <= 0 || b.Min > b.Ask || b.Ask > b.Max || b.Max > most):
		return fmt.Errorf("%s must rise from above 0 over min, ask and max to %v", name, most)
	}
	return nil
}
