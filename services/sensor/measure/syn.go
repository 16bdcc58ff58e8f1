package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"levee/internal/wire"
)

// Auto asks for the best method of counting SYN packets that the kernel and
// the privileges of this process allow. It is the zero value.
const Auto = ""

// Counter counts the SYN packets that this network namespace receives: SYN set;
// FIN, RST and ACK clear; to open and closed ports alike. Not safe for
// concurrent use.
type Counter interface {
	// Read returns the packets since the counter was opened. After an error
	// the counter is of no more use than to be closed.
	Read() (uint64, error)
	// Method returns wire.SYNNFTables or wire.SYNPacket.
	Method() string
	// Close leaves nothing behind in the kernel.
	Close() error
}

// opener opens one kernel counter.
type opener struct {
	name string // wire.SYNNFTables or wire.SYNPacket
	open func() (Counter, error)
}

// Choice says how SYN packets are counted, and why not better.
type Choice struct {
	Method  string    // as in wire.Network
	Refused []Refusal // better methods, best first
}

// Refusal is a method that was tried in vain.
type Refusal struct {
	Method string
	Err    error
}

// Exact reports whether the kernel counts each packet.
func (c Choice) Exact() bool { return c.Method != wire.SYNEstimate }

// String returns one line for people: the method, what stood in the way of
// better ones, and how to get an exact count.
func (c Choice) String() string {
	if c.Exact() {
		return "SYN count is exact, by " + c.Method
	}
	if len(c.Refused) == 0 {
		return "SYN count is an estimate, as configured"
	}
	var b strings.Builder
	b.WriteString("SYN count is an estimate: ")
	for i, r := range c.Refused {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %v", r.Method, r.Err)
	}
	for _, r := range c.Refused {
		if !errors.Is(r.Err, fs.ErrPermission) {
			continue
		}
		capability := "CAP_NET_ADMIN"
		if r.Method == wire.SYNPacket {
			capability = "CAP_NET_RAW"
		}
		fmt.Fprintf(&b, "; for the exact count give the sensor %[1]s (systemd: AmbientCapabilities=%[1]s)", capability)
		break
	}
	return b.String()
}

// estimate derives the SYN packets between two readings from what TCP counts:
// handshakes completed, SYNs dropped, SYNs answered by a cookie, and what the
// queue of half-open connections grew by.
//
// It is right within 0.01 % once a flood fills that queue. Below, it is blind
// to SYNs that are answered and never completed as soon as the queue has
// stopped growing, and to closed ports always. It counts twice a SYN whose
// connection was half-open at the previous reading, and one that was answered
// by a cookie and then completed.
func estimate(before, after tcpCounters) uint64 {
	n := after.passiveOpens - before.passiveOpens
	n += after.listenDrops - before.listenDrops
	n += after.syncookiesSent - before.syncookiesSent
	if after.halfOpen > before.halfOpen {
		n += after.halfOpen - before.halfOpen
	}
	return n
}
