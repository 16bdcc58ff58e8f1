package measure

import (
	"encoding/binary"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// tcp is a segment with these flags and 4 bytes of data.
func tcp(flags byte) []byte {
	b := make([]byte, 24)
	binary.BigEndian.PutUint16(b[0:], 40000)
	binary.BigEndian.PutUint16(b[2:], 443)
	b[12] = 5 << 4
	b[tcpFlagsAt] = flags
	return b
}

// ipv4 is a packet from and to 127.0.0.1. The offset of a fragment is in bytes.
func ipv4(options []byte, offset int, payload []byte) []byte {
	head := make([]byte, 20, 20+len(options)+len(payload))
	head = append(head, options...)
	head[0] = 4<<4 | byte(len(head)/4)
	binary.BigEndian.PutUint16(head[2:], uint16(len(head)+len(payload)))
	binary.BigEndian.PutUint16(head[6:], uint16(offset/8))
	head[8] = 64
	copy(head[12:], []byte{127, 0, 0, 1, 127, 0, 0, 1})
	return withProtocol(append(head, payload...), unix.IPPROTO_TCP)
}

// withProtocol sets the protocol of an IPv4 packet, and its checksum.
func withProtocol(packet []byte, protocol byte) []byte {
	packet[9] = protocol
	packet[10], packet[11] = 0, 0
	var sum uint32
	for i := 0; i < int(packet[0]&0xf)*4; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(packet[10:], ^uint16(sum))
	return packet
}

// ipv6 is a packet from and to ::1, with a destination options header if any.
func ipv6(extension, payload []byte) []byte {
	b := make([]byte, ipv6Header)
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(extension)+len(payload)))
	b[6] = unix.IPPROTO_TCP
	if extension != nil {
		b[6] = unix.IPPROTO_DSTOPTS
	}
	b[7] = 64
	b[23], b[39] = 1, 1
	return append(append(b, extension...), payload...)
}

// inject puts one frame onto loopback. A receiver other than loopback's own
// address, which is all zeros, makes it a packet for another machine.
func inject(t *testing.T, to [6]byte, packet []byte) {
	t.Helper()
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ethertype := uint16(unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		ethertype = unix.ETH_P_IPV6
	}
	frame := append(to[:], make([]byte, 6)...)
	frame = binary.BigEndian.AppendUint16(frame, ethertype)
	frame = append(frame, packet...)
	if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Protocol: bigEndian(ethertype), Ifindex: lo.Index}); err != nil {
		t.Fatal(err)
	}
}
