package spool

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"levee/envelope"
	"levee/internal/wire"
)

// Config is what a spool needs.
type Config struct {
	Dir    string // made when it is first written to
	Sender string // whose messages they are: site/role/name
	Boot   uint64 // this start's
	Max    int64  // bytes kept, on disk and in memory together
	Log    *slog.Logger
}

// MinMax is the least that Config.Max may be.
const MinMax = 4 << 20

// Open finds what earlier starts left. A disk that cannot be read is reported,
// and the spool begins without it: a sender does not stop for its past.
func Open(c Config) (*Spool, error) {
	if c.Dir == "" || c.Sender == "" || c.Boot == 0 || c.Log == nil || c.Max < MinMax {
		return nil, errors.New("opening the outbox: it has no directory, sender, boot or logger, or too little room")
	}
	s := &Spool{config: c, wake: make(chan struct{}, 1), files: maxChunks}
	entries, err := os.ReadDir(c.Dir) // in the order of names
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.unreadable(c.Dir, err)
	}
	for _, e := range entries {
		boot, first, ok := parseName(e.Name())
		if !ok || !e.Type().IsRegular() || boot >= c.Boot {
			c.Log.Warn("a file that is not the outbox's", slog.String("file", filepath.Join(c.Dir, e.Name())))
			continue
		}
		found := &chunk{boot: boot, first: first, closed: true, exists: true}
		if err := found.read(c); err != nil {
			s.unreadable(found.path(c.Dir), err)
		}
		if len(found.entries) == 0 {
			found.first, found.gone = first, true
			s.removals = append(s.removals, found)
			continue
		}
		s.chunks = append(s.chunks, found)
		s.bytes += int64(found.size())
	}
	if n := s.Stats().Messages; n > 0 {
		c.Log.Info("messages of earlier starts that the recorder has not acknowledged", slog.Int("messages", n), slog.Int64("bytes", s.bytes))
	}
	s.nudge()
	return s, nil
}

func (s *Spool) unreadable(path string, err error) {
	s.config.Log.Error("messages that the recorder has not acknowledged are lost", slog.String("file", path), slog.Any("error", err))
}

// read fills the chunk from its file, up to the first line that is not what it
// should be. One that merely lacks its end, or zeros instead of it, is what a crash
// leaves.
func (c *chunk) read(config Config) error {
	f, err := os.Open(c.path(config.Dir))
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, envelope.MaxMessage+2)
	for next := c.first; ; next++ {
		line, err := r.ReadSlice('\n')
		switch {
		case err == io.EOF: // with or without a torn line
			c.written = c.size()
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			c.written = c.size()
			return err
		}
		raw := bytes.TrimSuffix(line, []byte("\n"))
		m, err := parse(raw, config.Sender, envelope.Nonce{Boot: c.boot, Seq: next})
		if err != nil && zeros(line, r) {
			c.written = c.size()
			return nil
		}
		if err != nil {
			c.written = c.size()
			return fmt.Errorf("after %d bytes: %w", c.size(), err)
		}
		c.add(next, m.Time, len(raw), digestOf(&m))
	}
}

// zeros reports whether there is nothing but zeros from line on: a file that was
// lengthened and not yet written when the power went.
func zeros(line []byte, r *bufio.Reader) bool {
	for {
		if len(bytes.Trim(line, "\x00")) > 0 {
			return false
		}
		var err error
		if line, err = r.ReadSlice('\n'); err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err == io.EOF && len(bytes.Trim(line, "\x00")) == 0
		}
	}
}

var errNotOurs = errors.New("it is not this sender's next message")

// parse reads a line as a message of sender with that nonce.
func parse(raw []byte, sender string, nonce envelope.Nonce) (envelope.Message, error) {
	m, err := envelope.Parse(raw, envelope.MaxMessage)
	if err == nil && (m.Nonce != nonce || string(m.Sender()) != sender) {
		err = errNotOurs
	}
	return m, err
}

// digestOf returns the digest that m is, nil for another message.
func digestOf(m *envelope.Message) *wire.Digest {
	topic, err := wire.ParseTopic(string(m.Topic))
	if err != nil || topic.Kind != wire.KindDigest {
		return nil
	}
	var d wire.Digest
	if wire.DecodeExact(m.Payload, &d) != nil || d.First == 0 {
		return nil
	}
	return &d
}
