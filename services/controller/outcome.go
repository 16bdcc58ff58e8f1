package controller

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"levee/internal/wire"
	"levee/pki"
	"levee/services/controller/journal"
)

// outcome is what will be true of a mitigation as soon as the actuator has
// confirmed the state of its pools.
type outcome struct {
	m     *mitigation
	state string
	told  bool // that the actuator fails
}

// maxPending bounds the outcomes that wait for an actuator which fails for long.
const maxPending = 1024

// await concludes m with state when its pools are clean.
func (c *Controller) await(m *mitigation, state string) {
	if len(c.pending) >= maxPending {
		oldest := c.pending[0]
		c.pending = slices.Delete(c.pending, 0, 1)
		c.conclude(oldest.m, wire.StateFailed, ReasonActuatorFailed)
	}
	c.pending = append(c.pending, outcome{m: m, state: state})
}

// conclude tells what became of m, and journals it. The message goes first: a
// crash in between says it twice, and never not at all.
func (c *Controller) conclude(m *mitigation, state, reason string) {
	s := c.status(m.cmd, state, reason, time.Now())
	c.publish(s)
	if err := c.cfg.Journal.Finish(m.key, c.encode(s)); err != nil {
		c.log.Error("a status could not be journalled", slog.String("id", m.key.ID.String()), slog.Any("error", err))
	}
}

// settle ends what is over, tries again what the actuator did not take, tells
// the outcomes that have become true, and cleans the journal.
func (c *Controller) settle(ctx context.Context) {
	now := time.Now()
	for _, m := range c.state.lapse(now) {
		c.log.Info("a time to live ended", slog.String("id", m.key.ID.String()), slog.String("command", m.cmd.Command))
		c.await(m, wire.StateLapsed)
	}
	for _, p := range c.state.pools {
		if p.dirty && !p.retry.After(now) {
			c.apply(ctx, []*pool{p})
		}
	}
	if ctx.Err() != nil {
		return // what is pending is in the journal, and the next start settles it
	}
	waiting := c.pending[:0]
	for _, o := range c.pending {
		if !c.resolve(&o) {
			waiting = append(waiting, o)
		}
	}
	c.pending = waiting
	if !now.Before(c.forget) {
		c.forget = now.Add(forgetEvery)
		if _, err := c.cfg.Journal.Forget(now, c.state.needs); err != nil {
			c.log.Error("the journal could not be cleaned", slog.Any("error", err))
		}
	}
}

// resolve tells o if it has become true, and reports whether it is done with.
func (c *Controller) resolve(o *outcome) bool {
	if o.state == wire.StateActive && !c.state.holds(o.m.key) {
		return true // overtaken: its end is pending as well
	}
	if !slices.ContainsFunc(c.state.of(o.m.cmd.Server), func(p *pool) bool { return p.dirty }) {
		c.conclude(o.m, o.state, "")
		return true
	}
	if !o.told {
		// Not journalled: it is not the last word.
		c.publish(c.status(o.m.cmd, wire.StateFailed, ReasonActuatorFailed, time.Now()))
		o.told = true
	}
	return false
}

// refuse answers a command that is not acted on.
func (c *Controller) refuse(key journal.Key, cmd wire.Command, reason string, now time.Time) {
	c.refused.Add(1)
	s := c.refusal(cmd, reason, now)
	if cmd.ID.IsZero() || !c.answers.due(key, now) {
		return // nobody could tell what was refused, or it was told just now
	}
	c.log.Warn("command refused", slog.String("sender", key.Sender), slog.String("id", key.ID.String()),
		slog.String("command", s.Command), slog.String("server", s.Server), slog.String("reason", reason))
	c.publish(s)
}

// refusal returns the status of a command that is not acted on. It repeats
// nothing of the command that is not in a known form.
func (c *Controller) refusal(cmd wire.Command, reason string, now time.Time) wire.Status {
	if _, known := actions[cmd.Command]; !known && cmd.Command != wire.HoldAutomation {
		cmd.Command = "unknown"
	}
	if cmd.Server != wire.AllServers && !pki.ValidName(cmd.Server) {
		cmd.Server = ""
	}
	cmd.Parameters = wire.Parameters{}
	return c.status(cmd, wire.StateRefused, reason, now)
}

func (c *Controller) status(cmd wire.Command, state, reason string, now time.Time) wire.Status {
	s := wire.Status{
		Timestamp: float64(now.UnixMilli()) / 1000,
		ID:        cmd.ID, Command: cmd.Command, Status: wire.StatusSuccess, State: state,
		Controller: c.cfg.Name, Server: cmd.Server, Parameters: cmd.Parameters, Reason: reason,
	}
	switch state {
	case wire.StateActive:
		s.Until = until(cmd)
	case wire.StateRefused, wire.StateFailed:
		s.Status = wire.StatusFailure
	}
	return s
}

// publish sends a status on the topic of its command's kind.
func (c *Controller) publish(s wire.Status) {
	topic := wire.Topic{Kind: wire.KindRateLimiting, Site: c.cfg.Site, Role: "controller", Name: c.cfg.Name}
	if actions[s.Command].kind == scaling {
		topic.Kind = wire.KindScaling
	}
	if err := c.cfg.Publish(topic, &s); err != nil {
		c.unpublished.Add(1)
		c.log.Error("a status could not be published", slog.String("id", s.ID.String()), slog.Any("error", err))
	}
}

// encode returns the status as it is journalled. What the controller itself
// builds can always be encoded; if not, the outcome stays unknown.
func (c *Controller) encode(s wire.Status) []byte {
	b, err := wire.Encode(&s)
	if err != nil {
		c.log.Error("a status cannot be encoded", slog.String("id", s.ID.String()), slog.Any("error", err))
	}
	return b
}
