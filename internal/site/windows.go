package site

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"levee/envelope/replay"
	"levee/internal/durable"
	"levee/pki"
)

// maxSenders bounds the replay windows of one receiver.
const maxSenders = 4096

func windowsFile(state string) string { return filepath.Join(state, "windows") }

// OpenWindows opens the component's replay windows. Where none are found they
// are made anew, and messages of the first skew from now are refused: nobody
// can tell what was accepted before they were lost.
func (b *Bundle) OpenWindows(now time.Time) (*replay.Set, error) {
	return replay.Open(windowsFile(b.State), maxSenders, now.UnixMilli(), b.Policy.Skew())
}

// NewState makes the state directory of a component that has never run, with
// empty replay windows: there is nothing that it could have accepted before,
// so it need not wait out the skew. It does nothing where the directory exists.
func NewState(dir string) error {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Whole or not at all: a crash in between must not leave a directory that
	// looks used.
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(parent, ".new-*")
	if err != nil {
		return err
	}
	windows, err := replay.Open(windowsFile(fresh), maxSenders, 1, time.Millisecond)
	if err == nil {
		err = windows.Close()
	}
	if err == nil {
		err = os.Rename(fresh, dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("making state directory: %w", err), os.RemoveAll(fresh))
	}
	// A directory that a power failure takes back would be made anew, with
	// windows that claim that nothing was ever accepted.
	return durable.SyncDir(parent)
}

// openState returns once there is a state directory. A machine's is made by its
// first start alone: a later one that made it would accept again what the lost
// one knew, and nobody would notice. A person's tools remember nothing that could
// be exploited.
func openState(s Settings, id pki.Identity) error {
	dir, note := string(s.State), s.file(FileFirstStart)
	_, err := os.Lstat(dir)
	_, noted := os.Lstat(note)
	switch {
	case err == nil: // a note that came back with a copy of the bundle says nothing
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case id.Role.Class() == pki.ClassPerson:
		return os.MkdirAll(dir, 0o700)
	case noted == nil:
		if err := NewState(dir); err != nil {
			return err
		}
	case errors.Is(noted, fs.ErrNotExist):
		return fmt.Errorf("the state directory %s is gone, and %s has run before: put it back; or, to begin without what it remembered, make it anew (mkdir -m 700 %s)",
			dir, id.Sender(), dir)
	default:
		return noted
	}
	if noted != nil {
		return nil
	}
	if err := os.Remove(note); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("noting the first start: %w", err)
	}
	return durable.SyncDir(string(s.Bundle))
}

// KeepWindows makes replay windows durable each second, and forgets senders
// whose newest message nobody would call fresh any more, until done is closed.
func KeepWindows(done <-chan struct{}, windows *replay.Set, skew time.Duration, log *slog.Logger) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			if err := windows.Sync(); err != nil {
				log.Error("replay windows are not durable", slog.Any("error", err))
			}
			windows.Forget(now.Add(-2 * skew).UnixMilli())
		case <-done:
			return
		}
	}
}
