package monitor

import (
	"math"
	"testing"
	"time"

	"levee/internal/wire"
	"levee/services/monitor/detect"
)

func TestNewRefuses(t *testing.T) {
	scale := func(p wire.Parameters) func(*Config) {
		return func(c *Config) {
			c.Automatic[0].Command, c.Automatic[0].Parameters = wire.ScaleUpServers, p
		}
	}
	limit := func(p wire.Parameters) func(*Config) {
		return func(c *Config) { c.Automatic[0].Parameters = p }
	}
	for name, change := range map[string]func(*Config){
		"no site":                 func(c *Config) { c.Site = "" },
		"a site that is none":     func(c *Config) { c.Site = "public" },
		"no name":                 func(c *Config) { c.Name = "" },
		"a name with a slash":     func(c *Config) { c.Name = "a/b" },
		"unknown mode":            func(c *Config) { c.Mode = ModeAct + 1 },
		"no publisher":            func(c *Config) { c.Publisher = nil },
		"no log":                  func(c *Config) { c.Log = nil },
		"negative queue":          func(c *Config) { c.Queue = -1 },
		"detector":                func(c *Config) { c.Detect = detect.Config{Hold: -1} },
		"no command":              func(c *Config) { c.Automatic[0].Command = "" },
		"unknown command":         func(c *Config) { c.Automatic[0].Command = "reboot" },
		"a command that ends":     func(c *Config) { c.Automatic[0].Command = wire.DisableRateLimiting },
		"holding automation":      func(c *Config) { c.Automatic[0].Command = wire.HoldAutomation },
		"no parameters":           limit(wire.Parameters{}),
		"rate NaN":                limit(wire.Parameters{RatePerSecond: math.NaN(), Burst: 1}),
		"rate infinite":           limit(wire.Parameters{RatePerSecond: math.Inf(1), Burst: 1}),
		"rate negative":           limit(wire.Parameters{RatePerSecond: -1, Burst: 1}),
		"no burst":                limit(wire.Parameters{RatePerSecond: 1}),
		"servers beside a rate":   limit(wire.Parameters{RatePerSecond: 1, Burst: 1, Servers: 1}),
		"no servers":              scale(wire.Parameters{}),
		"a rate beside servers":   scale(wire.Parameters{Servers: 1, RatePerSecond: 1}),
		"a burst beside servers":  scale(wire.Parameters{Servers: 1, Burst: 1}),
		"no time to live":         func(c *Config) { c.Automatic[0].TTL = 0 },
		"time to live of 1 s":     func(c *Config) { c.Automatic[0].TTL = time.Second },
		"broken seconds":          func(c *Config) { c.Automatic[0].TTL = 2500 * time.Millisecond },
		"beyond policy":           func(c *Config) { c.Automatic[0].TTL = time.Minute + time.Second },
		"no bound":                func(c *Config) { c.Automatic[0].MaxTTL = 0 },
		"no cool-down":            func(c *Config) { c.Automatic[0].CoolDown = 0 },
		"negative renewals":       func(c *Config) { c.Automatic[0].Renewals = -1 },
		"no cause":                func(c *Config) { c.Automatic[0].Causes = nil },
		"unknown cause":           func(c *Config) { c.Automatic[0].Causes = []string{"disk_usage"} },
		"a cause twice":           func(c *Config) { c.Automatic[0].Causes = []string{"cpu_usage", "cpu_usage"} },
		"a cause twice, apart":    func(c *Config) { c.Automatic = append(c.Automatic, limiting()) },
		"a controller that isn't": func(c *Config) { c.Controllers[0].Name = "LB" },
		"a controller twice":      func(c *Config) { c.Controllers = append(c.Controllers, c.Controllers[0]) },
		"every server":            func(c *Config) { c.Controllers[0].Servers = []string{wire.AllServers} },
		"a server twice":          func(c *Config) { c.Controllers[0].Servers = []string{"web-1", "web-1"} },
	} {
		t.Run(name, func(t *testing.T) {
			c := settled(&outbox{})
			if _, err := New(c); err != nil {
				t.Fatalf("before the change: %v", err)
			}
			change(&c)
			if _, err := New(c); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}
