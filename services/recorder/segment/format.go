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

// header begins every file: a name and the version of the format.
const header = "leveseg\x01"

// A record is, all integers big endian,
//
//	offset  bytes  content
//	0       4      length: of what follows the checksum, 10 to 65,545
//	4       4      checksum: CRC-32C of the length and of what follows the checksum
//	8       8      received: ms since the epoch, signed
//	16      1      verdict
//	17      1 to 65,536  the envelope, verbatim
const (
	offsetSum      = 4
	offsetBody     = 8
	offsetVerdict  = 16
	offsetEnvelope = 17
	minLength      = offsetEnvelope - offsetBody + 1
	maxLength      = offsetEnvelope - offsetBody + MaxEnvelope
)

// A Record is one envelope as it was received.
type Record struct {
	// Received is when, in ms since the epoch.
	Received int64
	// Verdict is what the recorder found: 0 means accepted.
	Verdict uint8
	// Envelope is not empty and at most MaxEnvelope bytes.
	Envelope []byte
}

// castagnoli computes CRC-32C (RFC 3720, section 12.1).
func castagnoli(length, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once by hash/crc32
	return crc32.Update(crc32.Update(0, table, length), table, body)
}

// appendRecord appends the record's bytes to b.
func appendRecord(b []byte, r Record) ([]byte, error) {
	if len(r.Envelope) == 0 || len(r.Envelope) > MaxEnvelope {
		return b, fmt.Errorf("writing record: an envelope of %d bytes is not one of 1 to %d", len(r.Envelope), MaxEnvelope)
	}
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(offsetEnvelope-offsetBody+len(r.Envelope)))
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Received))
	b = append(b, r.Verdict)
	b = append(b, r.Envelope...)
	record := b[start:]
	binary.BigEndian.PutUint32(record[offsetSum:], castagnoli(record[:offsetSum], record[offsetBody:]))
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
