package controller

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"levee/internal/wire"
	"levee/services/controller/journal"
)

// process judges one command and acts on it. The first verdict on an id that
// reached the journal is final: whatever the clock or policy say later, repeats
// are answered with it.
func (c *Controller) process(ctx context.Context, m message) {
	c.settle(ctx) // what is over must not count as in force
	now := time.Now()
	key := journal.Key{Sender: m.from.Sender(), ID: m.cmd.ID}
	reason := checkSender(m.from, m.cmd)
	if reason == "" {
		reason = checkForm(m.cmd)
	}
	if reason != "" {
		c.refuse(key, m.cmd, reason, now)
		return
	}
	command, err := canonical(m.cmd)
	if err != nil || len(command) > journal.MaxBytes {
		c.refuse(key, m.cmd, ReasonMalformed, now)
		return
	}
	entry, found, err := c.cfg.Journal.Find(key)
	switch {
	case err != nil:
		c.log.Error("the journal cannot be read", slog.String("id", key.ID.String()), slog.Any("error", err))
		c.refuse(key, m.cmd, ReasonJournalFailed, now)
	case found && !bytes.Equal(entry.Command, command):
		c.log.Error("ALARM: one id stands for two commands of one sender",
			slog.String("sender", key.Sender), slog.String("id", key.ID.String()))
		c.refuse(key, m.cmd, ReasonReusedID, now)
	case found:
		c.repeat(entry, m.cmd, now)
	default:
		c.judge(ctx, m, journal.Entry{
			Key: key, Command: command, Seen: m.received, Expires: time.UnixMilli(until(m.cmd)),
		}, now)
	}
}

// canonical returns the bytes that make a command this command: everything but
// the moment at which it was said, which a sender may renew in each repetition
// and nobody acts on.
func canonical(cmd wire.Command) ([]byte, error) {
	cmd.Timestamp = 0
	return wire.Encode(&cmd)
}

// checkWorld judges a well-formed command by what this controller is and by
// policy.
func (c *Controller) checkWorld(cmd wire.Command, from origin) string {
	if len(c.state.of(cmd.Server)) == 0 {
		return ReasonUnknownPool
	}
	if from != automatic {
		return ""
	}
	err := errors.New("not an automatic command")
	if policy, ok := c.cfg.Automatic(cmd.Command); ok {
		err = policy.Permits(cmd)
	}
	if err != nil {
		c.log.Warn("policy does not permit a command",
			slog.String("id", cmd.ID.String()), slog.String("command", cmd.Command), slog.Any("error", err))
		return ReasonNotPermitted
	}
	return ""
}

// judge decides on a command that is not in the journal.
func (c *Controller) judge(ctx context.Context, m message, entry journal.Entry, now time.Time) {
	from := originOf(m.from.Role)
	reason := checkTime(m.cmd, m.received, now, c.cfg.Skew)
	if reason == "" {
		reason = c.checkWorld(m.cmd, from)
	}
	if reason != "" {
		c.refuse(entry.Key, m.cmd, reason, now)
		return
	}
	reason = c.state.check(m.cmd, from, now, c.cfg.Skew)
	if reason == "" && from == automatic {
		policy, _ := c.cfg.Automatic(m.cmd.Command)
		entry.Row, reason = c.state.checkRow(m.cmd, policy, now, c.cfg.Skew)
	}
	if reason != "" {
		// This verdict depends on what happens to be in force. It is journalled,
		// so that a repeat does not get another one a moment later.
		entry.Status = c.encode(c.refusal(m.cmd, reason, now))
	}
	if err := c.cfg.Journal.Add(entry); err != nil {
		c.log.Error("a command could not be journalled and was not acted on",
			slog.String("sender", entry.Key.Sender), slog.String("id", entry.Key.ID.String()), slog.Any("error", err))
		if reason = ReasonJournalFailed; errors.Is(err, journal.ErrFull) {
			reason = ReasonJournalFull
		}
	}
	if reason != "" {
		c.refuse(entry.Key, m.cmd, reason, now)
		return
	}
	c.accepted.Add(1)
	c.act(ctx, newMitigation(entry, m.cmd, from, now), now)
}

// act brings a journalled command into force.
func (c *Controller) act(ctx context.Context, m *mitigation, now time.Time) {
	c.log.Info("acting on a command", slog.String("sender", m.key.Sender), slog.String("id", m.key.ID.String()),
		slog.String("command", m.cmd.Command), slog.String("server", m.cmd.Server), slog.Time("until", m.until))
	ch := c.state.take(m, now)
	if actions[m.cmd.Command].ends {
		// Never undone: what should end is tried again until it has ended.
		c.await(m, wire.StateStopped)
		for _, d := range c.gone(ch) {
			c.await(d, wire.StateStopped)
		}
		return // settle goes on from here
	}
	if c.apply(ctx, ch.pools) {
		c.conclude(m, wire.StateActive, "")
		return
	}
	if ctx.Err() != nil {
		return // stopping, not failing: the next start takes it up
	}
	c.state.undo(m, ch)
	c.conclude(m, wire.StateFailed, ReasonActuatorFailed)
}

// gone returns what a change displaced and what is now in force nowhere.
func (c *Controller) gone(ch change) []*mitigation {
	var gone []*mitigation
	for _, before := range ch.before {
		d := before.current
		if d != nil && !c.state.holds(d.key) && !slices.Contains(gone, d) {
			gone = append(gone, d)
		}
	}
	return gone
}

// apply brings dirty pools into their wanted state and reports whether all of
// pools are.
func (c *Controller) apply(ctx context.Context, pools []*pool) bool {
	done := true
	for _, p := range pools {
		if !p.dirty {
			continue
		}
		limited, cancel := context.WithTimeout(ctx, applyTimeout)
		err := c.cfg.Actuator.Apply(limited, p.name, p.wanted())
		cancel()
		if err != nil {
			c.log.Error("the load balancer did not take a state", slog.String("pool", p.name), slog.Any("error", err))
			p.retry = time.Now().Add(retryInterval)
			done = false
			continue
		}
		p.dirty = false
	}
	return done
}

// repeat answers a command that the journal knows.
func (c *Controller) repeat(entry journal.Entry, cmd wire.Command, now time.Time) {
	c.repeated.Add(1)
	if !c.answers.due(entry.Key, now) {
		return
	}
	var s wire.Status
	switch {
	case slices.ContainsFunc(c.pending, func(o outcome) bool { return o.m.key == entry.Key }):
		return // it will be told
	case entry.Status != nil:
		if err := wire.DecodeExact(entry.Status, &s); err != nil {
			c.log.Error("a journalled status cannot be read", slog.String("id", entry.Key.ID.String()), slog.Any("error", err))
			return
		}
		if s.State == wire.StateActive && !c.state.holds(entry.Key) {
			s = c.overtaken(cmd, now)
		}
	case c.state.holds(entry.Key):
		s = c.status(cmd, wire.StateActive, "", now) // the disk failed when it should have been journalled
	default:
		return // nor could its end be journalled, and all has been told
	}
	c.publish(s)
}

// overtaken returns the status of a command which a later one replaced, as far
// as that one goes.
func (c *Controller) overtaken(cmd wire.Command, now time.Time) wire.Status {
	var first *mitigation // to end
	for _, p := range c.state.of(cmd.Server) {
		m := p.slots[actions[cmd.Command].kind].current
		if m == nil {
			first = nil
			break
		}
		if first == nil || m.until.Before(first.until) {
			first = m
		}
	}
	if first == nil {
		return c.status(cmd, wire.StateStopped, ReasonSuperseded, now)
	}
	s := c.status(cmd, wire.StateActive, ReasonSuperseded, now)
	s.Parameters, s.Until = first.cmd.Parameters, until(first.cmd)
	return s
}
