package witness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"levee/internal/durable"
	"levee/internal/translog/proof"
)

// Config says who witnesses what.
type Config struct {
	Key Key
	// Logs are the verifier keys of the logs that are witnessed.
	Logs []string
	// Dir holds the newest cosigned checkpoint of each log, and the evidence. It
	// is made if it is missing.
	Dir string
	// Silence is for how long a log may be not heard of.
	Silence time.Duration
	Log     *slog.Logger
}

// A Witness cosigns other sites' logs. Its methods may be called at the same time.
type Witness struct {
	config Config
	logs   map[string]*watched // by origin; never changed
	tally  tally
}

// watched is one log.
type watched struct {
	origin   string
	verifier note.Verifier
	path     string // of held

	mu   sync.Mutex       // held while a checkpoint is judged, so that judging and keeping it are one
	held proof.Checkpoint // the newest that was cosigned; a zero one if there is none
	seen time.Time        // when it was last cosigned, or when we began to listen
	mute bool             // its silence was told
	told map[Alarm]time.Time
}

// maxHeld bounds a kept checkpoint in bytes.
const maxHeld = maxRequest

// Open reads what was cosigned before.
func Open(c Config, now time.Time) (*Witness, error) {
	if c.Key.private == nil || c.Dir == "" || c.Silence <= 0 || c.Log == nil {
		return nil, errors.New("opening a witness: key, directory, time of silence or logger is missing")
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening a witness: %w", err)
	}
	w := &Witness{config: c, logs: make(map[string]*watched)}
	for _, vkey := range c.Logs {
		l, err := w.openLog(vkey, now)
		if err != nil {
			return nil, fmt.Errorf("opening a witness: %w", err)
		}
		if w.logs[l.origin] != nil {
			return nil, fmt.Errorf("opening a witness: the log %q stands twice", l.origin)
		}
		w.logs[l.origin] = l
		c.Log.Info("witnessing", slog.String("log", l.origin), slog.Int64("entries", l.held.Tree.N), slog.Bool("first", l.held.Note == nil))
	}
	return w, nil
}

func (w *Witness) openLog(vkey string, now time.Time) (*watched, error) {
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("the key of a log: %w", err)
	}
	if !validName(v.Name()) {
		return nil, fmt.Errorf("%q cannot name a log", v.Name())
	}
	l := &watched{origin: v.Name(), verifier: v, seen: now, told: make(map[Alarm]time.Time)}
	// A log that is begun anew with another key, as the site document says, is
	// another log.
	l.path = filepath.Join(w.config.Dir, fmt.Sprintf("%s+%08x", fileName(l.origin), v.KeyHash()))
	raw, err := durable.ReadFile(l.path, maxHeld)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		l.held, err = proof.OpenCheckpoint(raw, v)
	}
	if err != nil {
		return nil, fmt.Errorf("the checkpoint of %s that was cosigned last: %w: put the newest one that you trust there, from that site or an auditor", l.origin, err)
	}
	return l, nil
}

// fileName spells an origin, which has no underscore, as the name of a file.
func fileName(origin string) string { return strings.ReplaceAll(origin, "/", "_") }

// Origins returns the logs that are witnessed, sorted.
func (w *Witness) Origins() []string {
	var all []string
	for origin := range w.logs {
		all = append(all, origin)
	}
	slices.Sort(all)
	return all
}

// Held returns the newest checkpoint of a log that was cosigned, nil if none was.
func (w *Witness) Held(origin string) []byte {
	l := w.logs[origin]
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.held.Note)
}

// Age returns for how long a log was not heard of.
func (w *Witness) Age(origin string, now time.Time) time.Duration {
	l := w.logs[origin]
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Sub(l.seen)
}

// Run raises an alarm about logs that have gone silent, until ctx ends.
func (w *Witness) Run(ctx context.Context) {
	tick := time.NewTicker(max(w.config.Silence/10, time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			w.listen(now)
		}
	}
}

// listen looks which logs are silent. One that was rolled back might just stop
// asking.
func (w *Witness) listen(now time.Time) {
	for _, origin := range w.Origins() {
		l := w.logs[origin]
		l.mu.Lock()
		if age := now.Sub(l.seen); age >= w.config.Silence && !l.mute {
			l.mute = true
			w.tally.alarm(Silence)
			w.config.Log.Error("a log is not heard of any more", slog.String("log", origin), slog.String("reason", string(Silence)),
				slog.Duration("age", age), slog.Int64("entries", l.held.Tree.N))
		}
		l.mu.Unlock()
	}
}

// heard notes that a log was heard of; l.mu is held.
func (w *Witness) heard(l *watched, now time.Time) {
	l.seen = now
	if l.mute {
		l.mute = false
		w.config.Log.Info("a log is heard of again", slog.String("log", l.origin))
	}
}
