package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// readAhead is how many bytes a Reader asks for at a time; the longest record fits.
const readAhead = 256 << 10

// Reader reads the records of one file in order. It is for one goroutine.
type Reader struct {
	src    io.ReaderAt
	path   string
	offset int64  // of the next record, or of the header
	record int64  // number of the next record
	buf    []byte // what was read ahead, from offset on
	store  []byte
	// version is that of the header, 0 while nothing was read yet.
	version byte
	peer    string // of the last record, so that each is made once

	// Of a packed file: the records of the block at offset, and how long that is.
	block  *Reader
	length int
	zstd   *zstd.Decoder
	plain  []byte // the block's records
}

// NewReader returns a Reader of src, which is best an open file; path is for
// errors.
func NewReader(src io.ReaderAt, path string) *Reader {
	return &Reader{src: src, path: path, store: make([]byte, readAhead)}
}

// Next returns the next record; its Envelope is valid until the next call. It
// returns io.EOF at the end, and otherwise an *Error. After io.EOF and
// ErrIncomplete it may be called again and reads the same place anew: the file
// may have grown.
func (r *Reader) Next() (Record, error) {
	if r.version == 0 {
		if err := r.readHeader(); err != nil {
			return Record{}, err
		}
	}
	if r.version == packed {
		return r.nextPacked()
	}
	head, err := r.peek(offsetBody)
	if err != nil {
		return Record{}, err
	}
	if len(head) == 0 {
		return Record{}, r.fail(io.EOF)
	}
	if len(head) < offsetBody {
		return Record{}, r.fail(ErrIncomplete)
	}
	length := binary.BigEndian.Uint32(head)
	if least, most := bounds(r.version); length < least || length > most {
		return Record{}, r.judgeLength(length)
	}
	size := offsetBody + int(length)
	whole, err := r.peek(size)
	if err != nil {
		return Record{}, err
	}
	if len(whole) < size {
		return Record{}, r.fail(ErrIncomplete)
	}
	if castagnoli(r.version, whole[:offsetSum], whole[offsetBody:]) != binary.BigEndian.Uint32(whole[offsetSum:]) {
		return Record{}, r.fail(fmt.Errorf("%w: the checksum does not match", ErrDamaged))
	}
	record := Record{Received: int64(binary.BigEndian.Uint64(whole[offsetBody:])), Verdict: Verdict(whole[offsetVerdict]), Envelope: whole[offsetPeer:size:size]}
	if r.version > 1 {
		peer := int(whole[offsetPeer])
		if peer > MaxPeer || offsetPeer+1+peer >= size {
			return Record{}, r.fail(fmt.Errorf("%w: a peer's name of %d bytes", ErrDamaged, peer))
		}
		if by := whole[offsetPeer+1 : offsetPeer+1+peer]; r.peer != string(by) { // does not allocate
			r.peer = string(by)
		}
		record.Peer, record.Envelope = r.peer, record.Envelope[1+peer:]
	}
	r.advance(size)
	r.record++
	return record, nil
}

// Records returns how many records were read.
func (r *Reader) Records() int64 { return r.record }

// Offset returns where the next record begins, or the block that it is in: all
// before it is whole.
func (r *Reader) Offset() int64 { return r.offset }

func (r *Reader) readHeader() error {
	got, err := r.peek(len(header))
	if err != nil {
		return err
	}
	switch {
	case len(got) == len(header) && string(got[:len(name)]) == name && got[len(name)] >= 1 && got[len(name)] <= packed:
		r.version = got[len(name)]
		r.advance(len(header))
		return nil
	case len(got) == 0:
		return r.fail(io.EOF)
	case len(got) < len(header) && header[:len(got)] == string(got):
		return r.fail(ErrIncomplete)
	}
	zeros, err := r.zerosToTheEnd()
	if err != nil {
		return err
	}
	if zeros {
		return r.fail(ErrIncomplete)
	}
	return r.fail(fmt.Errorf("%w: it does not begin as a segment of version 1 to 3", ErrDamaged))
}

// judgeLength tells a length that never was from a file that the system
// lengthened before a crash and never filled.
func (r *Reader) judgeLength(length uint32) error {
	if length == 0 {
		zeros, err := r.zerosToTheEnd()
		if err != nil {
			return err
		}
		if zeros {
			return r.fail(ErrIncomplete)
		}
	}
	return r.fail(fmt.Errorf("%w: a record or block of length %d", ErrDamaged, length))
}

func (r *Reader) zerosToTheEnd() (bool, error) {
	for at := r.offset; ; {
		n, err := r.src.ReadAt(r.store, at)
		if len(bytes.TrimLeft(r.store[:n], "\x00")) > 0 {
			return false, nil
		}
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return false, r.fail(fmt.Errorf("reading: %w", err))
		}
		at += int64(n)
	}
}

// peek returns the next n bytes without advancing, fewer if the file ends.
func (r *Reader) peek(n int) ([]byte, error) {
	if len(r.buf) >= n {
		return r.buf[:n], nil
	}
	have := copy(r.store, r.buf)
	for have < n {
		got, err := r.src.ReadAt(r.store[have:], r.offset+int64(have))
		have += got
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, r.fail(fmt.Errorf("reading: %w", err))
		}
	}
	r.buf = r.store[:have]
	return r.buf[:min(n, have)], nil
}

func (r *Reader) advance(n int) {
	r.buf = r.buf[n:]
	r.offset += int64(n)
}

// fail drops what was read ahead, so that the next call reads it anew.
func (r *Reader) fail(err error) error {
	r.buf = nil
	if err == io.EOF {
		return io.EOF
	}
	return &Error{Path: r.path, Record: r.record, Offset: r.offset, Err: err}
}
