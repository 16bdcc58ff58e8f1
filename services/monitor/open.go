package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"levee/envelope/keys"
	"levee/internal/bulletin"
	"levee/internal/config"
	"levee/internal/metrics"
	"levee/internal/session"
	"levee/internal/site"
	"levee/internal/wire"
	"levee/pki"
	"levee/policies"
	"levee/services/monitor/detect"
)

// Settings are a monitor's configuration file.
type Settings struct {
	site.Settings `yaml:",inline"`
	// Mode is observe or act.
	Mode       string     `yaml:"mode"`
	Thresholds Thresholds `yaml:"thresholds"`
	// Hold is how long all readings stay low before an incident ends; 15 s if
	// absent.
	Hold        time.Duration `yaml:"hold,omitempty"`
	Controllers []struct {
		Name    string   `yaml:"name"`
		Servers []string `yaml:"servers"`
	} `yaml:"controllers"`
	// Digest is the interval of digests; a minute if absent.
	Digest time.Duration `yaml:"digest_interval,omitempty"`
	// MetricsListen is the loopback address and port where GET /metrics is
	// answered; nothing listens if it is absent.
	MetricsListen string `yaml:"metrics_listen,omitempty"`
}

// Thresholds are when to raise an alert. One that is absent is the report's.
type Thresholds struct {
	CPUUsage             float64 `yaml:"cpu_usage"`              // percent
	RAMUsage             float64 `yaml:"ram_usage"`              // percent
	SYNPacketCount       float64 `yaml:"syn_packet_count"`       // received in 5 s
	ActiveTCPConnections float64 `yaml:"active_tcp_connections"` // established
}

// Part is a monitor with its session, as a process runs it.
type Part struct {
	monitor *Monitor
	session *session.Session
	metrics *metrics.Server
	board   *bulletin.Board
}

// Open reads a monitor's configuration file and everything that it names.
func Open(file string, log *slog.Logger) (*Part, error) {
	var settings Settings
	if err := config.Load(file, &settings); err != nil {
		return nil, err
	}
	bundle, err := site.Open(settings.Settings, time.Now())
	if err != nil {
		return nil, err
	}
	id := bundle.Identity
	if id.Role != pki.RoleMonitor {
		return nil, fmt.Errorf("opening a monitor: the bundle is of a %s", id.Role)
	}
	board, err := bulletin.New(log)
	if err != nil {
		return nil, err
	}
	ring, err := keys.Load(bundle.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("opening a monitor: %w", err)
	}
	p := &Part{board: board}
	p.session, err = session.New(session.Config{
		Bundle: bundle,
		Ring:   ring,
		Filters: []string{wire.Filter(wire.KindCPU, id.Site), wire.Filter(wire.KindRAM, id.Site), wire.Filter(wire.KindNetwork, id.Site),
			wire.Filter(wire.KindRateLimiting, id.Site), wire.Filter(wire.KindScaling, id.Site), wire.Filter(wire.KindPresence, id.Site), wire.Public},
		Handle: p.deliver,
		Digest: settings.Digest,
		Log:    log,
	})
	if err != nil {
		return nil, err
	}
	c, err := settings.config()
	if err == nil {
		c.Site, c.Name, c.Automatic, c.Publisher, c.Log = id.Site, id.Name, automatic(bundle.Policy), p.session, log
		p.monitor, err = New(c)
	}
	if err == nil {
		p.metrics, err = metrics.Open(metrics.Config{Listen: settings.MetricsListen, Source: p.session, Log: log})
	}
	if err != nil {
		p.session.Close()
		return nil, err
	}
	return p, nil
}

// config returns what the file says of the monitor itself.
func (s Settings) config() (Config, error) {
	c := Config{Detect: detect.Config{
		CPU:         detect.Threshold{Above: s.Thresholds.CPUUsage},
		RAM:         detect.Threshold{Above: s.Thresholds.RAMUsage},
		SYN:         detect.Threshold{Above: s.Thresholds.SYNPacketCount},
		Connections: detect.Threshold{Above: s.Thresholds.ActiveTCPConnections},
		Hold:        s.Hold,
	}}
	switch s.Mode {
	case "observe", "":
	case "act":
		c.Mode = ModeAct
	default:
		return c, fmt.Errorf("configuring the monitor: mode %q is neither observe nor act", s.Mode)
	}
	for _, x := range s.Controllers {
		c.Controllers = append(c.Controllers, Controller{Name: x.Name, Servers: x.Servers})
	}
	return c, nil
}

// automatic returns the answers to incidents that policy lists.
func automatic(p *policies.Policy) []Automatic {
	var all []Automatic
	for _, command := range []string{wire.EnableRateLimiting, wire.ScaleUpServers} {
		if a, ok := p.Automatic(command); ok {
			all = append(all, Automatic{Command: a.Command, Causes: a.Causes, Parameters: a.Ask,
				TTL: a.TTL, MaxTTL: a.MaxTTL, CoolDown: a.CoolDown, Renewals: a.Renewals})
		}
	}
	return all
}

// Close releases what Open opened, for a part that will not run.
func (p *Part) Close() error { return errors.Join(p.metrics.Close(), p.session.Close()) }

// Run judges and answers until ctx ends.
func (p *Part) Run(ctx context.Context) error {
	return p.metrics.Around(ctx, func(ctx context.Context) error { return p.session.Around(ctx, p.monitor.Run) })
}

// deliver hands a checked message to the monitor, which does not block.
func (p *Part) deliver(d session.Delivery) {
	var err error
	switch d.Topic.Kind {
	case wire.KindCPU:
		var m wire.CPU
		if err = wire.Decode(d.Payload, &m); err == nil {
			p.monitor.ObserveCPU(d.Topic, m, d.Received)
		}
	case wire.KindRAM:
		var m wire.RAM
		if err = wire.Decode(d.Payload, &m); err == nil {
			p.monitor.ObserveRAM(d.Topic, m, d.Received)
		}
	case wire.KindNetwork:
		var m wire.Network
		if err = wire.Decode(d.Payload, &m); err == nil {
			p.monitor.ObserveNetwork(d.Topic, m, d.Received)
		}
	case wire.KindRateLimiting, wire.KindScaling:
		var m wire.Status
		if err = wire.Decode(d.Payload, &m); err == nil {
			p.monitor.ObserveStatus(d.Topic, m)
		}
	case wire.KindPresence:
		var m wire.Presence
		if m, err = wire.ParsePresence(d.Payload); err == nil {
			p.monitor.ObservePresence(d.Topic, d.Message.Nonce, m, d.Received)
		}
	case wire.KindPublic: // for people's eyes
		p.board.Show(d.Name, d.Payload, d.Received)
	}
	if err != nil {
		p.session.RefuseContent(d)
	}
}
