package issuer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"levee/internal/durable"
	"levee/internal/issuance"
	"levee/internal/wire"
)

// mark is the watermark's content: how far the journal had come.
type mark struct {
	Journal string `json:"journal"`
	Lines   uint64 `json:"lines"`
	Last    string `json:"last"`
}

// watermark remembers, away from the journal, how far that had come: a state
// directory that is put back from an older copy has forgotten revocations.
type watermark struct {
	path, journal string

	mu      sync.Mutex
	written issuance.Position
}

// read returns what was written last, zero and false if nothing ever was.
func (w *watermark) read() (issuance.Position, bool, error) {
	b, err := durable.ReadFile(w.path, 1024)
	if errors.Is(err, fs.ErrNotExist) {
		return issuance.Position{}, false, nil
	}
	if err != nil {
		return issuance.Position{}, false, fmt.Errorf("reading the watermark: %w", err)
	}
	var m mark
	if err := wire.DecodeExact(b, &m); err != nil {
		return issuance.Position{}, false, fmt.Errorf("reading the watermark %s: %w", w.path, err)
	}
	if m.Journal != w.journal {
		return issuance.Position{}, false, fmt.Errorf("the watermark %s is of journal %q", w.path, m.Journal)
	}
	w.written = issuance.Position{Lines: m.Lines, Last: m.Last}
	return w.written, true, nil
}

// write makes p the watermark, unless it is already, or a later one.
func (w *watermark) write(p issuance.Position) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.Lines <= w.written.Lines && w.written.Lines > 0 {
		return nil
	}
	b, err := json.Marshal(mark{Journal: w.journal, Lines: p.Lines, Last: p.Last})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(w.path), 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(w.path, b, 0o600); err != nil {
		return err
	}
	w.written = p
	return nil
}

// openJournal opens the journal, and creates that of an issuer which never had
// one: there is neither a file nor a watermark. Where the watermark shows that
// there was a journal, or more of it, nothing is opened. A journal with entries
// and no watermark is opened, with an error in the log: whoever lost a small file
// must not be without an issuer.
func openJournal(c issuance.Config, w *watermark, each func(issuance.Entry) error, log *slog.Logger, now time.Time) (*issuance.Journal, error) {
	least, marked, err := w.read()
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(c.Path); errors.Is(err, fs.ErrNotExist) {
		if marked {
			return nil, fmt.Errorf("the journal %s is gone, and its watermark %s says that it had %d lines: put the newest copy back (the recorder has all lines); "+
				"or, to begin without any revocation, remove the watermark as well", c.Path, w.path, least.Lines)
		}
		if err := issuance.Create(c.Path); err != nil {
			return nil, err
		}
	}
	c.Least = least
	journal, err := issuance.Open(c, each, now)
	if errors.Is(err, issuance.ErrRolledBack) {
		return nil, fmt.Errorf("%w: put the newest copy back (the recorder has all lines)", err)
	}
	if err != nil {
		return nil, err
	}
	at := journal.Position()
	if !marked && at.Lines > 0 {
		log.Error(fmt.Sprintf("the watermark is gone: the journal cannot be held against it; it begins again at entry %d", at.Lines),
			slog.String("watermark", w.path))
	}
	if err := w.write(at); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the watermark: %w", err), journal.Close())
	}
	return journal, nil
}
