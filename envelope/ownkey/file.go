package ownkey

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"levee/envelope"
)

// maxFile bounds a key file in bytes.
const maxFile = 64 << 10

// Remedy says what to do about a key file that is not there.
const Remedy = "a machine needs its envelope keys: provision its bundle again"

// Load reads the key file of a part that holds no key but its own, which only
// its owner may read. One that holds more is refused: whoever has another's key
// can speak as it.
func Load(path string) (*Ring, error) {
	blocks, err := Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; %s", err, Remedy)
	}
	if err != nil {
		return nil, err
	}
	if len(blocks) != 1 {
		return nil, fmt.Errorf("reading key file %s: it holds other keys beside the part's own", path)
	}
	own, err := Parse(blocks[0])
	if err != nil {
		return nil, fmt.Errorf("reading key file %s: %w", path, err)
	}
	return NewRing(own)
}

// Read returns the blocks of a key file, at least one and of 32 bytes each,
// which only its owner may read.
func Read(path string) ([]*pem.Block, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("reading key file %s: not a regular file", path)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("reading key file %s: mode %#o lets others read it; run: chmod 600 %s", path, info.Mode().Perm(), path)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("reading key file %s: larger than %d bytes", path, maxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	var blocks []*pem.Block
	for len(bytes.TrimSpace(b)) > 0 {
		block, rest := pem.Decode(b)
		if block == nil || len(block.Bytes) != envelope.KeySize {
			return nil, fmt.Errorf("reading key file %s: not PEM blocks of 32 bytes each", path)
		}
		blocks, b = append(blocks, block), rest
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("reading key file %s: empty", path)
	}
	return blocks, nil
}

// Parse returns the sender's key that a block of a key file holds.
func Parse(b *pem.Block) (Key, error) {
	if b.Type != block || len(b.Bytes) != envelope.KeySize {
		return Key{}, errors.New("it does not begin with the part's own key")
	}
	h := b.Headers
	kid := h["Site"] + "/" + h["Role"] + "/" + h["Name"] + "/" + h["Generation"]
	id, err := envelope.ParseKeyID([]byte(kid))
	if err != nil {
		return Key{}, fmt.Errorf("the sender key's name %q is outside the grammar", kid)
	}
	return New(id, [envelope.KeySize]byte(b.Bytes)), nil
}
