package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// MaxEnvelope bounds the envelope of one record in bytes: the largest one is a
// backfill's.
const MaxEnvelope = 64 << 10

// MaxPeer bounds the name of a record's peer in bytes.
const MaxPeer = 24

// name begins every file; the version follows. Files of versions 1 and 2, which are
// not compressed, are read and not written; the records of 1 name no peer.
const (
	name    = "leveseg"
	version = 2
	header  = name + "\x02"
)

// packedHeader begins a file of version 3, whose records, as version 2 has them,
// are compressed in blocks. A block is
//
//	offset  bytes  content
//	0       4      length: of the frame, 1 to 262,136
//	4       4      checksum: CRC-32C of the version, the length and the frame
//	8       …      frame: zstd (RFC 8878) of whole records, 262,144 bytes at most
const (
	packed       = 3
	packedHeader = name + "\x03"
	maxFrame     = readAhead - offsetBody
	maxBlock     = 256 << 10 // uncompressed
	fullBlock    = 128 << 10 // a block that holds so much gets no further record
)

// A record of version 2 is, all integers big endian,
//
//	offset  bytes  content
//	0       4      length: of what follows the checksum, 11 to 65,570
//	4       4      checksum: CRC-32C of the version, one byte, the length and what follows the checksum
//	8       8      received: ms since the epoch, signed
//	16      1      verdict
//	17      1      length of the peer's name, 0 to 24
//	18      0 to 24      the peer's name
//	…       1 to 65,536  the envelope, verbatim
//
// One of version 1 has the envelope from offset 17 on, and no version in its sum.
const (
	offsetSum     = 4
	offsetBody    = 8
	offsetVerdict = 16
	offsetPeer    = 17
	fixed         = offsetPeer - offsetBody // bytes of the body before the peer
)

// bounds returns how long the body of a record may be.
func bounds(version byte) (least, most uint32) {
	if version == 1 {
		return fixed + 1, fixed + MaxEnvelope
	}
	return fixed + 2, fixed + 1 + MaxPeer + MaxEnvelope
}

// A Record is one envelope as it was received.
type Record struct {
	// Received is when, in ms since the epoch.
	Received int64
	// Verdict is what the recorder found.
	Verdict Verdict
	// Peer is the broker that the envelope came by, "" where that is not known.
	Peer string
	// Envelope is not empty and at most MaxEnvelope bytes.
	Envelope []byte
}

// versions are the bytes that stand for them.
var versions = []byte{0, 1, 2, 3}

// castagnoli computes the CRC-32C (RFC 3720, section 12.1) of a record: its
// version, without which one of another version could pass for it, its length and
// its body.
func castagnoli(version byte, length, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once by hash/crc32
	var sum uint32
	if version > 1 {
		sum = crc32.Update(0, table, versions[version:version+1])
	}
	return crc32.Update(crc32.Update(sum, table, length), table, body)
}

// appendRecord appends the record's bytes to b.
func appendRecord(b []byte, r Record) ([]byte, error) {
	if len(r.Envelope) == 0 || len(r.Envelope) > MaxEnvelope {
		return b, fmt.Errorf("writing record: an envelope of %d bytes is not one of 1 to %d", len(r.Envelope), MaxEnvelope)
	}
	if len(r.Peer) > MaxPeer {
		return b, fmt.Errorf("writing record: the name %q of a peer is over %d bytes", r.Peer, MaxPeer)
	}
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(fixed+1+len(r.Peer)+len(r.Envelope)))
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Received))
	b = append(b, byte(r.Verdict), byte(len(r.Peer)))
	b = append(b, r.Peer...)
	b = append(b, r.Envelope...)
	record := b[start:]
	binary.BigEndian.PutUint32(record[offsetSum:], castagnoli(version, record[:offsetSum], record[offsetBody:]))
	return b, nil
}

// nameLayout makes names that sort by the time at which a file was begun.
const nameLayout = "20060102T150405.000Z.seg"

// fileName returns the name of a file that was begun at start, in ms since the epoch.
func fileName(start int64) string { return time.UnixMilli(start).UTC().Format(nameLayout) }

// parseName is the inverse of fileName and accepts nothing else.
func parseName(name string) (start int64, err error) {
	t, err := time.Parse(nameLayout, name)
	if err != nil || fileName(t.UnixMilli()) != name {
		return 0, fmt.Errorf("reading segment name: %q is none", name)
	}
	return t.UnixMilli(), nil
}

// A File is one segment file.
type File struct {
	Path string
	// Start is when it was begun, in ms since the epoch. Its records were
	// received up to the start of the next file.
	Start int64
}

// List returns the segment files of a directory in the order in which they were
// begun. It passes over files with other names.
func List(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing segments: %w", err)
	}
	var files []File
	for _, e := range entries {
		if start, err := parseName(e.Name()); err == nil && e.Type().IsRegular() {
			files = append(files, File{Path: filepath.Join(dir, e.Name()), Start: start})
		}
	}
	slices.SortFunc(files, func(a, b File) int { return int(min(max(a.Start-b.Start, -1), 1)) })
	return files, nil
}

// What can be wrong with a segment file.
var (
	// ErrIncomplete says that the file ends inside a record or with zeros:
	// the last flush is not complete yet, or never will be after a crash.
	ErrIncomplete = errors.New("the file ends with an incomplete record")
	// ErrDamaged says that bytes are there that no writer wrote.
	ErrDamaged = errors.New("the file is damaged")
)

// An Error says where a segment file is wrong.
type Error struct {
	Path string
	// Record is the number of whole records before it.
	Record int64
	// Offset is where in the file the wrong record, or the header, begins.
	Offset int64
	// Err is or wraps ErrIncomplete, ErrDamaged or what reading returned.
	Err error
}

// Error says for example "segment …/20241023T152847.822Z.seg, record 17 at byte
// 5120: the file is damaged: the checksum does not match".
func (e *Error) Error() string {
	return fmt.Sprintf("segment %s, record %d at byte %d: %v", e.Path, e.Record, e.Offset, e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }
