// Package bulletin writes public messages into a part's log, for the eyes of
// whoever reads it.
//
// It guarantees that the text of a public message, which anybody may have
// written, is marked as unverified, is cut to a bound, can neither steer a
// terminal nor begin a line of its own, and that a flood of such messages is no
// flood of lines: what is over the rate is counted and told with the next line.
// It acts on nothing, and keeps nothing but that count.
package bulletin

import (
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	maxText  = 400 // bytes of a message that are shown
	interval = 5 * time.Second
	burst    = 20
)

// Board writes public messages. It is safe for concurrent use.
type Board struct {
	log *slog.Logger

	mu       sync.Mutex
	limit    *rate.Limiter
	withheld uint64 // since the last line
}

// New returns a board that writes to log.
func New(log *slog.Logger) (*Board, error) {
	if log == nil {
		return nil, errors.New("making a bulletin: it has no logger")
	}
	return &Board{log: log, limit: rate.NewLimiter(rate.Every(interval), burst)}, nil
}

// Show writes one public message that came on topic at now, or counts it.
func (b *Board) Show(topic string, text []byte, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.limit.AllowN(now, 1) {
		b.withheld++
		return
	}
	cut := len(text) > maxText
	attrs := []any{slog.String("verification", "unverified"), slog.String("topic", topic),
		slog.String("text", inert(text[:min(len(text), maxText)])), slog.Bool("cut", cut)}
	if b.withheld > 0 {
		attrs = append(attrs, slog.Uint64("not_shown", b.withheld))
		b.withheld = 0
	}
	b.log.Info("public message", attrs...)
}

// inert returns text in printable ASCII. What is beyond it stands as Go escapes,
// which a reader can take back and no terminal obeys.
func inert(text []byte) string {
	quoted := strconv.QuoteToASCII(string(text))
	return quoted[1 : len(quoted)-1]
}
