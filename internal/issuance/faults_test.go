package issuance

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

var errDisk = errors.New("the disk failed")

// disk is a file of which it is known what a loss of power would leave. Its
// operation number fail goes wrong, and with dead everything after it as well.
type disk struct {
	now    []byte // what a reader sees
	stable []byte // what is on stable storage
	did    int
	fail   int // 0: none
	short  int // a write that fails has written so much
	dead   bool
	wrote  bool // what failed was a write
}

// next counts an operation and tells whether it goes wrong.
func (d *disk) next() bool {
	d.did++
	return d.fail != 0 && (d.did == d.fail || d.dead && d.did > d.fail)
}

func (d *disk) ReadAt(b []byte, at int64) (int, error) {
	if d.next() {
		return 0, errDisk
	}
	return bytes.NewReader(d.now).ReadAt(b, at)
}

func (d *disk) WriteAt(b []byte, at int64) (int, error) {
	if d.next() {
		if d.dead && d.did > d.fail {
			return 0, errDisk
		}
		d.wrote = true
		n := min(d.short, len(b))
		d.put(b[:n], at)
		return n, errDisk
	}
	d.put(b, at)
	return len(b), nil
}

func (d *disk) put(b []byte, at int64) {
	if need := int(at) + len(b); need > len(d.now) {
		d.now = append(d.now, make([]byte, need-len(d.now))...)
	}
	copy(d.now[at:], b)
}

func (d *disk) Truncate(size int64) error {
	if d.next() {
		return errDisk
	}
	d.now = d.now[:size:size]
	return nil
}

func (d *disk) Sync() error {
	if d.next() {
		return errDisk
	}
	d.stable = bytes.Clone(d.now)
	return nil
}

func (d *disk) Close() error {
	if d.next() {
		return errDisk
	}
	return nil
}

// afterPowerLoss returns what may be on the disk when the machine is up again:
// of what was not synced, nothing, all, some, or some after a hole.
func (d *disk) afterPowerLoss() [][]byte {
	all := [][]byte{bytes.Clone(d.stable), bytes.Clone(d.now)}
	if len(d.now) > len(d.stable) {
		for _, part := range []int{1, (len(d.now) - len(d.stable)) / 2, len(d.now) - len(d.stable) - 1} {
			all = append(all, bytes.Clone(d.now[:len(d.stable)+part]))
			hole := bytes.Clone(d.now)
			clear(hole[len(d.stable) : len(d.stable)+part])
			all = append(all, hole)
		}
	}
	return all
}

// openDisk opens a journal on d.
func (w *world) openDisk(d *disk) (*Journal, []Entry, error) {
	var got []Entry
	j, err := open(w.config(w.t.TempDir()+"/journal"), func(e Entry) error { got = append(got, e); return nil }, w.now,
		func(string) (file, error) { return d, nil })
	return j, got, err
}

// TestEveryFileOperationFails lets each operation on the file fail in turn, once
// or for good, and then either goes on, starts again, or loses power. An entry
// that was acknowledged is there afterwards; one that was not is not, but for
// the one that was being written; and the journal goes on.
func TestEveryFileOperationFails(t *testing.T) {
	w := newWorld(t)
	var records []Record
	for i := range 3 {
		records = append(records, w.issuance(fmt.Sprintf("web-%d", i)))
	}
	// use opens the journal and appends, and returns what was acknowledged.
	use := func(d *disk, before []Entry) (acknowledged []Entry) {
		j, got, err := w.openDisk(d)
		if err != nil {
			return before
		}
		acknowledged = got
		for _, r := range records {
			if e, err := j.Append(r, w.now); err == nil {
				acknowledged = append(acknowledged, e)
			}
		}
		j.Close()
		return acknowledged
	}
	check := func(name string, content []byte, acknowledged []Entry, exact bool) {
		t.Helper()
		d := &disk{now: bytes.Clone(content), stable: bytes.Clone(content)}
		j, got, err := w.openDisk(d)
		if err != nil {
			t.Errorf("%s: it does not open again: %v", name, err)
			return
		}
		for i, e := range acknowledged {
			if i >= len(got) || !bytes.Equal(got[i].Raw, e.Raw) {
				t.Errorf("%s: entry %d was acknowledged and is gone", name, i)
				return
			}
		}
		if extra := len(got) - len(acknowledged); extra > 1 || exact && extra > 0 {
			t.Errorf("%s: %d entries that nobody acknowledged", name, extra)
		}
		if _, err := j.Append(records[0], w.now); err != nil {
			t.Errorf("%s: it does not go on: %v", name, err)
		}
		if !bytes.Equal(d.now, d.stable) {
			t.Errorf("%s: an entry was acknowledged before it was stable", name)
		}
	}
	// A journal that a crash left torn, so that opening it repairs.
	torn := &disk{}
	known := use(torn, nil)
	torn.stable = append(bytes.Clone(torn.now), `{"v":1,"kid":"me`...)
	torn.now = bytes.Clone(torn.stable)
	for name, start := range map[string]*disk{"empty": {}, "torn": torn} {
		before := known
		if name == "empty" {
			before = nil
		}
		count := &disk{now: bytes.Clone(start.now), stable: bytes.Clone(start.stable)}
		use(count, before)
		if count.did < 9 {
			t.Fatalf("%s: only %d operations", name, count.did)
		}
		for fail := 1; fail <= count.did; fail++ {
			for _, dead := range []bool{false, true} {
				for _, short := range []int{0, 1000, 1 << 20} {
					d := &disk{now: bytes.Clone(start.now), stable: bytes.Clone(start.stable), fail: fail, short: short, dead: dead}
					acknowledged := use(d, before)
					name := fmt.Sprintf("%s, operation %d, dead %v, %d bytes written", name, fail, dead, short)
					check(name+", killed", d.now, acknowledged, false)
					for i, content := range d.afterPowerLoss() {
						check(fmt.Sprintf("%s, power loss %d", name, i), content, acknowledged, false)
					}
					if !dead && fail < count.did {
						// It went on by itself: nothing is left of what failed.
						check(name+", went on", d.now, acknowledged, true)
					}
					if !d.wrote {
						break // how much was written makes no difference
					}
				}
			}
		}
	}
}

// A disk that is full for a while stops issuing for that while and no longer.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	d := &disk{}
	j, _, err := w.openDisk(d)
	w.must(err)
	// What it leaves of a long entry is longer than the next one.
	long := Record{Kind: Revocation, Order: make([]byte, MaxOrder), Number: 1}
	d.fail, d.dead, d.short = d.did+1, true, 1<<20
	for range 3 {
		if _, err := j.Append(long, w.now); !errors.Is(err, errDisk) {
			t.Errorf("%v", err)
		}
	}
	if j.Position() != (Position{}) {
		t.Errorf("position %+v", j.Position())
	}
	d.fail = 0
	first, err := j.Append(w.issuance("web-2"), w.now)
	w.must(err)
	if want := append(bytes.Clone(first.Raw), '\n'); !bytes.Equal(d.stable, want) {
		t.Errorf("%d bytes on the disk, want %d", len(d.stable), len(want))
	}
}
