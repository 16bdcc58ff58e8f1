package spool

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"levee/internal/durable"
)

const (
	// syncAge is how old the oldest message held is before files are synced, and
	// syncEvery how often they then are.
	syncAge   = 10 * time.Second
	syncEvery = 5 * time.Second
	// retryEvery is how often a disk that fails is asked again.
	retryEvery = 10 * time.Second
)

// writer is what changes files.
type writer struct {
	mu    sync.Mutex // held meanwhile, and taken before Spool.mu
	dirty []*chunk   // written to, and not synced
	retry time.Time
}

// Run brings to disk what is added and removes what is released, until done is
// closed; then it does both once more, and syncs.
func (s *Spool) Run(done <-chan struct{}) {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.wake:
			s.write(false)
		case <-tick.C:
			s.write(s.behind(time.Now()))
		case <-done:
			s.end()
			return
		}
	}
}

// end writes everything once more, whether the disk failed a moment ago or not, and
// closes the files.
func (s *Spool) end() {
	s.writer.mu.Lock()
	s.writer.retry = time.Time{}
	s.writer.mu.Unlock()
	s.write(true)
	s.writer.mu.Lock()
	defer s.writer.mu.Unlock()
	for _, c := range s.all() {
		s.close(c)
	}
}

// behind reports whether the recorder is slower than usual to acknowledge, so
// that what is held is worth a sync.
func (s *Spool) behind(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.oldest()
	return ok && now.Sub(time.UnixMilli(at)) >= syncAge
}

func (s *Spool) all() []*chunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(append([]*chunk(nil), s.chunks...), s.removals...)
}

// write brings the disk up to date, unless it failed a moment ago.
func (s *Spool) write(sync bool) {
	s.writer.mu.Lock()
	defer s.writer.mu.Unlock()
	if time.Now().Before(s.writer.retry) {
		return
	}
	err := s.update(sync)
	if err != nil {
		s.writer.retry = time.Now().Add(retryEvery)
	}
	s.mu.Lock()
	changed := s.failed != (err != nil)
	s.failed = err != nil
	s.mu.Unlock()
	switch {
	case !changed:
	case err != nil:
		s.config.Log.Error("the outbox cannot be kept on disk: what the recorder has not acknowledged is in memory, and lost with this process",
			slog.Any("error", err))
	default:
		s.config.Log.Info("the outbox is kept on disk again")
	}
}

func (s *Spool) update(sync bool) error {
	s.mu.Lock()
	removals := s.removals
	s.removals = nil
	var work []*chunk
	for _, c := range s.chunks {
		if len(c.tail) > 0 {
			work = append(work, c)
		}
	}
	s.mu.Unlock()
	var err error
	for _, c := range work {
		if err = s.store(c); err != nil {
			break
		}
	}
	// What declares messages dropped was added after them: it is on disk before
	// they go.
	if err == nil && sync {
		err = s.sync()
	}
	var left []*chunk
	for _, c := range removals {
		s.close(c)
		if !c.exists {
			continue
		}
		if e := os.Remove(c.path(s.config.Dir)); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err, left = errors.Join(err, e), append(left, c)
			continue
		}
		c.exists, c.dirty = false, false
	}
	s.mu.Lock()
	s.removals = append(left, s.removals...)
	s.mu.Unlock()
	return err
}

// store writes what the chunk's file lacks. After an error it is written again at
// the same place.
func (s *Spool) store(c *chunk) error {
	s.mu.Lock()
	tail, at, closed, gone := c.tail, c.written, c.closed, c.gone
	s.mu.Unlock()
	if gone {
		return nil
	}
	if c.file == nil {
		if err := os.MkdirAll(s.config.Dir, 0o700); err != nil {
			return err
		}
		f, err := os.OpenFile(c.path(s.config.Dir), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		c.file, c.exists = f, true
	}
	if !c.dirty {
		c.dirty, s.writer.dirty = true, append(s.writer.dirty, c)
	}
	if _, err := c.file.WriteAt(tail, int64(at)); err != nil {
		s.close(c)
		return err
	}
	s.mu.Lock()
	if !c.gone {
		c.written += len(tail)
		s.memory -= int64(len(tail))
		if c.tail = c.tail[len(tail):]; len(c.tail) == 0 {
			c.tail = nil // the array behind it goes
		}
	}
	s.mu.Unlock()
	if closed {
		s.close(c)
	}
	return nil
}

// sync makes what was written durable.
func (s *Spool) sync() error {
	for _, c := range s.writer.dirty {
		if c.exists && c.dirty {
			if err := s.syncFile(c); err != nil {
				return err
			}
		}
		c.dirty = false
	}
	if len(s.writer.dirty) == 0 {
		return nil
	}
	s.writer.dirty = nil
	return durable.SyncDir(s.config.Dir)
}

func (s *Spool) syncFile(c *chunk) error {
	if c.file != nil {
		return c.file.Sync()
	}
	f, err := os.OpenFile(c.path(s.config.Dir), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// close closes the chunk's file. What was written stays so, whatever comes of it.
func (s *Spool) close(c *chunk) {
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

func readAt(path string, at, length int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, length)
	_, err = io.ReadFull(io.NewSectionReader(f, int64(at), int64(length)), b)
	return b, err
}
