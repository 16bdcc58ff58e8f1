package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"levee/internal/wire"
	"levee/services/monitor/detect"
)

const (
	// every is how often a command is sent until its status comes.
	every = time.Second
	// summary is how often the summarised counters are logged.
	summary = 10 * time.Second
	// batch is how many readings are judged between two looks at the clock, so
	// that a flood of them cannot hold up commands.
	batch = 1024
	// maxReports is how many statuses wait for Run at most.
	maxReports = 256
	// maxAlerts is how many alerts wait at most while none can be sent.
	maxAlerts = 1024
)

// Monitor judges the readings of one site.
type Monitor struct {
	config   Config
	counters counters
	samples  *queue[sample]
	reports  *queue[report]
	words    *queue[word]
	wake     chan struct{}

	// What follows belongs to Run.
	detector   *detect.Detector
	responder  *responder
	attendance *attendance
	alerts     []wire.Alert // not yet sent, the oldest first
	logged     [countersNumber]uint64
	unsent     error // the newest since the last summary
	nextSum    time.Time
}

// New checks c and returns a monitor that has seen nothing.
func New(c Config) (*Monitor, error) {
	c, err := c.check()
	if err != nil {
		return nil, fmt.Errorf("configuring the monitor: %w", err)
	}
	detector, err := detect.New(c.Detect)
	if err != nil {
		return nil, fmt.Errorf("configuring the monitor: %w", err)
	}
	return &Monitor{
		config:     c,
		samples:    newQueue[sample](c.Queue),
		reports:    newQueue[report](maxReports),
		words:      newQueue[word](maxWords),
		wake:       make(chan struct{}, 1),
		detector:   detector,
		responder:  newResponder(c),
		attendance: newAttendance(),
	}, nil
}

// Count returns a counter's value. It may be called at any time.
func (m *Monitor) Count(c Counter) uint64 {
	if c >= countersNumber {
		return 0
	}
	return m.counters[c].Load()
}

func (m *Monitor) count(c Counter) { m.counters[c].Add(1) }

func (m *Monitor) wakeUp() {
	select {
	case m.wake <- struct{}{}:
	default: // Run has been told already
	}
}

// Run judges what is observed and answers it until ctx ends, and then returns
// nil. Commands in force are left to lapse. It may be called once.
func (m *Monitor) Run(ctx context.Context) error {
	m.config.Log.Info("monitor started", slog.String("mode", m.config.Mode.String()),
		slog.Int("automatic", len(m.config.Automatic)), slog.Int("controllers", len(m.config.Controllers)))
	m.nextSum = time.Now().Add(summary)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			m.summarise()
			return nil
		case <-m.wake:
			m.takeReports()
			m.takeSamples()
			m.takeWords()
		case <-tick.C:
			m.tick(time.Now())
		}
	}
}

func (m *Monitor) takeSamples() {
	for range batch {
		s, ok := m.samples.pop()
		if !ok {
			return
		}
		m.judge(s)
	}
	m.wakeUp() // there may be more
}

func (m *Monitor) judge(s sample) {
	change, err := m.detector.Observe(s.received, s.reading)
	switch {
	case errors.Is(err, detect.ErrLate):
		m.count(Late)
		return
	case errors.Is(err, detect.ErrServers):
		m.count(RefusedFull)
		return
	case err != nil:
		m.count(RefusedRange)
		return
	}
	m.count(Judged)
	if change.State == "" {
		return
	}
	now, i := time.Now(), change.Incident
	m.alert(now, change)
	if change.State == wire.StateRaised {
		if m.responder.unserved(i) {
			m.count(Unserved)
			m.config.Log.Warn("no controller serves the server", slog.String("server", i.Server), slog.String("metric", i.Metric.String()))
		}
		m.respond(now, i)
	}
}

// alert queues one alert and sends what is queued.
func (m *Monitor) alert(now time.Time, change detect.Change) {
	i := change.Incident
	which, text := Raised, "incident began"
	if change.State == wire.StateEnded {
		which, text = Ended, "incident ended"
	}
	m.count(which)
	m.config.Log.Info(text, slog.String("server", i.Server), slog.String("metric", i.Metric.String()),
		slog.Float64("value", i.Value), slog.Float64("threshold", i.Threshold), slog.Duration("window", i.Window),
		slog.String("incident", i.ID.String()), slog.Duration("lasted", now.Sub(i.Raised)))
	if len(m.alerts) == maxAlerts {
		m.alerts = m.alerts[1:]
		m.count(LostAlerts)
	}
	m.alerts = append(m.alerts, wire.Alert{
		Timestamp: seconds(now),
		Alert:     i.Metric.Alert(),
		State:     change.State,
		Incident:  i.ID,
		Server:    i.Server,
		Metric:    i.Metric.String(),
		Value:     i.Value,
		Threshold: i.Threshold,
		Window:    i.Window.Seconds(),
	})
	m.sendAlerts()
}

// sendAlerts sends the alerts in their order, and keeps those that cannot be
// sent for the next second.
func (m *Monitor) sendAlerts() {
	for len(m.alerts) > 0 {
		a := m.alerts[0]
		if !m.publish(wire.KindAlert, &a) {
			return
		}
		m.alerts = m.alerts[1:]
	}
	m.alerts = nil
}

func (m *Monitor) publish(kind wire.Kind, payload any) bool {
	topic := wire.Topic{Kind: kind, Site: m.config.Site, Role: "monitor", Name: m.config.Name}
	if err := m.config.Publisher.Publish(topic, payload); err != nil {
		m.count(UnsentMessages)
		m.unsent = err
		return false
	}
	return true
}

// tick does what is due by time: it repeats and renews commands, and sends
// alerts that could not be sent.
func (m *Monitor) tick(now time.Time) {
	m.sendAlerts()
	m.attend(now)
	for _, i := range m.detector.Sweep(now) {
		m.count(Silenced)
		m.config.Log.Warn("server fell silent during an incident: nothing is renewed until it speaks",
			slog.String("server", i.Server), slog.String("metric", i.Metric.String()), slog.String("incident", i.ID.String()),
			slog.String("sensor", m.attendance.how("sensor/"+i.Server)))
	}
	again, unanswered := m.responder.repeat(now)
	for _, c := range again {
		m.count(Repeated)
		m.publish(wire.KindCommand, &c)
	}
	for _, c := range unanswered {
		m.count(Unanswered)
		m.config.Log.Warn("command expired without a status", about(c)...)
	}
	for i := range m.detector.Open() {
		m.respond(now, i)
	}
	if !now.Before(m.nextSum) {
		m.nextSum = now.Add(summary)
		m.summarise()
	}
}

// respond issues what the open incident i calls for. A command that cannot be
// sent now goes out with the next second's repetition.
func (m *Monitor) respond(now time.Time, i detect.Incident) {
	for _, c := range m.responder.respond(now, i) {
		if m.config.Mode != ModeAct {
			m.count(Withheld)
			m.config.Log.Info("mode observe: command withheld", about(c)...)
			continue
		}
		m.count(Issued)
		m.config.Log.Info("command issued", about(c)...)
		m.publish(wire.KindCommand, &c)
	}
}

func (m *Monitor) takeReports() {
	for range maxReports {
		r, ok := m.reports.pop()
		if !ok {
			return
		}
		m.answer(time.Now(), r)
	}
	m.wakeUp() // there may be more
}

func (m *Monitor) answer(now time.Time, r report) {
	o, since, err := m.responder.status(now, r.from, r.status)
	if err != nil {
		m.count(RefusedStatus)
		return
	}
	attrs := []any{
		slog.String("command", r.status.Command), slog.String("id", r.status.ID.String()),
		slog.String("controller", r.from.Name), slog.String("server", r.status.Server),
		slog.String("state", r.status.State), slog.String("reason", r.status.Reason),
		slog.Duration("after", now.Sub(since)),
	}
	switch o {
	case succeeded:
		m.count(Succeeded)
		m.config.Log.Info("command succeeded", attrs...)
	case failed:
		m.count(Failed)
		m.config.Log.Warn("command failed", attrs...)
	case overruled:
		m.count(Overruled)
		m.config.Log.Warn("command's effect was ended", attrs...)
	}
}

func about(c wire.Command) []any {
	return []any{
		slog.String("command", c.Command), slog.String("id", c.ID.String()), slog.String("controller", c.Controller),
		slog.String("server", c.Server), slog.String("cause", c.Cause), slog.String("incident", c.Incident.String()),
		slog.Int64("ttl_seconds", c.TTL),
	}
}

// summarise logs what the summarised counters have gained.
func (m *Monitor) summarise() {
	var attrs []any
	for _, c := range summarised {
		if n := m.Count(c); n > m.logged[c] {
			attrs = append(attrs, slog.Uint64(c.String(), n-m.logged[c]))
			m.logged[c] = n
		}
	}
	if len(attrs) == 0 {
		return
	}
	if m.unsent != nil {
		attrs = append(attrs, slog.String("unsent", m.unsent.Error()))
		m.unsent = nil
	}
	m.config.Log.Warn("messages refused, lost or unsent", attrs...)
}
