// Package journal remembers on disk which commands a controller has taken up,
// so that one command acts once, whatever is repeated and whenever the process
// dies.
//
// It guarantees that an entry which Add or Finish has returned without an error
// for is on stable storage (fsync), that an entry is never changed but for its
// status, that none is forgotten before its expiry and the margin have passed,
// and that neither one sender nor all of them can make it grow beyond its
// bounds. One process at a time can hold a journal.
//
// It does not judge commands: their bytes, and those of their status, are opaque
// to it. It does not protect against whoever can write its file.
package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"levee/internal/wire"
)

// Bounds that Config leaves at zero, and the bound of what one entry holds.
const (
	DefaultMaxEntries   = 4096
	DefaultMaxPerSender = 1024
	MaxBytes            = 8 << 10 // of a command, and of a status
	maxSender           = 128     // bytes
)

// What a caller has to tell apart.
var (
	ErrExists  = errors.New("already in the journal")
	ErrFull    = errors.New("the journal has no room for another command of this sender")
	ErrUnknown = errors.New("not in the journal")
	ErrSize    = errors.New("too large for the journal")
	ErrInUse   = errors.New("in use by another process: is another levee-controller running?")
)

// Config says where a journal is and how much it holds.
type Config struct {
	Path         string        // of the file; its directory must exist
	Margin       time.Duration // kept after expiry; at least the skew of the clocks
	MaxEntries   int           // 0 means DefaultMaxEntries
	MaxPerSender int           // 0 means DefaultMaxPerSender
}

// Key names a command. Identifiers belong to their sender: one monitor cannot
// use up another's.
type Key struct {
	Sender string // site/role/name
	ID     wire.ID
}

// Entry is one command and what became of it.
type Entry struct {
	Key     Key
	Order   uint64 // of being added, ascending
	Command []byte
	Seen    time.Time // when it was first received
	Expires time.Time
	Row     int    // for the caller: how many renewals led to it
	Status  []byte // nil while the outcome is unknown
}

// Journal is an open journal. Its methods may be called concurrently.
type Journal struct {
	cfg Config
	db  *bolt.DB

	mu      sync.Mutex
	expires map[Key]int64 // ms since the epoch, of every entry
	senders map[string]int
}

// record is an entry as it is stored, below its key.
type record struct {
	Order   uint64 `json:"order"`
	Seen    int64  `json:"seen"`    // ms since the epoch
	Expires int64  `json:"expires"` // ms since the epoch
	Row     int    `json:"row,omitempty"`
	Command []byte `json:"command"`
	Status  []byte `json:"status,omitempty"`
}

var bucketName = []byte("commands/1")

// lockWait bounds the wait for another process that holds the journal: long
// enough for one that is just stopping.
const lockWait = 2 * time.Second

// Open opens the journal at cfg.Path and creates it if it is missing. It refuses
// a file that others than its owner can touch, one that another process holds,
// and one with an entry that it cannot read: acting without memory could act
// twice.
func Open(cfg Config) (*Journal, error) {
	if cfg.Path == "" {
		return nil, errors.New("opening journal: no path")
	}
	if cfg.Margin <= 0 {
		return nil, errors.New("opening journal: the margin must be positive")
	}
	if cfg.MaxEntries < 0 || cfg.MaxPerSender < 0 {
		return nil, errors.New("opening journal: a bound is negative")
	}
	if cfg.MaxEntries == 0 {
		cfg.MaxEntries = DefaultMaxEntries
	}
	if cfg.MaxPerSender == 0 {
		cfg.MaxPerSender = DefaultMaxPerSender
	}
	if err := checkFile(cfg.Path); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	db, err := bolt.Open(cfg.Path, 0o600, &bolt.Options{Timeout: lockWait})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("opening journal %s: %w", cfg.Path, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("opening journal %s: %w", cfg.Path, err)
	}
	j := &Journal{cfg: cfg, db: db, expires: make(map[Key]int64), senders: make(map[string]int)}
	if err := j.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening journal %s: %w", cfg.Path, err), db.Close())
	}
	return j, nil
}

func checkFile(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %04o: chmod 600 it", path, info.Mode().Perm())
	default:
		return nil
	}
}

// load creates what is missing, makes the file's name as durable as its
// contents, and reads every entry once.
func (j *Journal) load() error {
	err := j.db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketName)
		return err
	})
	if err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(j.cfg.Path)); err != nil {
		return err
	}
	entries, err := j.Entries()
	if err != nil {
		return err
	}
	for _, e := range entries {
		j.remember(e.Key, e.Expires.UnixMilli())
	}
	return nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (j *Journal) remember(key Key, expires int64) {
	j.expires[key] = expires
	j.senders[key.Sender]++
}

func (j *Journal) drop(key Key) {
	delete(j.expires, key)
	if j.senders[key.Sender]--; j.senders[key.Sender] == 0 {
		delete(j.senders, key.Sender)
	}
}

// Close releases the file. The journal cannot be used afterwards.
func (j *Journal) Close() error {
	if err := j.db.Close(); err != nil {
		return fmt.Errorf("closing journal: %w", err)
	}
	return nil
}

// Find returns the entry of key, and whether there is one.
func (j *Journal) Find(key Key) (Entry, bool, error) {
	var e Entry
	var found bool
	err := j.db.View(func(tx *bolt.Tx) error {
		value := tx.Bucket(bucketName).Get(key.bytes())
		if value == nil {
			return nil
		}
		var err error
		e, err = decode(key, value)
		found = err == nil
		return err
	})
	if err != nil {
		return Entry{}, false, fmt.Errorf("reading journal: %w", err)
	}
	return e, found, nil
}

// Add writes e, whose Order it ignores, and returns when it is on stable
// storage. It refuses with ErrExists, ErrFull or ErrSize, and an entry without
// a sender or a command.
func (j *Journal) Add(e Entry) error {
	if len(e.Command) > MaxBytes || len(e.Status) > MaxBytes || len(e.Key.Sender) > maxSender {
		return fmt.Errorf("writing journal: %w", ErrSize)
	}
	if e.Key.Sender == "" || strings.IndexByte(e.Key.Sender, 0) >= 0 || len(e.Command) == 0 {
		return errors.New("writing journal: not an entry: a sender and a command are required")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, ok := j.expires[e.Key]; ok {
		return fmt.Errorf("writing journal: %w", ErrExists)
	}
	if len(j.expires) >= j.cfg.MaxEntries || j.senders[e.Key.Sender] >= j.cfg.MaxPerSender {
		return fmt.Errorf("writing journal: %w", ErrFull)
	}
	expires := e.Expires.UnixMilli()
	err := j.db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(bucketName)
		order, err := bucket.NextSequence()
		if err != nil {
			return err
		}
		return put(bucket, e.Key, record{
			Order: order, Seen: e.Seen.UnixMilli(), Expires: expires, Row: e.Row, Command: e.Command, Status: e.Status,
		})
	})
	if err != nil {
		return fmt.Errorf("writing journal: %w", err)
	}
	j.remember(e.Key, expires)
	return nil
}

// Finish writes what became of the command of key, replacing what was known
// before, and returns when it is on stable storage.
func (j *Journal) Finish(key Key, status []byte) error {
	if len(status) > MaxBytes {
		return fmt.Errorf("writing journal: %w", ErrSize)
	}
	err := j.db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(bucketName)
		value := bucket.Get(key.bytes())
		if value == nil {
			return ErrUnknown
		}
		var r record
		if err := json.Unmarshal(value, &r); err != nil {
			return err
		}
		r.Status = status
		return put(bucket, key, r)
	})
	if err != nil {
		return fmt.Errorf("writing journal: %w", err)
	}
	return nil
}

// Entries returns every entry in the order in which they were added.
func (j *Journal) Entries() ([]Entry, error) {
	var all []Entry
	err := j.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketName).ForEach(func(k, value []byte) error {
			key, err := parseKey(k)
			if err != nil {
				return err
			}
			e, err := decode(key, value)
			if err != nil {
				return err
			}
			all = append(all, e)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reading journal: %w", err)
	}
	slices.SortFunc(all, func(a, b Entry) int {
		if a.Order < b.Order {
			return -1
		}
		return 1 // orders never repeat
	})
	return all, nil
}

// Forget removes the entries that expired more than the margin before now,
// except those that keep, which may be nil, wants kept. It returns their number.
func (j *Journal) Forget(now time.Time, keep func(Key) bool) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	before := now.Add(-j.cfg.Margin).UnixMilli()
	var gone []Key
	for key, expires := range j.expires {
		if expires < before && (keep == nil || !keep(key)) {
			gone = append(gone, key)
		}
	}
	if len(gone) == 0 {
		return 0, nil
	}
	err := j.db.Update(func(tx *bolt.Tx) error {
		for _, key := range gone {
			if err := tx.Bucket(bucketName).Delete(key.bytes()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("forgetting journal entries: %w", err)
	}
	for _, key := range gone {
		j.drop(key)
	}
	return len(gone), nil
}

// bytes spells the key as it is stored: the sender, a zero byte, the identifier.
func (k Key) bytes() []byte {
	return append(append([]byte(k.Sender), 0), k.ID[:]...)
}

func parseKey(b []byte) (Key, error) {
	at := len(b) - len(wire.ID{}) - 1
	if at < 1 || b[at] != 0 || bytes.IndexByte(b[:at], 0) >= 0 {
		return Key{}, fmt.Errorf("key %x is not a sender and an identifier", b)
	}
	return Key{Sender: string(b[:at]), ID: wire.ID(b[at+1:])}, nil
}

func put(bucket *bolt.Bucket, key Key, r record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return bucket.Put(key.bytes(), value)
}

func decode(key Key, value []byte) (Entry, error) {
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		return Entry{}, fmt.Errorf("entry %s of %s: %w", key.ID, key.Sender, err)
	}
	if r.Order == 0 || len(r.Command) == 0 {
		return Entry{}, fmt.Errorf("entry %s of %s: a member is missing", key.ID, key.Sender)
	}
	return Entry{
		Key: key, Order: r.Order, Row: r.Row, Command: r.Command, Status: r.Status,
		Seen: time.UnixMilli(r.Seen), Expires: time.UnixMilli(r.Expires),
	}, nil
}
