package issuance

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"levee/internal/durable"
	"levee/pki"
)

// What a caller has to tell apart.
var (
	// ErrInUse says that another process writes the journal.
	ErrInUse = errors.New("the journal is open for writing already")
	// ErrRolledBack says that the journal lacks what was read of it before.
	ErrRolledBack = errors.New("the journal is older than what was seen of it, or another one")
)

// Config says which journal to open, and who signs it.
type Config struct {
	Path string // of the file
	Name string // of the journal: Deployer, or the issuer's name
	// Key and Issuer are the authority's, P-256 or Ed25519. Root vouches for it.
	Key      crypto.Signer
	Issuer   *x509.Certificate
	Root     *x509.Certificate
	Verifier *pki.Verifier
	// Least is a position that the journal had reached before; zero if nothing
	// is known of it.
	Least Position
}

// file is what a journal asks of its file. Tests let each call fail.
type file interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Journal is a journal open for writing. It is safe for concurrent use.
type Journal struct {
	author *author

	mu   sync.Mutex
	file file
	// What is on stable storage: the offset of each line, and the file's end.
	offsets []int64
	size    int64
	at      Position
	// torn is set while there may be more in the file than that.
	torn bool
}

// Create makes an empty journal at path, where there must be none. To open one
// that is missing is an error: a journal that begins anew by accident has
// forgotten who was revoked.
func Create(path string) error {
	if err := durable.CreateFile(path, nil, 0o600); err != nil {
		return fmt.Errorf("creating a journal: %w", err)
	}
	return nil
}

// Open opens the journal at c.Path for writing, as of now, and hands every entry
// to each, which may be nil. A write that was cut short is removed: bytes behind
// the last newline, or a last line with a zero byte in it, which no line has.
// Of the signatures it checks the last one alone, which covers all lines before
// it by their hashes.
func Open(c Config, each func(Entry) error, now time.Time) (*Journal, error) {
	j, err := open(c, each, now, openFile)
	if err != nil {
		return nil, fmt.Errorf("opening journal %s: %w", c.Path, err)
	}
	return j, nil
}

// openFile opens the file of a journal, and locks it.
func openFile(path string) (file, error) {
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func open(c Config, each func(Entry) error, now time.Time, openFile func(string) (file, error)) (*Journal, error) {
	author, err := newAuthor(c.Name, c.Key, c.Issuer, c.Root, c.Verifier, now)
	if err != nil {
		return nil, err
	}
	f, err := openFile(c.Path)
	if err != nil {
		return nil, err
	}
	j := &Journal{author: author, file: f}
	if err := j.load(c, each); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return j, nil
}

// load reads the whole file, and leaves nothing in it but whole lines, on
// stable storage.
func (j *Journal) load(c Config, each func(Entry) error) error {
	var (
		last Entry
		seen = c.Least.Lines == 0
		read = bufio.NewReaderSize(io.NewSectionReader(j.file, 0, 1<<62), MaxLine+1)
	)
	for {
		line, err := read.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			j.torn = len(line) > 0
			break
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", j.at.Lines, err)
		}
		if bytes.IndexByte(line, 0) >= 0 {
			if _, err := read.ReadByte(); !errors.Is(err, io.EOF) {
				return fmt.Errorf("line %d: it has a zero byte, and is not the last", j.at.Lines)
			}
			j.torn = true
			break
		}
		e, _, err := parse(bytes.Clone(line[:len(line)-1]), j.author.journal, j.at)
		if err == nil && (e.Authority.Site != j.author.authority.Site || e.Authority.Class != j.author.authority.Class) {
			err = errors.New("it is of another authority")
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", j.at.Lines, err)
		}
		e.Authority = j.author.authority
		last = e
		j.grow(e)
		seen = seen || j.at == c.Least
		if each != nil {
			if err := each(e); err != nil {
				return fmt.Errorf("line %d: %w", e.Index, err)
			}
		}
	}
	if last.Raw != nil {
		before := Position{Lines: last.Index, Last: last.Previous}
		if _, err := NewChecker(c.Root, c.Verifier, j.author.authority, c.Name, before).Next(last.Raw); err != nil {
			return err
		}
	}
	if !seen {
		return fmt.Errorf("%w: it has %d lines, %d were seen", ErrRolledBack, j.at.Lines, c.Least.Lines)
	}
	if j.torn {
		return j.repair()
	}
	// What a process wrote that died before it synced is as good as the rest,
	// once it is on stable storage.
	if err := j.file.Sync(); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(c.Path))
}

// grow takes note of an entry that is in the file.
func (j *Journal) grow(e Entry) {
	j.offsets = append(j.offsets, j.size)
	j.size += int64(len(e.Raw)) + 1
	j.at = j.at.after(e.Raw)
}

// repair cuts off what may stand behind the last whole line.
func (j *Journal) repair() error {
	if err := j.file.Truncate(j.size); err != nil {
		return fmt.Errorf("cutting off what was not written whole: %w", err)
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("cutting off what was not written whole: %w", err)
	}
	j.torn = false
	return nil
}

// Append signs r as the next entry, and returns it once it is on stable
// storage. After an error the entry does not count: what there is of it in the
// file is cut off before anything else is written, at the next opening if
// need be. Only if the process dies in between, an entry that is whole may stay.
func (j *Journal) Append(r Record, now time.Time) (Entry, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, err := j.append(r, now)
	if err != nil {
		return Entry{}, fmt.Errorf("writing journal: %w", err)
	}
	return e, nil
}

func (j *Journal) append(r Record, now time.Time) (Entry, error) {
	if j.file == nil {
		return Entry{}, fs.ErrClosed
	}
	if j.torn {
		if err := j.repair(); err != nil {
			return Entry{}, err
		}
	}
	e, err := j.author.line(r, j.at, now)
	if err != nil {
		return Entry{}, err
	}
	_, err = j.file.WriteAt(append(bytes.Clone(e.Raw), '\n'), j.size)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		// The kernel may have dropped what it could not write and call the next
		// sync a success: only what is written anew counts.
		j.torn = true
		return Entry{}, errors.Join(err, j.repair())
	}
	j.grow(e)
	return e, nil
}

// Position returns how far the journal has come.
func (j *Journal) Position() Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.at
}

// Read returns the lines from index on, without their newlines: lines at most
// many, and no more than size bytes in all, but one at least if there is one.
func (j *Journal) Read(index uint64, lines int, size int64) ([][]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil, fmt.Errorf("reading journal: %w", fs.ErrClosed)
	}
	if index >= uint64(len(j.offsets)) {
		return nil, nil
	}
	from := j.offsets[index]
	to, n := j.end(index), uint64(1)
	for n < uint64(lines) && index+n < uint64(len(j.offsets)) && j.end(index+n)-from <= size {
		to = j.end(index + n)
		n++
	}
	b := make([]byte, to-from)
	if _, err := j.file.ReadAt(b, from); err != nil {
		return nil, fmt.Errorf("reading journal: %w", err)
	}
	return bytes.Split(b[:len(b)-1], []byte("\n")), nil
}

// end returns where in the file line i ends, its newline included.
func (j *Journal) end(i uint64) int64 {
	if i+1 < uint64(len(j.offsets)) {
		return j.offsets[i+1]
	}
	return j.size
}

// Close closes the file, and lets another process write it.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	f := j.file
	j.file = nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("closing journal: %w", err)
	}
	return nil
}
