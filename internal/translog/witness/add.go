package witness

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/durable"
	"levee/internal/translog/proof"
)

// answer is what add-checkpoint is answered with.
type answer struct {
	outcome Outcome
	body    string
	size    bool // the body is the size that was cosigned
}

// tooLarge is the answer to a body that was not read.
var tooLarge = refusal(Malformed, "more than 16 KiB")

func refusal(o Outcome, text string) answer { return answer{outcome: o, body: text + "\n"} }

// HandleAdd answers a POST of add-checkpoint. may says whose logs the caller may
// speak for.
func (w *Witness) HandleAdd(rw http.ResponseWriter, r *http.Request, may func(origin string) bool) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxRequest))
	var a answer
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		a = tooLarge
	} else if err != nil {
		a = refusal(Malformed, "the body did not come whole")
	} else {
		a = w.add(r.Context(), body, may, time.Now())
	}
	w.tally.count(a.outcome)
	status, kind := a.outcome.status(), typeText
	switch {
	case a == tooLarge:
		status = http.StatusRequestEntityTooLarge
	case a.size:
		kind = typeSize
	}
	rw.Header().Set("Content-Type", kind)
	rw.WriteHeader(status)
	io.WriteString(rw, a.body) // to a client that may be gone
}

// HandleHeld answers a GET of the newest cosigned checkpoint of a log.
func (w *Witness) HandleHeld(rw http.ResponseWriter, origin string) {
	held := w.Held(origin)
	if held == nil {
		http.Error(rw, "no checkpoint of that log was cosigned", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", typeText)
	rw.Write(held) // to a client that may be gone
}

// add judges a checkpoint, and cosigns it if it continues what was cosigned.
func (w *Witness) add(ctx context.Context, body []byte, may func(string) bool, now time.Time) answer {
	r, err := parseRequest(body)
	if err != nil {
		return refusal(Malformed, err.Error())
	}
	l := w.logs[origin(r.checkpoint)]
	switch {
	case l == nil:
		return refusal(Unknown, "this log is not witnessed here")
	case !may(l.origin):
		return refusal(Foreign, "it is for the log's own recorder to ask")
	}
	cp, err := proof.OpenCheckpoint(r.checkpoint, l.verifier)
	if errors.Is(err, proof.ErrNotSigned) {
		return refusal(Unsigned, err.Error())
	}
	if err != nil {
		return refusal(Malformed, err.Error())
	}
	if r.old > cp.Tree.N {
		return refusal(Malformed, "the old size is larger than the checkpoint's")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		// Its sender has given up, and may have sent a newer one since, which
		// came first: then this one is no rollback.
		return refusal(Abandoned, "too late")
	}
	a := w.judge(l, r, cp, body, now)
	if a.outcome == Cosigned {
		w.heard(l, now)
	}
	return a
}

// judge compares a checkpoint that the log's key signed with what is held. It is
// called with l.mu held.
func (w *Witness) judge(l *watched, r request, cp proof.Checkpoint, body []byte, now time.Time) answer {
	held := l.held.Tree
	conflict := answer{body: strconv.FormatInt(held.N, 10) + "\n", size: true}
	switch {
	case cp.Tree.N < held.N:
		w.alarm(l, RolledBack, cp, body, now)
		conflict.outcome = Rollback
		return conflict
	case cp.Tree.N == held.N && l.held.Note != nil && cp.Tree.Hash != held.Hash:
		w.alarm(l, Forked, cp, body, now)
		if r.old == held.N {
			return refusal(Fork, "another tree of this size was cosigned")
		}
		conflict.outcome = Fork
		return conflict
	case r.old != held.N:
		conflict.outcome = Behind
		return conflict
	case !continues(l.held, r, cp):
		w.alarm(l, Forked, cp, body, now)
		return refusal(Unproven, "the proof does not show that it continues what was cosigned")
	}
	if cp.Tree != held || l.held.Note == nil {
		// Before the cosignature leaves: a crash must not let another tree have one.
		if err := w.keep(l, cp); err != nil {
			w.config.Log.Error("a checkpoint is not cosigned: it cannot be kept", slog.String("log", l.origin), slog.Any("error", err))
			return refusal(Failed, "it cannot be kept")
		}
	}
	return answer{outcome: Cosigned, body: string(w.config.Key.sign(proof.CheckpointText(cp.Origin, cp.Tree), now))}
}

// continues reports whether the proof of r shows that cp continues held; r.old is
// held's size.
func continues(held proof.Checkpoint, r request, cp proof.Checkpoint) bool {
	switch {
	case r.old == 0:
		return len(r.proof) == 0 && (cp.Tree.N > 0 || cp.Tree.Hash == tlog.Hash(sha256.Sum256(nil)))
	case r.old == cp.Tree.N:
		return len(r.proof) == 0 // the roots were compared
	default:
		return tlog.CheckTree(r.proof, cp.Tree.N, cp.Tree.Hash, held.Tree.N, held.Tree.Hash) == nil
	}
}

// keep makes cp the newest that was cosigned, on disk first.
func (w *Witness) keep(l *watched, cp proof.Checkpoint) error {
	if err := durable.WriteFile(l.path, cp.Note, 0o600); err != nil {
		return fmt.Errorf("keeping the checkpoint of %s: %w", l.origin, err)
	}
	l.held = cp
	return nil
}
