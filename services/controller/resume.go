package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"levee/internal/wire"
	"levee/services/controller/journal"
)

// resume replays the journal: what is still in force is applied again, what
// ended meanwhile is told, and the latest command of each pool is known again.
// An entry that cannot be read is an error: without it one command could act
// twice.
func (c *Controller) resume(ctx context.Context) error {
	now := time.Now()
	c.forget = now.Add(forgetEvery)
	entries, err := c.cfg.Journal.Entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.replay(e, now); err != nil {
			return fmt.Errorf("entry %s of %s: %w", e.Key.ID, e.Key.Sender, err)
		}
	}
	// The actuator may have kept a state that nobody remembers.
	for _, p := range c.state.pools {
		p.dirty = true
	}
	c.settle(ctx)
	return nil
}

func (c *Controller) replay(e journal.Entry, now time.Time) error {
	var cmd wire.Command
	if err := wire.DecodeExact(e.Command, &cmd); err != nil {
		return err
	}
	if reason := checkForm(cmd); reason != "" {
		return fmt.Errorf("not a command: %s", reason)
	}
	var last wire.Status // its zero State: the process died before there was one
	if e.Status != nil {
		if err := wire.DecodeExact(e.Status, &last); err != nil {
			return err
		}
	}
	if last.State == wire.StateRefused {
		return nil
	}
	m := newMitigation(e, cmd, originOf(roleOf(e.Key.Sender)), now)
	if e.Seen.After(now.Add(c.cfg.Skew)) {
		m.deadline = now // the clock was set back: rather too short than too long
	}
	unfinished := last.State == "" || last.State == wire.StateActive
	ends := actions[cmd.Command].ends
	if unfinished && !ends && (!m.over(now) || len(c.state.of(cmd.Server)) == 0) {
		if reason := c.checkWorld(cmd, m.origin); reason != "" {
			c.log.Warn("not resumed", slog.String("id", cmd.ID.String()), slog.String("reason", reason))
			c.conclude(m, wire.StateStopped, reason)
			unfinished = false
		}
	}
	took := now
	if e.Seen.Before(now) {
		took = e.Seen
	}
	ch := c.state.take(m, took)
	switch {
	case ends:
		if last.State != wire.StateStopped {
			c.await(m, wire.StateStopped)
		}
		for _, d := range c.gone(ch) {
			c.await(d, wire.StateStopped)
		}
	case last.State == wire.StateFailed:
		c.state.undo(m, ch)
	case !unfinished:
		c.state.end(m)
	case last.State == "" && !m.over(now):
		c.await(m, wire.StateActive)
	}
	return nil
}

// roleOf returns the role of "site/role/name".
func roleOf(sender string) string {
	_, rest, _ := strings.Cut(sender, "/")
	role, _, _ := strings.Cut(rest, "/")
	return role
}
