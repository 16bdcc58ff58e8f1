package recorder

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"levee/envelope"
	"levee/internal/translog/leaf"
	"levee/internal/wire"
	"levee/services/recorder/entries"
	"levee/services/recorder/ledger"
	"levee/services/recorder/segment"
)

// Restoring says where to find what is held.
type Restoring struct {
	Note     string // the file where it was written down
	Segments string // directory, whose Writer is open and has cut a torn tail off
	Records  string // directory of the log
	// Size is how many entries the log has, and Transparency appends to it.
	Size         int64
	Transparency Log
	Logger       *slog.Logger
}

// Restore finds out what is held: what was written down, and every record of the
// segments that came after. A note that does not hold, or that contradicts the
// segments, is passed over, and everything is read. Signed messages that the last
// process had synced and not logged are logged now: nothing that a segment holds
// is acknowledged before.
func Restore(ctx context.Context, c Restoring) (*Held, error) {
	began := time.Now()
	n, held := readNote(c.Note, c.Logger)
	if held != nil && held.size > c.Size {
		c.Logger.Error("the note of what is held is of a longer log; all segments are read instead", slog.String("file", c.Note))
		held = nil
	}
	var read int64
	for {
		s := scan{Restoring: c, note: n, held: held}
		if held == nil {
			s.note, s.held = memo{}, &Held{ledger: ledger.New()}
		}
		err := s.run(ctx)
		if errors.Is(err, errNote) && held != nil {
			c.Logger.Error("the note of what is held is not of these segments; all of them are read instead", slog.String("file", c.Note), slog.Any("error", err))
			held = nil
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("finding out what is held: %w", err)
		}
		held, read = s.held, s.read
		break
	}
	held.ledger.Settle()
	c.Logger.Info("what is held is known", slog.Int("senders", held.ledger.Senders()), slog.Int64("records_read", read),
		slog.Duration("after", time.Since(began).Round(time.Millisecond)))
	return held, nil
}

// errNote says that a note is not of the segments that are there.
var errNote = errors.New("the segments do not have what the note counts")

// scan reads segments from where a note ends.
type scan struct {
	Restoring
	note memo
	held *Held
	read int64
	// unlogged are the signed messages that were read, by their sum, until the
	// log was looked through.
	unlogged map[[sha256.Size]byte]struct{}
}

func (s *scan) run(ctx context.Context) error {
	s.unlogged = make(map[[sha256.Size]byte]struct{})
	if err := s.each(ctx, s.see); err != nil {
		return err
	}
	if len(s.unlogged) > 0 {
		err := entries.Read(ctx, s.Records, s.held.size, s.Size, func(_ int64, raw []byte) error {
			l, err := leaf.Parse(raw)
			if err == nil && l.Kind == leaf.KindMessage {
				delete(s.unlogged, sha256.Sum256(l.Data))
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
	}
	s.held.size = s.Size
	if len(s.unlogged) == 0 {
		return nil
	}
	return s.log(ctx)
}

// each calls do with every record after the note's.
func (s *scan) each(ctx context.Context, do func(segment.Record) error) error {
	files, err := segment.List(s.Segments)
	if err != nil {
		return err
	}
	skip := s.note.Records
	for _, f := range files {
		if f.Start < s.note.Segment {
			continue
		}
		if f.Start > s.note.Segment && skip > 0 {
			break // the note's file is not there
		}
		if err := s.file(ctx, f.Path, skip, do); err != nil {
			return err
		}
		skip = 0
	}
	if skip > 0 {
		return errNote
	}
	return nil
}

// file reads one segment but for its first records, the last of which must be
// the note's.
func (s *scan) file(ctx context.Context, path string, skip int64, do func(segment.Record) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := segment.NewReader(f, path); ; {
		record, err := r.Next()
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, segment.ErrIncomplete) || errors.Is(err, segment.ErrDamaged):
			if r.Records() < skip {
				return errNote
			}
			if !errors.Is(err, io.EOF) {
				s.Logger.Error("a segment could not be read to its end: what it holds from there on is not known, and not acknowledged", slog.Any("error", err))
			}
			return nil
		case err != nil:
			return err
		case r.Records() < skip:
			continue
		case r.Records() == skip:
			if sha256.Sum256(record.Envelope) != s.held.last {
				return errNote
			}
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := do(record); err != nil {
			return err
		}
	}
}

// see takes note of a record.
func (s *scan) see(record segment.Record) error {
	s.read++
	sum := sha256.Sum256(record.Envelope)
	s.held.last = sum
	disputed := record.Verdict.String() == envelope.NonceCollision.String()
	if !record.Verdict.Kept() && !disputed {
		return nil
	}
	message, err := envelope.Parse(record.Envelope, envelope.MaxMessage)
	if err != nil {
		if !disputed { // what was refused at once may be anything
			s.Logger.Error("a record is no message: it counts as not held", slog.Int64("received", record.Received))
		}
		return nil
	}
	m := ledger.Message{Sender: message.Sender(), Boot: message.Nonce.Boot, Seq: message.Nonce.Seq, Sum: sum}
	if disputed {
		if s.held.ledger.Holds(m) { // by backfill; whoever else sent it was refused as anybody
			s.held.ledger.Dispute(m)
		}
		return nil
	}
	if s.held.ledger.Take(m) != ledger.Taken {
		return nil
	}
	if record.Verdict == segment.Accepted {
		s.held.ledger.Heard(m.Sender, m.Boot, message.KeyID().Generation)
	}
	if !message.Signed() {
		return nil
	}
	s.unlogged[sum] = struct{}{}
	if topic, err := wire.ParseTopic(string(message.Topic)); err == nil && topic.Kind == wire.KindDigest {
		s.held.gaveUp(m, message.Payload)
	}
	return nil
}

// maxLogged bounds how many entries are logged at once.
const maxLogged = 512

// log logs what the log does not have.
func (s *scan) log(ctx context.Context) error {
	s.Logger.Warn("signed messages were synced and not logged when the recorder ended; they are logged now", slog.Int("messages", len(s.unlogged)))
	var batch [][]byte
	flush := func() error {
		defer func() { batch = nil }()
		return s.held.log(ctx, s.Transparency, batch)
	}
	err := s.each(ctx, func(record segment.Record) error {
		sum := sha256.Sum256(record.Envelope)
		if _, ok := s.unlogged[sum]; !ok || !record.Verdict.Kept() {
			return nil
		}
		delete(s.unlogged, sum)
		entry, err := leaf.Leaf{Received: record.Received, Verdict: record.Verdict.String(), Kind: leaf.KindMessage, Data: record.Envelope}.Marshal()
		if err != nil {
			return err
		}
		if batch = append(batch, entry); len(batch) < maxLogged {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}
