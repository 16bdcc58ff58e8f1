package segment

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Defaults of Config.
const (
	DefaultMaxSize = 64 << 20
	DefaultMaxAge  = time.Hour
)

// maxBuffer is how many bytes Append keeps before it writes them by itself.
const maxBuffer = 1 << 20

// Errors of a Writer.
var (
	// ErrLocked says that the directory has a Writer already.
	ErrLocked = errors.New("the segments are open for writing already")
	// ErrStopped says that writing failed. What a disk holds after a failed
	// write is not known: close the Writer, and open another one.
	ErrStopped = errors.New("the writer has stopped after an error")
	// ErrClosed says that the Writer was closed.
	ErrClosed = errors.New("the writer is closed")
)

// Config says where segments are written.
type Config struct {
	// Dir exists and holds nothing else.
	Dir string
	Log *slog.Logger
	// MaxSize in bytes, compressed, and MaxAge bound a file, up to a flush. 0 means 64 MiB and 1 h.
	MaxSize int64
	MaxAge  time.Duration
}

// Writer appends records to the newest file of a directory. It is for one
// goroutine.
type Writer struct {
	cfg     Config
	dir     *os.File // holds the lock
	buf     []byte   // whole records that are not written yet
	ends    []int    // where in buf blocks end
	waiting int64    // records in buf
	encoder *zstd.Encoder
	out     []byte   // what is written
	file    *os.File // nil until there is something to write
	size    int64
	begun   time.Time
	newest  int64 // start of the newest file
	records int64 // written to it
	stopped error
}

// Position is a place in a directory of segments: all files begun before Start,
// and the first Records records of the one begun then.
type Position struct {
	Start   int64 // ms since the epoch
	Records int64
}

// OpenWriter takes the directory for writing. It cuts a torn tail off the
// newest file and begins a new file with the first flush; a damaged one is left
// as it is, for an auditor. The caller must Close the Writer.
func OpenWriter(cfg Config) (*Writer, error) {
	if cfg.Dir == "" || cfg.Log == nil {
		return nil, errors.New("opening segments: no directory or no logger")
	}
	if cfg.MaxSize < 0 || cfg.MaxAge < 0 {
		return nil, errors.New("opening segments: negative size or age")
	}
	if cfg.MaxSize == 0 {
		cfg.MaxSize = DefaultMaxSize
	}
	if cfg.MaxAge == 0 {
		cfg.MaxAge = DefaultMaxAge
	}
	dir, err := os.Open(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening segments: %w", err)
	}
	w := &Writer{cfg: cfg, dir: dir}
	if w.encoder, err = newEncoder(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening segments: %w", err), dir.Close())
	}
	if err := w.take(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening segments: %w", err), dir.Close())
	}
	return w, nil
}

func (w *Writer) take() error {
	if err := syscall.Flock(int(w.dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return fmt.Errorf("locking %s: %w", w.cfg.Dir, err)
	}
	files, err := List(w.cfg.Dir)
	if err != nil || len(files) == 0 {
		return err
	}
	newest := files[len(files)-1]
	w.newest = newest.Start
	return w.repair(newest.Path)
}

// repair cuts what is no whole record off the end of a file that a crash ended.
func (w *Writer) repair(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	r := NewReader(f, path)
	for err == nil {
		_, err = r.Next()
	}
	w.records = r.Records()
	switch {
	case errors.Is(err, io.EOF) && r.Offset() > 0:
		return nil
	case errors.Is(err, ErrDamaged):
		w.cfg.Log.Error("a segment is damaged and was left as it is", slog.Any("error", err))
		return nil
	case !errors.Is(err, io.EOF) && !errors.Is(err, ErrIncomplete):
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	w.cfg.Log.Warn("cut the torn tail of a segment off", slog.String("file", path),
		slog.Int64("kept", r.Offset()), slog.Int64("cut", info.Size()-r.Offset()))
	if r.Offset() == 0 { // not even a header
		if err := os.Remove(path); err != nil {
			return err
		}
		return w.dir.Sync()
	}
	if err := f.Truncate(r.Offset()); err != nil {
		return err
	}
	return f.Sync()
}

// Append adds a record, which is durable after the next Sync. It writes what it
// has kept once that is more than 1 MiB.
func (w *Writer) Append(r Record) error {
	if w.stopped != nil {
		return fmt.Errorf("appending to segment: %w", w.stopped)
	}
	b, err := appendRecord(w.buf, r)
	if err != nil {
		return fmt.Errorf("appending to segment: %w", err)
	}
	w.waiting++
	w.buf = b
	if len(w.buf)-w.lastEnd() >= fullBlock {
		w.ends = append(w.ends, len(w.buf))
	}
	if len(w.buf) < maxBuffer {
		return nil
	}
	return w.flush()
}

func (w *Writer) lastEnd() int {
	if len(w.ends) == 0 {
		return 0
	}
	return w.ends[len(w.ends)-1]
}

// Sync writes what was appended and returns when all of it is durable.
func (w *Writer) Sync() error {
	if w.stopped != nil {
		return fmt.Errorf("flushing segment: %w", w.stopped)
	}
	if err := w.flush(); err != nil {
		return err
	}
	if w.file == nil {
		return nil
	}
	if err := w.file.Sync(); err != nil {
		return w.stop(err)
	}
	return nil
}

// flush writes the buffer with one system call, so that a crash tears at most
// its end.
func (w *Writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	w.out = append(w.out[:0], packedHeader...)
	if w.lastEnd() < len(w.buf) {
		w.ends = append(w.ends, len(w.buf))
	}
	from := 0
	for _, end := range w.ends {
		w.out = appendBlock(w.out, w.encoder, w.buf[from:end])
		from = end
	}
	out := w.out[len(packedHeader):]
	if w.file != nil && (w.size+int64(len(out)) > w.cfg.MaxSize || time.Since(w.begun) >= w.cfg.MaxAge) {
		if err := w.finish(); err != nil {
			return w.stop(err)
		}
	}
	if w.file == nil {
		if err := w.begin(); err != nil {
			return w.stop(err)
		}
		out = w.out
	}
	if _, err := w.file.Write(out); err != nil {
		return w.stop(err)
	}
	w.size += int64(len(out))
	w.records += w.waiting
	w.buf, w.ends, w.waiting = w.buf[:0], w.ends[:0], 0
	return nil
}

// Position returns where the next record will be. After a Sync that returned
// nil, and before the next Append, everything before it is durable.
func (w *Writer) Position() Position { return Position{w.newest, w.records} }

// begin makes the next file. Its name is later than all others', even if the
// clock was set back.
func (w *Writer) begin() error {
	now := time.Now()
	start := max(now.UnixMilli(), w.newest+1)
	f, err := os.OpenFile(filepath.Join(w.cfg.Dir, fileName(start)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w.file, w.size, w.begun, w.newest, w.records = f, 0, now, start, 0
	return w.dir.Sync()
}

// finish ends the file, for good and durably.
func (w *Writer) finish() error {
	f := w.file
	w.file = nil
	return errors.Join(f.Sync(), f.Close())
}

// stop ends writing for good and returns the error that says so.
func (w *Writer) stop(cause error) error {
	w.stopped = fmt.Errorf("%w: %w", ErrStopped, cause)
	return fmt.Errorf("flushing segment: %w", w.stopped)
}

// Close makes what was appended durable and lets the directory go. After an
// error of Append or Sync it only does the latter.
func (w *Writer) Close() error {
	if errors.Is(w.stopped, ErrClosed) {
		return fmt.Errorf("closing segments: %w", ErrClosed)
	}
	var err error
	if w.stopped == nil {
		err = w.flush()
	}
	if w.file != nil {
		err = errors.Join(err, w.finish())
	}
	w.stopped = ErrClosed
	return errors.Join(err, w.dir.Close())
}
