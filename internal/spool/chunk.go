package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"levee/envelope"
	"levee/internal/wire"
)

// Bounds of one file. A file ends where a range of digests ends, and a range is
// itself bounded.
const (
	fullChunk = 256 << 10 // bytes after which the next range begins another one
	maxChunks = 4096      // files; the oldest is given up beyond
)

// chunk is whole ranges of messages: one file, or what is to become one.
type chunk struct {
	boot     uint64
	first    uint64 // seq of the first message; none is left out after it
	base     int64  // ts of the first message
	entries  []entry
	released int         // entries that need not be kept any more
	from     uint64      // the lowest number of boot that a digest in here is over, or first
	declares []wire.Drop // what digests in here declare of other ranges
	closed   bool        // nothing is added any more
	bad      bool        // its file does not hold what it should

	written int    // bytes in the file
	tail    []byte // those after them
	gone    bool   // nobody needs it any more

	// Of the writer, alone.
	file   *os.File
	exists bool // the file may
	dirty  bool // the file is not synced
}

// entry is one message.
type entry struct {
	end uint32 // of its line, in the file
	at  int32  // ms, of its ts after the first one's
}

// size returns the bytes of all messages.
func (c *chunk) size() int {
	if len(c.entries) == 0 {
		return 0
	}
	return int(c.entries[len(c.entries)-1].end)
}

func (c *chunk) last() uint64 { return c.first + uint64(len(c.entries)) - 1 }

// held returns how many messages are not released.
func (c *chunk) held() int { return len(c.entries) - c.released }

// begin returns where the line of entry i begins.
func (c *chunk) begin(i int) int {
	if i == 0 {
		return 0
	}
	return int(c.entries[i-1].end)
}

// time returns the ts of entry i.
func (c *chunk) time(i int) int64 { return c.base + int64(c.entries[i].at) }

// add notes a message of so many bytes, and what it vouches for if it is a digest.
func (c *chunk) add(seq uint64, at int64, bytes int, digest *wire.Digest) {
	if len(c.entries) == 0 {
		c.first, c.base, c.from = seq, at, seq
	}
	const most = 1<<31 - 1
	c.entries = append(c.entries, entry{end: uint32(c.size() + bytes + 1), at: int32(max(-most, min(most, at-c.base)))})
	if digest == nil {
		return
	}
	c.from = min(c.from, digest.First)
	for _, d := range digest.Dropped {
		if d.Boot != digest.Boot || d.Last < digest.First {
			c.declares = append(c.declares, d)
		}
	}
}

// lost returns what giving the chunk up means: its messages, those that only a
// digest in it vouches for, and what only such a digest declares.
func (c *chunk) lost() []wire.Drop {
	return append([]wire.Drop{{Boot: envelope.FormatBoot(c.boot), First: c.from, Last: c.last()}}, c.declares...)
}

var fileName = regexp.MustCompile(`^([0-9a-f]{11})-([0-9]{20})\.jsonl$`)

// path returns where the chunk's file is. Names sort as their messages do.
func (c *chunk) path(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%020d.jsonl", envelope.FormatBoot(c.boot), c.first))
}

// parseName reads what path spells.
func parseName(name string) (boot, first uint64, ok bool) {
	m := fileName.FindStringSubmatch(name)
	if m == nil {
		return 0, 0, false
	}
	boot, ok = envelope.ParseBoot(m[1])
	first, err := strconv.ParseUint(m[2], 10, 64)
	return boot, first, ok && err == nil && first > 0
}
