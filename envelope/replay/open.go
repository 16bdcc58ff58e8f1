package replay

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"
)

// ErrLocked is returned by Open for a file that another set holds open.
var ErrLocked = errors.New("in use by another process")

// ErrUnusable is returned by Open for a file that is not a replay file of this
// version, or whose header is damaged.
var ErrUnusable = errors.New("not usable")

// Option changes how Open works.
type Option func(*options)

type options struct {
	bootID string
}

// BootID gives Open the identifier of the host's present boot instead of the
// kernel's own, for tests and for hosts that know a better one. The empty
// string means unknown: every Open then counts as one after a reboot.
func BootID(id string) Option { return func(o *options) { o.bootID = id } }

// Open returns the set kept in the file at path, which it creates with mode
// 0600, for up to capacity senders (1 to MaxCapacity) and half as many unproven
// ones. The file grows with the senders met, 832 bytes each, and never shrinks.
// What it has grown to is reserved: a disk that is full later keeps new senders
// out (Full, and Sync says why), and stops known ones only on file systems that
// copy what they overwrite, with Unavailable. The file is locked until Close or
// the end of the process; a second Open returns ErrLocked.
//
// The capacity may differ from one Open to the next. What the file knows stays,
// even of more senders than that.
//
// start is the present time in Unix milliseconds, skew the one that the caller
// judges freshness with; both must be positive. They serve where the file
// cannot be relied on to remember: it is new, it was last used before a reboot
// of the host (then the last second may be missing), or some of it is damaged
// (Stats says so). A message that was accepted before start carried less than
// start + skew. So in these cases everything below that is refused as
// BeforeStart, and the price is that a service starts to accept one skew after
// its start. A plain restart of the process costs nothing.
//
// A file that is no replay file, has a damaged header or was cut short is left
// alone and refused with ErrUnusable. Removing it, with the service stopped, is
// safe: the next Open sees a new file.
func Open(path string, capacity int, start int64, skew time.Duration, opts ...Option) (*Set, error) {
	if capacity < 1 || capacity > MaxCapacity {
		return nil, fmt.Errorf("opening replay file %s: capacity %d is not 1 to %d", path, capacity, MaxCapacity)
	}
	if start <= 0 {
		return nil, fmt.Errorf("opening replay file %s: start %d is no time", path, start)
	}
	if skew <= 0 {
		return nil, fmt.Errorf("opening replay file %s: skew %v is not positive", path, skew)
	}
	o := options{bootID: kernelBootID()}
	for _, opt := range opts {
		opt(&o)
	}
	s, err := openFile(path, capacity, floorOf(start, skew), o.bootID)
	if err != nil {
		return nil, fmt.Errorf("opening replay file %s: %w", path, err)
	}
	return s, nil
}

// floorOf returns start + skew in whole milliseconds, rounded up.
func floorOf(start int64, skew time.Duration) int64 {
	ms := int64((skew-1)/time.Millisecond) + 1
	if start > math.MaxInt64-ms {
		return math.MaxInt64
	}
	return start + ms
}

// kernelBootID returns Linux's identifier of the present boot, and the empty
// string elsewhere.
func kernelBootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
