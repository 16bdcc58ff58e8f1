// Package watch shows live messages to a person, each with what vouches for
// it.
//
// It guarantees that no payload can steer the terminal: everything that did not
// come from this program is printed as inert text. What vouches for a line,
// package feed says.
package watch

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"sync"
	"time"
	"unicode/utf16"

	"levee/internal/feed"
	"levee/internal/session"
)

// Viewer writes lines. It is safe for concurrent use.
type Viewer struct {
	mu   sync.Mutex
	out  io.Writer
	json bool
	feed *feed.Feed
	err  error
}

// New returns a viewer that writes to out, as text or as one JSON object a line.
func New(out io.Writer, asJSON bool) *Viewer {
	return &Viewer{out: out, json: asJSON, feed: feed.New()}
}

// Err returns the first error of writing.
func (v *Viewer) Err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

// Deliver shows a message that passed the session's checks.
func (v *Viewer) Deliver(d session.Delivery) {
	v.mu.Lock()
	defer v.mu.Unlock()
	lines := v.feed.Deliver(d)
	if !v.json { // people read what a digest settles, not the digest
		lines = lines[len(lines)-1:]
	}
	for _, l := range lines {
		v.write(l)
	}
}

// Refuse shows a message that failed a check, without its content.
func (v *Viewer) Refuse(r session.Refusal) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if l, ok := v.feed.Refuse(r); ok {
		v.write(l)
	}
}

func (v *Viewer) write(l feed.Line) {
	if v.err != nil {
		return
	}
	if v.json {
		v.err = writeJSON(v.out, l)
		return
	}
	_, v.err = fmt.Fprintf(v.out, "%s  %-12s  %s\n", time.UnixMilli(l.Received).Format("15:04:05.000"), l.Verification, inert(describe(l)))
}

// writeJSON writes l in ASCII: what is beyond it stands in strings alone, and
// there every character has an escape.
func writeJSON(out io.Writer, l feed.Line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	line := make([]byte, 0, len(b)+1)
	for _, r := range string(b) {
		switch {
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			line = fmt.Appendf(line, `\u%04x\u%04x`, high, low)
		case r > '~':
			line = fmt.Appendf(line, `\u%04x`, r)
		default:
			line = append(line, byte(r))
		}
	}
	_, err = out.Write(append(line, '\n'))
	return err
}

func number(f float64) string {
	return strconv.FormatFloat(math.Round(f*1000)/1000, 'f', -1, 64)
}
