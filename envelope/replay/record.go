package replay

import (
	"hash/crc32"
	"unsafe"
)

const (
	// Window is how many sequence numbers, counted back from the newest, a
	// sender's messages are accepted in.
	Window = 1024
	// Tags is how many sequence numbers, counted back from the newest, have
	// their tags kept.
	Tags = 64
	// MaxSender bounds a sender's name in bytes.
	MaxSender = 96
	// MaxCapacity bounds the senders of a set.
	MaxCapacity = 1 << 20
)

// ringWords is one word more than the window fills: 1,024 numbers that do not
// begin at a word's edge touch 17 words. With the spare word, moving on clears
// whole words (RFC 6479, section 2).
const ringWords = Window/64 + 1

// window is the part of a record that an undo puts back as a whole.
type window struct {
	sum      uint32 // CRC-32C of the rest of the window
	length   uint32 // of the name; 0: the record is free
	named    uint64 // CRC-32C of the name: written once, so not summed each time
	boot     uint64 // the newest boot
	top      uint64 // the highest sequence number of that boot
	first    int64  // when that boot began: the earlier of its first message's time and arrival
	newest   int64  // latest time of any message accepted, of all boots
	previous uint64 // the boot before, 0: none known
	bits     [ringWords]uint64
}

// record is one sender. The layout is the file's layout, in the machine's byte
// order: the file never leaves its host.
type record struct {
	window
	name [MaxSender]byte
	// tags are indexed by sequence number modulo Tags and count only where
	// the number's bit is set. No checksum covers them: a damaged tag can
	// turn a redelivery into a collision or back, both of which are dropped.
	tags [Tags][8]byte
	_    [32]byte // up to whole cache lines
}

const recordSize = 832

// The file's layout must not change unnoticed.
var _ [recordSize]byte = [unsafe.Sizeof(record{})]byte{}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers everything after itself.
func (w *window) checksum() uint32 {
	const from = unsafe.Offsetof(w.length)
	return crc32.Checksum(unsafe.Slice((*byte)(unsafe.Pointer(&w.length)), unsafe.Sizeof(*w)-from), castagnoli)
}

// intact reports whether a record in use was written completely.
func (r *record) intact() bool {
	return r.length <= MaxSender && r.sum == r.window.checksum() && r.named == r.nameSum()
}

func (r *record) nameSum() uint64 { return uint64(crc32.Checksum(r.name[:], castagnoli)) }

// sender returns the name. The record must be intact.
func (r *record) sender() []byte { return r.name[:r.length] }

// later reports whether r knows of more than other, a record of the same sender.
func (r *record) later(other *record) bool {
	if r.boot != other.boot {
		return r.boot > other.boot
	}
	return r.top > other.top
}

// marked reports whether seq was accepted. It must lie in the window.
func (r *record) marked(seq uint64) bool {
	return r.bits[seq/64%ringWords]&(1<<(seq%64)) != 0
}

// accept marks a message of the newest boot, or of a boot newer than that.
func (r *record) accept(m *Message) {
	switch {
	case m.Boot > r.boot:
		r.previous = r.boot
		r.boot, r.first, r.top = m.Boot, m.began(), m.Seq
		r.bits = [ringWords]uint64{}
	case m.Seq > r.top:
		// Bits above top are always clear in top's own word, so only the
		// words entered now have something old in them. However far the
		// jump, there are no more words than the ring has.
		old := r.top / 64
		for i := uint64(1); i <= min(m.Seq/64-old, ringWords); i++ {
			r.bits[(old+i)%ringWords] = 0
		}
		r.top = m.Seq
	}
	r.bits[m.Seq/64%ringWords] |= 1 << (m.Seq % 64)
	if r.top-m.Seq < Tags {
		r.tags[m.Seq%Tags] = m.Tag
	}
	r.newest = max(r.newest, m.Time)
}

// began returns when a boot began that begins with m. Its time alone would let a
// thief with a fast clock begin in the future, and silence the honest sender
// without an alarm.
func (m *Message) began() int64 {
	if m.Arrival > 0 {
		return min(m.Time, m.Arrival)
	}
	return m.Time
}

// judge says what a message is to its sender's record. Fresh means that it is
// still to be marked.
func (r *record) judge(m *Message) Verdict {
	switch {
	case m.Boot > r.boot:
		return Fresh
	case m.Boot < r.boot:
		if m.Time > r.first {
			return Clone
		}
		return Late
	case m.Seq > r.top:
		return Fresh
	case r.top-m.Seq >= Window:
		return Late
	case !r.marked(m.Seq):
		return Fresh
	case r.top-m.Seq >= Tags:
		return Repeat
	case r.tags[m.Seq%Tags] == m.Tag:
		return Redelivery
	default:
		return Collision
	}
}
