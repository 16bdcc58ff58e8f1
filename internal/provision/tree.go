package provision

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"levee/internal/durable"
	"levee/internal/issuance"
	"levee/pki/seal"
)

// Change is one file that a run made or put right, or would.
type Change struct {
	Path   string `json:"path"`
	Action Action `json:"action"`
	// Detail says what changes in a signed file, one line each.
	Detail []string `json:"detail,omitempty"`
}

// Action is what happens to a file.
type Action string

// The actions.
const (
	Make    Action = "make"    // there was none
	Replace Action = "replace" // it follows from others, and did not match them
	Remove  Action = "remove"  // an interrupted run left it
)

// Drift is something that is not as the inventory says, and that no run puts
// right by itself: it may be what somebody wants, or an attack.
type Drift struct {
	Path string `json:"path"`
	What string `json:"what"`
	// Blocks: nothing is made while it is so, because what would be made could
	// give it credence.
	Blocks bool `json:"blocks"`
}

func (d Drift) String() string { return d.Path + ": " + d.What }

// ErrDrift is what a run that was blocked returns, with the reasons in its text.
var ErrDrift = errors.New("what is there is not what the inventory says")

// drifted is an error that is about one thing that is there.
type drifted struct {
	path string
	err  error
}

func (e *drifted) Error() string { return e.path + ": " + e.err.Error() }
func (e *drifted) Unwrap() error { return e.err }

func drift(path, format string, args ...any) error {
	return &drifted{path, fmt.Errorf(format, args...)}
}

// The modes of files: for the world, and for their owner.
const (
	public os.FileMode = 0o644
	secret os.FileMode = 0o600
)

// run is one walk over a deployer's directory, and its only writer. A dry walk
// takes the same way and writes nothing: what it would have written it notes,
// and what follows from that it leaves open.
type run struct {
	Layout
	config  Config
	now     time.Time
	dry     bool
	changes []Change
	drift   []Drift

	asked    map[Secret]seal.Passphrase
	seals    []Secret            // whose new keys are made
	journals []*issuance.Journal // open
}

// planned reports whether a dry walk would have written path.
func (r *run) planned(path string) bool {
	return r.dry && slices.ContainsFunc(r.changes, func(c Change) bool { return c.Path == path && c.Action != Remove })
}

// noted collects what blocks, so that a run tells all of it at once, and
// returns other errors.
func (r *run) noted(err error) error {
	var d *drifted
	if r.dry && errors.As(err, &d) {
		r.drift = append(r.drift, Drift{Path: d.path, What: d.err.Error(), Blocks: true})
		return nil
	}
	return err
}

// note keeps something that does not block.
func (r *run) note(path, format string, args ...any) {
	r.drift = append(r.drift, Drift{Path: path, What: fmt.Sprintf(format, args...)})
}

func (r *run) directory(path string) error {
	if r.dry {
		return nil
	}
	return os.MkdirAll(path, 0o700)
}

// write puts a file where there may be one, which it replaces.
func (r *run) write(path string, mode os.FileMode, content func() ([]byte, error), detail ...string) error {
	action := Make
	if exists(path) {
		action = Replace
	}
	return r.put(action, durable.WriteFile, path, mode, content, detail...)
}

// create is where every private key comes from: it never takes the place of
// anything, whatever came there while a passphrase was asked for.
func (r *run) create(path string, mode os.FileMode, content func() ([]byte, error)) error {
	return r.put(Make, durable.WriteNew, path, mode, content)
}

func (r *run) put(action Action, write func(string, []byte, os.FileMode) error, path string, mode os.FileMode, content func() ([]byte, error), detail ...string) error {
	if !r.dry {
		b, err := content()
		if err != nil {
			return err
		}
		if err := write(path, b, mode); err != nil {
			return err
		}
	}
	r.changes = append(r.changes, Change{Path: path, Action: action, Detail: detail})
	return nil
}

// createMissing writes what content makes, unless something is at path.
func (r *run) createMissing(path string, mode os.FileMode, content func() ([]byte, error)) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.create(path, mode, content)
}

// keep writes b unless path holds it already. A secret that others may read is
// written anew.
func (r *run) keep(path string, mode os.FileMode, b []byte, detail ...string) error {
	info, err := os.Lstat(path)
	open := err == nil && mode == secret && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0
	if have, err := durable.ReadFile(path, int64(len(b))); err == nil && !open && bytes.Equal(have, b) {
		return nil
	}
	return r.write(path, mode, func() ([]byte, error) { return b, nil }, detail...)
}

// sweep removes from dir what runs that were cut short left of the files that
// they were writing: parts of them, or a whole key that nobody uses.
func (r *run) sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		of, ok := durable.Leftover(e.Name())
		if !ok || !e.Type().IsRegular() || !written(of) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if !r.dry {
			if err := durable.Remove(path); err != nil {
				return err
			}
		}
		r.changes = append(r.changes, Change{Path: path, Action: Remove})
	}
	return nil
}

// written reports whether provisioning writes files of that name.
func written(name string) bool {
	switch filepath.Ext(name) {
	case ".key", ".keys", ".pem", ".yaml", ".json":
		return true
	}
	return slices.Contains(plainNames, name) || strings.HasPrefix(name, journalPrefix)
}

// exists reports whether there is anything at path, or nobody can tell.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
