package measure

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"levee/internal/wire"
)

// packetCounter counts by two packet sockets, for IPv4 and IPv6, that are
// never read. The kernel runs the filter on each packet and counts what
// passes, whether or not there is room for it in the socket.
//
// The sockets are bound to a protocol and to no interface. So they see each
// packet once, on its way into IP: from every interface, loopback and those
// that come later included, nothing outgoing, and not again for a bond, bridge
// or VLAN. IPv6 packets with extension headers are not counted.
type packetCounter struct {
	sockets []int
	total   uint64
}

// openPacket needs CAP_NET_RAW over the network namespace.
func openPacket() (*packetCounter, error) {
	c := &packetCounter{}
	for _, p := range []struct {
		ethertype uint16
		filter    []bpf.Instruction
	}{
		{unix.ETH_P_IP, forUs(synIPv4())},
		{unix.ETH_P_IPV6, forUs(synIPv6())},
	} {
		fd, err := packetSocket(p.ethertype, p.filter)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.sockets = append(c.sockets, fd)
	}
	return c, nil
}

func packetSocket(ethertype uint16, filter []bpf.Instruction) (int, error) {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return -1, fmt.Errorf("assembling the packet filter: %w", err)
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	// Protocol 0 receives nothing until the filter is in place. SOCK_DGRAM
	// makes packets begin at the IP header on any kind of link.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("opening a packet socket: %w", err)
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err == nil {
		// The kernel raises this to its least: room for a packet or two.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(ethertype)})
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("setting up a packet socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// bigEndian returns the number that lies in memory as v does on the wire.
func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// packetOtherHost is PACKET_OTHERHOST of linux/if_packet.h: a packet for
// another machine, seen only because the interface is in promiscuous mode.
const packetOtherHost = 3

// What a filter returns: how many bytes of the packet to keep.
const (
	reject = 0
	accept = 1
)

// forUs puts before a filter that packets for other machines are rejected.
func forUs(filter []bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: packetOtherHost, SkipTrue: 1},
		bpf.RetConstant{Val: reject},
	}, filter...)
}

// synIPv4 accepts an IPv4 packet that begins a TCP segment with SYN alone of
// the four flags. A load beyond the packet's end rejects it.
func synIPv4() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: 6, Size: 2}, // flags and fragment offset
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
		bpf.LoadMemShift{Off: 0}, // length of the header, from its first byte
		bpf.LoadIndirect{Off: tcpFlagsAt, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: flagMask},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: flagSYN, SkipTrue: 1},
		bpf.RetConstant{Val: reject},
		bpf.RetConstant{Val: accept},
	}
}

// ipv6Header is the length of IPv6's fixed header.
const ipv6Header = 40

// synIPv6 is synIPv4 for IPv6 packets without extension headers.
func synIPv6() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: ipv6Header + tcpFlagsAt, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: flagMask},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: flagSYN, SkipTrue: 1},
		bpf.RetConstant{Val: reject},
		bpf.RetConstant{Val: accept},
	}
}

// Read implements Counter.
func (c *packetCounter) Read() (uint64, error) {
	for _, fd := range c.sockets {
		// The kernel counts in 32 bits and starts again at each call: 4
		// billion packets between two readings would go unnoticed. Its number
		// includes the packets there was no room for.
		stats, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil {
			return 0, fmt.Errorf("reading a packet socket's statistics: %w", err)
		}
		c.total += uint64(stats.Packets)
	}
	return c.total, nil
}

// Method implements Counter.
func (c *packetCounter) Method() string { return wire.SYNPacket }

// Close implements Counter.
func (c *packetCounter) Close() error {
	var errs []error
	for _, fd := range c.sockets {
		errs = append(errs, unix.Close(fd))
	}
	c.sockets = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("closing packet sockets: %w", err)
	}
	return nil
}
