//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package replay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The file: the header in its first sector, the state at 4096, the records
// from 8192 on.
const (
	stateOffset  = 4096
	recordOffset = 8192
)

// openFile opens, locks, maps and checks the file. floor is start + skew.
func openFile(path string, capacity int, floor int64, bootID string) (*Set, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	s, err := openLocked(f, path, capacity, floor, bootID)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func openLocked(f *os.File, path string, capacity int, floor int64, bootID string) (*Set, error) {
	if err := lock(f, path); err != nil {
		return nil, err
	}
	h, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	fresh, most, n := h == nil, bothRooms(capacity), 0
	if fresh {
		h = &header{}
		n = min(growth, most)
		err = reserve(f, path, sizeOf(n))
	} else {
		n, err = h.held(f)
	}
	if err != nil {
		return nil, err
	}
	h.records = uint64(n)
	most = max(most, n)
	// All that the file may grow to is mapped at once, so that nothing moves.
	// Nothing touches what lies behind its end.
	data, err := unix.Mmap(int(f.Fd()), 0, sizeOf(most), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping: %w", err)
	}
	records := unsafe.Slice((*record)(unsafe.Pointer(&data[recordOffset])), most)
	s := newSet(capacity, (*state)(unsafe.Pointer(&data[stateOffset])), records[:n])
	s.grow = func() ([]record, error) {
		from := len(s.records)
		to := min(from+growth, most)
		if err := zero(f, sizeOf(from), sizeOf(to)); err != nil {
			return nil, err
		}
		return records[:to], nil
	}
	s.flush = func(records int) error { return unix.Msync(data[:sizeOf(records)], unix.MS_SYNC) }
	s.release = func() error { return errors.Join(unix.Munmap(data), f.Close()) }
	if err := s.load(f, h, fresh, floor, bootID); err != nil {
		return nil, errors.Join(err, unix.Munmap(data))
	}
	return s, nil
}

// lock takes the file for this process alone, and makes sure that it is a
// file that nobody else may write.
func lock(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: not a regular file", ErrUnusable)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%w: mode %#o lets others in: chmod 600 it", ErrUnusable, mode)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return ErrLocked
	} else if err != nil {
		return fmt.Errorf("locking: %w", err)
	}
	// Between opening and locking, the path may have come to mean another
	// file, whose lock this one is not.
	if now, err := os.Lstat(path); err != nil || !os.SameFile(info, now) {
		return fmt.Errorf("%w: replaced while it was being opened", ErrLocked)
	}
	return nil
}

// sizeOf returns the size of a file with that many records.
func sizeOf(records int) int { return recordOffset + records*recordSize }

// zero writes zeros to a part of the file. They are written rather than left as
// a hole, because a full disk under a hole shows as a fault at some later Check.
func zero(f *os.File, from, to int) error {
	if _, err := f.WriteAt(make([]byte, to-from), int64(from)); err != nil {
		return fmt.Errorf("reserving %d bytes: %w", to-from, err)
	}
	return nil
}

// reserve makes a new file of zeros. The header is written afterwards: until
// then the file counts as new.
func reserve(f *os.File, path string, size int) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := zero(f, 0, size); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// load takes over what the file knows. Before it repairs anything it writes
// the floor that makes up for the loss, so that being killed halfway does not
// leave a file that looks whole.
func (s *Set) load(f *os.File, h *header, fresh bool, floor int64, bootID string) (err error) {
	defer func(before bool) {
		debug.SetPanicOnFault(before)
		if cause := recover(); cause != nil {
			err = asFault(cause)
		}
	}(debug.SetPanicOnFault(true))

	boot := hashBootID(bootID)
	sameBoot := boot != [32]byte{} && boot == h.boot
	if fresh {
		s.count(0, 0)
	}
	// After a reboot the undo may be of another moment than its record, and
	// the checksums alone decide.
	if sameBoot && !s.rollback() {
		s.damaged++
	}
	lost := s.survey()
	t, used := &s.state.tally, uint64(len(s.index))
	sound := t.sum == t.checksum()
	if !sound || t.used != used {
		s.damaged++
	}

	// A floor above start + skew stems from a clock that ran ahead. Lowering
	// it is as safe as the rule itself, which trusts start.
	s.floor = min(h.floor, floor)
	if fresh || !sameBoot || s.damaged > 0 {
		s.floor = floor
	}
	if err := (&header{records: h.records, floor: s.floor, boot: boot}).write(f); err != nil {
		return err
	}

	for _, i := range lost {
		s.records[i] = record{}
		s.free = append(s.free, i)
	}
	atomic.StoreUint64(&s.state.undo.word, 0)
	switch {
	case !sound:
		s.count(used, 0) // the floor stands in for what was forgotten
	case t.used != used:
		s.count(used, t.forgotten)
	}
	return nil
}

// survey fills the index and the free list, and returns the records that
// cannot be used: damaged ones, and the earlier of two for the same sender,
// which a power failure may leave.
func (s *Set) survey() (lost []uint32) {
	s.free = s.free[:0]
	for n := len(s.records); n > 0; n-- {
		i := uint32(n - 1)
		r := &s.records[i]
		if r.length == 0 {
			s.free = append(s.free, i)
			continue
		}
		if !r.intact() {
			lost = append(lost, i)
			continue
		}
		name := string(r.sender())
		if other, twice := s.index[name]; twice {
			if !r.later(&s.records[other]) {
				lost = append(lost, i)
				continue
			}
			lost = append(lost, other)
		}
		s.index[name] = i
	}
	for _, i := range s.index {
		s.roomOf(s.records[i].sender()).used++
	}
	s.damaged += len(lost)
	return lost
}

// readHeader returns nil for a new file: an empty one, or one whose first
// sector was never written.
func readHeader(f *os.File) (*header, error) {
	var sector [headerSize]byte
	if _, err := f.ReadAt(sector[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if sector == [headerSize]byte{} {
		return nil, nil
	}
	return parseHeader(&sector)
}
