package site

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"levee/envelope/replay"
	"levee/internal/durable"
	"levee/pki"
)

// MaxSenders bounds the replay windows of one receiver: room for the 100,000
// senders that a site may have, and at the broker for the second counter of each.
// It costs nothing before they come (package replay); all of them, with as many
// of the unproven as there is room for, take 312 MiB of disk.
const MaxSenders = 1 << 18

func windowsFile(state string) string { return filepath.Join(state, "windows") }

// OpenWindows opens the component's replay windows. Where none are found they
// are made anew, and messages of the first skew from now are refused: nobody
// can tell what was accepted before they were lost.
func (b *Bundle) OpenWindows(now time.Time) (*replay.Set, error) {
	return replay.Open(windowsFile(b.State), MaxSenders, now.UnixMilli(), b.Policy.Skew())
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
	windows, err := replay.Open(windowsFile(fresh), MaxSenders, 1, time.Millisecond)
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

// FirstStart returns the content of FileFirstStart for a bundle made at now.
func FirstStart(now time.Time) []byte {
	return fmt.Appendf(nil, "%s\nThe first start of this part makes its state directory and removes this file.\n", now.UTC().Format(time.RFC3339))
}

// unheard is how long after a bundle was made its part can be believed never to
// have run. The note comes back with a copy of the bundle, so later than that it
// lets state be made, but not what says that nothing was ever accepted.
const unheard = 10 * time.Minute

// openState returns once there is a state directory. A machine's is made by its
// first start alone: a later one that made it would forget what the lost one
// knew, and nobody would notice. A person's tools remember nothing that could be
// exploited.
func openState(s Settings, id pki.Identity, now time.Time) error {
	dir, note := string(s.State), s.file(FileFirstStart)
	ran := false
	if id.Role.Class() == pki.ClassMachine {
		var err error
		if ran, err = checkStarted(s); err != nil {
			return err
		}
	}
	_, err := os.Lstat(dir)
	_, noted := os.Lstat(note)
	switch {
	case err == nil: // a note that came back with a copy of the bundle says nothing
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case id.Role.Class() == pki.ClassPerson:
		return os.MkdirAll(dir, 0o700)
	case noted == nil && !ran:
		if err := firstState(dir, note, now); err != nil {
			return err
		}
	case ran || errors.Is(noted, fs.ErrNotExist):
		return fmt.Errorf("the state directory %s is gone, and %s has run before: put it back; or, to begin without what it remembered, make it anew (mkdir -m 700 %s)",
			dir, id.Sender(), dir)
	default:
		return noted
	}
	if id.Role.Class() == pki.ClassMachine {
		// Who may not write there could not have removed the note of a first
		// start either, and began before there was such a file.
		if err := noteStarted(s); err != nil && (noted == nil || !errors.Is(err, fs.ErrPermission)) {
			return err
		}
	}
	if noted != nil {
		return nil
	}
	if err := durable.Remove(note); err != nil {
		return fmt.Errorf("noting the first start: %w; remove the file by hand", err)
	}
	return nil
}

// checkStarted reports whether the component has run, and refuses another state than the one that the component had: a
// bundle that is carried to its place again brings the configuration of its
// making, and with it a place for the state that may since have been edited. What
// the component remembered would be forgotten, and a first start noted.
func checkStarted(s Settings) (ran bool, err error) {
	text, err := durable.ReadFile(s.file(FileStarted), maxPath)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now, err := stateName(s)
	if err != nil {
		return false, err
	}
	if before := strings.TrimSuffix(string(text), "\n"); before != now {
		return false, fmt.Errorf("the bundle was started before with the state in %q, and its configuration says %q: put that right (carrying a bundle again brings its first configuration); if the state was moved, remove %s",
			before, now, s.file(FileStarted))
	}
	return true, nil
}

// noteStarted writes down which state the component has.
func noteStarted(s Settings) error {
	if _, err := os.Lstat(s.file(FileStarted)); err == nil {
		return nil
	}
	name, err := stateName(s)
	if err != nil {
		return err
	}
	return durable.WriteFile(s.file(FileStarted), []byte(name+"\n"), 0o600)
}

// maxPath bounds the name of a directory in bytes.
const maxPath = 4 << 10

// stateName is the state directory as FileStarted has it: from the bundle on if it
// lies within, so that both may be moved together.
func stateName(s Settings) (string, error) {
	bundle, err := filepath.Abs(string(s.Bundle))
	if err != nil {
		return "", err
	}
	state, err := filepath.Abs(string(s.State))
	if err != nil {
		return "", err
	}
	if within, err := filepath.Rel(bundle, state); err == nil && filepath.IsLocal(within) {
		return within, nil
	}
	return state, nil
}

// firstState makes the state directory of a first start: with empty windows if
// the bundle was made just now, else without, so that they are made anew and wait
// out the skew.
func firstState(dir, note string, now time.Time) error {
	text, err := durable.ReadFile(note, 1024)
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	made, err := time.Parse(time.RFC3339, first)
	if age := now.Sub(made); err == nil && age >= 0 && age < unheard {
		return NewState(dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
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
