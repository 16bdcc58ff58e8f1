package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// nextPacked is Next of a packed file.
func (r *Reader) nextPacked() (Record, error) {
	for {
		if r.block != nil {
			record, err := r.block.Next()
			switch {
			case err == nil:
				r.record++
				return record, nil
			case !errors.Is(err, io.EOF):
				return Record{}, r.fail(fmt.Errorf("%w: a block does not hold whole records", ErrDamaged))
			}
			r.block = nil
			r.advance(r.length)
		}
		if err := r.nextBlock(); err != nil {
			return Record{}, err
		}
	}
}

// nextBlock opens the block at the offset.
func (r *Reader) nextBlock() error {
	head, err := r.peek(offsetBody)
	switch {
	case err != nil:
		return err
	case len(head) == 0:
		return r.fail(io.EOF)
	case len(head) < offsetBody:
		return r.fail(ErrIncomplete)
	}
	length := binary.BigEndian.Uint32(head)
	if length == 0 || length > maxFrame {
		return r.judgeLength(length)
	}
	r.length = offsetBody + int(length)
	whole, err := r.peek(r.length)
	switch {
	case err != nil:
		return err
	case len(whole) < r.length:
		return r.fail(ErrIncomplete)
	case castagnoli(packed, whole[:offsetSum], whole[offsetBody:]) != binary.BigEndian.Uint32(whole[offsetSum:]):
		return r.fail(fmt.Errorf("%w: the checksum does not match", ErrDamaged))
	}
	if r.zstd == nil {
		// A frame cannot claim more than it may have.
		if r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderLowmem(true)); err != nil {
			return r.fail(err)
		}
		r.plain = append(make([]byte, 0, len(header)+maxBlock), header...)
	}
	r.plain, err = r.zstd.DecodeAll(whole[offsetBody:], r.plain[:len(header)])
	if err != nil || len(r.plain) == len(header) {
		return r.fail(fmt.Errorf("%w: a block is no zstd frame of records", ErrDamaged))
	}
	if r.block == nil {
		r.block = NewReader(nil, r.path)
	}
	r.block.reset(r.plain)
	return nil
}

// reset makes the Reader one of a file in memory.
func (r *Reader) reset(b []byte) {
	r.src, r.offset, r.record, r.buf, r.version = bytes.NewReader(b), 0, 0, nil, 0
}

// appendBlock appends the block of whole records to b.
func appendBlock(b []byte, e *zstd.Encoder, records []byte) []byte {
	start := len(b)
	b = e.EncodeAll(records, append(b, 0, 0, 0, 0, 0, 0, 0, 0))
	block := b[start:]
	binary.BigEndian.PutUint32(block, uint32(len(block)-offsetBody))
	binary.BigEndian.PutUint32(block[offsetSum:], castagnoli(packed, block[:offsetSum], block[offsetBody:]))
	return b
}

// newEncoder returns what compresses blocks. Readings give a seventh; the better
// levels take twice as long and gain nothing.
func newEncoder() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false))
}
