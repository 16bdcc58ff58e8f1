package journals

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"levee/envelope"
	"levee/internal/issuance"
	"levee/internal/translog/leaf"
	"levee/pki"
)

// key names a journal of the site.
type key struct {
	class pki.Class
	name  string
}

// maxAhead bounds how many lines the log may hold behind one that it lacks. Only
// lines that are written together can be, when a crash comes in between.
const maxAhead = 16 * maxBatch

// maxTracks bounds how many journals are told apart. A site has two, and one
// for each issuer that it ever had.
const maxTracks = 256

// track is what the log has of one journal: everything before position, and
// single lines behind it.
type track struct {
	position issuance.Position
	ahead    map[uint64]link
	forked   error
}

// link is the place of a line in its journal: its own hash, and that of the
// line before.
type link struct{ sum, previous string }

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// track returns what is known of a journal; nil if there are too many.
func (i *Importer) track(k key) *track {
	t := i.tracks[k]
	if t == nil && len(i.tracks) < maxTracks {
		t = &track{ahead: make(map[uint64]link)}
		i.tracks[k] = t
	}
	return t
}

// saw takes note of a line that the log holds.
func (t *track) saw(index uint64, l link) {
	old, known := t.ahead[index]
	switch {
	case t.forked != nil || index < t.position.Lines || known && old == l:
		return // the audit names what is there twice
	case known:
		t.forked = fmt.Errorf("the log holds two lines of index %d", index)
		return
	case len(t.ahead) >= maxAhead:
		t.forked = fmt.Errorf("the log lacks line %d, and holds %d after it", t.position.Lines, maxAhead)
		return
	}
	t.ahead[index] = l
	t.fold()
}

// fold moves the position over the lines that follow it.
func (t *track) fold() {
	for {
		next, ok := t.ahead[t.position.Lines]
		if !ok {
			return
		}
		if next.previous != t.position.Last {
			t.forked = fmt.Errorf("line %d in the log does not follow the one before", t.position.Lines)
			return
		}
		delete(t.ahead, t.position.Lines)
		t.position = issuance.Position{Lines: t.position.Lines + 1, Last: next.sum}
	}
}

// missing returns those of entries, which follow the position, that the log
// does not hold.
func (t *track) missing(entries []issuance.Entry) ([]issuance.Entry, error) {
	var missing []issuance.Entry
	for _, e := range entries {
		held, ok := t.ahead[e.Index]
		switch {
		case !ok:
			missing = append(missing, e)
		case held.sum != hash(e.Raw):
			return nil, defectf("its line %d is another one than the log holds", e.Index)
		}
	}
	return missing, nil
}

// take puts verified entries, which follow the track's position, into the log.
func (i *Importer) take(ctx context.Context, t *track, entries []issuance.Entry) error {
	for len(entries) > 0 {
		batch := entries[:min(len(entries), maxBatch)]
		missing, err := t.missing(batch)
		if err != nil {
			return err
		}
		if err := i.append(ctx, missing); err != nil {
			return err
		}
		for _, e := range missing {
			t.saw(e.Index, link{hash(e.Raw), e.Previous})
		}
		if t.forked != nil { // a programming error, and no reason to go on
			return t.forked
		}
		entries = entries[len(batch):]
	}
	return nil
}

// append appends entries to the log. After an error nobody knows which of them
// it holds, until it is read again.
func (i *Importer) append(ctx context.Context, entries []issuance.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	leaves := make([][]byte, len(entries))
	for n, e := range entries {
		raw, err := leaf.Leaf{Received: time.Now().UnixMilli(), Verdict: envelope.Accepted.String(), Kind: kindOf(e), Data: e.Raw}.Marshal()
		if err != nil {
			return err
		}
		leaves[n] = raw
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := i.log.AppendAll(ctx, leaves); err != nil {
		i.known = false
		return fmt.Errorf("importing into the log: %w", err)
	}
	return nil
}

// kindOf is the kind of the entry of the log that holds e.
func kindOf(e issuance.Entry) leaf.Kind {
	if e.Kind == issuance.Issuance {
		return leaf.KindIssuance
	}
	return leaf.KindRevocation
}

var errTooMany = errors.New("the log holds more journals than a site can have")

// open returns the track of a journal that is to be continued.
func (i *Importer) open(k key) (*track, error) {
	t := i.track(k)
	if t == nil {
		return nil, errTooMany
	}
	return t, t.forked
}
