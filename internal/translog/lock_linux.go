package translog

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrLocked says that another process, or another part of this one, has the log
// open for writing.
var ErrLocked = errors.New("the log is open for writing already")

// locks are what makes a writer the only one. The kernel releases them with the process.
type locks []*os.File

// lock takes the log's directory, and the watermark: a copy of the log
// elsewhere must not be continued against the same watermark.
func lock(cfg Config) (locks, error) {
	var held locks
	for _, open := range []func() (*os.File, error){
		func() (*os.File, error) {
			return os.OpenFile(cfg.Watermark+".lock", os.O_RDWR|os.O_CREATE, 0o600)
		},
		func() (*os.File, error) { return os.Open(cfg.Dir) },
	} {
		f, err := open()
		if err != nil {
			held.release()
			return nil, err
		}
		held = append(held, f)
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			held.release()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				err = ErrLocked
			}
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
	}
	return held, nil
}

func (held locks) release() {
	for _, f := range held {
		f.Close() // closing releases; nothing was written
	}
}
