package faults

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"levee/test/programs"
)

// Told is the descriptor on which a child tells others what must outlive it.
const Told = 3

// PowerLoss runs cmd, which changes files of dir (not of directories in it), and
// calls check with a copy of dir for each state that a loss of power during the
// run may leave: of what was not synced yet each name may be there or not, and
// the bytes may be there or be zeros. told says whether the child had written to
// the descriptor Told by then.
func PowerLoss(t *testing.T, dir string, cmd *exec.Cmd, check func(after, dir string, told bool)) {
	strace := programs.Need(t, "strace", "apt-get install strace")
	d := &disk{dir: dir, now: make(map[string]*inode), durable: make(map[string]*inode)}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		d.now[e.Name()] = &inode{bytes: b, synced: b}
	}
	d.durable = maps.Clone(d.now)
	trace := filepath.Join(t.TempDir(), "trace")
	behind(cmd, strace, "-ff", "-y", "-x", "-s", "1000000", "-o", trace, "-e", "trace=openat,write,pwrite64,fsync,linkat,renameat,unlinkat,ftruncate,mkdirat,symlinkat")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	threads, err := filepath.Glob(trace + ".*")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	states, changes := 0, 0
	for _, thread := range threads {
		b, err := os.ReadFile(thread)
		if err != nil {
			t.Fatal(err)
		}
		own := 0
		for line := range strings.Lines(string(b)) {
			known, err := d.do(strings.TrimSpace(line))
			if err != nil {
				t.Fatalf("%v: %.200s", err, line)
			}
			if !known {
				continue
			}
			own++
			for state := range d.states() {
				key := fmt.Sprintf("%v %q", d.told, state)
				if seen[key] {
					continue
				}
				seen[key], states = true, states+1
				copied := t.TempDir()
				for name, b := range state {
					if err := os.WriteFile(filepath.Join(copied, name), []byte(b), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				check(fmt.Sprintf("power lost after %.90s", line), copied, d.told)
			}
		}
		if own > 0 && changes > 0 {
			t.Fatal("the files were changed by more than one thread, whose order is not known")
		}
		changes += own
	}
	if len(d.pending) > 0 {
		t.Errorf("it ended, and of its names these are not on disk: %v", d.pending)
	}
	for name, i := range d.now {
		if !bytes.Equal(i.bytes, i.synced) {
			t.Errorf("it ended, and %s is not on disk", name)
		}
	}
	t.Logf("%d changes, %d states", changes, states)
}

// inode is a file, whatever it is called.
type inode struct{ bytes, synced []byte }

// change is one of the directory that is not synced.
type change struct {
	from, to string // from is gone, unless empty; to is there, unless empty
	inode    *inode
}

func (c change) String() string { return fmt.Sprintf("%q to %q", c.from, c.to) }

// disk is what was written to a directory, and what of it is certainly on disk.
type disk struct {
	dir          string
	now, durable map[string]*inode
	pending      []change
	told         bool
}

var (
	reCall   = regexp.MustCompile(`^(\w+)\((.*)\) += (-?\d+)`)
	reOpened = regexp.MustCompile(`^AT_FDCWD<[^>]*>, "([^"]*)", ([A-Z_|]+)`)
	reFile   = regexp.MustCompile(`^(\d+)<([^>]*)>`)
	reData   = regexp.MustCompile(`^\d+<[^>]*>, ("(?:[^"\\]|\\.)*")(\.\.\.)?, \d+(?:, (\d+))?$`)
	reNames  = regexp.MustCompile(`"([^"]*)"`)
)

// inside returns the name in the directory that path has.
func (d *disk) inside(path string) (name string, ok bool) {
	name, err := filepath.Rel(d.dir, path)
	return name, err == nil && name != "." && !strings.HasPrefix(name, "..")
}

func (d *disk) change(c change) {
	if c.from != "" {
		delete(d.now, c.from)
	}
	if c.to != "" {
		d.now[c.to] = c.inode
	}
	d.pending = append(d.pending, c)
}

// do does what a line of the trace says, and reports whether it concerns us.
func (d *disk) do(line string) (bool, error) {
	call := reCall.FindStringSubmatch(line)
	if call == nil || strings.HasPrefix(call[3], "-") {
		return false, nil
	}
	args := call[2]
	switch call[1] {
	case "openat":
		m := reOpened.FindStringSubmatch(args)
		if m == nil {
			return false, nil
		}
		name, ok := d.inside(m[1])
		if !ok || !strings.Contains(m[2], "O_CREAT") && !strings.Contains(m[2], "O_TRUNC") {
			return false, nil
		}
		if i := d.now[name]; i != nil && strings.Contains(m[2], "O_TRUNC") {
			i.bytes = nil
		} else if i == nil {
			d.change(change{to: name, inode: new(inode)})
		}
		return true, nil
	case "write", "pwrite64", "fsync":
		m := reFile.FindStringSubmatch(args)
		if m == nil {
			return false, nil
		}
		if call[1] == "write" && m[1] == strconv.Itoa(Told) {
			d.told = true
			return true, nil
		}
		if call[1] == "fsync" && m[2] == d.dir {
			for _, c := range d.pending {
				apply(d.durable, c)
			}
			d.pending = nil
			return true, nil
		}
		name, ok := d.inside(m[2])
		if !ok {
			return false, nil
		}
		i := d.now[name]
		if i == nil {
			return false, fmt.Errorf("no such file")
		}
		if call[1] == "fsync" {
			i.synced = i.bytes
			return true, nil
		}
		return true, i.write(args, call[1] == "pwrite64")
	case "linkat", "renameat", "unlinkat":
		var names []string
		for _, m := range reNames.FindAllStringSubmatch(args, -1) {
			if name, ok := d.inside(m[1]); ok {
				names = append(names, name)
			}
		}
		switch {
		case len(names) == 0:
			return false, nil
		case call[1] == "unlinkat":
			d.change(change{from: names[0]})
		case len(names) != 2:
			return false, fmt.Errorf("a file that leaves the directory")
		case call[1] == "linkat":
			d.change(change{to: names[1], inode: d.now[names[0]]})
		default:
			d.change(change{from: names[0], to: names[1], inode: d.now[names[0]]})
		}
		return true, nil
	default:
		if strings.Contains(args, d.dir) {
			return false, fmt.Errorf("a call that is not understood")
		}
		return false, nil
	}
}

// write appends, or writes at the offset, the data that a line shows.
func (i *inode) write(args string, at bool) error {
	m := reData.FindStringSubmatch(args)
	if m == nil || m[2] != "" {
		return fmt.Errorf("data that cannot be read")
	}
	data, err := strconv.Unquote(m[1])
	if err != nil {
		return err
	}
	offset := len(i.bytes)
	if at {
		if offset, err = strconv.Atoi(m[3]); err != nil {
			return err
		}
	}
	b := append(bytes.Clone(i.bytes), make([]byte, max(0, offset+len(data)-len(i.bytes)))...)
	copy(b[offset:], data)
	i.bytes = b
	return nil
}

func apply(names map[string]*inode, c change) {
	if c.from != "" {
		delete(names, c.from)
	}
	if c.to != "" {
		names[c.to] = c.inode
	}
}

// states yields what may be there if the power is lost now: names and bytes.
func (d *disk) states() func(yield func(map[string]string) bool) {
	return func(yield func(map[string]string) bool) {
		for subset := range 1 << len(d.pending) {
			names := maps.Clone(d.durable)
			for n, c := range d.pending {
				if subset&(1<<n) != 0 {
					apply(names, c)
				}
			}
			for _, kept := range []bool{false, true} {
				state := make(map[string]string)
				for name, i := range names {
					b := i.bytes
					if !kept && !bytes.Equal(b, i.synced) {
						b = make([]byte, len(b)) // as some file systems leave them
					}
					state[name] = string(b)
				}
				if !yield(state) {
					return
				}
			}
		}
	}
}
