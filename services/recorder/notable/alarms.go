package notable

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"levee/internal/siem"
	"levee/internal/translog"
	"levee/internal/translog/witness"
)

// Stopped tells that the recorder stopped, and why.
func (e *Events) Stopped(now time.Time, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.begun = time.Time{} // nobody counts on
	event := siem.Event{ID: siem.RecorderStopped, Time: now, Message: "the recorder of " + e.site + " stopped", Outcome: siem.Success}
	if err != nil {
		event.Severity, event.Outcome, event.Reason = siem.High, siem.Failure, err.Error()
		if what := contradiction(err); what != "" {
			e.tell(siem.Event{ID: siem.LogContradicted, Time: now, Message: err.Error(), Reason: what}, now)
		}
	}
	e.tell(event, now)
}

// contradiction names what an error says of the log, "" if nothing.
func contradiction(err error) string {
	for _, row := range []struct {
		is   error
		name string
	}{
		{translog.ErrFork, "fork"},
		{translog.ErrRollback, "rollback"},
		{translog.ErrLostState, "lost_state"},
		{translog.ErrNotCreated, "lost_state"},
		{translog.ErrDamaged, "damaged"},
	} {
		if errors.Is(err, row.is) {
			return row.name
		}
	}
	if c := (*witness.Contradiction)(nil); errors.As(err, &c) {
		return "witness"
	}
	return ""
}

// Handler returns a log handler that passes lines on to inner, and tells of those
// that are errors.
func (e *Events) Handler(inner slog.Handler) slog.Handler { return handler{Handler: inner, events: e} }

type handler struct {
	slog.Handler
	events *Events
	attrs  string
}

func (h handler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelError || h.Handler.Enabled(ctx, level)
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		h.events.failed(r, h.attrs)
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		h.attrs += text(a)
	}
	h.Handler = h.Handler.WithAttrs(attrs)
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	h.Handler = h.Handler.WithGroup(name)
	return h
}

// text is an attribute as a log shows it.
func text(a slog.Attr) string {
	a.Value = a.Value.Resolve() // what prints as redacted
	return " " + a.String()
}

// failed tells of a line of the log that is an error.
func (e *Events) failed(r slog.Record, attrs string) {
	r.Attrs(func(a slog.Attr) bool {
		attrs += text(a)
		return true
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tell(siem.Event{ID: siem.RecorderError, Time: r.Time, Message: r.Message, Reason: strings.TrimPrefix(attrs, " "), Count: 1}, r.Time)
}
