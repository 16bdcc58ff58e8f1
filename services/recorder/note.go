package recorder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"levee/envelope"
	"levee/internal/durable"
	"levee/internal/records"
	"levee/internal/wire"
	"levee/services/recorder/ledger"
	"levee/services/recorder/segment"
)

// Held is what a recorder holds, as far as it must know it.
type Held struct {
	ledger *ledger.Ledger
	size   int64             // the log has everything that is held and signed in so many entries
	last   [sha256.Size]byte // of the envelope of the newest record
}

// log appends entries to the log.
func (h *Held) log(ctx context.Context, log Log, entries [][]byte) error {
	if len(entries) == 0 {
		return nil
	}
	indices, err := log.AppendAll(ctx, entries)
	if err != nil {
		return err
	}
	for _, index := range indices {
		h.size = max(h.size, int64(index)+1)
	}
	return nil
}

// gaveUp takes note of what a digest declares of its own boot. Nothing waits for
// older ones.
func (h *Held) gaveUp(m ledger.Message, payload []byte) {
	var d wire.Digest
	if wire.DecodeExact(payload, &d) != nil || d.Boot != envelope.FormatBoot(m.Boot) {
		return // whoever judges digests says so
	}
	for _, drop := range d.Dropped {
		if drop.Boot == d.Boot && drop.Last < m.Seq {
			h.ledger.GiveUp(m.Sender, m.Boot, drop.First, drop.Last)
		}
	}
}

// memo is what is written down (docs/records.md, section 2.3).
type memo struct {
	Version int                  `json:"v"`
	Size    int64                `json:"log_size"`
	Segment int64                `json:"segment"`
	Records int64                `json:"records"`
	Last    string               `json:"last"`
	Senders []ledger.SenderState `json:"senders"`
}

// maxNote bounds the file in bytes: 65,536 senders, most of whom have few boots
// and no gaps.
const maxNote = 256 << 20

// encode returns the file: the SHA-256 of everything after the first line, and
// that.
func (n memo) encode() ([]byte, error) {
	b, err := wire.Encode(&n)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	return append([]byte(hex.EncodeToString(sum[:])+"\n"), b...), nil
}

// parseNote reads the file.
func parseNote(b []byte) (memo, *Held, error) {
	sum, rest, _ := bytes.Cut(b, []byte("\n"))
	if actual := sha256.Sum256(rest); hex.EncodeToString(actual[:]) != string(sum) {
		return memo{}, nil, errors.New("its sum does not match")
	}
	var n memo
	if err := wire.DecodeExact(rest, &n); err != nil {
		return memo{}, nil, err
	}
	last, err := base64.RawURLEncoding.Strict().DecodeString(n.Last)
	if err != nil || len(last) != sha256.Size || n.Version != 1 || n.Size < 0 || n.Segment < 0 || n.Records < 0 {
		return memo{}, nil, errors.New("it is none of version 1")
	}
	l, err := ledger.Restore(n.Senders)
	if err != nil {
		return memo{}, nil, err
	}
	return n, &Held{ledger: l, size: n.Size, last: [sha256.Size]byte(last)}, nil
}

// look writes down what is held, and deletes what was kept long enough, now and
// then. It is called when everything that was taken is durable.
func (r *Recorder) look(now time.Time) {
	if since := now.Sub(r.noted); since >= 0 && since < noteEvery {
		return
	}
	r.noted = now
	if !r.note(now) || r.config.Retention == 0 {
		return
	}
	err := r.config.Segments.Prune(now.Add(-r.config.Retention), r.config.Segments.Position(), func(f segment.File, ended int64) error {
		r.config.Log.Info("a segment is deleted after its retention", slog.String("file", f.Path), slog.Time("ended", time.UnixMilli(ended)))
		return records.Declare(r.config.Deletions, records.Deletion{File: filepath.Base(f.Path), Ended: ended, At: now.UnixMilli()})
	})
	if err != nil {
		r.config.Log.Error("segments were not deleted after their retention", slog.Any("error", err))
	}
}

// note writes down what is held, unless nothing changed, and reports whether it
// is written.
func (r *Recorder) note(now time.Time) bool {
	if r.config.Note == "" || !r.dirty {
		return r.config.Note != ""
	}
	at := r.config.Segments.Position()
	n := memo{Version: 1, Size: r.held.size, Segment: at.Start, Records: at.Records, Last: base64.RawURLEncoding.EncodeToString(r.held.last[:]),
		Senders: r.held.ledger.State()}
	b, err := n.encode()
	if err == nil {
		err = durable.WriteFile(r.config.Note, b, 0o600)
	}
	if err != nil {
		r.config.Log.Error("what is held was not written down: the next start reads more", slog.Any("error", err))
		return false
	}
	r.dirty = false
	return true
}

// readNote returns what was written down, nil where nothing was, or nothing that
// holds.
func readNote(path string, log *slog.Logger) (memo, *Held) {
	b, err := durable.ReadFile(path, maxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return memo{}, nil
	}
	var n memo
	var held *Held
	if err == nil {
		n, held, err = parseNote(b)
	}
	if err != nil {
		log.Error("the note of what is held does not hold; all segments are read instead", slog.String("file", path), slog.Any("error", err))
		return memo{}, nil
	}
	return n, held
}
