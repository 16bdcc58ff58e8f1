package proof

import (
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// The files of a log beside its tiles, relative to its directory.
const (
	CheckpointFile = "checkpoint"       // the signed tree head
	StateDir       = ".state"           // what the writer keeps for itself
	TreeStateFile  = ".state/treeState" // the integrated tree, at or ahead of the checkpoint
	VersionFile    = ".state/version"   // Version
)

// Version is the content of VersionFile: the layout that this package reads.
const Version = "1"

// lockFiles are the writer's; they are always empty.
var lockFiles = [...]string{".state/treeState.lock", ".state/publish.lock"}

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	// entryLevel is the level at which package tlog counts entry bundles.
	entryLevel = -1
	maxLevel   = 7 // of a tree of 2^62 entries
	// MaxEntry bounds one entry in bytes (C2SP tlog-tiles, "Log Entries").
	MaxEntry  = 1<<16 - 1
	maxBundle = tileWidth * (2 + MaxEntry)
)

// x/mod spells the height into a path and calls bundles "data"; C2SP tlog-tiles
// has the one height and calls them "entries".
const (
	tilePrefix  = "tile/8/"
	dataPrefix  = "data/"
	rootPrefix  = "tile/"
	entryPrefix = "entries/"
)

// TilePath returns the path of t below the log's directory, for example
// "tile/0/x001/x234/067.p/8", or "tile/entries/000" for the bundle of level -1
// (C2SP tlog-tiles, "Merkle Tree").
func TilePath(t tlog.Tile) string {
	path := strings.TrimPrefix(t.Path(), tilePrefix)
	if rest, ok := strings.CutPrefix(path, dataPrefix); ok {
		path = entryPrefix + rest
	}
	return rootPrefix + path
}

// ParseTilePath is the inverse of TilePath and accepts nothing else.
func ParseTilePath(path string) (tlog.Tile, error) {
	rest, ok := strings.CutPrefix(path, rootPrefix)
	if !ok || strings.HasPrefix(rest, dataPrefix) {
		return tlog.Tile{}, fmt.Errorf("reading tile path: %q is none", path)
	}
	if name, ok := strings.CutPrefix(rest, entryPrefix); ok {
		rest = dataPrefix + name
	}
	t, err := tlog.ParseTilePath(tilePrefix + rest)
	if err != nil {
		return tlog.Tile{}, fmt.Errorf("reading tile path: %q is none", path)
	}
	return t, nil
}

// Covers reports whether a tree of size entries has had the tile or bundle t:
// as it stands now, or as a narrower one that a wider one superseded.
func Covers(size int64, t tlog.Tile) bool {
	return t.W <= widthIn(t.L, t.N, size)
}

// widthIn returns how many hashes (entries at entryLevel) tile n of level holds
// in a tree of size entries: 0 to 256.
func widthIn(level int, n, size int64) int {
	have := size >> uint(tileHeight*max(level, 0))
	if n < 0 || n > have>>tileHeight {
		return 0
	}
	return int(min(tileWidth, have-n<<tileHeight))
}
