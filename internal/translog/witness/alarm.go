package witness

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"levee/internal/durable"
	"levee/internal/translog/proof"
)

// Outcome says how a request to cosign ended. The set is closed.
type Outcome string

// The outcomes, in the order in which a request is judged.
const (
	Malformed Outcome = "malformed" // not a request, or no checkpoint of ours
	Unknown   Outcome = "unknown"   // of a log that is not witnessed here
	Foreign   Outcome = "foreign"   // by somebody who is not that log's recorder
	Unsigned  Outcome = "unsigned"  // without a good signature by the log's key
	Abandoned Outcome = "abandoned" // whoever asked has gone
	Rollback  Outcome = "rollback"  // older than what was cosigned
	Fork      Outcome = "fork"      // of the size that was cosigned, and another tree
	Behind    Outcome = "behind"    // its proof begins at another size: asked again with the right one
	Unproven  Outcome = "unproven"  // newer, and its proof does not show that it continues
	Failed    Outcome = "failed"    // it could not be kept
	Cosigned  Outcome = "cosigned"
)

// Outcomes returns all of them.
func Outcomes() []Outcome {
	return []Outcome{Malformed, Unknown, Foreign, Unsigned, Abandoned, Rollback, Fork, Behind, Unproven, Failed, Cosigned}
}

// status returns the HTTP status of C2SP tlog-witness.
func (o Outcome) status() int {
	switch o {
	case Cosigned:
		return http.StatusOK
	case Malformed:
		return http.StatusBadRequest
	case Unknown:
		return http.StatusNotFound
	case Foreign, Unsigned:
		return http.StatusForbidden
	case Rollback, Fork, Behind:
		return http.StatusConflict
	case Unproven:
		return http.StatusUnprocessableEntity
	default:
		return http.StatusServiceUnavailable
	}
}

// Alarm says what is wrong with a log that is witnessed. The set is closed.
type Alarm string

// The alarms.
const (
	RolledBack Alarm = "rollback" // its key signed less than it had
	Forked     Alarm = "fork"     // its key signed what does not continue what it had
	Silence    Alarm = "silence"  // it is not heard of
)

// Alarms returns all of them.
func Alarms() []Alarm { return []Alarm{RolledBack, Forked, Silence} }

// tally counts.
type tally struct {
	mu       sync.Mutex
	outcomes map[Outcome]uint64
	alarms   map[Alarm]uint64
}

func (t *tally) count(o Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.outcomes == nil {
		t.outcomes = make(map[Outcome]uint64)
	}
	t.outcomes[o]++
}

func (t *tally) alarm(a Alarm) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.alarms == nil {
		t.alarms = make(map[Alarm]uint64)
	}
	t.alarms[a]++
}

// Count returns how many requests ended so.
func (w *Witness) Count(o Outcome) uint64 {
	w.tally.mu.Lock()
	defer w.tally.mu.Unlock()
	return w.tally.outcomes[o]
}

// Alarmed returns how often there was that alarm.
func (w *Witness) Alarmed(a Alarm) uint64 {
	w.tally.mu.Lock()
	defer w.tally.mu.Unlock()
	return w.tally.alarms[a]
}

// Bounds of what a log that is captured can make of alarms.
const (
	tellEvery   = time.Minute // a line in the log for each alarm of each log
	maxEvidence = 64          // files of evidence
	evidenceDir = "evidence"
)

// alarm tells that a log's key signed what it must not have, and keeps what
// proves it. It is called with l.mu held.
func (w *Witness) alarm(l *watched, a Alarm, cp proof.Checkpoint, body []byte, now time.Time) {
	w.tally.alarm(a)
	if last, ok := l.told[a]; ok && now.Sub(last) < tellEvery {
		return
	}
	l.told[a] = now
	evidence, err := w.prove(l, a, body)
	attrs := []any{slog.String("log", l.origin), slog.String("reason", string(a)), slog.Int64("cosigned", l.held.Tree.N), slog.Int64("shown", cp.Tree.N)}
	if err != nil {
		attrs = append(attrs, slog.Any("evidence", err))
	} else {
		attrs = append(attrs, slog.String("evidence", evidence))
	}
	w.config.Log.Error("a log contradicts what it signed before", attrs...)
}

// prove keeps the checkpoint that was cosigned and the request that contradicts
// it: both have the log's own signature. It returns the path without the ending.
func (w *Witness) prove(l *watched, a Alarm, body []byte) (string, error) {
	dir := filepath.Join(w.config.Dir, evidenceDir)
	sum := sha256.Sum256(slices.Concat(body, l.held.Note))
	path := filepath.Join(dir, fmt.Sprintf("%s.%s.%x", fileName(l.origin), a, sum[:8]))
	if _, err := os.Lstat(path + ".request"); err == nil {
		return path, nil // kept before
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700), durable.SyncDir(w.config.Dir)); err != nil {
		return "", err
	}
	have, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	if len(have) >= maxEvidence {
		return "", fmt.Errorf("%s has %d files already: put them away", dir, len(have))
	}
	if err := durable.WriteFile(path+".held", l.held.Note, 0o600); err != nil {
		return "", err
	}
	return path, durable.WriteFile(path+".request", body, 0o600)
}
