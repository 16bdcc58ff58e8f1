package replay

import (
	"hash/crc32"
	"sync/atomic"
	"unsafe"
)

// tally is what the set knows beside its records.
type tally struct {
	used uint64 // records in use: a record that vanished whole is noticed
	// forgotten is the latest time of any message accepted from a sender
	// whose record was reclaimed.
	forgotten int64
	sum       uint32 // CRC-32C of used and forgotten
	_         uint32
}

func (t *tally) checksum() uint32 {
	return crc32.Checksum(unsafe.Slice((*byte)(unsafe.Pointer(t)), unsafe.Offsetof(t.sum)), castagnoli)
}

// state is the changing part of the file that belongs to no record.
type state struct {
	undo  undo
	tally tally
}

// undo holds what one change is about to overwrite. Changes are made one at a
// time, under the set's lock: begin, change the record and the tally in any
// order, commit. A process killed in between has not answered yet, so the next
// Open puts everything back and the message may come again.
//
// A kill leaves in the page cache exactly the stores made before it, in
// program order. The word is stored atomically so that the compiler moves no
// other store across it.
type undo struct {
	word  uint64 // 0: nothing to undo; else seal, in which no stale content fits
	slot  uint64 // of the tag
	tag   [8]byte
	index uint64 // of the record
	tally tally
	saved window
}

// seal is never 0. It covers index, tally and the first two words of saved,
// its checksum and length; the checksum covers the rest.
func (u *undo) seal() uint64 {
	const size = unsafe.Offsetof(u.saved) + unsafe.Offsetof(u.saved.boot) - unsafe.Offsetof(u.index)
	sum := crc32.Checksum(unsafe.Slice((*byte)(unsafe.Pointer(&u.index)), size), castagnoli)
	return uint64(sum)<<32 | 1
}

// begin opens a change of record i, of one tag and of the tally.
func (s *Set) begin(i uint32, seq uint64) *record {
	r, u := &s.records[i], &s.state.undo
	u.index, u.slot = uint64(i), seq%Tags
	u.tag = r.tags[u.slot]
	u.tally = s.state.tally
	u.saved = r.window
	atomic.StoreUint64(&u.word, u.seal())
	return r
}

// commit ends the change of r. What was changed counts from here on.
func (s *Set) commit(r *record) {
	r.sum = r.window.checksum()
	atomic.StoreUint64(&s.state.undo.word, 0)
}

// count changes the tally, between begin and commit.
func (s *Set) count(used uint64, forgotten int64) {
	t := &s.state.tally
	t.used, t.forgotten = used, forgotten
	t.sum = t.checksum()
}

// rollback undoes a change that was cut short. It reports false if the undo
// itself cannot be believed. Doing it twice does no harm.
func (s *Set) rollback() bool {
	u := &s.state.undo
	if u.word == 0 {
		return true
	}
	if u.word != u.seal() || u.index >= uint64(len(s.records)) || u.slot >= Tags {
		return false
	}
	r := &s.records[u.index]
	r.window = u.saved
	r.tags[u.slot] = u.tag
	s.state.tally = u.tally
	atomic.StoreUint64(&u.word, 0)
	return true
}
