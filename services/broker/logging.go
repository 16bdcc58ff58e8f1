package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// reporter writes at most one line a second for each key, so that a flood of
// refusals is no flood of lines. What it leaves out is counted in the next
// line.
type reporter struct {
	log *slog.Logger

	mu    sync.Mutex
	lines map[string]*line
}

type line struct {
	last    time.Time
	skipped int
}

// maxLines bounds the keys; ours are a closed set, mochi's messages nearly so.
const maxLines = 1024

func newReporter(log *slog.Logger) *reporter {
	return &reporter{log: log, lines: make(map[string]*line)}
}

// report logs under key. The attributes must hold no payload and no secret.
func (r *reporter) report(level slog.Level, key, message string, attrs ...slog.Attr) {
	if skipped, due := r.due(key, time.Now()); due {
		if skipped > 0 {
			attrs = append(attrs, slog.Int("skipped", skipped))
		}
		r.log.LogAttrs(context.Background(), level, message, attrs...)
	}
}

func (r *reporter) due(key string, now time.Time) (skipped int, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lines[key]
	if l == nil {
		if len(r.lines) >= maxLines {
			clear(r.lines)
		}
		l = &line{}
		r.lines[key] = l
	}
	if now.Sub(l.last) < time.Second {
		l.skipped++
		return 0, false
	}
	skipped = l.skipped
	l.last, l.skipped = now, 0
	return skipped, true
}

// redacted is the slog.Handler that mochi gets. mochi logs whole packets, and
// with them payloads and passwords (P23). Only warnings and errors pass, only
// the attributes listed here, and at most once a second for each message.
type redacted struct{ to *reporter }

// plain lists mochi's attributes that hold neither payload nor secret.
var plain = map[string]bool{"error": true, "client": true, "remote": true, "listener": true, "keepalive": true}

// maxAttribute bounds the text of an attribute in bytes.
const maxAttribute = 200

// Enabled drops everything below a warning.
func (redacted) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle logs what is plain of the record.
func (h redacted) Handle(_ context.Context, record slog.Record) error {
	var attrs []slog.Attr
	record.Attrs(func(a slog.Attr) bool {
		if plain[a.Key] {
			text := a.Value.String()
			attrs = append(attrs, slog.String(a.Key, text[:min(len(text), maxAttribute)]))
		}
		return true
	})
	h.to.report(record.Level, "mochi: "+record.Message, "mochi: "+record.Message, attrs...)
	return nil
}

// WithAttrs drops the attributes: mochi gives none that the record lacks.
func (h redacted) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup drops the group.
func (h redacted) WithGroup(string) slog.Handler { return h }
