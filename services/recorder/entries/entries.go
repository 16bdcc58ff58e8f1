// Package entries reads the entries of a transparency log that this process
// writes, for a recorder that looks what it holds.
//
// It guarantees the order of the log and that nothing is left out up to the size
// that it is given. It checks no hash: opening the log has checked its end, and
// auditors check all of it.
package entries

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"

	"levee/internal/durable"
	"levee/internal/translog/proof"
)

// The bundles of C2SP tlog-tiles.
const (
	perBundle  = 256
	maxBundle  = perBundle * (2 + proof.MaxEntry)
	entryLevel = -1 // as package tlog counts
)

// Read calls each with the entries of the log in dir from the index from up to
// size. The bytes are valid during the call.
func Read(ctx context.Context, dir string, from, size int64, each func(index int64, entry []byte) error) error {
	for at := from; at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		number := at / perBundle
		rest, err := bundle(dir, number, int(min(perBundle, size-number*perBundle)))
		if err != nil {
			return err
		}
		for index := number * perBundle; index < min(size, (number+1)*perBundle); index++ {
			if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
				return fmt.Errorf("entry %d is not whole", index)
			}
			end := 2 + int(binary.BigEndian.Uint16(rest))
			if index >= at {
				if err := each(index, rest[2:end]); err != nil {
					return fmt.Errorf("entry %d: %w", index, err)
				}
			}
			rest = rest[end:]
		}
		at = min(size, (number+1)*perBundle)
	}
	return nil
}

// bundle reads a bundle of entries: the one of that width, or the full one,
// which takes its place.
func bundle(dir string, number int64, width int) ([]byte, error) {
	tile := tlog.Tile{H: 8, L: entryLevel, N: number, W: width}
	b, err := durable.ReadFile(filepath.Join(dir, filepath.FromSlash(proof.TilePath(tile))), maxBundle)
	if errors.Is(err, fs.ErrNotExist) && width < perBundle {
		tile.W = perBundle
		return durable.ReadFile(filepath.Join(dir, filepath.FromSlash(proof.TilePath(tile))), maxBundle)
	}
	return b, err
}
