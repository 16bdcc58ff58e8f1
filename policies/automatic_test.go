package policies

import (
	"math"
	"testing"
	"time"

	"levee/internal/wire"
)

func TestDefaultAutomatic(t *testing.T) {
	p := mustParse(t, defaultFile)
	for command, want := range map[string]bool{
		wire.EnableRateLimiting:  true,
		wire.ScaleUpServers:      true,
		wire.DisableRateLimiting: false,
		wire.ScaleDownServers:    false,
		wire.HoldAutomation:      false,
		"":                       false,
		"reboot":                 false,
	} {
		a, ok := p.Automatic(command)
		if ok != want {
			t.Errorf("%q: automatic %t, want %t", command, ok, want)
		}
		if !ok && a.Permits(wire.Command{Command: command}) == nil {
			t.Errorf("%q: permitted though not automatic", command)
		}
	}
	a, _ := p.Automatic(wire.EnableRateLimiting)
	if a.TTL != 30*time.Second || a.MaxTTL != 10*time.Minute || !a.AllServers || a.MinSensors != 2 ||
		a.Ask != (wire.Parameters{RatePerSecond: 5, Burst: 10}) {
		t.Errorf("enable_rate_limiting: %+v", a)
	}
	a, _ = p.Automatic(wire.ScaleUpServers)
	if a.TTL != 2*time.Minute || a.AllServers || a.Ask != (wire.Parameters{Servers: 3}) {
		t.Errorf("scale_up_servers: %+v", a)
	}
}

// What the monitor asks for must be what the controller grants.
func TestPermitsWhatItAsksFor(t *testing.T) {
	p := mustParse(t, defaultFile)
	for _, command := range []string{wire.EnableRateLimiting, wire.ScaleUpServers} {
		a, _ := p.Automatic(command)
		for _, cause := range a.Causes {
			c := wire.Command{
				Command: command, Server: "web-1", Parameters: a.Ask,
				TTL: int64(a.TTL / time.Second), Cause: cause, Sensors: []string{"web-1"},
			}
			if err := a.Permits(c); err != nil {
				t.Errorf("%s for %s: %v", command, cause, err)
			}
		}
	}
}

func TestPermits(t *testing.T) {
	p := mustParse(t, defaultFile)
	limit, _ := p.Automatic(wire.EnableRateLimiting)
	scale, _ := p.Automatic(wire.ScaleUpServers)
	limited := func(change func(*wire.Command)) wire.Command {
		c := wire.Command{
			Command: wire.EnableRateLimiting, Server: "web-1", TTL: 30, Cause: "syn_packet_count",
			Parameters: wire.Parameters{RatePerSecond: 5, Burst: 10}, Sensors: []string{"web-1"},
		}
		change(&c)
		return c
	}
	scaled := func(change func(*wire.Command)) wire.Command {
		c := wire.Command{
			Command: wire.ScaleUpServers, Server: "web-1", TTL: 120, Cause: "cpu_usage",
			Parameters: wire.Parameters{Servers: 3}, Sensors: []string{"web-1"},
		}
		change(&c)
		return c
	}
	for _, c := range []struct {
		name    string
		a       Automatic
		command wire.Command
		want    bool
	}{
		{"as it is", limit, limited(func(*wire.Command) {}), true},
		{"longest", limit, limited(func(c *wire.Command) { c.TTL = 600 }), true},
		{"shortest", limit, limited(func(c *wire.Command) { c.TTL = 1 }), true},
		{"least rate", limit, limited(func(c *wire.Command) { c.Parameters.RatePerSecond = 1 }), true},
		{"most rate", limit, limited(func(c *wire.Command) { c.Parameters.RatePerSecond = 1000 }), true},
		{"caused by several", limit, limited(func(c *wire.Command) { c.Sensors = []string{"web-2", "web-1"} }), true},
		{"all servers by two", limit, limited(func(c *wire.Command) { c.Server = "*"; c.Sensors = []string{"web-1", "web-2"} }), true},
		{"scaling as it is", scale, scaled(func(*wire.Command) {}), true},

		{"zero value", Automatic{}, wire.Command{}, false},
		{"zero value, full command", Automatic{}, limited(func(*wire.Command) {}), false},
		{"empty command", limit, wire.Command{}, false},
		{"another command", limit, scaled(func(*wire.Command) {}), false},
		{"the opposite command", limit, limited(func(c *wire.Command) { c.Command = wire.DisableRateLimiting }), false},
		{"no cause", limit, limited(func(c *wire.Command) { c.Cause = "" }), false},
		{"another cause", limit, limited(func(c *wire.Command) { c.Cause = "cpu_usage" }), false},
		{"memory for scaling", scale, scaled(func(c *wire.Command) { c.Cause = "ram_usage" }), false},
		{"no time to live", limit, limited(func(c *wire.Command) { c.TTL = 0 }), false},
		{"negative time to live", limit, limited(func(c *wire.Command) { c.TTL = -1 }), false},
		{"too long", limit, limited(func(c *wire.Command) { c.TTL = 601 }), false},
		{"time to live that overflows", limit, limited(func(c *wire.Command) { c.TTL = math.MaxInt64 }), false},
		{"rate of nothing", limit, limited(func(c *wire.Command) { c.Parameters.RatePerSecond = 0 }), false},
		{"rate too low", limit, limited(func(c *wire.Command) { c.Parameters.RatePerSecond = 0.99 }), false},
		{"rate too high", limit, limited(func(c *wire.Command) { c.Parameters.RatePerSecond = 1000.5 }), false},
		{"rate not a number", limit, limited(func(c *wire.Command) { c.Parameters.RatePerSecond = math.NaN() }), false},
		{"rate infinite", limit, limited(func(c *wire.Command) { c.Parameters.RatePerSecond = math.Inf(1) }), false},
		{"no burst", limit, limited(func(c *wire.Command) { c.Parameters.Burst = 0 }), false},
		{"burst too high", limit, limited(func(c *wire.Command) { c.Parameters.Burst = 2001 }), false},
		{"parameter of another command", limit, limited(func(c *wire.Command) { c.Parameters.Servers = 1 }), false},
		{"one server is no scaling", scale, scaled(func(c *wire.Command) { c.Parameters.Servers = 1 }), false},
		{"too many servers", scale, scaled(func(c *wire.Command) { c.Parameters.Servers = 9 }), false},
		{"scaling with a rate", scale, scaled(func(c *wire.Command) { c.Parameters.RatePerSecond = 5 }), false},

		{"no sensor", limit, limited(func(c *wire.Command) { c.Sensors = nil }), false},
		{"another server", limit, limited(func(c *wire.Command) { c.Server = "web-2" }), false},
		{"no server", limit, limited(func(c *wire.Command) { c.Server = "" }), false},
		{"no server, no sensor name", limit, limited(func(c *wire.Command) { c.Server, c.Sensors = "", []string{""} }), false},
		{"all servers by one", limit, limited(func(c *wire.Command) { c.Server = "*" }), false},
		{"all servers by one, twice", limit, limited(func(c *wire.Command) { c.Server = "*"; c.Sensors = []string{"web-1", "web-1"} }), false},
		{"all servers by a sensor of that name", limit, limited(func(c *wire.Command) { c.Server = "*"; c.Sensors = []string{"*", "web-1"} }), false},
		{"all servers by none", limit, limited(func(c *wire.Command) { c.Server = "*"; c.Sensors = nil }), false},
		{"all servers where never automatic", scale, scaled(func(c *wire.Command) { c.Server = "*"; c.Sensors = []string{"web-1", "web-2", "web-3"} }), false},
		{"a sensor beside the grammar", limit, limited(func(c *wire.Command) { c.Sensors = []string{"web-1", "WEB"} }), false},
	} {
		if err := c.a.Permits(c.command); (err == nil) != c.want {
			t.Errorf("%s: %v, want permitted %t", c.name, err, c.want)
		}
	}
}
