//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package replay

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
)

const (
	magic      = "levee replay v1\n"
	headerSize = 512 // one sector: disks write it whole or not at all
	headerSum  = 508 // where the checksum of everything before stands
)

// remedy ends every error that an operator has to act on.
const remedy = "stop the service and remove the file; the next start makes a new one and refuses messages for one skew"

// header is rewritten by every Open, and by nothing else.
type header struct {
	records uint64   // in the file at that time; later it may have grown
	floor   int64    // see Set.floor
	boot    [32]byte // hash of the boot identifier, zero if unknown
}

func hashBootID(id string) [32]byte {
	if id == "" {
		return [32]byte{}
	}
	return sha256.Sum256([]byte(id))
}

// write stores the header and waits for the disk.
func (h *header) write(f *os.File) error {
	var b [headerSize]byte
	copy(b[:], magic)
	binary.NativeEndian.PutUint64(b[16:], recordSize)
	binary.NativeEndian.PutUint64(b[24:], h.records)
	binary.NativeEndian.PutUint64(b[32:], uint64(h.floor))
	copy(b[40:], h.boot[:])
	binary.NativeEndian.PutUint32(b[headerSum:], crc32.Checksum(b[:headerSum], castagnoli))
	if _, err := f.WriteAt(b[:], 0); err != nil {
		return fmt.Errorf("writing header: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing header: %w", err)
	}
	return nil
}

func parseHeader(b *[headerSize]byte) (*header, error) {
	if string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: no replay file of this version: check the path, or %s", ErrUnusable, remedy)
	}
	if binary.NativeEndian.Uint32(b[headerSum:]) != crc32.Checksum(b[:headerSum], castagnoli) {
		return nil, fmt.Errorf("%w: the header is damaged: %s", ErrUnusable, remedy)
	}
	if n := binary.NativeEndian.Uint64(b[16:]); n != recordSize {
		return nil, fmt.Errorf("%w: records of %d bytes instead of %d: %s", ErrUnusable, n, recordSize, remedy)
	}
	h := &header{
		records: binary.NativeEndian.Uint64(b[24:]),
		floor:   int64(binary.NativeEndian.Uint64(b[32:])),
	}
	copy(h.boot[:], b[40:])
	return h, nil
}

// held returns how many records the file has room for. What follows the last
// whole one is what a kill leaves of growing.
func (h *header) held(f *os.File) (int, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	n := (info.Size() - recordOffset) / recordSize
	if info.Size() < recordOffset || uint64(n) < h.records || n > int64(bothRooms(MaxCapacity)) {
		return 0, fmt.Errorf("%w: %d bytes long, and made for %d senders: %s", ErrUnusable, info.Size(), h.records, remedy)
	}
	if uint64(n) == h.records {
		return int(n), nil
	}
	// The next header must not claim what a power failure can take back.
	return int(n), f.Sync()
}
