//go:build linux

package main

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
)

// tally counts what sessions log, which nobody could read of ten thousand.
type tally struct {
	behind atomic.Int64 // nanoseconds that publishing is late

	mu        sync.Mutex
	connected int64
	failed    map[string]int64
}

// Enabled reports true.
func (t *tally) Enabled(context.Context, slog.Level) bool { return true }

// Handle counts one line.
func (t *tally) Handle(_ context.Context, r slog.Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch r.Message {
	case "connected":
		t.connected++
	case "not connected":
		r.Attrs(func(a slog.Attr) bool {
			if err, ok := a.Value.Any().(error); ok {
				t.fail(kindOf(err.Error()))
			}
			return true
		})
	case "messages were given up unsent": // counted by the session
	default:
		if r.Level >= slog.LevelError {
			t.fail(r.Message)
		}
	}
	return nil
}

// fail counts under t.mu.
func (t *tally) fail(kind string) {
	if t.failed == nil {
		t.failed = make(map[string]int64)
	}
	t.failed[kind]++
}

// kindOf leaves out what differs between connections that failed alike.
func kindOf(text string) string {
	step, _, _ := strings.Cut(text, ":")
	step, _, _ = strings.Cut(step, " on ")
	for _, kind := range []string{"connection refused", "connection reset", "broken pipe", "i/o timeout", "deadline exceeded", "no answer in time", "EOF", "tls: "} {
		if strings.Contains(text, kind) {
			return step + ": " + strings.TrimSuffix(kind, ": ")
		}
	}
	return text
}

// WithAttrs returns t.
func (t *tally) WithAttrs([]slog.Attr) slog.Handler { return t }

// WithGroup returns t.
func (t *tally) WithGroup(string) slog.Handler { return t }

func (t *tally) take() (connected int64, failed map[string]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	connected, failed = t.connected, t.failed
	t.connected, t.failed = 0, nil
	return connected, failed
}
